"""The corrector's rule by hand, its law in closed form, and its limits."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.solvers import ExponentialEuler, PredictorCorrector, ReverseSolver, simulate
from ctrl_jax.solvers.reverse_solver import stepped
from tests.solvers.gaussian import PROCESS, exact_score, uniform_grid

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
    for index in (2, 3):  # the rule: normals of a step beyond its increment, by index
        z = np.asarray(jax.random.normal(jax.random.fold_in(step_key, index), (4, 6)), float)
        s = np.asarray(exact_score(jnp.asarray(0.5), jnp.asarray(x, jnp.float32)), float)
        std = float(PROCESS.marginal(jnp.asarray(0.5)).std)
        for i in range(4):
            norm = max(np.linalg.norm(s[i]), np.linalg.norm(z[i]) / (2 * std))
            e = 2 * (0.2 * np.linalg.norm(z[i]) / norm) ** 2
            x[i] = x[i] + e * s[i] + np.sqrt(2 * e) * z[i]
    found = run(PredictorCorrector(DDIM, 2, 0.2), x_0, grid)
    np.testing.assert_allclose(found, x, rtol=1e-4, atol=1e-5)


def test_the_variance_of_a_corrected_gaussian():
    """E |x'|^2 / (d v) = 1 - 4 snr^2 + (4 snr^2 + 4 snr^4) (d + 2) / (d - 2) for pure noise in d
    dimensions. Mean of 2000 squares of 64 dimensions at |z| < 4.5: false alarm 7e-6."""
    snr, dimension, number = 0.3, 64, 2000
    std = PROCESS.marginal(jnp.asarray([1.0, 0.5])).std
    x_0 = std[0] * jax.random.normal(jax.random.key(1), (number, dimension))
    # DDIM is exact here, so what is corrected has the variance v(.5).
    solver = PredictorCorrector(DDIM, snr=snr)
    x = np.asarray(run(solver, x_0, jnp.asarray([0.0, 0.5]), pure_noise) / std[1], float)
    expected = 1 - 4 * snr**2 + (4 * snr**2 + 4 * snr**4) * (dimension + 2) / (dimension - 2)
    squares = np.mean(x**2, axis=1)
    assert abs(squares.mean() - expected) < 4.5 * squares.std() / np.sqrt(number)
    assert expected > 1.05, "or the corrector would not be seen"


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
    at a wrong mean); ten corrections after each bring it nearer. 4000 samples of 16 dimensions:
    the standard deviation is known to 0.3 %."""
    grid, x_0 = jnp.asarray([0.0, 0.4, 0.7, 0.85, 0.9]), jax.random.normal(KEY, (4000, 16))
    scale, std = PROCESS.marginal(jnp.asarray(0.1))
    exact = float(jnp.sqrt(scale**2 * 0.25 + std**2))
    errors = [
        abs(float(run(solver, x_0, grid).std(axis=0).mean()) - exact) / exact
        for solver in (ExponentialEuler(), PredictorCorrector(corrector_steps=10, snr=0.1))
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
    with pytest.raises(ValueError, match=r"PredictorCorrector.snr: received .*; it must be"):
        PredictorCorrector(snr=-0.1)
    flow = PROCESS.reverse(exact_score).probability_flow()
    with pytest.raises(ValueError, match="a probability flow has no noise to correct with"):
        simulate(KEY, flow, jnp.ones((2, 1)), uniform_grid(2), solver=PredictorCorrector())
