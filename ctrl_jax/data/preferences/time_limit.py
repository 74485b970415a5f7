"""A limit of time for code that is not ours and may never end, such as a chat template."""

import contextlib
import ctypes
import threading
from collections.abc import Iterator


class TooLongError(Exception):
    """Something took longer than it was given."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TooLongError` within a block of Python that takes longer.

    Works in any thread, where signals do not; a single call of compiled code is not interrupted.

    Args:
        seconds: how long it may take.
    """
    thread, lock, ended = ctypes.c_ulong(threading.get_ident()), threading.Lock(), False

    def stop() -> None:
        with lock:
            if not ended:
                error = ctypes.py_object(TooLongError)
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, error)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with lock:
            ended = True
        timer.cancel()
