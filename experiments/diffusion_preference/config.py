"""Options of `experiments.diffusion_preference`."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from ctrl_jax._checks import (
    check_choice,
    check_count,
    check_distinct,
    check_fields,
    check_positive,
    refuse,
)
from ctrl_jax.runtime import check_small_run
from experiments.diffusion_preference.annotators import LAWS, Law
from experiments.diffusion_preference.methods import COMPARING
from experiments.diffusion_preference.training import Name, Training, names_of
from experiments.diffusion_preference.world import Trained
from experiments.options import COMMON, Common

PPO = ("ppo", "ppo_gold")
METHODS = (*COMPARING, *PPO)
PARTS = ("online", "offline", "exact")


class Rates(NamedTuple):
    """Peak step sizes of each way of learning."""

    online: float
    ppo: float
    offline: float


RATES = {"steering": Rates(0.01, 3e-3, 0.01), "network": Rates(1e-4, 3e-4, 1e-4)}


@dataclasses.dataclass(frozen=True)
class Config:
    """Fine-tune a diffusion model from comparisons, with annotators who divide on half the classes.

    Source: arXiv 2405.14953, on the paths of a diffusion model. On 2 CPU cores the default takes
    some minutes. Expected: every claim of results.json has a verdict; W2 to the known optimum is
    below 0.05 for DPO and both Mallows losses.

    Args:
        parts: online: own paths, beside PPO; offline: pairs of real images; exact: a Gaussian with
            a quadratic reward, whose optimum is known.
        methods: which of dpo, theta, phi, phi_estimated, and online ppo (a reward learned from as
            many comparisons) and ppo_gold (the gold reward of every path).
        trained: steering: an image for each class and time is added to the score; network: all
            weights, which the classes share, so that the divided ones disturb the others.
        law: whose distance the annotators' rankings scatter by.
        agreed: dispersion phi of the classes on which people agree, in (0, 1).
        divided: dispersion phi of the others, in (0, 1).
        ranks: ranks in the consensus per standard deviation of the reward.
        temperatures: tilts e^{R / temperature} that are aimed at where people agree.
        seeds: independent runs, each with its own half of the classes, trained together.
        solver_steps: steps of the sampler, in training and after.
        samples: samples of each class that a run is measured on.
        base_samples: samples of each class of the base model behind the reward's scale and the
            ideal frontier.
        snapshots: measurements in the course of online training, each on an eighth of the samples.
        exact_updates: updates on that Gaussian.
        training: budgets and settings of every method.
        run: the common options.
    """

    parts: tuple[str, ...] = PARTS
    methods: tuple[str, ...] = (*COMPARING, "ppo")
    trained: Trained = "steering"
    law: Law = "kendall"
    agreed: float = 0.2
    divided: float = 0.9
    ranks: float = 2.0
    temperatures: tuple[float, ...] = (0.5, 1.0, 2.0)
    seeds: int = 3
    solver_steps: int = 10
    samples: int = 400
    base_samples: int = 4000
    snapshots: int = 5
    exact_updates: int = 400
    training: Training = dataclasses.field(default_factory=Training)

    run: Common = COMMON

    def names(self, methods: Sequence[str]) -> list[Name]:
        """Return the runs of those of the methods that were asked for."""
        asked = [m for m in methods if m in self.methods]
        return names_of(asked, self.temperatures, self.seeds)

    def rates(self) -> Rates:
        """Return the peak step sizes."""
        own = RATES[self.trained]
        asked = (self.training.rate, self.training.ppo_rate, self.training.offline_rate)
        return Rates(*(d if a is None else a for a, d in zip(asked, own, strict=True)))

    def budget(self) -> Training:
        """Return the training with the updates asked for."""
        updates = self.run.steps or self.training.updates
        return dataclasses.replace(self.training, updates=updates)

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        for name, choices in (("parts", PARTS), ("methods", METHODS)):
            check_distinct(name, getattr(self, name))
            check_fields(self, check_choice, name, choices=choices)
        if not {*self.methods} & {*COMPARING}:
            rule = "PPO is compared with what learns from comparisons"
            raise refuse("methods", self.methods, rule, "add dpo")
        asked = self.methods != type(self)().methods
        if asked and "online" not in self.parts and {*self.methods} & {*PPO}:
            rule = "PPO is beside comparisons of own paths only"
            raise refuse("methods", self.methods, rule, "leave it out, or add online to --parts")
        check_choice("law", self.law, LAWS)
        for name in ("agreed", "divided"):
            check_positive(name, getattr(self, name))
            if getattr(self, name) >= 1:
                raise refuse(name, getattr(self, name), "it must be below 1", "give 0.9 or so")
        if self.agreed > self.divided:
            rule = "it is the dispersion of those who agree, at most that of the divided"
            raise refuse("agreed", self.agreed, rule, "exchange it with --divided")
        check_fields(self, check_positive, "ranks", "temperatures")
        check_distinct("temperatures", self.temperatures)
        check_fields(self, check_count, "seeds", "samples", "snapshots", "exact_updates")
        # The ideal frontier is told where 30 of the samples count: barely tilted, of 40.
        check_count("base_samples", self.base_samples, least=40)
        if self.base_samples < self.samples:
            rule = "every sample is compared with one of the base model"
            raise refuse("base_samples", self.base_samples, rule, "raise it to --samples")
        check_count("solver_steps", self.solver_steps)
        if self.solver_steps % 5:
            rule = "it must be a multiple of 5, for the minibatches of PPO"
            raise refuse("solver_steps", self.solver_steps, rule, "give 10")
        self.budget().validate()
        check_small_run(self.run)
