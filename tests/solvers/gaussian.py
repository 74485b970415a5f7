"""One Gaussian problem for the tests of solvers: the process, its exact score, and the oracle."""

import diffrax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._typing import expand
from ctrl_jax.processes import VP
from ctrl_jax.solvers import EulerMaruyama, ExponentialEuler
from tests.oracles import chains
from tests.oracles.linear_sdes import VariancePreserving

MEAN, VARIANCE = 1.5, 0.25
PROCESS, ORACLE = VP(0.1, 5.0), VariancePreserving(0.1, 5.0)

SOLVERS = {
    "EulerMaruyama": EulerMaruyama(),
    "ExponentialEuler(1)": ExponentialEuler(eta=1.0),
    "ExponentialEuler(.5)": ExponentialEuler(eta=0.5),
    "ExponentialEuler(0)": ExponentialEuler(eta=0.0),
    "SEA": diffrax.SEA(),
    "ShARK": diffrax.ShARK(),
}


def exact_score(t, x):
    """The score of the noised N(MEAN, VARIANCE)."""
    scale, std = PROCESS.marginal(t)
    return -(x - expand(scale, x) * MEAN) / expand(scale**2 * VARIANCE + std**2, x)


def oracle_chain(solver, grid) -> chains.Chain:
    """The oracle's coefficients of a solver's steps along reverse times `grid`."""
    times = PROCESS.horizon - np.asarray(grid, float)
    if isinstance(solver, EulerMaruyama):
        return chains.euler_maruyama(ORACLE, times, MEAN, VARIANCE)
    return chains.exponential_euler(ORACLE, times, MEAN, VARIANCE, eta=solver.eta)


def uniform_grid(steps: int):
    return jnp.linspace(0.0, 0.98, steps + 1)
