r"""The dispersion of preferences over a prompt, from the uncertainty of the reference model.

Where the reference model is sure of every next token people are taken to agree. With H the entropy
of its next token, averaged over the response tokens of both answers to x, and V the vocabulary,

    index(x) = H / log |V|  in (0, 1],          phi(x) = index^scale,                    (1)
    c(x) = -2 log phi = -2 scale log index,                                              (2)

c the weight of Mallows-theta; scale = 1 / (2 mean(-log index)) makes its mean over the data one. An
index is a property of the data: none of it has a gradient.

Source: Chen et al. 2024 (arXiv 2405.14953), section 4, whose sum over tokens is a mean here: only
then is the index at most one.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ctrl_jax._checks import check_count, check_positive, refuse
from ctrl_jax.losses.preference.pair import (
    Number,
    check_scalars,
    known_values,
    require_floating,
    require_known,
    working_dtype,
)

LEAST_INDEX = 1e-6
"""Below this an index is not told from zero; it bounds c by 28 scale."""

Head = Float[Array, "width vocabulary"] | Callable[[Array], Array]


def dispersion_index(
    hidden: Float[Array, "batch length width"],
    head: Head,
    mask: Bool[Array, "batch length"],
    *,
    chunk: int,
) -> Float[Array, " batch"]:
    """Return H / log|V| of each pair, without ever holding its logits at once.

    H is the entropy of the reference model's next token in nats, averaged over the response tokens
    of both answers, V the vocabulary. None of it has a gradient.

    Args:
        hidden: last hidden states of the reference model, both answers of a pair in one row; the
            state at a position is what the next token is predicted from.
        head: the matrix from states to logits, or the function, (batch, chunk, width) to
            (batch, chunk, vocabulary).
        mask: true where the next token belongs to a response.
        chunk: positions whose logits are held together, for the whole batch.

    Returns:
        Indices in [1e-6, 1], in float32 at least. A traced row without a token has 1, phi = 1: the
        losses ignore it.

    Raises:
        ValueError: a shape or dtype is wrong, chunk is below 1, the vocabulary has one token, or a
            row of a concrete mask has no token.

    Source: Chen et al. 2024 (arXiv 2405.14953), section 4, with a mean for the paper's sum.
    """
    _check_index_arguments(hidden, head, mask, chunk)
    mask = jax.lax.stop_gradient(mask)
    relative = jnp.where(mask, relative_entropies(hidden, head, chunk=chunk), 0.0)
    return mean_index(jnp.sum(relative, axis=1), jnp.sum(mask, axis=1))


def relative_entropies(
    hidden: Float[Array, "batch length width"], head: Head, *, chunk: int
) -> Float[Array, "batch length"]:
    """Return H / log|V| of the next token at every position, without a gradient.

    Args:
        hidden: last hidden states of the reference model.
        head: the matrix from states to logits, or the function, (batch, chunk, width) to
            (batch, chunk, vocabulary).
        chunk: positions whose logits are held together, for the whole batch.
    """
    hidden = jax.lax.stop_gradient(hidden)
    to_logits = head if callable(head) else _product(jax.lax.stop_gradient(head))
    greatest = math.log(jax.eval_shape(to_logits, hidden[:, :1]).shape[-1])
    return _entropies(hidden, to_logits, chunk) / greatest


def _product(head: Array) -> Callable[[Array], Array]:
    return lambda hidden: jnp.matmul(hidden, head, preferred_element_type=working_dtype(hidden))


def mean_index(total: Float[Array, "*batch"], number: Array) -> Float[Array, "*batch"]:
    """Return the index of pairs from sums of `relative_entropies` over their response tokens.

    Args:
        total: the sums.
        number: how many tokens each sum has; a pair without a token has 1.
    """
    index = total / jnp.maximum(number, 1).astype(total.dtype)
    return jnp.where(number > 0, jnp.clip(index, LEAST_INDEX, 1.0), 1.0)


def dispersion_from_index(index: Float[Array, "*batch"], scale: Number) -> Float[Array, "*batch"]:
    """Return the dispersion phi = index^scale of each pair, as Mallows losses take it.

    Args:
        index: by `dispersion_index`, in (0, 1]; held above 1e-6.
        scale: positive, by `dispersion_scale`.

    Returns:
        Shape of the indices, in (0, 1] and in float32 at least.

    Raises:
        ValueError: the dtype is wrong, the scale is not positive, a concrete index leaves (0, 1].

    Source: Chen et al. 2024 (arXiv 2405.14953), section 4.
    """
    check_scalars(check_positive, scale=scale)
    index = _read_index(index)
    # Not below the least normal number: phi is positive.
    return jnp.maximum(jnp.exp(scale * jnp.log(index)), jnp.finfo(index.dtype).tiny)


def dispersion_scale(
    index: Float[Array, " data"], *, weights: Float[Array, " data"] | None = None
) -> Float[Array, ""]:
    """Return 1 / (2 mean(-log index)), by which Mallows weights have the mean one over the data.

    The weight of a pair is c = -2 log phi, phi = index^scale.

    Args:
        index: indices of the data set, by `dispersion_index`.
        weights: optional share of each pair in the mean.

    Raises:
        ValueError: there is no index, one leaves (0, 1], or all are 1; the weights are not one
            floating number per index, or concrete ones are negative or all zero.
    """
    index = _read_index(index)
    if index.size == 0:
        raise refuse("index", index, "it is empty", "give the indices of the data set")
    weights = jnp.ones_like(index) if weights is None else _read_weights(weights, index)
    mean = jnp.sum(-weights * jnp.log(index)) / jnp.sum(weights)
    rule = "every index that counts is 1 up to rounding, so no scale gives c a mean of one"
    rounding = 16 * float(jnp.finfo(index.dtype).eps)
    require_known("index", mean, lambda m: m > rounding, rule, "give data that differ")
    return 1 / (2 * mean)


def _read_weights(weights: Array, index: Array) -> Array:
    require_floating(weights=weights)
    if weights.shape != index.shape:
        rule = f"they must be one per index, shape {list(index.shape)}"
        raise refuse("weights", weights, rule, "leave them out for equal shares")
    rule, repair = "they must be 0 or more, and one of them positive", "give shares"
    require_known("weights", weights, lambda w: (w >= 0) & w.any(), rule, repair)
    return jnp.asarray(weights).astype(index.dtype)


def _entropies(hidden: Array, to_logits: Callable[[Array], Array], chunk: int) -> Array:
    """Entropy at every position; the batch stays whole, so that it may be divided over devices."""
    batch, length, width = hidden.shape
    chunk = min(chunk, length)
    number = -(-length // chunk)
    padded = jnp.pad(hidden, ((0, 0), (0, number * chunk - length), (0, 0)))
    chunks = jnp.moveaxis(padded.reshape(batch, number, chunk, width), 1, 0)
    entropy = jax.lax.map(lambda h: _entropy(jax.lax.stop_gradient(to_logits(h))), chunks)
    return jnp.moveaxis(entropy, 0, 1).reshape(batch, -1)[:, :length]


def _entropy(logits: Array) -> Array:
    """Entropy of the softmax over the last axis, in nats."""
    logits = logits.astype(working_dtype(logits))
    shifted = logits - jnp.max(logits, axis=-1, keepdims=True)
    mass = jnp.exp(shifted)
    total = jnp.sum(mass, axis=-1)
    # A logit of minus infinity has no share in the sum.
    moment = jnp.sum(jnp.where(mass > 0, mass * shifted, 0.0), axis=-1)
    return jnp.log(total) - moment / total


def _read_index(index: Array) -> Array:
    require_floating(index=index)
    rule, repair = "it must lie in (0, 1]", "`dispersion_index` gives such values"
    require_known("index", index, lambda v: (v > 0) & (v <= 1), rule, repair)
    return jnp.maximum(index.astype(working_dtype(index)), LEAST_INDEX)


def _check_index_arguments(hidden: Array, head: Head, mask: Array, chunk: int) -> None:
    require_floating(hidden=hidden)
    if hidden.ndim != 3 or 0 in hidden.shape:
        rule = "it must have shape (batch, length, width), none of them 0"
        raise refuse("hidden", hidden, rule, "give the states of every position")
    if getattr(mask, "dtype", None) != jnp.bool_ or mask.shape != hidden.shape[:2]:
        rule = f"it must hold booleans of shape {list(hidden.shape[:2])}"
        raise refuse("mask", mask, rule, "give true where a response token follows")
    check_count("chunk", chunk)
    _check_head(head, hidden)
    known = known_values(mask)
    if known is not None and not known.any(axis=1).all():
        rows = np.flatnonzero(~known.any(axis=1)).tolist()
        raise refuse("mask", mask, f"its rows {rows} hold no response token", "leave them out")


def _check_head(head: Head, hidden: Array) -> None:
    if callable(head):
        vocabulary = jax.eval_shape(head, hidden[:, :1]).shape[-1]
    else:
        require_floating(head=head)
        if head.ndim != 2 or head.shape[0] != hidden.shape[2] or head.dtype != hidden.dtype:
            rule = f"it must have shape ({hidden.shape[2]}, vocabulary) and dtype {hidden.dtype}"
            raise refuse("head", head, rule, "transpose it, or convert it")
        vocabulary = head.shape[1]
    if vocabulary < 2:
        rule = "it must have two tokens or more"
        raise refuse("the vocabulary", vocabulary, rule, "give the whole head")
