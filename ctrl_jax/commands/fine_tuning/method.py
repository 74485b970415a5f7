"""The algorithm of `ctrl-jax fine-tune`, its hyperparameters, and which of them it reads."""

import dataclasses
from typing import Literal

from ctrl_jax._checks import check_decay, check_fields
from ctrl_jax.runtime import (
    check_count,
    check_fraction,
    check_non_negative,
    check_positive,
    check_unused,
    refuse,
)

Algorithm = Literal[
    "ppo",
    "value_gradient",
    "policy_gradient",
    "ddpo",
    "dpok",
    "grpo",
    "dpo",
    "mallows_theta",
    "mallows_phi",
]
WITH_VALUE = ("ppo", "value_gradient", "policy_gradient")
OF_TERMINAL_REWARDS = ("ddpo", "dpok", "grpo")
OF_PAIRS = ("dpo", "mallows_theta", "mallows_phi")
CLIP = 0.2

_TAKERS: dict[str, tuple[str, ...]] = {
    "penalty": (*WITH_VALUE, "dpok", "grpo"),
    "trace": ("ppo", "policy_gradient"),
    "clip": ("ppo", *OF_TERMINAL_REWARDS),
    "control_variate": ("ppo",),
    "mask": ("grpo",),
    "beta": OF_PAIRS,
    "sharpness": OF_PAIRS,
    "dispersion": ("mallows_theta", "mallows_phi"),
    "old": (*WITH_VALUE, *OF_TERMINAL_REWARDS),
    "per_step": (*WITH_VALUE, *OF_TERMINAL_REWARDS),
    "minibatches": (*WITH_VALUE, *OF_TERMINAL_REWARDS),
    "chunks": (*WITH_VALUE, *OF_TERMINAL_REWARDS),
}


@dataclasses.dataclass(frozen=True)
class Method:
    """The algorithm; options of others must be left alone.

    Args:
        algorithm: ppo, value_gradient and policy_gradient: in continuous time, with a value
            network, which value_gradient can do without; ddpo, dpok and grpo: by the rewards of the
            ends alone; dpo, mallows_theta and mallows_phi: two pictures of one prompt and start,
            the better one by their rewards.
        penalty: KL penalty lambda of all but ddpo and pairs, per nat, in units of the spread that
            the reward has on the pretrained model's pictures; of grpo, of what it divides by.
        trace: decay of the advantage, for ppo and policy_gradient: 1 trusts the trajectory, and
            what the value network gets wrong then costs noise alone; 0 trusts the network.
        clip: half-width of the interval for the ratio of a step; 0.2 by default.
        mask: of grpo, in the place of clip: divergence of a step from the old policy, in nats,
            beyond which it gives no gradient that leads farther.
        control_variate: whether ppo takes what the value network predicts of the advantage out of
            the ratio's noise and adds its exact gradient instead.
        beta: of pairs, inverse temperature: the larger, the nearer to the pretrained model.
        sharpness: of pairs, how surely the larger reward wins: with the probability sigmoid of this
            times the difference, in units of the spread on the pretrained model's pictures.
        dispersion: of Mallows losses, phi in (0, 1] of all prompts; by default what each line of
            the prompts says as `dispersion`.
        epochs: passes over the steps of a batch of trajectories, 1 by default, or over its pairs, 5
            by default: a pass over these is one optimizer step.
        minibatches: optimizer steps per pass; by default the largest divisor up to 5 of the solver
            steps that are learned from.
        chunks: pieces that a minibatch is computed in, one after the other; with the minibatches
            they divide the steps that are learned from. auto: the fewest in which an update fits
            into a device, which is compiled once or twice more to find them.
        old: what ratios are taken against: scored, the policy's predictions in a pass of their own
            before the first update, or rollout, those that drew the trajectories; by default the
            first, and with --overlap the second.
        per_step: whether the metrics tell the ratio and the clipped share at each solver step.
        average_decay: decay per update of a moving average of what is trained, which is evaluated
            and saved; 0 for none.
    """

    algorithm: Algorithm = "ppo"
    penalty: float = 0.0
    trace: float = 1.0
    clip: float | None = None
    mask: float | None = None
    control_variate: bool = True
    beta: float = 0.1
    sharpness: float = 4.0
    dispersion: float | None = None
    epochs: int | None = None
    minibatches: int | None = None
    chunks: int | Literal["auto"] = 1
    old: Literal["scored", "rollout"] | None = None
    per_step: bool = True
    average_decay: float = 0.0

    @property
    def has_value(self) -> bool:
        """Whether a value network can be learned."""
        return self.algorithm in WITH_VALUE

    @property
    def passes(self) -> int:
        """Passes over a batch."""
        return self.epochs if self.epochs is not None else 5 if self.of_pairs else 1

    @property
    def of_pairs(self) -> bool:
        """Whether trajectories are drawn two by two."""
        return self.algorithm in OF_PAIRS

    @property
    def cut(self) -> int:
        """Chunks, 1 as long as they are to be found."""
        return 1 if self.chunks == "auto" else self.chunks

    def validate(self) -> None:
        """Raise ValueError for an option out of range, or one that the algorithm ignores."""
        if self.epochs is not None:
            check_count("epochs", self.epochs)
        if self.chunks != "auto":
            check_count("chunks", self.chunks)
        if self.minibatches is not None:
            check_count("minibatches", self.minibatches)
        check_non_negative("penalty", self.penalty)
        check_fields(self, check_positive, "beta", "sharpness")
        for name in ("clip", "mask", "dispersion"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))
        check_fraction("trace", self.trace)
        if self.dispersion is not None:
            check_fraction("dispersion", self.dispersion)
        check_decay("average_decay", self.average_decay)
        for name, takers in _TAKERS.items():
            if self.algorithm not in takers:
                repair = f"leave it out, or take --algorithm {'|'.join(takers)}"
                check_unused(self, [name], f"{self.algorithm} does not use it", repair)
        if self.clip is not None and self.mask is not None:
            rule = "it stands in the place of --clip"
            raise refuse("mask", self.mask, rule, "leave one of the two out")

    def check_steps(self, steps: int) -> None:
        """Raise ValueError unless minibatches and chunks divide the steps that are learned from."""
        if not self.of_pairs and steps % (self.pieces(steps) * self.cut):
            rule = f"together they must divide the {steps} solver steps that are learned from"
            given = (self.minibatches, self.chunks)
            raise refuse("minibatches and chunks", given, rule, "choose divisors")

    def pieces(self, steps: int) -> int:
        """Return the optimizer steps per pass over so many solver steps."""
        if self.of_pairs:
            return 1
        if self.minibatches is not None:
            return self.minibatches
        return max(d for d in range(1, 6) if steps // self.cut % d == 0)
