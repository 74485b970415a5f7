"""The folder of a run: `runs/NAME/<time>-<seed>/`, or the folder the user names.

It holds `config.json` (what was asked for, with versions and mesh), `metrics.jsonl`,
`checkpoints/`, pictures and `results.json`, and once the run is complete `files.sha256`, the
digests of them. What happens where a `config.json` is there already is decided by `--resume`:

| resume | config.json is there | no config.json | a checkpoint is missing | something changed |
|---|---|---|---|---|
| never | refused | a new run | - | - |
| latest | continued | a new run | starts afresh | listed as a warning |
| strict | continued | refused | refused | refused |

Without `--out`, `latest` and `strict` take the newest run of the experiment. What can change is the
config, the versions, the mesh, and the content of what the run was given (`contents`): a file that
only moved is the same.

A run without checkpoints may keep what it has in files of other names, which then stand for them.

Two runs never share a folder (`lock`). A command that is refused after its folder was made leaves
none of it behind, or a folder that is resumed as it was (`withdraw`).
"""

import contextlib
import dataclasses
import datetime
import os
import shutil
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import jax

from ctrl_jax._checks import check_choice, refuse
from ctrl_jax._errors import RunError, RunWarning
from ctrl_jax._records import plain, read_json, write_json_atomic
from ctrl_jax._sums import SUMS, changed_files, write_sums
from ctrl_jax._whole import sweep, whole_file
from ctrl_jax.runtime.checkpoints.step_folders import finished_steps, step_folders
from ctrl_jax.runtime.devices.distributed import on_the_first
from ctrl_jax.runtime.run import lock
from ctrl_jax.runtime.run.place import ROOT, check_resume, unwritable
from ctrl_jax.runtime.run.versions import differences, versions

Resume = Literal["never", "latest", "strict"]

# How many processes there are is a part of the mesh; where they meet is another place every time.
_WHERE_THEY_MEET = frozenset({"coordinator", "processes", "process_id", "heartbeat_seconds"})
_NOT_THE_RUN = _WHERE_THEY_MEET | {
    *("out", "resume", "keep", "keep_every", "progress", "log", "profile")
}
_NOT_THE_MATHS = _NOT_THE_RUN | {"distributed", "compilation_cache"}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run on disk.

    Args:
        folder: its own folder.
        resumed: whether it continues from a checkpoint.
        inputs: names of what it was given to digests of their content.
        strict: whether it goes on exactly or not at all.
        made: its experiment, config, versions and mesh, as its config.json has them.
        told: what of them was said to be others than before.
        others: names of what lay in its folder before it, which are not its own.
    """

    folder: Path
    resumed: bool
    inputs: Mapping[str, str] = dataclasses.field(default_factory=dict)
    strict: bool = False
    made: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    told: Collection[str] = ()
    others: Collection[str] = ()

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.folder / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The file of its metrics, JSON lines."""
        return self.folder / "metrics.jsonl"

    @property
    def record(self) -> dict[str, Any]:
        """What its checkpoints hold beside the state."""
        return {"inputs": dict(self.inputs), **self.made}

    def check_restored(self, record: Mapping[str, Any]) -> None:
        """Compare what a checkpoint was made with to what this run is given.

        Args:
            record: of the checkpoint.

        Raises:
            ValueError: it is of another experiment; or they differ, and the run goes on exactly or
                not at all.
        """
        mine = {"config": {}, "versions": {}, "mesh": {}, **self.record}
        before = {part: record.get(part) or mine[part] for part in mine}
        if before.get("experiment") != mine.get("experiment"):
            rule = f"a checkpoint in it is of {before['experiment']!r}, not of this experiment"
            raise refuse("out", str(self.folder), rule, "give another --out")
        changes = _changes(before, mine, _NOT_THE_RUN if self.strict else _NOT_THE_MATHS)
        rule = f"the checkpoint was made with others ({_listed(changes)})"
        if changes and self.strict:
            raise refuse("resume", "strict", rule, _AS_BEFORE)
        if {*changes} - {*self.told}:
            warnings.warn(f"{self.folder}: {rule}", RunWarning, stacklevel=3)

    def check_there(self) -> None:
        """Raise RunError where the run's folder was moved or removed meanwhile."""
        if not (self.folder / "config.json").is_file():
            raise RunError(
                f"{self.folder} is no longer there: it was moved or removed while the run went on; "
                "put it back and continue with --resume latest"
            )

    def seal(self) -> None:
        """Write the digests of all that the run leaves beside it, once it is complete.

        `sha256sum -c files.sha256` reads them, and so does a run that goes on in the folder.
        Checkpoints have digests of their own; loggers' files are still written to.
        """
        if jax.process_index() == 0:
            write_sums(self.folder, self._is_left)

    def _is_left(self, path: Path) -> bool:
        if path.parent == self.folder and path.name in self.others:
            return False
        apart = ("tensorboard", "wandb", "profile", "samples")  # samples have a seal of their own
        return not (path.is_dir() and (path.name in apart or step_folders(path)))


