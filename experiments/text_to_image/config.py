"""Options of `experiments.text_to_image`."""

import dataclasses

from ctrl_jax._checks import (
    check_choice,
    check_count,
    check_fields,
    check_path,
    check_positive,
    check_unused,
    refuse,
)
from experiments.options import COMMON, Common
from experiments.text_to_image.autoencoder import Autoencoder
from experiments.text_to_image.fine_tuning import ON_PROXY, ON_VERDICTS, Algorithm, FineTuning
from experiments.text_to_image.generator import Generator
from experiments.text_to_image.things import Kind
from experiments.text_to_image.towers import Towers
from experiments.text_to_image.training import Training

FLAGS = {
    "fine_tuning": "neither --compare nor --over-optimize",
    "compared": "--compare too",
    "proxied": "--over-optimize too",
}
"""What asks for each of the fine-tunings."""

COMPARED: tuple[Algorithm, ...] = ("ppo", "grpo", "ddpo")


@dataclasses.dataclass(frozen=True)
class Config:
    """Build a small text-to-image model without a download, and fine-tune it from rewards.

    Args:
        things: emoji of OpenMoji, for which the extra `emoji` is installed, or plain shapes.
        cache: folder where what the stages make is kept for later runs.
        detector: training of the gold measure.
        towers: of texts and pictures, the proxy.
        autoencoder: between pictures and latents.
        generator: of latents from captions.
        fine_tuning: of the generator.
        evaluation_pictures: of every caption, before and after.
        frontier_pictures: of each caption of the command's evaluations, which the ideal rests on.
        compare: fine-tune by ppo, grpo and ddpo at equal queries instead, over several seeds.
        compared: the fine-tuning of each of these.
        seeds: of the comparison.
        over_optimize: fine-tune from CLIP score without a penalty and with one instead.
        proxied: that fine-tuning; its penalty is that of the second run.
        run: the common options.
    """

    things: Kind = "emoji"
    cache: str = "runs/pretrained"
    detector: Training = dataclasses.field(default_factory=lambda: Training(steps=1200))
    towers: Towers = dataclasses.field(default_factory=Towers)
    autoencoder: Autoencoder = dataclasses.field(default_factory=Autoencoder)
    generator: Generator = dataclasses.field(default_factory=Generator)
    fine_tuning: FineTuning = dataclasses.field(default_factory=FineTuning)
    evaluation_pictures: int = 8
    frontier_pictures: int = 128
    compare: bool = False
    compared: FineTuning = ON_VERDICTS
    seeds: int = 1
    over_optimize: bool = False
    proxied: FineTuning = ON_PROXY
    run: Common = COMMON

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_choice("things", self.things, ("emoji", "shapes"))
        check_path("cache", self.cache)
        check_fields(self, check_count, "evaluation_pictures", "frontier_pictures", "seeds")
        if self.seeds > 1 and not self.compare:
            rule = "one run has one seed, --seed"
            raise refuse("seeds", self.seeds, rule, "give --compare too")
        self.detector.check("detector")
        for part in (self.towers, self.autoencoder, self.generator, self.run):
            part.validate()
        if self.compare and self.over_optimize:
            repair = "leave out --compare or --over-optimize"
            raise refuse("compare", True, "one study at a time", repair)
        for name in (name for name in FLAGS if name != self.asked):
            fields = [f"{name}.{field.name}" for field in dataclasses.fields(FineTuning)]
            repair = f"leave it out, or give {FLAGS[name]}"
            check_unused(self, fields, "another fine-tuning is asked for", repair)
        if self.over_optimize:
            _check_proxied(self.proxied)
        algorithms = COMPARED if self.compare else (self.tuning.algorithm,)
        for algorithm in algorithms:
            dataclasses.replace(self.tuning, algorithm=algorithm).check(self.asked)

    @property
    def asked(self) -> str:
        """Which of the fine-tunings is asked for."""
        if self.over_optimize:
            return "proxied"
        return "compared" if self.compare else "fine_tuning"

    @property
    def tuning(self) -> FineTuning:
        """That fine-tuning."""
        return getattr(self, self.asked)


def _check_proxied(options: FineTuning) -> None:
    check_positive("proxied.penalty", options.penalty)
    if options.reward != "proxy":
        raise refuse("proxied.reward", options.reward, "it is CLIP score", "leave it out")
    if options.algorithm == "ddpo":
        raise refuse("proxied.algorithm", "ddpo", "it has no penalty", "give another")
