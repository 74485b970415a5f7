"""What both experiments leave: curves as JSON lines, distances by method and step, two pictures."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from ctrl_jax.runtime import MetricsLog
from experiments.continuous_control import plots
from experiments.continuous_control.methods import Curves, Training
from experiments.study import Conduct
from experiments.verdicts import mean_and_error

Runs = Mapping[float, Mapping[str, Curves]]
"""Trainings by step of time and by method."""
GOAL = 0.01
"""Share of the starting gap that counts as having reached the optimum."""


def distances(runs: Runs, training: Training) -> dict[str, Any]:
    """Return final suboptimalities, the steps at which each method misses GOAL, and the budget."""
    metrics: dict[str, Any] = {}
    updates = 0
    for dt, methods in runs.items():
        for name, curves in methods.items():
            mean, error = mean_and_error(curves.scores[:, -1])
            metrics[f"suboptimality/{name}/dt={dt:g}"] = mean
            metrics[f"suboptimality/{name}/dt={dt:g}/stderr"] = error
            missed = metrics.setdefault(f"missed_at/{name}", [])
            # Not a number is a miss too.
            missed.extend([] if mean <= GOAL else [dt])
            updates = curves.scores.shape[1]
    budget = training.batch * updates
    metrics["environment_time"] = budget * training.horizon
    metrics["transitions_used"] = budget * training.draws
    return metrics


def verdict(metrics: Mapping[str, Any]) -> str:
    """Return which methods miss GOAL at which steps, in words."""
    lines = []
    for key, missed in metrics.items():
        if key.startswith("missed_at/"):
            steps = ", ".join(f"{dt:g}" for dt in missed) or "no step"
            lines.append(f"{key.removeprefix('missed_at/')} misses {GOAL:.0%} at {steps}")
    return "; ".join(lines)


def leave(study: Conduct, config: Any, runs: Runs, metrics: Mapping[str, Any]) -> None:
    """Write metrics.jsonl, results.json, curves.png and steps.png, and print the verdicts.

    Args:
        study: whose folder they go to.
        config: its settings, a dataclass with a field `training`.
        runs: trainings.
        metrics: of results.json, those of `distances` among them.
    """
    training = config.training
    per_update = training.batch * training.horizon
    _write_curves(study, runs, per_update)
    params = {f"{dt:g}": {n: c.params for n, c in methods.items()} for dt, methods in runs.items()}
    study.write(metrics, params)
    if jax.process_index() == 0:
        _draw(study.folder, runs, metrics, per_update, training)
        print(verdict(metrics))


def _write_curves(study, runs, per_update):
    """One line per update, with the mean over seeds of every method at every step of time."""
    curves = {
        f"suboptimality/{name}/dt={dt:g}": curves.scores.mean(axis=0)
        for dt, methods in runs.items()
        for name, curves in methods.items()
    }
    with MetricsLog(study.run.metrics, adapters=study.adapters) as log:
        for i in range(max(map(len, curves.values()))):
            row = {name: float(values[i]) for name, values in curves.items()}
            log.write(i + 1, {"environment_time": per_update * (i + 1), **row})


def _draw(folder: Path, runs, metrics, per_update, training):
    scores = {dt: {n: c.scores for n, c in methods.items()} for dt, methods in runs.items()}
    per_time = training.draws / training.horizon
    plots.draw_curves(folder / "curves.png", scores, per_update, per_time)
    ends: dict[str, dict[float, tuple[float, float]]] = {}
    for dt, methods in runs.items():
        for name in methods:
            key = f"suboptimality/{name}/dt={dt:g}"
            ends.setdefault(name, {})[dt] = (metrics[key], metrics[f"{key}/stderr"])
    plots.draw_steps(folder / "steps.png", ends)
