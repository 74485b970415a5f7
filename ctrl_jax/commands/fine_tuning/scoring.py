"""Rewards of pictures within a compiled program, and which of them read prompts."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax.commands.fine_tuning.rewards import RewardSet


def parts_of(
    rewards: RewardSet, params: Mapping[str, Any], pictures: Array, conditions: Sequence[Array]
) -> dict[str, Float[Array, " batch"]]:
    """Return every reward on the device by its name.

    Args:
        rewards: of which those on the device are asked.
        params: theirs.
        pictures: in [0, 1].
        conditions: what those read that read prompts, in their order, a row for each picture; there
            may be more.
    """
    encoded = dict(zip(reading(rewards), conditions, strict=False))
    found = rewards.score(params, pictures, encoded)
    return {name: values.astype(jnp.float32) for name, values in found.items()}


def reading(rewards: RewardSet) -> list[str]:
    """Return the names of the rewards on the device that read prompts."""
    return [name for name, each in rewards.on_device.items() if each.encode is not None]
