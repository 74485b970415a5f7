"""The parts of a decoder language model: normalization, attention, feed-forward network, block.

With n the normalizations, a block maps the hidden states h to

    h + attention(n_1 h) =: g,   g + feed_forward(n_2 g),                                  (1)
    h + attention(n_1 h) + feed_forward(n_2 h)                             (parallel).     (2)

Where what a part returns is normalized, n_3 attention(...) and n_4 feed_forward(...) stand there.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from ctrl_jax.networks.language.config import DecoderConfig
from ctrl_jax.networks.layers.attention import attend
from ctrl_jax.networks.layers.linear import Linear, at_least_single, gradient_turned
from ctrl_jax.networks.layers.making import undrawn
from ctrl_jax.networks.layers.rotary import rotate

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "relu": jax.nn.relu,
}


@dataclasses.dataclass(frozen=True)
class Linears:
    """How the linear layers of a decoder are made.

    Args:
        initial_std: standard deviation of fresh weights.
        dtype: of the arithmetic.
        param_dtype: of fresh weights.
        rngs: random streams.
    """

    initial_std: float
    dtype: jnp.dtype
    param_dtype: jnp.dtype
    rngs: nnx.Rngs

    def __call__(self, inputs: int, outputs: int, bias: bool) -> Linear:
        """Return a layer."""
        options = {
            "use_bias": bias,
            "kernel_init": nnx.initializers.normal(self.initial_std),
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "rngs": self.rngs,
        }
        if inputs > outputs:
            options["dot_general"] = _dot_general
        return Linear(inputs, outputs, **options | undrawn())


def _dot_general(x: Array, kernel: Array, *arguments: Any, **options: Any) -> Array:
    return jax.lax.dot_general(x, gradient_turned(kernel), *arguments, **options)


class Norm(nnx.Module):
    """Layer or root-mean-square normalization of the last axis, in float32 at least."""

    def __init__(self, width: int, config: DecoderConfig, dtype: jnp.dtype):
        self.centered, self.epsilon = config.norm == "layer", config.epsilon
        self.from_one = config.norm == "rms_from_one"
        self.scale = nnx.Param((jnp.zeros if self.from_one else jnp.ones)(width, dtype))
        self.bias = nnx.Param(jnp.zeros(width, dtype)) if self.centered else None

    def __call__(self, x: Array) -> Array:
        """Return x normalized, in its own dtype."""
        exact = at_least_single(x.dtype)
        y = x.astype(exact)
        if self.centered:
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        leading = (None,) * (x.ndim - 1)
        scale = self.scale[...].astype(exact)
        y = y * (1 + scale if self.from_one else scale)[leading]
        if self.bias is not None:
            y = y + self.bias[...].astype(exact)[leading]
        return y.astype(x.dtype)


class Attention(nnx.Module):
    """Attention with its linear layers."""

    def __init__(self, config: DecoderConfig, linear: Linears):
        self.head_width, self.joint = config.head_width, config.joint_query_key_norm
        self.scale, self.cap = config.score_scale, config.score_cap
        inner = config.heads * config.head_width
        outer = config.key_heads * config.head_width
        self.query = linear(config.width, inner, config.query_bias)
        self.key = linear(config.width, outer, config.query_bias)
        self.value = linear(config.width, outer, config.query_bias)
        self.out = linear(inner, config.width, config.out_bias)
        self.query_norm, self.key_norm = (
            Norm(width if self.joint else config.head_width, config, linear.param_dtype)
            if config.query_key_norm
            else None
            for width in (inner, outer)
        )

    def __call__(
        self, x: Array, mask: Array, rotation: tuple[Array, Array] | None, at: Array | None = None
    ) -> Array:
        """Mix the tokens (batch, tokens, width) that each token sees, or each of those `at`."""
        return self.mix(*self.project(x, rotation, at), pick(mask, at))

    def project(
        self, x: Array, rotation: tuple[Array, Array] | None, at: Array | None = None
    ) -> tuple[Array, Array, Array]:
        """Return queries, keys and values (batch, tokens, heads, head width), rotated."""
        query = self._split(self.query(pick(x, at)), self.query_norm)
        key, value = self._split(self.key(x), self.key_norm), self._split(self.value(x))
        if rotation is not None:
            query = rotate(query, *(pick(part, at) for part in rotation))
            key = rotate(key, *rotation)
        return query, key, value

    def mix(self, query: Array, key: Array, value: Array, mask: Array) -> Array:
        """Return what queries read; mask (batch, queries, keys) is true at what they see."""
        mixed = attend(query, key, value, mask, scale=self.scale, cap=self.cap)
        return self.out(mixed.reshape(*query.shape[:2], -1))

    def _split(self, x: Array, norm: Norm | None = None) -> Array:
        """The heads of x, normalized each by itself or all together."""
        x = norm(x) if norm is not None and self.joint else x
        x = x.reshape(*x.shape[:2], -1, self.head_width)
        return norm(x) if norm is not None and not self.joint else x


class FeedForward(nnx.Module):
    """Two layers, down f(up x), or gated, down (f(gate x) * up x)."""

    def __init__(self, config: DecoderConfig, linear: Linears):
        bias = config.feed_forward_bias
        self.activate = ACTIVATIONS[config.activation]
        self.gate = linear(config.width, config.hidden, bias) if config.gated else None
        self.up = linear(config.width, config.hidden, bias)
        self.down = linear(config.hidden, config.width, bias)

    def __call__(self, x: Array) -> Array:
        """Apply the network to every token."""
        up = self.up(x)
        hidden = self.activate(up) if self.gate is None else self.activate(self.gate(x)) * up
        return self.down(hidden)


class Block(nnx.Module):
    """One block, equation (1) or (2)."""

    def __init__(self, config: DecoderConfig, linear: Linears):
        def norm(*places: str) -> Norm | None:
            within = config.norm_places in places
            return Norm(config.width, config, linear.param_dtype) if within else None

        self.parallel = config.parallel
        self.attention_norm = norm("before", "around")
        self.attention = Attention(config, linear)
        self.attention_out_norm = norm("after", "around")
        self.feed_forward_norm = norm("before", "around")
        self.feed_forward = FeedForward(config, linear)
        self.feed_forward_out_norm = norm("after", "around")

    def __call__(
        self, h: Array, mask: Array, rotation: tuple[Array, Array] | None, at: Array | None = None
    ) -> Array:
        """Apply the block to hidden states (batch, tokens, width); return all, or those `at`."""
        attended = self.attention(self.entering(h), mask, rotation, at)
        return self.around(pick(h, at), attended)

    def entering(self, h: Array) -> Array:
        """Return what the attention reads of hidden states."""
        return _normalized(self.attention_norm, h)

    def around(self, h: Array, attended: Array) -> Array:
        """Return the block's output from its input and what the attention read there."""
        mixed = h + _normalized(self.attention_out_norm, attended)
        seen = _normalized(self.feed_forward_norm, h if self.parallel else mixed)
        return mixed + _normalized(self.feed_forward_out_norm, self.feed_forward(seen))


def _normalized(norm: Norm | None, x: Array) -> Array:
    return x if norm is None else norm(x)


def pick(array: Array, at: Array | None) -> Array:
    """Return the entries `at`, (batch, places), of axis 1; all of them for None."""
    if at is None:
        return array
    return jnp.take_along_axis(array, at.reshape(*at.shape, *(1,) * (array.ndim - 2)), axis=1)
