"""Trained diffusion models on disk, and `load(RUN)`, which hands one to code.

A model is a folder ``model/`` with ``model.json`` (a `ModelSpec`, the shape of an example, the
precision and what the experiment noted, sealed by a digest) and its parameters as a checkpoint with
digests.
"""

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ctrl_jax._checks import refuse
from ctrl_jax._errors import MissingCheckpointError, RunWarning
from ctrl_jax._records import CHANGED, plain, read_json, seal_of, write_sealed
from ctrl_jax._typing import Params, ScoreFn
from ctrl_jax.models.diffusion import DiffusionSpec
from ctrl_jax.models.image import ImageDiffusionSpec
from ctrl_jax.models.spec import ModelSpec, from_record, score_model
from ctrl_jax.models.steering import SteeringSpec
from ctrl_jax.processes import LinearProcess
from ctrl_jax.runtime.checkpoints.checkpoints import Checkpoints
from ctrl_jax.runtime.checkpoints.digests import leaf_type, named_leaves, state_digest, tree_diff

KINDS: tuple[type[ModelSpec], ...] = (DiffusionSpec, ImageDiffusionSpec, SteeringSpec)
"""What `model.json` can describe, by the name of the class."""

FORMAT = 3
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

    spec: ModelSpec
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
        """``score_fn(t, x, *conditions)``, t the forward time."""
        apply = score_model(self.spec, self.shape, jnp.dtype(self.precision)).apply
        return lambda t, x, *conditions: apply(self.params, t, x, *conditions)


def save_model(
    folder: str | os.PathLike[str],
    spec: ModelSpec,
    shape: tuple[int, ...],
    params: Params,
    notes: Mapping[str, Any] | None = None,
    *,
    precision: str = "float32",
) -> None:
    """Write a model to a folder; a reader sees it whole or not at all.

    Args:
        folder: created if absent.
        spec: process, network and what it predicts, as a dataclass of plain values.
        shape: of one example.
        params: of the spec's network.
        notes: plain JSON kept beside it.
        precision: of the network's arithmetic.

    Raises:
        ValueError: what would be written could not be read: the spec is no spec, does not survive
            JSON, or has a network with other parameters. Nothing is written.
    """
    folder = Path(folder)
    record = _record(spec)
    _check_params(spec, shape, params)
    # Named by what it holds: a model that is saved over another never serves the old numbers.
    params_folder = f"params-{state_digest(params)[:16]}"
    with Checkpoints(folder / params_folder, keep=1) as checkpoints:
        if not _holds(checkpoints, params):
            checkpoints.save(1, params)
    if jax.process_index() == 0:
        content = {
            "format": FORMAT,
            "kind": type(spec).__name__,
            "precision": precision,
            "spec": record,
            "shape": list(shape),
            "params": params_folder,
            "notes": dict(notes or {}),
        }
        write_sealed(folder / "model.json", content)


def _holds(checkpoints: Checkpoints, params: Params) -> bool:
    """Return whether the parameters are there whole; what is damaged is set aside and said."""
    if not checkpoints.agreed_steps():
        return False
    try:
        return checkpoints.restore(params).step == 1
    except MissingCheckpointError:
        text = f"{checkpoints.folder}: what was damaged on disk is written again"
        warnings.warn(text, RunWarning, stacklevel=3)
        return False


def _record(spec: ModelSpec) -> dict[str, Any]:
    """Return the record of a spec, which gives the spec again."""
    if not (isinstance(spec, ModelSpec) and dataclasses.is_dataclass(spec)):
        rule = "it must be a dataclass with the members of ModelSpec"
        raise refuse("spec", spec, rule, "give e.g. a DiffusionSpec")
    record = plain(spec)
    if from_record(type(spec), record) != spec:
        rule = "it must be the same after it went through JSON"
        raise refuse("spec", spec, rule, "hold finite numbers, words and tuples only")
    return record


def _check_params(spec: ModelSpec, shape: tuple[int, ...], params: Params) -> None:
    abstract = jax.eval_shape(spec.make_network(shape).init, jax.random.key(0))
    given, wanted = (
        {name: leaf_type(leaf)._replace(dtype="") for name, leaf in named_leaves(tree).items()}
        for tree in (params, abstract)
    )
    if difference := tree_diff(given, wanted):
        rule = f"the network of the spec has others ({difference})"
        raise refuse("params", f"{len(given)} arrays", rule, "give those of this network")


def load_model(folder: str | os.PathLike[str], kinds: Sequence[type] = ()) -> SavedModel:
    """Read what `save_model` wrote, or the model of a finished run.

    Args:
        folder: a model's folder, or a run's folder that holds ``model/``.
        kinds: classes of specs that may stand there beside those of `ctrl_jax.models`.

    Returns:
        The model.

    Raises:
        ValueError: there is no model, it is of an unknown kind, or its parameters are damaged or
            of another network.
    """
    path, record = _read_record(Path(folder))
    known = {kind.__name__: kind for kind in (*KINDS, *kinds)}
    if (kind := record.get("kind")) not in known:
        rule = f"it must be one of {', '.join(known)}"
        raise refuse(f"{path}: kind", kind, rule, "give the class of the spec among kinds")
    try:
        spec, shape = from_record(known[kind], record["spec"]), tuple(record["shape"])
        params_folder, notes, precision = (record[key] for key in ("params", "notes", "precision"))
    except (KeyError, TypeError) as error:
        rule = f"it describes no model ({error})"
        raise refuse("run", str(path), rule, "train it again") from error
    if precision == "float64" and not jax.config.read("jax_enable_x64"):
        rule = "JAX has switched off the model's type"
        repair = 'set JAX_ENABLE_X64=1 or jax.config.update("jax_enable_x64", True)'
        raise refuse(f"{path}: precision", precision, rule, repair)
    target = jax.eval_shape(spec.make_network(shape).init, jax.random.key(0))
    target = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), target)
    with Checkpoints(path.parent / params_folder, read_only=True) as checkpoints:
        params = checkpoints.restore(target).state
    return SavedModel(spec, shape, params, precision, notes)


def _read_record(folder: Path) -> tuple[Path, dict[str, Any]]:
    path = next((p for p in (folder, folder / "model") if (p / "model.json").exists()), None)
    if path is None:
        repair = (
            "give the folder of a finished run of score_as_action or cifar10 (one that was "
            "stopped is finished with --resume latest)"
        )
        raise refuse("run", str(folder), "it holds no trained model", repair)
    path = path / "model.json"
    record = read_json(path)
    if record.get("format") != FORMAT:
        rule = f"this version reads format {FORMAT}"
        repair = "train it again, or use the version that wrote it"
        raise refuse(f"{path}: format", record.get("format", 1), rule, repair)
    if record.get("seal") != seal_of(record):
        raise refuse("run", str(path), CHANGED, "finish the run once more with --resume latest")
    return path, record


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
