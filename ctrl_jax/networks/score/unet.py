"""A small convolutional UNet (1505.04597, with the residual blocks of 2006.11239)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ctrl_jax._checks import refuse
from ctrl_jax.networks.layers.convolution import Convolution
from ctrl_jax.networks.layers.linear import ZERO, Conditioning, Linear, check_sizes, normalize


class Residual(nnx.Module):
    """Two convolutions around a modulation by the conditioning; the second starts at zero."""

    def __init__(self, inputs: int, outputs: int, embedding: int, *, dtype=None, rngs: nnx.Rngs):
        self.first = Convolution(inputs, outputs, dtype=dtype, rngs=rngs)
        self.modulation = Linear(embedding, 2 * outputs, dtype=dtype, rngs=rngs)
        self.second = Convolution(outputs, outputs, kernel_init=ZERO, dtype=dtype, rngs=rngs)
        same = inputs == outputs
        self.skip = None if same else Linear(inputs, outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, condition: Array) -> Array:
        """Apply the block to (batch, h, w, inputs), conditioned by (batch or 1, embedding)."""
        modulation = self.modulation(condition)[:, None, None, :]
        shift, scale = jnp.split(modulation, 2, axis=-1)
        hidden = normalize(self.first(jax.nn.silu(x))) * (1 + scale) + shift
        return (x if self.skip is None else self.skip(x)) + self.second(jax.nn.silu(hidden))


class UNet(nnx.Module):
    """Residual blocks at halving resolutions and back, joined across; its output starts at zero.

    Args:
        shape: (height, width, channels) of one image.
        width: channels at full resolution; they double with each halving.
        levels: number of resolutions; 2**(levels - 1) divides height and width.
        embedding: size of the embedding of time and label.
        horizon: T of the process.
        classes: number of class labels; 0 for none.
        dtype: type of the arithmetic; that of parameters and inputs by default.
        rngs: random streams.

    Raises:
        ValueError: `levels` is less than 1, or the halvings do not divide the image.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        width: int = 32,
        levels: int = 2,
        embedding: int = 64,
        horizon: float = 1.0,
        classes: int = 0,
        dtype: jnp.dtype | None = None,
        rngs: nnx.Rngs,
    ):
        check_sizes(
            "UNet",
            shape,
            3,
            width=width,
            levels=levels,
            embedding=embedding,
            horizon=horizon,
            classes=classes,
        )
        rows, columns, channels = shape
        if rows % 2 ** (levels - 1) or columns % 2 ** (levels - 1):
            rule = f"2**(levels - 1) must divide the image {shape[:2]}"
            raise refuse("UNet.levels", levels, rule, "give fewer")
        widths = [width * 2**level for level in range(levels)]

        def residual(inputs: int, outputs: int) -> Residual:
            return Residual(inputs, outputs, embedding, dtype=dtype, rngs=rngs)

        self.condition = Conditioning(
            embedding, horizon=horizon, classes=classes, dtype=dtype, rngs=rngs
        )
        self.enter = Convolution(channels, width, dtype=dtype, rngs=rngs)
        self.down = nnx.List(map(residual, [width, *widths[:-1]], widths))
        self.middle = residual(widths[-1], widths[-1])
        self.up = nnx.List([residual(2 * w, max(w // 2, width)) for w in reversed(widths)])
        self.leave = Convolution(width, channels, kernel_init=ZERO, dtype=dtype, rngs=rngs)

    def __call__(self, t: Array, x: Float[Array, "batch h w c"], *conditions: Array) -> Array:
        """Return an array of x's shape."""
        condition = self.condition(t, *conditions)
        hidden, across = self.enter(x), []
        for level, block in enumerate(self.down):
            hidden = block(_halve(hidden) if level else hidden, condition)
            across.append(hidden)
        hidden = self.middle(hidden, condition)
        for level, block in enumerate(self.up):
            hidden = _double(hidden) if level else hidden
            hidden = block(jnp.concatenate([hidden, across.pop()], axis=-1), condition)
        return self.leave(jax.nn.silu(normalize(hidden)))


def _halve(x: Array) -> Array:
    """Return the means of 2 x 2 squares."""
    batch, rows, columns, channels = x.shape
    return x.reshape(batch, rows // 2, 2, columns // 2, 2, channels).mean(axis=(2, 4))


def _double(x: Array) -> Array:
    """Repeat every pixel 2 x 2 times."""
    batch, rows, columns, channels = x.shape
    spread = jnp.broadcast_to(x[:, :, None, :, None, :], (batch, rows, 2, columns, 2, channels))
    return spread.reshape(batch, 2 * rows, 2 * columns, channels)
