r"""Transformers whose tokens are the pixels of a picture.

With n_1, n_2, n_3 layer normalizations and c the tokens of the text, a block maps pixels h to

    h + attention(n_1 h) =: g,   g + attention(n_2 g, c) =: k,   k + feed_forward(n_3 k),      (1)
    feed_forward(x) = W_2 (u * gelu(v)),   (u, v) = W_1 x,                                   (2)

and a transformer maps a picture x to x + P' blocks(P n x), n a group normalization.
Source: Rombach et al. 2112.10752, section 3.3; (2) is of Shazeer 2002.05202.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ctrl_jax.networks.layers.blocks import Blocks
from ctrl_jax.networks.layers.fused_attention import dot_product
from ctrl_jax.networks.layers.making import Layers

EPSILON = 1e-6  # of the group normalization before attention


class Attention(nnx.Module):
    """Attention with its linear layers.

    Args:
        layers: makes them.
        width: of the tokens that look.
        heads: their number, which divides the width.
        context: width of the tokens that are seen; None where they are the same.
        bias: whether queries, keys and values have a bias.
    """

    def __init__(
        self,
        layers: Layers,
        width: int,
        heads: int,
        context: int | None = None,
        *,
        bias: bool = False,
    ):
        self.heads = heads
        self.to_q = layers.linear(width, width, bias=bias)
        self.to_k = layers.linear(context or width, width, bias=bias)
        self.to_v = layers.linear(context or width, width, bias=bias)
        self.to_out = nnx.List([layers.linear(width, width)])

    def __call__(
        self,
        x: Float[Array, "batch tokens width"],
        context: Float[Array, "batch seen context"] | None = None,
    ) -> Float[Array, "batch tokens width"]:
        """Return what each token reads of the context, or of the others."""
        seen = x if context is None else context
        query, key, value = (
            y.reshape(*y.shape[:2], self.heads, -1)
            for y in (self.to_q(x), self.to_k(seen), self.to_v(seen))
        )
        return self.to_out[0](dot_product(query, key, value).reshape(x.shape))


class PictureAttention(Attention):
    """Attention of one head among the pixels of a picture, normalized before, which it adds to.

    Args:
        layers: makes its layers.
        channels: of the picture.
        groups: of channels that are normalized together.
    """

    def __init__(self, layers: Layers, channels: int, *, groups: int):
        super().__init__(layers, channels, 1, bias=True)
        self.group_norm = layers.group_norm(channels, groups=groups, epsilon=EPSILON)

    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
        """Return x plus what each pixel reads of the others."""
        tokens = self.group_norm(x).reshape(x.shape[0], -1, x.shape[-1])
        return x + super().__call__(tokens).reshape(x.shape)


class Gated(nnx.Module):
    """The first layer of (2), u * gelu(v)."""

    def __init__(self, layers: Layers, inputs: int, outputs: int):
        self.proj = layers.linear(inputs, 2 * outputs)

    def __call__(self, x: Array) -> Array:
        """Return the hidden entries of tokens."""
        hidden, gate = jnp.split(self.proj(x), 2, axis=-1)
        return hidden * jax.nn.gelu(gate, approximate=False)


class FeedForward(nnx.Module):
    """A network (2) with four times as many hidden entries as the tokens are wide."""

    def __init__(self, layers: Layers, width: int):
        # None stands where the files' networks have a dropout.
        self.net: Any = nnx.List(
            [Gated(layers, width, 4 * width), None, layers.linear(4 * width, width)]
        )

    def __call__(self, x: Array) -> Array:
        """Return (2) of every token."""
        return self.net[2](self.net[0](x))


class TransformerBlock(nnx.Module):
    """One block (1).

    Args:
        layers: makes its layers.
        width: of the pixels' tokens.
        heads: of attention.
        context: width of the text's tokens.
        only_cross: whether the first attention is to the text too.
    """

    def __init__(
        self, layers: Layers, width: int, heads: int, context: int, *, only_cross: bool = False
    ):
        self.only_cross = only_cross
        self.norm1, self.norm2, self.norm3 = (layers.layer_norm(width) for _ in range(3))
        self.attn1 = Attention(layers, width, heads, context if only_cross else None)
        self.attn2 = Attention(layers, width, heads, context)
        self.ff = FeedForward(layers, width)

    def __call__(self, h: Array, context: Array) -> Array:
        """Return (1) of pixels (batch, tokens, width) and the text (batch, tokens, context)."""
        h = h + self.attn1(self.norm1(h), context if self.only_cross else None)
        h = h + self.attn2(self.norm2(h), context)
        return h + self.ff(self.norm3(h))


class SpatialTransformer(nnx.Module):
    """Blocks over the pixels of a picture, which their output is added to.

    Args:
        layers: makes its layers.
        channels: of the picture.
        heads: of attention.
        context: width of the text's tokens.
        depth: how many blocks.
        groups: of channels that are normalized together.
        linear: whether the projections are linear layers, or convolutions of 1 x 1.
        only_cross: whether no pixel sees another.
        stacked: whether the blocks are stacked and scanned.
        remat: whether they are computed again in the backward pass.
    """

    def __init__(
        self,
        layers: Layers,
        channels: int,
        *,
        heads: int,
        context: int,
        depth: int,
        groups: int,
        linear: bool,
        only_cross: bool,
        stacked: bool,
        remat: bool,
    ):
        project = layers.linear if linear else partial(layers.convolution, size=1)
        self.norm = layers.group_norm(channels, groups=groups, epsilon=EPSILON)
        self.proj_in = project(channels, channels)
        self.transformer_blocks = Blocks(
            lambda _: TransformerBlock(layers, channels, heads, context, only_cross=only_cross),
            (None,) * depth,
            stacked=stacked,
            remat=remat,
        )
        self.proj_out = project(channels, channels)

    def __call__(self, x: Float[Array, "batch h w c"], context: Array) -> Array:
        """Return the picture with what the blocks add, the text being (batch, tokens, context)."""
        tokens = self.proj_in(self.norm(x)).reshape(x.shape[0], -1, x.shape[-1])
        tokens = self.transformer_blocks.apply(lambda block, h: block(h, context), tokens)
        return x + self.proj_out(tokens.reshape(x.shape))
