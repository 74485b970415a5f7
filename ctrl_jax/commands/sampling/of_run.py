"""Samples of a trained diffusion model, as a picture and as arrays.

Until all are drawn each batch has a sealed file of its own.
"""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ctrl_jax._checks import check_choice
from ctrl_jax._records import seal_of
from ctrl_jax.commands.sampling.batches import draw_missing
from ctrl_jax.models import SteeringSpec
from ctrl_jax.models.spec import score_model
from ctrl_jax.processes import grids
from ctrl_jax.runtime import Run, on_mesh, own_part, replicate, shard_batch, state_digest
from ctrl_jax.runtime.checkpoints.digests import host_array
from ctrl_jax.runtime.devices.distributed import on_the_first
from ctrl_jax.runtime.run.arrays import keep_arrays, own_kept_arrays, write_samples
from ctrl_jax.runtime.run.figures import draw_histograms, draw_images
from ctrl_jax.runtime.saved_models import SavedModel, load_model
from ctrl_jax.solvers import EulerMaruyama, ExponentialEuler, sample

SOLVERS = {
    "ancestral": ExponentialEuler(),
    "ddim": ExponentialEuler(eta=0.0),
    "euler_maruyama": EulerMaruyama(),
}
SAMPLES, PARTS = "samples.npz", "samples-*.npz"


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What is drawn, of `ctrl-jax sample RUN`."""

    run: str
    number: int
    solver: str
    solver_steps: int | None
    batch: int
    seed: int


class Ready(NamedTuple):
    """What is needed to draw.

    Fields:
        images: whether the samples are images.
        draw: ``draw(numbers)``, samples (batch, ...).
        together: samples drawn at a time.
        inputs: digest of the model.
    """

    images: bool
    draw: Callable[[np.ndarray], np.ndarray]
    together: int
    inputs: dict[str, str]


def load_of_run(drawing: Drawing, mesh: Mesh) -> Ready:
    """Read the model of a run.

    Args:
        drawing: the options.
        mesh: devices that a batch is divided over.

    Raises:
        ValueError: there is no model, it is damaged, or an option does not fit it.
    """
    check_choice("solver", drawing.solver, tuple(SOLVERS))
    model, data = load_model(drawing.run), mesh.shape["data"]
    together = -(-min(drawing.batch, drawing.number) // data) * data
    known = {"spec": model.spec, "shape": model.shape, "params": state_digest(model.params)}
    known |= {
        "notes": model.notes,
        "precision": model.precision,
        "x64": jax.config.read("jax_enable_x64"),
    }
    draw = make_draw(model, drawing, mesh)
    return Ready(len(model.shape) == 3, draw, together, {"run": seal_of(known)})


def draw_of_run(drawing: Drawing, ready: Ready, run: Run, *, show: bool) -> list[str]:
    """Write samples.png and samples.npz, and return their names.

    Args:
        drawing: the options.
        ready: by `load_of_run`.
        run: the folder for the files; what is there of before is kept.
        show: whether to show progress.
    """
    first, number = jax.process_index() == 0, drawing.number
    name, path = "images" if ready.images else "samples", run.folder / SAMPLES
    words = {"run": run.inputs["run"], "solver": drawing.solver, "seed": drawing.seed}
    words |= {"steps": drawing.solver_steps, "number": number, "together": ready.together}
    words = json.dumps(words)
    found: dict[int, np.ndarray] = {}

    def part_of(start: int) -> Path:
        return run.folder / PARTS.replace("*", f"{start:08}")

    def keep(rows: range, samples: np.ndarray) -> None:
        found[rows.start] = samples
        keep_arrays(part_of(rows.start), {name: samples}, words)

    def look() -> list[int]:
        if run.resumed and (kept := own_kept_arrays(path, words)) is not None:
            found[0] = kept[name]
            return []
        starts = range(0, number, ready.together)
        for start in starts if run.resumed else ():
            if (kept := own_kept_arrays(part_of(start), words)) is not None:
                found[start] = kept[name]
        return [start for start in starts if start not in found]

    missing = [
        number_of
        for start in on_the_first(look)
        for number_of in range(start, min(start + ready.together, number))
    ]
    draw_missing(number, ready.together, missing, ready.draw, keep, run, show=show)
    if first:
        samples = np.concatenate([found[start] for start in sorted(found)])
        write_samples(path, words, **{name: samples})
        if ready.images:
            draw_images(run.folder / "samples.png", samples)
        else:
            draw_histograms(run.folder / "samples.png", {"samples": samples[:, 0]})
        for part in run.folder.glob(PARTS):
            part.unlink()
    return ["samples.png", SAMPLES]


def make_draw(
    model: SavedModel, drawing: Drawing, mesh: Mesh
) -> Callable[[np.ndarray], np.ndarray]:
    """Return ``draw(numbers)``, samples whose noise depends on the seed and their number alone."""
    network = score_model(model.spec, model.shape, jnp.dtype(model.precision)).apply
    steps = drawing.solver_steps or int(model.notes.get("solver_steps", 50))
    # The analytic environments start from the law of noised nothing at the horizon.
    at_horizon = model.process.marginal(jnp.asarray(model.process.horizon)).std
    start_std = at_horizon if isinstance(model.spec, SteeringSpec) else None

    # Replicated results, which every process can read.
    @partial(jax.jit, out_shardings=NamedSharding(mesh, PartitionSpec()))
    @partial(on_mesh, mesh)
    def samples_of(key, params, numbers):
        def one(number):
            return sample(
                jax.random.fold_in(key, number),
                model.process,
                partial(network, params),
                (1, *model.shape),
                grid=grids.quadratic(model.process, steps, end=model.spec.end),
                solver=SOLVERS[drawing.solver],
                start_std=start_std,
            )[0]

        return jax.vmap(one)(numbers).astype(jnp.float32)

    # By way of the host: what one process has read is no array of all.
    params = jax.tree.map(host_array, model.params)
    given = replicate(mesh, (jax.random.key(drawing.seed), params))

    def draw(numbers: np.ndarray) -> np.ndarray:
        return jax.device_get(samples_of(*given, shard_batch(mesh, own_part(mesh, numbers))))

    return draw
