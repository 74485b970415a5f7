"""The stages before fine-tuning: a network fitted, and what comes of it kept for later runs."""

import dataclasses
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from ctrl_jax._checks import check_count, check_decay, check_fields, check_positive
from ctrl_jax._records import read_json, write_json_atomic
from ctrl_jax._sums import changed_files, write_sums
from ctrl_jax._typing import Params
from ctrl_jax._whole import copy_folder, set_aside, whole_folder
from ctrl_jax.algorithms.base import (
    Algorithm,
    RunState,
    apply_gradient,
    finish,
    growing_decay,
    start,
)
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from ctrl_jax.runtime import RunWarning, own_part
from ctrl_jax.runtime.devices.distributed import barrier, on_the_first
from experiments.study import Conduct

FACTS = "facts.json"


@dataclasses.dataclass(frozen=True)
class Training:
    """The fit of a network by Adam, its step size rising and then falling to 0 as a cosine.

    Args:
        steps: optimizer updates.
        batch: examples per update.
        learning_rate: peak of the step size.
        gradient_clip: largest norm of a gradient.
        average_decay: decay per update of the moving average of the weights that is kept.
    """

    steps: int
    batch: int = 64
    learning_rate: float = 2e-3
    gradient_clip: float = 1.0
    average_decay: float = 0.998

    def check(self, group: str) -> None:
        """Raise ValueError, about "group.field", for an option out of range."""
        check_fields(self, check_count, "steps", "batch", group=group)
        check_fields(self, check_positive, "learning_rate", "gradient_clip", group=group)
        check_decay(f"{group}.average_decay", self.average_decay)


class Kept(NamedTuple):
    """What a stage made.

    Fields:
        folder: that holds it, the run's own.
        facts: what was measured of it, by name.
        name: that says what it depends on.
    """

    folder: Path
    facts: dict[str, Any]
    name: str


def keep(
    study: Conduct, cache: str, stage: str, on: Any, make: Callable[[Path, str], dict[str, Any]]
) -> Kept:
    """Return what a stage makes of its arguments: from an equal earlier run, or made now.

    It lies in the run's own folder, and stays with it on whatever devices that goes on. Of several
    processes the first decides what is good, and writes; the others read.

    Args:
        study: the run.
        cache: folder of what later runs find again.
        stage: its name.
        on: all that it depends on, beside seed and precision; a later run has the same versions and
            mesh too.
        make: ``make(folder, name)`` fills the folder and returns facts about it.
    """
    name = f"{stage}-{study.fingerprint(stage, on)}"
    own, first = study.folder / "stages" / name, jax.process_index() == 0
    shared = Path(cache) / f"{stage}-{study.fingerprint(stage, on, shared=True)}"
    alike = study.alike()  # noted for what is found too: later stages depend on it
    taken = on_the_first(lambda: _take(shared, own))
    if not taken:
        began = time.monotonic()
        with whole_folder(own) if first else tempfile.TemporaryDirectory() as unfinished:
            facts = make(Path(unfinished), name)
            facts |= {f"minutes/{stage}": round((time.monotonic() - began) / 60, 2)}
            on_the_first(partial(_complete, Path(unfinished), facts))
        if alike:
            study.share(own, shared)
    barrier(name)
    facts = read_json(own / FACTS)
    said = ", ".join(f"{k} {v:.3g}" for k, v in facts.items() if isinstance(v, float | int))
    study.say(f"{stage}, {'found again' if taken else 'made'}: {said}; kept in {own}")
    return Kept(own, facts, name)


def _complete(unfinished: Path, facts: dict[str, Any]) -> None:
    """Write the facts of a stage, and the digests of all that it made."""
    write_json_atomic(unfinished / FACTS, facts)
    write_sums(unfinished)


def _take(shared: Path, own: Path) -> bool:
    """Return whether a stage is in the run's folder, where it is copied from the cache if there."""
    if not _is_whole(own):
        if not _is_whole(shared, ours=False):
            return False
        copy_folder(shared, own)
    return True


def _is_whole(folder: Path, *, ours: bool = True) -> bool:
    """Return whether a stage is there as it was made; one that was damaged is set aside.

    What is not ours, of a cache that perhaps only others may write to, is set aside if it can be.
    """
    if not folder.exists():
        return False
    wrong = changed_files(folder)
    if not (folder / FACTS).is_file():
        wrong.setdefault(FACTS, "it is not there")
    if not wrong:
        return True
    file, what = next(iter(wrong.items()))
    try:
        kept = f"what was there kept as {set_aside(folder).name}"
    except OSError as error:
        if ours:
            raise
        kept = f"what is there stays ({error})"
    text = f"{folder / file}: {what}; the stage is made again, and {kept}"
    warnings.warn(text, RunWarning, stacklevel=5)
    return False


def fit(
    study: Conduct,
    stage: str,
    options: Training,
    init: Callable[[Array], Params],
    loss_fn: Callable[[Params, Array, Any], Array],
    batches: Callable[[int], Any],
) -> Params:
    """Return the averaged parameters after a training, on the host.

    Args:
        study: the run, which resumes it.
        stage: the folder of its checkpoints, named by all that it depends on.
        options: of the training.
        init: ``init(key)`` returns parameters.
        loss_fn: ``loss_fn(params, key, batch)``.
        batches: the batch of an update by the number of those before it.
    """
    algorithm = _minimization(options, init, loss_fn)
    state = study.train(
        algorithm.step,
        algorithm.init(jax.random.key(study.config.run.seed)),
        lambda k: own_part(study.mesh, jax.tree.map(jnp.asarray, batches(k))),
        options.steps,
        stage=stage,
        log=f"{stage.split('-')[0]}.jsonl",
        fetch_every=min(50, options.steps),
        checkpoint_every=max(options.steps // 4, 1),
        description=stage.split("-")[0],
    )
    return jax.device_get(state.params)


def _minimization(options: Training, init: Callable, loss_fn: Callable) -> Algorithm:
    warmup = min(100, options.steps // 4)
    rate = make_schedule(options.learning_rate, options.steps, warmup=warmup)
    optimizer = adam(rate, clip=options.gradient_clip)

    def begin(key: Array) -> RunState:
        return start(key, {"model": (init, optimizer.init)}, averaged=True)

    def step(state: RunState, batch: Any):
        key, own = jax.random.split(state.key)
        learner = state.learners["model"]
        loss, gradient = jax.value_and_grad(loss_fn)(learner.params, own, batch)
        learner, finite = apply_gradient(learner, gradient, optimizer)
        decay = growing_decay(options.average_decay, state.update)
        state, metrics = finish(state, key, {"model": learner}, finite, decay=decay)
        return state, {"loss": loss, "gradient_norm": optax.tree.norm(gradient), **metrics}

    return Algorithm(begin, step)
