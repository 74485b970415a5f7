r"""Samples of a trained score network, divided over the mesh.

The sampler stops at a small forward time, where some noise is left; a last step takes it out by the
posterior mean (x + v s) / a (Tweedie), as the published numbers did. Samples are rounded to the 256
values of a file, which is what features are computed from.
"""

from collections.abc import Callable

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ctrl_jax._checks import refuse
from ctrl_jax._typing import Model
from ctrl_jax.processes import grids, parameterization
from ctrl_jax.runtime import progress, replicate
from ctrl_jax.solvers import EulerMaruyama, ExponentialEuler, PredictorCorrector, simulate
from experiments.cifar10.config import Config

DrawSamples = Callable[..., np.ndarray]


def make_solver(config: Config) -> diffrax.AbstractSolver:
    """Return the solver that the options ask for."""
    if config.solver == "predictor_corrector":
        snr = config.snr or (0.16 if config.process == "ve" else 0.2)
        return PredictorCorrector(EulerMaruyama(), snr=snr)
    solvers = {
        "ancestral": ExponentialEuler(),
        "probability_flow": ExponentialEuler(eta=0.0),
        "euler_maruyama": EulerMaruyama(),
    }
    return solvers[config.solver]


def make_sampler(config: Config, model: Model, shape: tuple[int, ...], mesh: Mesh) -> DrawSamples:
    """Return ``draw(key, params, number, batch)``, samples (number, h, w, c) uint8 on the host."""
    spec = config.spec()
    process, solver = spec.process(), make_solver(config)
    grid = grids.uniform(process, config.solver_steps, end=spec.end)
    rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    data = mesh.shape["data"]

    def start(key, size):
        return process.prior_std() * jax.random.normal(key, (size, *shape))

    def finish(key, params, x_start):
        def score_fn(t, x):
            return model.apply(params, t, x)

        x = simulate(key, process.reverse(score_fn), x_start, grid, solver=solver).states
        t = jnp.asarray(process.horizon - grid[-1])
        x_0 = parameterization.to_data(process, score_fn)(t, x)
        # A sample that is not finite must not become a color; the host refuses it.
        return jnp.where(jnp.isfinite(x_0), jnp.clip(x_0, -1, 1), jnp.nan)

    start_here = jax.jit(start, static_argnums=1, out_shardings=rows)
    # Every process needs every sample, to compute the same numbers from them.
    finish_here = jax.jit(finish, out_shardings=whole)

    def draw(key, params, number: int, batch: int, *, show: bool = False) -> np.ndarray:
        size = -(-batch // data) * data  # one size for all calls, so one compilation
        rounds, found = -(-number // size), []
        params = replicate(mesh, params)
        with progress(rounds, "sampling", enabled=show) as bar:
            for i in range(rounds):
                keys = jax.random.split(jax.random.fold_in(key, i))
                start_key, path_key = replicate(mesh, (keys[0], keys[1]))
                x = finish_here(path_key, params, start_here(start_key, size))
                found.append(to_pixels(np.asarray(x)))
                bar(i + 1, {})
        return np.concatenate(found)[:number]

    return draw


def to_pixels(images: np.ndarray) -> np.ndarray:
    """Round images in [-1, 1] to uint8.

    Raises:
        ValueError: a sample is not finite.
    """
    if not np.isfinite(images).all():
        bad = int((~np.isfinite(images)).reshape(len(images), -1).any(axis=1).sum())
        rule = "the network has diverged or the sampler takes too few steps"
        repair = "train longer or raise --solver-steps"
        raise refuse("samples", f"{bad} of {len(images)} that are not finite", rule, repair)
    return np.round((images + 1) * 127.5).astype(np.uint8)


def to_floats(pixels: np.ndarray) -> np.ndarray:
    """Return uint8 images as float32 in [-1, 1]."""
    return pixels.astype(np.float32) / np.float32(127.5) - 1
