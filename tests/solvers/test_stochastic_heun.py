"""EDM's sampler against an independent one, and what churn may and may not do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import EDM, VE, VP, grids
from ctrl_jax.solvers import StochasticHeun, simulate
from tests.oracles import samplers
from tests.solvers.gaussian import LINE, MEAN, PROCESS, exact_score, oracle_score, uniform_grid

CHURN: dict = {"s_churn": 1.5, "s_min": 0.2, "s_max": 3.0, "s_noise": 1.02}
GRID, KEY = uniform_grid(8), jax.random.key(0)
TIMES = 1.0 - np.asarray(GRID, float)


def test_paths_are_the_oracles():
    """In float64, with our own noise, to nine digits: the churned window, its end and the step."""
    with jax.enable_x64(True):
        x_0, sde = jnp.linspace(-2.0, 2.0, 5)[:, None], PROCESS.reverse(exact_score)
        grid, solver = jnp.asarray(GRID, float), StochasticHeun(**CHURN)
        path = simulate(jax.random.key(0), sde, x_0, grid, solver=solver, save="path")
    assert path.noise is not None
    expected = samplers.churned_heun(
        LINE,
        oracle_score,
        1.0 - np.asarray(grid),
        np.asarray(x_0[:, 0]),
        np.asarray(path.noise[:, :, 0]),
        **CHURN,
    )
    np.testing.assert_allclose(path.states[-1, :, 0], expected, rtol=1e-6)


def test_the_law_of_the_chain():
    # 20000 samples against the exact law, which probing the affine oracle gives: |z| < 4.5 twice,
    # false alarm 1.4e-5.
    number, sde = 20000, PROCESS.reverse(exact_score)
    x_0 = jax.random.normal(jax.random.key(3), (number, 1))
    run = jax.jit(lambda k: simulate(k, sde, x_0, GRID, solver=StochasticHeun(**CHURN)).states)
    x = np.asarray(run(jax.random.key(4)), float)

    def sampler(x, z):
        return samplers.churned_heun(LINE, oracle_score, TIMES, x, z, **CHURN)

    mean, variance = samplers.affine_law(sampler, 8, 0.0, 1.0)
    assert abs(x.mean() - mean) < 4.5 * np.sqrt(variance / number)
    assert abs(x.var() - variance) < 4.5 * variance * np.sqrt(2 / number)


def karras(score, times, x, z, s_churn, s_max):
    """Karras et al. 2022, algorithm 2, as published, for x = x_0 + t e; no time is the last."""
    gamma = min(s_churn / (len(times) - 1), 2**0.5 - 1)
    for t, t_next, noise in zip(times[:-1], times[1:], z, strict=True):
        raised = t * (1 + gamma) if t <= s_max else t
        x = x + np.sqrt(raised**2 - t**2) * noise
        slope = -raised * score(raised, x)
        euler = x + (t_next - raised) * slope
        x = x + (t_next - raised) * (slope - t_next * score(t_next, euler)) / 2
    return x


@pytest.mark.parametrize("process", [EDM(80.0), VE(0.01, 80.0)], ids=["EDM", "VE"])
@pytest.mark.parametrize("s_max", [float("inf"), 50.0, 0.5])
def test_churn_is_edms_own_also_at_the_start(process, s_max):
    """The first step is raised past the horizon, to 1.41 of the largest noise."""

    def score(std, x):
        return -(x - MEAN) / (0.25 + std**2)

    x_0 = np.linspace(-160.0, 160.0, 5)[:, None]
    with jax.enable_x64(True):
        grid = grids.edm(process, 10, end=0.01 * process.horizon)
        sde = process.reverse(lambda t, x: score(process.marginal(t).std, x))
        solver = StochasticHeun(s_churn=20.0, s_max=s_max)
        path = simulate(KEY, sde, jnp.asarray(x_0), grid, solver=solver, save="path")
        times = np.asarray(process.marginal(process.horizon - grid).std)
    expected = karras(score, times, x_0, np.asarray(path.noise), 20.0, s_max)
    np.testing.assert_allclose(path.states[-1], expected, rtol=1e-6, atol=1e-9)


def test_churn_is_of_no_effect_outside_its_window_and_on_the_flow():
    sde, x_0 = PROCESS.reverse(exact_score), jnp.ones((3, 2))
    above = StochasticHeun(s_churn=5.0, s_min=1e4, s_max=1e5)
    below = StochasticHeun(s_churn=5.0, s_max=1e-6)
    churned = StochasticHeun(s_churn=5.0)
    flow, plain = sde.probability_flow(), StochasticHeun()
    cases = [(sde, plain, 0), (sde, churned, 1)]
    cases += [(sde, above, 1), (sde, below, 1), (flow, churned, 1), (flow, plain, 1)]

    @jax.jit
    def ends(x):
        return [simulate(jax.random.key(k), law, x, GRID, solver=s).states for law, s, k in cases]

    expected, moved, *unmoved = ends(x_0)
    for found in unmoved:
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.abs(moved - expected).max() > 0.1


def test_the_last_step_may_end_without_noise():
    """At t = 0, where std is 0 and scores may be singular, the step is Euler's; so is its gradient.
    For a point mass Euler's step lands on it exactly."""

    def score_fn(t, x):
        scale, std = PROCESS.marginal(t)
        return -(x - scale * MEAN) / std**2

    def end(x):
        grid, solver = jnp.asarray([0.0, 0.5, 1.0]), StochasticHeun(s_churn=1.0)
        return simulate(jax.random.key(0), PROCESS.reverse(score_fn), x, grid, solver=solver).states

    x_0 = jnp.asarray([[0.3], [-1.0]])
    np.testing.assert_allclose(end(x_0), MEAN, rtol=1e-4)
    assert jnp.isfinite(jax.grad(lambda x: end(x).sum())(x_0)).all()


@pytest.mark.parametrize("process", [VP(0.1, 20.0), VE(0.01, 50.0)], ids=["VP", "VE"])
@pytest.mark.parametrize("gamma", [1e-3, 0.1, 2**0.5 - 1])
def test_the_raised_time_has_the_raised_ratio(process, gamma):
    with jax.enable_x64(True):
        t = jnp.asarray([1e-3, 0.05, 0.3, 0.7, 1.0])
        scale, std = process.marginal(t)
        raised = process.time_at((1 + gamma) * std / scale)
        scale_raised, std_raised = process.marginal(raised)
        ratio = np.asarray(std_raised / scale_raised / (std / scale))
    np.testing.assert_allclose(ratio[:4], 1 + gamma, rtol=1e-6)
    assert np.asarray(raised)[-1] == 1.0, "never beyond the horizon"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"s_churn": -1.0}, "s_churn: received -1.0; it must be zero or above"),
        ({"s_noise": float("nan")}, "s_noise: received nan; it must be a finite number"),
        ({"s_min": 2.0, "s_max": 1.0}, "s_max: received 1.0; it must be at least s_min = 2.0"),
    ],
)
def test_bad_parameters_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        StochasticHeun(**bad)
