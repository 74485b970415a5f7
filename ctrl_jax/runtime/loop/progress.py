"""Signs of life on the console: a bar on a terminal, a line now and then in a log file."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from ctrl_jax.runtime.loop.adapters import numbers_of
from ctrl_jax.runtime.loop.signals import stop_point

Update = Callable[..., None]
_SHOWN = 4
# What a run is about comes first, under the names that algorithms and commands give it.
_FIRST = ("reward/mean", "evaluation/reward", "objective", "loss", "evaluation/loss")
_FIRST += ("rewards/accuracies", "rewards/margins", "kl/path", "evaluation/kl", "bits_per_byte")


@contextlib.contextmanager
def progress(
    total: int, description: str, *, enabled: bool = True, every_seconds: float = 10.0
) -> Iterator[Update]:
    """Show how far a long piece of work is, on stderr of process 0.

    On a terminal a bar with the time left and up to four live metrics; elsewhere a plain line
    every ten seconds or so, and one at the end. Nothing where it is not enabled.

    Args:
        total: pieces of work in all.
        description: what is being done.
        enabled: whether to show anything.
        every_seconds: seconds between two plain lines.

    Yields:
        `update(done, metrics=None)`, to be called with the pieces done so far and, where there
        are any, a dict of scalars to show. Outside a training loop it is a place where a run may
        be stopped, so that all processes must call it equally often.
    """
    if not enabled or jax.process_index() != 0:
        yield _stoppable(lambda done, metrics=None: None)
    elif sys.stderr.isatty():
        with _bar(total, description) as update:
            yield _stoppable(update)
    else:
        yield _stoppable(_lines(total, description, every_seconds))


def _stoppable(update: Update) -> Update:
    def told(done: int, metrics: Mapping[str, Any] | None = None) -> None:
        update(done, metrics)
        stop_point()

    return told


@contextlib.contextmanager
def _bar(total: int, description: str) -> Iterator[Update]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[live]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(description, total=total, live="")

        def update(done: int, metrics: Mapping[str, Any] | None = None) -> None:
            bars.update(task, completed=done)
            if metrics:
                bars.update(task, live=_live(metrics))

        yield update


def _lines(total: int, description: str, every_seconds: float) -> Update:
    start = time.monotonic()
    first: list[int] = []
    last = [start]

    def update(done: int, metrics: Mapping[str, Any] | None = None) -> None:
        now = time.monotonic()
        first.append(done) if not first else None
        if now - last[0] < every_seconds and done < total:
            return
        last[0] = now
        rate = (done - first[0]) / max(now - start, 1e-9)
        left = f"{(total - done) / rate:.0f} s left" if rate > 0 else "time left unknown"
        live = f", {_live(metrics)}" if metrics else ""
        text = f"{description}: {done}/{total}, {now - start:.0f} s, {left}{live}"
        print(text, file=sys.stderr, flush=True)

    return update


def _live(metrics: Mapping[str, Any]) -> str:
    """Return a few metrics as text, reward and loss first, flags left out."""
    order = [*(n for n in _FIRST if n in metrics), *(n for n in metrics if n not in _FIRST)]
    told = numbers_of({n: metrics[n] for n in order})
    numbers = {n: value for n, value in told.items() if not n.endswith("/finite")}
    shown = [(n, v) for n, v in numbers.items() if math.isfinite(v)][:_SHOWN]
    return " ".join(f"{name} {value:.4g}" for name, value in shown)
