"""The records of a file of JSON: an object on each line, or one array of them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ctrl_jax._checks import refuse
from ctrl_jax.data.compressed import open_unpacked

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
REPAIR = "write one JSON object on each line, or an array of them, in UTF-8"


def json_records(path: Path, name: str) -> Iterator[tuple[int, str, Any]]:
    """Yield number, place and content of every record; the error in its place of a faulty line.

    Args:
        path: a file in UTF-8, compressed or not; blank lines are skipped.
        name: what errors call it.

    Raises:
        ValueError: the file cannot be read, or an array is no JSON.
    """
    with open_unpacked(path, name) as file:
        started = False
        for number, line in enumerate(file, 1):
            line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
            if not line.strip():
                continue
            if not started and line.lstrip().startswith(b"["):
                yield from _array(line + file.read(), path, name)
                return
            started, place = True, f"{path}:{number}"
            try:
                yield number, place, parse(line, place)
            except ValueError as error:
                yield number, place, error


def parse(text: bytes, place: str, *, whole: Callable[[str], Any] = float) -> Any:
    """Return what a text in JSON says.

    Args:
        text: in UTF-8.
        place: where it stands, for errors.
        whole: what becomes of whole numbers. As floats, one that is too large is infinite; a
            conversion to integers may overflow later.

    Raises:
        ValueError: it is no JSON, not UTF-8, or an object has a key twice.
    """
    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_int=whole)
    except UnicodeDecodeError as error:
        raise refuse(place, text[:20], f"it is not UTF-8 ({error.reason})", REPAIR) from error
    except (ValueError, RecursionError) as error:
        start = text[:40].decode("utf-8", "replace")
        raise refuse(place, start, f"it is no JSON ({error})", REPAIR) from error


def _array(text: bytes, path: Path, name: str) -> Iterator[tuple[int, str, Any]]:
    for number, item in enumerate(parse(text, f"{name} {path}"), 1):
        yield number, f"{path}, record {number}", item


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found
