"""One line of a file of preference pairs: its keys, its kinds, its texts.

`read_line(line, place, ignored)` gives a record, None for a pair of equal answers, or one error in
the form `place: received value; rule; repair`.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ctrl_jax._checks import check_non_negative, refuse
from ctrl_jax.data.preferences.record import PreferenceRecord, shared_beginning

ROLES = ("system", "developer", "user", "assistant", "tool")
TEXTS = ("prompt", "chosen", "rejected")
KEYS = (*TEXTS, "weight", "dispersion")
REPAIR = "write one JSON object on each line, in UTF-8"


def read_line(line: bytes, place: str, ignored: Collection[str]) -> PreferenceRecord | None:
    """Return one record.

    Args:
        line: a JSON object in UTF-8.
        place: the file and the line's number, for errors.
        ignored: keys that are left unread.

    Returns:
        The record, or None where both answers are equal.

    Raises:
        ValueError: anything that is not as `file` describes it.
    """
    fields = _known(place, _parse(line, place), KEYS, ignored)
    missing = [key for key in TEXTS[1:] if key not in fields]
    if missing:
        rule = f"{' and '.join(missing)} must be given"
        raise refuse(place, sorted(fields), rule, f"name the keys {', '.join(TEXTS)}")
    texts = {key: fields[key] for key in TEXTS if key in fields}
    kinds = {key: type(text).__name__ for key, text in texts.items()}
    if len(set(kinds.values())) > 1:
        repair = "give strings or conversations; where the answers hold the prompt, ignore its key"
        raise refuse(place, kinds, "the texts of a record must be of one kind", repair)
    texts = {key: _text(f"{place}: {key}", text, ignored) for key, text in texts.items()}
    weight, dispersion = _numbers(fields, place)
    if texts["chosen"] == texts["rejected"]:
        return None
    texts = _with_prompt(texts, place)
    (_check_strings if isinstance(texts["prompt"], str) else _check_conversations)(texts, place)
    return PreferenceRecord(**texts, weight=weight, dispersion=dispersion, place=place)


def _parse(line: bytes, place: str) -> Any:
    try:
        # Whole numbers become floats: one that is too large is then infinite, not an overflow.
        return json.loads(line.decode("utf-8"), object_pairs_hook=_unique, parse_int=float)
    except UnicodeDecodeError as error:
        raise refuse(place, line[:20], f"it is not UTF-8 ({error.reason})", REPAIR) from error
    except (ValueError, RecursionError) as error:
        start = line[:40].decode("utf-8", "replace")
        raise refuse(place, start, f"it is no JSON ({error})", REPAIR) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _known(name: str, found: Any, known: Sequence[str], ignored: Collection[str]) -> dict[str, Any]:
    """The fields of an object that are not ignored, all of them known."""
    if not isinstance(found, dict):
        rule = f"it must be an object with the keys {', '.join(known)}"
        raise refuse(name, type(found).__name__, rule, REPAIR)
    fields = {key: value for key, value in found.items() if key not in ignored}
    unknown = sorted(fields.keys() - set(known))
    if unknown:
        rule = f"the known keys are {', '.join(known)}"
        raise refuse(name, unknown, rule, "rename or remove them, or name them in ignore")
    return fields


def _numbers(fields: Mapping[str, Any], place: str) -> tuple[float, float | None]:
    weight = fields.get("weight", 1.0)
    check_non_negative(f"{place}: weight", weight)
    if "dispersion" not in fields:
        return weight, None
    dispersion = fields["dispersion"]
    if not isinstance(dispersion, float) or not 0 < dispersion <= 1:
        rule = "it must be a number in (0, 1]"
        raise refuse(f"{place}: dispersion", dispersion, rule, "leave it out where it is unknown")
    return weight, dispersion


def _text(name: str, value: Any, ignored: Collection[str]) -> str | list[dict[str, str]]:
    """A string, or a conversation of messages with nothing but role and content."""
    if isinstance(value, str):
        return _unicode(name, value)
    if not isinstance(value, list):
        rule = "it must be a string or a list of messages"
        repair = 'write "text" or [{"role": "user", "content": "text"}]'
        raise refuse(name, type(value).__name__, rule, repair)
    return [_message(f"{name}, message {n}", item, ignored) for n, item in enumerate(value)]


def _message(name: str, value: Any, ignored: Collection[str]) -> dict[str, str]:
    fields = _known(name, value, ("role", "content"), ignored)
    role, content = fields.get("role"), fields.get("content")
    if role not in ROLES:
        raise refuse(f"{name}: role", role, f"the known roles are {', '.join(ROLES)}", "rename it")
    if not isinstance(content, str):
        kind = type(content).__name__
        raise refuse(f"{name}: content", kind, "it must be a string", "write plain text")
    return {"role": role, "content": _unicode(f"{name}: content", content)}


def _unicode(name: str, text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = text[error.start : error.end]
        rule = "half of a surrogate pair is no character"
        raise refuse(name, half, rule, "write the character itself") from error
    return text


def _with_prompt(texts: Mapping[str, Any], place: str) -> dict[str, Any]:
    if "prompt" in texts:
        return dict(texts)
    chosen, rejected = texts["chosen"], texts["rejected"]
    shared = shared_beginning(chosen, rejected)
    if not shared:
        rule = "without a prompt the answers must begin with one that both share"
        raise refuse(place, sorted(texts), rule, 'give the prompt, "" if it is empty')
    return {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}


def _check_strings(texts: Mapping[str, str], place: str) -> None:
    for key in TEXTS[1:]:
        if not texts[key].strip():
            rule = "an answer must not be empty, also where the prompt is taken off it"
            raise refuse(f"{place}: {key}", texts[key], rule, "write it or remove the record")


def _check_conversations(texts: Mapping[str, list[dict[str, str]]], place: str) -> None:
    roles = {key: [message["role"] for message in texts[key]] for key in TEXTS}
    if not roles["prompt"] or roles["prompt"][-1] == "assistant":
        rule = "a prompt must end with a message that is not the assistant's"
        repair = "move what the assistant says into both answers"
        raise refuse(f"{place}: prompt", roles["prompt"], rule, repair)
    for key in TEXTS[1:]:
        if not roles[key] or {roles[key][0], roles[key][-1]} != {"assistant"}:
            rule = "an answer must begin and end with a message of the assistant"
            repair = "leave the prompt out of the answers, and other roles off their ends"
            raise refuse(f"{place}: {key}", roles[key], rule, repair)
        said = [message["content"] for message in texts[key] if message["role"] == "assistant"]
        if not all(content.strip() for content in said):
            rule = "an answer must not be empty"
            raise refuse(f"{place}: {key}", said, rule, "write it or remove the record")
