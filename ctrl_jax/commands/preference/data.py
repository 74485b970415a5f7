"""From a file of preferences to rows of tokens, for training and for evaluation."""

import json
import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ctrl_jax.commands.preference.config import Evaluation, Texts
from ctrl_jax.data import (
    PreferenceRecord,
    PreferenceRows,
    TokenPair,
    read_preferences,
    tokenize_preferences,
)
from ctrl_jax.data.preferences.rows import balance, pack_rows, pad_rows, take_rows
from ctrl_jax.networks import DecoderConfig, Learned
from ctrl_jax.runtime import RunWarning, progress, refuse


class Data(NamedTuple):
    """What is trained on and what is evaluated.

    Fields:
        train: rows of the pairs that are trained on.
        held_out: rows of the pairs that are evaluated.
        prompts: token ids of held-out prompts, to be answered.
        counts: pairs and tokens of both.
        batch: rows of a batch.
        part: rows that the model is given at a time.
        group: rows one after the other that stay together.
    """

    train: PreferenceRows
    held_out: PreferenceRows
    prompts: Sequence[Sequence[int]]
    counts: dict[str, int]
    batch: int
    part: int
    group: int


def load_data(
    path: str,
    tokenizer: Any,
    network: DecoderConfig,
    texts: Texts,
    evaluation: Evaluation,
    *,
    batch: int,
    parts: int,
    devices: int,
    seed: int,
    show: bool,
) -> Data:
    """Read, tokenize and pack the data.

    Args:
        path: the file of preferences.
        tokenizer: of the model.
        network: what the model is.
        texts: options of the data.
        evaluation: options of the evaluation.
        batch: pairs of a batch.
        parts: how many a batch is divided into, one after the other.
        devices: how many the rows of a part are divided over.
        seed: of the choice of what is held out.
        show: whether to show progress.

    Raises:
        ValueError: a faulty file, texts that do not fit the model, or too little data.
    """
    _check_length(texts, network)
    records = read_preferences(path, ignore=texts.ignore)
    if texts.evaluation_data is None:
        share = min(texts.held_out, evaluation.pairs / len(records))
        train, held_out = hold_out(records, share, seed)
    else:
        train, held_out = records, read_preferences(texts.evaluation_data, ignore=texts.ignore)
    held_out = held_out[: evaluation.pairs]
    pairs = [
        _tokenize(tokenizer, some, texts, f"tokens of {name} pairs", show)
        for name, some in (("training", train), ("evaluation", held_out))
    ]
    _check_tokens([*pairs[0], *pairs[1]], network)
    _check_weights(pairs)
    _check_number(len(pairs[0]), batch, devices)
    sizes = [[pair.tokens for pair in some] for some in pairs]
    group = _group_size(sizes, batch, texts)
    number = math.gcd(group, batch // parts // devices)
    packed = [_rows_of(some, group, number) for some in sizes]
    longest = max(_longest(*both) for both in zip(sizes, packed, strict=True))
    length = texts.row_length or _rounded(longest)
    rows = [pack_rows(*both, length=length) for both in zip(pairs, packed, strict=True)]
    part = batch // parts // number
    evaluated = -(-len(rows[1].tokens) // part) * part
    return Data(
        rows[0],
        pad_rows(rows[1], evaluated),
        _prompts(pairs[1], evaluation, network),
        _counts(pairs, rows),
        batch // number,
        part,
        group // number,
    )


def hold_out(
    records: Sequence[PreferenceRecord], share: float, seed: int
) -> tuple[list[PreferenceRecord], list[PreferenceRecord]]:
    """Divide records by their prompts, so that no held-out prompt was trained on.

    Raises:
        ValueError: all records have one prompt.
    """
    keys = [json.dumps(record.prompt, sort_keys=True) for record in records]
    prompts = list(dict.fromkeys(keys))
    if len(prompts) < 2:
        rule = "the data has one prompt, which cannot be held out and trained on"
        raise refuse("texts.held_out", share, rule, "give --texts.evaluation-data")
    number = min(max(1, round(share * len(prompts))), len(prompts) - 1)
    chosen = np.random.default_rng(seed).permutation(len(prompts))[:number]
    out = {prompts[n] for n in chosen}
    train = [record for key, record in zip(keys, records, strict=True) if key not in out]
    held = [record for key, record in zip(keys, records, strict=True) if key in out]
    return train, held


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


def _check_number(pairs: int, batch: int, devices: int) -> None:
    if pairs < batch:
        rule = f"the data has {pairs} pairs to train on"
        repair = f"give {pairs // devices * devices}" if pairs >= devices else "give more data"
        raise refuse("optimization.batch", batch, rule, repair)


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


def _tokenize(
    tokenizer: Any, records: Sequence[PreferenceRecord], texts: Texts, title: str, show: bool
) -> list[TokenPair]:
    with (
        progress(len(records), title, enabled=show) as update,
        warnings.catch_warnings(record=True) as notes,
    ):
        warnings.simplefilter("always")
        pairs = tokenize_preferences(
            tokenizer,
            records,
            max_length=texts.max_length,
            max_prompt_length=texts.max_prompt_length,
            progress=update,
        )
    for note in notes:  # what is said of the user's data, not of code
        warnings.warn(str(note.message), RunWarning, stacklevel=2)
    return pairs


def _prompts(
    pairs: Sequence[TokenPair], evaluation: Evaluation, network: DecoderConfig
) -> Sequence[Sequence[int]]:
    """Different prompts that leave room for an answer."""
    room = _positions(network) - evaluation.answer_length
    prompts = {tuple(pair.prompt): None for pair in pairs if len(pair.prompt) <= room}
    if evaluation.prompts and not prompts:
        text = (
            f"evaluation.answer_length: no held-out prompt leaves room for "
            f"{evaluation.answer_length} tokens in the model's positions; the KL is not measured"
        )
        warnings.warn(text, RunWarning, stacklevel=2)
    return [*prompts][: evaluation.prompts]


def _positions(network: DecoderConfig) -> float:
    kind = network.positions
    return kind.length if isinstance(kind, Learned) else float("inf")


def _check_length(texts: Texts, network: DecoderConfig) -> None:
    longest = _positions(network)
    if texts.max_length > longest:
        rule = f"the model has {longest} positions"
        raise refuse("texts.max_length", texts.max_length, rule, "give at most as many")


def _check_tokens(pairs: Sequence[TokenPair], network: DecoderConfig) -> None:
    largest = max(max(max(part) for part in pair[:3]) for pair in pairs)
    if largest >= network.vocabulary:
        rule = f"the tokenizer's ids must be below the model's vocabulary of {network.vocabulary}"
        raise refuse("model", f"token {largest}", rule, "give a model with its own tokenizer")


def _check_weights(pairs: Sequence[Sequence[TokenPair]]) -> None:
    for name, some in zip(("training", "evaluation"), pairs, strict=True):
        if not any(pair.weight for pair in some):
            rule = f"no {name} pair would count"
            raise refuse("data: weight", "0 everywhere", rule, "give some a positive one")


def _counts(pairs: Sequence[Sequence[TokenPair]], rows: Sequence[PreferenceRows]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, some, packed in zip(("train", "evaluation"), pairs, rows, strict=True):
        counts[f"pairs/{name}"] = len(some)
        counts[f"tokens/{name}"] = sum(pair.tokens for pair in some)
        counts[f"rows/{name}"] = len(packed.tokens)
    counts["row_length"] = rows[0].tokens.shape[1]
    return counts
