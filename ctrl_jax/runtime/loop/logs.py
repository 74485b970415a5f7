"""Metrics as JSON lines, one object per update.

The file is the record of a run: it is appended to, never rewritten while the run goes on. On
resume it is cut back, in one atomic step, to the updates that the checkpoint contains, so that
a resumed run leaves the same lines as one that was never stopped. What no two runs have in common,
how long things took, has lines of its own beside it, in `metrics.speed.jsonl`, cut back likewise.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from ctrl_jax._checks import check_path, refuse
from ctrl_jax._errors import RunError, RunWarning
from ctrl_jax._records import plain, write_atomic
from ctrl_jax._whole import naming
from ctrl_jax.runtime.loop.adapters import Adapter, Guarded


class MetricsLog:
    """A file of JSON lines, `{"step": 12, "reward/mean": 0.5, …}`, with `null` for NaN.

    Args:
        path: the file; its folder is created. Only process 0 writes it.
        start: completed updates of the restored state; later lines are removed.
        adapters: called with every line too, for example `tensorboard_adapter(folder)`; what they
            raise is said once and stops nothing.
        digest: of the lines up to `start`, as the checkpoint's record has it under "lines".

    Warns:
        RunWarning: the lines are others than those of the digest.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        start: int = 0,
        adapters: Sequence[Adapter] = (),
        digest: str | None = None,
    ):
        self.path = Path(path)
        self._adapters = tuple(
            adapter if isinstance(adapter, Guarded) else Guarded(adapter, "adapter")
            for adapter in adapters
        )
        self._file = self._speed = None
        if jax.process_index() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lines = hashlib.sha256(_truncate(self.path, start).encode())
            if digest is not None and digest != self.digest:
                text = f"{self.path}: lines were changed or lost on disk; what is left stays"
                warnings.warn(text, RunWarning, stacklevel=2)
            _truncate(self.speed_path, start)
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115
            self._speed = open(self.speed_path, "a", encoding="utf-8")  # noqa: SIM115

    @property
    def speed_path(self) -> Path:
        """The file of times beside that of metrics."""
        return self.path.with_suffix(f".speed{self.path.suffix}")

    @property
    def digest(self) -> str | None:
        """The sha256 of all lines so far, by which a run that goes on knows them; of process 0."""
        return None if jax.process_index() else self._lines.hexdigest()

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append one line.

        Args:
            step: completed updates.
            metrics: names to scalars.
        """
        if self._file is None:
            return
        line = json.dumps({"step": step, **plain(metrics)}, allow_nan=False) + "\n"
        self._lines.update(line.encode())
        with naming(self.path):
            self._file.write(line)
        for adapter in self._adapters:
            adapter(step, metrics)

    def write_speed(self, step: int, times: Mapping[str, Any]) -> None:
        """Append one line of times.

        Args:
            step: completed updates.
            times: of the updates since the line before, by names as in docs/metrics.md.
        """
        if self._speed is None:
            return
        line = json.dumps({"step": step, **plain(times)}, allow_nan=False) + "\n"
        with naming(self.speed_path):
            self._speed.write(line)
        for adapter in self._adapters:
            adapter(step, times)

    def flush(self) -> None:
        """Put all lines on disk; called before every checkpoint.

        Raises:
            RunError: the file is no longer where it was opened.
        """
        if self._file is None:
            return
        for file, path in ((self._file, self.path), (self._speed, self.speed_path)):
            assert file is not None
            with naming(path):
                file.flush()
                os.fsync(file.fileno())
        try:
            there = os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except FileNotFoundError:
            there = False
        if not there:
            raise RunError(
                f"{self.path} is no longer there: its folder was moved or removed while the run "
                "went on; put it back and continue with --resume latest"
            )

    def close(self) -> None:
        """Put all lines on disk and close the file."""
        file = self._file
        if file is None:
            return
        try:
            self.flush()
        finally:
            file.close()
            if self._speed is not None:
                self._speed.close()
            self._file = self._speed = None
            for adapter in self._adapters:
                adapter.flush()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a file of JSON lines; a last line that was cut off is left out.

    Args:
        path: the file; a missing one has no lines.

    Returns:
        One dict per line.
    """
    check_path("path", path)
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except IsADirectoryError:
        raise refuse("path", str(path), "it is a folder", "give the file in it") from None
    return [row for row in map(_parse, lines) if row is not None]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _truncate(path: Path, start: int) -> str:
    """Cut a file back to its lines up to `start`, and return them."""
    rows = read_metrics(path)
    kept = [row for row in rows if row["step"] <= start]
    if start == 0:
        kept = []
    lines = "".join(json.dumps(row) + "\n" for row in kept)
    if path.exists():
        write_atomic(path, lines)
    return lines
