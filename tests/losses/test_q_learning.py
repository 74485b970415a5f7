"""Little q-learning: the normalized rate, the martingale at the optimum, and its two losses.

The optimum is fixture O4's, in closed form: J* = w V + int (theta / 2) log(pi theta / g^2) ds.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.environments import GaussianSteering
from ctrl_jax.losses import q_learning
from ctrl_jax.processes import VP

WEIGHT, THETA = 0.8, 0.3


def environment():
    """O4, in the precision of the test that asks."""
    return GaussianSteering(VP(0.2, 2.0, horizon=3.0), 1.0, 0.5, 2.0, 2.5, 2 / WEIGHT)


@pytest.mark.parametrize("rate", [0.2, 1.7])
def test_the_rate_of_a_gaussian_is_normalized(float64, rate):
    """int exp(q / theta) da = 1, in one dimension by quadrature and hence in d."""
    a = jnp.linspace(-12.0, 12.0, 20001)
    one, three = (q_learning.gaussian_rate(a**2, rate, d, temperature=THETA) for d in (1, 3))
    np.testing.assert_allclose(jnp.trapezoid(jnp.exp(one / THETA), a), 1.0, rtol=1e-12)
    peak = float(one[10000])
    np.testing.assert_allclose(three - one, 2 * peak, atol=1e-12)


def test_the_rate_is_theta_times_the_log_density(float64):
    a, mean, rate = jnp.asarray([0.3, -1.2]), jnp.asarray([0.1, 0.4]), 0.9
    std = np.sqrt(THETA / (2 * rate))
    q = q_learning.gaussian_rate(jnp.sum((a - mean) ** 2), rate, 2, temperature=THETA)
    log_prob = jax.scipy.stats.norm.logpdf(a, mean, std).sum()
    np.testing.assert_allclose(q, THETA * log_prob, rtol=1e-12)


def optimal_value(s, y):
    """J*(s, y), y of shape (n,)."""
    nodes, weights = np.polynomial.legendre.leggauss(24)
    span = 3.0 - s
    g2 = 0.2 + 0.6 * (span / 2 * (nodes + 1))  # of the times left, counted from the data
    entropy = span / 2 * jnp.sum(weights * THETA / 2 * jnp.log(jnp.pi * THETA / g2))
    return WEIGHT * environment().optimal_value(s, y) + entropy


def step_from(s, y, a, noise, dt):
    """One Euler-Maruyama step of the sampler under the action, and its residual at (J*, q*)."""
    g2 = environment().diffusion(s) ** 2
    moved = y + (g2 / 2 * y + g2 * a) * dt + jnp.sqrt(g2 * dt) * noise
    score = environment().score(3.0 - s, y)
    mean, _ = environment().optimal_policy(s, y)
    q = q_learning.gaussian_rate((a - mean) ** 2, g2, 1, temperature=THETA)
    reward = -g2 * (score - a) ** 2
    return moved, reward, q, mean


@jax.jit
def conditional_mean(s, y, a, dt):
    """E[delta | y, a] at the optimum by Gauss-Hermite quadrature over the noise."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    y, a = (jnp.full(24, v, float) for v in (y, a))
    moved, reward, q, _ = step_from(s, y, a, jnp.asarray(nodes), dt)
    residual = q_learning.martingale_residual(
        optimal_value(s, y), optimal_value(s + dt, moved), reward, q, dt=dt
    )
    return jnp.sum(weights * residual) / jnp.sqrt(2 * jnp.pi)


def test_the_residual_has_a_mean_of_second_order(float64):
    """At any state and action, the optimal ones or not: so a sum over steps is O(dt)."""
    for s, y, a in ((0.3, -1.0, 2.0), (1.5, 0.7, -3.0), (2.6, 2.0, 0.5)):
        sizes = jnp.asarray([0.04, 0.02, 0.01, 0.005])
        means = np.asarray([conditional_mean(jnp.asarray(s), y, a, dt) for dt in sizes])
        orders = np.log2(means[:-1] / means[1:])
        assert abs(orders[-1] - 2) < 0.1, (s, y, a, orders)


PATHS, STEPS = 8000, 300


