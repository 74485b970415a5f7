"""What Orbax prints of an error that it also raises: hundreds of lines before the one that counts.

A failed write ends in one error of ours, with its reason and what to do. The traces of the threads
and tasks that met it first are shown by `CTRL_JAX_TRACEBACK=1` alone.
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any


def tell_once() -> None:
    """Let the traces that Orbax and its tasks log of their errors pass unseen from now on."""
    if os.environ.get("CTRL_JAX_TRACEBACK") == "1":
        return
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(_is_news)
    if sys.unraisablehook.__module__ != __name__:
        sys.unraisablehook = _passing_closed_loops(sys.unraisablehook)


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether a line of a log is anything else than an error of Orbax's."""
    frames = traceback.extract_tb(record.exc_info[2]) if record.exc_info else []
    places = [record.pathname, *(frame.filename for frame in frames)]
    return record.levelno < logging.ERROR or not any("orbax" in place for place in places)


def _passing_closed_loops(before: Callable[[Any], Any]) -> Callable[[Any], None]:
    """Return a hook that hears no answer of the disk that comes after Orbax has given up."""

    def hook(unraisable: Any) -> None:
        if unraisable.object is None and str(unraisable.exc_value) == "Event loop is closed":
            return
        before(unraisable)

    return hook
