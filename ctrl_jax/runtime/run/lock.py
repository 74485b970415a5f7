"""A lock on the folder of a run, which a process that is dead no longer holds.

The operating system keeps it, NFS on its server, and takes it back the moment the process ends,
however it ends. Some shared disks keep such locks to one machine, or know none. So the folder also
says who runs in it, with a count that goes on every few seconds: who was given the lock and finds
the words of another machine there watches the count, and one that stands still is of the dead. No
two clocks are compared.
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
    folder = folder.absolute()
    if folder in _held:
        return
    file, locked = _open(folder / NAME)
    words = _words(folder)
    if locked is False or (words and _alive(folder, words, locked is True)):
        os.close(file)
        who = f" (process {words.get('pid')} of {words.get('host')})" if words else ""
        rule = f"a run is under way in it{who}"
        raise refuse("out", str(folder), rule, "wait until it ends, or give another --out")
    mine, ended = {"host": platform.node(), "boot": _boot(), "pid": os.getpid()}, threading.Event()
    counter = threading.Thread(target=_count, args=(folder, mine, ended), daemon=True)
    _held[folder] = _Held(file, ended, counter)
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
        for name in (WORDS, NAME):
            with contextlib.suppress(OSError):
                (folder / name).unlink(missing_ok=True)
        os.close(held.file)


def _leave(owner: int) -> None:
    if os.getpid() == owner:  # a fork holds no lock, and must not remove its parent's
        release()


def _open(path: Path) -> tuple[int, bool | None]:
    """Return the file, and whether it is locked for us; None where the disk knows no locks."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            return file, None
        except OSError as error:
            return file, False if error.errno in (errno.EACCES, errno.EAGAIN) else None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                return file, True
        os.close(file)  # of a run that ended just now, and removed it


def _alive(folder: Path, words: dict[str, Any], locked: bool) -> bool:
    if locked and words.get("boot") == _boot():
        return False  # this very system would still keep the lock
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


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return platform.node()


def _count(folder: Path, mine: dict[str, Any], ended: threading.Event) -> None:
    count = 0
    while not ended.wait(BEAT):
        count += 1
        with contextlib.suppress(OSError):  # a folder that is gone is the run's affair
            write_json_atomic(folder / WORDS, {**mine, "count": count})
