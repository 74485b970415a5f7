"""Files and folders on disk that are whole or not there.

What is written goes to another name, onto the disk, and takes its own name in one step: whoever is
killed meanwhile leaves what was there before or all of the new. So does a power cut: the names of
a folder are put onto the disk too.
"""

import contextlib
import hashlib
import itertools
import os
import re
import shutil
import socket
from collections.abc import Collection, Iterator
from pathlib import Path

# In containers many processes have the same number, and those of other hosts cannot be looked for.
HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
_PART = re.compile(rf"\.(?P<stem>.+)\.{HOST}-(?P<pid>\d+)\.part(?P<ending>\..*)?")
_FOLDER = re.compile(rf"(?P<stem>.+)(?P<ending>)\.{HOST}-(?P<pid>\d+)\.unfinished")


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the name to write a file to, which has its own name once it is written.

    Args:
        path: the destination; its folder exists. A file that is there is replaced.

    Yields:
        A hidden name with the same ending, in the same folder.
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{HOST}-{os.getpid()}.part{path.suffix}")
    try:
        with naming(path, part):
            yield part
            _to_disk(part)
            os.replace(part, path)
            _to_disk(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str], part: Path | None = None) -> Iterator[None]:
    """Let an error of the disk name the file, where it names none: writing knows no names.

    Args:
        path: of the file.
        part: the name that it has until it is whole, which says nothing to anybody.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, part and os.fspath(part)):
            error.filename = os.fspath(path)
            del error.filename2  # None would be printed as a second name
        raise


@contextlib.contextmanager
def whole_folder(
    folder: str | os.PathLike[str], *, replace: bool = False, shared: bool = False
) -> Iterator[Path]:
    """Give a folder to fill, which has its own name once it is full.

    Args:
        folder: the destination; folders above it are created.
        replace: whether one that is there is replaced; otherwise it stays, and what was written
            goes.
        shared: whether several programs may write it at once, as in a cache; otherwise what a
            killed one left is removed.

    Yields:
        An empty folder beside it.
    """
    folder = Path(folder)
    unfinished = folder.with_name(f"{folder.name}.{f'{HOST}-{os.getpid()}.' * shared}unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        with naming(folder):
            yield unfinished
        for path in (unfinished, *unfinished.rglob("*")):
            _to_disk(path)
        if replace and folder.exists():
            _put_in_place_of(folder, unfinished)
        else:
            with contextlib.suppress(OSError) if shared else contextlib.nullcontext():
                unfinished.rename(folder)
        _to_disk(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def sweep(folder: str | os.PathLike[str], *, but: Collection[str] = ()) -> list[Path]:
    """Remove what killed programs left unfinished in a folder, and in those within.

    Args:
        folder: one that belongs to the caller alone. What a living process of this machine writes
            there stays nevertheless, and what other hosts write; what has the caller's own number
            is of one before it.
        but: names of files and folders that are left alone.

    Returns:
        What was removed.
    """
    removed = []
    for place, folders, names in os.walk(folder):
        found = [*map(_FOLDER.fullmatch, folders), *map(_PART.fullmatch, names)]
        for left in filter(None, found):
            named = left["stem"] + (left["ending"] or "")
            if named not in but and not _is_of_another(int(left["pid"])):
                path = Path(place, left.string)
                with contextlib.suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                    removed.append(path)
        # Steps of checkpoints hold many files, and none of ours.
        folders[:] = [n for n in folders if not (n in but or n.isdigit() or n.startswith("."))]
    return removed


def _is_of_another(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # of somebody else
    return pid != os.getpid()


def copy_folder(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy a folder, whole or not at all; one that is there already stays.

    Args:
        source: the folder.
        target: its new path, which several programs may copy to at once.
    """
    if not Path(target).exists():
        with whole_folder(target, shared=True) as unfinished:
            shutil.copytree(source, unfinished, dirs_exist_ok=True)


def set_aside(folder: str | os.PathLike[str]) -> Path:
    """Rename a folder that is damaged, so that it is neither used nor lost; return its new path."""
    folder = Path(folder)
    names = (f"{folder.name}.corrupt{f'-{n}' if n > 1 else ''}" for n in itertools.count(1))
    target = next(path for path in map(folder.with_name, names) if not path.exists())
    folder.rename(target)
    return target


def _put_in_place_of(folder: Path, new: Path) -> None:
    # Away in one step: half of a folder must not stand under its name while the rest goes.
    old = folder.with_name(f"{folder.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _to_disk(path: Path) -> None:
    """Put onto the disk what a file holds, or the names in a folder, where the system can."""
    if not path.is_dir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return
    with contextlib.suppress(OSError):  # some systems open no folder, some disks sync none
        names = os.open(path, os.O_RDONLY)
        try:
            os.fsync(names)
        finally:
            os.close(names)
