"""The training loop: one compiled update, repeated, watched and saved.

`step(state, batch) -> (state, metrics)` is pure. It is compiled once, with the state donated,
and the host never waits for it: metrics stay on the devices and are fetched together every
`fetch_every` updates. Then flags become errors, lines are written and the bar moves. The state
that a checkpoint holds has passed all checks up to its update.

Updates are counted by how many are complete: update k turns state k - 1 into state k, its
metrics are the line `"step": k`, and a checkpoint of step k continues with update k + 1, whose
batch is `batches(k)`.
"""

import dataclasses
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ctrl_jax._checks import check_count, check_fields, refuse
from ctrl_jax._errors import RewardUnavailable, RunInterrupted
from ctrl_jax.runtime.checkpoints.checkpoints import Checkpoints
from ctrl_jax.runtime.checkpoints.digests import is_key
from ctrl_jax.runtime.devices.mesh import place, shard_batch
from ctrl_jax.runtime.loop.compilation import CountTraces, jit_step
from ctrl_jax.runtime.loop.flags import Flags
from ctrl_jax.runtime.loop.logs import MetricsLog
from ctrl_jax.runtime.loop.profiling import Profile
from ctrl_jax.runtime.loop.progress import progress
from ctrl_jax.runtime.loop.signals import Stopped, StopSignals
from ctrl_jax.runtime.loop.speed import Speed, split_times

Step = Callable[..., tuple[Any, Mapping[str, jax.Array]]]


@runtime_checkable
class Dataset(Protocol):
    """Batches by the number of updates before them."""

    def __getitem__(self, k: int, /) -> Any: ...


Batches = Callable[[int], Any] | Iterable[Any] | Dataset | None
Evaluate = Callable[[int, Any], Mapping[str, Any] | None]
_LISTS = (Sequence, Mapping, np.ndarray, jax.Array)


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """How a loop is watched, saved and placed.

    Args:
        fetch_every: updates between two fetches of metrics to the host.
        checkpoint_every: updates between two checkpoints; 0 for one at the end only.
        evaluate_every: updates between two evaluations; 0 for one at the end only.
        max_skipped: skipped (non-finite) updates in a row after which the run stops.
        progress: whether to show progress.
        description: what the progress bar says.
        mesh: the mesh; None for the default device.
        shardings: a tree of shardings like the state; None to replicate it over the mesh.
        fixed: a tree of placed arrays that a step reads as its last argument and never changes,
            such as frozen weights: in no checkpoint, never copied; None for a step without.
        amounts: what an update works through, such as ``{"images": 64}``, for ``images_per_second``
            in the log's second file; by default the examples of its batch.
        evaluate: called with (completed updates, state); what it returns joins that update's
            metrics. It must not keep the state, which the next update overwrites.
        stop: called with (completed updates, metrics) of every update as they are fetched; what it
            returns, if anything, ends the run there as if it were complete, and is kept in the last
            checkpoint's record as "stopped": plain JSON.
        record: what every checkpoint holds beside the state, as plain JSON.
        profile: a folder for a trace of a few updates; None for none.
    """

    fetch_every: int = 10
    checkpoint_every: int = 0
    evaluate_every: int = 0
    max_skipped: int = 10
    progress: bool = True
    description: str = "training"
    mesh: Mesh | None = None
    shardings: Any = None
    fixed: Any = None
    amounts: Mapping[str, int | float] = dataclasses.field(default_factory=dict)
    evaluate: Evaluate | None = None
    stop: Callable[[int, Mapping[str, Any]], Any] | None = None
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    profile: Path | None = None

    def validate(self) -> None:
        """Raise ValueError for a count that is out of range."""
        check_fields(self, check_count, "fetch_every", "max_skipped")
        check_fields(self, check_count, "checkpoint_every", "evaluate_every", least=0)
        if self.shardings is not None and self.mesh is None:
            rule = "they need a mesh"
            raise refuse("options.shardings", "a tree of them", rule, "give options.mesh too")

    @property
    def last_arguments(self) -> tuple[Any, ...]:
        """What compiled steps are given after all else."""
        return () if self.fixed is None else (self.fixed,)


