"""The records of a file of parquet, arrow or feather, by pyarrow (the extra `data`).

A table cannot leave a key out: where it has no value, the key counts as absent.
"""

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from ctrl_jax._checks import refuse
from ctrl_jax.data.compressed import check_ratio

BATCH = 256
STREAM = b"\xff\xff\xff\xff"  # how `datasets` writes arrow
MAGIC = (b"PAR1", b"ARROW1", b"FEA1", STREAM)


def is_table(path: Path) -> bool:
    """Return whether a file begins as one of the three formats."""
    with open(path, "rb") as file:
        return file.read(6).startswith(MAGIC)


def table_records(
    path: Path, name: str, unread: Collection[str]
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield number, place and content of every record.

    Args:
        path: of the file.
        name: what errors call it.
        unread: columns that are left unread.

    Raises:
        ValueError: pyarrow is not installed, the file is damaged, or it unpacks to too much.
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        repair = "run pip install 'ctrl_jax[data]', or give JSON lines"
        raise refuse(name, str(path), "tables need pyarrow", repair) from error
    number = unpacked = 0
    batches = _batches(path, unread)
    while (batch := _tried(path, name, lambda: next(batches, None))) is not None:
        unpacked += batch.nbytes
        check_ratio(name, path, unpacked)
        for row in _tried(path, name, batch.to_pylist):
            number += 1
            yield number, f"{path}, record {number}", _without_nulls(row)


def _tried(path: Path, name: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # whatever the library raises about damaged files
        rule = f"it cannot be read as a table ({' '.join(str(error).split())})"
        raise refuse(name, str(path), rule, "write or fetch it again") from error


def _batches(path: Path, unread: Collection[str]) -> Iterator[Any]:
    import pyarrow
    from pyarrow import ipc, parquet

    with open(path, "rb") as file:
        start = file.read(4)
    if start == b"PAR1":
        with parquet.ParquetFile(path) as table:
            columns = [n for n in table.schema_arrow.names if n not in unread]
            yield from table.iter_batches(BATCH, columns=columns)
        return
    if start == b"FEA1":
        raise ValueError("feather's version 1 is out of use: version 2 or parquet is read")
    with pyarrow.memory_map(str(path)) as source:
        if start == STREAM:
            parts: Any = ipc.open_stream(source)
        else:
            opened = ipc.open_file(source)
            parts = (opened.get_batch(n) for n in range(opened.num_record_batches))
        for part in parts:
            columns = [n for n in part.schema.names if n not in unread]
            for begin in range(0, part.num_rows, BATCH):
                yield part.select(columns).slice(begin, BATCH)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nulls(v) for k, v in value.items() if v is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value
