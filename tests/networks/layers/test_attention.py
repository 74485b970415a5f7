"""Attention against its definition in NumPy, and the gradient that is turned."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.networks.layers import attention
from ctrl_jax.networks.layers.linear import gradient_turned

# Called with unpacked arguments.
attend: Any = jax.jit(attention.attend, static_argnames=("scale", "cap"))
BATCH, TOKENS, SEEN, WIDTH = 2, 3, 5, 4


def by_definition(query, key, value, mask, scale=WIDTH**-0.5, cap=None):
    """Equation (1), one head of one row at a time, in double precision."""
    query, key, value = (np.asarray(part, np.float64) for part in (query, key, value))
    groups, out = query.shape[2] // key.shape[2], np.zeros_like(query)
    for row in range(BATCH):
        for head in range(query.shape[2]):
            scores = query[row, :, head] @ key[row, :, head // groups].T * scale
            scores = scores if cap is None else cap * np.tanh(scores / cap)
            weights = np.where(mask[row], np.exp(scores), 0.0)
            weights /= weights.sum(axis=1, keepdims=True)
            out[row, :, head] = weights @ value[row, :, head // groups]
    return out


@pytest.fixture(scope="module", params=[(4, 4), (4, 2), (4, 1)], ids=str)
def arguments(request):
    draw, (heads, key_heads) = np.random.default_rng(0), request.param
    query, key, value = (
        draw.normal(size=(BATCH, tokens, number, WIDTH)).astype(np.float32)
        for tokens, number in ((TOKENS, heads), (SEEN, key_heads), (SEEN, key_heads))
    )
    mask = draw.random((BATCH, TOKENS, SEEN)) < 0.5
    mask[:, :, 0], mask[0, :, 4] = True, False
    return tuple(map(jnp.asarray, (query, key, value, mask)))


def test_attention_is_its_definition(arguments):
    np.testing.assert_allclose(attend(*arguments), by_definition(*arguments), rtol=0, atol=2e-6)


def test_gradients_are_those_of_the_library(arguments):
    """And what is not seen has none."""
    *parts, mask = arguments

    def slopes(function):
        total = jax.grad(lambda *parts: jnp.sum(jnp.sin(function(*parts))), (0, 1, 2))
        return jax.jit(total)(*parts)

    found = slopes(lambda *parts: attend(*parts, mask))
    library = slopes(lambda *parts: jax.nn.dot_product_attention(*parts, mask=mask[:, None]))
    for mine, theirs in zip(found, library, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=5e-6)
    unseen = ~np.asarray(mask).any(axis=1)
    assert unseen.any() and not np.asarray(found[1])[unseen].any()


def test_scaled_and_bounded_scores(arguments):
    """As their definition, and with the slopes of the same in plain JAX."""
    *parts, mask = arguments
    options = {"scale": 0.8, "cap": 1.5}
    expected = by_definition(*arguments, **options)
    np.testing.assert_allclose(attend(*parts, mask, **options), expected, rtol=0, atol=2e-6)

    def plain(query, key, value):
        groups = query.shape[2] // key.shape[2]
        key, value = (jnp.repeat(part, groups, axis=2) for part in (key, value))
        scores = 1.5 * jnp.tanh(0.8 * jnp.einsum("bihw,bjhw->bhij", query, key) / 1.5)
        weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf))
        return jnp.einsum("bhij,bjhw->bihw", weights, value)

    def slopes(function):
        return jax.jit(jax.grad(lambda *p: jnp.sum(jnp.sin(function(*p))), (0, 1, 2)))(*parts)

    found, library = slopes(lambda *p: attend(*p, mask, **options)), slopes(plain)
    for mine, theirs in zip(found, library, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=5e-6)


def test_half_precision_weighs_in_single(arguments):
    *parts, mask = arguments
    half = attend(*(part.astype(jnp.bfloat16) for part in parts), mask)
    assert half.dtype == jnp.bfloat16
    # Eight bits of every input and of the weights.
    np.testing.assert_allclose(half.astype(np.float32), attend(*parts, mask), rtol=0, atol=0.05)


def test_a_token_that_sees_none_has_a_finite_mean(arguments):
    """The mean is of all values, whatever the scores: these have no gradient."""
    *parts, mask = arguments
    blind = attend(*parts, mask & (jnp.arange(TOKENS) > 0)[None, :, None])
    assert np.isfinite(blind).all()
    np.testing.assert_array_equal(blind[:, 1:], attend(*parts, mask)[:, 1:])

    def first(query, key):
        none = mask & (jnp.arange(TOKENS) > 0)[None, :, None]
        return jnp.sum(jnp.sin(attend(query, key, parts[2], none)[:, 0]))

    for slope in jax.jit(jax.grad(first, (0, 1)))(*parts[:2]):
        np.testing.assert_array_equal(slope, np.zeros_like(slope))


def test_turning_changes_no_derivative():
    draw = np.random.default_rng(1)
    x, w, dw = (jnp.asarray(draw.normal(size=s), jnp.float32) for s in ((3, 7), (7, 2), (7, 2)))

    def plain(w):
        return jnp.sin(x @ w)

    def turned(w):
        return jnp.sin(x @ gradient_turned(w))

    def derivatives(f):
        forward, backward = jax.jvp(f, (w,), (dw,))[1], jax.vjp(f, w)[1](f(w))[0]
        each = jax.vmap(jax.jacrev(f))(jnp.stack([w, dw]))
        return forward, backward, each, jax.hessian(lambda w: jnp.sum(f(w)))(w)

    np.testing.assert_array_equal(turned(w), plain(w))
    found, expected = jax.jit(lambda: (derivatives(turned), derivatives(plain)))()
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)
