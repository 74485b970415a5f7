"""Value losses: hand calculations and laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.losses import value


def test_martingale_by_hand():
    loss = value.martingale(jnp.asarray([1.0, -2.0]), jnp.asarray([3.0, -1.0]))
    # (3 - 1)^2 / 2 = 2;  (-1 + 2)^2 / 2 = .5.
    np.testing.assert_allclose(loss, [2.0, 0.5])
    slope = jax.grad(lambda v: value.martingale(v, jnp.asarray([3.0, -1.0])).sum())(
        jnp.asarray([1.0, -2.0])
    )
    np.testing.assert_allclose(slope, [-2.0, -1.0])  # value - return


def test_temporal_difference_by_hand():
    loss = value.temporal_difference(
        jnp.asarray([1.0, 0.0]), jnp.asarray([2.0, -1.0]), jnp.asarray([0.5, 1.0])
    )
    # (2 + .5 - 1)^2 / 2 = 1.125;  (-1 + 1 - 0)^2 / 2 = 0.
    np.testing.assert_allclose(loss, [1.125, 0.0])


def test_a_martingale_has_no_mean_temporal_difference():
    """V = E[G | x] minimizes (1): on a symmetric walk the best constant is the mean return."""
    returns = jnp.asarray([1.0, 2.0, 6.0])
    slope = jax.grad(lambda v: value.martingale(jnp.full(3, v), returns).sum())(3.0)
    assert float(slope) == 0.0


LOSSES = {
    "martingale": value.martingale,
    "temporal_difference": lambda v, n, **k: value.temporal_difference(v, n, jnp.sin(n), **k),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_laws_of_every_value_loss(loss):
    x, y = jax.random.normal(jax.random.key(0), (2, 5))
    plain = loss(x, y)
    assert plain.shape == (5,)
    assert (plain >= 0).all()
    weights = jnp.asarray([1.0, 0.0, 2.0, 0.5, 1.0])
    np.testing.assert_allclose(loss(x, y, weights=weights), weights * plain, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(loss)(x, y), plain, rtol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(loss)(jnp.stack([x, y]), jnp.stack([y, x])),
        jnp.stack([plain, loss(y, x)]),
        rtol=1e-6,
    )
    jacobian = jax.jacobian(loss)(x, y)
    np.testing.assert_array_equal(jacobian, np.diag(np.diag(jacobian)))
