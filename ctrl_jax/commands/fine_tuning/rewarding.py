"""Options of how rewards are summed, scaled and asked for, and which algorithm reads them."""

import dataclasses
from collections.abc import Mapping

from ctrl_jax._checks import check_count, check_positive, refuse
from ctrl_jax.algorithms import PromptStatistics
from ctrl_jax.commands.fine_tuning.reward_scale import SCALES, Scales, Summing, parse_scales
from ctrl_jax.commands.fine_tuning.reward_spec import parse_rewards
from ctrl_jax.commands.fine_tuning.rewards import OutsideOptions

OWN: dict[str, tuple[str, ...]] = {"ddpo": ("group",), "grpo": SCALES}
"""Algorithms that scale the sum themselves, and how they can."""


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Mean and spread of each prompt's latest rewards, in the place of its batch's, for ddpo.

    Args:
        buffer: rewards that are remembered of each prompt; 0 for none. With them one picture of a
            prompt in a batch is enough.
        least: rewards of a prompt below which it is measured by the whole batch instead.
    """

    buffer: int = 0
    least: int = 16

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_count("reward_statistics.buffer", self.buffer, least=0)
        check_count("reward_statistics.least", self.least, least=2)
        if self.buffer == 0 and self.least != type(self)().least:
            rule = "nothing is remembered that it could count"
            raise refuse("reward_statistics.least", self.least, rule, "give a buffer too")
        if 0 < self.buffer < self.least:
            rule = f"with it {self.buffer} rewards are remembered, and {self.least} are needed"
            raise refuse("reward_statistics.buffer", self.buffer, rule, "keep more, or need less")


@dataclasses.dataclass(frozen=True)
class Rewarding:
    """How rewards are summed and asked for.

    Args:
        reward_scale: how rewards are scaled: group, batch or none for their weighted sum, and
            NAME=group for one of them before it is summed. group is less the mean of the prompt,
            over the deviation there; batch over that of the batch. ddpo and grpo scale the sum
            themselves, by group where nothing else is said; for others it is as it is.
        reward_clamp: largest magnitude of the scaled sum, in deviations; any by default.
        overlap: with rewards on the host, make the next rollout while those of the last are
            awaited: off-policy by one update.
        reward_statistics: per prompt, over the updates, for ddpo.
        outside: how rewards on the host are asked.
    """

    reward_scale: tuple[str, ...] = ()
    reward_clamp: float | None = None
    overlap: bool = False
    reward_statistics: Statistics = dataclasses.field(default_factory=Statistics)
    outside: OutsideOptions = dataclasses.field(default_factory=OutsideOptions)

    def check(self, texts: tuple[str, ...], held_out: tuple[str, ...], algorithm: str) -> None:
        """Raise ValueError for options that do not fit the rewards or the algorithm.

        Args:
            texts: the rewards, as they were written.
            held_out: those that are not trained on.
            algorithm: its name.
        """
        specs = parse_rewards(texts)
        beside = parse_rewards(held_out, option="held_out_reward")
        scales = self.scales(spec.name for spec in specs)
        own = OWN.get(algorithm)
        if own is not None and scales.total not in (None, *own):
            rule = f"{algorithm} divides by the deviation of each prompt"
            raise refuse("reward_scale", scales.total, rule, "leave it out, or take grpo")
        if self.reward_clamp is not None:
            check_positive("reward_clamp", self.reward_clamp)
            if (scales.total or ("none" if own is None else "group")) == "none":
                rule = "it is in deviations, and the sum is divided by none"
                repair = "give --reward-scale group, or leave it out"
                raise refuse("reward_clamp", self.reward_clamp, rule, repair)
        if self.reward_statistics.buffer and algorithm != "ddpo":
            rule = f"{algorithm} does not use it"
            repair = "leave it out, or take --algorithm ddpo"
            raise refuse("reward_statistics.buffer", self.reward_statistics.buffer, rule, repair)
        if not any(spec.outside for spec in specs):
            if self.overlap:
                rule = "all rewards are in JAX, and an update is one program"
                raise refuse("overlap", True, rule, "leave it out")
            if self.outside != OutsideOptions() and not any(spec.outside for spec in beside):
                rule = "no reward is asked for on the host"
                raise refuse("outside", self.outside, rule, "leave it out")

    def scales(self, names) -> Scales:
        """Return how the rewards of these names are scaled."""
        return parse_scales(self.reward_scale, tuple(names))

    def summing(self, weights: Mapping[str, float], algorithm: str) -> Summing:
        """Return what becomes of the rewards before an algorithm sees them.

        Args:
            weights: of each by its name.
            algorithm: its name.
        """
        scales = self.scales(weights)
        if algorithm in OWN:
            return Summing(weights, scales.parts)
        return Summing(weights, scales.parts, scales.total or "none", self.reward_clamp)

    def own_scale(self, names) -> str:
        """Return the scale that grpo is given.

        Args:
            names: of the rewards.
        """
        return self.scales(names).total or "group"

    def statistics(self, prompts: int) -> PromptStatistics | None:
        """Return what ddpo remembers of so many prompts."""
        options = self.reward_statistics
        return PromptStatistics(prompts, options.buffer, options.least) if options.buffer else None
