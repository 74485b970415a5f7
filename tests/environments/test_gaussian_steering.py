"""GaussianSteering against fixtures O4 and O5, quadrature, and its own HJB equation.

With penalty lambda the optimal control problem of a sampler in its own time t has, for
V(t, x) = lambda log E_pre[e^{R / lambda} | X_t = x],

    V_t + <-b x + g^2 s, V_x> + g^2 / 2 (tr V_xx + |V_x|^2 / lambda) = 0,   V(T, x) = R(x).   (1)
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.environments import GaussianSteering, LinearGaussian
from ctrl_jax.processes import VP
from tests.oracles.linear_sdes import VariancePreserving
from tests.oracles.steering import Steering, one_gaussian

ORACLE_PROCESS = VariancePreserving(0.2, 2.0, 3.0)
WEIGHT, ENTROPY = 0.8, 0.3  # w and theta of fixture O4 in convention C
O4_ORACLE = one_gaussian(ORACLE_PROCESS, 1.0, 0.5, 2.0, 2.5, 2 / WEIGHT)
O5_ORACLE = Steering(
    ORACLE_PROCESS,
    np.array([0.3, 0.7]),
    np.array([-1.5, 1.0]),
    np.array([0.1, 0.2]),
    1.5,
    -0.5,
    0.8,
)


def o4():
    """Convention B: penalty 2 / w, so that k = kappa w / 2."""
    return GaussianSteering(VP(0.2, 2.0, horizon=3.0), 1.0, 0.5, 2.0, 2.5, 2 / WEIGHT)


def o5():
    return GaussianSteering(
        VP(0.2, 2.0, horizon=3.0), [-1.5, 1.0], [0.1, 0.2], 1.5, -0.5, 0.8, weights=[0.3, 0.7]
    )


def two_dimensions():
    return GaussianSteering(
        VP(0.1, 4.0),
        [[-1.0, 0.5], [1.0, -0.3]],
        [[0.3, 0.2], [0.15, 0.4]],
        1.2,
        [0.5, 1.0],
        0.7,
        weights=[0.4, 0.6],
    )


PROBLEMS = {"O4": o4, "O5": o5, "two dimensions": two_dimensions}
every_problem = pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS.keys())


def at(t):
    return jnp.asarray(t, float)


def test_o4_tilted_law(float64):
    law = o4().tilted_law()
    np.testing.assert_allclose(law.means, [[1.428571]], atol=5e-7)
    np.testing.assert_allclose(law.variances, [[0.357143]], atol=5e-7)


def test_o4_optimal_policy(float64):
    mean, variance = o4().optimal_policy(at(0.3), jnp.asarray([-1.0, 2.0]))
    np.testing.assert_allclose(mean, [1.4253154930, -1.7063806447], atol=5e-11)
    np.testing.assert_array_equal(variance, 0.0)


def test_o4_values_in_convention_c(float64):
    """V_C = w V_B + int (theta / 2) log(pi theta / g^2) ds."""
    s = np.linspace(0.0, 3.0, 20001)
    entropy = np.trapezoid(ENTROPY / 2 * np.log(np.pi * ENTROPY / (0.2 + 0.6 * s)), s)
    value = WEIGHT * o4().optimal_value(at(0.0), jnp.asarray([-1.0, 0.5, 2.0])) + entropy
    np.testing.assert_allclose(value, [-1.836255, -1.576045, -1.340578], atol=5e-7)


def test_o4_value_and_gradient_of_a_policy_in_convention_c(float64):
    """The mean s - .1 y + .3 with variance theta / (2 g^2), whose entropy and whose penalty
    g^2 var = theta / 2 per unit of time are all that C adds to w times B."""
    policy = LinearGaussian(-0.1, 0.3, 1.0)
    s = np.linspace(0.0, 3.0, 20001)
    log_entropy = ENTROPY / 2 * np.log(np.pi * np.e * ENTROPY / (0.2 + 0.6 * s))
    exploration = np.trapezoid(log_entropy - ENTROPY / 2, s)
    value = WEIGHT * o4().policy_value(policy) + exploration
    np.testing.assert_allclose(value, -1.90394667, atol=5e-9)
    gradient = o4().policy_gradient(policy)
    np.testing.assert_allclose(
        WEIGHT * np.asarray([gradient.intercept, gradient.slope]),
        [0.52502277, 0.90289712],
        atol=5e-9,
    )
    assert float(gradient.std) == 0.0


def test_o4_policy_value_from_other_moments(float64):
    """A policy's value is quadratic in the start mean and linear in the raw second moment."""
    policy = LinearGaussian(-0.1, 0.3, 1.0)
    values = [float(o4().policy_value(policy, (m, m**2 + 0.5))) for m in (-1.0, 0.0, 1.0, 2.0)]
    assert abs(values[3] - 3 * values[2] + 3 * values[1] - values[0]) < 1e-9
    in_second = [float(o4().policy_value(policy, (0.3, s))) for s in (0.2, 0.3, 0.4)]
    assert abs(in_second[2] - 2 * in_second[1] + in_second[0]) < 1e-10


