"""Attention of pictures and texts, in the form that is fused where there is one.

`jax.nn.dot_product_attention` takes the fused form of a GPU only where it is told to: the products
of all pairs of tokens then never lie in memory (2205.14135), which at 64 x 64 latents are 0.5 GB in
every layer. That form is of half precision, and has no forward mode (`jax.jvp`). Elsewhere heads
are moved before the tokens first: its other form takes four times as long on a CPU. Of more than
`LARGEST` pairs, the tokens look in pieces of at most so many, one after the other, and each piece
is computed again in the backward pass: no more than one of them lies in memory, and of 4096 tokens
a CPU takes .58 of the time forward and .73 with the gradient.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax.networks.layers.linear import at_least_single

HALF = (jnp.bfloat16, jnp.float16)
WIDEST = 128  # head that every generation of GPUs fuses
LARGEST = 2**20
"""Pairs of tokens, of one head."""


def dot_product(
    query: Float[Array, "batch tokens heads width"],
    key: Float[Array, "batch seen heads width"],
    value: Float[Array, "batch seen heads width"],
    **options: Any,
) -> Float[Array, "batch tokens heads width"]:
    """Return softmax(query key^T / sqrt(width)) value of each head, the softmax in float32.

    Args:
        query: of the tokens that look.
        key: of the tokens that are seen.
        value: of the same.
        **options: of `jax.nn.dot_product_attention`, such as a mask, with which it is not fused.
    """
    options = {
        name: value for name, value in options.items() if value is not None and value is not False
    }
    width = query.shape[-1]
    if options:
        return jax.nn.dot_product_attention(query, key, value, **options)
    fits = query.dtype in HALF and width % 8 == 0 and width <= WIDEST
    if fits and jax.default_backend() == "gpu":
        try:
            return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
        except (RuntimeError, NotImplementedError, ValueError):
            pass  # a GPU that is too old, or of another make
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query * width**-0.5, key, value))
    tokens, seen = query.shape[2], key.shape[2]
    pieces = -(-tokens * seen // LARGEST)
    if pieces == 1:
        return _look(query, key, value).transpose(0, 2, 1, 3)
    size = -(-tokens // pieces)
    padded = jnp.pad(query, ((0, 0), (0, 0), (0, pieces * size - tokens), (0, 0)))
    cut = jnp.moveaxis(padded.reshape(*query.shape[:2], pieces, size, width), 2, 0)
    found = jax.lax.map(jax.checkpoint(lambda piece: _look(piece, key, value)), cut)
    # Pieces, batch, heads, tokens, width, as they come.
    whole = found.transpose(1, 0, 3, 2, 4).reshape(query.shape[0], -1, *found.shape[2:5:2])
    return whole[:, :tokens]


def _look(query: Array, key: Array, value: Array) -> Array:
    """Attention with the heads before the tokens, the query scaled."""
    exact = at_least_single(query.dtype)
    scores = jnp.matmul(query, key.mT, preferred_element_type=exact)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return weights @ value


def attend_heads(
    query: Float[Array, "batch tokens inner"],
    key: Float[Array, "batch seen inner"],
    value: Float[Array, "batch seen inner"],
    heads: int,
    **options: Any,
) -> Float[Array, "batch tokens inner"]:
    """Return the same of heads that lie side by side.

    Args:
        query: of the tokens that look.
        key: of the tokens that are seen.
        value: of the same.
        heads: how many there are.
        **options: of `jax.nn.dot_product_attention`, such as a mask, with which it is not fused.
    """
    parts = (x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value))
    return dot_product(*parts, **options).reshape(query.shape)
