"""What a multimodal diffusion transformer is made of."""

import dataclasses
from typing import Literal

from ctrl_jax._checks import check_choice, check_count, refuse


@dataclasses.dataclass(frozen=True)
class MMDiTConfig:
    """The shape of an `MMDiT`.

    Args:
        channels: of a latent.
        out_channels: of the prediction.
        patch: height and width of a patch of the latent.
        depth: number of blocks.
        heads: of the attention.
        head_width: size of a head; a multiple of 4 in all.
        text_width: size of a token of the text.
        pooled_width: size of the vector that stands for the whole text.
        places: most patches in a row or a column of a latent.
        base: patches in a row of the latents in training, which places are measured by.
        dual: numbers of the blocks, from 0, in which patches attend to each other once more.
        query_key_norm: "rms" where every query and key is normalized; None where none is.

    Raises:
        ValueError: a size is below one, or they do not fit each other.
    """

    channels: int = 16
    out_channels: int = 16
    patch: int = 2
    depth: int = 18
    heads: int = 18
    head_width: int = 64
    text_width: int = 4096
    pooled_width: int = 2048
    places: int = 96
    base: int = 64
    dual: tuple[int, ...] = ()
    query_key_norm: Literal["rms"] | None = None

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if field.name not in ("dual", "query_key_norm"):
                check_count(f"MMDiTConfig.{field.name}", getattr(self, field.name))
        if self.width % 4:
            rule = f"with {self.heads} heads it must make a multiple of 4"
            raise refuse("MMDiTConfig.head_width", self.head_width, rule, "give e.g. 64")
        if not {*self.dual} <= {*range(self.depth)}:
            rule = f"they must be numbers of the {self.depth} blocks, from 0"
            raise refuse("MMDiTConfig.dual", self.dual, rule, "leave the others out")
        if self.query_key_norm is not None:
            check_choice("MMDiTConfig.query_key_norm", self.query_key_norm, ("rms",))

    @property
    def multiple(self) -> int:
        """What height and width of the latents must be multiples of."""
        return self.patch

    @property
    def sample_size(self) -> int:
        """Side of the latents that the model was made for."""
        return self.base * self.patch

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        return self.heads * self.head_width
