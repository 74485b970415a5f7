"""Stopping a run when the machine asks for it.

The first SIGTERM or SIGINT is remembered and the loop stops after the current update, or at once
where it waits for something outside (`wait_for`); the second ends the process at once. Where
`jax.distributed` runs, its own service hears SIGTERM on any host and agrees with all others on the
update to stop at; SIGINT is turned into SIGTERM there, so that all hosts hear of it.
"""

import os
import signal
import threading
from concurrent.futures import Future
from types import FrameType
from typing import TypeVar

import jax

Result = TypeVar("Result")
LOOK_EVERY = 0.05
"""Seconds between two looks for a signal while something is waited for."""


class Stopped(Exception):
    """A signal came while something outside was waited for."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopSignals:
    """Listens for SIGTERM and SIGINT between `__enter__` and `__exit__`."""

    listening: "list[StopSignals]" = []  # noqa: RUF012
    """Those that are listening now, the innermost loop's last."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}
        self._shared = False

    def __enter__(self) -> "StopSignals":
        self._shared = jax.distributed.is_initialized()
        if threading.current_thread() is threading.main_thread():
            mine = (signal.SIGINT,) if self._shared else (signal.SIGINT, signal.SIGTERM)
            for signum in mine:
                self._before[signum] = signal.signal(signum, self._remember)
        self.listening.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.listening.remove(self)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # pyright: ignore[reportArgumentType]

    def stop_after(self, step: int) -> int | None:
        """Ask, after every update, whether to stop.

        Args:
            step: completed updates, the same on every process.

        Returns:
            The number of the signal that asked for it, or None.
        """
        if not self._shared:
            return self.received
        from jax.experimental import multihost_utils

        reached = multihost_utils.reached_preemption_sync_point(step)
        return (self.received or signal.SIGTERM) if reached else None

    def check(self) -> None:
        """Raise `Stopped` if a signal came; never where other processes must hear of it first."""
        if self.received is not None and not self._shared:
            raise Stopped(self.received)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        del frame
        self.received = signum
        for number in self._before:
            signal.signal(number, signal.SIG_DFL)
        if self._shared:
            os.kill(os.getpid(), signal.SIGTERM)


def wait_for(future: Future[Result]) -> Result:
    """Return what a future brings; a signal that comes meanwhile ends the waiting.

    Args:
        future: of a thread that need not be waited for.

    Raises:
        Stopped: a signal came, within a loop that listens for some.
    """
    while True:
        try:
            return future.result(timeout=LOOK_EVERY)
        except TimeoutError:
            if future.done():  # meanwhile, or the error is its own
                return future.result()
        for signals in StopSignals.listening[-1:]:
            signals.check()
