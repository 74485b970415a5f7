"""From end states to rewards within a compiled program: decoded once, seen by every reward."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._typing import Rewards
from ctrl_jax.commands.fine_tuning.rewards import RewardSet
from ctrl_jax.commands.fine_tuning.subject import Subject


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """The weighted sum of rewards of pictures, as a reward of the states that they are decoded of.

    Args:
        subject: decodes.
        frozen: its parameters, and those of the rewards under "rewards".
        rewards: those on the device are asked.
        before: how many arrays of conditions are for the network; after them come those of the
            rewards that read prompts, in their order.
    """

    subject: Subject
    frozen: Mapping[str, Any]
    rewards: RewardSet
    before: int

    def __call__(self, x: Array, *conditions: Array) -> Float[Array, " batch"]:
        """Return one value per example."""
        return self.scored(x, *conditions).values

    def scored(self, x: Array, *conditions: Array) -> Rewards:
        """Return the sum, and every reward by its name."""
        parts = self.parts(self.subject.decode(self.frozen, x), *conditions)
        values = sum(self.rewards.weights[name] * part for name, part in parts.items())
        return Rewards(jnp.asarray(values), parts)

    def parts(self, pictures: Array, *conditions: Array) -> dict[str, Float[Array, " batch"]]:
        """Return every reward of pictures in [0, 1] by its name."""
        last = self.before + len(names := reading(self.rewards))
        encoded = dict(zip(names, conditions[self.before : last], strict=True))
        return self.rewards.score(self.frozen["rewards"], pictures, encoded)


def reading(rewards: RewardSet) -> list[str]:
    """Return the names of the rewards on the device that read prompts."""
    return [name for name, each in rewards.on_device.items() if each.encode is not None]
