"""Densities of one chain against another: identities that hold exactly, and the limit dt -> 0."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.integrate import solve_ivp

from ctrl_jax.processes import VP, grids
from ctrl_jax.solvers import EulerMaruyama, ExponentialEuler, girsanov, simulate
from tests.oracles import chains
from tests.oracles.linear_sdes import VariancePreserving
from tests.solvers.gaussian import PROCESS, exact_score, oracle_chain, uniform_grid

SOLVERS = {"EulerMaruyama": EulerMaruyama(), "ExponentialEuler": ExponentialEuler()}
SLOPE, INTERCEPT = -0.1, 0.3
STEPS, BATCH = 10, 20000


def steered(t, x):
    return exact_score(t, x) + SLOPE * x + INTERCEPT


@pytest.fixture(scope="module", params=SOLVERS.values(), ids=list(SOLVERS))
def densities(request):
    """Log-ratios and divergences of steered paths, summed over steps, and what drove them."""
    solver, grid = request.param, uniform_grid(STEPS)
    kernel = solver.kernel(PROCESS, grid[:-1], grid[1:])

    @jax.jit
    def compute(key):
        start, path = jax.random.split(key)
        x_0 = jax.random.normal(start, (BATCH, 1))
        path = simulate(path, PROCESS.reverse(steered), x_0, grid, solver=solver, save="path")
        noise = path.noise
        assert noise is not None

        def one(i):
            t, x, at = (
                PROCESS.horizon - grid[i],
                path.states[i],
                jax.tree.map(lambda c: c[i], kernel),
            )
            ratio = girsanov.log_ratio(at, noise[i], steered(t, x), exact_score(t, x))
            return ratio, girsanov.kl_rate(at.kl_rate, steered(t, x), exact_score(t, x))

        ratios, kls = jax.vmap(one)(jnp.arange(STEPS))
        return path.states, ratios, kls

    return solver, grid, *compute(jax.random.key(0))


def z(sample, expected):
    return (sample.mean() - expected) / (sample.std() / np.sqrt(sample.size))


def test_the_mean_log_ratio_is_the_divergence(densities):
    """E_P log dP/dQ = KL: the closed-form sum along the same paths, and its exact expectation.
    Three z-tests at |z| < 4.5: false alarm 2e-5 per solver."""
    solver, grid, _, ratios, kls = densities
    log_ratio, kl = (np.asarray(x, float).sum(axis=0) for x in (ratios, kls))
    exact = chains.path_kl(
        oracle_chain(solver, grid), 1.0, np.full(STEPS, SLOPE), np.full(STEPS, INTERCEPT)
    )
    assert abs(z(log_ratio - kl, 0.0)) < 4.5
    assert abs(z(log_ratio, exact)) < 4.5
    assert abs(z(kl, exact)) < 4.5


def test_the_inverse_ratio_has_mean_one(densities):
    """E_P[dQ/dP] = 1. One z-test at |z| < 4.5; the ratio's variance is finite here (KL .2)."""
    _, _, _, ratios, _ = densities
    assert abs(z(np.exp(-np.asarray(ratios, float).sum(axis=0)), 1.0)) < 4.5


def test_log_ratio_is_a_difference_of_normal_densities(densities):
    solver, grid, states, ratios, _ = densities
    chain = oracle_chain(solver, grid)
    x, x_next = np.asarray(states[:-1, :50, 0], float), np.asarray(states[1:, :50, 0], float)
    score = chain.score_slope[:, None] * x + chain.score_intercept[:, None]
    logs = []
    for action in (score + SLOPE * x + INTERCEPT, score):
        mean = chain.state_gain[:, None] * x + chain.action_gain[:, None] * action
        logs.append(scipy.stats.norm.logpdf(x_next, mean, chain.std[:, None]))
    np.testing.assert_allclose(ratios[:, :50], logs[0] - logs[1], atol=2e-4)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_log_ratio_in_float64(solver):
    """In three dimensions, to eleven digits, against scipy."""
    rng = np.random.default_rng(0)
    x, noise, score, other = rng.normal(size=(4, 5, 3))
    with jax.enable_x64(True):
        kernel = solver.kernel(PROCESS, jnp.asarray(0.3), jnp.asarray(0.5))
        found = girsanov.log_ratio(kernel, *map(jnp.asarray, (noise, score, other)))
        mean, mean_other = (
            np.asarray(kernel.mean(jnp.asarray(x), jnp.asarray(s))) for s in (score, other)
        )
        divergence = girsanov.kl_rate(kernel.kl_rate, jnp.asarray(score), jnp.asarray(other))
        std = float(kernel.std)
    x_next = mean + std * noise
    expected = scipy.stats.norm.logpdf(x_next, mean, std) - scipy.stats.norm.logpdf(
        x_next, mean_other, std
    )
    np.testing.assert_allclose(found, expected.sum(axis=1), rtol=1e-10)
    shift = (mean - mean_other) ** 2 / (2 * std**2)
    np.testing.assert_allclose(divergence, shift.sum(axis=1), rtol=1e-10)


