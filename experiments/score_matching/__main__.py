"""Explicit, implicit, sliced and denoising score matching where the score is known.

On a Gaussian mixture noised by a VP process all four have one gradient in expectation. This run
checks it with standard errors, and compares what they cost and how much they scatter: at a network
trained for a while, per dimension and per time; and trains the same network by each. Each run
writes config.json, results.json, efficiency.png, variance.png and training.png to its folder.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._checks import check_count, check_fields, check_positive, refuse
from ctrl_jax.algorithms.base import Learner, apply_gradient
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from ctrl_jax.processes import VP
from ctrl_jax.runtime import check_small_run, command, progress
from ctrl_jax.runtime.run.tables import print_table
from experiments.options import COMMON, Common
from experiments.score_matching import STUDY, plots
from experiments.score_matching.costs import measure
from experiments.score_matching.estimators import (
    OBJECTIVES,
    Agreement,
    compare,
    draw,
    gradients,
    make_losses,
    make_mixture,
    make_model,
    score_error,
)
from experiments.study import Conduct

END = 1e-2
POINTS = 7
"""Times at which the variance is told."""
MEASURED = (*Agreement._fields, "flops_ratio", "time_ratio")


@dataclasses.dataclass(frozen=True)
class Config:
    """Compare the score-matching objectives on a Gaussian mixture with known score.

    Source: arXiv 2402.07487, section 4.
    Expected: every mean gradient within 4.8 standard errors of the explicit one along every
    direction looked at; the variance ratios, cost ratios and training errors are measurements.

    Args:
        dimensions: dimensions of the mixture.
        batch: points per gradient.
        batches: gradients behind each mean and variance.
        warm_steps: updates by denoising before gradients are compared.
        training_dimension: dimension of the training by each objective and of the variance per
            time.
        width: hidden size of the network.
        learning_rate: peak of a cosine schedule of Adam.
        rounds: interleaved rounds of timing.
        seeds: trainings by each objective, of which median and worst are reported.
        run: the common options.
    """

    dimensions: tuple[int, ...] = (1, 2, 8)
    batch: int = 256
    batches: int = 384
    warm_steps: int = 100
    training_dimension: int = 2
    width: int = 64
    learning_rate: float = 3e-3
    rounds: int = 20
    seeds: int = 3
    run: Common = COMMON

    def chunk(self) -> int:
        """Return how many gradients are computed in one call: a quarter of them."""
        return self.batches // 4

    def updates(self) -> int:
        """Return the updates of the training by each objective."""
        return self.run.steps or 1000

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        counts = ("batch", "warm_steps", "training_dimension", "width", "rounds", "seeds")
        check_fields(self, check_count, *counts, "dimensions")
        check_count("batches", self.batches, least=8)
        if self.batches % 4:
            raise refuse("batches", self.batches, "it must be a multiple of 4", "round it up")
        check_positive("learning_rate", self.learning_rate)
        if not self.dimensions:
            raise refuse("dimensions", self.dimensions, "at least one is needed", "give 1 2")
        if self.training_dimension not in self.dimensions:
            rule = f"it must be one of the dimensions {self.dimensions}"
            raise refuse("training_dimension", self.training_dimension, rule, "choose one of them")
        check_small_run(self.run)


def main(config: Config) -> Path:
    """Run the experiment and return the folder of its results."""
    run, options = STUDY.begin(config), config.run
    metrics: dict[str, Any] = {}
    variances: dict[str, list[float]] = {}
    pieces = len(config.dimensions) + len(OBJECTIVES)
    with progress(pieces, "objectives", enabled=options.progress) as show:
        for i, dimension in enumerate(config.dimensions):
            found, at = measure_dimension(config, dimension, run)
            metrics |= {
                f"d={dimension}/{name}/{what}": float(value)
                for name, values in zip(OBJECTIVES, found, strict=True)
                for what, value in zip(MEASURED, values, strict=True)
            }
            if dimension == config.training_dimension:
                variances = dict(zip(OBJECTIVES, at.tolist(), strict=True))
            show(i + 1)
        curves, params = {}, {}
        for i, name in enumerate(OBJECTIVES):
            params[name], curves[name] = train_by(config, name, run)
            show(len(config.dimensions) + 1 + i)
    metrics |= summarize(metrics, curves)
    times = noise_times().tolist()
    metrics |= {
        f"at t={t:.3g}/{n}/variance": v[i]
        for n, v in variances.items()
        for i, t in enumerate(times)
    }
    run.write(metrics, params)
    dimension = config.training_dimension
    plots.draw_variance(run.folder / "variance.png", times, variances, dimension)
    plots.draw_training(run.folder / "training.png", curves, evaluate_every(config), dimension)
    plots.draw_efficiency(run.folder / "efficiency.png", efficiency(config, metrics))
    print_tables(config, metrics)
    return run.close()


class Dimension(NamedTuple):
    """One dimension: a network trained for a while, and gradients at it.

    Fields:
        losses: mean loss of each objective.
        params: of the network, after some updates by denoising.
        draws: ``draws(key, low, high)``, a batch at times of that interval.
        gradients: ``gradients(params, keys, low, high)``, of each objective one flat gradient per
            key; compiled once for all uses.
    """

    losses: dict[str, Any]
    params: Any
    draws: Any
    gradients: Any


def make_dimension(config: Config, dimension: int) -> Dimension:
    """Train the network of a dimension and prepare its gradients."""
    process, law = VP(), make_mixture(dimension)
    model = make_model(process, dimension, config.width)
    steps = config.warm_steps
    train = _make_training(config, process, law, model, "denoising", steps, steps)
    params, _ = train(config.run.seed)
    losses = make_losses(process, model)

    def draws(key, low, high):
        return draw(key, process, law, config.batch, (low, high))

    @jax.jit
    def flat(params, keys, low, high):
        return gradients(losses, params, lambda key: draws(key, low, high), keys)

    return Dimension(losses, params, draws, flat)


def measure_dimension(config: Config, dimension: int, run: Conduct) -> tuple[np.ndarray, ...]:
    """Return what is `MEASURED` of each objective, and its variance at `noise_times` or NaN."""

    def make():
        study = make_dimension(config, dimension)
        at = np.full((len(OBJECTIVES), POINTS), np.nan)
        if dimension == config.training_dimension:
            at = variance_per_time(config, study)
        return compare_gradients(config, study), at

    like = [np.empty((len(OBJECTIVES), columns)) for columns in (len(MEASURED), POINTS)]
    return run.once(f"gradients-d={dimension}", make, tuple(like))


def compare_gradients(config: Config, study: Dimension) -> np.ndarray:
    """Return agreement, variance and cost of each objective's gradient, the rows `MEASURED`."""
    times = (jnp.float32(END), jnp.float32(VP().horizon))
    parts = config.batches // config.chunk()
    keys = jax.random.split(jax.random.key(config.run.seed + 1), (parts, config.chunk()))
    pieces = [study.gradients(study.params, k, *times) for k in keys]
    found = {
        name: np.concatenate([np.asarray(piece[name], np.float64) for piece in pieces])
        for name in OBJECTIVES
    }
    functions = {name: jax.grad(loss) for name, loss in study.losses.items()}
    draws = jax.jit(study.draws)(keys[0, 0], *times)
    costs = measure(functions, (study.params, draws), reference="denoising", rounds=config.rounds)
    rows = []
    for name in OBJECTIVES:
        flops_ratio = costs[name].flops / costs["denoising"].flops
        agreement = compare(found[name], found["explicit"])
        rows.append([*agreement, flops_ratio, costs[name].time_ratio])
    return np.asarray(rows)


