r"""What a compiled program computes, reads and sends, on each device, counted in its own text.

XLA's ``cost_analysis`` counts the body of a loop once. Here a loop counts as often as it runs:

    cost(computation) = sum of its instructions + sum over its loops of trips * cost(body),  (1)

the trips read from what the compiler says of the loop or from its condition. Counted are

- products and convolutions, two operations for each multiplication with an addition, at places of
  the result that are not padding: those that a matrix unit does, and nothing else;
- bytes between a device and its large memory: what each instruction (a fusion being one) reads and
  writes, of slices and updates in place the slice alone, nothing of arrays kept on the chip;
- what devices send to each other: with n of them in a group and m bytes before,

      all-gather m (n - 1),  all-reduce 2 m (n - 1) / n,  reduce-scatter and all-to-all
      m (n - 1) / n,  collective-permute m.                                              (2)

Of the branches of a condition the dearest counts.
"""

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from ctrl_jax.runtime.devices.compiled_text import Array, Instruction, Module, read_module

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"}
_FREE |= {"while", "conditional", "call", "partition-id", "replica-id", "add-dependency"}
_FREE |= {"opt-barrier", "optimization-barrier", "domain"}
_BOUND = {"LT": 0, "LE": 1, "NE": 0, "GT": 0, "GE": 1}


class Collective(NamedTuple):
    """One place in a program where devices speak to each other.

    Fields:
        kind: one of `KINDS`.
        sent: bytes that a device sends, each time.
        group: devices that take part together.
        times: how often in one run of the program.
        looped: whether it stands inside a loop.
    """

    kind: str
    sent: float
    group: int
    times: float
    looped: bool


class Costs(NamedTuple):
    """What one run of a program costs a device.

    Fields:
        flops: of products and convolutions.
        bytes: to and from its large memory.
        collectives: what it sends to others.
        unknown: loops whose trips could not be read, and which count once.
    """

    flops: float
    bytes: float
    collectives: tuple[Collective, ...]
    unknown: int

    @property
    def sent(self) -> float:
        """Bytes that it sends in all."""
        return sum((one.sent * one.times for one in self.collectives), 0.0)

    def by_kind(self) -> dict[str, dict[str, float]]:
        """Return, by kind, the places, how often they are reached, and the bytes sent in all."""
        found: dict[str, dict[str, float]] = {}
        for one in self.collectives:
            row = found.setdefault(one.kind, {"places": 0.0, "times": 0.0, "sent": 0.0})
            row["places"] += 1
            row["times"] += one.times
            row["sent"] += one.times * one.sent
        return found


def costs_of(text: str, devices: int) -> Costs:
    """Return what a compiled program costs each device.

    Args:
        text: of ``compiled.as_text()``.
        devices: that it runs on.
    """
    return _Counter(read_module(text), devices).cost_of(None)


