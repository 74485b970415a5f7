r"""A warning when a reward that is not trained on falls while the trained one rises.

Evaluations 0, 1, ... are of the same prompts and the same noise, so that two of them are compared
pair by pair. With d_u the difference of unit u (the mean over the pictures of a prompt, or one
picture where there are fewer than 8 prompts) and n units,

    t = mean(d) / (std(d) / sqrt(n)),   p the tail of Student's t with n - 1 degrees of freedom.

Evaluation e warns of an earlier one b if the held-out reward fell and the trained one rose,

    p(held-out) < alpha / (m e^2 (e + 1))   and   p(trained) < alpha,                         (1)

m the number of held-out rewards. Summed over all b < e and all e the levels are alpha: a run in
which no held-out reward ever falls warns with a probability of at most alpha = 0.05, however many
evaluations there are and whichever looked best, as far as means of n units are normal.
"""

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from ctrl_jax._errors import RunWarning
from ctrl_jax._records import plain, seal_of, write_atomic
from ctrl_jax.runtime import read_metrics

ALPHA = 0.05
FEW = 8
"""Prompts below which pictures are the units."""


class Fall(NamedTuple):
    """A held-out reward that fell.

    Fields:
        name: of the reward.
        since: updates that were complete when it was larger.
        before: its mean then.
        after: its mean now.
        units: what was compared, in words.
    """

    name: str
    since: int
    before: float
    after: float
    units: str


class Overoptimization:
    """What earlier evaluations of a run found, and the warning, which comes once.

    Args:
        path: a file of JSON lines, in which a run that goes on finds them.
        start: completed updates of the restored state; later lines are removed.
        prompts: number of the prompt of each picture, (number,).
    """

    def __init__(self, path: Path, start: int, prompts: np.ndarray):
        self._path, self._prompts, self._warned = path, np.asarray(prompts), False
        self._lines = [line for line in _read(path) if line["step"] <= start] if start else []

    def look(self, k: int, trained: np.ndarray, held_out: Mapping[str, np.ndarray]) -> Fall | None:
        """Compare an evaluation with all before, keep it, and warn the first time of a fall.

        Args:
            k: completed updates.
            trained: the sum of rewards that is trained on, of each picture.
            held_out: of each picture, by name.
        """
        line = {"step": k, "trained": trained, "held_out": dict(held_out)}
        before = [each for each in self._lines if each["step"] < k]
        fall = find_fall(before, line, self._prompts)
        self._lines = [*before, plain(line)]
        if jax.process_index() == 0:
            _write(self._path, self._lines)
        if fall is not None and not self._warned:
            self._warned = True
            warnings.warn(_told(k, fall), RunWarning, stacklevel=2)
        return fall


def _write(path: Path, lines: list[dict]) -> None:
    """Write lines, each with its seal; the last one says that it is the last: none is missing."""
    marked = [line | {"last": line is lines[-1]} for line in lines]
    sealed = [line | {"seal": seal_of(line)} for line in marked]
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in sealed))


def _read(path: Path) -> list[dict]:
    """Return the lines that are what was written; that others are not is said."""
    if not path.exists():
        return []
    number = len(path.read_bytes().split(b"\n")) - 1
    whole = [line for line in read_metrics(path) if line.get("seal") == seal_of(line)]
    if len(whole) < max(number, 1) or not whole[-1].get("last"):
        text = f"{path}: it was damaged on disk; {len(whole)} evaluations of it are used"
        warnings.warn(text, RunWarning, stacklevel=3)
    return [{key: line[key] for key in ("step", "trained", "held_out")} for line in whole]


def find_fall(
    before: list[dict], now: Mapping[str, object], prompts: np.ndarray, alpha: float = ALPHA
) -> Fall | None:
    """Return the held-out reward and the earlier evaluation of the surest fall, by (1).

    Args:
        before: evaluations, each with "step", "trained" and "held_out".
        now: the latest.
        prompts: number of the prompt of each picture.
        alpha: probability of a warning in a run without a fall.
    """
    held_out: Mapping = now["held_out"]  # pyright: ignore[reportAssignmentType]
    e, found = len(before), []
    for name, values in held_out.items():
        for each in before:
            if name not in each["held_out"]:
                continue
            then = np.asarray(each["held_out"][name], float)
            fell = _tail(_units(then - values, prompts))
            rose = _tail(_units(now["trained"] - np.asarray(each["trained"], float), prompts))
            if rose < alpha and fell < alpha / (len(held_out) * e**2 * (e + 1)):
                fall = Fall(name, each["step"], then.mean(), np.mean(values), _counted(prompts))
                found.append((fell, fall))
    return min(found, default=(0.0, None), key=lambda pair: pair[0])[1]


def _units(differences: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    ids = np.unique(prompts)
    if ids.size < FEW:
        return differences
    return np.asarray([differences[prompts == i].mean() for i in ids])


def _counted(prompts: np.ndarray) -> str:
    number = np.unique(prompts).size
    return f"{number} prompts" if number >= FEW else f"{len(prompts)} pictures"


def _tail(differences: np.ndarray) -> float:
    """Probability of a mean above zero as large as this by chance; 1 where it is not known."""
    n = differences.size
    if n < 2 or not np.isfinite(differences).all() or (mean := differences.mean()) <= 0:
        return 1.0
    spread = differences.std(ddof=1)
    if spread == 0:
        return 0.0
    from scipy.special import stdtr

    return float(stdtr(n - 1, -mean / (spread / math.sqrt(n))))


def _told(k: int, fall: Fall) -> str:
    return (
        f"held_out_reward {fall.name}: it fell from {fall.before:.4g} at update {fall.since} to "
        f"{fall.after:.4g} at update {k} while what is trained on rose, beyond chance over "
        f"{fall.units}: the model exploits the reward; raise --penalty, give a --kl-budget, or "
        f"take what there was at update {fall.since}"
    )
