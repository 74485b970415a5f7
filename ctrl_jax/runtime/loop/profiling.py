"""A trace of a few updates, by JAX's profiler; it never stops a run."""

import warnings
from pathlib import Path
from typing import Any

import jax

from ctrl_jax._errors import RunWarning

WARM, TRACED = 2, 5
"""Updates before the trace, in which programs are compiled, and updates in it."""


class Profile:
    """The trace of the updates after the first two, for TensorBoard or Perfetto.

    Args:
        folder: where it goes; None for no trace.
        start: completed updates before the loop.
        steps: completed updates after it.
    """

    def __init__(self, folder: Path | None, start: int, steps: int):
        self._folder = folder if jax.process_index() == 0 else None
        self._first = min(start + WARM, steps - 1)
        self._last = min(self._first + TRACED, steps)
        self._running = False

    def before(self, k: int) -> None:
        """Begin where it is time; `k` updates are complete."""
        if self._folder is not None and k == self._first:
            self._try(jax.profiler.start_trace, str(self._folder))
            self._running = self._folder is not None

    def after(self, k: int, metrics: Any) -> None:
        """End where it is time, once the devices are done with what was asked of them."""
        if self._running and k == self._last:
            jax.block_until_ready(metrics)
            self.close()

    def close(self) -> None:
        """End a trace that is under way."""
        if self._running:
            self._running = False
            self._try(jax.profiler.stop_trace)

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _try(self, function: Any, *args: Any) -> None:
        try:
            function(*args)
        except Exception as error:
            self._folder = None
            text = f"--profile: there is no trace ({type(error).__name__}: {error})"
            warnings.warn(text, RunWarning, stacklevel=4)
