"""Where a prompt ends and answers begin and end, in token ids.

With B the ids that begin a text (most often BOS, or none), e the id that ends one, and t(.) the
ids of a text without either:

    p = B t(prompt),  c = B t(prompt + chosen),  r = B t(prompt + rejected)
    b = length of the longest common beginning of p, c and r                                 (1)
    prompt p[:b],  chosen c[b:] e,  rejected r[b:] e                                         (2)

- **Beginning.** B stands there once, whether the text writes it already or not. A prompt without a
  token gets BOS: otherwise nothing would predict the first token of the answers.
- **Boundary.** The tokens are those of the whole texts. Where tokens merge across the boundary, or
  a chat template renders the prompt otherwise once it is answered, b is less than the prompt's
  length: the prompt is the same for both answers, and no character is lost.
- **End.** e stands once after a whole answer. A text that is closed already (by the end-of-turn
  token of a chat template) is left as it is.
- **Length.** A longer prompt is cut at its start, after B, and an answer at its end, which then has
  no e. A pair of which nothing would be left has no value; one whose answers become equal has no
  gradient: there is no pair then, but a note.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from ctrl_jax.data.preferences.record import common_length

Truncation = Literal["keep_end", "keep_start"]

FULL = "left out: the prompt leaves an answer no room in max_length; raise it or cut prompts"
EQUAL = "left out: its answers have the same tokens"
EQUAL_CUT = "left out: its answers have the same tokens up to max_length; raise it"
NO_PROMPT = "left out: its prompt has no token and the tokenizer has no BOS; give a prompt"
NO_ANSWER = "left out: an answer has no token of its own"
MOVED = (
    "its prompt ends earlier: tokens merge there, or a chat template renders it anew with an answer"
)
CUT_PROMPT = "its prompt is cut to max_prompt_length"
CUT_ANSWER = "an answer is cut at max_length and has no end token"


class Ends(NamedTuple):
    """The ids that begin and end a text.

    Fields:
        begin: B.
        bos: the id of BOS, or None.
        eos: e, or None where there is no such id.
        closed: whether texts of answers end as they should without e.
    """

    begin: list[int]
    bos: int | None
    eos: int | None
    closed: bool


class Limits(NamedTuple):
    """The most tokens of a prompt with an answer, of a prompt, and which part of it is kept."""

    length: int
    prompt: int | None
    truncation: Truncation


class Parts(NamedTuple):
    """The ids of a prompt and of both answers without it."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def cut_parts(
    prompt: Sequence[int],
    chosen: Sequence[int],
    rejected: Sequence[int],
    ends: Ends,
    limits: Limits,
) -> tuple[Parts | None, list[str]]:
    """Return a prompt and its answers by (2), within limits, and notes about them.

    Args:
        prompt: t(prompt).
        chosen: t(prompt + chosen).
        rejected: t(prompt + rejected).
        ends: what begins and ends a text.
        limits: how many tokens are kept.

    Returns:
        The three, or None where they make no pair; what was done to them.
    """
    p, c, r = (_begun(list(ids), ends.begin) for ids in (prompt, chosen, rejected))
    b = common_length(p, c, r)
    notes = [MOVED] if b < len(p) else []
    start = p[:b]
    if not start and ends.bos is not None:
        start = [ends.bos]
    if limits.prompt is not None and len(start) > limits.prompt:
        start = _cut_prompt(start, ends, limits.prompt, limits.truncation)
        notes.append(CUT_PROMPT)
    room = max(limits.length - len(start), 0)
    better, worse = _ended(c[b:], ends), _ended(r[b:], ends)
    cut = max(len(better), len(worse)) > room
    if cut:
        better, worse = better[:room], worse[:room]
        notes.append(CUT_ANSWER)
    fault = _fault(start, better, worse, room, cut)
    return (None, [fault]) if fault else (Parts(start, better, worse), notes)


def _fault(
    prompt: list[int], chosen: list[int], rejected: list[int], room: int, cut: bool
) -> str | None:
    if not prompt:
        return NO_PROMPT
    if not room:
        return FULL
    if not chosen or not rejected:
        return NO_ANSWER
    return None if chosen != rejected else EQUAL_CUT if cut else EQUAL


def _begun(ids: list[int], begin: list[int]) -> list[int]:
    """The ids with B before them, once."""
    n = len(begin)
    while n and ids[:n] == begin:
        ids = ids[n:]
    return begin + ids


def _ended(ids: list[int], ends: Ends) -> list[int]:
    """The ids with e after them, once; a text that is closed by something else is left."""
    if ends.eos is None:
        return ids
    length = len(ids)
    while length and ids[length - 1] == ends.eos:
        length -= 1
    needed = length < len(ids) or not ends.closed
    return [*ids[:length], ends.eos] if needed else ids


def _cut_prompt(ids: list[int], ends: Ends, length: int, truncation: Truncation) -> list[int]:
    if truncation == "keep_start":
        return ids[:length]
    marks = [ends.begin, [] if ends.bos is None else [ends.bos]]  # a text may write its own BOS
    start = next((mark for mark in marks if mark and ids[: len(mark)] == mark), [])[:length]
    return start + ids[len(ids) - (length - len(start)) :]