class _Counter:
    def __init__(self, module: Module, devices: int):
        self._module, self._devices = module, devices
        self._known: dict[str, Costs] = {}
        self._fused: dict[str, tuple[float, dict[str, Collective]]] = {}

    def cost_of(self, name: str | None) -> Costs:
        """What one run of a computation costs, the whole program by default."""
        name = self._module.entry if name is None else name
        if name not in self._known:
            self._known[name] = self._counted(self._module.computations[name])
        return self._known[name]

    def _counted(self, lines: Sequence[Instruction]) -> Costs:
        by_name = {line.name: line for line in lines}
        flops = moved = 0.0
        unknown, own, below = 0, {}, []
        for line in lines:
            moved += self._moved(line, by_name)
            if line.code == "while":
                trips = self._trips(line, by_name)
                unknown += trips is None
                (body,) = line.called("body")
                inner = self.cost_of(body)
                parts = [(1 if trips is None else trips, inner, True)]
            elif line.code == "conditional":
                names = line.called("true_computation", "false_computation", "branch_computations")
                dearest = max((self.cost_of(n) for n in names), key=lambda c: (c.flops, c.bytes))
                parts = [(1, dearest, False)]
            elif line.code == "call":
                parts = [(1, self.cost_of(n), False) for n in line.called("to_apply", "calls")]
            else:
                parts = []
                more, found = self._own(line, by_name)
                flops += more
                own |= {key: one for key, one in found.items() if key not in own}
            for times, inner, looped in parts:
                flops, moved = flops + times * inner.flops, moved + times * inner.bytes
                unknown += inner.unknown
                below += [
                    one._replace(times=one.times * times, looped=one.looped or looped)
                    for one in inner.collectives
                ]
        return Costs(flops, moved, (*own.values(), *below), unknown)

    def _own(
        self, line: Instruction, by_name: Mapping[str, Instruction]
    ) -> tuple[float, dict[str, Collective]]:
        """Operations and collectives of one instruction, those inside a fusion too.

        An exchange that goes on beside computation is written at its start, in what it is fused
        with, and at its end, all under one channel: the key.
        """
        if line.code in ("fusion", "async-start"):
            flops, found = 0.0, {}
            for name in line.called("calls"):
                more, inside = self._inside(name)
                flops += more
                found |= inside
            return flops, found
        kind = line.code.removesuffix("-start")
        if kind in KINDS:
            channel = re.search(r"channel_id=(\d+)", line.rest)
            return 0.0, {channel[1] if channel else line.name: self._exchange(kind, line, by_name)}
        return operations(line, by_name), {}

    def _inside(self, name: str) -> tuple[float, dict[str, Collective]]:
        if name not in self._fused:
            lines = self._module.computations[name]
            by_name = {line.name: line for line in lines}
            flops, found = 0.0, {}
            for line in lines:
                more, inner = self._own(line, by_name)
                flops += more
                found |= inner
            if name.startswith("all-reduce-scatter"):
                found = {key: _scattered(one) for key, one in found.items()}
            self._fused[name] = flops, found
        return self._fused[name]

    def _exchange(
        self, kind: str, line: Instruction, by_name: Mapping[str, Instruction]
    ) -> Collective:
        size = sum(a.size for name in line.operands for a in _arrays(name, by_name))
        group = group_size(line.rest, self._devices)
        shares = {"all-gather": group - 1, "all-reduce": 2 * (group - 1) / group}
        shares |= {"collective-permute": 1, "collective-broadcast": 1}
        return Collective(kind, size * shares.get(kind, (group - 1) / group), group, 1, False)

    def _moved(self, line: Instruction, by_name: Mapping[str, Instruction]) -> float:
        """Bytes that an instruction reads from and writes to the large memory."""
        code = line.code
        if code in _FREE or code.endswith("-done") or "AllocateBuffer" in line.rest:
            return 0.0
        if code.endswith("-start"):  # its result holds what it reads beside what it writes
            written = line.arrays[-1:] if code.startswith("all-gather") else line.arrays[:1]
            return _far(written) + sum(_far(_arrays(name, by_name)) for name in line.operands)
        if code in ("dynamic-slice", "slice", "gather"):
            return 2 * _far(line.arrays)
        if code == "dynamic-update-slice":
            return 2 * _far(_arrays(line.operands[1], by_name))
        if code == "scatter":
            return 3 * _far(_arrays(line.operands[-1], by_name))
        if code == "fusion" and line.called("calls"):
            return self._of_fusion(line, by_name)
        return _far(line.arrays) + sum(_far(_arrays(name, by_name)) for name in line.operands)

    def _of_fusion(self, line: Instruction, by_name: Mapping[str, Instruction]) -> float:
        lines = self._module.computations[line.called("calls")[0]]
        inside = {one.name: one for one in lines}
        readers: dict[str, list[Instruction]] = {}
        for one in lines:
            for name in one.operands:
                readers.setdefault(name, []).append(one)
        parameters = {int(one.inside): one for one in lines if one.code == "parameter"}
        total = 0.0
        for place, name in enumerate(line.operands):
            arrays = _arrays(name, by_name)
            if _far(arrays):
                total += _read(parameters[place], readers, _far(arrays))
        root = next(one for one in lines if one.root)
        outputs = [inside[name] for name in root.operands] if root.code == "tuple" else [root]
        for array, output in zip(line.arrays, outputs, strict=False):
            while output.code in ("bitcast", "copy") and output.operands[0] in inside:
                output = inside[output.operands[0]]
            size = _far([array])
            if size and output.code == "dynamic-update-slice":
                update = sum(a.size for a in _arrays(output.operands[1], inside))
                size = min(size, update)
            total += size
        return total

    def _trips(self, line: Instruction, by_name: Mapping[str, Instruction]) -> int | None:
        """How often a loop runs; None where it cannot be read."""
        said = re.search(r'known_trip_count[\\":{ n]*?(\d+)', line.rest)
        if said:
            return int(said[1])
        (condition,), (body,) = line.called("condition"), line.called("body")
        lines = self._module.computations[condition]
        inside = {one.name: one for one in lines}
        root = next(one for one in lines if one.root)
        if root.code == "fusion":
            return self._trips_of_fusion(root, inside, line, by_name, body)
        return self._compared(root, inside, {}, line, by_name, body)

    def _trips_of_fusion(self, root, outer, line, by_name, body) -> int | None:
        lines = self._module.computations[root.called("calls")[0]]
        inside = {one.name: one for one in lines}
        given = {
            one.name: outer[root.operands[int(one.inside)]]
            for one in lines
            if one.code == "parameter"
        }
        return self._compared(next(o for o in lines if o.root), inside, given, line, by_name, body)

    def _compared(self, root, inside, given, line, by_name, body) -> int | None:
        """Trips of a loop that goes on while a counter is below a bound."""
        direction = re.search(r"direction=(\w+)", root.rest)
        if root.code != "compare" or direction is None or direction[1] not in _BOUND:
            return None
        sides = []
        for name in root.operands:
            found = _plain(given.get(name, inside.get(name)), inside | given)
            sides.append(given.get(found.name, found) if found is not None else None)
        if direction[1] in ("GT", "GE"):
            sides.reverse()
        counter, bound = sides
        if counter is None or bound is None or counter.code != "get-tuple-element":
            return None
        place = _index(counter)
        most = _number(bound, line, by_name)
        least = _number(counter, line, by_name)
        step = self._step(body, place)
        if most is None or least is None:
            return None
        return max(-(-(most + _BOUND[direction[1]] - least) // step), 0)

    def _step(self, body: str, place: int) -> int:
        """What a loop adds to its counter, 1 where it is not plainly written."""
        lines = self._module.computations[body]
        inside = {line.name: line for line in lines}
        root = next(line for line in lines if line.root)
        if root.code != "tuple":
            return 1
        added = _plain(inside.get(root.operands[place]), inside)
        if added is None or added.code != "add":
            return 1
        parts = [_plain(inside.get(name), inside) for name in added.operands]
        numbers = [int(one.inside) for one in parts if one and one.code == "constant"]
        return numbers[0] if len(numbers) == 1 and numbers[0] > 0 else 1


def operations(line: Instruction, by_name: Mapping[str, Instruction]) -> float:
    """Return the operations of a product or a convolution, 0 of all else.

    Args:
        line: the instruction.
        by_name: those of its computation.
    """
    if line.code == "dot":
        (left,) = _arrays(line.operands[0], by_name)
        axes = _numbers(re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.rest))
        return 2.0 * prod(line.arrays[0].shape) * prod(left.shape[axis] for axis in axes)
    if line.code == "convolution":
        return _convolution(line, by_name)
    return 0.0


def group_size(rest: str, devices: int) -> int:
    """Return how many devices take part in an exchange together.

    Args:
        rest: of its line, in any of the forms of ``replica_groups``.
        devices: of the program.
    """
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=", rest):
        return int(found[1].split(",")[-1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", rest):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", found[1])}
        parts = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", found[2])
        return prod(int(part) if part else sizes[name] for name, part in parts)
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(found[1].split(","))
    return devices


def _convolution(line: Instruction, by_name: Mapping[str, Instruction]) -> float:
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.rest)
    assert labels is not None, line.rest[:200]
    (left,), (right,) = (_arrays(name, by_name)[:1] for name in line.operands[:2])
    out = line.arrays[0]
    window = dict(re.findall(r"(\w+)=([\dx_\-]+)", _after(line.rest, "window={")))
    spatial = sorted(char for char in labels[3] if char.isdigit())
    places = 1.0
    for number, char in enumerate(spatial):

        def of(key: str, default: str, number=number) -> list[int]:
            each = window.get(key, "x".join([default] * len(spatial))).split("x")[number]
            return [int(n) for n in each.split("_")]

        places *= _valid(
            left.shape[labels[1].index(char)],
            right.shape[labels[2].index(char)],
            out.shape[labels[3].index(char)],
            stride=of("stride", "1")[0],
            before=of("pad", "0_0")[0],
            left=of("lhs_dilate", "1")[0],
            right=of("rhs_dilate", "1")[0],
        )
    inputs = right.shape[labels[2].index("i")]
    groups = re.search(r"batch_group_count=(\d+)", line.rest)
    batch = out.shape[labels[3].index("b")]
    outputs = out.shape[labels[3].index("f")]
    # Groups of the batch: each output feature is made of its own share of the batch.
    shared = int(groups[1]) if groups else 1
    whole = 2.0 * batch * outputs * inputs * places
    return whole * (left.shape[labels[1].index("b")] / batch / shared if shared > 1 else 1)


