"""Estimators of q: hand calculations, exact values on O1, and how their variances scale with h."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.environments import LinearGaussian
from ctrl_jax.losses import advantage_rate
from tests.environments.fixtures import o1, o2, o3

POLICY = LinearGaussian(-0.3, 0.2, 0.8)


def test_by_hand():
    v, v_next, r = jnp.asarray([2.0]), jnp.asarray([3.0]), jnp.asarray([0.5])
    # .5 + (e^{-.05} 3 - 2) / .1
    expected = 0.5 + (np.exp(-0.05) * 3 - 2) / 0.1
    found = advantage_rate.difference_quotient(v, v_next, r, dt=0.1, discount=0.5)
    np.testing.assert_allclose(found, [expected], rtol=1e-6)
    found = advantage_rate.pathwise(v, v_next, r, jnp.asarray([0.7]), dt=0.1, discount=0.5)
    np.testing.assert_allclose(found, [expected - 7.0], rtol=1e-6)


def test_generalized_by_hand_and_its_limit():
    rates = jnp.asarray([[1.0], [2.0], [4.0]])
    decay = np.exp(-(0.5 + 1 / 0.2) * 0.1)
    found = advantage_rate.generalized(rates, dt=0.1, discount=0.5, memory=0.2)
    expected = [[1 + 2 * decay + 4 * decay**2], [2 + 4 * decay], [4.0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    found = advantage_rate.generalized(rates, dt=0.1, discount=0.5, memory=0.0)
    np.testing.assert_array_equal(found, rates)


def test_generalized_with_endless_memory_telescopes():
    """l = inf: h times the sum is the discounted return less the value, to the last bit of h."""
    values, rewards = jnp.asarray([[1.0], [0.3], [-0.7], [2.0]]), jnp.asarray([[0.5], [1.0], [2.0]])
    h, beta = 0.1, 0.8
    rates = advantage_rate.difference_quotient(
        values[:-1], values[1:], rewards, dt=h, discount=beta
    )
    found = h * advantage_rate.generalized(rates, dt=h, discount=beta, memory=jnp.inf)
    d = np.exp(-beta * h)
    returns = h * (0.5 + d * 1.0 + d**2 * 2.0) + d**3 * 2.0
    np.testing.assert_allclose(found[0], [returns - 1.0], rtol=1e-5)


@pytest.mark.parametrize("make", [o1, o2, o3])
def test_generator_is_the_formula_with_dense_derivatives(make):
    problem = make()
    d, m = problem.state_dimension, problem.action_dimension
    x, a = (np.random.default_rng(0).normal(size=(5, n)).astype(np.float32) for n in (d, m))

    def value(x):
        return jnp.sum(jnp.sin(x), axis=1) + x[:, 0] * x[:, -1]

    @jax.jit
    def both(x, a):
        drift, noise, reward = problem.drift(x, a), problem.diffusion(x, a), problem.reward(x, a)
        found = advantage_rate.generator(value, x, drift, noise, reward, discount=problem.discount)
        one = lambda x: value(x[None])[0]  # noqa: E731
        slope, hessian = jax.vmap(jax.grad(one))(x), jax.vmap(jax.hessian(one))(x)
        spread = jnp.einsum("bik,bjk,bij->b", noise, noise, hessian) / 2
        expected = reward + jnp.sum(drift * slope, axis=1) + spread
        return found, expected - problem.discount * value(x)

    np.testing.assert_allclose(*both(x, a), rtol=1e-4, atol=1e-5)


def test_on_o1_every_estimator_has_the_mean_q_and_its_own_variance():
    """At one state and action of O1 with the exact value, n = 40000 steps, in float64.

    V is quadratic, V(x + b h + s) with s = sigma dW, so the means differ from q by O(h), the
    difference quotient has the variance (sigma V_x)^2 / h + O(1), the pathwise form
    sigma^4 V_xx^2 / 2 + h sigma^2 (V_xx b - beta V_x)^2 + O(h^2). A sample variance scatters by
    sqrt(2 / n) = .7 % (normal), 2 % (chi-square): 8 % is four of these. Means pass 4.5 of their
    standard errors once in 147 000."""
    n, x, a = 40000, 0.6, -1.0
    with jax.enable_x64(True):
        problem = o1()
        v2, v1 = (float(c) for c in problem._coefficients(POLICY)[:2])
        q = float(problem.advantage_rate(POLICY, x, a))
        sigma, b, r = 0.3 * x + 0.5 * a, -1.0 * x + 0.6 * a, float(problem._reward(x, a))
        z = jax.random.normal(jax.random.key(0), (n,))

        def value(x):
            return problem.policy_value(POLICY, x)

        for h in (1e-2, 1e-3):
            start = jnp.full((n, 1), x)
            increment = sigma * np.sqrt(h) * z[:, None]
            now, martingale = advantage_rate.martingale_increment(value, start, increment)
            later = value(start + b * h + increment)
            rewards = jnp.full((n,), r)
            plain = advantage_rate.difference_quotient(now, later, rewards, dt=h, discount=1.0)
            smooth = advantage_rate.pathwise(now, later, rewards, martingale, dt=h, discount=1.0)
            slope = v2 * x + v1
            np.testing.assert_allclose(np.var(plain), (sigma * slope) ** 2 / h, rtol=0.08)
            drifted = h * sigma**2 * (v2 * b - slope) ** 2  # of the discount and of V_x(x + b h)
            np.testing.assert_allclose(np.var(smooth), sigma**4 * v2**2 / 2 + drifted, rtol=0.08)
            for estimate in (plain, smooth):
                error = abs(np.mean(estimate) - q)
                assert error < 4.5 * np.std(estimate) / np.sqrt(n) + 5 * h


def test_vmap_and_jit():
    rates = jax.random.normal(jax.random.key(0), (2, 4, 3))
    f = lambda r: advantage_rate.generalized(r, dt=0.1, discount=0.5, memory=0.3)  # noqa: E731
    both = jax.jit(jax.vmap(f))(rates)
    np.testing.assert_allclose(both[1], f(rates[1]), rtol=1e-6)
