"""Options of `experiments.text_to_image`."""

import dataclasses

from ctrl_jax._checks import check_choice, check_path
from experiments.options import COMMON, Common, check_replicated
from experiments.text_to_image.autoencoder import Autoencoder
from experiments.text_to_image.generator import Generator
from experiments.text_to_image.things import Kind
from experiments.text_to_image.towers import Towers
from experiments.text_to_image.training import Training


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
        run: the common options.
    """

    things: Kind = "emoji"
    cache: str = "runs/pretrained"
    detector: Training = dataclasses.field(default_factory=lambda: Training(steps=1200))
    towers: Towers = dataclasses.field(default_factory=Towers)
    autoencoder: Autoencoder = dataclasses.field(default_factory=Autoencoder)
    generator: Generator = dataclasses.field(default_factory=Generator)
    run: Common = COMMON

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_choice("things", self.things, ("emoji", "shapes"))
        check_path("cache", self.cache)
        self.detector.check("detector")
        for part in (self.towers, self.autoencoder, self.generator, self.run):
            part.validate()
        check_replicated(self.run)
