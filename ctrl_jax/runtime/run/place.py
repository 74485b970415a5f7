"""Where a run is to be written, looked at before anything large is loaded.

Rights alone do not tell whether something can be written: a disk may be read-only for everybody,
be full, or hold as much of its owner as it may. So a page is written, to a file without a name.
"""

import errno
import os
import tempfile
from pathlib import Path

from ctrl_jax._checks import refuse
from ctrl_jax.runtime.devices.distributed import on_the_first

ROOT = Path("runs")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_place(out: str | os.PathLike[str] | None, resume: str) -> None:
    """Refuse a folder that a run could not use, before it is made; the first process looks.

    Args:
        out: the run's own folder; one in `runs` by default.
        resume: "never", "latest" or "strict".

    Raises:
        ValueError: nothing can be written to it, or `resume` forbids what it holds.
    """
    on_the_first(lambda: _check(out, resume))


def check_resume(folder: Path, resume: str) -> None:
    """Raise ValueError where `resume` forbids the use of a folder, for what it holds or lacks."""
    there = (folder / "config.json").exists()
    if there and resume == "never":
        rule = "it holds the config.json of a run"
        raise refuse("out", str(folder), rule, "give another --out, or --resume latest")
    if not there and resume == "strict":
        raise refuse("resume", resume, f"{folder} holds no run", "give another --out")


def unwritable(folder: str | os.PathLike[str], error: OSError) -> ValueError:
    """Return the error about a folder that the system lets nobody write to.

    Args:
        folder: as it was given.
        error: what the system said.
    """
    space = "free some space there, or " if error.errno in FULL else ""
    rule = f"nothing can be written there ({error})"
    return refuse("out", os.fspath(folder), rule, f"{space}give another --out")


def _check(out: str | os.PathLike[str] | None, resume: str) -> None:
    folder = ROOT if out is None else Path(out)
    try:
        places = (folder, *folder.absolute().parents)
        there = next(path for path in places if os.path.lexists(path))
        if not there.is_dir():
            rule = "it must be a folder" if there == folder else f"{there} is no folder"
            raise refuse("out", str(folder), rule, "give another --out")
        if out is not None:
            check_resume(folder, resume)
        _write_a_page(there)
    except OSError as error:
        raise unwritable(folder, error) from error


def _write_a_page(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        error.filename = os.fspath(folder)
        raise
