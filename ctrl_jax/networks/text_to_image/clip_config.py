"""What the towers of CLIP (2103.00020) are made of: one for texts, one for pictures."""

import dataclasses
from typing import Literal

from ctrl_jax._checks import check_annotated, check_choice, refuse

Activation = Literal["quick_gelu", "gelu"]
ACTIVATIONS = ("quick_gelu", "gelu")


@dataclasses.dataclass(frozen=True)
class CLIPTextConfig:
    """The tower of texts.

    Args:
        vocabulary: number of tokens.
        width: size of a hidden state.
        depth: number of blocks.
        heads: of the attention; they divide the width.
        hidden: size inside the feed-forward network.
        positions: most tokens of a text.
        activation: of the feed-forward network; quick_gelu is x sigmoid(1.702 x).
        epsilon: added to the variance in every normalization.
        end: the token whose state stands for the text, where it first occurs; None for the largest
            token of each text, as in files from before this token was written down.
        projection: size of the text's embedding; None for none.

    Raises:
        ValueError: a size is below one, or heads do not divide the width.
    """

    vocabulary: int = 49408
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    positions: int = 77
    activation: Activation = "quick_gelu"
    epsilon: float = 1e-5
    end: int | None = 49407
    projection: int | None = None

    def __post_init__(self):
        check_tower(self, "CLIPTextConfig")


@dataclasses.dataclass(frozen=True)
class CLIPVisionConfig:
    """The tower of pictures.

    Args:
        image: height and width of a picture.
        patch: height and width of a patch; it divides them.
        channels: of a picture.
        width: size of a hidden state.
        depth: number of blocks.
        heads: of the attention; they divide the width.
        hidden: size inside the feed-forward network.
        activation: of the feed-forward network; quick_gelu is x sigmoid(1.702 x).
        epsilon: added to the variance in every normalization.
        projection: size of the picture's embedding; None for none.

    Raises:
        ValueError: a size is below one, or heads or patch do not divide.
    """

    image: int = 224
    patch: int = 32
    channels: int = 3
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    activation: Activation = "quick_gelu"
    epsilon: float = 1e-5
    projection: int | None = None

    def __post_init__(self):
        check_tower(self, "CLIPVisionConfig")
        if self.image % self.patch:
            rule = f"it must divide the picture's side {self.image}"
            raise refuse("CLIPVisionConfig.patch", self.patch, rule, "give a divisor")

    @property
    def places(self) -> int:
        """How many patches there are, and the class token."""
        return (self.image // self.patch) ** 2 + 1


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """Both towers, and how similar an embedding of one is to an embedding of the other.

    Args:
        text: the tower of texts, with a projection.
        vision: the tower of pictures, with a projection of the same size.
        log_scale: logarithm of what cosines are multiplied by, in a fresh model.

    Raises:
        ValueError: the projections differ, or there is none.
    """

    text: CLIPTextConfig
    vision: CLIPVisionConfig
    log_scale: float = 2.6592

    def __post_init__(self):
        if self.text.projection is None or self.text.projection != self.vision.projection:
            rule = f"it must be that of the pictures, {self.vision.projection}"
            repair = "give both towers one projection"
            raise refuse("CLIPConfig.text.projection", self.text.projection, rule, repair)


def check_tower(config: CLIPTextConfig | CLIPVisionConfig, owner: str) -> None:
    """Raise ValueError, about "owner.field", unless a tower can be made."""
    check_choice(f"{owner}.activation", config.activation, ACTIVATIONS)
    check_annotated(config, owner)
    if config.width % config.heads:
        rule = f"they must divide the width {config.width}"
        raise refuse(f"{owner}.heads", config.heads, rule, "give a divisor")
