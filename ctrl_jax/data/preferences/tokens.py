"""Preference records to token ids, by the conventions of `token_boundaries`.

What begins a text, B, is what the tokenizer puts before one when asked for special tokens. It is
put before a rendered conversation too, where the chat template forgets it. Strings are never
rendered by a chat template. Every token of an answer of several messages counts, those that users
and tools say in it too.

TRL's DPOTrainer (1.16) has the same boundary, and by default the same cut of answers. It differs in
this: no B before, and no end after, what a chat template leaves without; a second B or end where
the text writes one and the tokenizer adds another; blanks kept after the end-of-turn token; prompts
never cut; pairs of equal answers, and prompts without a token, kept.
"""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from ctrl_jax._checks import check_choice, check_count, refuse
from ctrl_jax.data.preferences.boundaries import Ends, Limits, Truncation, cut_parts
from ctrl_jax.data.preferences.record import PreferenceRecord
from ctrl_jax.data.preferences.rows import TokenPair
from ctrl_jax.data.preferences.texts import (
    DATE,
    ChatTemplate,
    Texts,
    lost_content,
    plain_texts,
)
from ctrl_jax.data.preferences.tokenizer import Tokenizer

CHUNK = 512  # records tokenized at once: enough for all cores, and little memory
SHOWN = 8
REFUSED = "left out: the chat template refuses it"


def tokenize_preferences(
    tokenizer: Tokenizer,
    records: Sequence[PreferenceRecord],
    *,
    max_length: int,
    max_prompt_length: int | None = None,
    truncation: Truncation = "keep_end",
    chat_template: str | None = None,
    date: str = DATE,
    leave_out_faulty: bool = False,
    progress: Callable[[int], object] | None = None,
) -> list[TokenPair]:
    """Return preference records as token ids.

    Warnings count the pairs that are changed or left out, by reason, and say where they are.

    Args:
        tokenizer: of the model, by `load_tokenizer` or any other.
        records: all strings or all conversations.
        max_length: most tokens of a prompt together with either answer.
        max_prompt_length: most tokens of a prompt; None cuts no prompt.
        truncation: which part is kept of a longer prompt; its end is what the answers continue.
        chat_template: a template in Jinja in place of the tokenizer's own.
        date: the date that a chat template sees which reads the clock, in ISO's format.
        leave_out_faulty: whether conversations that the chat template refuses are left out, of
            which a warning tells.
        progress: called now and then with the number of records done.

    Returns:
        The pairs in the records' order, without those that are left out.

    Raises:
        ValueError: no record, or none that is not left out; strings among conversations; a number
            out of range; a tokenizer without the end token or the chat template that is needed; a
            chat template that refuses a conversation, or does not end.
    """
    _check(records, chat_template)
    limits = _limits(max_length, max_prompt_length, truncation)
    records = [r if r.place else r._replace(place=f"record {n}") for n, r in enumerate(records)]
    notes: dict[str, list[str]] = defaultdict(list)
    template = _template(tokenizer, records, chat_template, date, leave_out_faulty)
    first = template[1] if template else records[0]
    texts_of = template[0].texts if template else plain_texts
    ends = _ends(tokenizer, texts_of(first).chosen, template and template[0])
    pairs = []
    for start in range(0, len(records), CHUNK):
        part = records[start : start + CHUNK]
        if template:
            part, texts = _rendered(template[0], part, notes, leave_out_faulty)
        else:
            texts = [plain_texts(record) for record in part]
        for record, (prompt, chosen, rejected) in zip(part, _encode(tokenizer, texts), strict=True):
            kept, found = cut_parts(prompt, chosen, rejected, ends, limits)
            for note in found:
                notes[note].append(record.place)
            if kept is not None:
                pairs.append(TokenPair(*kept, record.weight, record.dispersion))
        if progress is not None:
            progress(min(start + CHUNK, len(records)))
    _report(notes, len(records), len(pairs))
    return pairs


def answer_end(
    tokenizer: Tokenizer,
    records: Sequence[PreferenceRecord],
    *,
    chat_template: str | None = None,
    date: str = DATE,
) -> int | None:
    """Return the id that ends an answer: what the chat template closes turns with, or EOS.

    Args:
        tokenizer: of the model.
        records: as `tokenize_preferences`.
        chat_template: as there.
        date: as there.

    Returns:
        The id; that of EOS where the template closes turns by several tokens; None without EOS.
    """
    template = _template(tokenizer, records, chat_template, date, True)
    closing = template[0].closing if template else ""
    ids = list(tokenizer([closing], add_special_tokens=False)["input_ids"][0]) if closing else []
    return ids[0] if len(ids) == 1 else tokenizer.eos_token_id


