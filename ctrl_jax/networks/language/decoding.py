"""A decoder that reads on: keys and values of what it has read are cached (KV cache).

A text of n tokens then costs n tokens, where reading it from its beginning for every new token
would cost n^2 / 2.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ctrl_jax._checks import refuse
from ctrl_jax._typing import Params
from ctrl_jax.networks.language.block import Linears
from ctrl_jax.networks.language.config import DecoderConfig, Learned
from ctrl_jax.networks.language.decoder import Decoder
from ctrl_jax.networks.layers.making import describe, streams
from ctrl_jax.networks.lora import LoRA, adapt
from ctrl_jax.networks.sharding import DECODER, gathered, in_turn


class KVCache(NamedTuple):
    """Keys and values of the tokens read, per block; places that are not read yet hold zeros.

    Fields:
        keys: of each block, (batch, length, heads, width).
        values: of each block, (batch, length, heads, width).
    """

    keys: tuple[Float[Array, "batch length heads width"], ...]
    values: tuple[Float[Array, "batch length heads width"], ...]


class Decoding(NamedTuple):
    """Reading on, as pure functions on the parameters of `language_model`.

    Fields:
        start: ``start(batch, length) -> KVCache`` of texts of at most so many tokens.
        read: ``read(params, cache, tokens, position) -> (hidden, cache)``, tokens integers
            (batch, n), the first of them the token number `position` of its text; the hidden
            states (batch, n, width) are those of `LanguageModel.apply` on the whole text.
        head: ``head(params)`` returns the matrix (width, vocabulary) that turns hidden states into
            logits.
        cap: c, where logits are c tanh(``hidden @ head(params)`` / c); None where they are that
            product.
    """

    start: Callable[[int, int], KVCache]
    read: Callable[..., tuple[Array, KVCache]]
    head: Callable[[Params], Array]
    cap: float | None = None


def make_decoding(
    config: DecoderConfig, *, dtype: DTypeLike = jnp.float32, lora: LoRA | None = None
) -> Decoding:
    """Return how a decoder reads on, with the parameters of its `language_model`.

    Reading beyond the length of the cache is a fault that traced positions do not show: the last
    tokens are then overwritten. Rotations that depend on the length of a text (`DynamicScaling`,
    `LongScaling`) are those of a text that fills the cache: what was read cannot be turned again.

    Args:
        config: the description of the decoder.
        dtype: type of hidden states, products and cache; normalizations, angles and attention
            weights are in float32 at least.
        lora: adapters that the parameters hold; None for none.

    Raises:
        ValueError: from `start`, a length beyond the decoder's table of positions.
    """

    def make() -> Decoder:
        key = jax.random.key(0)
        rngs = streams(params=key, lora=key)
        linear = Linears(config.initial_std, jnp.dtype(dtype), jnp.dtype(dtype), rngs)
        decoder = Decoder(config, linear, remat=False)
        if lora is not None:
            adapt(decoder, lora, rngs)
        return decoder

    graph, _ = describe(make)

    def start(batch: int, length: int) -> KVCache:
        if isinstance(config.positions, Learned) and length > config.positions.length:
            rule = f"the model has {config.positions.length} positions"
            raise refuse("start.length", length, rule, "ask for shorter texts")
        empty = jnp.zeros((batch, length, config.key_heads, config.head_width), dtype)
        return KVCache((empty,) * config.depth, (empty,) * config.depth)

    def read(params: Params, cache: KVCache, tokens: Array, position) -> tuple[Array, KVCache]:
        with in_turn(DECODER):
            decoder = nnx.merge(graph, gathered(params))
        places = jnp.broadcast_to((position + jnp.arange(tokens.shape[1]))[None], tokens.shape)
        length = cache.keys[0].shape[1]
        views = decoder.views(places, length, lambda window: _seen(places, length, window))
        h = decoder.embed(tokens, places)
        layers = []
        for block, (mask, turns), keys, values in zip(decoder.blocks, views, *cache, strict=True):
            query, key, value = block.attention.project(block.entering(h), turns)
            keys, values = (
                jax.lax.dynamic_update_slice_in_dim(old, new, position, axis=1)
                for old, new in ((keys, key), (values, value))
            )
            h = block.around(h, block.attention.mix(query, keys, values, mask))
            layers.append((keys, values))
        return decoder.norm(h), KVCache(*zip(*layers, strict=True))

    def head(params: Params) -> Array:
        with in_turn(DECODER):
            return nnx.merge(graph, gathered(params, later=("blocks",))).matrix()

    return Decoding(start, read, head, config.logit_cap)


def _seen(places: Array, length: int, window: int | None) -> Array:
    """Return the mask (batch, tokens, length): what was read up to each token."""
    behind = places[:, :, None] - jnp.arange(length)[None, None]
    return (behind >= 0) if window is None else (behind >= 0) & (behind < window)
