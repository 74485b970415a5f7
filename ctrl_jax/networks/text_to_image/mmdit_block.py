r"""A block of a multimodal diffusion transformer (2403.03206, figure 2).

Patches x and tokens of the text c have weights of their own and attend to each other. With n a
normalization without weights, and for each of both a shift b, a scale a and a gate g from the
embedding of the time and the text,

    x' = x + g_1 attention_x(a_1 n x + b_1, a_1' n c + b_1'),                              (1)
    x'' = x' + g_2 feed_forward(a_2 n x' + b_2),                                           (2)

with 1 + a for a, and the same with both exchanged. In a dual block x also attends to itself alone,
with a shift, a scale and a gate of its own, after (1). The last block leaves the text out of (2).
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ctrl_jax.networks.layers.fused_attention import attend_heads
from ctrl_jax.networks.layers.linear import Linear
from ctrl_jax.networks.layers.making import Layers
from ctrl_jax.networks.layers.normalization import LayerNorm, RMSNorm
from ctrl_jax.networks.text_to_image.mmdit_config import MMDiTConfig

EPSILON = 1e-6
Vectors = Float[Array, "batch width"]
Tokens = Float[Array, "batch patches width"]
Text = Float[Array, "batch tokens width"]


class Modulation(nnx.Module):
    """A normalization without weights, and shifts, scales and gates from the embedding."""

    def __init__(self, config: MMDiTConfig, make: Layers, vectors: int):
        self.vectors = vectors
        self.linear = make.linear(config.width, vectors * config.width)
        self.norm = make.layer_norm(config.width, epsilon=EPSILON, affine=False)

    def __call__(self, x: Tokens, embedding: Vectors) -> tuple[Array, list[Array]]:
        """Return tokens normalized, and the vectors of the embedding, each (batch, 1, width)."""
        return self.norm(x), split_vectors(self.linear, embedding, self.vectors)


class ScaledNorm(nnx.Module):
    """A normalization with a scale and a shift, in this order, from the embedding."""

    def __init__(self, config: MMDiTConfig, make: Layers):
        self.linear = make.linear(config.width, 2 * config.width)
        self.norm = make.layer_norm(config.width, epsilon=EPSILON, affine=False)

    def __call__(self, x: Tokens, embedding: Vectors) -> Tokens:
        """Return tokens normalized, scaled and shifted."""
        scale, shift = split_vectors(self.linear, embedding, 2)
        return modulated(self.norm(x), shift, scale)


class Attention(nnx.Module):
    """Attention of patches and of the text to both; without a text, of patches to patches."""

    def __init__(self, config: MMDiTConfig, make: Layers, *, text: bool, text_out: bool):
        self.heads, width = config.heads, config.width
        self.to_q, self.to_k, self.to_v = (make.linear(width, width) for _ in range(3))
        self.to_out: Any = nnx.List([make.linear(width, width)])
        normed = config.query_key_norm is not None
        self.norm_q, self.norm_k, self.norm_added_q, self.norm_added_k = (
            make.rms_norm(config.head_width, epsilon=EPSILON) if used else None
            for used in (normed, normed, normed and text, normed and text)
        )
        if text:
            self.add_q_proj, self.add_k_proj, self.add_v_proj = (
                make.linear(width, width) for _ in range(3)
            )
        self.to_add_out = make.linear(width, width) if text_out else None

    def __call__(self, x: Tokens, c: Text | None = None) -> tuple[Array, Array | None]:
        """Return what patches read, and what the text does, None where nobody asks."""
        query = self._normal(self.to_q(x), self.norm_q)
        key = self._normal(self.to_k(x), self.norm_k)
        value = self.to_v(x)
        if c is not None:
            query = _both(query, self._normal(self.add_q_proj(c), self.norm_added_q))
            key = _both(key, self._normal(self.add_k_proj(c), self.norm_added_k))
            value = _both(value, self.add_v_proj(c))
        mixed = attend_heads(query, key, value, self.heads)
        patches, text = mixed[:, : x.shape[1]], mixed[:, x.shape[1] :]
        return self.to_out[0](patches), None if self.to_add_out is None else self.to_add_out(text)

    def _normal(self, x: Tokens, norm: RMSNorm | None) -> Tokens:
        """Queries or keys, those of each head normalized by themselves."""
        return x if norm is None else norm(x.reshape(*x.shape[:2], self.heads, -1)).reshape(x.shape)


class Activated(nnx.Module):
    """The first layer of a feed-forward network."""

    def __init__(self, inputs: int, outputs: int, make: Layers):
        self.proj = make.linear(inputs, outputs)

    def __call__(self, x: Tokens) -> Array:
        """Return the hidden entries."""
        return jax.nn.gelu(self.proj(x), approximate=True)


class FeedForward(nnx.Module):
    """Two layers with four times as many hidden entries as a token is wide."""

    def __init__(self, width: int, make: Layers):
        # None stands where the files' networks have a dropout.
        self.net: Any = nnx.List(
            [Activated(width, 4 * width, make), None, make.linear(4 * width, width)]
        )

    def __call__(self, x: Tokens) -> Tokens:
        """Apply the layers to every token."""
        return self.net[2](self.net[0](x))


class Block(nnx.Module):
    """A block.

    Args:
        config: of the network.
        make: makes layers.
        dual: whether patches attend to each other once more.
        last: whether the text goes no further.
    """

    def __init__(self, config: MMDiTConfig, make: Layers, *, dual: bool, last: bool):
        width = config.width
        self.norm1 = Modulation(config, make, 9 if dual else 6)
        self.norm1_context = ScaledNorm(config, make) if last else Modulation(config, make, 6)
        self.attn = Attention(config, make, text=True, text_out=not last)
        self.attn2 = Attention(config, make, text=False, text_out=False) if dual else None
        self.norm2, self.norm2_context = (
            make.layer_norm(width, epsilon=EPSILON, affine=False) for _ in range(2)
        )
        self.ff = FeedForward(width, make)
        self.ff_context: Any = None if last else FeedForward(width, make)

    def __call__(self, x: Tokens, c: Text, embedding: Vectors) -> tuple[Tokens, Text]:
        """Return the next patches and the next text; the last block leaves the text as it is."""
        if isinstance(self.norm1_context, ScaledNorm):  # the last block
            return self._patches(x, self.norm1_context(c, embedding), embedding)[0], c
        normal, (shift, scale, gate, *others) = self.norm1_context(c, embedding)
        x, read = self._patches(x, modulated(normal, shift, scale), embedding)
        return x, _fed(c + gate * read, self.norm2_context, self.ff_context, *others)

    def _patches(self, x: Tokens, c: Array, embedding: Vectors) -> tuple[Tokens, Any]:
        """The next patches, and what the text, normalized, reads."""
        normal, (shift, scale, gate, *others) = self.norm1(x, embedding)
        read, text = self.attn(modulated(normal, shift, scale), c)
        x = x + gate * read
        if self.attn2 is not None:
            shift, scale, gate = others[3:]
            x = x + gate * self.attn2(modulated(normal, shift, scale))[0]
        return _fed(x, self.norm2, self.ff, *others[:3]), text


def split_vectors(linear: Linear, embedding: Vectors, vectors: int) -> list[Array]:
    """Return what a layer makes of the embedding, each vector (batch, 1, width)."""
    return jnp.split(linear(jax.nn.silu(embedding))[:, None], vectors, axis=-1)


def modulated(x: Tokens, shift: Array, scale: Array) -> Tokens:
    """Return tokens scaled by one plus a scale, and shifted."""
    return x * (1 + scale) + shift


def _both(patches: Array, text: Array) -> Array:
    return jnp.concatenate([patches, text], axis=1)


def _fed(
    x: Tokens, norm: LayerNorm, feed_forward: FeedForward, shift: Array, scale: Array, gate: Array
) -> Tokens:
    """Equation (2)."""
    return x + gate * feed_forward(modulated(norm(x), shift, scale))
