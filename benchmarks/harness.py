"""Interleaved timing of one program against its peers.

A case has contenders, the first of them ours. After a warm-up every round times each of them once,
in random order, so that whatever else the machine does falls on all alike; a ratio is the median
over rounds of (peer's time / our time of the same round). Above 1 means ours is faster.
"""

import contextlib
import dataclasses
import json
import math
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import report
from benchmarks.threads import cores

NOT_INSTALLED = "not installed (pip install ctrl_jax[peers])"


class Disagreement(RuntimeError):
    """A peer does not compute what we compute: the run stops, for its time would say nothing."""


class Runner(NamedTuple):
    """Something to time.

    Fields:
        run: does the work once and returns when it is done.
        compile_seconds: lowering and compilation, not part of `run`.
        memory_bytes: peak memory by the compiler's own account.
        close: called when the case is done.
        facts: what else is known of it, plain data that goes into the row as it is.
    """

    run: Callable[[], Any]
    compile_seconds: float | None = None
    memory_bytes: int | None = None
    close: Callable[[], Any] = lambda: None
    facts: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class Contender:
    """How one side of a comparison is made.

    Args:
        name: what the table calls it.
        build: a module-level function that returns a `Runner`; it imports what it needs.
        arguments: its keyword arguments, plain data.
        target: the ratio (its time / our time) that we promise; None for information.
        host_memory: measure its peak memory in a process of its own.
    """

    name: str
    build: Callable[..., Runner]
    arguments: dict[str, Any]
    target: float | None = None
    host_memory: bool = False


@dataclasses.dataclass(frozen=True)
class Case:
    """One size or network; the first contender is ours."""

    name: str
    contenders: Sequence[Contender]


