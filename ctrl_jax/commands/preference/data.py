"""From a file of preferences to rows of tokens, for training and for evaluation."""

import json
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from ctrl_jax.commands.preference.config import Evaluation, Texts
from ctrl_jax.data import (
    PreferenceRecord,
    PreferenceRows,
    TokenPair,
    pack_pairs,
    read_preferences,
    tokenize_preferences,
)
from ctrl_jax.data.preferences.rows import pad_rows, take_rows
from ctrl_jax.networks import DecoderConfig, Learned
from ctrl_jax.runtime import RunWarning, progress, refuse


class Data(NamedTuple):
    """What is trained on and what is evaluated.

    Fields:
        train: rows of the pairs that are trained on.
        held_out: rows of the pairs that are evaluated.
        prompts: token ids of held-out prompts, to be answered.
        counts: pairs and tokens of both.
    """

    train: PreferenceRows
    held_out: PreferenceRows
    prompts: Sequence[Sequence[int]]
    counts: dict[str, int]


def load_data(
    path: str,
    tokenizer: Any,
    network: DecoderConfig,
    texts: Texts,
    evaluation: Evaluation,
    *,
    part: int,
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
        part: rows that the model is given at a time; evaluated rows are padded to a multiple.
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
    longest = max(pair.tokens for some in pairs for pair in some)
    length = texts.row_length or -(-longest // 64) * 64
    most = None if texts.packing else 1
    rows = [pack_pairs(some, length=length, pairs_per_row=most) for some in pairs]
    evaluated = len(rows[1].tokens)
    rows[1] = pad_rows(rows[1], -(-evaluated // part) * part)
    return Data(rows[0], rows[1], _prompts(pairs[1], evaluation, network), _counts(pairs, rows))


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


def batch_of(rows: PreferenceRows, k: int, batch: int, seed: int) -> PreferenceRows:
    """Return batch k of a stream of rows: every row once, in random order, and again.

    Depends on nothing but its arguments, so that a resumed run goes on where it was.
    """
    number = len(rows.tokens)
    places = np.arange(k * batch, (k + 1) * batch)
    orders = {
        epoch: np.random.default_rng((seed, epoch)).permutation(number)
        for epoch in np.unique(places // number).tolist()
    }
    index = [orders[place // number][place % number] for place in places.tolist()]
    return take_rows(rows, np.array(index))


def check_rows(data: Data, batch: int, mesh: Mesh) -> None:
    """Raise ValueError unless the training data fills a batch."""
    number = len(data.train.tokens)
    if number < batch:
        rule = f"the data has {number} rows to train on"
        lower = max(1, number // mesh.shape["data"]) * mesh.shape["data"]
        raise refuse("optimization.batch", batch, rule, f"give {lower}, or --texts.no-packing")


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
