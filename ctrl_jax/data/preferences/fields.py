"""One record of preferences: its keys, its kinds, its texts.

`read_fields(found, place, ignored, unread)` gives a record, None for a pair of equal answers, or
one error in the form `place: received value; rule; repair`.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ctrl_jax._checks import check_non_negative, refuse
from ctrl_jax.data.preferences.columns import BOOKKEEPING, standard_columns
from ctrl_jax.data.preferences.record import PreferenceRecord, shared_beginning
from ctrl_jax.data.preferences.turns import is_transcript

ROLES = ("system", "developer", "user", "assistant", "tool")
TEXTS = ("prompt", "chosen", "rejected")
KEYS = (*TEXTS, "weight", "dispersion")


class UnknownKeysError(ValueError):
    """A record that is fine but for keys that nobody knows."""

    def __init__(self, place: str, keys: Collection[str]):
        rule = f"the known keys are {', '.join(KEYS)}"
        repair = "rename or remove them, or name them in ignore (--texts.ignore KEY …)"
        super().__init__(str(refuse(place, sorted(keys), rule, repair)))
        self.place, self.keys = place, frozenset(keys)


def read_fields(
    found: Any, place: str, ignored: Collection[str], unread: set[str]
) -> PreferenceRecord | None:
    """Return one record.

    Args:
        found: what the file holds for it.
        place: where, for errors.
        ignored: keys that are left unread.
        unread: gets the keys of public collections that are left unread.

    Returns:
        The record, or None where both answers are equal.

    Raises:
        UnknownKeysError: there are keys that are not known, and no other fault.
        ValueError: anything that is not as `file` describes it.
    """
    fields = standard_columns(_object(place, found, KEYS, ignored), place)
    unread |= fields.keys() & BOOKKEEPING
    unknown = _unknown(fields, {*KEYS, *BOOKKEEPING})
    texts = _texts(fields, place, ignored)
    weight, dispersion = _numbers(fields, place)
    equal = texts["chosen"] == texts["rejected"]
    texts = texts if equal else _with_prompt(_of_one_kind(texts, place), place)
    if not equal:
        check = _check_strings if isinstance(texts["prompt"], str) else _check_conversations
        check(texts, place)
    if unknown:
        raise UnknownKeysError(place, unknown)
    if equal:
        return None
    given = "prompt" in fields
    return PreferenceRecord(
        **texts, weight=weight, dispersion=dispersion, place=place, found=not given
    )


def _texts(fields: Mapping[str, Any], place: str, ignored: Collection[str]) -> dict[str, Any]:
    missing = [key for key in TEXTS[1:] if key not in fields]
    if missing:
        rule = f"{' and '.join(missing)} must be given"
        raise refuse(place, sorted(fields), rule, f"name the keys {', '.join(TEXTS)}")
    given = [key for key in TEXTS if key in fields]
    return {key: _text(f"{place}: {key}", fields[key], ignored) for key in given}


def _object(name: str, found: Any, known: Sequence[str], ignored: Collection[str]) -> dict:
    if not isinstance(found, dict):
        rule = f"it must be an object with the keys {', '.join(known)}"
        repair = "write one JSON object on each line, or an array of them"
        raise refuse(name, type(found).__name__, rule, repair)
    return {key: value for key, value in found.items() if key not in ignored}


def _unknown(fields: Mapping[str, Any], known: Collection[str]) -> list[str]:
    """The keys that say something, and nobody knows what: `"tool_calls": []` says nothing."""
    nothing = (None, "", [], {})
    return [key for key, value in fields.items() if key not in known and value not in nothing]


def _numbers(fields: Mapping[str, Any], place: str) -> tuple[float, float | None]:
    weight = fields.get("weight", 1.0)
    check_non_negative(f"{place}: weight", weight)
    if "dispersion" not in fields:
        return float(weight), None
    dispersion = fields["dispersion"]
    number = isinstance(dispersion, int | float) and not isinstance(dispersion, bool)
    if not number or not 0 < dispersion <= 1:
        rule = "it must be a number in (0, 1]"
        raise refuse(f"{place}: dispersion", dispersion, rule, "leave it out where it is unknown")
    return float(weight), float(dispersion)


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
    fields = _object(name, value, ("role", "content"), ignored)
    unknown = _unknown(fields, {"role", "content"})
    if unknown:
        rule, repair = "the known keys are role, content", "remove them, or name them in ignore"
        raise refuse(name, sorted(unknown), rule, repair)
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


def _of_one_kind(texts: dict[str, Any], place: str) -> dict[str, Any]:
    """The texts as strings or as conversations, where they are of two kinds that mean one thing."""
    kinds = {
        key: "a string" if isinstance(text, str) else "messages" for key, text in texts.items()
    }
    if len(set(kinds.values())) == 1:
        return texts
    answers = [texts[key] for key in TEXTS[1:]]
    if kinds["chosen"] == kinds["rejected"] == "a string":
        said = [[{"role": "assistant", "content": text}] for text in answers]
        return texts | dict(zip(TEXTS[1:], said, strict=True))
    if kinds["chosen"] == kinds["rejected"]:
        asked = {"role": "user", "content": texts["prompt"]}
        if all(answer and answer[0]["role"] == "assistant" for answer in answers):
            return texts | {"prompt": [asked]}
        shared = answers[0][: shared_beginning(*answers)]
        contents = [m["content"].strip() for m in shared if m["role"] == "user"]
        if texts["prompt"].strip() in contents:
            return texts | {"prompt": shared}
    repair = "give strings or conversations; where the answers hold the prompt, ignore its key"
    raise refuse(place, kinds, "the texts of a record must be of one kind", repair)


def _with_prompt(texts: dict[str, Any], place: str) -> dict[str, Any]:
    """The texts with a prompt that the answers do not repeat."""
    chosen, rejected = texts["chosen"], texts["rejected"]
    if "prompt" in texts:
        repeated = len(texts["prompt"])
        whole = not isinstance(chosen, str) or is_transcript(texts["prompt"])
        both = all(text[:repeated] == texts["prompt"] for text in (chosen, rejected))
        shared = repeated if whole and both else 0
        return texts | {"chosen": chosen[shared:], "rejected": rejected[shared:]}
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
