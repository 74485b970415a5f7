"""Reward-directed diffusion by q-learning, without a pretrained score (2409.04832).

q-learning knows data points only; DDPO and DPOK start from a score network that was trained on the
same points, and use as many reward queries and network evaluations after it. The ideal end law
p e^{w h / 2} / Z of every task is known. Each run writes config.json, metrics.jsonl (every seed),
results.json (with a verdict on every claim) and pictures to its folder; the stages are in
this folder.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._checks import check_choice, check_count, check_fields, check_numbers, refuse
from ctrl_jax.runtime import check_small_run, command, progress
from ctrl_jax.runtime.run.tables import print_table
from experiments.base_models import pretrain
from experiments.directed_tasks import Task, make_task
from experiments.options import COMMON, Common
from experiments.reward_directed import STUDY, claims, few_points, plots
from experiments.reward_directed.claims import Row
from experiments.reward_directed.methods import (
    METHODS,
    PRETRAINED,
    Trained,
    Training,
    network_evaluations,
    pretraining_evaluations,
    train,
)
from experiments.study import Conduct
from experiments.verdicts import Claim

TASKS = ("mixture_1d", "mixture_2d", "swiss_roll", "digits")


@dataclasses.dataclass(frozen=True)
class Config:
    """Direct diffusions by a reward: q-learning against DDPO and DPOK.

    Source: arXiv 2409.04832.
    Expected: every claim of results.json has a verdict; that one data point is enough has "no".

    Args:
        tasks: which of mixture_1d, mixture_2d, swiss_roll, digits; () for none.
        methods: which of q_ratio, q_network, q_pretrained, ddpo, dpok.
        solver_steps: steps of the samplers on mixture_1d, in training and after.
        other_steps: steps of the samplers on the other tasks.
        seeds: independent runs, trained together.
        points: data points of a task; the digits have their own.
        samples: samples drawn of each seed.
        few: points per estimate in the study of few points; () for none.
        training: budgets and settings of every method; --steps sets its updates.
        run: the common options.
    """

    tasks: tuple[str, ...] = TASKS
    methods: tuple[str, ...] = METHODS
    solver_steps: tuple[int, ...] = (5, 10, 50)
    other_steps: int = 10
    seeds: int = 3
    points: int = 512
    samples: int = 2048
    few: tuple[int, ...] = (1, 8, 64)
    training: Training = dataclasses.field(default_factory=Training)
    run: Common = COMMON

    def budget(self) -> Training:
        """Return the training with the updates asked for."""
        updates = self.run.steps or self.training.updates
        return dataclasses.replace(self.training, updates=updates)

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_fields(self, check_choice, "tasks", choices=TASKS)
        check_fields(self, check_choice, "methods", choices=METHODS)
        if not (self.tasks or self.few) or (self.tasks and not self.methods):
            raise refuse("tasks", self.tasks, "there is nothing to run", "give a task and a method")
        if self.tasks and not self.solver_steps:
            raise refuse("solver_steps", (), "at least one is needed", "give 10")
        for steps in (*self.solver_steps, self.other_steps):
            check_count("solver_steps, other_steps", steps, least=2)
            if min(5, steps) == 5 and steps % 5:
                rule = "steps above 5 must be a multiple of 5, for the minibatches of DDPO"
                raise refuse("solver_steps, other_steps", steps, rule, "give 5, 10 or 50")
        check_fields(self, check_count, "few")
        check_fields(self, check_count, "seeds", "points", least=2)
        check_count("samples", self.samples, least=60)
        check_numbers(self.training, "training")
        check_small_run(self.run)


def main(config: Config) -> Path:
    """Run the experiment and return the folder of its results."""
    run, options = STUDY.begin(config), config.run
    if jax.process_index() == 0:  # lines of a run that was stopped: all are written again
        run.run.metrics.unlink(missing_ok=True)
    rows: list[Row] = []
    found: list[Claim] = []
    curves: dict[str, dict[str, np.ndarray]] = {}
    params: dict[str, Any] = {}
    total = sum(len(settings_of(config, name)) for name in config.tasks) + 2 * len(config.few) + 1
    with progress(total, "runs", enabled=options.progress) as show:
        done = 0
        for name in config.tasks:
            task = make_task(name, config.points)
            shown: dict[str, Trained] = {}
            pretrained = None
            if set(config.methods) & set(PRETRAINED):
                budget = config.budget()
                pretrained = pretrain(
                    task,
                    budget.pretraining_steps,
                    batch=budget.pretraining_batch,
                    seed=options.seed,
                    study=run,
                )
            for method, sampler, steps in settings_of(config, name):
                trained = run_one(config, run, task, method, sampler, steps, pretrained)
                rows.append(measure(task, method, sampler, steps, trained))
                record(run.run.metrics, rows[-1])
                params[f"{name}/{method}/{sampler}/{steps}"] = trained.params
                if sampler == "sde" and steps == shown_steps(config, name):
                    shown[method] = trained
                done += 1
                show(done)
            curves[name] = {m: t.history["reward/mean"] for m, t in shown.items()}
            plots.draw_samples(run.folder / f"{name}.png", task, shown)
            found += claims_of(config, task, rows)
        laws = study_few_points(config, run, lambda k: show(done + k))
    found += claims.one_point(*laws) if laws else []
    if curves:
        plots.draw_curves(run.folder / "curves.png", curves, config.training.batch)
    if "mixture_1d" in config.tasks:
        plots.draw_steps(run.folder / "steps.png", rows, "mixture_1d")
    metrics = summarize(config, rows, laws)
    run.write(metrics, params, found)
    print_results(rows)
    return run.close(found)


def settings_of(config: Config, task: str) -> list[tuple[str, str, int]]:
    """Return method, sampler and steps of every run on a task.

    mixture_1d has all of them, with q_ratio at every number of steps and on the flow too (which has
    no transition densities, and so neither DDPO nor DPOK); the others have q_ratio, DDPO and DPOK.
    """
    middle = shown_steps(config, task)
    if task != "mixture_1d":
        return [(m, "sde", middle) for m in config.methods if m in ("q_ratio", "ddpo", "dpok")]
    runs = []
    for method in config.methods:
        every, samplers = (middle,), ("sde",)
        if method == "q_ratio":
            every, samplers = config.solver_steps, ("sde", "flow")
        runs += [(method, sampler, steps) for steps in every for sampler in samplers]
    return runs


def shown_steps(config: Config, task: str) -> int:
    """Return the steps at which all methods are compared."""
    if task != "mixture_1d":
        return config.other_steps
    return config.solver_steps[len(config.solver_steps) // 2]


def run_one(
    config: Config, run: Conduct, task: Task, method: str, sampler: str, steps: int, pretrained: Any
) -> Trained:
    """Train all seeds of one method."""
    return train(
        task,
        method,
        config.budget(),
        solver_steps=steps,
        flow=sampler == "flow",
        study=run,
        keys=jax.random.split(jax.random.key(config.run.seed), config.seeds),
        number=config.samples - config.samples % max(1, task.classes),
        pretrained=pretrained,
    )


def measure(task: Task, method: str, sampler: str, steps: int, trained: Trained) -> Row:
    """Return what is said of every seed's samples."""
    values: dict[str, list[float]] = {}
    for samples in trained.samples:
        found = {"reward": float(jnp.mean(task.reward_fn(jnp.asarray(samples))))}
        for name, value in (found | task.measure(samples, trained.labels)).items():
            values.setdefault(name, []).append(value)
    measured = {name: np.asarray(value) for name, value in values.items()}
    if sampler == "sde":
        measured["objective"] = objective(task, method, trained.history)
    return Row(task.name, method, sampler, steps, measured)


