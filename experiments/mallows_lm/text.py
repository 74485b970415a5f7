"""English text that every Python carries, as bytes below 128.

In distribution are the docstrings of the standard library's modules, out of distribution the
language reference that `help()` shows: longer sentences, another vocabulary. Both are taken as
paragraphs of prose. What a paragraph is used for is decided by a checksum of its own text, so that
Python 3.11 and 3.12 agree on every paragraph that they share; a tenth or so of them differ.
"""

import ast
import functools
import hashlib
import json
import re
import sysconfig
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ctrl_jax._checks import refuse

VOCABULARY = 128
TYPOGRAPHY = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-"})
SHORTEST = 80
LEAST_PROSE = 0.8


class Corpus(NamedTuple):
    """Paragraphs by their use.

    Fields:
        pretraining: what the base model reads, seven tenths of the docstrings.
        preferences: where the prompts of the comparisons come from, two tenths.
        held_out: for evaluation, the last tenth.
        elsewhere: for evaluation out of distribution, the language reference.
    """

    pretraining: list[str]
    preferences: list[str]
    held_out: list[str]
    elsewhere: list[str]

    def digest(self) -> str:
        """Return the sha256 of all of it."""
        return hashlib.sha256(json.dumps(self).encode()).hexdigest()


class Prompts(NamedTuple):
    """Pieces of text that answers continue.

    Fields:
        tokens: bytes, (prompts, length).
        opens: whether the piece opens a sentence with a capital letter, (prompts,); the others
            begin with a small letter inside one.
    """

    tokens: np.ndarray
    opens: np.ndarray


@functools.cache
def read_corpus() -> Corpus:
    """Return the text of this Python.

    Raises:
        ValueError: the standard library has no source or no documentation here.
    """
    docstrings = list(dict.fromkeys(_prose(_docstrings())))
    reference = list(dict.fromkeys(_prose(_topics())))
    if len(docstrings) < 500 or len(reference) < 200:
        found = f"{len(docstrings)} docstrings, {len(reference)} help texts"
        rule = "this Python comes without the source or the help texts of its standard library"
        raise refuse("text", found, rule, "use one from python.org, conda, pyenv or uv")
    use = [zlib.crc32(p.encode()) % 10 for p in docstrings]
    pretraining, preferences, held_out = (
        [p for p, u in zip(docstrings, use, strict=True) if u in uses]
        for uses in (range(7), (7, 8), (9,))
    )
    return Corpus(pretraining, preferences, held_out, reference)


def encode(paragraphs: Iterable[str]) -> np.ndarray:
    """Return paragraphs as bytes, a line each."""
    return np.frombuffer("\n".join(paragraphs).encode("ascii"), np.uint8).astype(np.int32)


def decode(tokens: np.ndarray) -> str:
    """Return tokens as text."""
    return bytes(np.asarray(tokens, np.uint8)).decode("ascii")


def draw_prompts(
    paragraphs: Iterable[str], number: int, length: int, generator: np.random.Generator
) -> Prompts:
    """Draw pieces of the paragraphs, half of which open a sentence; all start at other places.

    Raises:
        ValueError: the text has too few places to start from.
    """
    places: dict[bool, list[str]] = {True: [], False: []}
    for text in paragraphs:
        for match in re.finditer(r"(?:^|(?<=[.!?] ))[A-Z]|(?<=[a-z,] )[a-z]", text):
            piece = text[match.start() : match.start() + length]
            if len(piece) == length:
                places[match[0].isupper()].append(piece)
    wanted = {True: number // 2, False: number - number // 2}
    if any(len(places[kind]) < wanted[kind] for kind in wanted):
        fewest = 2 * min(map(len, places.values()))
        asked = f"{number} prompts of {length} bytes"
        raise refuse("world", asked, f"the text has {fewest}", "ask for fewer")
    drawn = [
        (places[kind][i], kind)
        for kind in wanted
        for i in generator.choice(len(places[kind]), wanted[kind], replace=False)
    ]
    order = generator.permutation(number)
    tokens = np.stack([np.frombuffer(drawn[i][0].encode(), np.uint8) for i in order])
    return Prompts(tokens.astype(np.int32), np.array([drawn[i][1] for i in order]))


def _docstrings() -> Iterator[str]:
    library = Path(sysconfig.get_paths()["stdlib"])
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted(library.glob("*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, ValueError, OSError):  # of a module that nobody can import either
            continue
        for node in ast.walk(tree):
            if isinstance(node, kinds) and (found := ast.get_docstring(node)):
                yield found


def _topics() -> Iterator[str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return
    for name in sorted(topics):
        yield topics[name]


def _prose(texts: Iterable[str]) -> Iterator[str]:
    """Return paragraphs on one line each, without code, grammar and tables."""
    for text in texts:
        for paragraph in re.split(r"\n\s*\n", text.translate(TYPOGRAPHY)):
            line = " ".join(paragraph.split())
            prose = sum(c.islower() or c == " " for c in line)
            if line.isascii() and len(line) >= SHORTEST and prose >= LEAST_PROSE * len(line):
                yield line
