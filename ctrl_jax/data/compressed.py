"""Files that may be compressed, by gzip, bzip2, xz or zstandard: told by how they begin.

What unpacks to very much more than its file is refused before it fills the memory.
"""

import io
from pathlib import Path
from typing import Any

from ctrl_jax._checks import refuse

LARGE, RATIO = 2**28, 100
"""Bytes from which on, and how many times its file, nothing unpacks by any honest means."""
POINTER = b"version https://git-lfs"
SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "lzma",
    b"\x28\xb5\x2f\xfd": "zstd",
}


def open_unpacked(path: Path, name: str) -> io.BufferedReader:
    """Open a file to read what it holds, unpacked.

    Args:
        path: of the file.
        name: what errors call it.

    Raises:
        ValueError: also while it is read: it cannot be read or unpacked, or unpacks to too much.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(POINTER))
    except OSError as error:
        rule = f"it cannot be read ({error.strerror})"
        raise refuse(name, str(path), rule, "check the path") from error
    if start == POINTER:
        rule = "it is a pointer of Git LFS, not the file itself"
        raise refuse(name, str(path), rule, "fetch it with `git lfs pull`")
    kind = next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), None)
    if kind is None:
        return open(path, "rb")
    return io.BufferedReader(_Bounded(_opened(path, kind, name), path, name))


def check_ratio(name: str, path: Path, unpacked: int) -> None:
    """Raise ValueError if a file unpacks to more than is believable."""
    if unpacked > max(LARGE, RATIO * path.stat().st_size):
        rule = f"its {path.stat().st_size} bytes unpack to {unpacked} or more"
        raise refuse(name, str(path), rule, "if it is meant so, give it uncompressed")


class _Bounded(io.RawIOBase):
    """What is unpacked, counted."""

    def __init__(self, inner: Any, path: Path, name: str):
        super().__init__()
        self._inner, self._path, self._name, self._count = inner, path, name, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._inner.read(len(buffer))
        except Exception as error:  # every format has its own
            rule = f"it cannot be unpacked ({error})"
            raise refuse(self._name, str(self._path), rule, "fetch it again") from error
        self._count += len(data)
        check_ratio(self._name, self._path, self._count)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._inner.close()
        super().close()


def _opened(path: Path, kind: str, name: str) -> Any:
    import importlib

    if kind != "zstd":
        return importlib.import_module(kind).open(path, "rb")
    try:
        return importlib.import_module("compression.zstd").open(path, "rb")  # from Python 3.14 on
    except ImportError:
        pass
    try:
        import pyarrow
    except ImportError as error:
        repair = "unpack it, or run pip install 'ctrl_jax[data]'"
        raise refuse(name, str(path), "zstandard needs pyarrow here", repair) from error
    return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
