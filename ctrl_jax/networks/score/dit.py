"""A diffusion transformer (2212.09748), small enough for a laptop."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ctrl_jax._checks import refuse
from ctrl_jax.networks.layers.linear import ZERO, Conditioning, Linear, check_sizes, normalize


class Attention(nnx.Module):
    """Multi-head self-attention over (batch, tokens, width)."""

    def __init__(self, width: int, heads: int, *, dtype=None, rngs: nnx.Rngs):
        self.heads = heads
        self.project = Linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.out = Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """Mix the tokens."""
        batch, tokens, width = x.shape
        split = self.project(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = jnp.moveaxis(split, 2, 0)
        mixed = jax.nn.dot_product_attention(query, key, value)
        return self.out(mixed.reshape(batch, tokens, width))


class Block(nnx.Module):
    """Attention and a two-layer perceptron, each modulated by the conditioning (adaLN-Zero)."""

    def __init__(self, width: int, heads: int, *, dtype=None, rngs: nnx.Rngs):
        self.modulation = Linear(width, 6 * width, kernel_init=ZERO, dtype=dtype, rngs=rngs)
        self.attention = Attention(width, heads, dtype=dtype, rngs=rngs)
        self.hidden = Linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.out = Linear(4 * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array, condition: Array) -> Array:
        """Apply the block to tokens (batch, tokens, width)."""
        parts = jnp.split(self.modulation(condition)[:, None, :], 6, axis=-1)
        shift, scale, gate, shift_2, scale_2, gate_2 = parts
        x = x + gate * self.attention(normalize(x) * (1 + scale) + shift)
        hidden = self.hidden(normalize(x) * (1 + scale_2) + shift_2)
        return x + gate_2 * self.out(jax.nn.gelu(hidden))


class DiT(nnx.Module):
    """A transformer over image patches; its output starts at zero.

    Args:
        shape: (height, width, channels) of one image.
        patch: side of a square patch; divides height and width.
        width: size of a token, a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads.
        horizon: T of the process.
        classes: number of class labels; 0 for none.
        dtype: type of the arithmetic; that of parameters and inputs by default.
        rngs: random streams.

    Raises:
        ValueError: the patch does not divide the image, or the heads the width.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        patch: int = 2,
        width: int = 64,
        depth: int = 3,
        heads: int = 4,
        horizon: float = 1.0,
        classes: int = 0,
        dtype: jnp.dtype | None = None,
        rngs: nnx.Rngs,
    ):
        check_sizes(
            "DiT",
            shape,
            3,
            width=width,
            heads=heads,
            patch=patch,
            depth=depth,
            horizon=horizon,
            classes=classes,
        )
        rows, columns, channels = shape
        if rows % patch or columns % patch:
            rule = f"it must divide the image {shape[:2]}"
            raise refuse("DiT.patch", patch, rule, "give a common divisor")
        if width % heads:
            rule = f"they must divide the width {width}"
            raise refuse("DiT.heads", heads, rule, "give a divisor")
        self.patch, self.grid = patch, (rows // patch, columns // patch)
        tokens, size = self.grid[0] * self.grid[1], patch * patch * channels
        self.condition = Conditioning(
            width, horizon=horizon, classes=classes, dtype=dtype, rngs=rngs
        )
        self.enter = Linear(size, width, dtype=dtype, rngs=rngs)
        self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (tokens, width)))
        self.blocks = nnx.List([Block(width, heads, dtype=dtype, rngs=rngs) for _ in range(depth)])
        self.modulation = Linear(width, 2 * width, kernel_init=ZERO, dtype=dtype, rngs=rngs)
        self.leave = Linear(width, size, kernel_init=ZERO, dtype=dtype, rngs=rngs)

    def __call__(self, t: Array, x: Float[Array, "batch h w c"], *conditions: Array) -> Array:
        """Return an array of x's shape."""
        condition = self.condition(t, *conditions)
        tokens = self.enter(self._to_patches(x)) + self.positions[...][None]
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = jnp.split(self.modulation(condition)[:, None, :], 2, axis=-1)
        return self._to_image(self.leave(normalize(tokens) * (1 + scale) + shift), x.shape)

    def _to_patches(self, x):
        batch, channels, p = x.shape[0], x.shape[-1], self.patch
        split = x.reshape(batch, self.grid[0], p, self.grid[1], p, channels)
        return jnp.swapaxes(split, 2, 3).reshape(batch, -1, p * p * channels)

    def _to_image(self, tokens, shape):
        batch, channels, p = shape[0], shape[-1], self.patch
        split = tokens.reshape(batch, self.grid[0], self.grid[1], p, p, channels)
        return jnp.swapaxes(split, 2, 3).reshape(shape)
