"""Reading and writing a safetensors file: plain arrays, no code in it.

The file is eight bytes with the length n of a header (little-endian), n bytes of JSON,
``{name: {"dtype", "shape", "data_offsets"}}``, and the arrays, end to end in C order. All of it is
checked before an array is handed out; arrays are mapped from the disk, not copied. Files that are
written here carry a sha256 of all that they hold in their metadata, which other readers pass over.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ctrl_jax._checks import refuse
from ctrl_jax._whole import whole_file

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
POINTER = b"version https://git-lfs"
LARGEST_HEADER = 100_000_000  # the format's own limit
LARGEST_RANK = 32  # of NumPy's arrays, in all its versions
SEAL = "sha256"
"""The entry of the metadata by which a file that was written here is known to be whole."""


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return the arrays of a file by name, read-only and mapped from the disk.

    Args:
        path: the safetensors file.

    Raises:
        ValueError: the file is missing, of another format, truncated or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise refuse("weights", str(path), "there is no such file", "check the path")
    size = path.stat().st_size
    header, start = _read_header(path, size)
    metadata = header.pop("__metadata__", None)
    found, end = {}, 0
    data = np.memmap(path, np.uint8, "r") if size else np.zeros(0, np.uint8)
    for name, entry in sorted(header.items(), key=_first_byte(path)):
        dtype, shape, (first, last) = _entry(path, name, entry)
        if first != end:
            raise _damaged(path, f"the bytes of {name} do not follow those before")
        if start + last > size:
            raise _damaged(path, f"it is truncated: {size} bytes, {start + last} for {name}")
        found[name] = data[start + first : start + last].view(dtype).reshape(shape)
        end = last
    if start + end != size:
        raise _damaged(path, f"{size - start - end} bytes follow the last array")
    seal = metadata.get(SEAL) if isinstance(metadata, dict) else None
    if seal is not None and seal != _seal(header, data[start:]):
        raise _damaged(path, "its bits are not those that were written")
    return found


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the texts that a file holds beside its arrays, by name.

    Args:
        path: the safetensors file.

    Raises:
        ValueError: the file is missing, of another format, truncated or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise refuse("weights", str(path), "there is no such file", "check the path")
    found = _read_header(path, path.stat().st_size)[0].get("__metadata__", {})
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def write_safetensors(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays to a file, which appears whole or not at all.

    Args:
        path: the file; one that exists is replaced.
        arrays: by name.
        metadata: texts beside them, by name.

    Raises:
        ValueError: the format has no name for the dtype of an array.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {}
    end = 0
    for name, array in arrays.items():
        if array.dtype not in names:
            rule = "no safetensors file holds that"
            raise refuse(f"weights: {name}", str(array.dtype), rule, "convert it to float32")
        place = [end, end + array.nbytes]
        header[name] = {"dtype": names[array.dtype], "shape": array.shape, "data_offsets": place}
        end += array.nbytes
    raw = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays.values()]
    texts = {**(metadata or {}), "format": "pt", SEAL: _seal(header, *raw)}
    text = json.dumps({"__metadata__": texts, **header}).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path) as part, part.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in raw:
            file.write(array.data)


def _seal(header: Mapping[str, Any], *data: np.ndarray) -> str:
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for part in data:
        found.update(part.data)
    return found.hexdigest()


def _read_header(path: Path, size: int) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > min(size - 8, LARGEST_HEADER):
            raise _damaged(path, f"{size} bytes do not hold its header")
        text = file.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its header is no JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no table of arrays")
    return header, 8 + length


def _first_byte(path: Path):
    def key(item: tuple[str, Any]) -> tuple[int, int]:
        try:
            first, last = item[1]["data_offsets"]
            return int(first), int(last)  # an array without bytes before the one that follows it
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise _damaged(path, f"its header says nothing of the place of {item[0]}") from error

    return key


def _entry(path: Path, name: str, entry: dict[str, Any]):
    try:
        dtype = DTYPES[entry["dtype"]]
        shape = tuple(int(n) for n in entry["shape"])
        first, last = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(path, f"its header describes {name} by {entry}") from error
    if len(shape) > LARGEST_RANK:
        raise _damaged(path, f"its header describes {name} by {len(shape)} axes")
    expected = math.prod(shape) * dtype.itemsize
    if min((*shape, 0)) < 0 or last - first != expected:
        rule = f"{name} has {last - first} bytes where shape {shape} needs {expected}"
        raise _damaged(path, rule)
    return dtype, shape, (first, last)


def _damaged(path: Path, what: str) -> ValueError:
    with path.open("rb") as file:
        head = file.read(len(POINTER))
    if head == POINTER:
        rule = "it is a pointer of Git LFS, not the file itself"
        return refuse("weights", str(path), rule, "fetch it with `git lfs pull`")
    if head[:4] == b"PK\x03\x04" or head[:2] == b"\x80\x02":
        repair = "convert it where you trust it, with safetensors.torch.save_file"
        return refuse("weights", str(path), "it is a PyTorch pickle, which executes code", repair)
    rule = f"it is no whole safetensors file: {what}"
    return refuse("weights", str(path), rule, "fetch or convert it again")