@jax.jit
def z_scores(key, shifts):
    """Means of a path's sums of delta times 1, y and a - mu*, over their standard errors, under a
    behavior that is not optimal; for each pair of shifts of the value and of the mean of q."""
    dt = 3.0 / STEPS

    def body(carry, inputs):
        y, totals = carry
        step, key = inputs
        s = step * dt
        action_key, noise_key = jax.random.split(key)
        behavior = environment().score(3.0 - s, y) - 0.1 * y + 0.3
        a = behavior + 1.3 * jax.random.normal(action_key, y.shape)
        noise = jax.random.normal(noise_key, y.shape)
        moved, reward, q, mean = step_from(s, y, a, noise, dt)
        g2 = environment().diffusion(s) ** 2
        now, later = (
            optimal_value(jnp.minimum(time, 3.0 - 1e-6), x) for time, x in ((s, y), (s + dt, moved))
        )
        tests = jnp.stack([jnp.ones_like(y), y, a - mean])

        @jax.vmap
        def terms(shift):
            shifted = q + g2 * ((a - mean) ** 2 - (a - mean - shift[1]) ** 2)
            values = now + shift[0] * y, later + shift[0] * moved
            return tests * q_learning.martingale_residual(*values, reward, shifted, dt=dt)[None]

        return (moved, totals + terms(shifts)), None

    start_key, path_key = jax.random.split(key)
    y = 0.98 * jax.random.normal(start_key, (PATHS,))
    inputs = (jnp.arange(STEPS, dtype=y.dtype), jax.random.split(path_key, STEPS))
    (_, totals), _ = jax.lax.scan(body, (y, jnp.zeros((len(shifts), 3, PATHS))), inputs)
    return jnp.abs(totals.mean(axis=2) / totals.std(axis=2)) * PATHS**0.5


def test_the_martingale_holds_under_any_behavior_at_the_optimum_only():
    """|z| < 4.5 for three statistics: false alarm 2e-5; the bias O(dt) is a fraction of the
    error. A value wrong by .1 y, or a mean of q wrong by .1, is seen."""
    right, value, mean = z_scores(jax.random.key(0), jnp.asarray([[0, 0], [0.1, 0], [0, 0.1]]))
    assert (right < 4.5).all()
    assert value.max() > 10
    assert mean.max() > 10


def all_paths(steps=6):
    """Every path of a random walk of +-1 from 0: expectations are means over rows."""
    moves = np.asarray(list(itertools.product((-1.0, 1.0), repeat=steps)))
    return jnp.asarray(np.concatenate([np.zeros((len(moves), 1)), moves.cumsum(axis=1)], axis=1))


def losses_of(slope, paths, loss):
    """J = slope x before the end, x at the end: the true value has slope 1."""
    later = jnp.concatenate([slope * paths[:, 1:-1], paths[:, -1:]], axis=1)
    zero = jnp.zeros_like(later)
    return jnp.mean(jnp.sum(loss(slope * paths[:, :-1], later, zero, zero, dt=1.0), axis=1))


def test_the_full_gradient_flattens_the_value(float64):
    """With the next value fixed the slope 1 is stationary. With the full gradient the loss is
    (n - 1) slope^2 + 1 + (n - 1)(1 - slope)^2, whose minimum is the slope 1/2, exactly."""
    paths = all_paths()

    def full(*arguments, dt):
        return q_learning.martingale_residual(*arguments, dt=dt) ** 2 / 2

    semi = jax.grad(lambda slope: losses_of(slope, paths, q_learning.squared))
    whole = jax.grad(lambda slope: losses_of(slope, paths, full))
    np.testing.assert_allclose(semi(1.0), 0.0, atol=1e-14)
    assert abs(semi(0.5)) > 1
    np.testing.assert_allclose(whole(0.5), 0.0, atol=1e-14)
    assert abs(whole(1.0)) > 1


def test_moments_are_the_descent_of_the_squared_loss():
    """-delta grad J for the value, and dt theta times -delta grad log pi for the policy."""
    rng = np.random.default_rng(0)
    x, later, reward, square = (jnp.asarray(rng.normal(size=5), jnp.float32) for _ in range(4))
    weights = jnp.linspace(0.5, 2.0, 5)
    dt = 0.1

    def rate(m):
        return q_learning.gaussian_rate((square - m) ** 2, 0.7, 1, temperature=THETA)

    def loss(c, m):
        fitted = q_learning.squared(c * x, c * later, reward, rate(m), dt=dt, weights=weights)
        return jnp.sum(fitted)

    def moments(c, m):
        residual = q_learning.martingale_residual(c * x, c * later, reward, rate(m), dt=dt)
        value = q_learning.moment(residual, c * x, weights=weights)
        policy = q_learning.moment(residual, rate(m), weights=weights)
        return jnp.sum(value), jnp.sum(policy)

    by_value, by_policy = jax.grad(loss, (0, 1))(0.8, 0.3)
    np.testing.assert_allclose(jax.grad(lambda c: moments(c, 0.3)[0])(0.8), by_value, rtol=1e-5)
    np.testing.assert_allclose(
        dt * jax.grad(lambda m: moments(0.8, m)[1])(0.3), by_policy, rtol=1e-5
    )
    residual = q_learning.martingale_residual(x, later, reward, square, dt=dt)
    weighted = q_learning.martingale_residual(x, later, reward, square, dt=dt, weights=weights)
    np.testing.assert_allclose(weighted, weights * residual, rtol=1e-6)
