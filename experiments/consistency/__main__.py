"""Consistency models, distilled and trained from data, beside DDIM with as many evaluations.

The stages are in this folder. Each run writes config.json, a .jsonl per
training, results.json, quality.png and a picture of samples per data set to its folder.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctrl_jax.runtime import check_batch, command
from ctrl_jax.runtime.run.tables import print_table
from experiments.consistency import STUDY, plots
from experiments.consistency.config import Config
from experiments.consistency.evaluation import LIMIT, Outcome, evaluate_consistency, evaluate_ddim
from experiments.consistency.tasks import Task, make_task
from experiments.consistency.training import (
    consistency_model,
    make_network,
    pretrain,
    score_model,
    train_consistency,
)
from experiments.study import Conduct


def main(config: Config) -> Path:
    """Run the experiment and return the folder of its results."""
    run = STUDY.begin(config, lambda mesh: check_batch(mesh, config.batch, "batch"))
    results, params = [], {}
    for name in config.data:
        task = make_task(name, config.samples)
        params[name], outcomes = train_and_evaluate(config, task, run)
        results.append((task, outcomes))
    metrics = {key: value for task, found in results for key, value in summary(task, found)}
    run.write(metrics, params)
    plots.draw_quality(run.folder / "quality.png", results)
    for task, outcomes in results:
        plots.draw_samples(run.folder / f"samples-{task.name}.png", task, outcomes)
        print_outcomes(task, outcomes)
    return run.close()


def train_and_evaluate(
    config: Config, task: Task, study: Conduct
) -> tuple[dict[str, Any], dict[str, Outcome]]:
    """Train the three models of a data set and evaluate them."""
    network = make_network(config, task)
    teacher = pretrain(config, task, network, study)
    params = {"score": teacher}
    how = {"number": config.samples, "seed": config.run.seed}
    model = score_model(task, network)
    evaluations = tuple(sorted({*config.evaluations, LIMIT}))
    outcomes = {"ddim": evaluate_ddim(task, model, teacher, evaluations, **how)}
    for name, start in (("distillation", teacher), ("training", None)):
        params[name] = train_consistency(config, task, network, start, study)
        model = consistency_model(task, network)
        outcomes[name] = evaluate_consistency(task, model, params[name], config.evaluations, **how)
    return params, outcomes


def summary(task: Task, outcomes: Mapping[str, Outcome]):
    """Yield the metrics of a data set by name."""
    for measure, floor in task.floor.items():
        yield f"{task.name}/{measure}/true data", floor
        for name, outcome in outcomes.items():
            for steps, found in outcome.quality.items():
                yield f"{task.name}/{measure}/{name}/{steps}", found[measure]


def print_outcomes(task: Task, outcomes: Mapping[str, Outcome]) -> None:
    """Print every distance by model and number of evaluations."""
    steps = list(outcomes["ddim"].quality)
    for measure, floor in task.floor.items():
        rows = []
        for name, outcome in outcomes.items():
            found = [outcome.quality.get(n, {}).get(measure) for n in steps]
            cells = ["-" if value is None else f"{value:.4f}" for value in found]
            rows.append([plots.TITLES[name], *cells])
        rows.append(["true data", *[f"{floor:.4f}"] * len(steps)])
        title = f"{task.name}: {measure} by network evaluations"
        print_table(title, ["", *(str(n) for n in steps)], rows)


if __name__ == "__main__":
    command(Config, main)
