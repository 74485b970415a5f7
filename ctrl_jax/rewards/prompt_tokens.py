"""Prompts as tokens, cut to what a model reads."""

import warnings
from collections.abc import Sequence

from ctrl_jax._checks import refuse
from ctrl_jax._errors import RunWarning
from ctrl_jax.data.preferences.tokenizer import Tokenizer


def prompt_tokens(tokenizer: Tokenizer, texts: Sequence[str], most: int) -> list[list[int]]:
    """Return the tokens of each prompt; one that is cut keeps its last token, the end.

    Args:
        tokenizer: of the model.
        texts: the prompts.
        most: tokens of one.

    Warns:
        RunWarning: some are cut.

    Raises:
        ValueError: `texts` is one text.
    """
    if isinstance(texts, str):
        raise refuse("texts", texts, "it must be a list of texts", "give [text]")
    rows = tokenizer(list(texts), add_special_tokens=True)["input_ids"] if texts else []
    cut = [text for text, row in zip(texts, rows, strict=True) if len(row) > most]
    if cut:
        count = f"{len(cut)} of {len(texts)} prompts are cut to {most} tokens: "
        warnings.warn(count + "; ".join(cut), RunWarning, stacklevel=4)
    return [row if len(row) <= most else [*row[: most - 1], row[-1]] for row in rows]
