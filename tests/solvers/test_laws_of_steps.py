"""The Gaussian solvers against the exact law of their chains, step by step and end to end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from ctrl_jax.processes import grids
from ctrl_jax.solvers import EulerMaruyama, ExponentialEuler, GaussianSolver, sample, simulate
from tests.oracles import chains
from tests.oracles.linear_sdes import VariancePreserving
from tests.processes.compiled import compiled
from tests.solvers.gaussian import (
    MEAN,
    ORACLE,
    PROCESS,
    SOLVERS,
    VARIANCE,
    exact_score,
    oracle_chain,
    uniform_grid,
)

GAUSSIAN = {name: solver for name, solver in SOLVERS.items() if isinstance(solver, GaussianSolver)}
every_gaussian = pytest.mark.parametrize("solver", GAUSSIAN.values(), ids=GAUSSIAN.keys())


@every_gaussian
def test_kernels_are_the_oracles(solver):
    with jax.enable_x64(True):
        grid = jnp.asarray([0.0, 0.2, 0.55, 0.9, 0.97])
        kernel = solver.kernel(PROCESS, grid[:-1], grid[1:])
    chain = oracle_chain(solver, grid)
    np.testing.assert_allclose(kernel.state_gain, chain.state_gain, rtol=1e-12)
    np.testing.assert_allclose(kernel.action_gain, chain.action_gain, rtol=1e-11)
    np.testing.assert_allclose(kernel.std, chain.std, rtol=1e-11)


@every_gaussian
def test_a_step_is_its_kernel(solver):
    grid = jnp.asarray([0.3, 0.45])
    x_0 = jax.random.normal(jax.random.key(1), (6, 2))
    path = simulate(
        jax.random.key(2), PROCESS.reverse(exact_score), x_0, grid, solver=solver, save="path"
    )
    assert path.noise is not None
    kernel = solver.kernel(PROCESS, grid[0], grid[1])
    score = exact_score(PROCESS.horizon - grid[0], x_0)
    expected = kernel.mean(x_0, score) + kernel.std * path.noise[0]
    np.testing.assert_allclose(path.states[1], expected, rtol=1e-5, atol=1e-6)


@every_gaussian
def test_the_law_of_the_chain(solver):
    # A coarse grid, where the chain is far from the data: z-tests of mean and variance of 20000
    # samples against the exact recursion. |z| < 4.5 twice: false alarm 1.4e-5 per solver.
    number, grid = 20000, uniform_grid(8)
    x_0 = jax.random.normal(jax.random.key(3), (number, 1))
    sde = PROCESS.reverse(exact_score)
    x = jax.jit(lambda k: simulate(k, sde, x_0, grid, solver=solver).states)(jax.random.key(4))
    means, variances = chains.laws(oracle_chain(solver, grid), 0.0, 1.0)
    assert abs(float(x.mean()) - means[-1]) < 4.5 * np.sqrt(variances[-1] / number)
    assert abs(float(x.var()) - variances[-1]) < 4.5 * variances[-1] * np.sqrt(2 / number)


def test_eta_one_has_the_posterior_variance():
    """var(x_{t'} | x_t, x_0) = v' v_{t|t'} / v, with v_{t|t'} = v - (a / a')^2 v'."""
    grid = jnp.asarray([0.1, 0.4])
    kernel = ExponentialEuler(eta=1.0).kernel(PROCESS, grid[0], grid[1])
    (a, a_next), (s, s_next) = PROCESS.marginal(PROCESS.horizon - grid)
    between = s**2 - (a / a_next) ** 2 * s_next**2
    np.testing.assert_allclose(kernel.std**2, s_next**2 * between / s**2, rtol=1e-5)
    # Given the exact x_0, the ancestral mean is the posterior mean.
    x, x_0 = jnp.asarray([0.7]), jnp.asarray([-1.2])
    posterior = a_next * between / s**2 * x_0 + (a / a_next) * s_next**2 / s**2 * x
    kernel_score = (a * x_0 - x) / s**2
    np.testing.assert_allclose(kernel.mean(x, kernel_score), posterior, rtol=1e-5)


def test_eta_zero_is_the_flow_with_the_noise_prediction_frozen():
    """dx/dt = -beta / 2 (x - e / sqrt(v)) with e = -sqrt(v) s held at the start of the step."""
    t, u, x, score = 0.9, 0.6, 0.7, -1.3
    noise = -np.sqrt(ORACLE.variance(t)) * score

    def field(time, x):
        return -ORACLE.beta(time) / 2 * (x - noise / np.sqrt(ORACLE.variance(time)))

    expected = solve_ivp(field, (t, u), [x], rtol=1e-11, atol=1e-12).y[0, -1]
    with jax.enable_x64(True):
        kernel = ExponentialEuler(eta=0.0).kernel(PROCESS, jnp.asarray(1 - t), jnp.asarray(1 - u))
        found = float(kernel.mean(jnp.asarray(x), jnp.asarray(score)))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_eta_zero_is_exact_where_the_noise_prediction_is_constant():
    """Data a point mass: the noise prediction is constant along the probability flow, so one
    exponential Euler step of any length lands on it exactly."""
    point = 0.8

    def score_fn(t, x):
        scale, std = PROCESS.marginal(t)
        return -(x - scale * point) / std**2

    x_0 = jnp.asarray([[1.3], [-0.4]])
    (a, a_next), (s, s_next) = PROCESS.marginal(jnp.asarray([1.0, 0.05]))
    expected = a_next * point + s_next * (x_0 - a * point) / s
    for sde in (PROCESS.reverse(score_fn), PROCESS.reverse(score_fn).probability_flow()):
        path = simulate(
            jax.random.key(0),
            sde,
            x_0,
            jnp.asarray([0.0, 0.95]),
            solver=ExponentialEuler(eta=0.0),
        )
        np.testing.assert_allclose(path.states, expected, rtol=1e-5)


@pytest.mark.parametrize("solver", [EulerMaruyama(), ExponentialEuler(), ExponentialEuler(eta=0.0)])
def test_the_probability_flow_transports_the_data_quantile_by_quantile(solver):
    """x(t) = a m + (x_T - a_T m) sqrt(a^2 S + v) / sqrt(a_T^2 S + v_T) solves the ODE (4) for
    Gaussian data: whatever the solver's stochasticity, on an ODE it must converge to that."""
    sde = PROCESS.reverse(exact_score).probability_flow()
    x_0 = jnp.linspace(-2.0, 2.0, 5)[:, None]
    grid = uniform_grid(400)
    found = simulate(jax.random.key(0), sde, x_0, grid, solver=solver).states
    a, std = (
        np.asarray(c, float) for c in PROCESS.marginal(PROCESS.horizon - grid[jnp.array([0, -1])])
    )
    total = np.sqrt(a**2 * VARIANCE + std**2)
    expected = a[1] * MEAN + (x_0 - a[0] * MEAN) * total[1] / total[0]
    np.testing.assert_allclose(found, expected, atol=0.02)


REFERENCE = {  # N: (Euler-Maruyama mean error, its std error, DDIM eta = 0 std error)
    25: (0.0354, 0.0181, -0.0557),
    50: (0.0178, 0.0080, -0.0287),
    100: (0.0089, 0.0037, -0.0146),
    200: (0.0045, 0.0018, -0.0074),
    400: (0.0022, 0.0009, -0.0037),
}


@pytest.mark.parametrize("steps", REFERENCE)
def test_the_order_of_error(steps):
    """VP(.1, 20), data N(1.5, .25), uniform grid from N(0, 1): both solvers are of order one, with
    these constants. The law follows from our kernels, in float64, by two moments."""
    with jax.enable_x64(True):
        process = type(PROCESS)(0.1, 20.0)
        grid = np.linspace(0.0, 1.0, steps + 1)
        kernels = compiled(
            lambda grid: [
                solver.kernel(process, grid[:-1], grid[1:])
                for solver in (EulerMaruyama(), ExponentialEuler(eta=0.0))
            ],
            grid,
        )
        times = 1.0 - grid
    slope, intercept = chains.gaussian_score(VariancePreserving(), times[:-1], 1.5, 0.25)
    errors = []
    for kernel in kernels:
        chain = chains.affine_chain(kernel, (slope, intercept))
        means, variances = chains.laws(chain, 0.0, 1.0)
        errors.append((means[-1] - 1.5, np.sqrt(variances[-1]) - 0.5))
    (em_mean, em_std), (_, ddim_std) = errors
    reference = REFERENCE[steps]
    np.testing.assert_allclose(np.abs([em_mean, em_std]), np.abs(reference[:2]), atol=6e-5)
    np.testing.assert_allclose(ddim_std, reference[2], atol=6e-5)


@pytest.mark.parametrize("bad", [-0.1, 1.5, float("nan")])
def test_a_bad_eta_is_named(bad):
    with pytest.raises(ValueError, match=r"ExponentialEuler.eta: received .*; it must"):
        ExponentialEuler(eta=bad)


def test_sample_draws_the_data():
    # 20000 ancestral samples on a fine grid: the chain's own bias is computed, not assumed.
    # |z| < 4.5 twice: false alarm 1.4e-5.
    grid = grids.log_snr(PROCESS, 100)
    x = jax.jit(lambda key: sample(key, PROCESS, exact_score, (20000, 1), grid=grid))(
        jax.random.key(0)
    )
    means, variances = chains.laws(oracle_chain(ExponentialEuler(), grid), 0.0, 1.0)
    assert abs(means[-1] - MEAN) < 0.06
    assert abs(float(x.mean()) - means[-1]) < 4.5 * np.sqrt(variances[-1] / 20000)
    assert abs(float(x.var()) - variances[-1]) < 4.5 * variances[-1] * np.sqrt(2 / 20000)
