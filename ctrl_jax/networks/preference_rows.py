"""Preference pairs as token ids."""

from collections.abc import Sequence
from typing import NamedTuple


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
