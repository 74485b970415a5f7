"""Digests beside files whose format is not ours: what `sha256sum -c files.sha256` reads.

A folder that is written here for others' tools holds `files.sha256`, one line for each of its
files. Whatever reads the folder here looks first whether the files are those that were written.
Folders from elsewhere have no such file, and are read as they are.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ctrl_jax._checks import refuse
from ctrl_jax._whole import whole_file

SUMS = "files.sha256"


def write_sums(
    folder: str | os.PathLike[str], wanted: Callable[[Path], bool] = lambda path: True
) -> None:
    """Write the digests of a folder's files, those of folders in it too, beside them.

    Args:
        folder: hidden files in it, and in hidden folders, do not count.
        wanted: which of its files and folders count.
    """
    folder = Path(folder)
    lines = [f"{file_digest(path)}  {name}\n" for name, path in sorted(_files(folder, wanted))]
    with whole_file(folder / SUMS) as part:
        part.write_bytes("".join(lines).encode(errors="surrogateescape"))


def changed_files(folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return the files that are not what was written, each with what is wrong of it.

    Args:
        folder: one without digests holds none.
    """
    folder, found = Path(folder), {}
    try:
        text = (folder / SUMS).read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        return {}
    *lines, rest = text.split("\n")
    if rest or not lines:
        return {SUMS: "it is truncated"}
    for line in lines:
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name or Path(name).is_absolute() or ".." in Path(name).parts:
            return {SUMS: f"it has the line {line[:80]!r}"}
        if not (folder / name).is_file():
            found[name] = "it is not there"
        elif file_digest(folder / name) != digest:
            found[name] = "its bits are not those that were written"
    return found


def check_sums(folder: str | os.PathLike[str], name: str = "model") -> None:
    """Raise ValueError unless a folder's files are those that were written with its digests.

    Args:
        folder: one without digests is not looked at.
        name: of the argument that led to it.
    """
    for file, what in changed_files(folder).items():
        repair = (
            "write it again (finish the run once more with --resume latest), or, if it was "
            f"changed on purpose, remove {SUMS} there"
        )
        raise refuse(name, os.fspath(Path(folder) / file), what, repair)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path, wanted: Callable[[Path], bool]) -> Iterator[tuple[str, Path]]:
    for place, folders, names in os.walk(folder):
        folders[:] = [n for n in folders if not n.startswith(".") and wanted(Path(place, n))]
        for name in names:
            path = Path(place, name)
            known = path.is_file() and not name.startswith(".") and "\n" not in name
            if known and wanted(path) and path != folder / SUMS:
                yield path.relative_to(folder).as_posix(), path
