r"""Prompts of a text-to-image model, from the files that people have.

Text (``prompts.txt``), a prompt on each line, or JSON lines (``prompts.jsonl``), an object each::

    {"prompt": "two red apples", "negative_prompt": "blurry", "weight": 2, "tag": "counting"}

Only `prompt` must be there; `weight` says how much a prompt counts, and every other field is kept
as it is for rewards that read it. Either may be compressed (``prompts.txt.gz``). Blank lines are
skipped, and so are spaces around a line of text; within JSON a prompt is what is written there, "".
"""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ctrl_jax._checks import check_path, check_positive, refuse
from ctrl_jax.data.compressed import SUFFIXES, open_unpacked
from ctrl_jax.data.preferences.json_file import BYTE_ORDER_MARK, parse

KEYS = ("prompt", "negative_prompt", "weight")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]|[\ud800-\udfff]")
NONE: Mapping[str, Any] = MappingProxyType({})


class Prompt(NamedTuple):
    """What a picture is asked to show.

    Fields:
        text: the words.
        negative: those to be guided away from; None where the file says none.
        weight: how much the prompt counts, above zero.
        fields: everything else that its record says, for rewards.
        place: where it was read, for messages about it, such as "prompts.txt:12".
    """

    text: str
    negative: str | None = None
    weight: float = 1.0
    fields: Mapping[str, Any] = NONE
    place: str = ""


class Distinct(NamedTuple):
    """Texts without repetition, and where each is used.

    Fields:
        texts: each text once, in the order of first use.
        index: which of them stands at each place, shape (places,), int32.
    """

    texts: tuple[str, ...]
    index: np.ndarray


def read_prompts(path: str | os.PathLike[str], *, name: str = "path") -> tuple[Prompt, ...]:
    """Return the prompts of a file, in its order.

    Args:
        path: of ``.txt``, a prompt on each line, or of ``.jsonl``, an object on each line with
            `prompt` and, where wanted, `negative_prompt`, `weight` (above zero) and any others;
            in UTF-8, also compressed by gzip, bzip2, xz or zstandard.
        name: what errors call the path.

    Raises:
        ValueError: the file is missing, empty, damaged or of another kind, or a line is no text, no
            object, names a field twice or misspells one; the message names the line.
    """
    check_path(name, path)
    path = Path(path)
    kinds = [s.lower() for s in path.suffixes if s.lower() not in SUFFIXES][-1:]
    if kinds not in ([".txt"], [".jsonl"]):
        rule = "its name must end in .txt, a prompt on each line, or .jsonl, an object on each"
        raise refuse(name, str(path), rule, "rename it if it is one of these")
    read = _of_text if kinds == [".txt"] else _of_object
    found = tuple(read(line, place) for line, place in _lines(path, name))
    if not found:
        raise refuse(name, str(path), "it holds no prompt", "write one on each line")
    return found


def distinct(prompts: Iterable[Prompt | str]) -> Distinct:
    """Return each distinct text once, so that each is encoded once, and where it is used.

    Args:
        prompts: prompts, of which the texts count, or plain texts.

    Returns:
        `Distinct`: ``texts[index[i]]`` is the text of prompt i.
    """
    places: dict[str, int] = {}
    texts = (prompt if isinstance(prompt, str) else prompt.text for prompt in prompts)
    index = [places.setdefault(text, len(places)) for text in texts]
    return Distinct(tuple(places), np.asarray(index, np.int32))


def _lines(path: Path, name: str) -> Iterator[tuple[bytes, str]]:
    with open_unpacked(path, name) as file:
        for number, line in enumerate(file, 1):
            line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
            if line.strip():
                yield line, f"{path}:{number}"


def _of_text(line: bytes, place: str) -> Prompt:
    try:
        text = line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        rule = f"it is not UTF-8 ({error.reason})"
        raise refuse(place, line[:20], rule, "save the file as UTF-8") from error
    if text.startswith("{") and '"prompt"' in text:
        rule = "it is an object, as in files of JSON lines"
        raise refuse(place, text[:40], rule, "let the file's name end in .jsonl")
    return Prompt(_check_text(place, text), place=place)


def _of_object(line: bytes, place: str) -> Prompt:
    record = parse(line, place, whole=int)
    if not isinstance(record, dict):
        rule = "it must be an object with the field prompt"
        repair = 'write {"prompt": "…"} on each line, without a list around them'
        raise refuse(place, _start(record), rule, repair)
    for key in record.keys() - {*KEYS}:
        meant = [known for known in KEYS if _bare(key) in (_bare(known), f"{_bare(known)}s")]
        if meant or key == "negative":
            known = meant[0] if meant else "negative_prompt"
            raise refuse(place, key, f"it is much like the field {known}", "rename it or remove it")
    if record.get("prompt") is None:
        keys = ", ".join(record) or "no field"
        raise refuse(place, keys, "it must have the field prompt", 'add "prompt": "…"')
    weight = 1.0 if record.get("weight") is None else record["weight"]
    check_positive(f"{place}: weight", weight)
    text, negative = record["prompt"], record.get("negative_prompt")
    _check_text(f"{place}: prompt", text)
    if negative is not None:
        _check_text(f"{place}: negative_prompt", negative)
    fields = {key: value for key, value in record.items() if key not in KEYS}
    for key, value in fields.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise refuse(f"{place}: {key}", value, "it must be a finite number", "mend it")
    return Prompt(text, negative, float(weight), fields, place)


def _check_text(place: str, text: Any) -> str:
    if not isinstance(text, str):
        raise refuse(place, text, "it must be text", 'write it in quotes, "…"')
    if wrong := CONTROL.search(text):
        rule = f"character {wrong.start() + 1} is {wrong.group()!a}, which no prompt has"
        raise refuse(place, text[:40], rule, "remove it, or write it as a space")
    return text


def _bare(key: str) -> str:
    return re.sub(r"[\W_]", "", key).lower()


def _start(record: Any) -> str:
    return json.dumps(record)[:40]
