"""Preference optimization of a diffusion model by annotators who agree on some classes only.

A model of the digits given their label is fine-tuned towards ink. Annotators rank the images of a
class by Mallows' law: on a random half of the classes they nearly agree, on the other they divide.
DPO does not know of it; Mallows-DPO is told the dispersion of each class, true or estimated; PPO
has a reward learned from as many comparisons, or the gold reward itself. Each run writes
config.json, metrics.jsonl (every run), results.json (with a verdict on every claim) and pictures;
the stages are in this folder.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ctrl_jax.runtime import command, progress
from ctrl_jax.runtime.run.tables import print_table
from experiments.diffusion_preference import STUDY, claims, exact, plots
from experiments.diffusion_preference.claims import curves_of
from experiments.diffusion_preference.config import Config
from experiments.diffusion_preference.evaluation import GROUPS, MEASURES, Measured, aimed_at
from experiments.diffusion_preference.learning import Learned, learn_offline, learn_online, set_up
from experiments.diffusion_preference.world import CLASSES, World, draw_base
from experiments.study import Conduct
from experiments.verdicts import Claim, mean_and_error

LEARN = {"online": learn_online, "offline": learn_offline}


def main(config: Config) -> Path:
    """Run the experiment and return the folder of its results."""
    run = STUDY.begin(config)
    if jax.process_index() == 0:  # lines of a run that was stopped: all are written again
        run.run.metrics.unlink(missing_ok=True)
    metrics: dict[str, Any] = {}
    told: list[Claim] = []
    params: dict[str, Any] = {}
    if {*LEARN} & {*config.parts}:
        world, opinions, keys = set_up(config, run)
        metrics |= describe(config, world)
        for part in [p for p in LEARN if p in config.parts]:
            learned = LEARN[part](config, world, opinions, keys, run)
            told += report(part, world, opinions.agreed[0], learned, run.folder)
            metrics |= summarize(part, learned)
            params[part] = learned.params
    if "exact" in config.parts:
        found, params["exact"] = reach_optima(config, run)
        floor = exact.sampler_error(jax.random.key(config.run.seed + 8))
        told += claims.of_exact(found, floor)
        metrics |= summarize_optima(found, floor)
    run.write(metrics, params, told)
    return run.close(told)


def describe(config: Config, world: World) -> dict[str, Any]:
    """Return what is known before anything is fine-tuned."""
    images, rewards = draw_base(world, jax.random.key(config.run.seed + 2), 100)
    labels = np.repeat(np.arange(CLASSES), 100)
    facts: dict[str, Any] = {
        "base/label_accuracy": world.judge(images.reshape(-1, *world.shape), labels),
        "base/reward": float(rewards.mean()),
        "comparisons": config.budget().comparisons(),
    }
    for temperature in config.temperatures:
        reward, kl = aimed_at(world, temperature)
        facts[f"ideal/reward/T={temperature:g}"] = reward
        facts[f"ideal/kl/T={temperature:g}"] = kl
    return facts


def report(
    part: str, world: World, agreed: np.ndarray, learned: Learned, folder: Path
) -> list[Claim]:
    """Record, draw and print one way of learning; return the claims that it decides.

    Args:
        part: online or offline.
        world: the world.
        agreed: whether people agree on a class in the first seed, (classes,).
        learned: what it left.
        folder: of the run.
    """
    record(folder / "metrics.jsonl", part, learned.found)
    curves = curves_of(learned.found)
    plots.draw_frontier(folder / f"{part}.png", world, curves)
    plots.draw_samples(folder / f"{part}_samples.png", learned.samples, agreed)
    if learned.snapshots:
        plots.draw_progress(folder / f"{part}_progress.png", learned.snapshots)
    print_measures(part, learned.found)
    rewards = claims.of_rewards(curves) if part == "online" else []
    return [*claims.of_dispersion(curves, part), *rewards]


def reach_optima(
    config: Config, run: Conduct
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """Return what every setting of `exact` reached on its Gaussian, and its parameters."""
    keys = jax.random.split(jax.random.key(config.run.seed + 7), config.seeds)
    total = config.exact_updates * len(exact.SETTINGS)
    found: dict[str, dict[str, np.ndarray]] = {}
    params: dict[str, Any] = {}
    with progress(total, "the known optimum", enabled=config.run.progress) as show:
        for setting in exact.SETTINGS:
            done = config.exact_updates * len(found)
            found[setting], params[setting] = exact.reach_optimum(
                setting, config.exact_updates, keys, lambda k, _, done=done: show(done + k), run
            )
    return found, params


def summarize_optima(found: dict[str, dict[str, np.ndarray]], floor: float) -> dict[str, float]:
    """Return the metrics of the known optimum; `floor` is W2 of the optimal policy itself."""
    metrics = {"w2/tilted/exact/optimal policy": floor}
    for setting, row in found.items():
        for name, values in row.items():
            key = f"{name}/exact/{setting}"
            metrics[key], metrics[f"{key}/stderr"] = mean_and_error(values)
    return metrics


def record(path: Path, part: str, found: Sequence[Measured]) -> None:
    """Append the measures of every run to the log of the experiment."""
    if jax.process_index() != 0:
        return
    with path.open("a") as file:
        for row in found:
            file.write(json.dumps({"part": part, **row.name._asdict(), **row.values}) + "\n")


def summarize(part: str, learned: Learned) -> dict[str, Any]:
    """Return the metrics of results.json: means over seeds with their standard errors."""
    metrics = {f"{name}/{part}": value for name, value in learned.facts.items()}
    for (method, temperature), rows in by_seed(learned.found).items():
        for name in MEASURES:
            for group in GROUPS:
                key = f"{name}/{part}/{method}/T={temperature:g}/{group}"
                values = np.asarray([row.values[name][group] for row in rows])
                metrics[key], metrics[f"{key}/stderr"] = mean_and_error(values)
    return metrics


def by_seed(found: Sequence[Measured]) -> dict[tuple[str, float], list[Measured]]:
    """Return the runs of each method and temperature."""
    groups: dict[tuple[str, float], list[Measured]] = {}
    for row in found:
        groups.setdefault((row.name.method, row.name.temperature), []).append(row)
    return groups


def print_measures(part: str, found: Sequence[Measured]) -> None:
    """Print what was measured, where people agree and where they divide."""
    cells = []
    for (method, temperature), rows in by_seed(found).items():
        cells.append([method, f"{temperature:g}"])
        for group in GROUPS:
            for name in ("reward", "kl", "majority"):
                mean, error = mean_and_error(np.asarray([r.values[name][group] for r in rows]))
                cells[-1].append(f"{mean:.2f} ± {error:.2f}")
    columns = [f"{name}, {group}" for group in GROUPS for name in ("reward", "KL", "majority")]
    print_table(f"{part}: mean ± standard error over seeds", ("method", "T", *columns), cells)


if __name__ == "__main__":
    command(Config, main)
