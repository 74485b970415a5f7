"""What every way to sample shares: the start law, the unit of the data, and its doors."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import EDM, VP, ContractiveOU, ContractiveSubVP, grids
from ctrl_jax.processes import parameterization as parameterization
from ctrl_jax.solvers import (
    DPMSolverPP2M,
    EulerMaruyama,
    ExponentialEuler,
    PredictorCorrector,
    StochasticHeun,
    likelihood,
    log_likelihood,
    sample,
    sample_adaptive,
    sample_consistency,
    simulate,
)
from tests.solvers.gaussian import MEAN, VARIANCE, score_of

WIDE = ContractiveSubVP(0.01, 8.0)  # its prior has the std e^{B(T)} - 1 = 53.9
KEY = jax.random.key(0)


def zero_score(t, x):
    return jnp.zeros_like(x)


STARTS = {
    "sample": lambda shape: sample(
        KEY, WIDE, zero_score, shape, grid=jnp.asarray([0.0, 1e-6]), solver=EulerMaruyama()
    ),
    "sample_adaptive": lambda shape: (
        sample_adaptive(KEY, WIDE, zero_score, shape, end=1 - 1e-6).states
    ),
    "sample_consistency": lambda shape: sample_consistency(
        KEY, WIDE, lambda t, x: x, shape, end=1e-3
    ),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=list(STARTS))
def test_sampling_starts_from_the_prior(start):
    """A z-test of the standard deviation of 4000 starts at |z| < 4.5 (false alarm 7e-6)."""
    std = float(jnp.std(start((4000, 1))))
    assert abs(std / 53.8718 - 1) < 4.5 / np.sqrt(2 * 4000)


def test_sampling_starts_from_another_std_where_one_is_given():
    """The same z-test; `end` so near that nothing moves."""
    grid = jnp.asarray([0.0, 1e-6])
    x = sample(KEY, WIDE, zero_score, (4000, 1), grid=grid, start_std=2.0)
    assert abs(float(jnp.std(x)) / 2 - 1) < 4.5 / np.sqrt(2 * 4000)


@pytest.mark.parametrize("start_std", [-2.0, 0.0, float("nan")])
def test_a_start_std_is_positive(start_std):
    with pytest.raises(ValueError, match=r"start_std: received .*; it must be"):
        sample(jax.random.key(0), VP(), zero_score, (3, 2), steps=2, start_std=start_std)


def test_the_prior_of_a_likelihood_is_the_process_own():
    """Without a score the flow only scales: p(x) = N(a x; 0, prior^2) a, a = a(T) / a(begin)."""
    x = jnp.asarray([[0.0, 1.0], [3.0, -2.0]])
    found = log_likelihood(WIDE, zero_score, x).log_prob
    growth = float(WIDE.marginal(jnp.asarray(1.0)).scale)
    normal = -((growth * x) ** 2) / (2 * 53.8718**2) - np.log(53.8718 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(found, normal.sum(axis=1) + 2 * np.log(growth), rtol=1e-4)


def test_a_scaled_process_gives_samples_in_units_of_the_data():
    """EDM with s(0) = .9, data N(1.5, .25): a z-test at |z| < 4.5, and the exact log-density."""
    process = EDM(20.0, 0.9)
    score_fn = score_of(process)
    drawn = sample(KEY, process, score_fn, (4000, 1), grid=grids.edm(process, 40, end=1e-3))
    assert abs(float(drawn.mean()) - MEAN) < 4.5 * (VARIANCE / 4000) ** 0.5 + 0.01
    # The prior knows nothing of the data's mean: its error falls like 1 / sigma_max.
    process = EDM(2000.0, 0.9)
    x = jnp.asarray([[1.0], [1.4]])
    exact = -((x[:, 0] - MEAN) ** 2) / (2 * VARIANCE) - 0.5 * np.log(2 * np.pi * VARIANCE)
    np.testing.assert_allclose(
        log_likelihood(process, score_of(process), x).log_prob, exact, atol=2e-3
    )


def test_a_ratio_of_noise_that_no_longer_grows_divides_nothing_by_zero():
    process = ContractiveOU(horizon=7.0)  # its ratio stays at .7071 in float32 from t = 6 on
    x = process.prior_std() * jax.random.normal(KEY, (500, 1))
    path = simulate(
        KEY,
        process.reverse(score_of(process)),
        x,
        grids.uniform(process, 200),
        solver=DPMSolverPP2M(),
    )
    assert bool(path.ok.all())
    # The flow's own error from the stated prior: m s / sqrt(s^2 + tau^2), off the true mean m.
    expected = MEAN * (1 - (VARIANCE / (VARIANCE + 0.5)) ** 0.5)
    assert abs(float(path.states.mean()) - expected) < 4.5 * 0.5 / np.sqrt(500) + 0.05


def test_the_corrector_ends_where_no_noise_is_left():
    process = VP(0.1, 5.0)
    score_fn = parameterization.from_noise(process, lambda t, x: 0.9 * x)
    grid, sde = grids.uniform(process, 8, end=0.0), process.reverse(score_fn)
    states = simulate(KEY, sde, jnp.ones((3, 2)), grid, solver=PredictorCorrector()).states
    assert bool(jnp.isfinite(states).all())


def test_a_solver_of_both_kinds_is_told_which():
    process = VP(0.1, 5.0)
    arguments = (KEY, process, score_of(process), (4, 1))
    grid = grids.uniform(process, 8)
    flow = sample(*arguments, grid=grid, solver=diffrax.Heun(), noise_level=0.0)
    start = jax.random.normal(jax.random.split(KEY)[0], (4, 1))
    sde = process.reverse(score_of(process)).probability_flow()
    expected = simulate(KEY, sde, start, grid, solver=diffrax.Heun()).states
    np.testing.assert_allclose(flow, expected, rtol=1e-5)
    noisy = sample(*arguments, grid=grid, solver=diffrax.Heun())
    assert not np.allclose(flow, noisy, rtol=1e-2)


def solve(x=None, grid=None, score_fn=zero_score):
    process = VP()
    x = jnp.ones((3, 2)) if x is None else x
    grid = jnp.linspace(0.0, 0.9, 4) if grid is None else grid
    return simulate(KEY, process.reverse(score_fn), x, grid, solver=ExponentialEuler())


MISTAKES = {
    "a score of another shape": (
        {"score_fn": lambda t, x: x.sum(-1, keepdims=True)},
        r"score_fn: received \(3, 1\); the score must have x's shape \(3, 2\)",
    ),
    "half precision": (
        {"x": jnp.ones((3, 2), jnp.bfloat16)},
        "'bfloat16'; it must be float32",
    ),
    "an empty batch": (
        {"x": jnp.ones((0, 2))},
        r"\(0, 2\); it must have .* an example",
    ),
    "a falling grid": ({"grid": jnp.linspace(0.9, 0.0, 4)}, r"grid: received .*; it must increase"),
    "a grid past the data": ({"grid": jnp.linspace(0.0, 1.5, 4)}, r"\[0, horizon\] = \[0, 1.0\]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_at_the_door(mistake):
    options, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        solve(**options)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"begin": 1.5}, "begin"), ({"tolerance": -1.0}, "tolerance"), ({"probes": 0}, "probes")],
)
def test_settings_of_a_likelihood_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        log_likelihood(VP(), zero_score, jnp.ones((1, 1)), settings=likelihood.Settings(**settings))


@pytest.mark.parametrize("solver", [DPMSolverPP2M(), StochasticHeun(s_churn=2.0)])
def test_a_solver_of_the_flow_takes_no_level_of_noise(solver):
    """It would be the same whatever the level."""
    for level in (0.5, 1.5):
        with pytest.raises(ValueError, match=r"noise_level: .* solves the probability flow"):
            sample(KEY, VP(), zero_score, (3, 2), steps=3, solver=solver, noise_level=level)


@pytest.mark.parametrize(
    "process",
    [
        pytest.param(EDM(80.0), marks=pytest.mark.slow),
        EDM(80.0, 0.9),
        pytest.param(VP(0.1, 20.0, horizon=10.0), marks=pytest.mark.slow),
    ],
)
def test_samples_of_a_point_keep_the_schemes_own_noise(process):
    """By default, not a thousandth of whatever the horizon is: .002 for EDM, .01 for VP.

    The standard deviation of 2000 samples at |z| < 4.5 (false alarm 7e-6).
    """

    def score_fn(t, x):
        scale, std = process.marginal(t)
        return -(x - 0.5 * scale) / std**2

    x = jax.jit(lambda key: sample(key, process, score_fn, (2000, 1)))(KEY)
    expected = 0.002 if isinstance(process, EDM) else 0.01
    assert abs(np.std(x) / expected - 1) < 4.5 / np.sqrt(2 * 2000)
    adaptive = sample_adaptive(KEY, process, score_fn, (20, 1)).states
    assert np.std(adaptive) < 2 * expected
