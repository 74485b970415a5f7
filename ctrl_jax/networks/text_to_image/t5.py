r"""The encoder of T5 (1910.10683), whose last hidden states describe a text.

With n_1 and n_2 root-mean-square normalizations, a block maps the hidden states h to

    g = h + attention(n_1 h),   g + W_o (f(W_0 n_2 g) * W_1 n_2 g)     (version 1.1)         (1)
                                g + W_o f(W n_2 g)                     (the first)           (2)

where token i scores token j by q_i k_j + b(j - i), not divided by the root of a head's width. The
bias b, the same in all blocks, has one number per head for each of n buckets of distances: n / 4
for the nearest on each side, and as many for ranges that widen with log |j - i| up to a longest.
"""

import dataclasses
import math
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from ctrl_jax._checks import check_annotated, check_choice, refuse
from ctrl_jax.networks.functional import Network, as_network
from ctrl_jax.networks.layers.activations import ACTIVATIONS
from ctrl_jax.networks.layers.blocks import Blocks
from ctrl_jax.networks.layers.fused_attention import attend_heads
from ctrl_jax.networks.layers.linear import at_least_single
from ctrl_jax.networks.layers.making import Layers
from ctrl_jax.networks.lora import LoRA
from ctrl_jax.networks.sharding import T5
from ctrl_jax.networks.text_to_image.text_tokens import check_tokens

Activation = Literal["relu", "gelu_new"]
T5_ACTIVATIONS = ("relu", "gelu_new")


@dataclasses.dataclass(frozen=True)
class T5Config:
    """The shape of an encoder.

    Args:
        vocabulary: number of tokens.
        width: size of a hidden state.
        depth: number of blocks.
        heads: of the attention.
        head_width: size of a head.
        hidden: size inside the feed-forward network.
        activation: of the feed-forward network; gelu_new is the approximate one, by tanh.
        gated: whether the feed-forward network multiplies its activation by a second projection.
        buckets: of distances, a multiple of 4.
        longest: distance from which on all fall into one bucket.
        epsilon: added to the mean of squares in every normalization.

    Raises:
        ValueError: a size is below one, or buckets do not fit.
    """

    vocabulary: int = 32128
    width: int = 4096
    depth: int = 24
    heads: int = 64
    head_width: int = 64
    hidden: int = 10240
    activation: Activation = "gelu_new"
    gated: bool = True
    buckets: int = 32
    longest: int = 128
    epsilon: float = 1e-6

    def __post_init__(self):
        check_choice("T5Config.activation", self.activation, T5_ACTIVATIONS)
        check_annotated(self, "T5Config")
        if self.buckets % 4:
            rule, repair = "it must be a multiple of 4", "give e.g. 32"
            raise refuse("T5Config.buckets", self.buckets, rule, repair)
        if self.longest <= self.buckets // 4:
            rule = f"it must be above the {self.buckets // 4} distances with their own bucket"
            raise refuse("T5Config.longest", self.longest, rule, "give e.g. 128")


def buckets_of(distances: np.ndarray, *, buckets: int, longest: int) -> np.ndarray:
    """Return the bucket of every distance.

    Args:
        distances: j - i, whole numbers.
        buckets: how many there are, a multiple of 4.
        longest: distance from which on all fall into one bucket.
    """
    half, near = buckets // 2, buckets // 4
    far = np.abs(distances)
    # In float32, as the published code takes it: a few distances lie on the border of two buckets.
    ratio = np.log(np.maximum(far, 1).astype(np.float32) / np.float32(near))
    wide = near + (ratio / np.float32(math.log(longest / near)) * np.float32(half - near)).astype(
        int
    )
    return np.where(distances > 0, half, 0) + np.where(far < near, far, np.minimum(wide, half - 1))


class SelfAttention(nnx.Module):
    """Attention without biases in its linear layers."""

    def __init__(self, config: T5Config, make: Layers):
        self.heads, inner = config.heads, config.heads * config.head_width
        self.q, self.k, self.v = (make.linear(config.width, inner, bias=False) for _ in range(3))
        self.o = make.linear(inner, config.width, bias=False)

    def __call__(self, x: Array, bias: Array, mask: Array | None) -> Array:
        """Mix tokens (batch, tokens, width); bias (1, heads, tokens, tokens) is added to scores."""
        query, key, value = self.q(x), self.k(x), self.v(x)
        mixed = attend_heads(query, key, value, self.heads, bias=bias, mask=mask, scale=1.0)
        return self.o(mixed)


class FeedForward(nnx.Module):
    """The last part of (1) or (2)."""

    def __init__(self, config: T5Config, make: Layers):
        self.activation, self.gated = config.activation, config.gated
        up = partial(make.linear, config.width, config.hidden, bias=False)
        if config.gated:
            self.wi_0, self.wi_1 = up(), up()
        else:
            self.wi = up()
        self.wo = make.linear(config.hidden, config.width, bias=False)

    def __call__(self, x: Array) -> Array:
        """Apply the layers to the last axis."""
        act = ACTIVATIONS[self.activation]
        return self.wo(act(self.wi_0(x)) * self.wi_1(x) if self.gated else act(self.wi(x)))


