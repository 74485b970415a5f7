"""A prompt with two answers, before it is tokens.

The three texts are strings, which are never put into a chat template, or conversations, which
always are. Without a prompt of its own it is what both texts begin with: the longest run of equal
messages after which both go on with the assistant, or the longest common string, up to the end of a
turn or a word (`turns`).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ctrl_jax.data.preferences.turns import prompt_end

Message = Mapping[str, str]
Conversation = list[Message]


class PreferenceRecord(NamedTuple):
    """Two answers to a prompt, as strings or as conversations, all three of one kind.

    Fields:
        prompt: what both answers continue; a conversation ends before the assistant speaks.
        chosen: the better answer, without the prompt; as a conversation, one message or more, the
            first and the last of the assistant, each with `role` and `content`.
        rejected: the worse one.
        weight: how much the pair counts, at least 0.
        dispersion: phi in (0, 1] where it is known.
        place: where it was read, for messages about it, such as "pairs.jsonl:12".
        found: whether the prompt was not given but is what both answers began with.
    """

    prompt: str | Conversation
    chosen: str | Conversation
    rejected: str | Conversation
    weight: float = 1.0
    dispersion: float | None = None
    place: str = ""
    found: bool = False


def shared_beginning(chosen: str | Conversation, rejected: str | Conversation) -> int:
    """Return how many characters or messages two texts of one kind share as their prompt."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        return prompt_end(chosen, rejected, common_length(chosen, rejected))
    shared = 0
    for n, (ours, theirs) in enumerate(zip(chosen, rejected, strict=False)):
        if ours["role"] == theirs["role"] == "assistant":  # pyright: ignore[reportArgumentType]
            shared = n
        if ours != theirs:
            break
    return shared


def common_length(first: Sequence, *others: Sequence) -> int:
    """Return the length of the longest beginning that all sequences share."""
    least, most = 0, min(map(len, (first, *others)))
    while least < most:  # by halves: slices compare much faster than items in a loop
        middle = (least + most + 1) // 2
        if all(other[:middle] == first[:middle] for other in others):
            least = middle
        else:
            most = middle - 1
    return least
