"""What one gradient costs: operations the compiler counts, seconds in interleaved rounds."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np


class Cost(NamedTuple):
    """Operations of one gradient, and its time over that of the reference."""

    flops: float
    time_ratio: float


def measure(
    functions: Mapping[str, Callable], arguments: tuple[Any, ...], *, reference: str, rounds: int
) -> dict[str, Cost]:
    """Return the cost of each function; the ratio is the median over rounds of all of them."""
    compiled = {name: jax.jit(f).lower(*arguments).compile() for name, f in functions.items()}
    seconds = {name: [] for name in compiled}
    for function in compiled.values():
        jax.block_until_ready(function(*arguments))
    for _ in range(rounds):
        for name, function in compiled.items():
            began = time.perf_counter()
            for _ in range(5):
                jax.block_until_ready(function(*arguments))
            seconds[name].append(time.perf_counter() - began)
    base = np.asarray(seconds[reference])
    return {
        name: Cost(_flops(function), float(np.median(np.asarray(seconds[name]) / base)))
        for name, function in compiled.items()
    }


def _flops(compiled) -> float:
    analysis = compiled.cost_analysis()
    return float("nan") if not analysis else float(analysis.get("flops", float("nan")))