class AttentionPart(nnx.Module):
    """The normalized attention."""

    def __init__(self, config: T5Config, make: Layers):
        self.SelfAttention = SelfAttention(config, make)
        self.layer_norm = make.rms_norm(config.width, epsilon=config.epsilon)

    def __call__(self, x: Array, bias: Array, mask: Array | None) -> Array:
        """Return what is added to the hidden states."""
        return self.SelfAttention(self.layer_norm(x), bias, mask)


class FeedForwardPart(nnx.Module):
    """The normalized feed-forward network."""

    def __init__(self, config: T5Config, make: Layers):
        self.DenseReluDense = FeedForward(config, make)
        self.layer_norm = make.rms_norm(config.width, epsilon=config.epsilon)

    def __call__(self, x: Array) -> Array:
        """Return what is added to the hidden states."""
        return self.DenseReluDense(self.layer_norm(x))


class Block(nnx.Module):
    """A block (1) or (2)."""

    def __init__(self, config: T5Config, make: Layers):
        self.layer: Any = nnx.List([AttentionPart(config, make), FeedForwardPart(config, make)])

    def __call__(self, x: Array, bias: Array, mask: Array | None) -> Array:
        """Return the next hidden states."""
        x = x + self.layer[0](x, bias, mask)
        return x + self.layer[1](x)


class Stack(nnx.Module):
    """The blocks and the table of their bias, which in files is the first block's."""

    def __init__(self, config: T5Config, make: Layers, *, stacked: bool, remat: bool):
        self.buckets, self.longest = config.buckets, config.longest
        self.relative_attention_bias = make.embedding(config.buckets, config.heads)
        kinds = (None,) * config.depth
        self.block = Blocks(lambda _: Block(config, make), kinds, stacked=stacked, remat=remat)
        self.final_layer_norm = make.rms_norm(config.width, epsilon=config.epsilon)

    def __call__(self, x: Array, mask: Array | None) -> Array:
        """Return the last hidden states."""
        bias, seen = self.bias(x.shape[1]), None if mask is None else mask[:, None, None, :]
        return self.final_layer_norm(self.block.apply(lambda block, h: block(h, bias, seen), x))

    def bias(self, tokens: int) -> Array:
        """Return the bias (1, heads, tokens, tokens) of a number of tokens."""
        places = np.arange(tokens)
        distances = places[None] - places[:, None]
        table = self.relative_attention_bias.embedding[...]
        rows = table[buckets_of(distances, buckets=self.buckets, longest=self.longest)]
        return rows.astype(at_least_single(table.dtype)).transpose(2, 0, 1)[None]


class T5Encoder(nnx.Module):
    """The encoder; use `t5`."""

    def __init__(self, config: T5Config, make: Layers, **how: bool):
        self.shared = make.embedding(config.vocabulary, config.width)
        self.encoder = Stack(config, make, **how)

    def __call__(
        self, tokens: Int[Array, "batch tokens"], mask: Bool[Array, "batch _"] | None = None
    ) -> Float[Array, "batch tokens width"]:
        """Return the last hidden states of texts."""
        check_tokens(tokens, mask)
        return self.encoder(self.shared(tokens), mask)


def t5(
    config: T5Config,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    lora: LoRA | None = None,
    remat: bool = False,
    stacked: bool = True,
) -> Network:
    """Return T5's encoder as pure functions.

    ``apply(params, tokens, mask=None)`` returns the last hidden states (batch, tokens, width):
    tokens are integers (batch, tokens), the mask booleans of that shape, false where a token is
    seen by none. A block maps the hidden states h to

        g = h + attention(n_1 h),   g + W_o (f(W_0 n_2 g) * W_1 n_2 g)   or   g + W_o f(W n_2 g),

    the latter where the config is not `gated`, with root-mean-square normalizations n_1 and n_2,
    the activation f and matrices W. Token i scores token j by q_i k_j + b(j - i), with its query
    q_i, the key k_j and a learned bias b of each bucket of distances, the same in all blocks.

    Args:
        config: its description.
        dtype: type of hidden states and products. Those of the largest models overflow float16.
        param_dtype: type of fresh parameters.
        lora: adapters beside some of the kernels; None for none.
        remat: whether blocks are computed again in the backward pass rather than kept.
        stacked: whether the blocks are scanned, and so compiled once.

    Raises:
        ValueError: `lora` names a layer that the encoder does not have.

    Source: Raffel et al. 2019 (1910.10683), section 2.1; gated: Shazeer 2020 (2002.05202).
    """
    make = partial(T5Encoder, config, remat=remat, stacked=stacked)
    return as_network(make, rules=T5, dtype=dtype, param_dtype=param_dtype, lora=lora)