def _valid(
    size: int, window: int, outputs: int, *, stride: int, before: int, left: int, right: int
) -> int:
    """Pairs of an output and a window's entry that meet an entry of the input along one axis."""
    at = np.arange(outputs)[:, None] * stride - before + np.arange(window)[None] * right
    return int(np.sum((at >= 0) & (at < (size - 1) * left + 1) & (at % left == 0)))


def _after(text: str, word: str) -> str:
    place = text.find(word)
    return "" if place < 0 else text[place + len(word) :].split("}")[0]


def _scattered(one: Collective) -> Collective:
    return one._replace(kind="reduce-scatter", sent=one.sent / 2)


def _arrays(name: str, by_name: Mapping[str, Instruction]) -> list[Array]:
    return by_name[name].arrays if name in by_name else []


def _far(arrays: Sequence[Array]) -> float:
    """Bytes of the arrays that live in the large memory."""
    return float(sum(array.size for array in arrays if not array.near))


def _read(one: Instruction, readers: Mapping[str, list[Instruction]], size: float) -> float:
    """Bytes that a fusion reads of one of its arguments: of slices no more than they are."""
    total = 0.0
    for reader in readers.get(one.name, []):
        if reader.code == "bitcast":
            total += _read(reader, readers, size)
        elif reader.code in ("dynamic-slice", "slice", "gather") and reader.operands[0] == one.name:
            total += sum(array.size for array in reader.arrays)
        elif reader.code == "dynamic-update-slice" and reader.operands[0] == one.name:
            continue
        else:
            return size
    return min(total, size)


def _plain(one: Instruction | None, inside: Mapping[str, Instruction]) -> Instruction | None:
    """What an instruction copies, if it does nothing else."""
    while one is not None and one.code in ("copy", "bitcast", "convert", "copy-done", "copy-start"):
        one = inside.get(one.operands[0]) if one.operands else None
    return one


def _number(one: Instruction, loop: Instruction, outer: Mapping[str, Instruction]) -> int | None:
    """The integer that an instruction of a loop's condition is as the loop begins."""
    if one.code == "get-tuple-element":
        start = _plain(outer.get(loop.operands[0]), outer)
        if start is None or start.code != "tuple":
            return None
        found = _plain(outer.get(start.operands[_index(one)]), outer)
    else:
        found = one
    if found is None or found.code != "constant" or not re.fullmatch(r"-?\d+", found.inside):
        return None
    return int(found.inside)


def _index(one: Instruction) -> int:
    found = re.search(r"index=(\d+)", one.rest)
    return int(found[1]) if found else 0


def _numbers(found: re.Match[str] | None) -> list[int]:
    return [int(n) for n in found[1].split(",") if n] if found else []
