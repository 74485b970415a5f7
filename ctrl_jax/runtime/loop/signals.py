"""Stopping a run when the machine asks for it.

The first SIGTERM or SIGINT is remembered and the loop stops after the current update; the
second ends the process at once. Where `jax.distributed` runs, its own service hears SIGTERM on
any host and agrees with all others on the update to stop at; SIGINT is turned into SIGTERM
there, so that all hosts hear of it.
"""

import os
import signal
import threading
from types import FrameType

import jax


class StopSignals:
    """Listens for SIGTERM and SIGINT between `__enter__` and `__exit__`."""

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
        return self

    def __exit__(self, *_: object) -> None:
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

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        del frame
        self.received = signum
        for number in self._before:
            signal.signal(number, signal.SIG_DFL)
        if self._shared:
            os.kill(os.getpid(), signal.SIGTERM)