def _template(
    tokenizer: Tokenizer,
    records: Sequence[PreferenceRecord],
    chat_template: str | None,
    date: str,
    leave_out: bool,
) -> tuple[ChatTemplate, PreferenceRecord] | None:
    """The chat template with a record that it accepts; None where the records are strings."""
    if isinstance(records[0].prompt, str):
        return None
    for n, record in enumerate(records):
        try:
            template = ChatTemplate(tokenizer, chat_template, record, date)
            template.texts(record)
            return template, record
        except ValueError:
            if not leave_out or n + 1 == len(records):
                raise
    return None


def _rendered(
    template: ChatTemplate,
    records: Sequence[PreferenceRecord],
    notes: dict[str, list[str]],
    leave_out: bool,
) -> tuple[list[PreferenceRecord], list[Texts]]:
    """The records that the template accepts, and their texts."""
    kept, found = [], []
    for record in records:
        try:
            texts = template.texts(record)
        except ValueError:
            if not leave_out:
                raise
            notes[REFUSED].append(record.place)
            continue
        for note in lost_content(record, texts):
            notes[note].append(record.place)
        kept.append(record)
        found.append(texts)
    return kept, found


def _encode(tokenizer: Tokenizer, texts: Sequence[Texts]) -> Iterator[tuple[list[int], ...]]:
    """The ids of each prompt, and of it with either answer, as the texts are."""
    parts = [list(part) for part in zip(*texts, strict=True)]
    ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in parts]
    return zip(*ids, strict=True)


def _ends(tokenizer: Tokenizer, text: str, template: ChatTemplate | None) -> Ends:
    """What begins and ends a text, learned from an example."""
    eos, closed = tokenizer.eos_token_id, template is not None and bool(template.closing)
    if eos is None and not closed:
        rule = "it has no EOS, and nothing else ends the answers"
        raise refuse("tokenizer: eos_token_id", None, rule, "set its eos_token")
    with_marks, plain = (
        list(tokenizer([text], add_special_tokens=marks)["input_ids"][0]) for marks in (True, False)
    )
    for n in range(len(with_marks) - len(plain) + 1):
        if with_marks[n : n + len(plain)] == plain:
            begin = with_marks[:n]
            if template is not None and plain[:n] != begin:
                text = f"the chat template does not write {begin}, which begins a text: it is added"
                warnings.warn(f"preferences: {text}", stacklevel=3)
            _warn_of_end(tokenizer, plain, template)
            return Ends(begin, tokenizer.bos_token_id, eos, closed)
    rule = "asking for special tokens must not change the other tokens of a text"
    raise refuse("tokenizer", type(tokenizer).__name__, rule, "give another")


def _warn_of_end(tokenizer: Tokenizer, text: list[int], template: ChatTemplate | None) -> None:
    if template is None:
        return
    if template.reads_clock:
        date = template.date
        said = f"the chat template reads the clock: it is shown {date} (the option date), always"
        warnings.warn(f"preferences: {said}", stacklevel=4)
    eos = tokenizer.eos_token_id
    if template.closing and eos not in (None, text[-1]):
        said = (
            f"the chat template closes answers by {template.closing!r} ({text[-1]}), not by the "
            f"tokenizer's EOS ({eos}): answers end there, and whatever generates must stop there"
        )
        warnings.warn(f"preferences: {said}", stacklevel=4)


def _report(notes: Mapping[str, Sequence[str]], total: int, kept: int) -> None:
    found = []
    for note, places in notes.items():
        more = " …" if len(places) > SHOWN else ""
        where = ", ".join(places[:SHOWN]) + more
        found.append(f"{len(places)} of {total} pairs: {note} ({where})")
    if not kept:
        cut = any("max_length" in note for note in notes)
        repair = "raise max_length" if cut else "repair the data"
        raise refuse("records", f"{total} pairs", f"no pair is left; {'; '.join(found)}", repair)
    for text in found:
        warnings.warn(f"preferences: {text}", stacklevel=3)


def _limits(length: int, prompt: int | None, truncation: Truncation) -> Limits:
    check_count("max_length", length, least=2)
    if prompt is not None and not 1 <= prompt < length:
        rule = f"it must lie between 1 and max_length - 1 = {length - 1}"
        raise refuse("max_prompt_length", prompt, rule, "change one of the two")
    check_choice("truncation", truncation, ("keep_end", "keep_start"))
    if truncation != "keep_end" and prompt is None:
        rule = "prompts are cut only to max_prompt_length"
        raise refuse("truncation", truncation, rule, "give max_prompt_length")
    return Limits(length, prompt, truncation)


def _check(records: Sequence[PreferenceRecord], chat_template: str | None) -> None:
    if not records:
        raise refuse("records", records, "there must be one or more", "give some")
    strings = sum(isinstance(record.prompt, str) for record in records)
    if 0 < strings < len(records):
        found = f"{strings} of strings among {len(records)}"
        raise refuse("records", found, "they must be of one kind", "divide the data")
    if strings and chat_template is not None:
        rule = "the records are strings, which no template renders"
        raise refuse("chat_template", chat_template, rule, "leave it out")
