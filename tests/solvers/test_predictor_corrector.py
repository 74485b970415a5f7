"""The corrector's rule by hand, the law that it keeps, and its limits."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.solvers import ExponentialEuler, PredictorCorrector, ReverseSolver, simulate
from ctrl_jax.solvers.reverse_solver import stepped
from tests.solvers.gaussian import ORACLE, PROCESS, exact_score, oracle_score, uniform_grid

KEY, DDIM = jax.random.key(0), ExponentialEuler(eta=0.0)


def run(solver, x_0, grid, score_fn=exact_score):
    return simulate(KEY, PROCESS.reverse(score_fn), x_0, grid, solver=solver).states


def pure_noise(t, x):
    """Data a point mass at the origin."""
    return -x / PROCESS.marginal(t).std ** 2


def test_two_corrector_steps_by_hand():
    grid, x_0 = jnp.asarray([0.3, 0.5]), jax.random.normal(KEY, (4, 6))
    x = np.asarray(run(DDIM, x_0, grid), float)
    step_key = jax.random.fold_in(KEY, 0)
    e = 2 * 0.2**2 * ORACLE.variance(0.5)
    for index in (2, 3):  # the rule: normals of a step beyond its increment, by index
        z = np.asarray(jax.random.normal(jax.random.fold_in(step_key, index), (4, 6)), float)
        x = x + e * oracle_score(0.5, x + np.sqrt(2 * e) * z / 4) + np.sqrt(2 * e) * z
    found = run(PredictorCorrector(DDIM, 2, 0.2), x_0, grid)
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-5)


def corrected_moments(x_0, snr, spread, steps=100):
    """Mean square after corrections of exact samples of N(0, V), and of its parts, over V.

    V = spread^2 a^2 + v at forward time .5; the predictor's step is too short to change it.
    """

    def score_fn(t, x):
        scale, std = PROCESS.marginal(t)
        return -x / (spread**2 * scale**2 + std**2)

    grid = jnp.asarray([0.5, 0.5 + 1e-6])
    scale, std = PROCESS.marginal(PROCESS.horizon - grid[0])
    variance = spread**2 * scale**2 + std**2
    solver = PredictorCorrector(DDIM, steps, snr)
    x = run(solver, jnp.sqrt(variance) * x_0, grid, score_fn)
    return jnp.square(x) / variance


@pytest.mark.parametrize(
    "dimension", [1, *(pytest.param(d, marks=pytest.mark.slow) for d in (2, 3, 8, 64))]
)
def test_the_law_is_kept_by_a_hundred_corrections(dimension):
    """In every number of dimensions, of pure noise and of noised data, to 1.0002 of the variance.

    40000 squares have a mean with a standard error of .0071; at 4.5 of them three rows fail a right
    corrector with probability 2e-5. The norms of rows have chi-squared's spread: no row's length
    went by its own noise. (A step by |z| made the variances 4.6, 3.0, 2.4 and 1.5.)
    """
    x_0 = np.random.default_rng(0).normal(size=(40000 // dimension, dimension)).astype(np.float32)
    cases = (0.1, 0.0), (0.16, 0.0), (0.16, 0.5)
    for squares in jax.jit(lambda x: [corrected_moments(x, *case) for case in cases])(x_0):
        assert abs(np.mean(squares) - 1) < 4.5 * np.sqrt(2 / squares.size)
        norms = np.sum(squares, axis=1, dtype=float)
        # Var of the squared norm is 2 d; its estimate's relative error is sqrt((2 + 12 / d) / n).
        allowed = 4.5 * np.sqrt((2 + 12 / dimension) / len(norms))
        assert abs(norms.var() / (2 * dimension) - 1) < allowed


def test_the_variance_that_many_corrections_end_at():
    """V (1 + (e / 4V)^2 / (1 - e / 2V)), not sampled: a step is affine in x and in its noise."""
    snr, variance = 0.9, 1.0
    e = 2 * snr**2 * variance
    gain, std = 1 - e, np.sqrt(2 * e) * (1 - e / 4)
    expected = variance * (1 + (e / 4) ** 2 / (1 - e / 2))
    np.testing.assert_allclose(std**2 / (1 - gain**2), expected, rtol=1e-12)
    # The step itself, at two states and one noise: its gain, and what it adds.
    grid, process_std = jnp.asarray([0.5, 0.5 + 1e-6]), ORACLE.variance(0.5) ** 0.5
    x_0 = jnp.asarray([[0.0], [process_std]])
    found = run(PredictorCorrector(DDIM, snr=snr), jnp.zeros((2, 1)), grid, pure_noise)
    z = jax.random.normal(jax.random.fold_in(jax.random.fold_in(KEY, 0), 2), (2, 1))
    np.testing.assert_allclose(found, process_std * std * z, rtol=1e-4)
    moved = run(PredictorCorrector(DDIM, snr=snr), x_0, grid, pure_noise) - found
    np.testing.assert_allclose(moved, gain * x_0, atol=1e-5)


def test_a_small_snr_leaves_the_predictor():
    grid, x_0 = uniform_grid(5), jax.random.normal(KEY, (4, 3))
    found = run(PredictorCorrector(DDIM, snr=1e-4), x_0, grid)
    np.testing.assert_allclose(found, run(DDIM, x_0, grid), atol=5e-3)


def test_a_score_that_vanishes_is_no_catastrophe():
    """No division by zero, in values or gradients, and steps of at most v."""

    def end(x):
        grid = jnp.asarray([0.3, 0.5])
        return run(PredictorCorrector(DDIM), x, grid, lambda t, x: 0.0 * x)

    x_0 = jnp.ones((3, 2))
    a, std = PROCESS.marginal(jnp.asarray([0.7, 0.5]))
    moved = np.abs(np.asarray(end(x_0)) - float(a[1] / a[0]))
    assert (moved < np.sqrt(2) * float(std[1]) * 6).all()
    slope = jax.grad(lambda x: end(x).sum())(x_0)
    np.testing.assert_allclose(slope, a[1] / a[0], rtol=1e-5)


def test_correction_mends_a_coarse_predictor():
    """Four steps of the ancestral sampler leave too narrow a law (its variance is the posterior's
    at a wrong mean); forty corrections after each bring it nearer. 4000 samples of 16 dimensions:
    the standard deviation is known to 0.3 %."""
    grid, x_0 = jnp.asarray([0.0, 0.4, 0.7, 0.85, 0.9]), jax.random.normal(KEY, (4000, 16))
    scale, std = PROCESS.marginal(jnp.asarray(0.1))
    exact = float(jnp.sqrt(scale**2 * 0.25 + std**2))
    errors = [
        abs(float(run(solver, x_0, grid).std(axis=0).mean()) - exact) / exact
        for solver in (ExponentialEuler(), PredictorCorrector(corrector_steps=40, snr=0.4))
    ]
    assert errors[1] < errors[0] / 2, errors


class Attentive(ReverseSolver):
    """Says by NaN that it was not told of a state moved between its steps."""

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        return stepped(y0, y0 if made_jump else jnp.nan * y0)


def test_predictors_are_told_that_the_state_was_moved():
    x = run(PredictorCorrector(Attentive()), jnp.ones((2, 2)), uniform_grid(2))
    assert jnp.isfinite(x).all()


def test_errors_at_the_door():
    with pytest.raises(ValueError, match=r"predictor: received 'Tsit5'; it is for ODEs"):
        PredictorCorrector(diffrax.Tsit5())
    with pytest.raises(ValueError, match=r"corrector_steps: received 0; it must be a whole"):
        PredictorCorrector(corrector_steps=0)
    for snr in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"PredictorCorrector.snr: received .*; it must be"):
            PredictorCorrector(snr=snr)
    flow = PROCESS.reverse(exact_score).probability_flow()
    with pytest.raises(ValueError, match="a probability flow has no noise to correct with"):
        simulate(KEY, flow, jnp.ones((2, 1)), uniform_grid(2), solver=PredictorCorrector())
