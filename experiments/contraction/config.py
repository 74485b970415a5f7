"""Options of `experiments.contraction`."""

import dataclasses
from typing import Literal

from ctrl_jax._checks import (
    check_count,
    check_decay,
    check_distinct,
    check_fields,
    check_positive,
    check_unused,
    refuse,
)
from ctrl_jax.runtime import check_small_run
from experiments.options import COMMON, Common

Experiment = Literal["one_dimension", "swiss_roll", "images"]


@dataclasses.dataclass(frozen=True)
class Network:
    """The score networks of swiss_roll and images, one per process.

    Args:
        architecture: mlp, or a small diffusion transformer (images only).
        width: hidden size (a multiple of 4 for dit).
        depth: number of residual blocks.
        patch: side of a patch, in pixels (dit only).
        batch: examples per update.
        learning_rate: peak of a cosine schedule with warm-up.
        gradient_clip: largest norm of a gradient.
        average_decay: decay per update of the moving average of the weights that is sampled with.
    """

    architecture: Literal["mlp", "dit"] = "mlp"
    width: int = 64
    depth: int = 2
    patch: int = 2
    batch: int = 256
    learning_rate: float = 2e-3
    gradient_clip: float = 1.0
    average_decay: float = 0.998

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_fields(self, check_count, "width", "depth", "patch", "batch", group="network")
        check_fields(self, check_positive, "learning_rate", "gradient_clip", group="network")
        check_decay("network.average_decay", self.average_decay)


@dataclasses.dataclass(frozen=True)
class Config:
    """Do contractive diffusions end closer to the data when score and steps are imperfect?

    Source: arXiv 2401.13115. one_dimension has exact scores with errors put in, so that the bound
    of theorem 1 can be drawn beside what was measured; swiss_roll and images train a network per
    process.

    Args:
        experiment: what to run, in this order.
        solver_steps: numbers of steps of the samplers in one_dimension.
        learned_solver_steps: numbers of steps of the samplers in swiss_roll and images.
        error_size: size of the errors put into the exact score of one_dimension: absolute in the
            score's unit, in the unit of the noise, and as a fraction of the score; with both signs.
        samples: samples per seed and setting.
        seeds: seeds of the sampler in one_dimension.
        learned_seeds: networks per process in swiss_roll and images, each trained and sampled with
            its own seed.
        data: for images: a folder of png or jpg files or of MNIST's or CIFAR-10's binary files, or
            an .npz with images; 8x8 digits by default.
        network: the network and its pretraining.
        run: the common options.
    """

    experiment: tuple[Experiment, ...] = ("one_dimension", "swiss_roll")
    solver_steps: tuple[int, ...] = (25, 100, 400)
    learned_solver_steps: tuple[int, ...] = (25, 100)
    error_size: float = 0.2
    samples: int = 1024
    seeds: int = 4
    learned_seeds: int = 5
    data: str | None = None
    network: Network = dataclasses.field(default_factory=Network)
    run: Common = COMMON

    def updates(self) -> int:
        """Return the number of updates of each network."""
        return self.run.steps or 2000

    def validate(self) -> None:
        """Raise ValueError for options that do not fit together."""
        check_distinct("experiment", self.experiment)
        for name in ("solver_steps", "learned_solver_steps"):
            if not getattr(self, name):
                raise refuse(name, (), "at least one number is needed", "give 100")
        steps = ("solver_steps", "learned_solver_steps")
        check_fields(self, check_count, *steps, "seeds", "learned_seeds", least=2)
        check_positive("error_size", self.error_size)
        check_count("samples", self.samples, least=16)
        if self.data is not None and "images" not in self.experiment:
            rule = "it applies to images only"
            raise refuse("data", self.data, rule, "add --experiment images")
        if set(self.experiment) == {"one_dimension"}:
            names = ("network", "learned_seeds", "learned_solver_steps", "run.steps")
            rule = "one_dimension has exact scores and trains nothing"
            check_unused(self, names, rule, "drop it, or add --experiment swiss_roll")
        if "one_dimension" not in self.experiment:
            names = ("solver_steps", "error_size", "seeds")
            rule = "it applies to one_dimension only"
            check_unused(self, names, rule, "drop it, or add --experiment one_dimension")
        if self.network.architecture == "mlp":
            check_unused(self, ("network.patch",), "an mlp has no patches", "drop it")
        if self.network.architecture == "dit" and "swiss_roll" in self.experiment:
            rule = "a transformer over patches needs images"
            raise refuse("network.architecture", "dit", rule, "give --experiment images")
        check_small_run(self.run)
