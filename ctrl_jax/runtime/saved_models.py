"""Trained diffusion models on disk, and `load(RUN)`, which hands one to code.

A model is a folder ``model/`` with ``model.json`` (one of `SPECS`, the shape of an example, the
precision and what the experiment noted) and its parameters as a checkpoint with digests.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ctrl_jax._typing import Params, ScoreFn
from ctrl_jax.models.diffusion import DiffusionSpec
from ctrl_jax.models.image import ImageDiffusionSpec
from ctrl_jax.models.steering import SteeringSpec
from ctrl_jax.processes import LinearProcess
from ctrl_jax.runtime.checkpoints.checkpoints import Checkpoints
from ctrl_jax.runtime.checkpoints.digests import state_digest
from ctrl_jax.runtime.run.records import read_json, write_json_atomic

Spec = DiffusionSpec | ImageDiffusionSpec | SteeringSpec
SPECS: dict[str, type[Spec]] = {
    spec.__name__: spec for spec in (DiffusionSpec, ImageDiffusionSpec, SteeringSpec)
}
"""What `model.json` can describe, by the name it has there."""

FORMAT = 2
"""Of `model.json`; caches of models carry it in their names too."""


class SavedModel(NamedTuple):
    """A model read from disk.

    Fields:
        spec: process and network.
        shape: of one example.
        params: of the score network.
        precision: of the network's arithmetic, such as "bfloat16".
        notes: what the experiment noted beside it, such as the solver steps it was trained for.
    """

    spec: Spec
    shape: tuple[int, ...]
    params: Params
    precision: str
    notes: dict[str, Any]

    @property
    def process(self) -> LinearProcess:
        """The forward process."""
        return self.spec.process()

    @property
    def score_fn(self) -> ScoreFn:
        """``score_fn(t, x)``, t the forward time."""
        apply = self.spec.model(self.shape, jnp.dtype(self.precision)).apply
        return lambda t, x, *conditions: apply(self.params, t, x, *conditions)


def save_model(
    folder: str | os.PathLike[str],
    spec: Spec,
    shape: tuple[int, ...],
    params: Params,
    notes: Mapping[str, Any] | None = None,
    *,
    precision: str = "float32",
) -> None:
    """Write a model to `folder`; a reader sees it whole or not at all.

    Args:
        folder: created if absent.
        spec: process and network.
        shape: of one example.
        params: of the score network.
        notes: plain JSON kept beside it.
        precision: of the network's arithmetic.
    """
    folder = Path(folder)
    # Named by what it holds: a model that is saved over another never serves the old numbers.
    params_folder = f"params-{state_digest(params)[:16]}"
    with Checkpoints(folder / params_folder, keep=1) as checkpoints:
        if not checkpoints.steps():
            checkpoints.save(1, params)
    if jax.process_index() == 0:
        record = {
            "format": FORMAT,
            "kind": type(spec).__name__,
            "precision": precision,
            "spec": dataclasses.asdict(spec),
            "shape": list(shape),
            "params": params_folder,
            "notes": dict(notes or {}),
        }
        write_json_atomic(folder / "model.json", record)


def load_model(folder: str | os.PathLike[str]) -> SavedModel:
    """Read what `save_model` wrote, or the model of a finished run.

    Args:
        folder: a model's folder, or a run's folder that holds ``model/``.

    Returns:
        The model.

    Raises:
        ValueError: there is no model, or its parameters are damaged or of another network.
    """
    folder = Path(folder)
    if not (folder / "model.json").exists():
        folder = folder / "model"
    if not (folder / "model.json").exists():
        raise ValueError(
            f"run: received {str(folder.parent)!r}; it holds no trained model; give the folder of "
            "a finished run of score_as_action or cifar10 (one that was stopped is finished with "
            "--resume latest)"
        )
    record = read_json(folder / "model.json")
    if record.get("format") != FORMAT:
        raise ValueError(
            f"{folder / 'model.json'}: it was written in format {record.get('format', 1)}, this "
            f"version reads {FORMAT}; train it again, or use the version that wrote it"
        )
    try:
        spec, shape = (
            SPECS[record["kind"]].from_record(_tuples(record["spec"])),
            tuple(record["shape"]),
        )
        params_folder, notes, precision = (record[key] for key in ("params", "notes", "precision"))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'model.json'}: it describes no model ({error})") from error
    if precision == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f"{folder}: the model is in float64, which JAX has switched off; set "
            'JAX_ENABLE_X64=1 or jax.config.update("jax_enable_x64", True)'
        )
    target = jax.eval_shape(spec.model(shape).init, jax.random.key(0))
    target = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), target)
    with Checkpoints(folder / params_folder, read_only=True) as checkpoints:
        params = checkpoints.restore(target).state
    return SavedModel(spec, shape, params, precision, notes)


def _tuples(value: Any) -> Any:
    """Undo what JSON does to tuples."""
    if isinstance(value, dict):
        return {name: _tuples(item) for name, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def load(run: str | os.PathLike[str]) -> tuple[LinearProcess, ScoreFn]:
    """Return the process and the score function of a run.

    Args:
        run: the folder of a finished run.

    Returns:
        The forward process, and ``score_fn(t, x)`` with t the forward time.

    Raises:
        ValueError: there is no model, or its parameters are damaged or of another network.
    """
    model = load_model(run)
    return model.process, model.score_fn
