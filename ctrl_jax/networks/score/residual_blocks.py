r"""Blocks of the NCSN++ and DDPM++ networks (2011.13456, appendix H; BigGAN's: 1809.11096).

A residual block of x with an embedding e, where R is up, down or nothing:

    h = conv(R(silu(norm(x)))) + W silu(e)
    h = conv_0(dropout(silu(norm(h))))                                                    (1)
    y = (skip(R(x)) + h) / sqrt(2)

conv_0 starts at zero, skip is a 1 x 1 convolution where channels or size change. The attention of
one head over all pixels of an image is joined in the same way (2).
"""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ctrl_jax.networks.layers.convolution import Convolution
from ctrl_jax.networks.layers.dropout import dropout
from ctrl_jax.networks.layers.linear import ZERO, Linear
from ctrl_jax.networks.layers.noise_embedding import SPREAD
from ctrl_jax.networks.layers.resampling import TAPS, downsample, upsample

NARROW = nnx.initializers.variance_scaling(0.1, "fan_avg", "uniform")
RESAMPLE = {"up": upsample, "down": downsample}


def group_norm(channels: int, *, dtype=None, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """Return the normalization over groups of at least four channels, at most 32 groups."""
    groups = max(min(channels // 4, 32), 1)
    # The mean is taken out before the square: E x^2 - (E x)^2 loses digits in float32.
    return nnx.GroupNorm(
        channels, num_groups=groups, epsilon=1e-6, use_fast_variance=False, dtype=dtype, rngs=rngs
    )


def join(x: Array, h: Array) -> Array:
    """Return (x + h) / sqrt(2), of variance 1 where both have it."""
    return (x + h) * math.sqrt(0.5)


class ResidualBlock(nnx.Module):
    """The block (1).

    Args:
        inputs: channels of x.
        outputs: channels of the result.
        embedding: size of e.
        resample: doubles or halves the image with the filter `taps`; None to keep its size.
        taps: of the resampling.
        rate: of the dropout.
        dtype: type of the arithmetic; that of parameters and inputs by default.
        rngs: random streams.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        *,
        resample: Literal["up", "down"] | None = None,
        taps: Sequence[float] = TAPS,
        rate: float = 0.0,
        dtype: jnp.dtype | None = None,
        rngs: nnx.Rngs,
    ):
        options = {"dtype": dtype, "rngs": rngs}
        self.resample, self.taps, self.rate = resample, tuple(taps), rate
        self.first_norm = group_norm(inputs, **options)
        self.first = Convolution(inputs, outputs, kernel_init=SPREAD, **options)
        self.shift = Linear(embedding, outputs, kernel_init=SPREAD, **options)
        self.second_norm = group_norm(outputs, **options)
        self.second = Convolution(outputs, outputs, kernel_init=ZERO, **options)
        changes = inputs != outputs or resample is not None
        self.skip = Linear(inputs, outputs, kernel_init=SPREAD, **options) if changes else None

    def __call__(
        self, x: Float[Array, "batch h w c"], embedding: Float[Array, "rows e"], key: Array | None
    ) -> Array:
        """Apply the block; one row of the embedding per example, or one for all."""
        h = jax.nn.silu(self.first_norm(x))
        if self.resample is not None:
            change = RESAMPLE[self.resample]
            h, x = change(h, self.taps), change(x, self.taps)
        h = self.first(h) + self.shift(jax.nn.silu(embedding))[:, None, None, :]
        h = dropout(jax.nn.silu(self.second_norm(h)), self.rate, key)
        return join(x if self.skip is None else self.skip(x), self.second(h))


class PixelAttention(nnx.Module):
    """Self-attention (2) of one head over the pixels of each image."""

    def __init__(self, channels: int, *, dtype: jnp.dtype | None = None, rngs: nnx.Rngs):
        self.norm = group_norm(channels, dtype=dtype, rngs=rngs)
        self.query, self.key, self.value = (
            Linear(channels, channels, kernel_init=NARROW, dtype=dtype, rngs=rngs) for _ in range(3)
        )
        self.out = Linear(channels, channels, kernel_init=ZERO, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
        """Mix the pixels."""
        batch, rows, columns, channels = x.shape
        tokens = self.norm(x).reshape(batch, rows * columns, 1, channels)
        mixed = jax.nn.dot_product_attention(
            self.query(tokens), self.key(tokens), self.value(tokens)
        )
        return join(x, self.out(mixed.reshape(x.shape)))
