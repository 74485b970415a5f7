"""Residual multilayer perceptrons with adaptive normalization: small, and fast on any device."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ctrl_jax._checks import check_count
from ctrl_jax.networks.layers.linear import ZERO, Conditioning, Linear, check_sizes, normalize


class Block(nnx.Module):
    """x + gate * W silu(U (scale * norm(x) + shift)), modulated by the conditioning."""

    def __init__(self, width: int, embedding: int, *, dtype=None, rngs: nnx.Rngs):
        self.modulation = Linear(embedding, 3 * width, kernel_init=ZERO, dtype=dtype, rngs=rngs)
        self.hidden = Linear(width, width, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, condition: Array) -> Array:
        """Apply the block to (batch, width), conditioned by (batch or 1, embedding)."""
        shift, scale, gate = jnp.split(self.modulation(condition), 3, axis=-1)
        hidden = self.hidden(normalize(x) * (1 + scale) + shift)
        return x + (1 + gate) * self.out(jax.nn.silu(hidden))


class MLP(nnx.Module):
    """A network of t, x and an optional class label; its output starts at zero.

    Args:
        shape: shape of one example.
        width: hidden size.
        embedding: size of the embedding of time and label.
        depth: number of residual blocks.
        out: size of the output; None for an output of the shape of x.
        horizon: T of the process.
        classes: number of class labels; 0 for none.
        dtype: type of the arithmetic; that of parameters and inputs by default.
        rngs: random streams.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        width: int = 128,
        depth: int = 2,
        embedding: int = 64,
        out: int | None = None,
        horizon: float = 1.0,
        classes: int = 0,
        dtype: jnp.dtype | None = None,
        rngs: nnx.Rngs,
    ):
        check_sizes(
            "MLP", shape, width=width, embedding=embedding, horizon=horizon, classes=classes
        )
        check_count("MLP.depth", depth, least=0)
        if out is not None:
            check_count("MLP.out", out)
        size = math.prod(shape)
        self.out = out
        self.condition = Conditioning(
            embedding, horizon=horizon, classes=classes, dtype=dtype, rngs=rngs
        )
        self.enter = Linear(size, width, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List(
            [Block(width, embedding, dtype=dtype, rngs=rngs) for _ in range(depth)]
        )
        self.leave = Linear(width, out or size, kernel_init=ZERO, dtype=dtype, rngs=rngs)

    def __call__(self, t: Array, x: Float[Array, "batch ..."], *conditions: Array) -> Array:
        """Return an array of x's shape, or (batch, out)."""
        batch = x.shape[0]
        condition = self.condition(t, *conditions)
        hidden = self.enter(x.reshape(batch, -1))
        for block in self.blocks:
            hidden = block(hidden, condition)
        result = self.leave(normalize(hidden))
        return result.reshape(x.shape) if self.out is None else result
