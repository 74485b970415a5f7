"""Normalizations with weights, in float32 at least, of the result's own dtype.

With m and v the mean and the variance over a layer's axes, y = (x - m) / sqrt(v + epsilon) times a
scale plus a bias; a root-mean-square normalization leaves m out and divides by the mean of squares.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from ctrl_jax.networks.layers.linear import at_least_single


class LayerNorm(nnx.Module):
    """Layer normalization of the last axis.

    Args:
        width: size of the last axis.
        epsilon: added to the variance.
        affine: whether there are a scale and a bias.
        param_dtype: of fresh parameters.
    """

    def __init__(
        self, width: int, *, epsilon: float = 1e-5, affine: bool = True, param_dtype=jnp.float32
    ):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(width, param_dtype)) if affine else None
        self.bias = nnx.Param(jnp.zeros(width, param_dtype)) if affine else None

    def __call__(self, x: Array) -> Array:
        """Return x normalized, in its own dtype."""
        y = x.astype(at_least_single(x.dtype))
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = _over_root(y, self.epsilon)
        if self.scale is not None and self.bias is not None:
            y = _times(y, self.scale) + _along(self.bias, y)
        return y.astype(x.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square normalization of the last axis.

    Args:
        width: size of the last axis.
        epsilon: added to the mean of squares.
        param_dtype: of fresh parameters.
    """

    def __init__(self, width: int, *, epsilon: float = 1e-6, param_dtype=jnp.float32):
        self.epsilon = epsilon
        self.scale = nnx.Param(jnp.ones(width, param_dtype))

    def __call__(self, x: Array) -> Array:
        """Return x normalized, in its own dtype."""
        y = _over_root(x.astype(at_least_single(x.dtype)), self.epsilon)
        return _times(y, self.scale).astype(x.dtype)


class GroupNorm(nnx.Module):
    """Normalization of pictures over height, width and the channels of each group.

    Args:
        channels: of the pictures.
        groups: of channels; must divide them.
        epsilon: added to the variance.
        param_dtype: of fresh parameters.
    """

    def __init__(
        self, channels: int, *, groups: int = 32, epsilon: float = 1e-5, param_dtype=jnp.float32
    ):
        self.groups, self.epsilon = groups, epsilon
        self.scale = nnx.Param(jnp.ones(channels, param_dtype))
        self.bias = nnx.Param(jnp.zeros(channels, param_dtype))

    def __call__(self, x: Array) -> Array:
        """Return pictures (batch, h, w, channels) normalized, in their own dtype."""
        y = x.astype(at_least_single(x.dtype))
        y = y.reshape(x.shape[0], -1, self.groups, x.shape[-1] // self.groups)
        y = y - jnp.mean(y, axis=(1, 3), keepdims=True)
        y = _over_root(y, self.epsilon, (1, 3)).reshape(x.shape)
        return (_times(y, self.scale) + _along(self.bias, y)).astype(x.dtype)


def _over_root(y: Array, epsilon: float, axes: int | tuple[int, ...] = -1) -> Array:
    return y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=axes, keepdims=True) + epsilon)


def _times(y: Array, scale: nnx.Param) -> Array:
    return y * _along(scale, y)


def _along(parameter: nnx.Param, y: Array) -> Array:
    return parameter[...].astype(y.dtype)[(None,) * (y.ndim - 1)]
