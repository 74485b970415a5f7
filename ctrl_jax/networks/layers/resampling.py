r"""Resampling by two with a short filter instead of by repeating and averaging (1904.11486).

For four symmetric taps k that sum to 1 along one axis, (1, 3, 3, 1) / 8 by default, and zeros
beyond the border,

    down:  y_i = \sum_j k_j x_{2i+j-1}                                                    (1)
    up:    u_{2i} = 2 (k_0 x_{i-1} + k_2 x_i),  u_{2i+1} = 2 (k_1 x_i + k_3 x_{i+1})       (2)

along rows and then columns. Both keep constants away from the border, and up = 4 down^T. They are
written as sums of shifted arrays, which any device does well and differentiates cheaply; a
convolution of one channel at a time is slow on a CPU.
Source: Karras et al. 1912.04958, as used by Song et al. 2011.13456, appendix H.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ctrl_jax._checks import refuse

TAPS = (1.0, 3.0, 3.0, 1.0)
AXES = (1, 2)
KERNEL_INIT = nnx.initializers.lecun_normal()


def check_taps(taps: Sequence[float], name: str = "taps") -> None:
    """Raise ValueError unless `taps` are four symmetric numbers with a positive sum."""
    good = len(taps) == 4 and all(math.isfinite(tap) for tap in taps)
    if not good or tuple(taps) != tuple(taps)[::-1] or sum(taps) <= 0:
        rule = "they must be four symmetric numbers with a positive sum"
        raise refuse(name, tuple(taps), rule, "give e.g. (1, 3, 3, 1)")


def downsample(
    x: Float[Array, "batch h w c"], taps: Sequence[float] = TAPS
) -> Float[Array, "batch h//2 w//2 c"]:
    """Return images of half the height and width by (1).

    Args:
        x: images of even height and width.
        taps: the filter along one axis, up to a factor.

    Raises:
        ValueError: the height or width is odd, or the taps are not four symmetric numbers.
    """
    check_taps(taps)
    if x.shape[1] % 2 or x.shape[2] % 2:
        raise refuse("downsample.x", x.shape, "height and width must be even", "pad or crop it")
    for axis in AXES:
        x = _filter(x, taps, axis, padding=(1, 1), stride=2)
    return x


def upsample(
    x: Float[Array, "batch h w c"], taps: Sequence[float] = TAPS
) -> Float[Array, "batch 2*h 2*w c"]:
    """Return images of twice the height and width by (2).

    Args:
        x: images.
        taps: the filter along one axis, up to a factor.

    Raises:
        ValueError: the taps are not four symmetric numbers.
    """
    check_taps(taps)
    for axis in AXES:
        x = _double(x, taps, axis)
    return x


class FilteredConvolution(nnx.Module):
    """A filter, then a 3 x 3 convolution of stride 2 with bias: halves height and width."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        taps: Sequence[float] = TAPS,
        kernel_init=KERNEL_INIT,
        dtype: jnp.dtype | None = None,
        rngs: nnx.Rngs,
    ):
        check_taps(taps)
        self.taps, self.dtype = tuple(taps), dtype
        self.kernel = nnx.Param(kernel_init(rngs.params(), (3, 3, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "batch h w c"]) -> Array:
        """Return (batch, h / 2, w / 2, outputs)."""
        kernel, bias = self.kernel[...], self.bias[...]
        dtype = self.dtype or jnp.promote_types(x.dtype, kernel.dtype)
        x = x.astype(dtype)
        for axis in AXES:
            x = _filter(x, self.taps, axis, padding=(2, 2), stride=1)
        y = jax.lax.conv_general_dilated(
            x, kernel.astype(dtype), (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y + bias.astype(dtype)[None, None, None]


def _filter(x: Array, taps: Sequence[float], axis: int, padding: tuple[int, int], stride: int):
    """Return sum_j k_j x_{stride i + j - padding[0]} along one axis."""
    widths = [padding if a == axis else (0, 0) for a in range(x.ndim)]
    padded = jnp.pad(x, widths)
    last = padded.shape[axis] - len(taps) + 1
    total = sum(
        tap / sum(taps) * jax.lax.slice_in_dim(padded, j, j + last, stride, axis)
        for j, tap in enumerate(taps)
    )
    return jnp.asarray(total)


def _double(x: Array, taps: Sequence[float], axis: int) -> Array:
    widths = [(1, 1) if a == axis else (0, 0) for a in range(x.ndim)]
    padded, size = jnp.pad(x, widths), x.shape[axis]
    before, after = (jax.lax.slice_in_dim(padded, i, i + size, 1, axis) for i in (0, 2))
    k = [2 * tap / sum(taps) for tap in taps]
    pairs = jnp.stack([k[0] * before + k[2] * x, k[1] * x + k[3] * after], axis=axis + 1)
    shape = list(x.shape)
    shape[axis] *= 2
    return pairs.reshape(shape)