def record(path: Path, row: Row) -> None:
    """Append what was measured of one method to the run's log."""
    if jax.process_index() != 0:
        return
    line = {"task": row.task, "method": row.method, "sampler": row.sampler, "steps": row.steps}
    with path.open("a") as file:
        file.write(json.dumps(line | {k: v.tolist() for k, v in row.values.items()}) + "\n")


def objective(task: Task, method: str, history: dict[str, np.ndarray]) -> np.ndarray:
    """Return E h - (2 / w) KL of the last ten batches, for every seed."""
    last = {name: values[:, -10:].mean(axis=1) for name, values in history.items()}
    if method in ("ddpo", "dpok"):
        return last["reward/mean"] - 2 / task.weight * last["kl/path"]
    return last["objective"] / task.weight


def claims_of(config: Config, task: Task, rows: list[Row]) -> list[Claim]:
    """Return the claims that one task decides."""
    steps = shown_steps(config, task.name)
    untouched = task.measure(task.points, task.labels)["distance"]
    found = [claims.directed(rows, task.name, steps, untouched)]
    for method in ("q_ratio", "q_network", "q_pretrained"):
        found += claims.against_fine_tuning(rows, task.name, steps, method)
    if task.name == "mixture_1d":
        found += claims.few_steps(rows, task.name, config.solver_steps)
    if task.name == "digits":
        found += claims.images(rows, steps)
    return [claim for claim in found if claim is not None]


