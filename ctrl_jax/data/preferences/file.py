"""Preference pairs from the files that people have: JSON, parquet, arrow, folders of them.

JSON lines (one object on a line) or one JSON array, compressed or not; parquet, arrow and feather;
a folder of such files, or what `datasets` saves (`shards`). Texts are strings or conversations::

    {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5", "weight": 0.5, "dispersion": 0.3}
    {"prompt": [{"role": "user", "content": "2 + 2?"}], "chosen": [{"role": "assistant", …}], …}

`weight` (at least 0) and `dispersion` (φ in (0, 1], in all records or in none) may be absent, and
so may `prompt`: it is then what both answers begin with (`shared_beginning`), and no answer goes
without one, since a forgotten key is more likely; an empty prompt is written as "". The column
names of some public collections are known besides (`columns`).

What could mean two things is refused. Two equal answers mean one thing, a loss of log 2 without a
gradient; collections have some, and they are left out with a warning.
"""

import os
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ctrl_jax._checks import refuse
from ctrl_jax._errors import RunWarning
from ctrl_jax.data.preferences.fields import UnknownKeysError, read_fields
from ctrl_jax.data.preferences.json_file import json_records
from ctrl_jax.data.preferences.record import PreferenceRecord
from ctrl_jax.data.preferences.shards import find_shards
from ctrl_jax.data.preferences.table_file import is_table, table_records
from ctrl_jax.data.splits import Split

SHOWN = 8
EQUAL, FAULTY = "pairs of equal answers", "faulty records"


class Reading(NamedTuple):
    """What was read of a path, and what was not.

    Fields:
        records: the preferences.
        number: how many records the files hold.
        files: which were read, in their order.
        others: names of other splits beside them, which were not.
        unread: keys of public collections that were left unread.
        left_out: places of the records that were left out, by reason.
        unit: what the places count.
    """

    records: list[PreferenceRecord]
    number: int
    files: list[Path]
    others: list[str]
    unread: list[str]
    left_out: dict[str, list[str]]
    unit: str

    def lines(self) -> list[str]:
        """Return the same in words, a line for each fact."""
        files = f"{len(self.files)} files" if len(self.files) > 1 else str(self.files[0])
        out = self.number - len(self.records)
        found = [f"{self.number} records in {files}, {out} left out"]
        for reason, places in self.left_out.items():
            found.append(f"left out: {len(places)} {reason} ({_listed(places, self.unit)})")
        if self.unread:
            found.append(f"not read: the keys {', '.join(self.unread)}")
        if self.others:
            found.append(f"not read: {', '.join(self.others)} beside it")
        taken = sum(record.found for record in self.records)
        if taken:
            found.append(f"{taken} prompts are what both answers begin with")
        return found


def read_preferences(
    path: str | os.PathLike[str],
    *,
    ignore: Sequence[str] = (),
    leave_out_faulty: bool = False,
    split: Split = "train",
) -> list[PreferenceRecord]:
    """Return a user's preference pairs from files of JSON, parquet or arrow.

    Each record has the keys prompt, chosen and rejected, strings or conversations, and where wanted
    weight (at least 0) and dispersion (in (0, 1], in all records or in none). The columns of
    ultrafeedback_binarized, HH-RLHF, Argilla's dpo-mix and SHP are understood as they are.

    Args:
        path: a file of JSON lines or of one JSON array, in UTF-8, also compressed; of parquet,
            arrow or feather, which need the extra `data`; or a folder of them, also one that
            `datasets` has saved.
        ignore: keys of records and of messages that are left unread; all others must be known.
        leave_out_faulty: whether records that cannot be used are left out, of which a warning
            tells, rather than refused.
        split: which of several splits of a folder.

    Returns:
        The records in the file's order, those with equal answers left out, of which a warning
        tells.

    Raises:
        ValueError: a file that is missing, empty, damaged or of another kind, or a faulty record:
            the first fault is explained, and the next faulty records are listed.
    """
    found = read_files(
        path, name="path", ignore=ignore, leave_out_faulty=leave_out_faulty, split=split
    )
    return found.records


