"""The folder of a run: `runs/NAME/<time>-<seed>/`, or the folder the user names.

It holds `config.json` (what was asked for, with versions and mesh), `metrics.jsonl`,
`checkpoints/`, pictures and `results.json`. What happens where a `config.json` is there already
is decided by `--resume`:

| resume | config.json is there | no config.json | a checkpoint is missing | something changed |
|---|---|---|---|---|
| never | refused | a new run | - | - |
| latest | continued | a new run | starts afresh | listed as a warning |
| strict | continued | refused | refused | refused |

Without `--out`, `latest` and `strict` take the newest run of the experiment.
"""

import dataclasses
import datetime
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax

from ctrl_jax._checks import check_choice, refuse
from ctrl_jax._errors import RunWarning
from ctrl_jax._records import plain, read_json, write_json_atomic
from ctrl_jax.runtime.checkpoints.step_folders import finished_steps
from ctrl_jax.runtime.devices.distributed import broadcast_text
from ctrl_jax.runtime.run.versions import differences, versions

Resume = Literal["never", "latest", "strict"]

ROOT = Path("runs")
_NOT_THE_RUN = frozenset({"out", "resume", "progress"})
_NOT_THE_MATHS = _NOT_THE_RUN | {"distributed", "compilation_cache"}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run on disk.

    Args:
        folder: its own folder.
        resumed: whether it continues from a checkpoint.
    """

    folder: Path
    resumed: bool

    @property
    def checkpoints(self) -> Path:
        """The folder of its checkpoints."""
        return self.folder / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The file of its metrics, JSON lines."""
        return self.folder / "metrics.jsonl"


def open_run(
    experiment: str,
    config_dict: Mapping[str, Any],
    *,
    out: str | os.PathLike[str] | None,
    resume: Resume,
    seed: int,
) -> Run:
    """Create the folder of a run, or find the one to continue.

    Args:
        experiment: the experiment's name.
        config_dict: its whole configuration, as plain values.
        out: the run's own folder; `runs/NAME/<time>-<seed>` by default.
        resume: "never" for a new run, "latest" to continue where it is possible, "strict" to
            continue exactly or not at all.
        seed: the run's seed, for the folder's name.

    Returns:
        The run; `resumed` says that its folder holds a checkpoint to continue from.

    Raises:
        ValueError: `resume` forbids the use of the folder; nothing in it has changed.
    """
    check_choice("resume", resume, ("never", "latest", "strict"))
    answer = {}
    if jax.process_index() == 0:
        try:
            folder, resumed = _open(experiment, plain(dict(config_dict)), out, resume, seed)
            answer = {"folder": os.fspath(folder), "resumed": resumed}
        except (ValueError, OSError) as error:
            answer = {"error": f"out: {error}" if isinstance(error, OSError) else str(error)}
    answer = json.loads(broadcast_text(json.dumps(answer)))
    if "error" in answer:
        raise ValueError(answer["error"])
    return Run(Path(answer["folder"]), answer["resumed"])


def _open(experiment: str, config: dict, out, resume: str, seed: int) -> tuple[Path, bool]:
    now = datetime.datetime.now()
    folder = Path(out) if out is not None else None
    if folder is None and resume != "never":
        folder = _newest(experiment)
    description = {
        "experiment": experiment,
        "config": config,
        "versions": versions(),
        "mesh": {"devices": jax.device_count(), "processes": jax.process_count()},
        "started": now.isoformat(timespec="seconds"),
        "resumed": [],
    }
    resumed = False
    if folder is None:
        if resume == "strict":
            raise refuse("resume", resume, f"{ROOT / experiment} holds no run", "give --out")
        folder = _create(experiment, f"{now:%Y%m%d-%H%M%S}-{seed}")
    elif (folder / "config.json").exists():
        resumed = _check_resume(folder, description, resume)
    elif resume == "strict":
        raise refuse("resume", resume, f"{folder} holds no run", "give another --out")
    elif folder.exists() and not folder.is_dir():
        raise refuse("out", str(folder), "it must be a folder", "give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder / "config.json", description)
    return folder, resumed


def _check_resume(folder: Path, description: dict, resume: str) -> bool:
    """Decide whether the run in `folder` may go on, and note in `description` what changed."""
    if resume == "never":
        rule = "it holds the config.json of a run"
        raise refuse("out", str(folder), rule, "give another --out, or --resume latest")
    before = read_json(folder / "config.json")
    if before.get("experiment") != description["experiment"]:
        rule = f"it is a run of {before.get('experiment')!r}, not of {description['experiment']!r}"
        raise refuse("out", str(folder), rule, "give another --out")
    found = bool(finished_steps(folder / "checkpoints"))
    changes = _changes(before, description, _NOT_THE_RUN if resume == "strict" else _NOT_THE_MATHS)
    listed = "; ".join(f"{name}: {old} -> {new}" for name, (old, new) in changes.items())
    if resume == "strict" and not found:
        raise refuse("resume", resume, f"{folder} holds no checkpoint", "use --resume latest")
    if resume == "strict" and changes:
        repair = "use what it was started with, or --resume latest"
        raise refuse("resume", resume, f"{folder} was run with others ({listed})", repair)
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


def _changes(before: dict, after: dict, ignored: frozenset[str]) -> dict[str, tuple]:
    """Return what differs between two descriptions, the options that `ignored` names left out."""
    options = _option_names(after["config"], ignored)
    changes = differences(before.get("config", {}), after["config"])
    changes = {name: change for name, change in changes.items() if name not in options}
    for part in ("versions", "mesh"):
        changes |= differences(before.get(part, {}), after[part], f"{part}.")
    return changes


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
    if jax.process_index() == 0:
        write_json_atomic(path, content)
    return path
