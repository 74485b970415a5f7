"""Samples of every model in every number of evaluations, and how near the data they are."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._typing import Model, Params
from ctrl_jax.processes import grids
from ctrl_jax.processes.consistency import level_times
from ctrl_jax.solvers import ExponentialEuler, sample, sample_consistency
from experiments.consistency_models.tasks import Task

LIMIT = 100  # evaluations of DDIM that stand for the solved ODE


class Outcome(NamedTuple):
    """Distances of one model by number of evaluations and by name, and some samples of each."""

    quality: dict[int, dict[str, float]]
    samples: dict[int, np.ndarray]


def later_times(task: Task, evaluations: int) -> jnp.ndarray:
    """Return the times a consistency model returns to, evenly between levels, decreasing."""
    time_of_level = level_times(task.process, end=task.end)
    return time_of_level(jnp.linspace(1.0, 0.0, evaluations + 1)[1:-1])


def evaluate_consistency(
    task: Task, model: Model, params: Params, evaluations: tuple[int, ...], number: int, seed: int
) -> Outcome:
    """Return the quality of a consistency model."""

    def make(steps):
        times = later_times(task, steps)

        def draw(key, params):
            def function(t, x):
                return model.apply(params, t, x)

            shape = (task.number, *task.shape)
            return sample_consistency(key, task.process, function, shape, end=task.end, times=times)

        return draw

    return _evaluate(task, make, params, evaluations, number, seed)


def evaluate_ddim(
    task: Task, model: Model, params: Params, evaluations: tuple[int, ...], number: int, seed: int
) -> Outcome:
    """Return the quality of the deterministic DDIM sampler with a score model."""

    def make(steps):
        grid = grids.edm(task.process, steps, end=task.end)

        def draw(key, params):
            def score_fn(t, x):
                return model.apply(params, t, x)

            shape = (task.number, *task.shape)
            solver = ExponentialEuler(eta=0.0)
            return sample(key, task.process, score_fn, shape, grid=grid, solver=solver)

        return draw

    return _evaluate(task, make, params, evaluations, number, seed)


def _evaluate(task: Task, make, params, evaluations, number, seed) -> Outcome:
    quality, samples = {}, {}
    # As many draws of the size that the measure compares as give `number` samples in all.
    keys = jax.random.split(jax.random.key(seed + 77), max(number // task.number, 1))
    for steps in evaluations:
        draw = jax.jit(make(steps))
        parts = [np.asarray(draw(key, params)) for key in keys]
        found = [task.quality(part) for part in parts]
        quality[steps] = {name: float(np.mean([f[name] for f in found])) for name in found[0]}
        samples[steps] = parts[0][:1024]
    return Outcome(quality, samples)