def test_the_moments_of_a_start_are_raw(float64):
    """N(0, v(T)) is the default, and a start in x = .7 has the moments .7 and .49."""
    policy = LinearGaussian(-0.1, 0.3, 1.0)
    given = (0.0, o4().start_std() ** 2)
    np.testing.assert_array_equal(o4().policy_value(policy, given), o4().policy_value(policy))
    # Without steering the value is E[R] from that point: quadrature over the law of X_T given it.
    still = LinearGaussian(0.0, 0.0, 1.0)
    scale, std = (float(c) for c in o4().process.marginal(at(3.0)))
    posterior = 1 / (1 / 0.5 + (scale / std) ** 2)
    mean = posterior * (1.0 / 0.5 + scale * 0.7 / std**2)
    expected = -((mean - 2.5) ** 2 + posterior)
    np.testing.assert_allclose(o4().policy_value(still, (0.7, 0.49)), expected, rtol=1e-9)


def test_occupation_moments(float64):
    """Against the exact moments of the Euler chain, extrapolated to h = 0 from two steps."""
    policy = LinearGaussian(-0.1, 0.3, 1.0)
    coarse, fine = (euler_moments(policy, steps) for steps in (2000, 4000))
    found = o4().occupation_moments(policy, (0.4, 0.7))
    np.testing.assert_allclose(found, 2 * fine - coarse, rtol=1e-6)


def euler_moments(policy, steps):
    """Mean over time of the raw moments of the Euler chain on O4 from (.4, .7)."""
    env, h = o4(), 3.0 / steps
    t = np.arange(steps) * h
    g2 = np.asarray(env.diffusion(jnp.asarray(t))) ** 2
    # The drift is affine: its value at 0 and its slope give it.
    zero, one = (
        np.asarray(env.drift(jnp.asarray(t), x, env.score(3.0 - jnp.asarray(t), x)))
        for x in (jnp.zeros(steps), jnp.ones(steps))
    )
    slope, shift = one - zero + g2 * policy.slope, zero + g2 * policy.intercept
    first, second, total = 0.4, 0.7, np.zeros(2)
    for i in range(steps):
        total += (first, second)
        grown = (1 + slope[i] * h) ** 2 * second + 2 * (1 + slope[i] * h) * shift[i] * h * first
        second = grown + (shift[i] * h) ** 2 + g2[i] * h
        first = (1 + slope[i] * h) * first + shift[i] * h
    return total / steps


def test_no_linear_policy_beats_the_optimum(float64):
    best = O4_ORACLE.mean_value()
    for slope in (-0.3, 0.0, 0.2):
        for intercept in (0.0, 0.3, 0.6):
            assert float(o4().policy_value(LinearGaussian(slope, intercept, 1.0))) < best


def test_o5_tilted_law(float64):
    law = o5().tilted_law()
    np.testing.assert_allclose(law.weights, [0.4926558, 0.5073442], atol=5e-8)
    np.testing.assert_allclose(law.means[:, 0], [-1.34210526, 0.59090909], atol=5e-9)
    np.testing.assert_allclose(law.variances[:, 0], [0.08421053, 0.14545455], atol=5e-9)


def test_o5_mean_values(float64):
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    for std, expected in ((o5().start_std(), -1.0978549), (1.0, -1.0980913)):
        values = o5().optimal_value(at(0.0), jnp.asarray(nodes) * std)
        mean = np.sum(weights * np.asarray(values)) / np.sum(weights)
        np.testing.assert_allclose(mean, expected, atol=5e-8)


@pytest.mark.parametrize(("make", "oracle"), [(o4, O4_ORACLE), (o5, O5_ORACLE)], ids=["O4", "O5"])
def test_laws_and_values_by_quadrature(float64, make, oracle):
    law, (x, density) = make().tilted_law(), oracle.tilted()
    found = sum(
        float(w) * np.exp(-((x - float(m)) ** 2) / (2 * float(s))) / np.sqrt(2 * np.pi * float(s))
        for w, m, s in zip(law.weights, law.means[:, 0], law.variances[:, 0], strict=True)
    )
    np.testing.assert_allclose(found, density, atol=1e-9)
    for t in (0.0, 1.1, 2.7):
        for y in (-1.3, 0.2, 1.9):
            value = make().optimal_value(at(t), at(y))
            np.testing.assert_allclose(value, oracle.value(t, y), atol=1e-9)


@every_problem
def test_the_hjb_equation(float64, make):
    """The residual of (1) by autodiff at random times and states."""
    env = make()
    d, horizon = env.dimension, env.process.horizon
    rng = np.random.default_rng(0)

    @jax.vmap
    def residual(t, x):
        def value(t, x):
            return env.optimal_value(t, x[None])[0]

        slope = jax.grad(value, argnums=1)(t, x)
        curvature = jnp.trace(jax.hessian(value, argnums=1)(t, x))
        g2 = env.diffusion(t) ** 2
        drift = env.drift(t, x[None], env.score(horizon - t, x[None]))[0]
        return (
            jax.grad(value)(t, x)
            + drift @ slope
            + g2 / 2 * (curvature + slope @ slope / env.penalty)
        )

    t = jnp.asarray(rng.uniform(0.0, 0.98 * horizon, 40))
    x = jnp.asarray(rng.normal(size=(40, d)) * 1.5)
    np.testing.assert_allclose(jax.jit(residual)(t, x), 0.0, atol=1e-8)


