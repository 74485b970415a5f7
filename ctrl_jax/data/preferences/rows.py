"""Preference pairs as rows of tokens: [prompt | chosen | rejected], several pairs to a row.

Both answers read the prompt and not each other (`attention_mask`, branches 0, 1, 2), so that the
prompt is computed once. Only what predicts a token of an answer needs logits: these places, the
*slots*, are listed. The first token of either answer is predicted at the last token of the prompt:

    prompt   p_1 ... p_m,  chosen  c_1 ... c_n,  rejected  r_1 ... r_k
    slots    p_m -> c_1,  c_1 -> c_2, ...,  p_m -> r_1,  r_1 -> r_2, ...                    (1)

Padding is a text of its own, -1, and its tokens are an ordinary id; nothing tells a token of the
vocabulary from padding by its id.
"""

import heapq
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from ctrl_jax._checks import check_count, check_finite, refuse

Rows = Any  # NumPy on the host, JAX in a program
CHOSEN, REJECTED = 0, 1
# Weights and dispersions are kept in float32.
MOST = np.iinfo(np.int32).max  # of a token's id
GREATEST, LEAST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)


class TokenPair(NamedTuple):
    """Two answers to a prompt, as token ids.

    Fields:
        prompt: with what begins a text, where the tokenizer has such a token; one token or more.
        chosen: the better answer, without the prompt and with its end token.
        rejected: the worse one.
        weight: how much the pair counts, at least 0.
        dispersion: phi in (0, 1] where it is known.
    """

    prompt: Sequence[int]
    chosen: Sequence[int]
    rejected: Sequence[int]
    weight: float = 1.0
    dispersion: float | None = None

    @property
    def tokens(self) -> int:
        """How many tokens the pair takes in a row."""
        return len(self.prompt) + len(self.chosen) + len(self.rejected)


class PreferenceRows(NamedTuple):
    """Packed pairs, by `pack_pairs`; arrays whose leading axis is the rows.

    Fields:
        tokens: token ids, (rows, length).
        texts: which pair of the row a token belongs to, (rows, length); -1 for padding.
        branches: 0 in a prompt, 1 in a chosen answer, 2 in a rejected one, (rows, length).
        sources: the position that predicts the token of a slot, (rows, slots).
        targets: that token, (rows, slots).
        answers: twice the pair of the slot, plus one for a rejected answer, (rows, slots); -1 for
            padding.
        weights: weight of each pair, (rows, pairs); 0 for padding.
        numbers: place of each pair in the data, (rows, pairs); -1 for padding.
        dispersion: phi of each pair, (rows, pairs), 1 for padding; None where it is not known.
        reference: log-probabilities of both answers under the reference model,
            (rows, pairs, 2), by `answer_scores.make_reference_pass`; None before.
    """

    tokens: Int[Rows, "rows length"]
    texts: Int[Rows, "rows length"]
    branches: Int[Rows, "rows length"]
    sources: Int[Rows, "rows slots"]
    targets: Int[Rows, "rows slots"]
    answers: Int[Rows, "rows slots"]
    weights: Float[Rows, "rows pairs"]
    numbers: Int[Rows, "rows pairs"]
    dispersion: Float[Rows, "rows pairs"] | None = None
    reference: Float[Rows, "rows pairs two"] | None = None


