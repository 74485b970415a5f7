"""Preference pairs from a file of JSON lines.

One object per line, for example::

    {"prompt": "2 + 2 =", "chosen": " 4", "rejected": " 5", "weight": 0.5, "dispersion": 0.3}
    {"chosen": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
     "rejected": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "5"}]}

(the second on one line). `weight`, `dispersion` and `prompt` may be absent; without a prompt it is
what both texts share (`shared_beginning`). An absent prompt is not an empty one, which must be
written: texts that share nothing are more often a forgotten key. Whatever could mean two things is
refused. Two equal answers mean one thing, a loss of log 2 without gradient: collections have some,
and they are left out with a warning.
"""

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ctrl_jax.pretrained.preference_record import PreferenceRecord, shared_beginning
from ctrl_jax.runtime.checks import check_non_negative, refuse
from ctrl_jax.runtime.errors import RunWarning

ROLES = ("system", "developer", "user", "assistant", "tool")
_REQUIRED = ("chosen", "rejected")
_KNOWN = ("prompt", *_REQUIRED, "weight", "dispersion")
_SHOWN = 8
_LINES = "write one JSON object on each line, in UTF-8"


def read_preferences(
    path: str | os.PathLike[str], *, ignore: Sequence[str] = ()
) -> list[PreferenceRecord]:
    """Reads a user's preference pairs.

    Args:
        path: A file of JSON lines in UTF-8; blank lines are skipped.
        ignore: Keys of records and of messages that are left unread; all others must be known.

    Returns:
        The records in the file's order, those with equal answers left out.

    Raises:
        ValueError: A file that is missing, empty or not of this kind, or a faulty record: the
            first is explained, and the numbers of the next lines with a fault are listed.
    """
    records: list[PreferenceRecord] = []
    equal: list[int] = []
    faulty: list[int] = []
    first = None
    for number, line in _lines(Path(path)):
        try:
            record = _record(line, f"{path}:{number}", frozenset(ignore))
        except ValueError as error:
            first = first or error
            faulty.append(number)
            continue
        if record is None:
            equal.append(number)
        else:
            records.append(record)
    if first is not None:
        more = f"; {len(faulty) - 1} more lines are faulty: {_list(faulty[1:])}"
        raise ValueError(f"{first}{more if faulty[1:] else ''}") from first
    _check_file(path, records, equal)
    return records


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank; a byte-order mark of UTF-8 is no part of the first."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if line.strip():
                    yield number, line
    except OSError as error:
        rule = f"it cannot be read ({error.strerror})"
        raise refuse("data", str(path), rule, "give a file of JSON lines") from error


def _record(line: bytes, place: str, ignored: frozenset[str]) -> PreferenceRecord | None:
    """One record, or None where its answers are equal."""
    fields = _known_keys(place, _parse(line, place), _KNOWN, ignored)
    missing = [key for key in _REQUIRED if key not in fields]
    if missing:
        rule = f"{' and '.join(missing)} must be given"
        raise refuse(place, sorted(fields), rule, "name the keys prompt, chosen and rejected")
    weight, dispersion = _numbers(fields, place)
    texts = [key for key in ("prompt", *_REQUIRED) if key in fields]
    if len({type(fields[key]) for key in texts}) > 1:
        found = {key: type(fields[key]).__name__ for key in texts}
        repair = "give strings or conversations; if the answers hold the prompt, ignore its key"
        raise refuse(place, found, "the texts of a record must be of one kind", repair)
    for key in texts:
        fields[key] = _text(f"{place}: {key}", fields[key], ignored)
    if fields["chosen"] == fields["rejected"]:
        return None
    prompt, chosen, rejected = _split(fields, place)
    check = _check_strings if isinstance(prompt, str) else _check_conversations
    check(prompt, {"chosen": chosen, "rejected": rejected}, place)
    return PreferenceRecord(prompt, chosen, rejected, weight, dispersion, place)


def _parse(line: bytes, place: str) -> Any:
    try:
        # Whole numbers become floats, so that one too large for a float is infinite, not an error.
        return json.loads(line.decode("utf-8"), object_pairs_hook=_unique, parse_int=float)
    except UnicodeDecodeError as error:
        raise refuse(place, line[:20], f"it is not UTF-8 ({error.reason})", _LINES) from error
    except (ValueError, RecursionError) as error:
        start = line[:40].decode("utf-8", "replace")
        raise refuse(place, start, f"it is no JSON ({error})", _LINES) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _known_keys(
    name: str, found: Any, known: Sequence[str], ignored: frozenset[str]
) -> dict[str, Any]:
    if not isinstance(found, dict):
        rule = f"it must be an object with {', '.join(known)}"
        raise refuse(name, type(found).__name__, rule, _LINES)
    fields = {key: value for key, value in found.items() if key not in ignored}
    unknown = sorted(fields.keys() - set(known))
    if unknown:
        rule = f"the known keys are {', '.join(known)}"
        raise refuse(name, unknown, rule, "rename or remove them, or name them in ignore")
    return fields


