"""VectorLinearQuadratic against fixture O2, SciPy's Riccati solver, its HJB equation, autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from ctrl_jax.environments import LinearGaussian, LinearQuadratic
from ctrl_jax.environments.matrix_equations import solve_lyapunov, solve_riccati
from tests.environments.fixtures import o2


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def start():
    """First and second raw moments of the start law."""
    return jnp.asarray([0.4, -0.3]), jnp.asarray([[0.6, -0.1], [-0.1, 0.5]])


def some_policy():
    return LinearGaussian(
        jnp.asarray([[-0.2, 0.1], [0.3, -0.4]]), jnp.asarray([0.3, -0.2]), jnp.asarray([0.5, 0.9])
    )


def test_fixture():
    problem = o2()
    np.testing.assert_allclose(
        problem._riccati(), [[0.6524990691, 0.1310120642], [0.1310120642, 0.3480786037]], atol=1e-9
    )
    slope = [[-0.6143264924, 0.0057008909], [-0.2932164958, -0.6260147547]]
    np.testing.assert_allclose(problem.optimal_slope(), slope, atol=1e-9)
    x = jnp.asarray([0.4, -0.7])
    np.testing.assert_allclose(problem.optimal_value(x), -0.0984681364, atol=1e-9)
    mean, covariance = problem.optimal_policy(x)
    np.testing.assert_allclose(mean, np.asarray(slope) @ np.asarray(x), atol=1e-9)
    np.testing.assert_allclose(covariance, 0.2 * np.linalg.inv([[1.0, 0.1], [0.1, 0.8]]))


@pytest.mark.parametrize("d", [1, pytest.param(3, marks=pytest.mark.slow), 5])
def test_riccati_and_lyapunov_against_scipy(d):
    rng = np.random.default_rng(d)
    F, B = rng.normal(size=(d, d)), rng.normal(size=(d, 2))
    root = rng.normal(size=(d + 2, d + 2))
    cost = root @ root.T + 0.1 * np.eye(d + 2)
    M, R, N = cost[:d, :d], cost[d:, :d], cost[d:, d:]
    expected = scipy.linalg.solve_continuous_are(F, B, M, N, s=R.T)
    found = jax.jit(solve_riccati)(*(jnp.asarray(m) for m in (F, B, M, N, R)))
    np.testing.assert_allclose(found, expected, atol=1e-8)
    stable = F - 5 * np.eye(d)
    np.testing.assert_allclose(
        jax.jit(solve_lyapunov)(jnp.asarray(stable), jnp.asarray(M)),
        scipy.linalg.solve_continuous_lyapunov(stable.T, -M),
        atol=1e-10,
    )


def test_the_hjb_equation():
    """q* = gamma log pi*, with the optimal value's derivatives by autodiff."""
    rng = np.random.default_rng(0)

    @jax.jit
    def both_sides(x, a):
        problem = o2()
        slope = jax.vmap(jax.grad(problem.optimal_value))(x)
        hessian = jax.vmap(jax.hessian(problem.optimal_value))(x)
        noise = problem.diffusion(x, a)
        spread = jnp.einsum("bik,bjk,bij->b", noise, noise, hessian) / 2
        q = problem.reward(x, a) + jnp.sum(problem.drift(x, a) * slope, axis=1) + spread
        mean, covariance = problem.optimal_policy(x)
        log_policy = jax.vmap(jax.scipy.stats.multivariate_normal.logpdf)(a, mean, covariance)
        return q - problem.discount * problem.optimal_value(x), problem.temperature * log_policy

    q, expected = both_sides(*(jnp.asarray(rng.normal(size=(20, 2))) for _ in range(2)))
    np.testing.assert_allclose(q, expected, atol=1e-9)


def test_the_gradient_is_that_of_the_value():
    problem, policy = o2(), some_policy()

    @jax.jit
    def both(policy):
        value = jax.grad(lambda p: problem.mean_value(p, start()))
        return problem.policy_gradient(policy, start()), value(policy)

    for found, expected in zip(*both(policy), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_mean_value_is_the_mean_of_values():
    """Two points with weights 1/2 have a law, and so moments, of their own."""
    problem, x = o2(), jnp.asarray([[0.4, -0.7], [-0.2, 0.9]])
    moments = (jnp.mean(x, axis=0), x.T @ x / 2)
    found = problem.mean_value(some_policy(), moments)
    np.testing.assert_allclose(found, jnp.mean(problem.policy_value(some_policy(), x)), rtol=1e-12)


def test_the_optimal_policy_is_best_and_has_the_optimal_value():
    """With a diagonal N the optimum is among the policies of the family."""
    problem = o2(N=[[1.0, 0.0], [0.0, 0.8]])
    std = jnp.sqrt(problem.temperature / jnp.diag(problem.N))
    best = LinearGaussian(problem.optimal_slope(), jnp.zeros(2), std)
    x = jnp.asarray([[0.4, -0.7], [1.0, 0.2]])
    np.testing.assert_allclose(problem.policy_value(best, x), problem.optimal_value(x), rtol=1e-10)
    gradient = problem.policy_gradient(best, start())
    for part in gradient:
        np.testing.assert_allclose(part, 0.0, atol=1e-9)


def test_one_dimension_is_the_scalar_problem_with_additive_noise():
    """C = D = P = Q = 0; additive noise adds sigma^2 k2 / (2 beta)."""
    scalar = LinearQuadratic(-0.4, 0.6, 0.0, 0.0, 2.0, 1.5, 0.3, 0.0, 0.0, 0.7, 0.1)
    vector = o2(
        A=[[-0.4]],
        B=[[0.6]],
        M=[[2.0]],
        N=[[1.5]],
        R=[[0.3]],
        noise=[[0.5]],
        discount=0.7,
        temperature=0.1,
    )
    k2 = 2 * (scalar.optimal_value(1.0) - scalar.optimal_value(0.0))
    expected = scalar.optimal_value(0.8) + 0.25 * k2 / (2 * 0.7)
    np.testing.assert_allclose(vector.optimal_value(jnp.asarray([0.8])), expected, rtol=1e-10)


def test_grad_in_the_problem_and_shapes():
    x = jnp.asarray([0.4, -0.7])

    def value(cost):
        return o2(M=[[cost, 0.2], [0.2, 1.0]]).optimal_value(x)

    both = jax.jit(jax.value_and_grad(value))
    (_, slope), (above, _), (below, _) = (both(jnp.asarray(1.5 + h)) for h in (0, 1e-5, -1e-5))
    np.testing.assert_allclose(slope, (above - below) / 2e-5, rtol=1e-6)
    mean, covariance = o2().optimal_policy(jnp.ones((4, 2)))
    assert mean.shape == (4, 2) and covariance.shape == (4, 2, 2)
    assert o2().policy_value(some_policy(), jnp.ones((4, 2))).shape == (4,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"R": [[0.2, 0.0]]}, r"R: received float64\[1, 2\]; .* must have shape \(2, 2\)"),
        ({"A": [0.5, 0.3]}, "A: received .*; it must be a matrix"),
        ({"N": [[1.0, 2.0], [2.0, 1.0]]}, "N: .* it must be positive definite"),
        ({"M": [[1.5, 0.2], [0.0, 1.0]]}, "M: .* it must be symmetric"),
        ({"discount": -1.0}, "discount: received -1.0; it must be above"),
        ({"A": [[2.0, 0.0], [0.0, 2.0]], "B": [[1.0, 0.0], [0.0, 0.0]]}, "no finite optimum"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        o2(**changes)
