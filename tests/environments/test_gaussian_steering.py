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
from tests.processes.compiled import compiled, in_double

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


POLICY = LinearGaussian(-0.1, 0.3, 1.0)


def test_o4_tilted_law():
    law = in_double(lambda: o4().tilted_law())
    np.testing.assert_allclose(law.means, [[1.428571]], atol=5e-7)
    np.testing.assert_allclose(law.variances, [[0.357143]], atol=5e-7)


def test_o4_optimal_policy():
    mean, variance = in_double(lambda *a: o4().optimal_policy(*a), 0.3, np.asarray([-1.0, 2.0]))
    np.testing.assert_allclose(mean, [1.4253154930, -1.7063806447], atol=5e-11)
    np.testing.assert_array_equal(variance, 0.0)


def test_o4_values_in_convention_c():
    """V_C = w V_B + int (theta / 2) log(pi theta / g^2) ds."""
    s = np.linspace(0.0, 3.0, 20001)
    entropy = np.trapezoid(ENTROPY / 2 * np.log(np.pi * ENTROPY / (0.2 + 0.6 * s)), s)
    values = in_double(lambda *a: o4().optimal_value(*a), 0.0, np.asarray([-1.0, 0.5, 2.0]))
    value = WEIGHT * values + entropy
    np.testing.assert_allclose(value, [-1.836255, -1.576045, -1.340578], atol=5e-7)


def test_o4_value_and_gradient_of_a_policy_in_convention_c():
    """The mean s - .1 y + .3 with variance theta / (2 g^2), whose entropy and whose penalty
    g^2 var = theta / 2 per unit of time are all that C adds to w times B."""
    s = np.linspace(0.0, 3.0, 20001)
    log_entropy = ENTROPY / 2 * np.log(np.pi * np.e * ENTROPY / (0.2 + 0.6 * s))
    exploration = np.trapezoid(log_entropy - ENTROPY / 2, s)
    found, gradient = in_double(lambda p: (o4().policy_value(p), o4().policy_gradient(p)), POLICY)
    np.testing.assert_allclose(WEIGHT * found + exploration, -1.90394667, atol=5e-9)
    both = WEIGHT * np.asarray([gradient.intercept, gradient.slope])
    np.testing.assert_allclose(both, [0.52502277, 0.90289712], atol=5e-9)
    assert float(gradient.std) == 0.0


@pytest.fixture(scope="module")
def policy_values():
    """The values of linear policies (slope, intercept) on O4 from raw moments, by one program."""

    def value(slope, intercept, first, second):
        return o4().policy_value(LinearGaussian(slope, intercept, 1.0), (first, second))

    return lambda *rows: in_double(jax.vmap(value), *np.broadcast_arrays(*rows))


def test_o4_policy_value_from_other_moments(policy_values):
    """A policy's value is quadratic in the start mean and linear in the raw second moment."""
    m = np.asarray([-1.0, 0.0, 1.0, 2.0])
    values = policy_values(-0.1, 0.3, m, m**2 + 0.5)
    assert abs(values[3] - 3 * values[2] + 3 * values[1] - values[0]) < 1e-9
    in_second = policy_values(-0.1, 0.3, 0.3, np.asarray([0.2, 0.3, 0.4, 0.5]))
    assert np.abs(np.diff(in_second, 2)).max() < 1e-10


def test_the_moments_of_a_start_are_raw():
    """N(0, v(T)) is the default, and a start in x = .7 has the moments .7 and .49."""
    still = LinearGaussian(0.0, 0.0, 1.0)

    def values():
        given = (0.0, o4().start_std() ** 2)
        both = o4().policy_value(POLICY, given), o4().policy_value(POLICY)
        return *both, o4().policy_value(still, (0.7, 0.49)), o4().process.marginal(jnp.asarray(3.0))

    same, default, value, (scale, std) = in_double(values)
    np.testing.assert_array_equal(same, default)
    # Without steering the value is E[R] from that point: quadrature over the law of X_T given it.
    posterior = 1 / (1 / 0.5 + (scale / std) ** 2)
    mean = posterior * (1.0 / 0.5 + scale * 0.7 / std**2)
    np.testing.assert_allclose(value, -((mean - 2.5) ** 2 + posterior), rtol=1e-9)