def train(
    step_fn: Step | CountTraces,
    state: Any,
    batches: Batches,
    *,
    steps: int,
    start: int = 0,
    log: MetricsLog | None = None,
    checkpoints: Checkpoints | None = None,
    options: LoopOptions | None = None,
) -> Any:
    """Run updates `start + 1` to `steps`.

    Args:
        step_fn: a pure `step(state, batch) -> (state, metrics)`, compiled here once; give
            `CountTraces(step)` to read afterwards how often it was traced, or a function that is
            jitted already to have it used as it is. With `options.fixed` it has a third argument.
        state: the state after `start` updates, copied so that the caller's stays valid; or a
            function without arguments that returns it, of which nothing stays but the copy.
        batches: `batches(k)` for the update after k completed ones, or a dataset of batches with
            random access such as `grain.MapDataset`, which is asked for `batches[k]`: either goes
            on at the place of a checkpoint. Or an iterable, also a list or an array, that begins
            with the next update's batch, or None where the step needs none. Arrays (batch, …).
        steps: completed updates at the end.
        start: completed updates of `state`.
        log: where each update's metrics are written.
        checkpoints: where the state is saved, at the end and as the options say.
        options: how often what is done, and where the arrays live.

    Returns:
        The state after `steps` updates.

    Raises:
        ValueError: an option out of range, or a batch the mesh does not divide.
        RunError: states or a reward were not finite, or too many updates in a row were skipped.
        RunInterrupted: a signal asked to stop; the state was saved.
        RewardUnavailable: `options.evaluate` raised it; the state was saved.
    """
    options = options or LoopOptions()
    check_loop(options, checkpoints, steps, start)
    if start >= steps:
        return given_state(state)
    shardings = state_shardings(options)
    step = jit_step(step_fn, options.mesh, shardings)
    state = own_copy(state, shardings)
    batch = batch_source(batches, steps, options.mesh)

    speed = speed_of(options)

    def update(k: int, state: Any) -> tuple[Any, Mapping[str, Any]]:
        with speed.spent("input"):
            arguments = (batch(k), *options.last_arguments)
        speed.begin(step, state, *arguments)
        return step(state, *arguments)

    watched = {"log": log, "checkpoints": checkpoints, "options": options, "speed": speed}
    return conduct(update, state, steps=steps, start=start, **watched)


def conduct(
    update: Callable[[int, Any], tuple[Any, Mapping[str, Any]]],
    state: Any,
    *,
    steps: int,
    start: int,
    log: MetricsLog | None,
    checkpoints: Checkpoints | None,
    options: LoopOptions,
    speed: Speed,
) -> Any:
    """Repeat ``state, metrics = update(k, state)``, watched and saved; k updates are complete.

    An update that raises `Stopped` or `RewardUnavailable` leaves the state before it as it is.
    """
    loop = _Loop(start, steps, log, checkpoints, options, speed)
    bar = progress(steps, options.description, enabled=options.progress)
    profile = Profile(options.profile, start, steps)
    with StopSignals() as signals, profile, bar as show:
        for k in range(start, steps):
            profile.before(k)
            done = k
            try:
                state, metrics = update(k, state)
                done = k + 1
                profile.after(done, metrics)
                loop.after_update(done, state, metrics, show)
            except Stopped as stopped:
                loop.interrupt(done, state, stopped.signum)
            except RewardUnavailable as error:
                loop.give_up(done, state, error)
            if loop.stopped is not None:
                loop.save(done, state)
                break
            if (signum := signals.asked()) is not None:
                loop.interrupt(done, state, signum)
        if checkpoints is not None:
            checkpoints.wait()
    return state


