r"""NCSN++ and DDPM++, the U-Nets of Song et al. (2011.13456, appendix H).

At each resolution `blocks` residual blocks go down and `blocks + 1` come back up, each of the
latter joined to a feature map of the former; attention at chosen resolutions and in the middle.
The two differ in:

    NCSN++   Fourier embedding of log std; the image itself, halved again and again, is added on the
             way down ("progressive input, residual").
    DDPM++   positional embedding of the time; no progressive input.

`key` is the randomness of dropout: with None, as in sampling, there is none.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ctrl_jax._checks import (
    check_choice,
    check_count,
    check_fields,
    check_finite,
    check_positive,
    refuse,
)
from ctrl_jax.networks.layers.convolution import Convolution
from ctrl_jax.networks.layers.dropout import key_stream
from ctrl_jax.networks.layers.linear import ZERO
from ctrl_jax.networks.layers.noise_embedding import SPREAD, NoiseEmbedding
from ctrl_jax.networks.layers.resampling import TAPS, check_taps
from ctrl_jax.networks.score.residual_blocks import group_norm
from ctrl_jax.networks.score.resolution_levels import DownLevel, LevelSizes, Middle, UpLevel


@dataclasses.dataclass(frozen=True)
class NCSNppConfig:
    """Sizes of the network; the defaults are NCSN++ for CIFAR-10, 62.8 M parameters.

    Args:
        width: channels at full resolution (nf), an even number of at least 4.
        multipliers: channels at each resolution, as multiples of the width; each is half the one
            before.
        blocks: residual blocks at each resolution on the way down.
        attention: heights, in pixels, of the resolutions that have attention.
        dropout: probability with which training drops a feature.
        fourier_scale: standard deviation of the Fourier frequencies; None for the positional
            embedding.
        progressive_input: whether the halved image is added at each resolution.
        taps: filter of the resampling along one axis, up to a factor.
    """

    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    dropout: float = 0.1
    fourier_scale: float | None = 16.0
    progressive_input: Literal["residual", "none"] = "residual"
    taps: tuple[float, float, float, float] = TAPS

    def validate(self) -> None:
        """Raise ValueError for a size out of range."""
        check_count("width", self.width)
        check_fields(self, check_count, "multipliers")
        if self.width < 4 or self.width % 2:
            raise refuse("width", self.width, "it must be even and at least 4", "give e.g. 32")
        if not self.multipliers or min(self.multipliers) < 1:
            rule = "there must be at least one, all positive"
            raise refuse("multipliers", self.multipliers, rule, "give e.g. (1, 2)")
        for multiplier in self.multipliers:
            channels = self.width * multiplier
            check_count("width x multiplier", channels)
            if channels % max(min(channels // 4, 32), 1):
                rule = "its min(channels // 4, 32) groups must divide it"
                repair = "give a multiple of 4, of 32 from 128 on"
                raise refuse("width x multiplier", channels, rule, repair)
        check_count("blocks", self.blocks)
        if not 0 <= check_finite("dropout", self.dropout) < 1:
            raise refuse("dropout", self.dropout, "it must lie in [0, 1)", "give e.g. 0.1")
        if self.fourier_scale is not None:
            check_positive("fourier_scale", self.fourier_scale)
        check_choice("progressive_input", self.progressive_input, ("residual", "none"))
        check_taps(self.taps)

    def __post_init__(self):
        self.validate()


NCSNPP = NCSNppConfig()
DDPMPP = NCSNppConfig(fourier_scale=None, progressive_input="none")


class NCSNpp(nnx.Module):
    """The U-Net of `config`; its output starts at zero.

    Args:
        shape: (height, width, channels) of one image.
        config: sizes.
        dtype: type of the arithmetic; that of parameters and inputs by default.
        rngs: random streams.

    Raises:
        ValueError: the halvings do not divide the image, or no resolution has a height of
            `config.attention`.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        config: NCSNppConfig = NCSNPP,
        *,
        dtype: jnp.dtype | None = None,
        rngs: nnx.Rngs,
    ):
        heights = _heights(shape, config)
        width, options = config.width, {"dtype": dtype, "rngs": rngs}
        sizes = LevelSizes(config.blocks, 4 * width, config.dropout, config.taps)
        channels = [width * multiplier for multiplier in config.multipliers]
        self.embedding = NoiseEmbedding(width, fourier_scale=config.fourier_scale, **options)
        self.enter = Convolution(shape[2], width, kernel_init=SPREAD, **options)
        pyramid = shape[2] if config.progressive_input == "residual" else None
        down, across = [], [width]
        for level, (height, outputs) in enumerate(zip(heights, channels, strict=True)):
            attends = height in config.attention
            inputs, halves = across[-1], level > 0
            down.append(
                DownLevel(inputs, outputs, sizes, halves, pyramid, attends=attends, **options)
            )
            across += down[-1].channels
            pyramid = inputs if halves and pyramid is not None else pyramid
        self.down = nnx.List(down)
        self.middle = Middle(channels[-1], sizes, **options)
        up, inputs = [], channels[-1]
        for level, outputs in reversed(list(enumerate(channels))):
            joined = [across.pop() for _ in range(config.blocks + 1)]
            attends, doubles = heights[level] in config.attention, level > 0
            up.append(UpLevel(inputs, outputs, joined, sizes, doubles, attends=attends, **options))
            inputs = outputs
        self.up = nnx.List(up)
        self.norm = group_norm(width * config.multipliers[0], **options)
        self.leave = Convolution(channels[0], shape[2], kernel_init=ZERO, **options)

    def __call__(
        self, u: Array, x: Float[Array, "batch h w c"], *, key: Array | None = None
    ) -> Float[Array, "batch h w c"]:
        """Return an array of x's shape.

        Args:
            u: what the embedding sees, shape () or (batch,): log std for NCSN++, the time counted
                from 0 to 999 for DDPM++.
            x: noisy images.
            key: PRNG key of the dropout; None for none.
        """
        embedding, keys = self.embedding(u), key_stream(key)
        across, pyramid = [self.enter(x)], x
        for level in self.down:
            found, pyramid = level(across[-1], pyramid, embedding, keys)
            across += found
        h = self.middle(across[-1], embedding, keys)
        for level in self.up:
            h = level(h, across, embedding, keys)
        return self.leave(jax.nn.silu(self.norm(h)))


def _heights(shape: tuple[int, int, int], config: NCSNppConfig) -> list[int]:
    """Return the height of each resolution."""
    factor = 2 ** (len(config.multipliers) - 1)
    if shape[0] % factor or shape[1] % factor:
        rule = f"{len(config.multipliers)} resolutions need height and width that {factor} divides"
        raise refuse("NCSNpp.shape", shape, rule, "give fewer multipliers")
    heights = [shape[0] >> level for level in range(len(config.multipliers))]
    if unknown := sorted(set(config.attention) - set(heights)):
        raise refuse("attention", unknown, f"heights are {heights}", "give some of them")
    return heights
