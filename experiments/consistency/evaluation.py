"""Samples of every model in every number of evaluations, and how near the data they are."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._typing import Model, Params
from ctrl_jax.processes import grids
from ctrl_jax.processes.consistency_function import level_times
from ctrl_jax.solvers import ExponentialEuler, sample, sample_consistency
from experiments.consistency.tasks import Task

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

    def draw(key, params, times):
        def function(t, x):
            return model.apply(params, t, x)

        shape = (task.number, *task.shape)
        return sample_consistency(key, task.process, function, shape, end=task.end, times=times)

    found = {
        n: _evaluate(task, draw, params, later_times(task, n), number, seed) for n in evaluations
    }
    return _collect(found)


def evaluate_ddim(
    task: Task, model: Model, params: Params, evaluations: tuple[int, ...], number: int, seed: int
) -> Outcome:
    """Return the quality of the deterministic DDIM sampler with a score model.

    With few evaluations much depends on the grid, so that each number has its best of three.
    """

    def draw(key, params, grid):
        def score_fn(t, x):
            return model.apply(params, t, x)

        shape = (task.number, *task.shape)
        solver = ExponentialEuler(eta=0.0)
        return sample(key, task.process, score_fn, shape, grid=grid, solver=solver)

    draw, found = jax.jit(draw), {}
    first = next(iter(task.floor))
    for steps in evaluations:
        tried = [
            _evaluate(task, draw, params, make(task.process, steps, end=task.end), number, seed)
            for make in (grids.edm, grids.log_snr, grids.quadratic)
        ]
        found[steps] = min(tried, key=lambda outcome: outcome[0][first])
    return _collect(found)


def _evaluate(task: Task, draw, params, times, number, seed) -> tuple[dict, np.ndarray]:
    """Return mean distances of `number` samples, drawn as many at a time as are compared."""
    keys = jax.random.split(jax.random.key(seed + 77), -(-number // task.number))
    draw = jax.jit(draw)
    parts = [np.asarray(draw(key, params, times)) for key in keys]
    found = [task.quality(part) for part in parts]
    return {name: float(np.mean([f[name] for f in found])) for name in found[0]}, parts[0][:1024]


def _collect(found: dict[int, tuple[dict, np.ndarray]]) -> Outcome:
    return Outcome({n: f[0] for n, f in found.items()}, {n: f[1] for n, f in found.items()})
