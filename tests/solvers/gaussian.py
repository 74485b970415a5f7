"""One Gaussian problem for the tests of solvers: the process, its exact score, and the oracle."""

import diffrax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._numerics import expand
from ctrl_jax.processes import VP
from ctrl_jax.solvers import (
    DPMSolverPP2M,
    EulerMaruyama,
    ExponentialEuler,
    PredictorCorrector,
    StochasticHeun,
)
from tests.oracles import chains
from tests.oracles.linear_sdes import VariancePreserving
from tests.oracles.samplers import Line

MEAN, VARIANCE = 1.5, 0.25
PROCESS, ORACLE = VP(0.1, 5.0), VariancePreserving(0.1, 5.0)
LINE = Line(ORACLE.scale, ORACLE.variance, 1.0)

SOLVERS = {
    "EulerMaruyama": EulerMaruyama(),
    "ExponentialEuler(1)": ExponentialEuler(eta=1.0),
    "ExponentialEuler(.5)": ExponentialEuler(eta=0.5),
    "ExponentialEuler(0)": ExponentialEuler(eta=0.0),
    "SEA": diffrax.SEA(),
    "ShARK": diffrax.ShARK(),
    "SRA1": diffrax.SRA1(),
    "Heun": diffrax.Heun(),
    "PredictorCorrector": PredictorCorrector(corrector_steps=2),
    "StochasticHeun": StochasticHeun(s_churn=2.0),
    "DPMSolverPP2M": DPMSolverPP2M(),
}
DETERMINISTIC = {"ExponentialEuler(0)", "DPMSolverPP2M"}  # also on an SDE


def score_of(process):
    """The score of N(MEAN, VARIANCE) noised by a process."""

    def score(t, x):
        scale, std = process.marginal(t)
        return -(x - expand(scale, x) * MEAN) / expand(scale**2 * VARIANCE + std**2, x)

    return score


exact_score = score_of(PROCESS)


def predictions(process) -> dict:
    """What networks of each parameterization would say of N(MEAN, VARIANCE), exactly."""

    def moments(t, x):
        scale, std = process.marginal(t)
        residual = (x - scale * MEAN) / (scale**2 * VARIANCE + std**2)
        return scale, std, MEAN + scale * VARIANCE * residual, std * residual

    def v(t, x):
        scale, std, x_0, noise = moments(t, x)
        return scale * noise - std * x_0

    def flow(t, x):
        _, _, x_0, noise = moments(t, x)
        _, rate = process.rates(t)
        return rate.scale * x_0 + rate.std * noise

    return {
        "noise": lambda t, x: moments(t, x)[3],
        "data": lambda t, x: moments(t, x)[2],
        "v": v,
        "flow": flow,
    }


def oracle_score(t, x):
    """`exact_score` in NumPy."""
    a = ORACLE.scale(t)
    return -(x - a * MEAN) / (a**2 * VARIANCE + ORACLE.variance(t))


def oracle_chain(solver, grid) -> chains.Chain:
    """The oracle's coefficients of a solver's steps along reverse times `grid`."""
    times = PROCESS.horizon - np.asarray(grid, float)
    if isinstance(solver, EulerMaruyama):
        return chains.euler_maruyama(ORACLE, times, MEAN, VARIANCE)
    return chains.exponential_euler(ORACLE, times, MEAN, VARIANCE, eta=solver.eta)


def uniform_grid(steps: int):
    return jnp.linspace(0.0, 0.98, steps + 1)
