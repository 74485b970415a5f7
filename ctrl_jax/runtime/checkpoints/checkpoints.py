"""Checkpoints that survive a kill, a full disk and a flipped bit.

Orbax writes each step into a temporary folder and renames it when it is whole, so a killed
process leaves the previous step intact. Three things it does not do are added here:

1. A JSON item beside the arrays holds the dtype, shape and sha256 of every leaf, sealed by a
   digest of its own. A step whose bits changed on disk is noticed at restore, renamed to
   `<step>.corrupt`, and the newest good step is used instead.
2. The saved tree is compared with the target before anything is read; Orbax would cast dtypes
   silently.
3. Typed PRNG keys are stored as their bits and rebuilt, so that a checkpoint holds all the
   randomness of a run.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ctrl_jax._checks import check_count, refuse
from ctrl_jax._errors import MissingCheckpointError, RunError, RunWarning
from ctrl_jax._records import plain
from ctrl_jax.runtime.checkpoints import digests, stored
from ctrl_jax.runtime.checkpoints.damage import proves_damage
from ctrl_jax.runtime.checkpoints.digests import LeafType
from ctrl_jax.runtime.checkpoints.step_folders import is_finished, set_aside, step_folders
from ctrl_jax.runtime.checkpoints.told_once import tell_once
from ctrl_jax.runtime.devices.distributed import barrier, on_the_first, worst
from ctrl_jax.runtime.run.versions import versions


class Restored(NamedTuple):
    """A checkpoint that was read: its step, its state and the record saved with it."""

    step: int
    state: Any
    record: dict[str, Any]


class _DamagedError(Exception):
    """A step on disk is not what was saved."""


class Checkpoints:
    """The checkpoints of one run, numbered by completed updates.

    Args:
        folder: where the steps lie, on a disk that all processes share.
        keep: how many of the newest steps are kept.
        keep_every: steps of which each multiple is kept for good; None for none.
        read_only: whether damaged steps are left where they are, for reading another's run.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        keep: int = 3,
        *,
        keep_every: int | None = None,
        read_only: bool = False,
    ):
        check_count("keep", keep)
        if keep_every is not None:
            check_count("keep_every", keep_every)
        # Imported now, not at the first save: it loads parts of JAX that add settings to the key
        # under which traces are kept, and a step in progress would be traced a second time.
        import orbax.checkpoint  # noqa: F401

        self.folder = Path(folder).absolute()
        self._keep, self._keep_every = keep, keep_every
        self._read_only = read_only
        self._manager: Any = None
        self._reader: Any = None

    def steps(self) -> list[int]:
        """Return the steps that are written to the end by now, in order, as they are seen here."""
        return sorted(int(path.name) for path in step_folders(self.folder) if is_finished(path))

    def agreed_steps(self) -> list[int]:
        """Return the steps that the first process sees: a shared disk may show others later.

        What all processes do alike must not depend on more than that; call it on all of them.
        """
        return on_the_first(self.steps)

    def save(self, step: int, state: Any, record: dict[str, Any] | None = None) -> None:
        """Write a checkpoint; the files are finished in the background.

        Args:
            step: completed updates; a step that is there already is refused.
            state: a pytree of arrays, typed PRNG keys included.
            record: what else to keep, as plain JSON.

        Raises:
            ValueError: the step exists, or the record does not fit JSON.
            RunError: this or the previous checkpoint could not be written, as on a full disk.
        """
        check_count("step", step, least=0)
        if self._read_only:
            raise refuse("checkpoints", str(self.folder), "opened read_only", "open without it")
        self.wait()
        there, steps = on_the_first(lambda: (self.folder.is_dir(), self.steps()))
        if step in steps:
            raise refuse("step", step, f"{self.folder} holds it", "remove it first")
        leaves = digests.named_leaves(state)
        description = {
            "step": step,
            "leaves": stored.describe(leaves),
            "record": plain(record or {}),
            "versions": versions(),
        }
        arrays = {n: digests.key_bits(leaf) for n, leaf in leaves.items() if np.size(leaf)}
        if not arrays:
            rule = "there is nothing to save"
            raise refuse("state", "no arrays", rule, "give at least one")
        if self._manager is not None and not there:
            raise self._write_error(FileNotFoundError("no such folder"), step)
        try:
            self._write(step, arrays, {"content": description, "seal": _seal(description)})
        except (OSError, ValueError, RuntimeError) as error:
            raise self._write_error(error, step) from error

    def restore(
        self, target_state: Any, step: int | None = None, *, shardings: Any = None
    ) -> Restored:
        """Read a checkpoint bit for bit, the newest good one unless a step is named.

        Args:
            target_state: a tree of arrays or `jax.ShapeDtypeStruct`s with the structure, shapes,
                dtypes and shardings to restore to.
            step: the step to read.
            shardings: where the state is to live instead, as a tree of shardings like it or one for
                all of it. With several processes this is where a run goes on: what one device of
                this process holds cannot be moved to those of others.

        Returns:
            The step, the state and the record.

        Raises:
            MissingCheckpointError: no good checkpoint is there.
            ValueError: the checkpoint holds another tree, or the named step is damaged.
            RunError: a step cannot be read for another reason than that it is damaged: for want of
                memory, or because of the disk. It stays where it is.
        """
        self.wait()
        if shardings is not None:
            target_state = stored.placed_as(target_state, shardings)
        candidates = self.agreed_steps()[::-1]
        self._set_aside_unfinished()
        if step is not None:
            if step not in candidates:
                raise MissingCheckpointError(
                    f"step: received {step}; {self.folder} holds {candidates[::-1]}; give one of "
                    "them"
                )
            candidates = [step]
        for candidate in candidates:
            try:
                return self._read(candidate, target_state)
            except _DamagedError as error:
                if step is not None:
                    place = str(self.folder / str(step))
                    raise refuse("step", place, str(error), "name another") from error
                self._set_aside(candidate, str(error))
        raise MissingCheckpointError(
            f"checkpoints: {self.folder} holds no checkpoint that can be restored; give another "
            "folder, or go on with --resume latest, which now starts afresh"
        )

    def wait(self) -> None:
        """Wait until the last save is on disk.

        Raises:
            RunError: it could not be written, as on a full disk.
        """
        if self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            raise self._write_error(error) from error

    def close(self) -> None:
        """Wait for the last save and free the background threads."""
        manager = self._manager
        try:
            self.wait()
        finally:
            self._manager = None
            if manager is not None:
                manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except RunError as error:
            if kind is None:
                raise
            warnings.warn(str(error), RunWarning, stacklevel=2)

    def _write(self, step: int, arrays: dict[str, Any], description: dict[str, Any]) -> None:
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import (
            AnyPreservationPolicy,
            EveryNSteps,
            LatestN,
        )

        if self._manager is None:
            tell_once()
            self._set_aside_unfinished()
            every = [] if self._keep_every is None else [EveryNSteps(self._keep_every)]
            kept = [LatestN(self._keep), *every]
            options = ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy(kept), cleanup_tmp_directories=True
            )
            self._manager = ocp.CheckpointManager(self.folder, options=options)
            # It would ask by the numbers of steps, and the service knows one count of places.
            self._manager.reached_preemption = lambda step: False
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays), description=ocp.args.JsonSave(description)
        )
        self._manager.save(step, args=items, force=True)

    def _write_error(self, error: Exception, step: int | None = None) -> RunError:
        if not self.folder.is_dir():
            return RunError(
                f"{self.folder} is no longer there: it was moved or removed while the run went on "
                f"({error}); put it back and continue with --resume latest"
            )
        place = self.folder
        what = "the last checkpoint" if step is None else f"the checkpoint of step {step}"
        return RunError(
            f"{what} could not be written to {self.folder} ({_first_line(error)}); "
            f"{shutil.disk_usage(place).free / 2**20:.0f} MiB are free there; good steps on disk: "
            f"{self.steps() or 'none'}; {_repair(error)} and continue with --resume latest"
        )

    def _read(self, step: int, target_state: Any) -> Restored:
        description = self._together(step, lambda: self._read_description(step))
        wanted = digests.named_leaves(target_state)
        saved = {
            name: LeafType(leaf["dtype"], tuple(leaf["shape"]))
            for name, leaf in description["leaves"].items()
        }
        types = {name: digests.leaf_type(leaf) for name, leaf in wanted.items()}
        if difference := digests.tree_diff(saved, types):
            place, repair = str(self.folder / str(step)), "use the options it was written with"
            rule = f"it holds another tree than the state to restore ({difference})"
            raise refuse("checkpoint", place, rule, f"{repair}, or another folder")
        arrays = self._together(step, lambda: self._read_arrays(step, wanted))
        leaves = [stored.rebuild(leaf, arrays.get(name)) for name, leaf in wanted.items()]
        found = zip(wanted, digests.leaf_digests(leaves), strict=True)
        told = description["leaves"]
        changed = [name for name, digest in found if digest != told[name]["digest"]]
        self._together(step, lambda: _check_unchanged(changed))
        state = jax.tree.unflatten(jax.tree.structure(target_state), leaves)
        return Restored(step, state, description["record"])

    def _together(self, step: int, read: Callable[[], Any]) -> Any:
        """Return what is read where every process can read it; else fail on all of them alike."""
        found, mine = None, None
        try:
            found = read()
        except (_DamagedError, RunError) as error:
            mine = error
        rank = 0 if mine is None else 1 if isinstance(mine, _DamagedError) else 2
        if (of_all := worst(rank)) == rank:
            if mine is not None:
                raise mine
            return found
        if of_all == 1:
            raise _DamagedError("another process finds it damaged")
        raise RunError(
            f"checkpoint {self.folder / str(step)} cannot be read now by another process; it is "
            "left as it is; see there, and continue with --resume latest"
        )

    def _read_description(self, step: int) -> dict[str, Any]:
        import orbax.checkpoint as ocp

        sealed = self._read_item(step, description=ocp.args.JsonRestore())
        if not isinstance(sealed, dict) or _seal(sealed.get("content")) != sealed.get("seal"):
            raise _DamagedError("its description was changed on disk")
        return sealed["content"]

    def _read_arrays(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        import orbax.checkpoint as ocp

        targets = {n: stored.abstract_bits(leaf) for n, leaf in wanted.items() if np.size(leaf)}
        return self._read_item(step, state=ocp.args.StandardRestore(targets))

    def _read_item(self, step: int, **item: Any) -> Any:
        import orbax.checkpoint as ocp

        if self._reader is None:
            # Each process reads by itself, waits for nobody, and they agree afterwards: Orbax would
            # leave the others waiting for one that cannot read.
            me = jax.process_index()
            alone: Any = ocp.options.MultiprocessingOptions(me, {me}, f"reader {me}")
            self._reader = ocp.Checkpointer(
                ocp.CompositeCheckpointHandler(
                    state=ocp.StandardCheckpointHandler(multiprocessing_options=alone),
                    description=ocp.JsonCheckpointHandler(multiprocessing_options=alone),
                    composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
                ),
                multiprocessing_options=alone,
            )
        (name,) = item
        try:
            return self._reader.restore(self.folder / str(step), args=ocp.args.Composite(**item))[
                name
            ]
        except Exception as error:
            place = self.folder / str(step)
            if not proves_damage(error, place):
                raise RunError(
                    f"checkpoint {place} cannot be read now ({type(error).__name__}: "
                    f"{_first_line(error)}); it is left as it is; make room or repair the disk, "
                    "and continue with --resume latest"
                ) from error
            raise _DamagedError(f"it cannot be read ({_first_line(error)})") from error

    def _set_aside_unfinished(self) -> None:
        if self._read_only:
            return
        folders = on_the_first(
            lambda: [p.name for p in step_folders(self.folder) if not is_finished(p)]
        )
        for name in folders:
            self._set_aside(int(name), "it was not written to the end")

    def _set_aside(self, step: int, reason: str) -> None:
        barrier(f"set aside {step}")
        action = "it is skipped"
        if not self._read_only:
            action = f"it is kept as {set_aside(self.folder, step).name}"
        warnings.warn(
            f"checkpoint {self.folder / str(step)}: {reason}; {action}, and the newest good one "
            "is used",
            RunWarning,
            stacklevel=3,
        )
        barrier(f"was set aside {step}")


def _repair(error: Exception) -> str:
    # By words: what writes is partly in C++, whose errors have no numbers.
    said = str(error)
    if "Read-only file system" in said:
        return "make that disk writable again"
    if "Permission denied" in said or "Operation not permitted" in said:
        return "let that folder be written to"
    return "free some space"


def _check_unchanged(changed: list[str]) -> None:
    if changed:
        raise _DamagedError(f"the bits of {changed[0]} are not those that were saved")


def _seal(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
