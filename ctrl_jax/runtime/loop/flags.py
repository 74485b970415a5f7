"""Flags in the metrics turned into errors on the host.

A compiled step cannot raise. It reports `states/finite`, `reward/finite` and how many updates in
a row it has skipped; here they become the end of the run, with the last good step named.
"""

from collections.abc import Mapping
from typing import Any

from ctrl_jax._errors import RunError
from ctrl_jax.runtime.checkpoints.checkpoints import Checkpoints


class Flags:
    """Watches the flags of one run.

    Args:
        max_skipped: skipped updates in a row after which the run stops.
        checkpoints: where the run can be continued from, for the message.
    """

    def __init__(self, max_skipped: int, checkpoints: Checkpoints | None):
        self._max_skipped = max_skipped
        self._checkpoints = checkpoints

    def check(self, k: int, metrics: Mapping[str, Any]) -> None:
        """Look at one update's metrics.

        Args:
            k: completed updates, this one included.
            metrics: its metrics on the host.

        Raises:
            RunError: states or a reward were not finite, or too many updates in a row were skipped.
        """
        if not bool(metrics.get("states/finite", True)):
            raise RunError(
                f"the sampler's states overflowed at update {k}; {self._where_good(k - 1)}; lower "
                "the learning rate or raise the penalty and continue with --resume latest"
            )
        if not bool(metrics.get("reward/finite", True)):
            raise RunError(
                f"the reward returned NaN or inf at update {k}; {self._where_good(k - 1)}; return "
                "finite rewards (clip them, or replace NaN with a low value) and continue with "
                "--resume latest"
            )
        skipped = int(metrics.get("update/skipped_in_a_row", 0))
        if skipped >= self._max_skipped:
            fault, repair = "were not finite", "lower the learning rate or clip the gradient"
            if "reward/fault" in metrics:
                fault, repair = "had no rewards", "mend the reward"
            raise RunError(
                f"{skipped} updates in a row up to update {k} {fault} and were skipped; "
                f"{self._where_good(k - skipped)}; {repair} and continue with --resume latest"
            )

    def _where_good(self, step: int) -> str:
        if self._checkpoints is not None:
            self._checkpoints.wait()
        steps = self._checkpoints.steps() if self._checkpoints is not None else []
        saved = f"the newest checkpoint is step {steps[-1]}" if steps else "nothing was saved"
        return f"the last good step is {max(step, 0)}, {saved}"