@dataclasses.dataclass(frozen=True)
class _Opened:
    """A folder as it was before it was opened: what `withdraw` needs."""

    folder: Path
    files: dict[str, bytes]
    kept: str | None
    saved: list[Any]
    absent: Path | None


_CONTENT = "content of "
_AS_BEFORE = "use what it was started with, or --resume latest"
_opened: list[_Opened] = []


def open_run(
    experiment: str,
    config_dict: Mapping[str, Any],
    *,
    out: str | os.PathLike[str] | None,
    resume: Resume,
    seed: int,
    inputs: Mapping[str, str] | None = None,
    kept: str | None = None,
) -> Run:
    """Create the folder of a run, or find the one to continue.

    Args:
        experiment: the experiment's name.
        config_dict: its whole configuration, as plain values.
        out: the run's own folder; `runs/NAME/<time>-<seed>` by default.
        resume: "never" for a new run, "latest" to continue where it is possible, "strict" to
            continue exactly or not at all.
        seed: the run's seed, for the folder's name.
        inputs: digests of the content of what the run was given, by the names of the options; an
            option that has one is compared by it and not by its path.
        kept: pattern of the files that a run without checkpoints continues from.

    Returns:
        The run; `resumed` says that its folder holds what it can continue from.

    Raises:
        ValueError: `resume` forbids the use of the folder; nothing in it has changed.
    """
    check_choice("resume", resume, ("never", "latest", "strict"))

    def find() -> dict[str, Any]:
        given = dict(inputs or {})
        try:
            config = plain(dict(config_dict))
            folder, resumed, made = _open(experiment, config, out, resume, seed, given, kept)
        except OSError as error:
            raise unwritable(out or ROOT, error) from error
        told = [*made["resumed"][-1]["changes"]] if resumed else []
        others = made["others"]
        made = {part: made[part] for part in ("experiment", "config", "versions", "mesh")}
        folder = os.fspath(folder)
        found = {"folder": folder, "resumed": resumed, "inputs": given, "made": made}
        return found | {"told": told, "others": others}

    found = on_the_first(find)
    return Run(**{**found, "folder": Path(found["folder"])}, strict=resume == "strict")


def withdraw() -> None:
    """Put the folders of this process's runs back as they were, where nothing came of them.

    For a run that ends with a refusal: a new folder goes, or its config.json where it held other
    things; one that was to be continued has its old config.json again. A folder in which an update
    was saved since stays as it is.
    """
    while _opened:
        opened = _opened.pop()
        if _saved(opened.folder, opened.kept) != opened.saved:
            continue
        for name, content in opened.files.items():
            with whole_file(opened.folder / name) as part:
                part.write_bytes(content)
        if opened.files:
            continue
        (opened.folder / "config.json").unlink(missing_ok=True)
        if opened.absent is None or next(opened.folder.rglob("_CHECKPOINT_METADATA"), None):
            continue  # others' files, or a stage that the next run finds again
        shutil.rmtree(opened.folder, ignore_errors=True)
        for path in opened.folder.parents:
            if not path.is_relative_to(opened.absent):
                break
            with contextlib.suppress(OSError):  # it holds what is not ours
                path.rmdir()


