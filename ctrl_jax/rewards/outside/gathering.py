"""Several rewards from outside, asked at once."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ctrl_jax._errors import RewardUnavailable
from ctrl_jax.data.prompts import Prompt
from ctrl_jax.rewards.outside.reward import OutsideReward, read_question
from ctrl_jax.rewards.outside.threads import in_background


def gathered(
    rewards: Mapping[str, OutsideReward],
    images: Any,
    prompts: Sequence[str | Prompt],
    records: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, np.ndarray]:
    """Return the values of several rewards from outside, by name, all asked at once.

    Args:
        rewards: by name; functions without a `timeout` run in threads here too.
        images: (batch, h, w, 3), in [0, 1] or bytes.
        prompts: a text or a `Prompt` for each.
        records: what else is known of each; by default the fields of each `Prompt`.

    Returns:
        Shape (batch,) each, as parts of `Rewards` or for `combined`.

    Raises:
        ValueError: the arguments are of another kind, or do not belong together.
        RewardError: one of them has no rewards for this batch; all were waited for.
        RewardUnavailable: one of them will have none for the next either.
    """
    question = read_question(images, prompts, records)
    asked = {name: in_background(each, *question) for name, each in rewards.items()}
    errors = [each.exception() for each in asked.values()]
    for error in sorted(filter(None, errors), key=lambda e: not isinstance(e, RewardUnavailable)):
        raise error
    return {name: each.result() for name, each in asked.items()}
