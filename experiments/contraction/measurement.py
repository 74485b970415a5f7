"""One measured number with its spread over seeds, and the samplers it was measured with."""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import diffrax
import numpy as np
from scipy import stats

from ctrl_jax._typing import ScoreFn
from ctrl_jax._whole import whole_file
from ctrl_jax.processes import LinearProcess, ReverseSDE
from ctrl_jax.solvers import EulerMaruyama, ExponentialEuler, PredictorCorrector
from experiments.verdicts import mean_and_error

SAMPLERS = ("euler", "ancestral", "ddim")
LEARNED_SAMPLERS = (*SAMPLERS, "corrected")
KINDS = ("absolute", "noise", "relative")
"""Of errors of a score."""
SNR = 0.1
"""Of the corrector; the paper's Swiss roll has 0.08 to 0.12."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A distance to the data under one setting.

    Args:
        experiment: its name.
        process: its name.
        sampler: its name.
        steps: of the sampler.
        error: what is wrong with the score: none, absolute+, noise-, ..., or own, shared
            (networks).
        start: exact: the law at the horizon; prior: the Gaussian of the process.
        mean: over seeds.
        stderr: standard error of the mean over seeds.
        seeds: independent repetitions behind mean and stderr.
        bound: the bound of theorem 1 on W2, where the constants are known.
    """

    experiment: str
    process: str
    sampler: str
    steps: int
    error: str
    start: str
    mean: float
    stderr: float
    seeds: int
    bound: float | None = None


def over_seeds(values) -> tuple[float, float, int]:
    """Return the mean of one value per seed, its standard error and the number of seeds."""
    return *mean_and_error(values), len(values)


def margin(ours: Measurement, theirs: Measurement) -> float:
    """Return the difference of two means that chance exceeds, on one side, once in 40 times.

    Student's t with the fewer degrees of freedom of the two: at least Welch's.
    """
    seeds = min(ours.seeds, theirs.seeds)
    return float(stats.t.ppf(0.975, seeds - 1) * np.hypot(ours.stderr, theirs.stderr))


def reversal(
    process: LinearProcess, score_fn: ScoreFn, sampler: str
) -> tuple[ReverseSDE, diffrax.AbstractSolver]:
    """Return the reverse-time equation of a sampler and the solver that steps it.

    euler, and corrected by Langevin steps; ancestral and ddim are the exponential Euler steps of
    the SDE and of the probability flow.
    """
    sde = process.reverse(score_fn)
    if sampler == "ddim":
        return sde.probability_flow(), ExponentialEuler(eta=0.0)
    if sampler == "corrected":
        return sde, PredictorCorrector(EulerMaruyama(), snr=SNR)
    return sde, EulerMaruyama() if sampler == "euler" else ExponentialEuler(eta=1.0)


def find(measurements: Sequence[Measurement], **setting) -> list[Measurement]:
    """Return the measurements that agree with the given fields."""
    return [m for m in measurements if all(getattr(m, k) == v for k, v in setting.items())]


def write_csv(path: Path, measurements: Sequence[Measurement]) -> None:
    """Write every measurement as one row."""
    with whole_file(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in dataclasses.fields(Measurement)])
        writer.writerows(dataclasses.astuple(m) for m in measurements)
