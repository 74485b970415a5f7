"""Which pairs are kept from training: all or none of a prompt.

A prompt that was not given but found, as what both answers begin with, may be cut in different
places in two records of one question. Those of which one begins another are held to be one.
"""

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ctrl_jax.data import PreferenceRecord
from ctrl_jax.runtime import RunWarning, refuse

Key = tuple


def hold_out(
    records: Sequence[PreferenceRecord], share: float, seed: int
) -> tuple[list[PreferenceRecord], list[PreferenceRecord]]:
    """Divide records by their prompts, so that no held-out prompt was trained on.

    Raises:
        ValueError: all records have one prompt.
    """
    keys = question_keys(records)
    sizes = Counter(keys)
    prompts = list(sizes)
    if len(prompts) < 2:
        rule = "the data has one prompt, which cannot be held out and trained on"
        raise refuse("texts.held_out", share, rule, "give --texts.evaluation-data")
    number = min(max(1, round(share * len(prompts))), len(prompts) - 1)
    order = np.random.default_rng(seed).permutation(len(prompts))
    # A prompt of very many records would be most of what is held out, or of the data.
    order = sorted(order, key=lambda n: sizes[prompts[n]] > max(1, share * len(records)))
    out = {prompts[n] for n in order[:number]}
    train = [record for key, record in zip(keys, records, strict=True) if key not in out]
    held = [record for key, record in zip(keys, records, strict=True) if key in out]
    return train, held


def warn_of_overlap(
    train: Sequence[PreferenceRecord], held_out: Sequence[PreferenceRecord]
) -> None:
    """Warn of evaluation data whose prompts are trained on."""
    keys = question_keys([*train, *held_out])
    trained = set(keys[: len(train)])
    both = sum(key in trained for key in keys[len(train) :])
    if both:
        text = (
            f"texts.evaluation_data: the prompts of {both} of its {len(held_out)} pairs are also "
            "trained on: what is measured of them says little of other prompts"
        )
        warnings.warn(text, RunWarning, stacklevel=3)


def question_keys(records: Sequence[PreferenceRecord]) -> list[Key]:
    """Return what stands for the prompt of each record, whatever its blanks are."""
    keys = [_key(record) for record in records]
    found = {key for key, record in zip(keys, records, strict=True) if record.found}
    return [
        next((key[:n] for n in range(1, len(key)) if key[:n] in found), key)
        if record.found
        else key
        for key, record in zip(keys, records, strict=True)
    ]


def _key(record: PreferenceRecord) -> Key:
    if isinstance(record.prompt, str):
        return tuple(record.prompt.split())
    return tuple((m["role"], *m["content"].split()) for m in record.prompt)
