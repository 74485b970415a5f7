r"""From several rewards of pictures to what an algorithm learns from, wherever they were computed.

    R = clip(s(\sum_i w_i s_i(R_i))),                                                        (1)

each s "none" (as it is), "group" or "batch" (less the mean of its prompt, over the deviation of the
prompt or of the batch). Algorithms that scale the sum themselves (ddpo, grpo) are handed their
scale, and s is "none" here: nothing is scaled twice. Metrics tell of rewards as they were.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_choice, refuse
from ctrl_jax._typing import Rewards
from ctrl_jax.algorithms import Batch, Control, Rollout, RunState
from ctrl_jax.algorithms.base import Metrics, weighted_mean
from ctrl_jax.losses import advantage
from ctrl_jax.rewards import combined

SCALES = ("group", "batch", "none")
Parts = Mapping[str, Float[Array, " batch"]]


class Scales(NamedTuple):
    """How rewards are scaled.

    Fields:
        total: of their sum; None where nothing was said.
        parts: of each before it is summed, by its name.
    """

    total: str | None
    parts: dict[str, str]


def parse_scales(texts: Sequence[str], names: Sequence[str]) -> Scales:
    """Return how rewards are scaled, from how it was written.

    Args:
        texts: "group", "batch" or "none" for the sum, NAME=group for one reward.
        names: of the rewards.

    Raises:
        ValueError: a scale or a reward has another name, or is named twice.
    """
    total, parts = None, {}
    for text in texts:
        name, mark, scale = text.rpartition("=")
        check_choice("reward_scale", scale, SCALES)
        if mark and name not in names:
            rule = f"there is no reward of this name, only {', '.join(names)}"
            raise refuse("reward_scale", text, rule, "name one of them, or leave the name out")
        if (name in parts) if mark else (total is not None):
            what = name if mark else "the sum"
            raise refuse("reward_scale", text, f"{what} has a scale already", "leave one out")
        if mark:
            parts[name] = scale
        else:
            total = scale
    return Scales(total, dict.fromkeys(names, "none") | parts)


class Summing(NamedTuple):
    """The sum (1).

    Fields:
        weights: w_i by name.
        parts: s_i by name.
        total: s.
        clamp: largest magnitude of R; None for any.
    """

    weights: Mapping[str, float]
    parts: Mapping[str, str]
    total: str = "none"
    clamp: float | None = None

    def learn(
        self, control: Control, state: RunState, rollout: Any, parts: Sequence[Parts]
    ) -> tuple[RunState, Metrics]:
        """Return the state after an update on rewards, and metrics; compiles.

        Args:
            control: the algorithm.
            state: as its `collect` saw it.
            rollout: what `collect` returned: a `Rollout`, or several of one batch.
            parts: of each rollout every reward by its name, (batch,).
        """
        several = [rollout] if isinstance(rollout, Rollout) else list(rollout)
        together = {name: jnp.concatenate([p[name] for p in parts]) for name in self.weights}
        rewards, metrics = self._sum(together, _repeated(several[0].batch, len(several)))
        each = [
            Rewards(*jax.tree.map(lambda x, i=i: x.reshape(len(several), -1)[i], tuple(rewards)))
            for i in range(len(several))
        ]
        state, found = control.learn(state, rollout, each if len(each) > 1 else each[0])
        if not self.plain:
            # Of scaled rewards the mean says nothing; less a penalty it has no unit.
            found.pop("objective", None)
        return state, found | metrics

    @property
    def plain(self) -> bool:
        """Whether R is the weighted sum itself."""
        return self.total == "none" and {*self.parts.values()} == {"none"} and not self.clamp

    def _sum(self, parts: Parts, batch: Batch) -> tuple[Rewards, Metrics]:
        of = {"groups": batch.prompts, "present": batch.weights}
        found = combined(parts, self.weights, scale=self.parts, **of)
        values = found.rewards.values
        metrics = {f"reward/{name}/zero_spread": n for name, n in found.zero_spread.items()}
        if self.total != "none":
            values, metrics["reward/zero_spread"] = advantage.scaled(
                values, by=self.total, weights=batch.weights, groups=batch.prompts
            )
        if self.clamp is not None:
            values = jnp.clip(values, -self.clamp, self.clamp)
        if not self.plain:
            plain = combined(parts, self.weights).rewards.values
            mean = weighted_mean(plain, batch.weights)
            spread = weighted_mean(jnp.square(plain - mean), batch.weights)
            metrics |= {"reward/mean": mean, "reward/std": jnp.sqrt(spread)}
        return Rewards(values, dict(parts)), metrics


def _repeated(batch: Batch, times: int) -> Batch:
    prompts = None if batch.prompts is None else jnp.tile(batch.prompts, times)
    return Batch(jnp.tile(batch.weights, times), prompts=prompts)
