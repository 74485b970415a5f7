"""Divergences against closed forms, and the variance (2) of their projections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.solvers import jacobian_trace

MATRIX = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)


def linear(x):
    return (x.reshape(x.shape[0], -1) @ MATRIX.T).reshape(x.shape)


@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_exact_divergence(at_once):
    x = jax.random.normal(jax.random.key(0), (5, 2, 3))
    value, found = jax.jit(lambda x: jacobian_trace.exact(linear, x, at_once=at_once))(x)
    np.testing.assert_allclose(value, linear(x), rtol=1e-5)
    np.testing.assert_allclose(found, np.full(5, np.trace(MATRIX)), rtol=1e-5)
    # A field that is not linear: div (x |x|^2) = (d + 2) |x|^2.
    _, found = jacobian_trace.exact(lambda x: x * jnp.sum(x**2, axis=(1, 2), keepdims=True), x)
    np.testing.assert_allclose(found, 8 * jnp.sum(x**2, axis=(1, 2)), rtol=1e-5)


def test_the_mean_over_all_signs_is_exact():
    signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 6), axis=-1).reshape(-1, 6).astype(np.float32)
    x = jnp.broadcast_to(jnp.arange(6.0)[None], signs.shape)
    value, found = jacobian_trace.projected(linear, x, jnp.asarray(signs))
    np.testing.assert_allclose(value, linear(x), rtol=1e-5)
    np.testing.assert_allclose(found.mean(), np.trace(MATRIX), rtol=1e-5)
    symmetric = (MATRIX + MATRIX.T) / 2
    expected = 2 * (np.sum(symmetric**2) - np.sum(np.diag(symmetric) ** 2))
    np.testing.assert_allclose(found.var(), expected, rtol=1e-5)


@pytest.mark.parametrize(("law", "diagonal"), [("rademacher", 1.0), ("gaussian", 0.0)])
def test_the_variance_of_random_directions(law, diagonal):
    """20 000 draws: the variance has a relative standard error of sqrt((kurtosis - 1) / n), below
    .05 for both laws here; four of them is a false alarm in 16 000."""
    x = jnp.zeros((20_000, 6))
    v = getattr(jacobian_trace, law)(jax.random.key(1), x)
    _, found = jacobian_trace.projected(linear, x, v)
    symmetric = (MATRIX + MATRIX.T) / 2
    expected = 2 * (np.sum(symmetric**2) - diagonal * np.sum(np.diag(symmetric) ** 2))
    np.testing.assert_allclose(found.var(), expected, rtol=0.2)
    standard_error = np.sqrt(expected / len(x))
    assert abs(float(found.mean()) - np.trace(MATRIX)) < 4 * standard_error


def test_gradients_pass_through():
    x = jax.random.normal(jax.random.key(2), (4, 3))

    def total(w, of):
        return jnp.sum(of(lambda x: jnp.tanh(x @ w), x)[1])

    w = jax.random.normal(jax.random.key(3), (3, 3))
    exact = jax.grad(lambda w: total(w, jacobian_trace.exact))(w)
    # d/dw of sum_n sum_k (1 - tanh^2((x w)_k)) w_kk, by differentiating that line itself.
    line = jax.grad(lambda w: jnp.sum((1 - jnp.tanh(x @ w) ** 2) * jnp.diag(w)[None]))(w)
    np.testing.assert_allclose(exact, line, rtol=1e-4, atol=1e-6)
    signs = np.stack(np.meshgrid(*[[-1.0, 1.0]] * 3), axis=-1).reshape(-1, 3).astype(np.float32)
    projected = jnp.mean(
        jnp.stack(
            [
                jax.grad(total)(
                    w,
                    lambda f, x, v=v: jacobian_trace.projected(f, x, jnp.broadcast_to(v, x.shape)),
                )
                for v in signs
            ]
        ),
        axis=0,
    )
    np.testing.assert_allclose(projected, line, rtol=1e-4, atol=1e-5)


def test_no_products_are_refused():
    with pytest.raises(ValueError, match=r"at_once: received 0; it must be a whole"):
        jacobian_trace.exact(linear, jnp.ones((1, 6)), at_once=0)


def test_an_empty_batch_has_no_divergence():
    value, trace = jacobian_trace.exact(lambda x: -x, jnp.zeros((0, 2)))
    assert value.shape == (0, 2) and trace.shape == (0,)