@every_problem
def test_the_terminal_value_is_the_reward(float64, make):
    env = make()
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, env.dimension)))
    value = env.optimal_value(at(env.process.horizon - 1e-9), x)
    np.testing.assert_allclose(value, env.reward(x), atol=1e-6)


@every_problem
def test_the_optimal_policy_is_the_score_plus_the_value_gradient(float64, make):
    env = make()
    x = jnp.asarray(np.random.default_rng(2).normal(size=(6, env.dimension)))
    t = jnp.linspace(0.0, 0.9, 6) * env.process.horizon
    slope = jax.grad(lambda x: env.optimal_value(t, x).sum())(x)
    score = env.score(env.process.horizon - t, x)
    mean, _ = env.optimal_policy(t, x)
    np.testing.assert_allclose(mean, score + slope / env.penalty, atol=1e-9)


@every_problem
def test_the_score_is_that_of_the_noised_density(float64, make):
    env = make()
    x = jnp.asarray(np.random.default_rng(3).normal(size=(5, env.dimension)))
    t = at(0.4)
    scale, std = env.process.marginal(t)

    def log_density(x):
        means = scale * env.data.means
        variances = scale**2 * env.data.variances + std**2
        square = ((x[None] - means) ** 2 / variances + jnp.log(2 * jnp.pi * variances)).sum(axis=1)
        return jax.nn.logsumexp(jnp.log(env.data.weights) - square / 2)

    np.testing.assert_allclose(env.score(t, x), jax.vmap(jax.grad(log_density))(x), atol=1e-10)


def test_times_and_states_of_any_accepted_shape():
    env, wide = o4(), two_dimensions()
    value, policy = jax.jit(GaussianSteering.optimal_value), GaussianSteering.optimal_policy
    batch, t = jnp.linspace(-1.0, 1.0, 3), jnp.asarray([0.1, 0.2, 0.3])
    scalars = jnp.stack([value(env, t[i], batch[i]) for i in range(3)])
    assert scalars.shape == (3,)
    for x in (batch, batch[:, None]):
        np.testing.assert_allclose(value(env, t, x), scalars, rtol=1e-5)
        mean, variance = jax.eval_shape(policy, env, t, x)
        assert mean.shape == variance.shape == x.shape
    row = jnp.asarray([0.3, -0.2])
    assert jax.eval_shape(value, wide, t[1], row).shape == ()
    assert jax.eval_shape(policy, wide, t[1], row)[0].shape == (2,)
    assert jax.eval_shape(value, wide, t[1], row[None]).shape == (1,)


def test_jit_vmap_and_grad_in_the_problem_itself():
    def value(target):
        env = GaussianSteering(VP(0.2, 2.0, horizon=3.0), 1.0, 0.5, 2.0, target, 2.5)
        return env.optimal_value(jnp.asarray(0.3), jnp.asarray(0.5))

    targets = jnp.asarray([2.0, 2.5, 3.0])
    np.testing.assert_allclose(
        jax.jit(jax.vmap(value))(targets), [value(c) for c in targets], rtol=1e-5
    )
    h = 1e-2
    difference = (value(targets[1] + h) - value(targets[1] - h)) / (2 * h)
    np.testing.assert_allclose(jax.grad(value)(targets[1]), difference, rtol=1e-3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"curvature": -1.0}, "GaussianSteering.curvature: received -1.0; it must be above zero"),
        ({"penalty": 0.0}, "GaussianSteering.penalty: received 0.0; it must be above zero"),
        (
            {"variance": [0.5, -0.1]},
            r"GaussianSteering.variance: .*; each must be above zero",
        ),
        (
            {"variance": [0.5, 0.1, 0.2]},
            r"variance: received \(3,\); it must hold one row",
        ),
        ({"weights": [0.5, 0.4]}, r"GaussianSteering.weights: received .*; they must sum to one"),
        ({"weights": [1.5, -0.5]}, r"weights: received .* not be negative"),
    ],
)
def test_bad_arguments_are_named(changed, message):
    good = {
        "mean": [1.0, -1.0],
        "variance": [0.5, 0.5],
        "curvature": 2.0,
        "target": 0.0,
        "penalty": 1.0,
        "weights": [0.5, 0.5],
    }
    arguments = good | changed
    with pytest.raises(ValueError, match=message):
        GaussianSteering(VP(), **arguments)


@pytest.mark.parametrize("name", ["policy_value", "occupation_moments", "policy_gradient"])
def test_linear_policies_need_one_gaussian(name):
    with pytest.raises(ValueError, match="one Gaussian in one dimension"):
        getattr(o5(), name)(LinearGaussian(0.0, 0.0, 1.0))
