"""Stopping a run when the machine asks for it.

Within a training loop the first SIGTERM or SIGINT is remembered: the loop stops after the update
that is under way, its evaluation and its save, also where that is the last one, or at once where it
waits for something outside (`wait_for`). Between loops (`ending_at_signals`) there is nothing to be
saved, and a command ends at once, with a line. A second signal ends the process at once, also where
the first could not be heard yet (`hear_once`).

Where `jax.distributed` runs, its own service hears SIGTERM on any host and agrees with all others
on the place to stop at: they are counted, the same on every process, over all loops and stages.
SIGINT is turned into SIGTERM, so that all hosts hear of it. Between loops the places are those of
`stop_point`.
"""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from types import FrameType
from typing import TypeVar

import jax

from ctrl_jax.runtime.devices.second_signal import hear_once

Result = TypeVar("Result")
LOOK_EVERY = 0.05
"""Seconds between two looks for a signal while something is waited for."""

_places = itertools.count(1)
_ending: list[int] = []  # signals that raised `Terminated` in the command under way
_outside: list[object] = []  # the handler of that command


class Stopped(Exception):
    """A signal came while something outside was waited for."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Terminated(KeyboardInterrupt):
    """A signal came between loops; like Ctrl-C no handler of errors takes it for one.

    Args:
        signum: its number.
    """

    def __init__(self, signum: int = signal.SIGTERM):
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
        if _ending and not self._shared:
            self.received = _ending[0]
        if threading.current_thread() is threading.main_thread():
            for signum in _own_signals(self._shared):
                self._before[signum] = signal.signal(signum, self._remember)
                hear_once(signum)
        self.listening.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.listening.remove(self)
        for signum, handler in self._before.items():
            signal.signal(signum, handler)  # pyright: ignore[reportArgumentType]
            if handler in _outside:
                hear_once(signum)
        if kind is None and self.received is not None and not self._shared:
            # It came after the last look: whoever listens outside is to hear of it.
            os.kill(os.getpid(), self.received)

    def asked(self) -> int | None:
        """Ask, after every update, whether to stop; as often on every process.

        Returns:
            The number of the signal that asked for it, or None.
        """
        if not self._shared:
            return self.received
        return (self.received or signal.SIGTERM) if _all_have_heard() else None

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


@contextlib.contextmanager
def ending_at_signals() -> Iterator[None]:
    """Let SIGTERM and SIGINT raise `Terminated` wherever no loop is listening, in the main thread.

    Where `jax.distributed` runs they raise nothing: its service is told, and `stop_point` asks it.

    Python ignores what is raised while it collects garbage, where JAX has a callback: then the next
    `stop_point` or loop hears of it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(signum: int, frame: FrameType | None) -> None:
        del frame
        signal.signal(signum, signal.SIG_DFL)
        if jax.distributed.is_initialized():
            os.kill(os.getpid(), signal.SIGTERM)
            return
        _ending.append(signum)
        raise Terminated(signum)

    heard = _own_signals(jax.distributed.is_initialized())
    before = {signum: signal.signal(signum, end) for signum in heard}
    _outside.append(end)
    for signum in heard:
        hear_once(signum)
    try:
        yield
    finally:
        _ending.clear()
        _outside.remove(end)
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _own_signals(shared: bool) -> tuple[signal.Signals, ...]:
    return (signal.SIGINT,) if shared else (signal.SIGINT, signal.SIGTERM)


def stop_point() -> None:
    """Be a place between loops where a run may end, with several processes the same for all.

    In a loop it is none: what the loop does is finished and saved first.

    Raises:
        Terminated: a signal came to one of the processes.
    """
    if StopSignals.listening:
        return
    if jax.distributed.is_initialized():
        if _all_have_heard():
            raise Terminated
    elif _ending:
        raise Terminated(_ending[0])


def _all_have_heard() -> bool:
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(next(_places))


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
