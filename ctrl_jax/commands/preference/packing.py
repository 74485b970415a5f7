"""How many pairs lie in a row, and which pairs are in a batch.

A batch is a number of pairs. They are packed so that every row has as many, a divisor of the batch:
`group` pairs stay together, which depends on the data and the batch alone, so that the same pairs
are in a batch on any mesh. Where a device would be without a row, a group lies in several.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ctrl_jax._checks import refuse
from ctrl_jax.commands.preference.config import Texts
from ctrl_jax.data import PreferenceRows, TokenPair
from ctrl_jax.data.preferences.rows import balance, pack_rows, take_rows


class Packing(NamedTuple):
    """Rows of the parts of the data, and how they make a batch.

    Fields:
        rows: of each part of the data.
        batch: rows of a batch.
        part: rows that the model is given at a time.
        group: rows one after the other that stay together.
    """

    rows: list[PreferenceRows]
    batch: int
    part: int
    group: int


def pack(
    pairs: Sequence[Sequence[TokenPair]], texts: Texts, *, batch: int, parts: int, devices: int
) -> Packing:
    """Return pairs in rows of one length.

    Args:
        pairs: what is trained on, and what is evaluated.
        texts: options of the data.
        batch: pairs of a batch.
        parts: how many a batch is divided into, one after the other.
        devices: how many the rows of a part are divided over.

    Raises:
        ValueError: a pair is longer than `texts.row_length`.
    """
    sizes = [[pair.tokens for pair in some] for some in pairs]
    group = _group_size(sizes, batch, texts)
    number = math.gcd(group, batch // parts // devices)
    places = [_rows_of(some, group, number) for some in sizes]
    longest = max(_longest(*both) for both in zip(sizes, places, strict=True))
    length = texts.row_length or _rounded(longest)
    if longest > length:
        repair = f"give {longest} or more, leave it out, or lower --texts.max-length"
        raise refuse("texts.row_length", length, f"a pair takes {longest} tokens", repair)
    rows = [pack_rows(*both, length=length) for both in zip(pairs, places, strict=True)]
    return Packing(rows, batch // number, batch // parts // number, group // number)


def batch_of(
    rows: PreferenceRows, k: int, batch: int, seed: int, *, group: int = 1
) -> PreferenceRows:
    """Return batch k of a stream of rows: every row once, in random order, and again.

    Depends on nothing but its arguments, so that a resumed run goes on where it was.

    Args:
        rows: all of them.
        k: number of the batch.
        batch: rows of a batch.
        seed: of the order.
        group: rows one after the other that stay together; divides `batch`.
    """
    number = len(rows.tokens) // group
    places = np.arange(k * batch // group, (k + 1) * batch // group)
    orders = {
        epoch: np.random.default_rng((seed, epoch)).permutation(number)
        for epoch in np.unique(places // number).tolist()
    }
    index = np.array([orders[place // number][place % number] for place in places.tolist()])
    return take_rows(rows, (group * index[:, None] + np.arange(group)).reshape(-1))


def _group_size(sizes: Sequence[list[int]], batch: int, texts: Texts) -> int:
    """How many pairs stay together, a divisor of a batch, so that a row of them has little padding.

    It depends on the data and the batch alone: which pairs are in a batch is the same on any mesh.
    Long rows cost more attention: by default none is longer than twice the longest pair.
    """
    longest = _rounded(max(map(max, sizes)))
    limit = texts.row_length or 2 * longest
    best, fewest = 1, len(sizes[0]) * (texts.row_length or longest)
    for group in range(2, batch + 1) if texts.packing else ():
        if batch % group == 0:
            needed = max(_longest(some, _rows_of(some, group, group)) for some in sizes)
            tokens = -(-len(sizes[0]) // group) * (texts.row_length or _rounded(needed))
            if needed <= limit and tokens < fewest:
                best, fewest = group, tokens
    return best


def _rows_of(sizes: list[int], group: int, number: int) -> list[list[int]]:
    """The pairs of each row: groups of pairs, and in every group rows of `number` of them."""
    if group == 1:
        return [[n] for n in range(len(sizes))]
    groups = balance(sizes, -(-len(sizes) // group))
    if group == number:
        return groups
    return [
        [some[n] for n in row]
        for some in groups
        for row in balance([sizes[n] for n in some], group // number)
    ]


def _longest(sizes: Sequence[int], rows: Sequence[Sequence[int]]) -> int:
    return max(sum(sizes[n] for n in row) for row in rows)


def _rounded(tokens: int) -> int:
    return -(-tokens // 64) * 64