class _Loop:
    """What happens between two updates: fetching, checking, logging, evaluating, saving."""

    def __init__(self, start, steps, log, checkpoints, options: LoopOptions, speed: Speed):
        self._steps: int = steps
        self._log: MetricsLog | None = log
        self._checkpoints: Checkpoints | None = checkpoints
        self._options, self._speed = options, speed
        self._flags = Flags(options.max_skipped, checkpoints)
        self._pending: list[tuple[int, Mapping[str, Any]]] = []
        there = checkpoints is not None and start in checkpoints.agreed_steps()
        self._saved: int | None = start if there else None
        self.stopped: Any = None

    def after_update(self, k: int, state: Any, metrics: Mapping[str, Any], show) -> None:
        options = self._options
        self._pending.append((k, metrics))
        evaluates = options.evaluate is not None and self._is_due(k, options.evaluate_every)
        saves = self._checkpoints is not None and self._is_due(k, options.checkpoint_every)
        if not (evaluates or saves or k == self._steps or k % options.fetch_every == 0):
            return
        show(k, self.fetch(state if evaluates else None))
        if saves and self.stopped is None:
            self.save(k, state)
        self._speed.go_on()

    def _is_due(self, k: int, every: int) -> bool:
        return k == self._steps or (every > 0 and k % every == 0)

    def fetch(self, evaluated: Any = None) -> Mapping[str, Any]:
        """Bring the pending metrics to the host, check their flags and write their lines.

        The state to evaluate, where there is one, belongs to the last of them.
        """
        fetched = [(k, *split_times(found)) for k, found in jax.device_get(self._pending)]
        self._pending = []
        last: Mapping[str, Any] = {}
        speed = self._speed.line([times for _, _, times in fetched]) if fetched else {}
        if self._log is not None and speed:
            self._log.write_speed(fetched[-1][0], speed)
        try:
            for position, (k, last, _) in enumerate(fetched, 1):
                self._flags.check(k, last)
                try:
                    if evaluated is not None and position == len(fetched):
                        last = {**last, **self._evaluate(k, evaluated)}
                finally:
                    if self._log is not None:
                        self._log.write(k, last)
                if self._options.stop is not None and self.stopped is None:
                    self.stopped = self._options.stop(k, last)
        finally:
            if self._log is not None:
                self._log.flush()
        return {**last, **speed}

    def _evaluate(self, k: int, state: Any) -> Mapping[str, Any]:
        assert self._options.evaluate is not None
        with self._speed.spent("evaluation"):
            return self._options.evaluate(k, state) or {}

    def save(self, k: int, state: Any) -> None:
        if self._checkpoints is not None and k != self._saved:
            told = {} if self._log is None else {"lines": self._log.digest}
            told |= {} if self.stopped is None else {"stopped": self.stopped}
            with self._speed.spent("checkpoint"):
                self._checkpoints.save(k, state, {**self._options.record, **told})
            self._saved = k

    def interrupt(self, k: int, state: Any, signum: int) -> None:
        """Save what there is and end the run, saying how to continue it."""
        name = signal.Signals(signum).name
        if (run := self._keep(k, state)) is None:
            raise RunInterrupted(f"stopped by {name} after update {k}; nothing was saved", signum)
        raise RunInterrupted(
            f"stopped by {name}; update {k} of {self._steps} is saved; continue with the same "
            f"command and --out {run} --resume latest",
            signum,
        )

    def give_up(self, k: int, state: Any, error: RewardUnavailable) -> None:
        """Save what there is and end the run that gets no more rewards."""
        run = self._keep(k, state)
        where = "nothing was saved" if run is None else f"update {k} of {self._steps} is saved"
        onward = "" if run is None else f": --out {run} --resume latest"
        raise RewardUnavailable(f"{error}; {where}{onward}") from error

    def _keep(self, k: int, state: Any) -> Path | None:
        """Write lines and state to disk and return the run's folder, None where none is kept."""
        self.fetch()
        if self._checkpoints is None:
            return None
        self.save(k, state)
        self._checkpoints.wait()
        folder = self._checkpoints.folder
        return next((p for p in folder.parents if (p / "config.json").exists()), folder.parent)


