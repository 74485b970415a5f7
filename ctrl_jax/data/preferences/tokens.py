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
from ctrl_jax.data.preferences.texts import ChatTemplate, Texts, plain_texts
from ctrl_jax.data.preferences.tokenizer import Tokenizer

CHUNK = 512  # records tokenized at once: enough for all cores, and little memory
SHOWN = 8


def tokenize_preferences(
    tokenizer: Tokenizer,
    records: Sequence[PreferenceRecord],
    *,
    max_length: int,
    max_prompt_length: int | None = None,
    truncation: Truncation = "keep_end",
    chat_template: str | None = None,
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
        progress: called now and then with the number of records done.

    Returns:
        The pairs in the records' order, without those that are left out.

    Raises:
        ValueError: no record, or none that is not left out; strings among conversations; a number
            out of range; a tokenizer without the end token or the chat template that is needed.
    """
    _check(records, chat_template)
    limits = _limits(max_length, max_prompt_length, truncation)
    records = [r if r.place else r._replace(place=f"record {n}") for n, r in enumerate(records)]
    rendered = not isinstance(records[0].prompt, str)
    template = ChatTemplate(tokenizer, chat_template, records[0]) if rendered else None
    texts_of = template.texts if template else plain_texts
    ends = _ends(tokenizer, texts_of(records[:1]).chosen[0], template)
    notes: dict[str, list[str]] = defaultdict(list)
    pairs = []
    for start in range(0, len(records), CHUNK):
        part = records[start : start + CHUNK]
        ids = _encode(tokenizer, texts_of(part))
        for record, (prompt, chosen, rejected) in zip(part, ids, strict=True):
            kept, found = cut_parts(prompt, chosen, rejected, ends, limits)
            for note in found:
                notes[note].append(record.place)
            if kept is not None:
                pairs.append(TokenPair(*kept, record.weight, record.dispersion))
        if progress is not None:
            progress(start + len(part))
    _report(notes, len(records), len(pairs))
    return pairs


def _encode(tokenizer: Tokenizer, texts: Texts) -> Iterator[tuple[list[int], ...]]:
    """The ids of each prompt, and of it with either answer, as the texts are."""
    ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in texts]
    return zip(*ids, strict=True)


def _ends(tokenizer: Tokenizer, text: str, template: ChatTemplate | None) -> Ends:
    """What begins and ends a text, learned from an example."""
    eos, closed = tokenizer.eos_token_id, template is not None and template.closes
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
            return Ends(begin, tokenizer.bos_token_id, eos, closed)
    rule = "asking for special tokens must not change the other tokens of a text"
    raise refuse("tokenizer", type(tokenizer).__name__, rule, "give another")


def _report(notes: Mapping[str, Sequence[str]], total: int, kept: int) -> None:
    found = []
    for note, places in notes.items():
        more = " …" if len(places) > SHOWN else ""
        where = ", ".join(places[:SHOWN]) + more
        found.append(f"{len(places)} of {total} pairs: {note} ({where})")
    if not kept:
        repair = "repair the data, or raise max_length"
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
