"""A tokenizer of CLIP's form whose tokens are the words of the captions."""

import collections
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
BEGIN_ID, END_ID = 0, 1


def vocabulary(texts: Iterable[str]) -> list[str]:
    """Return the tokens in the order of their numbers: of every letter in the texts, and of words.

    Args:
        texts: of lower-case words.
    """
    words = sorted({word for text in texts for word in text.split()})
    letters = sorted({letter for word in words for letter in word})
    merged = dict.fromkeys("".join(pair) for pair in merges(words))
    return [BEGIN, END, *letters, *(f"{letter}</w>" for letter in letters), *merged]


def merges(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs that are joined, in their order, until every word is one token."""
    parts = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    while pairs := collections.Counter(pair for word in parts for pair in itertools.pairwise(word)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        yield best
        parts = [_joined(word, best) for word in parts]


def write(folder: Path, texts: Iterable[str], longest: int) -> None:
    """Write the files of `CLIPTokenizer`.

    Args:
        folder: there may be one.
        texts: whose words become tokens.
        longest: number of tokens of a text.
    """
    texts = [*texts]
    words = sorted({word for text in texts for word in text.split()})
    folder.mkdir(exist_ok=True)
    numbers = {token: i for i, token in enumerate(vocabulary(texts))}
    (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges(words))]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    special = {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": END}
    record = special | {"model_max_length": longest, "tokenizer_class": "CLIPTokenizer"}
    record |= {"do_lower_case": True, "errors": "replace", "add_prefix_space": False}
    for name, content in (("special_tokens_map", special), ("tokenizer_config", record)):
        text = json.dumps(content, indent=2) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")


def _joined(word: list[str], pair: tuple[str, str]) -> list[str]:
    found, i = [], 0
    while i < len(word):
        both = (*word[i : i + 2],) == pair
        found.append("".join(pair) if both else word[i])
        i += 1 + both
    return found
