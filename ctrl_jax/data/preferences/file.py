"""Preference pairs from a file of JSON lines.

One object on a line, its texts strings or conversations::

    {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5", "weight": 0.5, "dispersion": 0.3}
    {"prompt": [{"role": "user", "content": "2 + 2?"}], "chosen": [{"role": "assistant", …}], …}

`weight` (at least 0) and `dispersion` (φ in (0, 1], in all records or in none) may be absent, and
so may `prompt`: it is then what both answers begin with (`shared_beginning`), and no answer goes
without one, since a forgotten key is more likely; an empty prompt is written as "".

What could mean two things is refused. Two equal answers mean one thing, a loss of log 2 without a
gradient; collections have some, and they are left out with a warning.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from ctrl_jax._checks import refuse
from ctrl_jax._errors import RunWarning
from ctrl_jax.data.preferences.line import REPAIR, read_line
from ctrl_jax.data.preferences.record import PreferenceRecord

SHOWN = 8
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_preferences(
    path: str | os.PathLike[str], *, ignore: Sequence[str] = ()
) -> list[PreferenceRecord]:
    """Return a user's preference pairs from a file of JSON lines.

    Each line is an object with the keys prompt, chosen and rejected, strings or conversations, and
    where wanted weight (at least 0) and dispersion (in (0, 1], in all records or in none).

    Args:
        path: a file in UTF-8; blank lines are skipped.
        ignore: keys of records and of messages that are left unread; all others must be known.

    Returns:
        The records in the file's order, those with equal answers left out, of which a warning
        tells.

    Raises:
        ValueError: a file that is missing, empty or of another kind, or a faulty record: the first
            fault is explained, and the next faulty lines are listed.
    """
    path = Path(path)
    ignored = frozenset(ignore)
    records: list[PreferenceRecord] = []
    equal: list[int] = []
    faulty: list[int] = []
    first = None
    for number, line in _lines(path):
        try:
            record = read_line(line, f"{path}:{number}", ignored)
        except ValueError as error:
            first = first or error
            faulty.append(number)
            continue
        if record is None:
            equal.append(number)
        else:
            records.append(record)
    if first is not None:
        others = f"; as faulty: {_listed(faulty[1:])}" if faulty[1:] else ""
        raise ValueError(f"{first}{others}") from first
    _check_equal(path, equal, records)
    _check_dispersion(path, records)
    return records


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank with their numbers; Windows writes a mark before the first."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
                if line.strip():
                    yield number, line
    except OSError as error:
        rule = f"it cannot be read ({error.strerror})"
        raise refuse("data", str(path), rule, "give a file of JSON lines") from error


def _check_equal(path: Path, equal: list[int], records: list[PreferenceRecord]) -> None:
    if not records:
        rule = "it must hold records"
        if equal:
            rule = f"answers must differ, and those of every record are equal ({_listed(equal)})"
        raise refuse("data", str(path), rule, REPAIR)
    if equal:
        text = f"data {path}: pairs of equal answers are left out, {_listed(equal)}"
        warnings.warn(text, RunWarning, stacklevel=3)


def _check_dispersion(path: Path, records: list[PreferenceRecord]) -> None:
    without = [record.place for record in records if record.dispersion is None]
    if 0 < len(without) < len(records):
        found = f"{len(records) - len(without)} in {len(records)} records"
        rule = f"all records must have it or none, and {without[0]} has none"
        raise refuse(f"{path}: dispersion", found, rule, "add it there or remove it everywhere")


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN]))
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"line{'s' if len(numbers) > 1 else ''} {shown}{more}"
