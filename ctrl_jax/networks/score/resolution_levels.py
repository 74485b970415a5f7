"""One resolution of a U-Net on the way down, at the bottom, and on the way up (2011.13456)."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from ctrl_jax.networks.layers.noise_embedding import SPREAD
from ctrl_jax.networks.layers.resampling import TAPS, FilteredConvolution
from ctrl_jax.networks.score.residual_blocks import PixelAttention, ResidualBlock, join

Keys = Iterator[Array | None]


@dataclasses.dataclass(frozen=True)
class LevelSizes:
    """What all resolutions of a network share: `rate` is of the dropout, `taps` of resampling."""

    blocks: int
    embedding: int
    rate: float
    taps: Sequence[float] = TAPS

    def block(self, inputs: int, outputs: int, resample=None, **options) -> ResidualBlock:
        """Return a residual block of these sizes."""
        shared = {"rate": self.rate, "taps": self.taps, "resample": resample}
        return ResidualBlock(inputs, outputs, self.embedding, **shared, **options)


class DownLevel(nnx.Module):
    """Halves the image where asked to, then applies residual blocks.

    Args:
        inputs: channels that come in.
        outputs: channels of the blocks.
        sizes: shared by all resolutions.
        halves: whether this resolution begins with a halving.
        pyramid: channels of the progressive input that comes in; None without one.
        attends: whether each block is followed by attention.
        dtype: type of the arithmetic.
        rngs: random streams.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        sizes: LevelSizes,
        halves: bool,
        pyramid: int | None,
        *,
        attends: bool,
        dtype: jnp.dtype | None = None,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "rngs": rngs}
        self.channels = (inputs,) * halves + (outputs,) * sizes.blocks
        self.halve = sizes.block(inputs, inputs, "down", **options) if halves else None
        filtered = {"taps": sizes.taps, "kernel_init": SPREAD, **options}
        self.shrink = (
            FilteredConvolution(pyramid, inputs, **filtered)
            if halves and pyramid is not None
            else None
        )
        widths = [inputs, *[outputs] * sizes.blocks]
        self.blocks = nnx.List(
            [sizes.block(a, b, **options) for a, b in itertools.pairwise(widths)]
        )
        attention = [PixelAttention(outputs, **options) for _ in self.blocks] if attends else []
        self.attention = nnx.List(attention)

    def __call__(
        self, h: Array, pyramid: Array, embedding: Array, keys: Keys
    ) -> tuple[list[Array], Array]:
        """Return every feature map on the way, and the progressive input at this resolution."""
        found = []
        if self.halve is not None:
            h = self.halve(h, embedding, next(keys))
            if self.shrink is not None:
                h = pyramid = join(self.shrink(pyramid), h)
            found.append(h)
        for i, block in enumerate(self.blocks):
            h = block(h, embedding, next(keys))
            h = self.attention[i](h) if self.attention else h
            found.append(h)
        return found, pyramid


class Middle(nnx.Module):
    """A residual block, attention, a residual block."""

    def __init__(self, channels: int, sizes: LevelSizes, **options):
        self.first = sizes.block(channels, channels, **options)
        self.attention = PixelAttention(channels, **options)
        self.second = sizes.block(channels, channels, **options)

    def __call__(self, h: Array, embedding: Array, keys: Keys) -> Array:
        """Apply the three."""
        h = self.attention(self.first(h, embedding, next(keys)))
        return self.second(h, embedding, next(keys))


class UpLevel(nnx.Module):
    """Residual blocks joined to the feature maps of the way down, then a doubling where asked to.

    Args:
        inputs: channels that come in.
        outputs: channels of the blocks.
        joined: channels of the feature map that each block is joined to.
        sizes: shared by all resolutions.
        doubles: whether this resolution ends with a doubling.
        attends: whether the blocks are followed by attention.
        dtype: type of the arithmetic.
        rngs: random streams.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        joined: Sequence[int],
        sizes: LevelSizes,
        doubles: bool,
        *,
        attends: bool,
        dtype: jnp.dtype | None = None,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "rngs": rngs}
        widths = [inputs, *[outputs] * (len(joined) - 1)]
        self.blocks = nnx.List(
            [sizes.block(a + b, outputs, **options) for a, b in zip(widths, joined, strict=True)]
        )
        self.attention = PixelAttention(outputs, **options) if attends else None
        self.double = sizes.block(outputs, outputs, "up", **options) if doubles else None

    def __call__(self, h: Array, across: list[Array], embedding: Array, keys: Keys) -> Array:
        """Take the last feature maps off `across` and return the next h."""
        for block in self.blocks:
            h = block(jnp.concatenate([h, across.pop()], axis=-1), embedding, next(keys))
        h = h if self.attention is None else self.attention(h)
        return h if self.double is None else self.double(h, embedding, next(keys))