def test_occupation_moments():
    """Against the exact moments of the Euler chain, extrapolated to h = 0 from two steps."""
    coarse, fine = (euler_moments(POLICY, steps) for steps in (2000, 4000))
    found = in_double(lambda: o4().occupation_moments(POLICY, (0.4, 0.7)))
    np.testing.assert_allclose(found, 2 * fine - coarse, rtol=1e-6)


def euler_moments(policy, steps):
    """Mean over time of the raw moments of the Euler chain on O4 from (.4, .7)."""
    h = 3.0 / steps

    def coefficients(t):
        """The drift is affine: its value at 0 and its slope give it."""
        env, ends = o4(), (jnp.zeros_like(t), jnp.ones_like(t))
        return env.diffusion(t), [env.drift(t, x, env.score(3.0 - t, x)) for x in ends]

    g, (zero, one) = in_double(coefficients, np.arange(steps) * h)
    g2 = g**2
    slope, shift = one - zero + g2 * policy.slope, zero + g2 * policy.intercept
    first, second, total = 0.4, 0.7, np.zeros(2)
    for i in range(steps):
        total += (first, second)
        grown = (1 + slope[i] * h) ** 2 * second + 2 * (1 + slope[i] * h) * shift[i] * h * first
        second = grown + (shift[i] * h) ** 2 + g2[i] * h
        first = (1 + slope[i] * h) * first + shift[i] * h
    return total / steps


def test_no_linear_policy_beats_the_optimum(policy_values):
    slopes, intercepts = np.meshgrid([-0.3, 0.0, 0.2], [0.0, 0.3, 0.6, 0.9])
    variance = O4_ORACLE.start_variance()
    for row in zip(slopes.T, intercepts.T, strict=True):
        assert (policy_values(*row, 0.0, variance) < O4_ORACLE.mean_value()).all()


def test_o5_tilted_law():
    law = in_double(lambda: o5().tilted_law())
    np.testing.assert_allclose(law.weights, [0.4926558, 0.5073442], atol=5e-8)
    np.testing.assert_allclose(law.means[:, 0], [-1.34210526, 0.59090909], atol=5e-9)
    np.testing.assert_allclose(law.variances[:, 0], [0.08421053, 0.14545455], atol=5e-9)


def test_o5_mean_values():
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)

    def values(nodes):
        stds = (o5().start_std(), 1.0)
        return [o5().optimal_value(jnp.asarray(0.0), nodes * std) for std in stds]

    for found, expected in zip(in_double(values, nodes), (-1.0978549, -1.0980913), strict=True):
        np.testing.assert_allclose(weights @ found / weights.sum(), expected, atol=5e-8)


@pytest.mark.parametrize(("make", "oracle"), [(o4, O4_ORACLE), (o5, O5_ORACLE)], ids=["O4", "O5"])
def test_laws_and_values_by_quadrature(make, oracle):
    times, states = np.asarray([0.0, 1.1, 2.7]), np.asarray([-1.3, 0.2, 1.9])

    def known(t, y):
        every = jax.vmap(jax.vmap(make().optimal_value, (None, 0)), (0, None))
        return make().tilted_law(), every(t, y)

    (law, values), (x, density) = in_double(known, times, states), oracle.tilted()
    found = sum(
        w * np.exp(-((x - m) ** 2) / (2 * s)) / np.sqrt(2 * np.pi * s)
        for w, m, s in zip(law.weights, law.means[:, 0], law.variances[:, 0], strict=True)
    )
    np.testing.assert_allclose(found, density, atol=1e-9)
    expected = [[oracle.value(t, y) for y in states] for t in times]
    np.testing.assert_allclose(values, expected, atol=1e-9)


