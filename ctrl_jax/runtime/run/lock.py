"""A lock on the folder of a run, which a process that is dead no longer holds.

The operating system keeps it, NFS on its server, and takes it back the moment the process ends,
however it ends. It is `flock`'s, which belongs to the open file: that of POSIX (`lockf`) would go
as soon as anything in the process opens the file and closes it again, such as a copy of the folder.
Some shared disks keep such locks to one machine, or know none. So the folder also says who runs in
it, with a count that goes on every few seconds: who was given the lock and finds the words of
another machine there watches the count, and one that stands still is of the dead. No two clocks are
compared. On one machine the count decides nothing: a process that is stalled is no dead one.
"""

import atexit
import contextlib
import errno
import json
import os
import platform
import threading
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from ctrl_jax._checks import refuse
from ctrl_jax._errors import RunWarning
from ctrl_jax._records import write_json_atomic

NAME, WORDS = ".lock", ".lock.json"
BEAT, STILL = 5.0, 20.0
"""Seconds between two counts, and after which a count that stands still is that of a dead run."""


class _Held(NamedTuple):
    file: int
    words: dict[str, Any]
    ended: threading.Event
    counter: threading.Thread


_held: dict[Path, _Held] = {}


def take(folder: Path) -> None:
    """Take the lock of a folder for this process, which may have it already.

    Args:
        folder: of a run; it exists.

    Raises:
        ValueError: a run is under way in it.
    """
    folder = folder.resolve()
    if folder in _held:
        return
    file, locked = _open(folder / NAME)
    words = _words(folder)
    if locked is False or (words and _alive(folder, words, locked is True)):
        os.close(file)
        who = f" (process {words.get('pid')} of {words.get('host')})" if words else ""
        rule = f"a run is under way in it{who}"
        raise refuse("out", str(folder), rule, "wait until it ends, or give another --out")
    mine = {"host": platform.node(), "boot": _boot(), "pid": os.getpid(), "began": _began("self")}
    ended = threading.Event()
    counter = threading.Thread(target=_count, args=(folder, mine, ended), daemon=True)
    _held[folder] = _Held(file, mine, ended, counter)
    write_json_atomic(folder / WORDS, {**mine, "count": 0})
    counter.start()
    atexit.register(_leave, os.getpid())


def release() -> None:
    """Give back all locks of this process."""
    while _held:
        folder, held = _held.popitem()
        held.ended.set()
        with contextlib.suppress(RuntimeError):  # it never began
            held.counter.join(timeout=1.0)
        if _says(folder, held.words):
            for name in (WORDS, NAME):
                with contextlib.suppress(OSError):
                    (folder / name).unlink(missing_ok=True)
        os.close(held.file)


def _forked() -> None:
    # A fork that outlives a killed run, such as a worker of a loader, would keep its lock.
    for held in _held.values():
        os.close(held.file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _leave(owner: int) -> None:
    if os.getpid() == owner:  # a fork holds no lock, and must not remove its parent's
        release()


def _open(path: Path) -> tuple[int, bool | None]:
    """Return the file, and whether it is locked for us; None where the disk knows no locks."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            return file, None
        except OSError as error:
            return file, False if error.errno in (errno.EACCES, errno.EAGAIN) else None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                return file, True
        os.close(file)  # of a run that ended just now, and removed it


def _alive(folder: Path, words: dict[str, Any], locked: bool) -> bool:
    if words.get("boot") == _boot():
        if locked:
            return False  # this very system would still keep the lock
        if (began := _began(words.get("pid"))) and began == words.get("began"):
            return True  # no locks here, but it is seen to be there, stalled or not
    text = f"{folder}: a run on {words.get('host')} was here last; is it alive? {STILL:g} s are"
    warnings.warn(f"{text} waited for a sign of it", RunWarning, stacklevel=2)
    deadline = time.monotonic() + STILL
    while time.monotonic() < deadline:
        time.sleep(min(1.0, STILL / 10))
        if _words(folder) != words:
            return bool(_words(folder))
    return False


def _words(folder: Path) -> dict[str, Any]:
    # Opened anew each time: what another machine wrote shows then.
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((folder / WORDS).read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    return {}


def _says(folder: Path, mine: dict[str, Any]) -> bool:
    """Whether the words there are ours: where our folder was moved away, another's may be."""
    return mine.items() <= _words(folder).items()


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return platform.node()


def _began(pid: Any) -> str | None:
    """Return when a process began, in the system's own count; None of one that has ended."""
    with contextlib.suppress(OSError, IndexError):
        # What stands before the last bracket is its name, which may hold anything.
        told = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
        return None if told[0] in "ZX" else told[19]
    return None


def _count(folder: Path, mine: dict[str, Any], ended: threading.Event) -> None:
    count = 0
    while not ended.wait(BEAT):
        count += 1
        if _says(folder, mine):
            with contextlib.suppress(OSError):  # a folder that is gone is the run's affair
                write_json_atomic(folder / WORDS, {**mine, "count": count})
