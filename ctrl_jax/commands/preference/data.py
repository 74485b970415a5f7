"""From a file of preferences to rows of tokens, for training and for evaluation."""

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ctrl_jax._checks import under_names
from ctrl_jax.commands.preference.config import Evaluation, Texts
from ctrl_jax.commands.preference.held_out import hold_out, warn_of_overlap
from ctrl_jax.commands.preference.packing import Packing, pack
from ctrl_jax.data import (
    PreferenceRecord,
    PreferenceRows,
    TokenPair,
    tokenize_preferences,
)
from ctrl_jax.data.preferences.file import Reading, read_files
from ctrl_jax.data.preferences.rows import pad_rows
from ctrl_jax.data.preferences.tokens import answer_end
from ctrl_jax.networks import DecoderConfig, Learned
from ctrl_jax.runtime import RunWarning, progress, refuse

# The arguments of functions whose errors reach the user, by the options that they are.
OPTIONS = {
    name: f"texts.{name}" for name in ("max_length", "max_prompt_length", "chat_template", "date")
}


class Data(NamedTuple):
    """What is trained on and what is evaluated.

    Fields:
        train: rows of the pairs that are trained on.
        held_out: rows of the pairs that are evaluated.
        prompts: token ids of held-out prompts, to be answered.
        end: the token that ends an answer; None where none does.
        counts: pairs and tokens of both.
        packing: how rows make a batch.
        digest: of the pairs as tokens, in their order.
        summary: what was read, what was left out, and why.
        template: the chat template of the options as it was read; None for the model's own.
    """

    train: PreferenceRows
    held_out: PreferenceRows
    prompts: Sequence[Sequence[int]]
    end: int | None
    counts: dict[str, int]
    packing: Packing
    digest: str
    summary: list[str]
    template: str | None


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
    readings, train, held_out = _read(path, texts, evaluation, seed)
    template = _template(tokenizer, train[0], texts)
    with under_names(tokenizer="model", records="data", **OPTIONS), _notes_once():
        options = {"chat_template": template, "date": texts.date}
        pairs = [
            _tokenize(tokenizer, some, texts, f"tokens of {name} pairs", show, **options)
            for name, some in (("training", train), ("evaluation", held_out))
        ]
        end = answer_end(tokenizer, train, **options)
    _check_tokens([*pairs[0], *pairs[1]], network)
    _warn_of_length([*pairs[0], *pairs[1]], network)
    _check_weights(pairs)
    _check_number(len(pairs[0]), batch, devices)
    packing = pack(pairs, texts, batch=batch, parts=parts, devices=devices)
    rows = packing.rows
    counts = _counts(pairs, rows)
    counts["records/read"] = sum(reading.number for _, reading in readings)
    counts["records/left_out"] = counts["records/read"] - sum(map(len, pairs))
    evaluated = -(-len(rows[1].tokens) // packing.part) * packing.part
    return Data(
        rows[0],
        pad_rows(rows[1], evaluated),
        _prompts(pairs[1], evaluation, network),
        end,
        counts,
        packing,
        pairs_digest(pairs),
        _summary(readings, (train, held_out), counts),
        template,
    )


def pairs_digest(parts: Sequence[Sequence[TokenPair]]) -> str:
    """Return the sha256 of pairs in their order, whatever rows they lie in."""
    found = hashlib.sha256()
    for some in parts:
        for pair in some:
            found.update(json.dumps(pair, default=int).encode())
        found.update(b"\n")
    return found.hexdigest()


def _read(
    path: str, texts: Texts, evaluation: Evaluation, seed: int
) -> tuple[list[tuple[str, Reading]], list[PreferenceRecord], list[PreferenceRecord]]:
    """What was read, of it what is trained on, and what is evaluated."""
    options = {"ignore": texts.ignore, "leave_out_faulty": texts.leave_out_faulty}
    data = read_files(path, name="data", **options)
    readings = [("data", data)]
    if texts.evaluation_data is None:
        share = min(texts.held_out, evaluation.pairs / len(data.records))
        train, held_out = hold_out(data.records, share, seed)
    else:
        name = "texts.evaluation_data"
        other = read_files(texts.evaluation_data, name=name, split="test", **options)
        readings.append((name, other))
        train, held_out = data.records, other.records
        warn_of_overlap(train, held_out)
    return readings, train, held_out[: evaluation.pairs]


def _template(tokenizer: Any, record: PreferenceRecord, texts: Texts) -> str | None:
    """The chat template of the options, where conversations need one."""
    name = "texts.chat_template"
    if isinstance(record.prompt, str):
        if texts.chat_template is not None:
            rule = "the data are strings, which no template renders"
            raise refuse(name, texts.chat_template, rule, "leave it out")
        return None
    if texts.chat_template is not None:
        try:
            return Path(texts.chat_template).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            rule = f"it cannot be read ({error})"
            raise refuse(name, texts.chat_template, rule, "give a file in Jinja") from error
    if not getattr(tokenizer, "chat_template", "unknown"):
        folder = getattr(tokenizer, "name_or_path", "")
        rule = "its tokenizer has no chat template, and the data are conversations"
        raise refuse("model", folder, rule, "give --texts.chat-template FILE, or a chat model")
    return None


def _summary(
    readings: Sequence[tuple[str, Reading]],
    records: Sequence[Sequence[PreferenceRecord]],
    counts: dict[str, int],
) -> list[str]:
    """What is said of the data before training starts."""
    lines = [f"{name}: {line}" for name, reading in readings for line in reading.lines()]
    used = sum(map(len, records))
    unused = sum(len(reading.records) for _, reading in readings) - used
    if unused:
        lines.append(f"not used: {unused} records for evaluation, beyond --evaluation.pairs")
    for name, some in zip(("train", "evaluation"), records, strict=True):
        pairs, tokens, rows = (counts[f"{kind}/{name}"] for kind in ("pairs", "tokens", "rows"))
        filled = tokens / (rows * counts["row_length"])
        text = f"{name}: {pairs} pairs of {tokens} tokens, in {rows} rows of {counts['row_length']}"
        lines.append(f"{text} ({filled:.0%} filled)")
        if pairs < len(some):
            lines.append(f"{name}: {len(some) - pairs} more are left out; the warnings say why")
    return lines


def _check_number(pairs: int, batch: int, devices: int) -> None:
    if pairs < batch:
        rule = f"the data has {pairs} pairs to train on"
        repair = f"give {pairs // devices * devices}" if pairs >= devices else "give more data"
        raise refuse("optimization.batch", batch, rule, repair)


@contextlib.contextmanager
def _notes_once() -> Iterator[None]:
    """What is said of the user's data, not of code: each once."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(str(note.message) for note in notes):
        warnings.warn(text, RunWarning, stacklevel=3)


def _tokenize(
    tokenizer: Any,
    records: Sequence[PreferenceRecord],
    texts: Texts,
    title: str,
    show: bool,
    **options: Any,
) -> list[TokenPair]:
    with progress(len(records), title, enabled=show) as update:
        return tokenize_preferences(
            tokenizer,
            records,
            max_length=texts.max_length,
            max_prompt_length=texts.max_prompt_length,
            leave_out_faulty=texts.leave_out_faulty,
            progress=update,
            **options,
        )


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


def _warn_of_length(pairs: Sequence[TokenPair], network: DecoderConfig) -> None:
    longest = max(len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in pairs)
    if network.longest_text is not None and longest > network.longest_text:
        text = (
            f"texts.max_length: the longest text has {longest} tokens, the model's "
            f"max_position_embeddings is {network.longest_text}: it was not made for texts beyond"
        )
        warnings.warn(text, RunWarning, stacklevel=2)


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