def test_equal_scores_have_no_ratio_bit_for_bit():
    noise, score = jax.random.normal(jax.random.key(0), (2, 4, 3))
    kernel = EulerMaruyama().kernel(PROCESS, jnp.asarray(0.3), jnp.asarray(0.5))
    np.testing.assert_array_equal(girsanov.log_ratio(kernel, noise, score, score), 0.0)


def continuous_path_kl(process: VariancePreserving, end: float) -> float:
    """int g^2 E(slope x + intercept)^2 / 2 dr for O4's data N(1, .5), by its moment equations."""

    def field(r, y):
        mean, variance, _ = y
        t = process.horizon - r
        slope, intercept = chains.gaussian_score(process, t, 1.0, 0.5)
        g2 = process.beta(t)
        gain = g2 / 2 + g2 * (slope + SLOPE)
        second = SLOPE**2 * variance + (SLOPE * mean + INTERCEPT) ** 2
        return [
            gain * mean + g2 * (intercept + INTERCEPT),
            2 * gain * variance + g2,
            g2 * second / 2,
        ]

    start = [0.0, process.variance(process.horizon), 0.0]
    solution = solve_ivp(field, (0.0, process.horizon - end), start, rtol=1e-11, atol=1e-13)
    return solution.y[2, -1]


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_the_chains_divergence_tends_to_girsanovs(solver):
    """On O4's process the exact path KL of the chain made by our kernels converges, at order one,
    to int g^2 |mu - s|^2 / 2."""
    end, oracle = 1e-3, VariancePreserving(0.2, 2.0, 3.0)
    exact = continuous_path_kl(oracle, end)
    errors = []
    for steps in (100, 200, 400):
        with jax.enable_x64(True):
            process = VP(0.2, 2.0, horizon=3.0)
            grid = grids.log_snr(process, steps, end=end)
            kernel = jax.jit(lambda s, r: solver.kernel(process, s, r))(grid[:-1], grid[1:])  # noqa: B023
        score = chains.gaussian_score(oracle, 3.0 - np.asarray(grid[:-1]), 1.0, 0.5)
        chain = chains.affine_chain(kernel, score)
        start_variance = oracle.variance(3.0)
        kl = chains.path_kl(chain, start_variance, np.full(steps, SLOPE), np.full(steps, INTERCEPT))
        errors.append(kl / exact - 1)
    order = np.log2(errors[-2] / errors[-1])
    assert 0.9 < order < 1.1, (errors, order)
    assert abs(2 * errors[-1] - errors[-2]) < 2e-3, "Richardson's limit is the integral"


@pytest.mark.parametrize("solver", [ExponentialEuler(), ExponentialEuler(eta=0.5)])
def test_a_last_step_without_noise_carries_no_ratio_and_no_divergence(solver):
    """On a grid that ends at the data the last step is certain; the others keep theirs."""
    grid = grids.uniform(PROCESS, 4, end=0.0)
    sde, x_0 = PROCESS.reverse(exact_score), jnp.ones((3, 2))
    path = simulate(jax.random.key(0), sde, x_0, grid, solver=solver, save="path")
    kernel = solver.kernel(PROCESS, grid[:-1], grid[1:])
    assert path.noise is not None and path.log_probs is not None and float(kernel.std[-1]) == 0.0
    ratios = jax.vmap(girsanov.log_ratio)(kernel, path.noise, path.noise + 1.0, path.noise)
    for found in (kernel.kl_rate[:, None], ratios, path.log_probs):
        assert np.isfinite(found).all()
        assert (np.asarray(found[-1]) == 0).all() and (np.abs(found[:-1]) > 0).all()
