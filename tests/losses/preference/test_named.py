"""The Bradley-Terry loss and BCO by hand, their laws, and the table of names."""

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


def test_bco_by_hand():
    """Two pairs at beta .5: rewards 1, 0 of the chosen, -1, 2 of the rejected answers, mean .5."""
    chosen, rejected = jnp.asarray([2.0, 0.0]), jnp.asarray([-2.0, 4.0])
    shift = jax.lax.stop_gradient(0.5 * (jnp.mean(chosen) + jnp.mean(rejected)) / 2)
    expected = np.log1p(np.exp([-0.5, 0.5])) + np.log1p(np.exp([-1.5, 1.5]))
    found = preference.bco(chosen, rejected, beta=0.5, shift=shift)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # A shift moves the threshold of both: as much up for one as down for the other.
    moved = preference.bco(chosen + 1, rejected + 1, beta=0.5, shift=shift + 0.5)
    np.testing.assert_allclose(moved, expected, rtol=1e-6)


def test_every_named_loss_takes_its_options_and_the_same_leading_arguments():
    """One value per pair, in their order, and a weight on any of them."""
    x, y = -jnp.exp(jax.random.normal(jax.random.key(1), (2, 3)))
    weights = jnp.asarray([1.0, 0.0, 2.0])
    for name, row in preference.NAMED.items():
        more = {"dispersion": jnp.full(3, 0.3)} if row.dispersed else {}
        plain = row.loss(x, y, beta=0.1, **row.defaults, **more)
        weighted = row.loss(x, y, beta=0.1, weights=weights, **row.defaults, **more)
        assert plain.shape == (3,), name
        np.testing.assert_allclose(weighted, weights * plain, rtol=1e-6, err_msg=name)
        for key, option in row.options.items():
            other = row.defaults | {key: option.default + 0.25}
            option.check(key, other[key])
            changed = row.loss(x, y, beta=0.1, **other, **more)
            assert not np.allclose(changed, plain, rtol=1e-4), (name, key)
