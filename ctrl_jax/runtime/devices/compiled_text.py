"""A compiled program as its text says it: computations, their instructions, sizes of arrays.

Only what counting needs is read: of every instruction its name, type, operation, operands and the
rest of its line. Types carry the memory that an array lives in, ``S(1)`` for instance being a TPU's
fast memory, and none the chip's large one.
"""

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

WIDTHS = {"pred": 1, "bf16": 2, "token": 0, "opaque": 0}
"""Bytes of an entry, where the name of the type does not end in its bits."""

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{\s*$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<= ]*)\](?:\{([^{}]*)\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_CODE = re.compile(r"\s*([\w\-]+)\(")


class Array(NamedTuple):
    """An array in a type.

    Fields:
        dtype: as the compiler writes it.
        shape: sizes of its axes.
        near: whether it lives in a memory of the chip itself, not in the large one beside it.
    """

    dtype: str
    shape: tuple[int, ...]
    near: bool

    @property
    def size(self) -> int:
        """Bytes of its entries, without padding."""
        bits = re.search(r"\d+", self.dtype)
        width = WIDTHS.get(self.dtype)
        if width is None:
            width = max(int(bits[0]), 8) // 8 if bits else 0
        return prod(self.shape) * width


class Instruction(NamedTuple):
    """One line of a computation.

    Fields:
        name: of its result.
        type: of its result, as written.
        code: the operation.
        operands: names of what it reads.
        inside: what stands between its parentheses.
        rest: what follows them.
        root: whether the computation returns it.
    """

    name: str
    type: str
    code: str
    operands: tuple[str, ...]
    inside: str
    rest: str
    root: bool

    @property
    def arrays(self) -> list[Array]:
        """The arrays of its result."""
        return arrays_of(self.type)

    def called(self, *keys: str) -> list[str]:
        """Return the computations that it names, such as those of ``body=``."""
        found = []
        for key in keys:
            one = re.search(rf"\b{key}=(?:%([\w.\-]+)|\{{([^}}]*)\}})", self.rest)
            if one:
                found += [one[1]] if one[1] else _NAME.findall(one[2])
        return found


class Module(NamedTuple):
    """A program: its computations by name, and the name of the first."""

    computations: Mapping[str, Sequence[Instruction]]
    entry: str


def read_module(text: str) -> Module:
    """Return what a compiled program's text says.

    Args:
        text: of ``compiled.as_text()``.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, inside = "", None
    for line in text.splitlines():
        if inside is None:
            if (head := _HEAD.match(line)) and not line.startswith(" "):
                inside = computations.setdefault(head[2], [])
                entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            inside = None
        elif (begun := _LINE.match(line)) is not None:
            inside.append(_instruction(line, begun))
    return Module(computations, entry)


def arrays_of(text: str) -> list[Array]:
    """Return the arrays of a type, several for a tuple.

    Args:
        text: such as ``(bf16[8,128]{1,0:T(8,128)S(1)}, s32[])``.
    """
    return [
        Array(dtype, tuple(int(n.strip("<= ")) for n in sizes.split(",") if n), "S(" in layout)
        for dtype, sizes, layout in _ARRAY.findall(text)
    ]


def _instruction(line: str, begun: re.Match[str]) -> Instruction:
    start = begun.end()
    middle = _closing(line, start) if line[start] == "(" else line.index(" ", start)
    code = _CODE.match(line, middle)
    assert code is not None, line[:200]
    end = _closing(line, code.end() - 1)
    inside = line[code.end() : end - 1]
    operands = tuple(_NAME.findall(inside))
    return Instruction(
        begun[2], line[start:middle], code[1], operands, inside, line[end:], bool(begun[1])
    )


def _closing(line: str, start: int) -> int:
    """Return the place after the parenthesis that closes the one at `start`."""
    depth = 0
    for found in re.finditer(r"[()]", line[start:]):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return start + found.end()
    raise ValueError(f"no end of {line[start : start + 100]!r}")