def check_loop(
    options: LoopOptions, checkpoints: Checkpoints | None, steps: int, start: int
) -> None:
    """Raise ValueError for options out of range, or a folder with checkpoints of later updates."""
    options.validate()
    check_count("steps", steps, least=0)
    check_count("start", start, least=0)
    if start < steps:
        _check_folder(checkpoints, start)


def _check_folder(checkpoints: Checkpoints | None, start: int) -> None:
    later = [step for step in checkpoints.agreed_steps() if step > start] if checkpoints else []
    if checkpoints is not None and later:
        rule = f"it holds steps {later} beyond start = {start}"
        repair = "restore the newest, or use another folder"
        raise refuse("checkpoints", str(checkpoints.folder), rule, repair)


def state_shardings(options: LoopOptions) -> Any:
    """Return where a state lives: as the options say, or everywhere on the mesh."""
    if options.mesh is None or options.shardings is not None:
        return options.shardings
    return NamedSharding(options.mesh, PartitionSpec())


def speed_of(options: LoopOptions) -> Speed:
    """Return what measures a loop."""
    return Speed(options.amounts, 1 if options.mesh is None else options.mesh.size)


def given_state(state: Any) -> Any:
    """Return the state that a caller gives, itself or by a function."""
    alone = any(leaf is state for leaf in jax.tree.leaves(state))
    return state() if callable(state) and alone else state


def own_copy(state: Any, shardings: Any) -> Any:
    """Return a copy in the loop's own buffers, placed, with strong types.

    Two leaves of a state may share a buffer (an average of weights that begins as the weights),
    which could not be donated; a Python number would be traced again once it is an array. Leaf by
    leaf: of a state that comes from a function no second one is held.
    """

    def copy(leaf, sharding):
        leaf = jnp.asarray(leaf) if sharding is None else place(leaf, sharding)
        if is_key(leaf):
            return jnp.copy(leaf)
        # Without a program for each shape, as `jnp.copy` compiles them.
        strong = jax.lax.convert_element_type(leaf, leaf.dtype)
        return jax.device_put(strong, sharding, may_alias=False)

    leaves, tree = jax.tree.flatten(given_state(state))
    one = shardings is None or isinstance(shardings, jax.sharding.Sharding)
    places = len(leaves) * [shardings] if one else tree.flatten_up_to(shardings)
    for k, sharding in enumerate(places):
        leaves[k] = copy(leaves[k], sharding)
    return tree.unflatten(leaves)


def batch_source(batches: Batches, steps: int, mesh: Mesh | None) -> Callable[[int], Any]:
    """Return a function of the completed updates, whatever form the batches have, placed."""

    def placed(k: int) -> Any:
        batch = _next_batch(source, k, steps)
        return batch if mesh is None else shard_batch(mesh, batch)

    source = _batch_source(batches)
    return placed


def _batch_source(batches: Batches) -> Callable[[int], Any]:
    """Return a function of the completed updates, whatever form the batches have."""
    if batches is None:
        return lambda k: None
    if callable(batches):
        return batches
    if hasattr(batches, "__getitem__") and not isinstance(batches, _LISTS):
        return lambda k: _at(batches, k)
    iterator: Iterator[Any] = iter(batches)
    return lambda k: next(iterator)


def _at(dataset: Any, k: int) -> Any:
    try:
        return dataset[k]
    except IndexError:
        raise StopIteration from None


def _next_batch(source: Callable[[int], Any], k: int, steps: int) -> Any:
    try:
        return source(k)
    except StopIteration:
        rule = f"they must last for all {steps} updates"
        raise refuse("batches", f"{k} of them", rule, "repeat them or lower --steps") from None
