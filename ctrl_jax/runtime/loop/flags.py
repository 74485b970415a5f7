"""Flags in the metrics turned into errors on the host.

A compiled step cannot raise. It reports `states/finite`, `reward/finite` and how many updates in
a row it has skipped; here they become the end of the run, with the last good step named. Of a step
that reports nothing a loss that is no number counts as an update that was not finite.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ctrl_jax._errors import RunError
from ctrl_jax.runtime.checkpoints.checkpoints import Checkpoints


class Flags:
    """Watches the flags of one run.

    Args:
        max_skipped: updates in a row that were not finite after which the run stops.
        checkpoints: where the run can be continued from, for the message.
    """

    def __init__(self, max_skipped: int, checkpoints: Checkpoints | None):
        self._max_skipped = max_skipped
        self._checkpoints = checkpoints
        self._in_a_row = 0

    def check(self, k: int, metrics: Mapping[str, Any]) -> None:
        """Look at one update's metrics.

        Args:
            k: completed updates, this one included.
            metrics: its metrics on the host.

        Raises:
            RunError: states or a reward were not finite, or too many updates in a row.
        """
        if not bool(metrics.get("states/finite", True)):
            raise RunError(
                f"the sampler's states overflowed at update {k}{_of_batch(metrics)}, with the "
                f"weights of step {k - 1}; {self._where_good(k - 2)}; lower the learning rate or "
                f"raise the penalty and {self._continue(k - 2)}"
            )
        if not bool(metrics.get("reward/finite", True)):
            raise RunError(
                f"the reward returned NaN or inf at update {k}; {self._where_good(k - 1)}; return "
                "finite rewards (clip them, or replace NaN with a low value) and continue with "
                "--resume latest"
            )
        skipped = self._count(metrics)
        if skipped >= self._max_skipped:
            good = k - skipped
            raise RunError(
                f"{skipped} updates in a row up to update {k} {_fault(metrics)}; "
                f"{self._where_good(good)}; {self._repair(good, metrics)}"
            )

    def _count(self, metrics: Mapping[str, Any]) -> int:
        """Return the updates in a row that were not finite, as the step counts or as seen here."""
        loss = np.asarray(metrics.get("loss", 0.0), float)
        finite = metrics.get("update/finite", np.isfinite(loss).all())
        self._in_a_row = 0 if bool(finite) else self._in_a_row + 1
        return int(metrics.get("update/skipped_in_a_row", self._in_a_row))

    def _where_good(self, step: int) -> str:
        steps = self._steps()
        saved = f"the newest checkpoint is step {steps[-1]}" if steps else "nothing was saved"
        good = f"the last good step is {step}" if step >= 0 else "no step was good"
        return f"{good}, {saved}"

    def _repair(self, good: int, metrics: Mapping[str, Any]) -> str:
        if "reward/fault" in metrics:
            return "mend the reward and continue with --resume latest"
        return (
            "lower the learning rate or clip the gradient and continue with --resume latest; "
            f"should that end in the same way, the weights of step {max(good, 0)} are spoiled: "
            f"{self._continue(good - 1)}"
        )

    def _continue(self, good: int) -> str:
        """Return how to go on from a step that was good: later ones would end in the same way."""
        steps = self._steps()
        later = [step for step in steps if step > good]
        if len(later) == len(steps):
            return "start again"
        assert self._checkpoints is not None
        places = " and ".join(str(self._checkpoints.folder / str(step)) for step in later)
        first = f"remove {places} and " if later else ""
        return f"{first}continue with --resume latest"

    def _steps(self) -> list[int]:
        if self._checkpoints is None:
            return []
        self._checkpoints.wait()
        return self._checkpoints.steps()


def _fault(metrics: Mapping[str, Any]) -> str:
    skipped = " and were skipped" if "update/finite" in metrics else ""
    return ("had no rewards" if "reward/fault" in metrics else "were not finite") + skipped


def _of_batch(metrics: Mapping[str, Any]) -> str:
    """Return where in the batch and along the sampler states failed, as far as it is known."""
    failed, at = int(metrics.get("states/failed", 0)), int(metrics.get("states/failed_at", -1))
    if failed < 1:
        return ""
    examples = "one example" if failed == 1 else f"{failed} examples"
    where = "from the start" if at == 0 else f"first at the sampler's step {at}"
    return f" ({examples} of its batch, {where})"
