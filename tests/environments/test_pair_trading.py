"""PairTrading against fixture O3, its HJB equation, autodiff and a hand calculation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.environments import LinearGaussian
from tests.environments.fixtures import o3

POLICY, SPREAD = LinearGaussian(-6.0, 2.0, 0.9), (0.2, 0.15)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def test_fixture():
    problem = o3()
    phi = problem.value_coefficients(problem.optimal_linear_policy())
    np.testing.assert_allclose(phi, [12.8, -2.58666667, 1.24079598], atol=1e-8)
    # The fixture's wealth is v = 1, so log v = 0.
    np.testing.assert_allclose(problem.optimal_value(0.0, 0.3), 1.0407958848, atol=1e-9)
    mean, variance = problem.optimal_policy(0.3)
    np.testing.assert_allclose(mean, (1.0 * (0.1 - 0.3) + 0.03125 + 0.03) / 0.0625, rtol=1e-12)
    np.testing.assert_allclose(variance, 0.05 * 0.5 / 0.0625, rtol=1e-12)


def generator(value_of, z, h):
    """r + b . grad V + tr(s s^T Hess V) / 2 - beta V of V = value_of(problem, .) at z and h."""
    problem = o3()
    value = partial(value_of, problem)
    slope, hessian = jax.vmap(jax.grad(value))(z), jax.vmap(jax.hessian(value))(z)
    noise = problem.diffusion(z, h)
    spread = jnp.einsum("bik,bjk,bij->b", noise, noise, hessian) / 2
    q = problem.reward(z, h) + jnp.sum(problem.drift(z, h) * slope, axis=1) + spread
    return q - problem.discount * jax.vmap(value)(z)


def test_the_hjb_equation():
    """q* = gamma log pi*, with the optimal value's derivatives by autodiff."""
    problem, rng = o3(), np.random.default_rng(0)
    z, h = jnp.asarray(rng.normal(size=(20, 2))), jnp.asarray(3 * rng.normal(size=(20, 1)))
    q = jax.jit(partial(generator, lambda problem, z: problem.optimal_value(z[0], z[1])))(z, h)
    mean, variance = problem.optimal_policy(z[:, 1])
    square = (h[:, 0] - mean) ** 2 / variance
    log_policy = -square / 2 - jnp.log(2 * jnp.pi * variance) / 2
    np.testing.assert_allclose(q, problem.temperature * log_policy, atol=1e-9)


def test_the_value_of_a_policy_solves_its_equation():
    """E_pi[q - gamma log pi] = 0 at every state, the mean over actions by Gauss-Hermite."""
    problem = o3()
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    x = 0.7
    h = jnp.asarray(POLICY.slope * x + POLICY.intercept + POLICY.std * nodes)[:, None]
    z = jnp.broadcast_to(jnp.asarray([[0.4, x]]), (8, 2))
    q = jax.jit(partial(generator, lambda p, z: p.policy_value(POLICY, z[0], z[1])))(z, h)
    entropy = problem.temperature / 2 * np.log(2 * np.pi * np.e * POLICY.std**2)
    np.testing.assert_allclose(np.sum(weights / weights.sum() * q) + entropy, 0.0, atol=1e-10)


def test_the_gradient_is_that_of_the_value():
    problem = o3()
    exact = jax.grad(lambda p: problem.mean_value(p, 1.0, SPREAD))(POLICY)
    np.testing.assert_allclose(
        jnp.stack(problem.policy_gradient(POLICY, SPREAD)), jnp.stack(exact), rtol=1e-9
    )
    best = problem.optimal_linear_policy()
    np.testing.assert_allclose(jnp.stack(problem.policy_gradient(best, SPREAD)), 0.0, atol=1e-9)


def test_the_mean_value_is_the_mean_of_values():
    problem, x = o3(), jnp.asarray([-0.2, 0.6])
    values = problem.policy_value(POLICY, jnp.asarray([0.5, 1.5]), x)
    moments = (jnp.mean(x), jnp.mean(x**2))
    np.testing.assert_allclose(problem.mean_value(POLICY, 1.0, moments), jnp.mean(values))


def test_log_wealth_is_what_the_wealth_equation_says():
    """d log v has the drift h m + r - h^2 eta^2 / 2 by Ito's formula; the noise is shared."""
    problem = o3()
    z, h = jnp.asarray([[1.0, 0.3]]), jnp.asarray([[2.0]])
    m = 1.0 * (0.1 - 0.3) + 0.25**2 / 2 + 0.4 * 0.3 * 0.25
    expected = [[2.0 * m + 0.02 - 4.0 * 0.0625 / 2, -0.2]]
    np.testing.assert_allclose(problem.drift(z, h), expected, rtol=1e-12)
    np.testing.assert_allclose(problem.diffusion(z, h), [[[0.5], [0.25]]])
    np.testing.assert_allclose(problem.reward(z, h), [1.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rho": 1.2}, r"rho: received 1.2; .* must lie in \[-1, 1\]"),
        ({"eta": 0.0}, "PairTrading.eta: received 0.0; it must be above"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        o3(**changes)
