"""Options of `experiments.consistency`."""

import dataclasses
from typing import Literal

from ctrl_jax._checks import (
    check_count,
    check_decay,
    check_distinct,
    check_fields,
    check_positive,
    refuse,
)
from experiments.options import COMMON, Common

Data = Literal["swiss_roll", "digits"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Distil or train consistency models and compare them with DDIM, step for step.

    Source: arXiv 2303.01469; 2402.07487, section 5. The default takes 290 seconds of CPU time (two
    cores share them): for each data set it trains a score model, distils it, trains a consistency
    model from data alone, and draws samples in 1, 2, 4 and 8 evaluations of the network. Expected:
    both consistency models in one evaluation are closer to the data than DDIM in one and in two.

    Args:
        data: data sets: a Swiss roll in the plane, the 8x8 digits of scikit-learn.
        evaluations: numbers of network evaluations per sample.
        pretraining_steps: updates of the score model.
        batch: examples per update.
        pretraining_learning_rate: peak step size of the score model.
        learning_rate: peak step size of the consistency models; --steps sets their updates, 3000 by
            default.
        schedule: course of the step sizes, after a short warm-up.
        gradient_clip: largest norm of a gradient.
        average_decay: decay per update of the moving averages that are kept.
        target_decay: decay per update of the target network; 0 takes the model itself.
        first_levels: noise levels at the start of consistency training.
        doublings: how often the number of levels doubles.
        huber: constant of the robust distance, per root of the dimension.
        width: hidden size of the networks.
        depth: blocks of the networks.
        samples: samples per number of evaluations, rounded up to as many whole sets as are compared
            at a time.
        run: the common options.
    """

    data: tuple[Data, ...] = ("swiss_roll", "digits")
    evaluations: tuple[int, ...] = (1, 2, 4, 8)
    pretraining_steps: int = 3000
    batch: int = 256
    pretraining_learning_rate: float = 2e-3
    learning_rate: float = 1e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    gradient_clip: float = 1.0
    average_decay: float = 0.998
    target_decay: float = 0.0
    first_levels: int = 10
    doublings: int = 4
    huber: float = 1e-3
    width: int = 192
    depth: int = 2
    samples: int = 8192
    run: Common = COMMON

    def updates(self) -> int:
        """Return the updates of each consistency model."""
        return self.run.steps or 3000

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        counts = ("pretraining_steps", "batch", "first_levels", "width", "depth")
        check_fields(self, check_count, *counts)
        check_count("doublings", self.doublings, least=0)
        check_count("samples", self.samples, least=64)
        sizes = ("pretraining_learning_rate", "learning_rate", "gradient_clip", "huber")
        check_fields(self, check_positive, *sizes)
        check_fields(self, check_decay, "average_decay", "target_decay")
        check_distinct("data", self.data)
        if not self.evaluations or sorted(set(self.evaluations)) != list(self.evaluations):
            raise refuse("evaluations", self.evaluations, "they must increase", "give 1 2 4 8")
        check_count("evaluations", self.evaluations[0])
        if self.run.resume == "strict":
            rule = "stages are found again by their options, not compared"
            raise refuse("resume", self.run.resume, rule, "use --resume latest")
