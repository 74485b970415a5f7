"""A long drawing, batch by batch: each is kept once it is drawn, and a signal ends it after one."""

import signal
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np

from ctrl_jax.runtime import Run, RunInterrupted, progress
from ctrl_jax.runtime.devices.distributed import on_the_first
from ctrl_jax.runtime.loop.signals import StopSignals


def draw_missing(
    number: int,
    batch: int,
    missing: Collection[int],
    draw: Callable[[np.ndarray], Any],
    keep: Callable[[range, Any], None],
    run: Run,
    *,
    show: bool = True,
) -> None:
    """Draw what is not there yet, in the batches of the run that nobody disturbs.

    Args:
        number: of all.
        batch: drawn at a time.
        missing: numbers of those that are not there; the same on every process.
        draw: ``draw(numbers)``, of a whole batch.
        keep: ``keep(rows, found)`` writes those of a batch; of process 0.
        run: its place on disk.
        show: whether to show progress.

    Raises:
        RunError: the run's folder is no longer there.
        RunInterrupted: a signal asked to stop; the batch that was under way is kept.
    """
    missing = set(missing)
    done = number - len(missing)
    with StopSignals() as signals, progress(number, "drawing", enabled=show) as update:
        update(done)
        for start in range(0, number, batch):
            rows = range(start, min(start + batch, number))
            if missing.isdisjoint(rows):
                continue
            # Whole, also where a part is there: beside other batch-mates the last bits may differ.
            # The last one is filled up, so that all are one program.
            found = draw(np.minimum(np.arange(start, start + batch), number - 1))
            on_the_first(partial(_kept, run, keep, rows, found))
            done += len(missing.intersection(rows))
            update(done)
            if (signum := signals.asked()) is not None:
                raise RunInterrupted(_told(signum, done, number, run), signum)


def _kept(run: Run, keep: Callable[[range, Any], None], rows: range, found: Any) -> None:
    run.check_there()
    keep(rows, found[: len(rows)])


def _told(signum: int, done: int, number: int, run: Run) -> str:
    return (
        f"stopped by {signal.Signals(signum).name}; {done} of {number} are written; continue with "
        f"the same command and --out {run.folder} --resume latest"
    )
