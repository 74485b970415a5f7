"""How fast a loop goes, and where its time goes, as the host sees it.

The host waits for the devices only where it fetches metrics anyway, so nothing here makes a run
slower: between two fetches it measures the whole, and what it does itself. An update is one program
as a rule, in which rollout and gradient are not told apart; where rewards come from outside there
are two, and the loop measures each.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from ctrl_jax.runtime.devices.chips import chip_of
from ctrl_jax.runtime.devices.operations import operations_of


class Speed:
    """Measures the updates between two fetches.

    Args:
        amounts: what an update works through, by its name in the plural.
        devices: how many devices work together.
    """

    def __init__(self, amounts: Mapping[str, int | float], devices: int):
        self._amounts, self._devices = dict(amounts), devices
        self._chip = chip_of(jax.devices()[0].device_kind)
        self._spent: dict[str, float] = defaultdict(float)
        self._operations = 0.0
        self._since = time.monotonic()
        self._first, self._begun = True, set()

    @contextlib.contextmanager
    def spent(self, what: str) -> Iterator[None]:
        """Add the time of a block to what was spent on something."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._spent[what] += time.monotonic() - began

    def begin(self, function: Any, *arguments: Any) -> None:
        """Look at a jitted function of a state and a batch that every update calls, before it does.

        It is traced where the peak of its devices is known; the call then finds that trace.
        """
        if id(function) in self._begun:
            return
        self._begun.add(id(function))
        if not self._amounts and (
            leaves := [x for x in jax.tree.leaves(arguments[1]) if np.ndim(x)]
        ):
            self._amounts = {"examples": np.shape(leaves[0])[0]}
        if self._chip is not None and hasattr(function, "trace"):
            self._operations += operations_of(function.trace(*arguments).jaxpr)

    def line(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return what is known as the metrics of some updates have come.

        Args:
            rows: the times of each update that it knows itself.
        """
        updates, whole = len(rows), time.monotonic() - self._since
        names = dict.fromkeys(name for row in rows for name in row)
        known = {n: float(np.mean([row[n] for row in rows if n in row])) for n in names}
        spent, self._spent = {f"seconds/{n}": s for n, s in self._spent.items()}, defaultdict(float)
        if self._first:
            self._first = False
            return {"updates": updates, "seconds/first": whole, **spent, **known}
        each = whole / updates
        spent["seconds/input"] = spent.get("seconds/input", 0.0) / updates
        rates = {f"{name}_per_second": amount / each for name, amount in self._amounts.items()}
        if self._chip is not None and self._operations:
            peak = self._chip.flops * self._devices
            rates["flops_utilization"] = self._operations / each / peak
        return {"updates": updates, "seconds/step": each, **spent, **rates, **known}

    def go_on(self) -> None:
        """Begin to measure the next updates."""
        self._since = time.monotonic()


def split_times(metrics: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metrics of an update, which are the same when it is repeated, and its times."""
    timed = {n for n in metrics if n.startswith("seconds/") or n.endswith("_per_second")}
    kept = {n: value for n, value in metrics.items() if n not in timed}
    return kept, {n: metrics[n] for n in metrics if n in timed}
