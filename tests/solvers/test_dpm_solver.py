"""DPM-Solver++(2M) against an independent one, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax.solvers import DPMSolverPP2M, ExponentialEuler, simulate
from tests.oracles import samplers
from tests.solvers.gaussian import LINE, MEAN, PROCESS, exact_score, oracle_score

KEY, X_0 = jax.random.key(0), jnp.asarray([[1.3], [-0.4]])


def run(grid, solver, score_fn=exact_score, x_0=X_0):
    return simulate(KEY, PROCESS.reverse(score_fn), x_0, grid, solver=solver).states


def test_paths_are_the_oracles():
    """In float64, on an uneven grid, to ten digits."""
    with jax.enable_x64(True):
        grid = jnp.asarray([0.0, 0.1, 0.35, 0.5, 0.8, 0.9, 0.97])
        found = run(grid, DPMSolverPP2M(), x_0=jnp.asarray(X_0, float))
    times = 1.0 - np.asarray(grid)
    expected = samplers.dpm_solver_2m(LINE, oracle_score, times, np.asarray(X_0[:, 0], float))
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-9)


def test_first_and_last_steps_are_exponential_eulers():
    for grid in ([0.0, 0.4], [0.0, 0.6, 0.9]):
        grid, ddim = jnp.asarray(grid), ExponentialEuler(eta=0.0)
        np.testing.assert_allclose(run(grid, DPMSolverPP2M()), run(grid, ddim), rtol=1e-5)


def test_it_is_exact_where_the_data_prediction_is_constant():
    """A point mass, down to t = 0 where the last step's h is infinite, gradient included."""

    def score_fn(t, x):
        scale, std = PROCESS.marginal(t)
        return -(x - scale * MEAN) / std**2

    def end(x):
        return run(jnp.asarray([0.0, 0.3, 0.7, 1.0]), DPMSolverPP2M(), score_fn, x)

    np.testing.assert_allclose(end(X_0), MEAN, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(lambda x: end(x).sum())(X_0), 0.0, atol=1e-4)
