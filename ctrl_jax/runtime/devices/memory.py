"""What a program will need of a device's memory, known before it runs.

The compiler says it of a compiled program, for shapes alone: no array is made.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax

from ctrl_jax._checks import refuse

UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
REFUSED = re.compile(r"Used ([\d.]+)([KMGT]) of|\(([\d.]+)([KMGT])\) exceeds available")


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """What a compiled program needs of each device, in bytes.

        total = arguments + results - donated + temporaries

    What is there all the time are its arguments, those that are donated being used again for its
    results; beside them stand the results that have no such place, and what the program needs in
    between.

    Args:
        arguments: state, weights and batch.
        results: what it returns.
        donated: share of the results that takes the place of arguments.
        temporaries: most of what it needs in between.
    """

    arguments: int
    results: int
    donated: int
    temporaries: int

    @property
    def standing(self) -> int:
        """All but the temporaries."""
        return self.arguments + self.results - self.donated

    @property
    def total(self) -> int:
        """Arguments + results - donated + temporaries."""
        return self.standing + self.temporaries


def memory_plan(function: Callable[..., Any], *arguments: Any, **options: Any) -> MemoryPlan:
    """Return what a function needs of each device, compiled for the arguments' shapes and devices.

    Args:
        function: a pure function, or one that `jax.jit` returned.
        *arguments: arrays, or `jax.ShapeDtypeStruct` in their places, with shardings where there is
            a mesh.
        **options: of `jax.jit`, such as ``donate_argnums=0``.

    Raises:
        ValueError: the compiler says itself that the device is too small, or nothing about memory.
    """
    jitted = function if hasattr(function, "lower") else jax.jit(function, **options)
    try:
        found = jitted.lower(*arguments).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if (needed := needed_of(error)) is None:
            raise
        rule = "the compiler finds that the device has less"
        raise refuse("memory", f"{needed / 1e9:.1f} GB", rule, "give a smaller batch") from error
    if found is None:
        where = jax.default_backend()
        raise refuse("device", where, "its compiler does not tell", "give chunks as a number")
    return MemoryPlan(
        found.argument_size_in_bytes,
        found.output_size_in_bytes,
        found.alias_size_in_bytes,
        found.temp_size_in_bytes,
    )


def needed_of(error: Exception) -> int | None:
    """Return the bytes that a compiler's refusal names, None where it is none for want of memory.

    Args:
        error: what compiling raised.
    """
    found = REFUSED.search(str(error)) if "RESOURCE_EXHAUSTED" in str(error) else None
    if found is None:
        return None
    return int(float(found[1] or found[3]) * UNITS[found[2] or found[4]])


def device_memory(device: Any = None) -> int:
    """Return the bytes that this process may use of a device.

    On a CPU it is what is free now, of a GPU what JAX was given of it.

    Args:
        device: the first of this process by default.

    Raises:
        ValueError: it is not known.
    """
    device = jax.local_devices()[0] if device is None else device
    if device.platform == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = (device.memory_stats() or {}).get("bytes_limit")
    if not limit:
        raise refuse("device", str(device), "its memory is not known", "give chunks as a number")
    return limit


def fitting_chunks(
    plan_of: Callable[[int], MemoryPlan], candidates: Sequence[int], limit: int | None = None
) -> tuple[int, MemoryPlan]:
    """Return the fewest chunks in which a step fits into memory, and what it needs in them.

    Chunks divide what a step needs in between, not its arguments. So if x bytes of temporaries are
    needed in the fewest chunks, c_0, then

        total(c) >= arguments + results - donated + x c_0 / c,

    and a candidate that this rules out is not compiled, unless it is the last.

    Args:
        plan_of: what the step needs in so many chunks, as by `memory_plan`.
        candidates: numbers of chunks that may be taken, in any order.
        limit: bytes of a device; those of this process's first device by default.

    Returns:
        The number, and its plan.

    Raises:
        ValueError: it does not fit in the most of them.
    """
    limit = device_memory() if limit is None else limit
    ordered, first = sorted(candidates), None
    for chunks in ordered:
        if first is not None and chunks != ordered[-1]:
            least = first.standing + first.temporaries * ordered[0] // chunks
            if least > limit:
                continue
        plan = plan_of(chunks)
        first = plan if first is None else first
        if plan.total <= limit:
            return chunks, plan
    received = f"{plan.total / 1e9:.1f} GB in {ordered[-1]} chunks, the most there can be"
    rule = f"a device has {limit / 1e9:.1f} GB, {plan.standing / 1e9:.1f} of them always in use"
    repair = "lower the batch, or take more devices, LoRA, bfloat16 or remat"
    raise refuse("memory", received, rule, repair)
