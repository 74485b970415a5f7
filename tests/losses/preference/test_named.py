"""The Bradley-Terry loss by hand, and its laws."""

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax.losses import preference


def test_bradley_terry_by_hand():
    chosen, rejected = jnp.asarray([0.0, 2.0, -1.0]), jnp.asarray([0.0, 0.0, 1.0])
    # log(1 + e^0) = log 2;  log(1 + e^-2);  log(1 + e^2).
    np.testing.assert_allclose(
        preference.bradley_terry(chosen, rejected), np.log1p(np.exp([0.0, -2.0, 2.0])), rtol=1e-6
    )
    # d/d(chosen) = -(1 - sigmoid(margin)).
    slope = jax.grad(lambda c: preference.bradley_terry(c, rejected).sum())(chosen)
    np.testing.assert_allclose(slope, -1 / (1 + np.exp([0.0, 2.0, -2.0])), rtol=1e-6)


def test_large_margins_stay_finite():
    loss = preference.bradley_terry(jnp.asarray([-500.0, 500.0]), jnp.asarray([500.0, -500.0]))
    np.testing.assert_allclose(loss, [1000.0, 0.0])


def test_laws():
    x, y = jax.random.normal(jax.random.key(0), (2, 5))
    plain = preference.bradley_terry(x, y)
    assert plain.shape == (5,)
    weights = jnp.asarray([1.0, 0.0, 2.0, 0.5, 1.0])
    np.testing.assert_allclose(
        preference.bradley_terry(x, y, weights=weights), weights * plain, rtol=1e-6
    )
    np.testing.assert_allclose(preference.bradley_terry(x + 7, y + 7), plain, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(preference.bradley_terry)(x, y), plain, rtol=1e-6)
    jacobian = jax.jacobian(preference.bradley_terry)(x, y)
    np.testing.assert_array_equal(jacobian, np.diag(np.diag(jacobian)))
