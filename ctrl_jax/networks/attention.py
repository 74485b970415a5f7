r"""Attention in which several query heads may share a key head (2305.13245).

For every query head h, with g(h) its key head, d the width of a head and -infinity where the mask
is false,

    out_h = softmax(q_h k_g(h)^T / sqrt(d)) v_g(h).                                        (1)

Heads are moved before the tokens first, so that both products, and the four of their gradient, are
of matrices as they lie in memory.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ctrl_jax.networks.layers import at_least_single


def attend(
    query: Float[Array, "batch tokens heads width"],
    key: Float[Array, "batch seen key_heads width"],
    value: Float[Array, "batch seen key_heads width"],
    mask: Bool[Array, "batch tokens seen"],
) -> Float[Array, "batch tokens heads width"]:
    """Return (1), the softmax in float32 at least.

    Args:
        query: of the tokens that look.
        key: of the tokens that are seen; its heads divide those of the query.
        value: of the same.
        mask: true where a token sees another. One that sees none has some mean of all values.
    """
    batch, tokens, _, width = query.shape
    key_heads, exact = key.shape[2], at_least_single(query.dtype)
    grouped = query.reshape(batch, tokens, key_heads, -1, width).transpose(0, 2, 3, 1, 4)
    rows = grouped.reshape(batch, key_heads, -1, width)
    key, value = key.transpose(0, 2, 3, 1), value.transpose(0, 2, 1, 3)
    scores = jnp.matmul(rows, key, preferred_element_type=exact) * width**-0.5
    scores = scores.reshape(*grouped.shape[:4], -1)
    unseen = 0.7 * jnp.finfo(exact).min  # finite: a row of these has no NaN
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, unseen), axis=-1)
    mixed = weights.astype(value.dtype).reshape(batch, key_heads, -1, value.shape[2]) @ value
    return mixed.reshape(grouped.shape).transpose(0, 3, 1, 2, 4).reshape(query.shape)
