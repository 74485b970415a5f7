"""Diffusion models of CIFAR-10 under four processes, one of them contractive (2401.13115).

The whole run is in `main`; its stages are in this folder, its options and what
they cost in `Config`. Each run writes config.json, metrics.jsonl, results.json, samples.png,
loss.png, samples.npz and model/ to its folder. A finished run with --resume latest is evaluated
again, for example with --evaluation.inception.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ctrl_jax.pretrained import load_inception
from ctrl_jax.runtime import Run, check_batch, command, digests_of, read_metrics
from ctrl_jax.runtime.run.arrays import write_samples
from ctrl_jax.runtime.run.figures import draw_images
from ctrl_jax.runtime.run.tables import print_table
from ctrl_jax.runtime.saved_models import save_model
from experiments.cifar10 import STUDY, plots
from experiments.cifar10.config import TINY, Config
from experiments.cifar10.data import TINY_SHAPE, load_images, make_tiny_set
from experiments.cifar10.evaluation import measure
from experiments.cifar10.likelihood import mean_bits_per_dim
from experiments.cifar10.sampling import make_sampler, to_floats
from experiments.cifar10.training import train_score

PICTURES = 64
"""Of the samples, and of every snapshot."""
REPORTED = {
    "contractive_sub_vp": {"fid": 2.47, "inception_score": 10.18},
    "ve": {"fid": 2.50, "inception_score": 9.68},
    "vp": {"fid": 2.55, "inception_score": 9.58},
    "sub_vp": {"fid": 2.61, "inception_score": 9.56},
}


def main(config: Config) -> Path:
    """Run the experiment and return the folder of its results."""
    given = {"data": config.data, "evaluation.inception": config.evaluation.inception}
    study = STUDY.begin(config, functools.partial(load, config), lambda: digests_of(given))
    (inception, data), run, mesh = study.loaded, study.run, study.mesh
    options, show = config.evaluation, config.run.progress
    spec, shape = config.spec(), shape_of(data)
    model = spec.model(shape, config.run.dtype)
    images, held_out = data or read(config, make_tiny_set(run.folder / "tiny-cifar-bin"))
    draw = make_sampler(config, model, shape, mesh)
    key = jax.random.key(config.run.seed + 1000)

    def snapshot(k: int, state) -> dict[str, Any]:
        pictures = draw(jax.random.fold_in(key, k), state.params, PICTURES, config.evaluation.batch)
        _draw(run.folder / f"samples-{k}.png", pictures)
        return {}

    state, traces = train_score(config, model, images, study, snapshot)
    notes = {"experiment": STUDY.name, "solver_steps": config.solver_steps}
    save_model(
        run.folder / "model", spec, shape, state.params, notes, precision=config.run.arithmetic
    )
    samples = draw(key, state.params, options.samples, options.batch, show=show)
    metrics = measure(samples, images, inception, show=show)
    if held_out is not None:
        bits = functools.partial(mean_bits_per_dim, batch=min(64, len(held_out)), show=show)
        average = jax.device_get(state.params)  # every process computes the same by itself
        metrics |= bits(jax.random.fold_in(key, 0), spec.process(), model, average, held_out)
    metrics |= {"traces": traces, "samples": len(samples), "loss": _last_loss(run)}
    study.write(metrics, state.params, expected=REPORTED[config.process])
    if jax.process_index() == 0:
        finish(config, run, samples, metrics)
    return study.close()


def load(config: Config, mesh: Mesh):
    """Return the feature network and the images; refuse a batch or a network that does not fit."""
    check_batch(mesh, config.optimization.batch, "optimization.batch")
    inception = config.evaluation.inception and load_inception(config.evaluation.inception)
    data = config.data and read(config, config.data)
    config.spec().model(shape_of(data), config.run.dtype)
    return inception, data


def read(config: Config, folder: str | Path):
    """Return the images of a folder, for training and for the likelihood."""
    return load_images(str(folder), config.optimization.batch, config.evaluation.likelihood)


def shape_of(data) -> tuple[int, ...]:
    """Return the shape of an image; of the made ones where there is no folder."""
    return data.train.shape[1:] if data else TINY_SHAPE


def finish(config: Config, run: Run, samples: np.ndarray, metrics: dict[str, Any]) -> None:
    """Write the samples and the pictures, and print the table."""
    write_samples(run.folder / "samples.npz", images=samples)
    _draw(run.folder / "samples.png", samples[:PICTURES])
    plots.draw_loss(run.folder / "loss.png", read_metrics(run.metrics))
    reported = REPORTED[config.process]
    rows = [[name, value, reported.get(name)] for name, value in metrics.items()]
    title = f"{config.process}: {'made images' if config.tiny else config.data}"
    print_table(title, ("", "measured", "reported for CIFAR-10"), rows)


def run_command(args: Sequence[str] | None = None) -> Path:
    """Parse the command line, whose --tiny changes the defaults of the other options."""
    given = sys.argv[1:] if args is None else list(args)
    return command(Config, main, given, default=TINY if "--tiny" in given else None)


def _draw(path: Path, samples: np.ndarray) -> None:
    if jax.process_index() == 0:
        draw_images(path, to_floats(samples))


def _last_loss(run: Run) -> float | None:
    """Return the mean loss over the last hundred lines that were written."""
    losses = [row["loss"] for row in read_metrics(run.metrics) if "loss" in row]
    return float(np.mean(losses[-100:])) if losses else None


if __name__ == "__main__":
    run_command()
