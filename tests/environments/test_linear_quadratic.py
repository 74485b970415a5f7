"""LinearQuadratic against fixture O1, its HJB equation, autodiff, and the exact identities

eta(pi') - eta(pi) = E_{x ~ d^{pi'}, a ~ pi'} [q(x, a; pi) - gamma log pi'(a|x)] / beta,      (1)
L^pi(pi') - eta(pi) = E_{x ~ d^pi, a ~ pi'} [q(x, a; pi) - gamma log pi(a|x)] / beta.         (2)
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.environments import LinearGaussian, LinearQuadratic
from tests.environments.fixtures import START, o1

POLICY, OTHER = LinearGaussian(-0.3, 0.2, 0.8), LinearGaussian(0.1, -0.3, 0.5)
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(12)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def log_density(policy, x, a):
    mean = policy.slope * x + policy.intercept
    return -((a - mean) ** 2) / (2 * policy.std**2) - np.log(2 * np.pi * policy.std**2) / 2


def mean_over(moments, function):
    """E f(X) for f quadratic: three values give its coefficients, two moments its mean."""
    low, center, high = (function(x) for x in (-1.0, 0.0, 1.0))
    return center + (high - low) / 2 * moments[0] + ((high + low) / 2 - center) * moments[1]


def rate_under(problem, evaluated, acting, entropy_of, x):
    """E_{a ~ acting} [q(x, a; evaluated) - gamma log entropy_of(a|x)], by Gauss-Hermite."""
    a = acting.slope * x + acting.intercept + acting.std * NODES
    q = problem.advantage_rate(evaluated, jnp.full(a.shape, x), jnp.asarray(a))
    return np.sum(WEIGHTS * (q - problem.temperature * log_density(entropy_of, x, a)))


def test_fixture():
    problem = o1()
    x = jnp.asarray([-1.0, 0.0, 1.0])
    value = problem.optimal_value(x)
    found = (value[2] + value[0] - 2 * value[1], (value[2] - value[0]) / 2, value[1])
    np.testing.assert_allclose(found, [-0.4083431235, 0.1023328950, 0.8335328468], atol=1e-9)
    mean, variance = problem.optimal_policy(x)
    np.testing.assert_allclose(mean, -0.621410 * x - 0.922227, atol=1e-6)
    np.testing.assert_allclose(variance, 0.047572, atol=1e-6)
    best = problem.mean_value(problem.optimal_linear_policy(), START)
    np.testing.assert_allclose(best, 0.7315459116, atol=1e-9)


def test_fixture_of_a_policy():
    problem = o1()
    np.testing.assert_allclose(problem.mean_value(POLICY, START), -1.2960931129, atol=1e-9)
    gradient = problem.policy_gradient(POLICY, START)
    np.testing.assert_allclose(
        jnp.stack(gradient), [-0.81528487, -2.74500636, -1.56968165], atol=1e-8
    )
    difference = problem.mean_value(OTHER, START) - problem.mean_value(POLICY, START)
    np.testing.assert_allclose(difference, 1.2386484144, atol=1e-9)


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [(0.0, [2.03, 8.8e-3, 1.6e-7, 0.0]), (1.0, [2.03, 0.369, 0.160, 0.088])],
)
def test_mirror_steps(penalty, expected):
    problem, policy = o1(), POLICY
    best = problem.mean_value(problem.optimal_linear_policy(), START)
    gaps = []
    for _ in range(4):
        gaps.append(float(best - problem.mean_value(policy, START)))
        policy = problem.mirror_step(policy, penalty)
    np.testing.assert_allclose(gaps, expected, rtol=0.03, atol=1e-10)
    assert sorted(gaps, reverse=True) == gaps


def test_the_mirror_step_maximises_the_penalized_rate():
    """Any change of its three parameters lowers E[q - gamma log pi'] - C KL at a state."""
    problem, penalty = o1(), 0.7
    new = problem.mirror_step(POLICY, penalty)

    def objective(x, policy):
        rate = rate_under(problem, POLICY, policy, policy, x)
        a = policy.slope * x + policy.intercept + policy.std * NODES
        kl = np.sum(WEIGHTS * (log_density(policy, x, a) - log_density(POLICY, x, a)))
        return float(rate - penalty * kl)

    for x in (-1.3, 0.4):
        for i in range(3):
            up, down = (new._replace(**{new._fields[i]: new[i] + h}) for h in (1e-3, -1e-3))
            best = objective(x, new)
            assert best > objective(x, up) and best > objective(x, down)


def test_the_hjb_equation():
    """sup_pi E[q(x, a; V*) - gamma log pi] = gamma log int exp(q / gamma) = 0, and q* = gamma log
    pi*: the residual of both, from autodiff of the optimal value alone."""

    @jax.jit
    def both_sides(x, a):
        problem = o1()
        slope = jax.vmap(jax.grad(problem.optimal_value))(x)
        curvature = jax.vmap(jax.grad(jax.grad(problem.optimal_value)))(x)
        drift = problem.drift(x[:, None], a[:, None])[:, 0]
        noise = problem.diffusion(x[:, None], a[:, None])[:, 0, 0]
        q = problem.reward(x[:, None], a[:, None]) + drift * slope + noise**2 * curvature / 2
        mean, variance = problem.optimal_policy(x)
        log_policy = -((a - mean) ** 2) / (2 * variance) - jnp.log(2 * jnp.pi * variance) / 2
        return q - problem.discount * problem.optimal_value(x), problem.temperature * log_policy

    q, expected = both_sides(jnp.linspace(-2.0, 2.0, 9), jnp.linspace(-3.0, 1.0, 9))
    np.testing.assert_allclose(q, expected, atol=1e-9)


def test_the_value_of_a_policy_solves_its_equation():
    """E_pi [q(., .; pi) - gamma log pi] = 0 at every state."""
    for x in (-2.0, 0.3, 1.7):
        np.testing.assert_allclose(rate_under(o1(), POLICY, POLICY, POLICY, x), 0.0, atol=1e-11)


def test_the_gradient_is_that_of_the_value():
    problem = o1()
    for policy in (POLICY, OTHER):
        exact = jax.grad(lambda p: problem.mean_value(p, START))(policy)
        np.testing.assert_allclose(
            jnp.stack(problem.policy_gradient(policy, START)), jnp.stack(exact), rtol=1e-9
        )
    best = problem.optimal_linear_policy()
    np.testing.assert_allclose(jnp.stack(problem.policy_gradient(best, START)), 0.0, atol=1e-10)


def test_performance_difference():
    problem = o1()
    moments = problem.occupation_moments(OTHER, START)
    total = mean_over(moments, lambda x: rate_under(problem, POLICY, OTHER, OTHER, x))
    np.testing.assert_allclose(total / problem.discount, 1.2386484144, atol=1e-9)


def test_the_local_approximation_is_exact_to_first_order():
    """(2) has the gradient of eta at pi' = pi: central differences in each parameter."""
    problem = o1()
    moments = problem.occupation_moments(POLICY, START)

    def local(policy):
        rate = mean_over(moments, lambda x: rate_under(problem, POLICY, policy, POLICY, x))
        return float(rate / problem.discount)

    np.testing.assert_allclose(local(POLICY), 0.0, atol=1e-11)
    for i, expected in enumerate(problem.policy_gradient(POLICY, START)):
        up, down = (POLICY._replace(**{POLICY._fields[i]: POLICY[i] + h}) for h in (1e-4, -1e-4))
        np.testing.assert_allclose((local(up) - local(down)) / 2e-4, expected, rtol=1e-6)


def test_occupation_moments_by_their_equation():
    """d^pi is invariant for: jump to the start law at rate beta, else follow the SDE."""
    problem = o1()
    first, second = problem.occupation_moments(POLICY, START)
    a_mean = POLICY.slope * first + POLICY.intercept
    x_a = POLICY.slope * second + POLICY.intercept * first
    a_square = POLICY.slope * x_a + POLICY.intercept * a_mean + POLICY.std**2
    drift = problem.A * first + problem.B * a_mean
    np.testing.assert_allclose(drift + problem.discount * (START[0] - first), 0.0, atol=1e-12)
    noise = problem.C**2 * second + 2 * problem.C * problem.D * x_a + problem.D**2 * a_square
    growth = 2 * (problem.A * second + problem.B * x_a) + noise
    np.testing.assert_allclose(growth + problem.discount * (START[1] - second), 0.0, atol=1e-12)


def test_stability_is_where_the_second_moment_stays_finite():
    problem = o1()
    assert bool(problem.stable(POLICY)) and bool(problem.stable(problem.optimal_linear_policy()))
    # 2 (A + BK) + (C + DK)^2 = 2 (-1 + .6 K) + (.3 + .5 K)^2 = 1, a quadratic in K.
    edge = np.roots([0.25, 1.5, 0.09 - 3.0]).max()
    assert bool(problem.stable(LinearGaussian(edge - 1e-6, 0.0, 1.0)))
    assert not bool(problem.stable(LinearGaussian(edge + 1e-6, 0.0, 1.0)))


def test_no_control_in_the_noise_is_the_textbook_case():
    """C = D = P = Q = R = 0: k2 solves B^2 k2^2 - (beta - 2A) N k2 - M N = 0."""
    problem = o1(C=0.0, D=0.0, P=0.0, Q=0.0, R=0.0)
    k2 = problem.optimal_value(1.0) - problem.optimal_value(0.0)
    roots = np.roots([0.36 / 2, -3.0, -2.0])
    np.testing.assert_allclose(2 * k2, roots.min(), rtol=1e-12)


def test_shapes_jit_vmap_and_grad_in_the_problem():
    problem, x = o1(), jnp.asarray([0.1, 0.5, -0.2])
    column = problem.optimal_value(x[:, None])
    assert column.shape == (3,) and problem.optimal_value(0.4).shape == ()
    np.testing.assert_array_equal(column, problem.optimal_value(x))
    assert problem.optimal_policy(x[:, None])[0].shape == (3, 1)

    def value(cost):
        return o1(M=cost).optimal_value(0.4)

    costs = jnp.asarray([1.0, 2.0, 3.0])
    np.testing.assert_allclose(jax.jit(jax.vmap(value))(costs), [value(c) for c in costs])
    difference = (value(2.0 + 1e-5) - value(2.0 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(value)(jnp.asarray(2.0)), difference, rtol=1e-7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discount": 0.0}, "LinearQuadratic.discount: received 0.0; it must be above zero"),
        ({"N": -1.0}, "LinearQuadratic.N: received -1.0; it must be"),
        ({"temperature": float("nan")}, "temperature: received nan; it must be a finite number"),
        ({"M": -40.0}, "no finite optimum"),
        ({"A": 3.0, "B": 0.0, "D": 0.0, "R": 0.0}, "no finite optimum|must be above zero"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        o1(**changes)


def test_the_positional_order_is_the_promised_one():
    problem = LinearQuadratic(-1.0, 0.6, 0.3, 0.5, 2.0, 2.0, 1.0, 1.0, 2.0, 1.0, 0.1)
    np.testing.assert_array_equal(problem.optimal_value(0.4), o1().optimal_value(0.4))
