"""Mallows losses: what they become at the ends of the dispersion."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax.losses import preference

X, Y = jnp.asarray([2.0, -1.0, 0.5, 30.0]), jnp.asarray([1.0, 1.5, 0.5, -40.0])
NEUTRAL = float(np.exp(-0.5))


def test_by_hand():
    # phi = e^-1: c = 2, beta = .5, m = 1: -log sigmoid(1) = .31326; (2 - 1)^2; sigmoid(1 - .5).
    one, zero, phi = jnp.ones(1), jnp.zeros(1), jnp.exp(-jnp.ones(1))
    options: dict[str, Any] = {"beta": 0.5, "dispersion": phi}
    np.testing.assert_allclose(preference.mallows_theta(one, zero, **options), 0.313262, rtol=1e-5)
    np.testing.assert_allclose(preference.mallows_ipo(one, zero, **options), 1.0, rtol=1e-6)
    np.testing.assert_allclose(
        preference.mallows_simpo(one, zero, gamma=0.5, **options), 0.474077, rtol=1e-5
    )
    # g(1) = 1/(1 + phi).
    np.testing.assert_allclose(
        preference.mallows_phi(one, zero, beta=1.0, dispersion=phi), np.log1p(np.exp(-1)), rtol=1e-6
    )


def test_weight_one_is_the_loss_without_dispersion():
    plain: dict[str, Any] = {"beta": 0.1}
    neutral: dict[str, Any] = {"beta": 0.1, "dispersion": NEUTRAL}
    np.testing.assert_allclose(
        preference.mallows_theta(X, Y, **neutral), preference.dpo(X, Y, **plain), rtol=1e-6
    )
    np.testing.assert_allclose(
        preference.mallows_ipo(X, Y, **neutral), preference.ipo(X, Y, **plain), rtol=1e-5
    )
    np.testing.assert_allclose(
        preference.mallows_simpo(X, Y, gamma=0.3, **neutral),
        preference.simpo(X, Y, gamma=0.3, **plain),
        rtol=1e-6,
    )


def test_the_sigmoid_surrogate_is_theta_at_half_the_temperature():
    phi = jnp.asarray([0.05, 0.3, 0.7, 1.0])
    np.testing.assert_allclose(
        preference.mallows_phi(X, Y, beta=0.2, dispersion=phi, link="sigmoid"),
        preference.mallows_theta(X, Y, beta=0.1, dispersion=phi),
        rtol=1e-6,
    )


def test_full_dispersion_takes_a_pair_out():
    for loss in (preference.mallows_theta, preference.mallows_phi):
        value, slope = jax.value_and_grad(
            lambda x, loss=loss: jnp.sum(loss(x, Y, beta=0.1, dispersion=jnp.ones(4)))
        )(X)
        np.testing.assert_allclose(value, 4 * np.log(2), rtol=1e-6)
        np.testing.assert_array_equal(slope, 0.0)


def test_the_slope_in_the_dispersion(float64):
    phi = jnp.asarray([0.1, 0.4, 0.6, 0.9], jnp.float64)
    x, y = X.astype(jnp.float64), Y.astype(jnp.float64)
    for loss in (preference.mallows_theta, preference.mallows_phi, preference.mallows_ipo):

        def total(p, loss=loss):
            return loss(x, y, beta=0.1, dispersion=p)

        slope = jnp.diag(jax.jit(jax.jacobian(total))(phi))
        numerical = (total(phi + 1e-6) - total(phi - 1e-6)) / 2e-6
        np.testing.assert_allclose(slope, numerical, rtol=1e-6)
