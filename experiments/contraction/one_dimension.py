"""Exact scores on the line with errors put in: what is measured beside what is proved.

Data are N(1, 1/4). An error e of the score is, with a sign,

    absolute  e = delta,    noise  e = delta / std (delta in the noise prediction),
    relative  e = delta s,

so every constant of theorem 1 is known: the score is affine with slope -1 / V, V = a^2 / 4 + v, and
E|s|^2 = 1 / V. The start is either the law at the horizon or the prior of the process.

The second part is the paper's own example: a point mass at -1, the score's error delta / v, Euler
steps of a length dt down to t = 0, samples clipped to [-2, 0].
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._numerics import expand
from ctrl_jax.metrics.distances import wasserstein_1d
from ctrl_jax.processes import LinearProcess, grids
from ctrl_jax.processes.contraction import wasserstein_bound
from ctrl_jax.runtime import progress
from ctrl_jax.solvers import EulerMaruyama, simulate
from experiments.contraction.config import Config
from experiments.contraction.family import family
from experiments.contraction.measurement import SAMPLERS, Measurement, over_seeds, reversal
from experiments.study import Conduct

NAME, MEAN, STD = "one_dimension", 1.0, 0.5
STARTS = ("exact", "prior")
POINT, BIAS, POINT_STEPS, POINT_SEEDS = -1.0, 0.5, (50, 200, 1000), 32


class Error(NamedTuple):
    """Sizes of the three kinds of error, each one number or an array over settings."""

    absolute: jax.Array | float
    noise: jax.Array | float
    relative: jax.Array | float


def settings(size: float) -> dict[str, tuple[float, float, float]]:
    """Return every error by its name: none, and each kind with both signs."""
    found = {"none": (0.0, 0.0, 0.0)}
    for i, kind in enumerate(Error._fields):
        for sign, mark in ((1, "+"), (-1, "-")):
            found[kind + mark] = tuple(np.eye(3)[i] * sign * size)
    return found


def exact_score(process: LinearProcess) -> Callable:
    """Return the score of the noised N(MEAN, STD^2)."""

    def score_fn(t, x):
        scale, std = process.marginal(t)
        return -(x - expand(scale, x) * MEAN) / expand((scale * STD) ** 2 + std**2, x)

    return score_fn


def perturbed(process: LinearProcess, score_fn: Callable, error: Error) -> Callable:
    """Return the score function with the three errors added."""

    def wrong(t, x):
        shift = error.absolute + error.noise / process.marginal(t).std
        return (1 + error.relative) * score_fn(t, x) + expand(shift, x)

    return wrong


def measure(config: Config, study: Conduct) -> list[Measurement]:
    """Return W2 to the data under every process, sampler, number of steps, error and start."""
    found: list[Measurement] = []
    each = [(sampler, steps) for sampler in SAMPLERS for steps in config.solver_steps]
    shape = (len(each), len(STARTS), len(settings(1.0)), config.seeds)
    with progress(len(family()), NAME, enabled=config.run.progress) as show:
        for i, (name, process) in enumerate(family().items()):
            make = partial(_all_distances, config, process, each)
            w2s = study.once(f"{NAME}-{name}", make, np.empty(shape, np.float32))
            bounds = _bounds(process, config.error_size)
            for (sampler, steps), w2 in zip(each, w2s, strict=True):
                found += _rows(name, sampler, steps, w2, bounds, config.error_size)
            show(i + 1)
    return found


def _all_distances(config: Config, process: LinearProcess, each) -> np.ndarray:
    """Return W2 to the data under a process, for every sampler with its number of steps."""
    return np.stack([_distances(config, process, *setting) for setting in each])


def _rows(name, sampler, steps, w2, bounds, size) -> list[Measurement]:
    """Turn distances (starts, errors, seeds) into measurements."""
    return [
        Measurement(NAME, name, sampler, steps, error, start, *over_seeds(w2[i, j]), bounds[i][j])
        for i, start in enumerate(STARTS)
        for j, error in enumerate(settings(size))
    ]


def _distances(config: Config, process: LinearProcess, sampler: str, steps: int) -> np.ndarray:
    """Return W2 to the data, shape (starts, errors, seeds)."""
    grid = grids.uniform(process, steps, end=1e-3 * process.horizon)
    quantiles = (jnp.arange(config.samples) + 0.5) / config.samples
    data = MEAN + STD * jax.scipy.special.ndtri(quantiles)
    errors = Error(*jnp.asarray(list(settings(config.error_size).values()), jnp.float32).T)
    keys = jax.random.split(jax.random.key(config.run.seed), config.seeds)
    starts = jnp.asarray(_start_laws(process))
    return np.asarray(_simulated(process, grid, starts, errors, keys, data, sampler))


@partial(jax.jit, static_argnames="sampler")
def _simulated(process: LinearProcess, grid, starts, errors: Error, keys, data, sampler: str):
    """All settings in one program; the process is traced, so that its class alone compiles."""

    def distance(start, error, key):
        start_key, path_key = jax.random.split(key)
        x_0 = start[0] + start[1] * jax.random.normal(start_key, data.shape)
        score_fn = perturbed(process, exact_score(process), error)
        sde, solver = reversal(process, score_fn, sampler)
        x = simulate(path_key, sde, x_0, grid, solver=solver, remat=False).states
        return wasserstein_1d(x, data)

    each = jax.vmap(distance, (None, None, 0))
    each = jax.vmap(jax.vmap(each, (None, 0, None)), (0, None, None))
    return each(starts, errors, keys)


def _start_laws(process: LinearProcess) -> np.ndarray:
    """Return mean and std of the law at the horizon, and of the prior."""
    scale, std = (float(c) for c in process.marginal(jnp.asarray(process.horizon)))
    exact = [scale * MEAN, np.hypot(scale * STD, std)]
    return np.asarray([exact, [0.0, float(process.prior_std())]], np.float32)


def _bounds(process: LinearProcess, size: float) -> list[list[float]]:
    """Return the bound of theorem 1, (starts, errors), for the exact reverse SDE."""
    exact, prior = _start_laws(process)
    offsets = [0.0, float(np.hypot(*(exact - prior)))]
    errors = Error(*jnp.asarray(list(settings(size).values()), jnp.float32).T)
    return np.asarray(_bound(process, errors, jnp.asarray(offsets, jnp.float32))).tolist()


@jax.jit
@partial(jax.vmap, in_axes=(None, None, 0))
@partial(jax.vmap, in_axes=(None, 0, None))
def _bound(process: LinearProcess, error: Error, offset):
    def variance(t):
        scale, std = process.marginal(t)
        return (scale * STD) ** 2 + std**2

    def score_error(t):
        of_score = error.relative / jnp.sqrt(variance(t))
        return abs(error.absolute + error.noise / process.marginal(t).std + of_score)

    return wasserstein_bound(
        process,
        initial_error=offset,
        score_error=score_error,
        lipschitz=lambda t: -(1 + error.relative) / variance(t),
    )


def measure_point(config: Config, study: Conduct) -> list[Measurement]:
    """Return W2 to a point mass under the paper's example, for both signs of the bias."""
    names, signs = ("ou", "contractive ou"), {"+": 1, "-": -1}
    each = [(name, steps, mark) for name in names for steps in POINT_STEPS for mark in signs]

    def make():
        rows = [
            _point_distances(config, family()[name], steps, signs[mark] * BIAS)
            for name, steps, mark in each
        ]
        return np.stack(rows)

    w2s = study.once(f"{NAME}-point", make, np.empty((len(each), POINT_SEEDS), np.float32))
    return [
        Measurement("point", name, "euler", steps, mark, "prior", *over_seeds(w2))
        for (name, steps, mark), w2 in zip(each, w2s, strict=True)
    ]


def _point_distances(config: Config, process, steps: int, bias: float) -> np.ndarray:
    # One unit of time, so that dt = 1 / steps, whatever the horizon of the process.
    grid = process.horizon - 1.0 + jnp.linspace(0.0, 1.0, steps + 1)
    keys = jax.random.split(jax.random.key(config.run.seed + 1), POINT_SEEDS)
    return np.asarray(_to_the_point(process, grid, bias, keys, config.samples))


@partial(jax.jit, static_argnames="samples")
def _to_the_point(process: LinearProcess, grid, bias, keys, samples: int):
    """All seeds in one program; the process and the bias are traced."""

    def score_fn(t, x):
        scale, std = process.marginal(t)
        return (scale * POINT + bias - x) / std**2

    def distance(key):
        start_key, path_key = jax.random.split(key)
        std = process.marginal(jnp.asarray(1.0)).std
        x_0 = std * jax.random.normal(start_key, (samples,))
        sde = process.reverse(score_fn)
        path = simulate(path_key, sde, x_0, grid, solver=EulerMaruyama(), remat=False)
        return jnp.sqrt(jnp.mean((jnp.clip(path.states, -2.0, 0.0) - POINT) ** 2))

    return jax.vmap(distance)(keys)
