"""What theory says a sampler's step keeps: data a point mass, in any number of dimensions.

There the noise prediction is constant along the probability flow and the data prediction is the
point, so the steps of `ExponentialEuler` and `CoefficientsPreserving` with every eta, of
`StochasticHeun` with every churn and of `DPMSolverPP2M` carry the law N(a m, v) at one time to that
at another exactly, however coarse the grid; `PredictorCorrector` does up to 1.7e-4 of the variance
(`test_predictor_corrector`). Whoever
scales a step by what was drawn keeps no such law, and shows it in few dimensions first.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.processes import EDM, VE, ContractiveVP, RectifiedFlow, SubVP
from ctrl_jax.solvers import (
    CoefficientsPreserving,
    DPMSolverPP2M,
    ExponentialEuler,
    PredictorCorrector,
    StochasticHeun,
    simulate,
)
from tests.processes.compiled import compiled

POINT, NUMBERS = 0.7, 24576
PROCESSES = {  # by the number of dimensions
    1: VE(0.1, 5.0),
    2: SubVP(0.1, 6.0),
    3: EDM(5.0, 0.9),
    8: RectifiedFlow(),
    64: ContractiveVP(0.1, 4.0),
}
OTHER_ETAS = ("half of it", "ancestral")
SOLVERS = {
    "DDIM": ExponentialEuler(eta=0.0),
    "half of it": ExponentialEuler(eta=0.5),
    "ancestral": ExponentialEuler(eta=1.0),
    "renewed": CoefficientsPreserving(eta=0.7),
    "churned": StochasticHeun(s_churn=1.5, s_max=3.0),
    "DPM-Solver++": DPMSolverPP2M(),
    "corrected": PredictorCorrector(corrector_steps=3, snr=0.3),
}


@pytest.mark.parametrize(
    "solver",
    [
        pytest.param(solver, id=name, marks=pytest.mark.slow if name in OTHER_ETAS else ())
        for name, solver in SOLVERS.items()
    ],
)
def test_every_step_keeps_the_law_of_a_noised_point(solver):
    """z-tests of mean and variance of 24576 normals in each dimension, and of the variance of the
    squared norms: 15 at |z| < 4.8 fail a right sampler with probability 2.4e-5."""

    def ends(normals):
        return [
            standardized(p, solver, z) for p, z in zip(PROCESSES.values(), normals, strict=True)
        ]

    rng = np.random.default_rng(0)
    normals = [rng.normal(size=(NUMBERS // d, d)).astype(np.float32) for d in PROCESSES]
    for found in compiled(ends, normals):
        number, dimension = found.shape
        assert abs(found.mean(dtype=float)) < 4.8 / np.sqrt(found.size)
        assert abs(np.square(found).mean(dtype=float) - 1) < 4.8 * np.sqrt(2 / found.size)
        norms = np.square(found).sum(axis=1, dtype=float)
        spread = np.sqrt((2 + 12 / dimension) / number)
        assert abs(norms.var() / (2 * dimension) - 1) < 4.8 * spread


def standardized(process, solver, normal):
    """Where a coarse solve from the exact law ends, in units of the exact law there."""

    def score_fn(t, x):
        scale, std = process.marginal(t)
        return -(x - scale * POINT) / std**2

    grid = process.horizon * jnp.asarray([0.1, 0.3, 0.35, 0.8])
    scale, std = process.marginal(process.forward_time(grid))
    x_0 = scale[0] * POINT + std[0] * normal
    x = simulate(
        jax.random.key(1), process.reverse(score_fn), x_0, grid, solver=solver, remat=False
    ).states
    return (x - scale[-1] * POINT) / std[-1]
