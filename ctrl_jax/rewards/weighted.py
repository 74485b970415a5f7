"""Several rewards as one, of which each is seen."""

import dataclasses
import re
from collections.abc import Mapping

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_finite, refuse
from ctrl_jax._typing import RewardFn, Rewards

NAME = re.compile(r"[\w.-]+")


@dataclasses.dataclass(frozen=True, eq=False)
class Weighted:
    r"""The reward R = \sum_i w_i R_i, as `weighted` makes it.

    Args:
        parts: name, R_i and w_i of each.
    """

    parts: tuple[tuple[str, RewardFn, float], ...]

    def __call__(self, x: Array, *conditions: Array) -> Float[Array, " batch"]:
        """Return R, one value per example.

        Args:
            x: a batch.
            *conditions: what it was asked to be.
        """
        return self.scored(x, *conditions).values

    def scored(self, x: Array, *conditions: Array) -> Rewards:
        """Return R with all R_i, one value per example each.

        Args:
            x: a batch.
            *conditions: what it was asked to be.

        Raises:
            ValueError: a part does not return one value per example.
        """
        found = {name: _checked(name, each(x, *conditions), x) for name, each, _ in self.parts}
        values = sum(weight * found[name] for name, _, weight in self.parts)
        return Rewards(jnp.asarray(values), found)


def weighted(rewards: Mapping[str, tuple[RewardFn, float]]) -> Weighted:
    r"""Return the reward R = \sum_i w_i R_i; mean and spread of each R_i appear in the metrics.

    Algorithms report ``reward/NAME/mean`` and ``reward/NAME/std`` of every part in its own unit,
    before its weight, beside ``reward/mean`` of the sum.

    Args:
        rewards: by name, ``reward_fn(x, *conditions)`` and its weight: below zero for what shall
            become small, zero for what is only to be watched.

    Raises:
        ValueError: there is none, a name holds more than letters, digits, ``_``, ``-`` and ``.``, a
            weight is no finite number, or no weight differs from zero.
    """
    for name, pair in rewards.items():
        if not NAME.fullmatch(name):
            rule = "a name must be of letters, digits, _, - and ."
            raise refuse("weighted", name, rule, "it becomes reward/NAME/mean: shorten it")
        if not isinstance(pair, tuple) or len(pair) != 2 or not callable(pair[0]):
            rule = "it must be a reward function and its weight"
            raise refuse(f"weighted: {name}", pair, rule, "give (reward_fn, 1.0)")
        check_finite(f"weighted: the weight of {name}", pair[1])
    if not any(weight for _, weight in rewards.values()):
        weights = {name: weight for name, (_, weight) in rewards.items()}
        rule = "at least one weight must differ from zero"
        raise refuse("weighted", weights, rule, "give a reward that counts")
    return Weighted(tuple((name, each, float(w)) for name, (each, w) in rewards.items()))


def _checked(name: str, values: Array, x: Array) -> Float[Array, " batch"]:
    if jnp.shape(values) != x.shape[:1]:
        rule = f"a reward function must return one value per example, shape {x.shape[:1]}"
        repair = "sum or average the remaining axes in it"
        raise refuse(f"weighted: the shape of {name}", jnp.shape(values), rule, repair)
    return jnp.asarray(values, float)
