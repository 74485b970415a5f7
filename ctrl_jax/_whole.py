"""Files and folders on disk that are whole or not there.

What is written goes to another name, onto the disk, and takes its own name in one step: whoever is
killed meanwhile leaves what was there before or all of the new.
"""

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the name to write a file to, which has its own name once it is written.

    Args:
        path: the destination; its folder exists. A file that is there is replaced.

    Yields:
        A hidden name with the same ending, in the same folder.
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        with naming(path):
            yield part
            _to_disk(part)
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let an error of the disk name the file, where it names none: writing knows no names.

    Args:
        path: of the file.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = os.fspath(path)
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
    unfinished = folder.with_name(f"{folder.name}.{f'{os.getpid()}.' * shared}unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        with naming(folder):
            yield unfinished
        for path in unfinished.rglob("*"):
            if path.is_file():
                _to_disk(path)
        if replace and folder.exists():
            _put_in_place_of(folder, unfinished)
        else:
            with contextlib.suppress(OSError) if shared else contextlib.nullcontext():
                unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


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
    with path.open("rb") as file:
        os.fsync(file.fileno())
