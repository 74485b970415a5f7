"""Policy losses: hand calculations, and the gradients (1) and (2) they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.losses import policy


def test_policy_gradient_by_hand():
    loss = policy.policy_gradient(jnp.asarray([-1.0, 0.5, 2.0]), jnp.asarray([2.0, -3.0, 0.0]))
    # -(-1)(2) = 2;  -(.5)(-3) = 1.5;  -(2)(0) = 0.
    np.testing.assert_allclose(loss, [2.0, 1.5, 0.0])


def test_clipped_surrogate_by_hand():
    log_ratio = jnp.log(jnp.asarray([1.1, 1.5, 1.5, 0.5, 0.5, 1.0]))
    advantage = jnp.asarray([2.0, 2.0, -2.0, 2.0, -2.0, 3.0])
    # clip .2, the interval [.8, 1.2]:
    #   1.1, A = 2:   min(2.2, 2.2) = 2.2      inside
    #   1.5, A = 2:   min(3.0, 2.4) = 2.4      clipped
    #   1.5, A = -2:  min(-3.0, -2.4) = -3.0   the worse of the two
    #   0.5, A = 2:   min(1.0, 1.6) = 1.0      the worse of the two
    #   0.5, A = -2:  min(-1.0, -1.6) = -1.6   clipped
    #   1.0, A = 3:   3.0
    loss = policy.clipped_surrogate(log_ratio, advantage, clip=0.2)
    np.testing.assert_allclose(loss, [-2.2, -2.4, 3.0, -1.0, 1.6, -3.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "gradient"),
    [  # of the loss in log_ratio: -ratio * A where it flows
        (1.1, 2.0, -2.2),
        (1.3, 2.0, 0.0),  # too far up with A > 0: stop
        (1.3, -2.0, 2.6),  # too far up with A < 0: come back
        (0.7, 2.0, -1.4),  # too far down with A > 0: come back
        (0.7, -2.0, 0.0),  # too far down with A < 0: stop
        (0.9, -2.0, 1.8),
    ],
)
def test_clipping_stops_the_gradient_on_one_side(ratio, advantage, gradient):
    def loss(log_ratio):
        return policy.clipped_surrogate(log_ratio, jnp.asarray([advantage]), clip=0.2)[0]

    found = jax.grad(loss)(jnp.log(jnp.asarray([ratio])))
    np.testing.assert_allclose(found, [gradient], rtol=1e-6)


def test_every_form_has_the_score_function_gradient_at_the_old_policy():
    """-A grad log pi (1), for a Gaussian policy N(mean, 1): grad log pi = action - mean."""
    actions, advantage = jnp.asarray([0.3, -1.2, 2.0]), jnp.asarray([1.0, -2.0, 0.5])
    mean = 0.7

    def log_prob(m):
        return -((actions - m) ** 2) / 2

    def through(loss):
        return jax.jacobian(lambda m: loss(log_prob(m)))(mean)

    expected = -advantage * (actions - mean)
    np.testing.assert_allclose(
        through(lambda lp: policy.policy_gradient(lp, advantage)), expected, rtol=1e-6
    )
    old = log_prob(mean)
    np.testing.assert_allclose(
        through(lambda lp: policy.clipped_surrogate(lp - old, advantage, clip=0.2)),
        expected,
        rtol=1e-6,
    )


def test_value_gradient_by_hand():
    mean = jnp.asarray([[1.0, 2.0], [0.5, -1.0]])
    gradient = jnp.asarray([[3.0, -1.0], [2.0, 4.0]])
    # -(1*3 + 2*-1) = -1;  -(.5*2 - 1*4) = 3.
    np.testing.assert_allclose(policy.value_gradient(mean, gradient), [-1.0, 3.0])
    # Its gradient in the mean is -grad V, (2).
    slope = jax.grad(lambda m: policy.value_gradient(m, gradient).sum())(mean)
    np.testing.assert_allclose(slope, -gradient)


LOSSES = {
    "policy_gradient": lambda x, y, **k: policy.policy_gradient(x, y, **k),
    "clipped_surrogate": lambda x, y, **k: policy.clipped_surrogate(x, y, clip=0.2, **k),
    "value_gradient": lambda x, y, **k: policy.value_gradient(x[:, None], y[:, None], **k),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_laws_of_every_policy_loss(loss):
    x, y = jax.random.normal(jax.random.key(0), (2, 5))
    plain = loss(x, y)
    assert plain.shape == (5,)
    weights = jnp.asarray([1.0, 0.0, 2.0, 0.5, 1.0])
    np.testing.assert_allclose(loss(x, y, weights=weights), weights * plain, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(loss)(x, y), plain, rtol=1e-6)
    np.testing.assert_allclose(
        jax.vmap(loss)(jnp.stack([x, y]), jnp.stack([y, x])),
        jnp.stack([plain, loss(y, x)]),
        rtol=1e-6,
    )
    # One value per example: none depends on another.
    jacobian = jax.jacobian(loss)(x, y)
    np.testing.assert_array_equal(jacobian, np.diag(np.diag(jacobian)))