@dataclasses.dataclass
class Row:
    """The outcome of one contender; times in seconds, memory in bytes."""

    contender: str
    seconds: list[float] = dataclasses.field(default_factory=list)
    ratios: list[float] = dataclasses.field(default_factory=list)
    fastest_of_ours: float = math.nan
    target: float | None = None
    compile_seconds: float | None = None
    memory_bytes: int | None = None
    note: str = ""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Return the median ratio, None for ours and for what did not run."""
        return statistics.median(self.ratios) if self.ratios else None

    def summary(self) -> dict[str, Any]:
        """Return the row as plain data."""
        spread = {} if not self.seconds else _spread("seconds", self.seconds)
        spread |= {} if not self.ratios else _spread("ratio", self.ratios)
        if self.ratios:  # both sides at their best: what is left when the machine is shared
            spread["ratio_of_fastest"] = min(self.seconds) / self.fastest_of_ours
        met = None if self.ratio is None or self.target is None else self.ratio >= self.target
        return {
            "contender": self.contender,
            **spread,
            "rounds": len(self.seconds),
            "target": self.target,
            "met": met,
            "compile_seconds": self.compile_seconds,
            "memory_bytes": self.memory_bytes,
            "note": self.note,
            **self.facts,
        }


def compile_jax(function: Callable, *arguments: Any, donate: Sequence[int] = ()) -> tuple:
    """Return the compiled function, the seconds it took and its peak memory in bytes."""
    start = time.perf_counter()
    compiled = jax.jit(function, donate_argnums=tuple(donate)).lower(*arguments).compile()
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    if memory is None:
        return compiled, seconds, None
    total = memory.temp_size_in_bytes + memory.argument_size_in_bytes
    total += memory.output_size_in_bytes - memory.alias_size_in_bytes
    return compiled, seconds, total


def jax_runner(function: Callable, *arguments: Any) -> Runner:
    """Return the runner of a pure function at fixed arguments."""
    compiled, seconds, memory = compile_jax(function, *arguments)
    return Runner(lambda: jax.block_until_ready(compiled(*arguments)), seconds, memory)


def measure(case: Case, *, rounds: int, budget: float, advance: Callable[[str], None]) -> list[Row]:
    """Time the contenders of a case.

    Args:
        case: what to compare.
        rounds: number of rounds at most; at least three are made.
        budget: seconds that the rounds may take together.
        advance: called with the name of what has just been done.
    """
    rows = [Row(contender.name, target=contender.target) for contender in case.contenders]
    running: list[tuple[Row, Runner, int]] = []
    total = 0.0
    for contender, row in zip(case.contenders, rows, strict=True):
        ours = contender is case.contenders[0]
        try:
            runner = contender.build(**contender.arguments)
            _timed(runner.run)
            again = _timed(runner.run)
        except Disagreement:
            raise
        except ImportError:
            row.note = NOT_INSTALLED
        except Exception as error:
            if ours:
                raise
            row.note = f"did not run: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
        else:
            row.compile_seconds = runner.compile_seconds
            row.memory_bytes = runner.memory_bytes
            row.facts = runner.facts
            repeats = min(max(math.ceil(0.03 / again), 1), 20)
            total += again * repeats
            running.append((row, runner, repeats))
        advance(f"{case.name}: {contender.name}")
    order = random.Random(0)
    for number in range(min(max(int(budget / total), 3), rounds)):
        for row, runner, repeats in order.sample(running, len(running)):
            if repeats > 1:  # short: let it find its threads and caches again
                runner.run()
            row.seconds.append(_timed(runner.run, repeats))
        advance(f"{case.name}: round {number + 1}")
    ours = rows[0]
    for row in rows[1:]:
        row.ratios = [a / b for a, b in zip(row.seconds, ours.seconds, strict=False)]
        row.fastest_of_ours = min(ours.seconds)
    for _, runner, _ in running:
        runner.close()
    running.clear()
    for contender, row in zip(case.contenders, rows, strict=True):
        if contender.host_memory and row.seconds:
            row.memory_bytes = host_memory(contender)
    return rows


def run(
    name: str,
    claim: str,
    cases: Sequence[Case],
    *,
    quick: bool = False,
    out: Path | None = None,
    budget: float = 6.0,
) -> dict[str, Any]:
    """Measure a benchmark's cases, print the table, and write both files into `out`, if any.

    Args:
        name: of the benchmark and its files.
        claim: what it is to show.
        cases: what to measure.
        quick: three short rounds of each.
        out: folder of the files.
        budget: seconds that the rounds of a case may take together.
    """
    rounds, budget = (3, 0.5) if quick else (60, budget)
    console = Console(stderr=True)
    result = {
        "benchmark": name,
        "claim": claim,
        "command": " ".join(["python -m benchmarks", *(Path(a).name for a in sys.argv[1:])]),
        "quick": quick,
        "device": device(),
        "versions": report.versions(),
        "settings": settings(),
        "cases": [],
    }
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task(name, total=len(cases))
        for case in cases:
            with compilation_cache(quick):  # with it, compile times would be those of a disk
                rows = measure(
                    case,
                    rounds=rounds,
                    budget=budget,
                    advance=lambda text: progress.update(bar, description=text),
                )
            result["cases"].append({"name": case.name, "rows": [row.summary() for row in rows]})
            progress.advance(bar)
            if not console.is_terminal:
                console.print(f"{len(result['cases'])}/{len(cases)} {case.name}")
            if out is not None:  # after every case, so that a run cut short leaves what it has
                _write(result, out)
    print(report.table(result))
    if out is not None:
        console.print(f"wrote {out / name}.json and .md")
    return result


@contextlib.contextmanager
def compilation_cache(enabled: bool) -> Iterator[None]:
    """Leave JAX's compilation cache as it is, or turn it off for a while."""
    option = "jax_enable_compilation_cache"
    before = getattr(jax.config, option)
    jax.config.update(option, before and enabled)
    try:
        yield
    finally:
        jax.config.update(option, before)


def device() -> str:
    """Return the device's name as a folder, such as cpu-2-cores."""
    first = jax.devices()[0]
    if first.platform == "cpu":
        return f"cpu-{cores()}-cores"
    return first.device_kind.lower().replace(" ", "-")


def settings() -> dict[str, str]:
    """Return what the numbers depend on beside versions: threads and the allocator."""
    names = (
        "MALLOC_ARENA_MAX",
        "MALLOC_MMAP_THRESHOLD_",
        "MALLOC_TRIM_THRESHOLD_",
        "JAX_NUM_CPU_DEVICES",
    )
    names += ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")
    found = {name: os.environ.get(name, "unset") for name in names}
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    own = {"threads": str(cores()), "machine": platform.machine(), "load at the start": load}
    return own | found


def host_memory(contender: Contender) -> int | None:
    """Return by how much one run raises the peak resident memory of a fresh process."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.peak_memory",
        f"{contender.build.__module__}:{contender.build.__name__}",
        json.dumps(contender.arguments),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def _write(result: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{result['benchmark']}.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / f"{result['benchmark']}.md").write_text(report.table(result))


def _timed(function: Callable[[], Any], repeats: int = 1) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def _spread(name: str, values: list[float]) -> dict[str, float]:
    median = statistics.median(values)
    return {name: median, f"{name}_min": min(values), f"{name}_max": max(values)}