@every_problem
def test_the_hjb_equation(make):
    """The residual of (1) by autodiff at random times and states."""
    d, horizon = make().dimension, make().process.horizon
    rng = np.random.default_rng(0)

    @jax.vmap
    def residual(t, x):
        env = make()

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

    t, x = rng.uniform(0.0, 0.98 * horizon, 40), rng.normal(size=(40, d)) * 1.5
    np.testing.assert_allclose(in_double(residual, t, x), 0.0, atol=1e-8)


@every_problem
def test_ends_policy_and_score(make):
    """The terminal value is the reward, the optimal policy the score plus the value's gradient,
    and the score that of the noised density."""
    d, horizon = make().dimension, make().process.horizon

    def known(t, x):
        env = make()
        end = env.optimal_value(jnp.asarray(horizon - 1e-9), x), env.reward(x)
        slope = jax.grad(lambda x: env.optimal_value(t, x).sum())(x)
        score, (mean, _) = env.score(horizon - t, x), env.optimal_policy(t, x)
        at = jnp.asarray(0.4)
        scale, std = env.process.marginal(at)

        def log_density(x):
            means = scale * env.data.means
            variances = scale**2 * env.data.variances + std**2
            square = (x[None] - means) ** 2 / variances + jnp.log(2 * jnp.pi * variances)
            return jax.nn.logsumexp(jnp.log(env.data.weights) - square.sum(axis=1) / 2)

        noised = env.score(at, x), jax.vmap(jax.grad(log_density))(x)
        return end, (mean, score + slope / env.penalty), noised

    x = np.random.default_rng(1).normal(size=(6, d))
    end, policy, score = in_double(known, np.linspace(0.0, 0.9, 6) * horizon, x)
    np.testing.assert_allclose(*end, atol=1e-6)
    np.testing.assert_allclose(*policy, atol=1e-9)
    np.testing.assert_allclose(*score, atol=1e-10)


def test_times_and_states_of_any_accepted_shape():
    batch, t = np.linspace(-1.0, 1.0, 3, dtype=np.float32), np.asarray([0.1, 0.2, 0.3], np.float32)

    def found(env, t, batch):
        scalars = jnp.stack([env.optimal_value(t[i], batch[i]) for i in range(3)])
        states = (batch, batch[:, None])
        return scalars, [(x, env.optimal_value(t, x), env.optimal_policy(t, x)) for x in states]

    scalars, rows = compiled(found, o4(), t, batch)
    assert scalars.shape == (3,)
    for x, value, (mean, variance) in rows:
        np.testing.assert_allclose(value, scalars, rtol=1e-5)
        assert mean.shape == variance.shape == x.shape

    def wide(env, t, row):
        return env.optimal_value(t, row), env.optimal_policy(t, row)[0]

    env, row = two_dimensions(), np.asarray([0.3, -0.2], np.float32)
    value, mean = jax.eval_shape(wide, env, t[1], row)
    assert value.shape == () and mean.shape == (2,)
    assert jax.eval_shape(wide, env, t[1], row[None])[0].shape == (1,)


def test_jit_vmap_and_grad_in_the_problem_itself():
    h = 1e-2
    targets = np.asarray([2.0, 2.5, 3.0, 2.5 - h, 2.5 + h], np.float32)

    def value(target):
        env = GaussianSteering(VP(0.2, 2.0, horizon=3.0), 1.0, 0.5, 2.0, target, 2.5)
        return env.optimal_value(jnp.asarray(0.3), jnp.asarray(0.5))

    def found(targets):
        alone = jnp.stack([value(targets[i]) for i in range(5)])
        return jax.vmap(value)(targets), alone, jax.grad(value)(targets[1])

    together, alone, slope = compiled(found, targets)
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    np.testing.assert_allclose(slope, (alone[4] - alone[3]) / (2 * h), rtol=1e-3)


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
