"""Rectified flow from its horizon, where the score does not depend on the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import RectifiedFlow, grids
from ctrl_jax.processes import parameterization as parameterization
from ctrl_jax.solvers import (
    DPMSolverPP2M,
    EulerMaruyama,
    ExponentialEuler,
    PredictorCorrector,
    StochasticHeun,
    log_likelihood,
    sample,
)
from tests.solvers.gaussian import MEAN, VARIANCE, predictions, score_of

PROCESS, KEY = RectifiedFlow(), jax.random.key(0)
NETWORKS = predictions(PROCESS)


def test_the_prediction_at_the_horizon_is_the_mean_of_the_data():
    """u = x - m there, while the score is -x."""
    x = jnp.asarray([[0.3, -2.0]])
    np.testing.assert_allclose(NETWORKS["flow"](jnp.asarray(1.0), x), x - MEAN, rtol=1e-6)
    for name, network in NETWORKS.items():
        score_fn = getattr(parameterization, f"from_{name}")(PROCESS, network)
        np.testing.assert_allclose(score_fn(jnp.asarray(1.0), x), -x, rtol=1e-6)


@pytest.mark.parametrize("name", ["noise", "data", "v", "flow"])
def test_the_first_step_is_that_of_the_flow(name):
    """x' = x + (t' - 1) u: exact for data of any law, here to four digits, from the score alone."""
    score_fn = getattr(parameterization, f"from_{name}")(PROCESS, NETWORKS[name])
    x, t_next = jnp.asarray([[0.3, -2.0]]), 0.8
    kernel = ExponentialEuler(eta=0.0).kernel(PROCESS, jnp.asarray(0.0), jnp.asarray(1 - t_next))
    found = kernel.mean(x, score_fn(PROCESS.forward_time(jnp.asarray(0.0)), x))
    np.testing.assert_allclose(found, x + (t_next - 1) * (x - MEAN), atol=1e-3)


SAMPLERS = {
    "ddim": (ExponentialEuler(eta=0.0), 0.02),
    "ancestral": (ExponentialEuler(), 0.05),
    "euler": (EulerMaruyama(), 0.1),
    "dpm": (DPMSolverPP2M(), 0.02),
    "edm": (StochasticHeun(s_churn=4.0), 0.02),
    "corrected": (PredictorCorrector(), 0.15),
}


@pytest.mark.parametrize("grid", [grids.log_snr, grids.uniform])
@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_from_the_horizon_have_the_law_of_the_data(name, grid):
    """Mean and spread of 4000 samples, in units of the spread, at 4.5 standard errors plus what
    the scheme may leave at 60 steps."""
    solver, allowed = SAMPLERS[name]
    score_fn = parameterization.from_flow(PROCESS, NETWORKS["flow"])
    times = grid(PROCESS, 60, end=5e-3)
    assert float(times[0]) == 0.0
    x = np.asarray(sample(KEY, PROCESS, score_fn, (400, 10), grid=times, solver=solver), float)
    a, std = 1 - 5e-3, np.hypot((1 - 5e-3) * VARIANCE**0.5, 5e-3)
    assert abs(x.mean() - a * MEAN) < (allowed + 4.5 / np.sqrt(4000)) * std
    assert abs(x.std() - std) < (allowed + 4.5 / np.sqrt(8000)) * std


@pytest.mark.slow  # `test_prediction` has it from the flow
def test_the_likelihood_is_that_of_the_data():
    x = jnp.asarray([[1.0, 1.4], [2.0, 0.1]])
    exact = -((x - MEAN) ** 2) / (2 * VARIANCE) - 0.5 * np.log(2 * np.pi * VARIANCE)
    found = log_likelihood(PROCESS, score_of(PROCESS), x)
    assert found.ok.all()
    np.testing.assert_allclose(found.log_prob, exact.sum(axis=1), atol=5e-3)