def study_few_points(config: Config, run: Conduct, show):
    """Return the end laws learned from m points and the limit of m = 1, and draw them."""
    if not config.few:
        return None
    keys = jax.random.split(jax.random.key(config.run.seed + 1), config.seeds)
    exact, limit = few_points.learn(None, False, run, keys), few_points.one_point_limit()
    show(1)
    laws: list[dict[str, few_points.Law]] = []
    for paired in (False, True):
        laws.append({})
        for m in config.few:
            laws[-1][str(m)] = few_points.learn(m, paired, run, keys)
            show(1 + len(laws[0]) + (len(laws[1]) if paired else 0))
    plots.draw_few_points(run.folder / "few_points.png", laws[0], laws[1], exact, limit)
    return {**laws[0], **{f"{m} paired": law for m, law in laws[1].items()}, "exact": exact}, limit


def summarize(config: Config, rows: list[Row], laws) -> dict[str, Any]:
    """Return the metrics of results.json."""
    metrics: dict[str, Any] = {}
    for row in rows:
        key = f"{row.task}/{row.method}/{row.sampler}/steps={row.steps}"
        for name in row.values:
            mean, error = row.mean_and_error(name)
            metrics[f"{name}/{key}"], metrics[f"{name}/{key}/stderr"] = mean, error
    training = config.budget()
    for method in config.methods:
        cost = network_evaluations(method, training, config.other_steps)
        metrics[f"network_evaluations/{method}/steps={config.other_steps}"] = cost
    metrics["network_evaluations/pretraining"] = pretraining_evaluations(training)
    metrics["reward_queries"] = training.updates * training.batch
    for name, law in (laws[0] if laws else {}).items():
        metrics[f"few_points/{name}/mean"] = float(law.mean.mean())
        metrics[f"few_points/{name}/variance"] = float(law.variance.mean())
    if laws:
        metrics["few_points/limit of 1/mean"] = float(laws[1].mean)
        metrics["few_points/limit of 1/variance"] = float(laws[1].variance)
    return metrics


def print_results(rows: list[Row]) -> None:
    """Print what was measured."""
    cells = [
        [
            row.task,
            row.method,
            row.sampler,
            str(row.steps),
            *("{:.3f} ± {:.3f}".format(*row.mean_and_error(n)) for n in ("distance", "reward")),
            "{:.3f}".format(row.mean_and_error("objective")[0]) if row.sampler == "sde" else "",
        ]
        for row in rows
    ]
    columns = ("task", "method", "sampler", "steps", "distance to ideal", "reward", "objective")
    print_table("mean over seeds ± standard error", columns, cells)


if __name__ == "__main__":
    command(Config, main)
