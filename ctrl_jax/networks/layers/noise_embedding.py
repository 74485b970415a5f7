r"""What a score network is told about the noise: an embedding of one number per example.

    positional (1706.03762):  [sin(u w_k), cos(u w_k)],  w_k = 10000^{-k / (n - s)}, k < n     (1)
    Fourier    (2006.10739):  [sin(2 pi u W_k), cos(2 pi u W_k)],  W_k ~ N(0, scale^2), fixed   (2)

with s = 1; some networks have another shift s, or the cosines first. Each is followed by two linear
layers. Source: Song et al. 2011.13456, appendix H: (1) of the time, counted from 0 to 999, for
DDPM++; (2) of the log of the noise's standard deviation for NCSN++.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ctrl_jax.networks.layers.linear import Linear

SPREAD = nnx.initializers.variance_scaling(1.0, "fan_avg", "uniform")


def positional_features(
    u: Float[Array, " rows"], size: int, *, shift: float = 1.0, cosines_first: bool = False
) -> Float[Array, "rows {size}"]:
    """Return (1).

    Args:
        u: numbers.
        size: how many features, an even number above 2 s.
        shift: s.
        cosines_first: whether the cosines come first.
    """
    rates = jnp.exp(-math.log(10000.0) * jnp.arange(size // 2) / (size // 2 - shift))
    angles = u[:, None] * rates[None].astype(u.dtype)
    halves = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(halves[::-1] if cosines_first else halves, axis=1)


def fourier_features(
    u: Float[Array, " rows"], frequencies: Float[Array, " n"]
) -> Float[Array, "rows 2*n"]:
    """Return (2), in which no gradient flows to the frequencies."""
    angles = 2 * jnp.pi * u[:, None] * jax.lax.stop_gradient(frequencies)[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)


class NoiseEmbedding(nnx.Module):
    """Embeds one number per example in a vector of 4 * width.

    Args:
        width: channels of the network, an even number of at least 4.
        fourier_scale: standard deviation of the frequencies of (2); None for (1).
        dtype: type of the arithmetic after the features; the parameters' by default.
        rngs: random streams.
    """

    def __init__(
        self,
        width: int,
        *,
        fourier_scale: float | None,
        dtype: jnp.dtype | None = None,
        rngs: nnx.Rngs,
    ):
        self.width = width
        # Kept among the parameters, so that a checkpoint holds them; no gradient reaches them.
        self.frequencies = None
        if fourier_scale is not None:
            frequencies = fourier_scale * jax.random.normal(rngs.params(), (width,))
            self.frequencies = nnx.data(nnx.Param(frequencies))
        features = width if fourier_scale is None else 2 * width
        options = {"kernel_init": SPREAD, "dtype": dtype, "rngs": rngs}
        self.hidden = Linear(features, 4 * width, **options)
        self.out = Linear(4 * width, 4 * width, **options)

    def __call__(self, u: Array) -> Float[Array, "rows embedding"]:
        """Return one row per number; one for all where u is a scalar."""
        u = jnp.reshape(u, (-1,))
        u = u.astype(jnp.promote_types(u.dtype, jnp.float32))  # angles need their digits
        if self.frequencies is None:
            features = positional_features(u, self.width)
        else:
            features = fourier_features(u, self.frequencies[...])
        return self.out(jax.nn.silu(self.hidden(features)))