def noise_times() -> np.ndarray:
    """Return the times at which the variance is told."""
    return np.geomspace(END, VP().horizon, POINTS).astype(np.float32)


def variance_per_time(config: Config, study: Dimension) -> np.ndarray:
    """Return the variance of each objective's gradient at `noise_times`."""
    keys = jax.random.split(jax.random.key(config.run.seed + 2), config.chunk())
    pieces = [study.gradients(study.params, keys, t, t) for t in noise_times()]
    found = {name: [np.asarray(piece[name], np.float64) for piece in pieces] for name in OBJECTIVES}
    # At one time the explicit gradient may vanish; its mean square over times does not.
    size = np.mean([np.sum(g.mean(axis=0) ** 2) for g in found["explicit"]])
    return np.asarray([[g.var(axis=0, ddof=1).sum() / size for g in v] for v in found.values()])


def evaluate_every(config: Config) -> int:
    """Return the updates between two points of a training curve."""
    return max(config.updates() // 40, 1)


def train_by(config: Config, name: str, run: Conduct):
    """Train networks by one objective; return their parameters and errors (seeds, points)."""
    dimension = config.training_dimension
    process, law = VP(), make_mixture(dimension)
    model = make_model(process, dimension, config.width)
    every = evaluate_every(config)
    train = _make_training(config, process, law, model, name, config.updates(), every)

    def make():
        found = [train(config.run.seed + i) for i in range(config.seeds)]
        return [params for params, _ in found], np.stack([errors for _, errors in found])

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    errors = np.empty((config.seeds, len(range(0, config.updates(), every))))
    return run.once(f"training-{name}", make, ([shapes] * config.seeds, errors))


def _make_training(config, process, law, model, name, steps, every: int):
    """Return ``train(seed) -> (params, errors)``, compiled once for all seeds."""
    loss = make_losses(process, model)[name]
    times = (END, process.horizon)
    optimizer = adam(make_schedule(config.learning_rate, steps))

    @jax.jit
    def start(seed):
        held_out = draw(jax.random.key(seed + 3), process, law, 4096, times)
        key, params_key = jax.random.split(jax.random.key(seed))
        keys = jax.random.split(key, steps)
        params = model.init(params_key)
        return Learner(params, optimizer.init(params)), keys, held_out

    def update(learner, key):
        draws = draw(key, process, law, config.batch, times)
        return apply_gradient(learner, jax.grad(loss)(learner.params, draws), optimizer)

    @jax.jit
    def block(learner, keys, held_out):
        learner, _ = jax.lax.scan(update, learner, keys)
        return learner, score_error(process, model, learner.params, held_out)

    def train(seed: int):
        learner, keys, held_out = start(seed)
        errors = []
        for first in range(0, steps, every):
            learner, error = block(learner, keys[first : first + every], held_out)
            errors.append(float(error))
        return learner.params, np.asarray(errors)

    return train


def summarize(metrics: dict[str, float], curves: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the metrics over all dimensions, and where each training ended."""
    summary = {
        "gradients/largest_z": max(v for k, v in metrics.items() if k.endswith("largest_z")),
    }
    for name, errors in curves.items():
        ends = errors[:, -3:].mean(axis=1)
        summary[f"training/{name}/error"] = float(np.median(ends))
        summary[f"training/{name}/worst error"] = float(np.max(ends))
    return summary


def efficiency(config: Config, metrics) -> dict[int, dict[str, tuple[float, float]]]:
    """Return variance and time over denoising's, by dimension and objective."""
    return {
        d: {
            name: (
                metrics[f"d={d}/{name}/variance"] / metrics[f"d={d}/denoising/variance"],
                metrics[f"d={d}/{name}/time_ratio"],
            )
            for name in OBJECTIVES
        }
        for d in config.dimensions
    }


def print_tables(config: Config, metrics: dict[str, float]) -> None:
    """Print one table per dimension, and the errors after training."""
    columns = ("objective", "variance", "slope", "± se", "largest z", "flops ratio", "time ratio")
    for d in config.dimensions:
        rows = [[name, *(metrics[f"d={d}/{name}/{m}"] for m in MEASURED)] for name in OBJECTIVES]
        print_table(f"gradients in {d} dimensions (ratios to denoising)", columns, rows)
    names = ("error", "worst error")
    rows = [[n, *(f"{metrics[f'training/{n}/{m}']:.5f}" for m in names)] for n in OBJECTIVES]
    title = f"score error after {config.updates()} updates, {config.training_dimension} dimensions"
    print_table(title, ("objective", "median v |s - true|²", "worst"), rows)


if __name__ == "__main__":
    command(Config, main)