def pack_pairs(
    pairs: Sequence[TokenPair], *, length: int | None = None, pairs_per_row: int | None = None
) -> PreferenceRows:
    """Return pairs in rows of one length.

    A pair goes to the fullest row that has place for it, the longest pairs first, or, where rows
    have a number of pairs, long pairs go with short ones: rows are filled well, and which pair lies
    where depends on nothing but the pairs.

    Args:
        pairs: the data.
        length: tokens of a row; by default the longest pair, or the longest row of that many pairs.
        pairs_per_row: pairs in every row, fewer in the longest where it does not come out; 1 for
            rows in the order of the data; None for as many as fit.

    Returns:
        NumPy arrays, without reference.

    Raises:
        ValueError: there is no pair, a prompt or an answer has no token or one that is no id, a
            weight or dispersion is out of range, only some pairs have a dispersion, a pair or a
            row is longer than `length`, or a number is below 1.
    """
    if pairs_per_row is not None:
        check_count("pairs_per_row", pairs_per_row)
    _check(pairs, length)
    sizes = [pair.tokens for pair in pairs]
    if pairs_per_row is None:
        rows = _fill(sizes, max(sizes) if length is None else length)
    elif pairs_per_row == 1:
        rows = [[n] for n in range(len(pairs))]
    else:
        rows = balance(sizes, -(-len(pairs) // pairs_per_row))
    return _pack(pairs, rows, length)


def pack_rows(
    pairs: Sequence[TokenPair], rows: Sequence[Sequence[int]], *, length: int | None = None
) -> PreferenceRows:
    """Return pairs in rows of one length, each in the row that is given.

    Args:
        pairs: the data.
        rows: the places in the data of the pairs of each row, which may have none.
        length: tokens of a row; the longest by default.

    Raises:
        ValueError: as `pack_pairs`.
    """
    _check(pairs, length)
    return _pack(pairs, rows, length)


def _pack(
    pairs: Sequence[TokenPair], rows: Sequence[Sequence[int]], length: int | None
) -> PreferenceRows:
    longest = max(sum(pairs[n].tokens for n in row) for row in rows)
    length = longest if length is None else length
    if longest > length:
        rule = f"the pairs of a row take {longest} tokens"
        raise refuse("length", length, rule, "make rows longer, or fewer pairs to a row")
    slots = max(sum(len(pairs[n].chosen) + len(pairs[n].rejected) for n in row) for row in rows)
    packed = _empty(len(rows), length, slots, max(map(len, rows)))
    for i, row in enumerate(rows):
        position = slot = 0
        for text, n in enumerate(row):
            position, slot = _place(packed, i, text, pairs[n], position, slot)
            packed.weights[i, text], packed.numbers[i, text] = pairs[n].weight, n
    if pairs[0].dispersion is None:
        return packed
    known = np.array([pair.dispersion for pair in pairs], np.float32)
    return packed._replace(dispersion=spread(known, packed, padding=1.0))


def spread(values: np.ndarray, rows: PreferenceRows, *, padding: float) -> np.ndarray:
    """Return values of the data's pairs, (data, ...), at the places of the pairs in the rows.

    Args:
        values: one or several per pair.
        rows: the packed pairs.
        padding: what padding has.
    """
    numbers = np.asarray(rows.numbers)
    found = values[numbers]
    found[numbers < 0] = padding
    return found


def take_rows(rows: PreferenceRows, index: np.ndarray | slice) -> PreferenceRows:
    """Return some of the rows."""
    return jax.tree.map(lambda leaf: leaf[index], rows)


def pad_rows(rows: PreferenceRows, number: int) -> PreferenceRows:
    """Return `number` rows, by empty ones after those given: their pairs weigh nothing."""
    missing = number - rows.tokens.shape[0]
    if missing < 0:
        rule = f"there are {rows.tokens.shape[0]} rows already"
        raise refuse("number", number, rule, "give as many or more")
    empty = _empty(missing, rows.tokens.shape[1], rows.sources.shape[1], rows.weights.shape[1])
    if rows.dispersion is not None:
        empty = empty._replace(dispersion=np.ones(empty.weights.shape, np.float32))
    if rows.reference is not None:
        empty = empty._replace(reference=np.zeros((*empty.weights.shape, 2), np.float32))
    return jax.tree.map(lambda a, b: np.concatenate([np.asarray(a), b]), rows, empty)


def _empty(rows: int, length: int, slots: int, pairs: int) -> PreferenceRows:
    """Rows of nothing but padding."""
    tokens, texts, branches = (np.zeros((rows, length), np.int32) for _ in range(3))
    sources, targets, answers = (np.zeros((rows, slots), np.int32) for _ in range(3))
    weights = np.zeros((rows, pairs), np.float32)
    numbers = np.full((rows, pairs), -1, np.int32)
    return PreferenceRows(
        tokens, texts - 1, branches, sources, targets, answers - 1, weights, numbers
    )


def _place(packed: PreferenceRows, row: int, text: int, pair: TokenPair, start: int, slot: int):
    """Write one pair from a position and a slot on; return what follows it."""
    last, position = start + len(pair.prompt) - 1, start
    for branch, part in enumerate((pair.prompt, pair.chosen, pair.rejected)):
        end = position + len(part)
        packed.tokens[row, position:end] = part
        packed.texts[row, position:end] = text
        packed.branches[row, position:end] = branch
        if branch:
            after = slot + len(part)
            packed.sources[row, slot:after] = [last, *range(position, end - 1)]
            packed.targets[row, slot:after] = part
            packed.answers[row, slot:after] = 2 * text + branch - 1
            slot = after
        position = end
    return position, slot


def balance(sizes: Sequence[int], rows: int) -> list[list[int]]:
    """Return items in rows of as many items, about as long as one another.

    From the longest item on, each goes to the shortest row that is not full: the longest rows are
    filled last, by the shortest items.

    Args:
        sizes: of the items.
        rows: how many rows; the longest lack some items where it does not come out.

    Returns:
        The places of the items of each row.
    """
    found: list[list[int]] = [[] for _ in range(rows)]
    most = -(-len(sizes) // rows)
    open_rows = [(0, row) for row in range(rows)]  # by their length: a heap
    for n in sorted(range(len(sizes)), key=lambda n: -sizes[n]):
        filled, row = heapq.heappop(open_rows)
        found[row].append(n)
        if len(found[row]) < most:
            heapq.heappush(open_rows, (filled + sizes[n], row))
    return found


def _fill(sizes: list[int], length: int) -> list[list[int]]:
    """Return the pairs of each row: best fit, longest first."""
    rows: list[list[int]] = []
    open_rows: dict[int, list[int]] = {}  # by the place that is left
    for n in sorted(range(len(sizes)), key=lambda n: (-sizes[n], n)):
        fitting = min(
            (room for room, row in open_rows.items() if row and room >= sizes[n]), default=0
        )
        if fitting:
            chosen = open_rows[fitting].pop()
        else:
            chosen, fitting = len(rows), length
            rows.append([])
        rows[chosen].append(n)
        open_rows.setdefault(fitting - sizes[n], []).append(chosen)
    return rows


def _check(pairs: Sequence[TokenPair], length: int | None) -> None:
    if not pairs:
        raise refuse("pairs", pairs, "there must be one or more", "give the pairs of the data")
    if length is not None:
        check_count("length", length)
    without = sum(pair.dispersion is None for pair in pairs)
    if 0 < without < len(pairs):
        rule = "pairs must have one, or none of them"
        raise refuse("dispersion", f"none in {without} of {len(pairs)}", rule, "give it to all")
    for n, pair in enumerate(pairs):
        for name in ("prompt", "chosen", "rejected"):
            if np.ndim(getattr(pair, name)) != 1 and not isinstance(getattr(pair, name), str):
                rule = "it must be a list of token ids"
                raise refuse(f"pair {n}: {name}", getattr(pair, name), rule, "give one")
            if len(getattr(pair, name)) == 0:
                rule, repair = "it must have a token", "leave the pair out"
                raise refuse(f"pair {n}: {name}", getattr(pair, name), rule, repair)
            _check_ids(f"pair {n}: {name}", getattr(pair, name))
        if not 0 <= check_finite(f"pair {n}: weight", pair.weight) <= GREATEST:
            rule = "it must be finite and zero or above"
            raise refuse(f"pair {n}: weight", pair.weight, rule, "give 0 to leave the pair out")
        phi = pair.dispersion
        if phi is not None and not LEAST <= check_finite(f"pair {n}: dispersion", phi) <= 1:
            rule = f"it must lie in (0, 1], from {LEAST:.2g} on"
            raise refuse(f"pair {n}: dispersion", pair.dispersion, rule, "mend it")
        if length is not None and pair.tokens > length:
            repair = "truncate the pair or make rows longer"
            raise refuse(f"pair {n}: tokens", pair.tokens, f"rows have {length}", repair)


def _check_ids(name: str, ids: Sequence[int] | np.ndarray) -> None:
    found = np.asarray(ids)
    if found.dtype.kind not in "iu" or found.min() < 0 or found.max() > MOST:
        wrong = next(
            (i for i in ids if not isinstance(i, int | np.integer) or not 0 <= i <= MOST), ids
        )
        rule = f"token ids are whole numbers from 0 to {MOST}"
        raise refuse(name, wrong, rule, "give the ids of the model's own tokenizer")