def left_behind() -> str:
    """Return how a run that is stopped between its updates goes on, after a semicolon."""
    if not _opened:
        return ""
    folder, kept = _opened[-1].folder, _opened[-1].kept
    if not (_saved(folder, kept) or next(folder.rglob("_CHECKPOINT_METADATA"), None)):
        return f"; nothing is saved yet in {folder}"
    return f"; continue with the same command and --out {folder} --resume latest"


def forget() -> None:
    """Let the folders opened so far stay whatever comes."""
    _opened.clear()


def _saved(folder: Path, kept: str | None) -> list[Any]:
    """Return what a run that was killed goes on from: its steps, or files as they are now."""
    if kept is None:
        return [*finished_steps(folder / "checkpoints")]
    return [(path, path.stat().st_mtime_ns) for path in sorted(folder.glob(kept))]


def _open(
    experiment: str,
    config: dict,
    out,
    resume: str,
    seed: int,
    inputs: dict[str, str],
    kept: str | None,
) -> tuple[Path, bool, dict[str, Any]]:
    now = datetime.datetime.now()
    folder = Path(out) if out is not None else None
    if folder is None and resume != "never":
        folder = _newest(experiment)
    description = {
        "experiment": experiment,
        "config": config,
        "versions": versions(),
        "mesh": {"devices": jax.device_count(), "processes": jax.process_count()},
        "inputs": inputs,
        "started": now.isoformat(timespec="seconds"),
        "resumed": [],
    }
    resumed, before = False, {}
    absent = _first_absent(folder or ROOT / experiment / "new")
    if folder is None:
        if resume == "strict":
            raise refuse("resume", resume, f"{ROOT / experiment} holds no run", "give --out")
        folder = _create(experiment, f"{now:%Y%m%d-%H%M%S}-{seed}")
    elif folder.exists() and not folder.is_dir():
        raise refuse("out", str(folder), "it must be a folder", "give another --out")
    check_resume(folder, resume)
    folder.mkdir(parents=True, exist_ok=True)
    description["others"] = sorted(path.name for path in folder.iterdir())
    lock.take(folder)
    check_resume(folder, resume)  # again: another that started at once may be through already
    if kept is not None and resume == "never" and (there := _saved(folder, kept)):
        rule = f"it holds {there[0][0].name} of before"
        raise refuse("out", str(folder), rule, "give another --out, or --resume latest")
    if (folder / "config.json").exists():
        resumed = _check_going_on(folder, description, resume, kept)
        # Pictures of a run are drawn without its lock.
        sweep(folder, but=("samples", lock.WORDS))
        _tell_changed(folder)
        there = (name for name in ("config.json", SUMS) if (folder / name).exists())
        before = {name: (folder / name).read_bytes() for name in there}
    _opened.append(_Opened(folder, before, kept, _saved(folder, kept), absent))
    (folder / SUMS).unlink(missing_ok=True)  # what follows changes files
    write_json_atomic(folder / "config.json", description)
    return folder, resumed, description


def _tell_changed(folder: Path) -> None:
    """Warn of files that are not what a complete run left in the folder; any may be removed."""
    for name, what in changed_files(folder).items():
        if name != SUMS and not (folder / name).exists():
            continue
        text = f"{folder / name}: {what}; the run writes it again, all but lines of metrics"
        warnings.warn(text, RunWarning, stacklevel=5)


def _first_absent(folder: Path) -> Path | None:
    """Return the uppermost folder on the way that is not there."""
    return next((path for path in (*folder.parents[::-1], folder) if not path.exists()), None)


def _check_going_on(folder: Path, description: dict, resume: str, kept: str | None) -> bool:
    """Decide whether the run in `folder` may go on, and note in `description` what changed."""
    before = _read_description(folder)
    if before.get("experiment") != description["experiment"]:
        rule = f"it is a run of {before.get('experiment')!r}, not of {description['experiment']!r}"
        raise refuse("out", str(folder), rule, "give another --out")
    found = bool(_saved(folder, kept))
    description["others"] = before.get("others", [])
    changes = _changes(before, description, _NOT_THE_RUN if resume == "strict" else _NOT_THE_MATHS)
    listed = _listed(changes)
    if resume == "strict" and not found:
        rule = f"{folder} holds no {kept or 'checkpoint'}"
        raise refuse("resume", resume, rule, "use --resume latest")
    if resume == "strict" and changes:
        rule = f"{folder} was run with others ({listed})"
        raise refuse("resume", resume, rule, _AS_BEFORE)
    if not found:
        return False
    if changes:
        warnings.warn(
            f"{folder}: resumed with changes, so the numbers may differ from an uninterrupted run: "
            f"{listed}",
            RunWarning,
            stacklevel=5,
        )
    now = description["started"]
    history = [*before.get("resumed", []), {"time": now, "changes": plain(changes)}]
    description.update(started=before.get("started", now), resumed=history)
    return True