def _numbers(fields: dict[str, Any], place: str) -> tuple[float, float | None]:
    weight, dispersion = fields.get("weight", 1.0), fields.get("dispersion")
    check_non_negative(f"{place}: weight", weight)
    if dispersion is None and "dispersion" not in fields:
        return float(weight), None
    number = isinstance(dispersion, int | float) and not isinstance(dispersion, bool)
    if not number or not 0 < dispersion <= 1:
        rule = "it must be a number in (0, 1]"
        raise refuse(f"{place}: dispersion", dispersion, rule, "leave it out where it is unknown")
    return float(weight), float(dispersion)


def _text(name: str, value: Any, ignored: frozenset[str]) -> Any:
    """A string, or a conversation of messages with nothing but role and content."""
    if isinstance(value, str):
        _check_unicode(name, value)
        return value
    if not isinstance(value, list):
        rule = "it must be a string or a list of messages"
        kind = type(value).__name__
        raise refuse(name, kind, rule, 'write "text" or [{"role": "user", "content": "text"}]')
    messages = []
    for n, message in enumerate(value):
        where = f"{name}, message {n}"
        fields = _known_keys(where, message, ("role", "content"), ignored)
        role, content = fields.get("role"), fields.get("content")
        if role not in ROLES:
            rule = f"the known roles are {', '.join(ROLES)}"
            raise refuse(f"{where}: role", role, rule, "rename it")
        if not isinstance(content, str):
            kind = type(content).__name__
            raise refuse(f"{where}: content", kind, "it must be a string", "write plain text")
        _check_unicode(f"{where}: content", content)
        messages.append(fields)
    return messages


def _check_unicode(name: str, text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start : error.end]
        rule = "half of a surrogate pair is no character"
        raise refuse(name, half, rule, "write the character itself") from error


def _split(fields: dict[str, Any], place: str) -> tuple[Any, Any, Any]:
    chosen, rejected = fields["chosen"], fields["rejected"]
    if "prompt" in fields:
        return fields["prompt"], chosen, rejected
    shared = shared_beginning(chosen, rejected)
    if not shared:
        rule = "there is no prompt, and the answers do not begin with one that both share"
        raise refuse(place, sorted(fields), rule, 'give the prompt ("" if it is empty)')
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _check_strings(_: str, answers: dict[str, str], place: str) -> None:
    for key, answer in answers.items():
        if not answer.strip():
            rule = "an answer must not be empty once the prompt is taken off"
            raise refuse(f"{place}: {key}", answer, rule, "write the answer or remove the record")


def _check_conversations(prompt: list, answers: dict[str, list], place: str) -> None:
    if not prompt or prompt[-1]["role"] == "assistant":
        rule = "a prompt must end with a message that is not the assistant's"
        repair = "move what the assistant says into both answers"
        raise refuse(f"{place}: prompt", [m["role"] for m in prompt], rule, repair)
    for key, answer in answers.items():
        roles = [message["role"] for message in answer]
        if not roles or roles[0] != "assistant" or roles[-1] != "assistant":
            rule = "an answer must begin and end with a message of the assistant"
            repair = "leave the prompt out of the answers and other roles off their ends"
            raise refuse(f"{place}: {key}", roles, rule, repair)
        if not all(m["content"].strip() for m in answer if m["role"] == "assistant"):
            rule = "an answer must not be empty"
            raise refuse(f"{place}: {key}", "", rule, "write the answer or remove the record")


def _check_file(path: Any, records: list[PreferenceRecord], equal: list[int]) -> None:
    """Checks what only the whole file shows."""
    if not records and not equal:
        raise refuse("data", str(path), "it holds no record", _LINES)
    lines = f"lines {_list(equal)}"
    if not records:
        rule = f"chosen and rejected are equal in all records, {lines}"
        raise refuse("data", str(path), rule, "give pairs of different answers")
    if equal:
        text = f"data {path}: {len(equal)} records with equal answers are left out, {lines}"
        warnings.warn(text, RunWarning, stacklevel=3)
    without = [record.place for record in records if record.dispersion is None]
    if 0 < len(without) < len(records):
        rule = f"it must be given in all records or in none, and {len(without)} have none"
        repair = f"add it, first at {without[0]}, or remove it everywhere"
        raise refuse(f"{path}: dispersion", len(records) - len(without), rule, repair)


def _list(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:_SHOWN]))
    return f"{shown} …" if len(numbers) > _SHOWN else shown
