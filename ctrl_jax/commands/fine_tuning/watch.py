"""The eye on a run: its evaluations, a warning of over-optimization, a stop at a budget."""

from collections.abc import Mapping
from typing import Any

from ctrl_jax.algorithms import RunState
from ctrl_jax.commands.fine_tuning.config import Config
from ctrl_jax.commands.fine_tuning.evaluation import Evaluate, Found
from ctrl_jax.commands.fine_tuning.inputs import Inputs
from ctrl_jax.commands.fine_tuning.overoptimization import Overoptimization
from ctrl_jax.runtime import MetricsLog, Run

EVALUATIONS = "evaluations.jsonl"
KL = "evaluation/kl/path"


class Watch:
    """What a run's evaluations find.

    Args:
        config: the options.
        inputs: of the run.
        run: its place on disk.
        evaluate: how parameters are evaluated.
        before: the evaluation of the pretrained model.
    """

    def __init__(self, config: Config, inputs: Inputs, run: Run, evaluate: Evaluate, before: Found):
        self.before, self.last = before, (0, before)
        self._weights, self._budget = inputs.rewards.weights, config.kl_budget
        self._evaluate, self._path = evaluate, run.folder / EVALUATIONS
        self._falls: Overoptimization | None = None

    def begin(self, start: int, log: MetricsLog) -> None:
        """Write the first line of a run, or go on with those that there are."""
        self._falls = Overoptimization(self._path, start, self.before.prompts)
        if start == 0:
            log.write(0, self._told(0, self.before))

    def evaluate(self, k: int, state: RunState) -> dict[str, float]:
        """Return the metrics of a state after k updates."""
        return self._told(k, self.of(k, state))

    def of(self, k: int, state: RunState) -> Found:
        """Return the evaluation of a state after k updates, the latest one again if it is that."""
        if self.last[0] != k or k == 0:
            self.last = k, self._evaluate(state.params)
        return self.last[1]

    def stop(self, k: int, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return why the run is to end, for the record of its last checkpoint; None to go on."""
        kl = metrics.get(KL)
        return None if kl is None or not self.exceeds(kl) else {"update": k, "kl": float(kl)}

    def exceeds(self, kl: float) -> bool:
        """Return whether a divergence is above the budget."""
        return self._budget is not None and kl > self._budget

    def _told(self, k: int, found: Found) -> dict[str, float]:
        assert self._falls is not None
        self._falls.look(k, found.total(self._weights), found.held_out)
        metrics = found.metrics(self._weights)
        return {f"evaluation/{name}": value for name, value in metrics.items()}