def _read_description(folder: Path) -> dict[str, Any]:
    """Return what a run's config.json says, refused where somebody's edit took a part's form."""
    path = folder / "config.json"
    found = read_json(path, name="out", repair="restore it, or give another --out")
    for part in ("config", "versions", "mesh", "inputs"):
        _check_part(path, part, found.get(part, {}), dict)
    for part in ("resumed", "others"):
        _check_part(path, part, found.get(part, []), list)
    _check_part(path, "started", found.get("started", ""), str)
    return found


def _check_part(path: Path, part: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        rule = f"its {part!r} is {value!r:.50}, which no run writes"
        raise refuse("out", str(path), rule, "restore it, or give another --out")


def _listed(changes: Mapping[str, tuple]) -> str:
    def shown(name: str, value: Any) -> Any:
        return value[:12] if name.startswith(_CONTENT) and isinstance(value, str) else value

    return "; ".join(
        f"{name}: {shown(name, old)} -> {shown(name, new)}" for name, (old, new) in changes.items()
    )


def _changes(before: dict, after: dict, ignored: frozenset[str]) -> dict[str, tuple]:
    """Return what differs between two descriptions, the options that `ignored` names left out."""
    given = before.get("inputs", {})
    by_content = {name for name in after["inputs"] if name in given}
    options = _option_names(after["config"], ignored) | by_content
    changes = differences(before.get("config", {}), after["config"])
    changes = {name: change for name, change in changes.items() if name not in options}
    for part in ("versions", "mesh"):
        changes |= differences(before.get(part, {}), after[part], f"{part}.")
    return changes | differences(given, after["inputs"], _CONTENT)


def _option_names(config: dict, names: frozenset[str], prefix: str = "") -> set[str]:
    """Return the dotted names of common options: those in the group that also holds `resume`."""
    found = {prefix + name for name in names} if "resume" in config or not prefix else set()
    for key, value in config.items():
        if isinstance(value, dict):
            found |= _option_names(value, names, f"{prefix}{key}.")
    return found


def _newest(experiment: str) -> Path | None:
    runs = [path.parent for path in (ROOT / experiment).glob("*/config.json")]
    return max(runs, key=lambda run: ((run / "config.json").stat().st_mtime_ns, run), default=None)


def _create(experiment: str, name: str) -> Path:
    number = 1
    while True:
        folder = ROOT / experiment / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def write_results(
    run: Run,
    *,
    experiment: str,
    claim: str,
    source: str,
    metrics: Mapping[str, Any],
    expected: Mapping[str, Any],
    config: Mapping[str, Any],
    digest: str,
    seconds: float,
) -> Path:
    """Write `results.json`, whole or not at all; process 0 only.

    Args:
        run: the run.
        experiment: the experiment's name.
        claim: what the experiment shows, in a sentence.
        source: the paper and the place in it.
        metrics: names to numbers, as measured.
        expected: names to what was expected.
        config: the whole configuration.
        digest: sha256 over the final parameters, from `state_digest`.
        seconds: the whole command, compilation included.

    Returns:
        The file.

    Raises:
        RunError: the run's folder is no longer there.
    """
    path = run.folder / "results.json"
    content = {
        "experiment": experiment,
        "claim": claim,
        "source": source,
        "metrics": metrics,
        "expected": expected,
        "config": config,
        "versions": versions(),
        "digest": digest,
        "seconds": seconds,
    }

    def write() -> None:
        run.check_there()
        write_json_atomic(path, content)

    on_the_first(write)
    return path
