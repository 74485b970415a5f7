r"""Attention in which several query heads may share a key head (2305.13245).

For every query head h, with g(h) its key head, d the width of a head and -infinity where the mask
is false,

    out_h = softmax(q_h k_g(h)^T / sqrt(d)) v_g(h).                                        (1)

Some models have another number in place of 1 / sqrt(d), or bound the scores s by c tanh(s / c).

Heads are moved before the tokens first, so that both products, and the four of their gradient, are
of matrices as they lie in memory. With W = softmax(...) the gradient with respect to the scores is

    W * (dout v^T - sum(dout * out)),                                                      (2)

the sum over the width of a head, a fraction of one over all that is seen (2205.14135, appendix B).
It is written out: automatic differentiation takes that sum, and keeps one array more of the size of
the weights. Bounded scores are computed again there, for the slope 1 - tanh(s / c)^2 of the bound.
There is no forward mode (`jax.jvp`) for it.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ctrl_jax._numerics import soft_cap
from ctrl_jax.networks.layers.linear import at_least_single


def attend(
    query: Float[Array, "batch tokens heads width"],
    key: Float[Array, "batch seen key_heads width"],
    value: Float[Array, "batch seen key_heads width"],
    mask: Bool[Array, "batch tokens seen"],
    *,
    scale: float | None = None,
    cap: float | None = None,
) -> Float[Array, "batch tokens heads width"]:
    """Return (1), the softmax in float32 at least.

    Args:
        query: of the tokens that look.
        key: of the tokens that are seen; its heads divide those of the query.
        value: of the same.
        mask: true where a token sees another. One that sees none has some mean of all values.
        scale: multiplies the scores; None for 1 / sqrt(width).
        cap: c, the bound of the scores; None for none.
    """
    batch, tokens, _, width = query.shape
    key_heads = key.shape[2]
    grouped = query.reshape(batch, tokens, key_heads, -1, width).transpose(0, 2, 3, 1, 4)
    rows = grouped.reshape(batch, key_heads, -1, width) * (scale or width**-0.5)
    mixed = _mix(rows, key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3), mask, cap)
    return mixed.reshape(grouped.shape).transpose(0, 3, 1, 2, 4).reshape(query.shape)


def _weighted(rows: Array, key: Array, value: Array, mask: Array, cap: float | None) -> Array:
    """Softmax(rows key^T) value, (batch, key heads, groups * tokens, width)."""
    return _forward(rows, key, value, mask, cap)[0]


def _forward(rows: Array, key: Array, value: Array, mask: Array, cap: float | None):
    exact = at_least_single(rows.dtype)
    scores = soft_cap(jnp.matmul(rows, key.mT, preferred_element_type=exact), cap)
    by_group = scores.reshape(*rows.shape[:2], -1, *mask.shape[1:])
    unseen = 0.7 * jnp.finfo(exact).min  # finite: a row of these has no NaN
    weights = jax.nn.softmax(jnp.where(mask[:, None, None], by_group, unseen), axis=-1)
    weights = weights.reshape(scores.shape).astype(value.dtype)
    out = weights @ value
    return out, (rows, key, value, mask, weights, out)


def _backward(cap: float | None, kept, slope: Array):
    rows, key, value, mask, weights, out = kept
    exact = at_least_single(rows.dtype)
    total = jnp.sum(slope.astype(exact) * out.astype(exact), axis=-1, keepdims=True)
    # XLA's fusion of this product with what follows takes twice the time of both on CPU.
    product = jax.lax.optimization_barrier(
        jnp.matmul(slope, value.mT, preferred_element_type=exact)
    )
    scores = weights.astype(exact) * (product - total)
    if cap is not None:
        bounded = jnp.tanh(jnp.matmul(rows, key.mT, preferred_element_type=exact) / cap)
        scores = scores * (1 - jnp.square(bounded))
    scores = scores.astype(rows.dtype)
    # Only a row that sees none has weights here, which depend on no score.
    by_group = scores.reshape(*rows.shape[:2], -1, *mask.shape[1:])
    scores = jnp.where(mask[:, None, None], by_group, 0).reshape(scores.shape)
    return scores @ key, scores.mT @ rows, weights.mT @ slope, None


_mix = jax.custom_vjp(_weighted, nondiff_argnums=(4,))
_mix.defvjp(_forward, _backward)