def read_files(
    path: str | os.PathLike[str],
    *,
    name: str,
    ignore: Sequence[str] = (),
    leave_out_faulty: bool = False,
    split: Split = "train",
) -> Reading:
    """Return the same as `read_preferences` with what there is to say about it.

    Args:
        path: as there.
        name: what errors and warnings call the path.
        ignore: as there.
        leave_out_faulty: as there.
        split: as there.

    Raises:
        ValueError: as there.
    """
    path = Path(path)
    files, others = find_shards(path, name, split)
    ignored, unread = frozenset(ignore), set[str]()
    records: list[PreferenceRecord] = []
    left_out: dict[str, list[str]] = defaultdict(list)
    faults: list[ValueError] = []
    number, unit = 0, "record"
    for file in files:
        for n, place, content in _records(file, name, ignored):
            number += 1
            unit = "line" if place == f"{file}:{n}" and len(files) == 1 else "record"
            short = str(n) if len(files) == 1 else f"{file.name}:{n}"
            try:
                if isinstance(content, ValueError):
                    raise content
                record = read_fields(content, place, ignored, unread)
            except ValueError as error:
                faults.append(error)
                left_out[FAULTY].append(short)
                continue
            if record is None:
                left_out[EQUAL].append(short)
            else:
                records.append(record)
    if faults and not (leave_out_faulty and records):
        raise _fault(faults, left_out[FAULTY], unit, some=bool(records))
    _check_some(path, name, records, left_out, unit)
    _check_dispersion(path, records)
    _warn_of_repeated(path, name, records)
    for reason, places in left_out.items():
        first = f"; the first: {faults[0]}" if reason == FAULTY else ""
        text = f"{name} {path}: {len(places)} {reason} are left out, {_listed(places, unit)}{first}"
        warnings.warn(text, RunWarning, stacklevel=3)
    return Reading(records, number, files, others, sorted(unread), dict(left_out), unit)


def _records(file: Path, name: str, ignored: frozenset[str]) -> Iterator[tuple[int, str, Any]]:
    try:
        table = is_table(file)
    except OSError as error:
        rule = f"it cannot be read ({error.strerror})"
        repair = "give a file or a folder of JSON lines, parquet or arrow"
        raise refuse(name, str(file), rule, repair) from error
    return table_records(file, name, ignored) if table else json_records(file, name)


def _fault(faults: list[ValueError], places: list[str], unit: str, *, some: bool) -> ValueError:
    """The first fault and where the others are; of unknown keys, all of them at once."""
    option = "; leave_out_faulty (--texts.leave-out-faulty) leaves such records out"
    others = option if some else ""
    others += f"; as faulty: {_listed(places[1:], unit)}" if places[1:] else ""
    unknown = [error for error in faults if isinstance(error, UnknownKeysError)]
    real = next((error for error in faults if not isinstance(error, UnknownKeysError)), None)
    if not unknown:
        return ValueError(f"{faults[0]}{others}")
    keys = frozenset[str]().union(*(error.keys for error in unknown))
    besides = f"; besides, {real}" if real else ""
    return ValueError(f"{UnknownKeysError(unknown[0].place, keys)}{besides}{others}")


def _check_some(
    path: Path,
    name: str,
    records: list[PreferenceRecord],
    left_out: dict[str, list[str]],
    unit: str,
) -> None:
    if records:
        return
    rule = "it must hold records"
    if left_out[EQUAL]:
        places = _listed(left_out[EQUAL], unit)
        rule = f"answers must differ, and those of every record are equal ({places})"
    raise refuse(name, str(path), rule, "write one JSON object on each line, in UTF-8")


def _check_dispersion(path: Path, records: list[PreferenceRecord]) -> None:
    without = [record.place for record in records if record.dispersion is None]
    if 0 < len(without) < len(records):
        found = f"{len(records) - len(without)} in {len(records)} records"
        rule = f"all records must have it or none, and {without[0]} has none"
        raise refuse(f"{path}: dispersion", found, rule, "add it there or remove it everywhere")


def _warn_of_repeated(path: Path, name: str, records: list[PreferenceRecord]) -> None:
    """Warn of strings whose answers begin with the prompt: it may be meant once."""
    repeated = sum(_repeats(record) for record in records)
    if repeated:
        text = (
            f"{name} {path}: both answers of {repeated} of {len(records)} records begin with their "
            "prompt, which is then there twice; if it is meant once, take it off the answers, or "
            "ignore its key (--texts.ignore prompt)"
        )
        warnings.warn(text, RunWarning, stacklevel=4)


def _repeats(record: PreferenceRecord) -> bool:
    prompt, *answers = record[:3]
    if not isinstance(prompt, str) or not prompt.strip():
        return False
    return all(isinstance(a, str) and a.strip().startswith(prompt.strip()) for a in answers)


def _listed(places: list[str], unit: str) -> str:
    shown = ", ".join(places[:SHOWN])
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return f"{unit}{'s' if len(places) > 1 else ''} {shown}{more}"
