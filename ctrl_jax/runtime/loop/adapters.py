"""Metrics sent elsewhere too: to TensorBoard's files, to Weights & Biases.

Off by default, and never able to stop a run: the file of JSON lines is the record. What an adapter
raises is said once, and the run goes on.
"""

import atexit
import hashlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from ctrl_jax._checks import refuse
from ctrl_jax._errors import RunWarning
from ctrl_jax._records import plain

Adapter = Callable[[int, Mapping[str, Any]], None]
Name = Literal["tensorboard", "wandb"]

PACKAGES: dict[str, str] = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""What the names of `--log` need."""


class Guarded:
    """An adapter that a run does not hear of but once.

    Args:
        adapter: called with a step and its metrics; `flush()` and `close()` where it has them.
        name: for what is said.

    Attributes:
        last: the largest step so far.
    """

    def __init__(self, adapter: Any, name: str):
        self._adapter, self._name = adapter, name
        self._said = False
        self.last = 0

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        self.last = max(self.last, step)
        self._try(self._adapter, step, metrics)

    def flush(self) -> None:
        """Send what is waiting."""
        self._try(getattr(self._adapter, "flush", lambda: None))

    def close(self) -> None:
        """Send what is waiting, and end."""
        self._try(getattr(self._adapter, "close", lambda: None))

    def _try(self, function: Callable[..., Any], *args: Any) -> None:
        try:
            function(*args)
        except Exception as error:
            if not self._said:
                _say(self._name, error)
            self._said = True


def make_adapters(names: Sequence[str], folder: Path, config: Any) -> tuple[Guarded, ...]:
    """Return the adapters that `--log` names, of process 0; one that cannot start is said.

    Args:
        names: keys of `PACKAGES`.
        folder: of the run; TensorBoard's files go to its folder `tensorboard`.
        config: the configuration, for Weights & Biases.
    """
    if jax.process_index() != 0:
        return ()
    # The same run of the folder when it is resumed.
    place = hashlib.sha256(os.fspath(folder.absolute()).encode()).hexdigest()[:16]
    words = {"project": "ctrl_jax", "name": folder.name, "id": place, "resume": "allow"}
    make: dict[str, Callable[[], Adapter]] = {
        "tensorboard": lambda: tensorboard_adapter(folder / "tensorboard"),
        "wandb": lambda: wandb_adapter(**words, dir=os.fspath(folder), config=plain(config)),
    }
    found = []
    for name in dict.fromkeys(names):
        try:
            found.append(Guarded(make[name](), name))
        except Exception as error:
            _say(name, error)
        else:
            atexit.register(found[-1].close)
    return tuple(found)


def check_installed(names: Sequence[str]) -> None:
    """Raise ValueError unless the packages of `--log` are installed."""
    for name in names:
        package = PACKAGES[name]
        there = sys.modules.get(package) or (
            package not in sys.modules and importlib.util.find_spec(package)
        )
        if not there:
            repair = f"run pip install 'ctrl_jax[{name}]', or leave it out"
            raise refuse("log", name, f"{package} is not installed", repair)


def numbers_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are one number each; words, None and arrays are left out."""
    found = {}
    for name, value in metrics.items():
        array = np.asarray(value)
        if array.size == 1 and (array.dtype.kind in "biuf" or "float" in str(array.dtype)):
            found[name] = float(array.reshape(())[()])
    return found


class _TensorBoard:
    def __init__(self, writer: Any):
        self._writer = writer

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        for name, value in numbers_of(metrics).items():
            self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, run: Any):
        self._run = run

    def __call__(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._run.log(numbers_of(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


def tensorboard_adapter(folder: str | os.PathLike[str]) -> Adapter:
    """Return an adapter that writes TensorBoard event files.

    Args:
        folder: where the event files go.

    Raises:
        ValueError: tensorboardX is not installed.
    """
    check_installed(["tensorboard"])
    from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

    return _TensorBoard(SummaryWriter(os.fspath(folder)))


def wandb_adapter(**init: Any) -> Adapter:
    """Return an adapter that sends metrics to Weights & Biases.

    Args:
        init: arguments of `wandb.init`, for example `project` and `name`.

    Raises:
        ValueError: wandb is not installed.
    """
    check_installed(["wandb"])
    import wandb  # pyright: ignore[reportMissingImports]

    return _Wandb(wandb.init(**init))


def _say(name: str, error: Exception) -> None:
    text = f"--log {name}: it fails ({type(error).__name__}: {error}); the run goes on without it"
    warnings.warn(text, RunWarning, stacklevel=4)
