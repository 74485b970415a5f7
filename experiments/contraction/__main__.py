"""Contractive diffusions (2401.13115): does a contracting sampler forgive a wrong score?

Each run writes config.json, measurements.csv (every number), results.json (claims and headlines)
and pictures to its folder. What is measured is in this folder.
"""

from pathlib import Path
from typing import Any

from ctrl_jax.runtime import command, digests_of
from experiments.contraction import STUDY, claims, data, learned, one_dimension, plots, report
from experiments.contraction.config import Config
from experiments.contraction.family import family
from experiments.contraction.measurement import KINDS, Measurement, find, write_csv
from experiments.study import Conduct
from experiments.verdicts import Claim


def main(config: Config) -> Path:
    """Run the experiments and return the folder of their results."""
    given = lambda: digests_of({"data": config.data})  # noqa: E731
    run = STUDY.begin(config, lambda mesh: load_tasks(config), given)
    tasks = run.loaded
    measurements: list[Measurement] = []
    statements: list[Claim] = []
    params: dict[str, Any] = {}
    score_errors: dict[str, float] = {}
    for name in config.experiment:
        if name == "one_dimension":
            found, told = run_one_dimension(config, run)
        else:
            learnt, told = run_learned(config, tasks[name], run)
            found, params[name] = learnt.measurements, learnt.params
            score_errors |= _errors(name, learnt)
        measurements += found
        statements += told
    write_csv(run.folder / "measurements.csv", measurements)
    run.write({**summarize(config, measurements), **score_errors}, params, statements)
    return run.close(statements)


def load_tasks(config: Config) -> dict[str, data.Task]:
    """Return the data of the learned experiments, checked before anything is computed."""
    tasks = {}
    if "swiss_roll" in config.experiment:
        tasks["swiss_roll"] = data.swiss_roll(config.samples)
    if "images" in config.experiment:
        tasks["images"] = data.images(config.data, config.samples)
    for task in tasks.values():  # a network that does not fit the images is refused here
        learned.score_model(config, family()["vp"], task)
    return tasks


def run_one_dimension(config: Config, run: Conduct) -> tuple[list[Measurement], list[Claim]]:
    """Measure, print and draw the experiments with exact scores."""
    found, points = one_dimension.measure(config, run), one_dimension.measure_point(config, run)
    finest = max(config.solver_steps)
    report.print_one_dimension(found, finest, config.error_size)
    plots.draw_errors(run.folder / "errors.png", found, finest)
    plots.draw_steps(run.folder / "steps.png", found)
    return found + points, [*claims.one_dimension(config, found), *claims.point(points)]


def run_learned(
    config: Config, task: data.Task, run: Conduct
) -> tuple[learned.Learned, list[Claim]]:
    """Measure, print and draw an experiment with trained scores."""
    found = learned.measure(config, task, run)
    report.print_learned(found, task, config.learned_solver_steps)
    plots.draw_distances(
        run.folder / f"{task.name}_distances.png", found, task, config.learned_solver_steps
    )
    draw = plots.draw_points if task.train.ndim == 2 else plots.draw_images
    draw(run.folder / f"{task.name}.png", found, task)
    return found, claims.learned(config, found, task.name)


def summarize(config: Config, measurements: list[Measurement]) -> dict[str, float]:
    """Return the headline distances: Euler at the largest number of steps."""
    metrics = {}
    for name, steps in (
        ("one_dimension", config.solver_steps),
        ("swiss_roll", config.learned_solver_steps),
        ("images", config.learned_solver_steps),
    ):
        for m in find(measurements, experiment=name, sampler="euler", steps=max(steps)):
            where = f"{name}/{m.process}/{m.error}/{m.start}"
            metrics |= {f"{where}/mean": m.mean, f"{where}/stderr": m.stderr}
    return metrics


def _errors(name: str, found: learned.Learned) -> dict[str, float]:
    return {
        f"{name}/{process}/score_error/{kind}": value
        for process, values in found.score_errors.items()
        for kind, value in zip(KINDS, values, strict=True)
    }


if __name__ == "__main__":
    command(Config, main)
