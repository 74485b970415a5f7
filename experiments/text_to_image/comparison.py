"""The algorithms at equal queries over seeds."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ctrl_jax.metrics import frontier as frontiers
from ctrl_jax.runtime import read_metrics
from ctrl_jax.runtime.run.tables import print_table
from experiments.study import Conduct
from experiments.text_to_image import plots
from experiments.text_to_image.config import COMPARED, Config
from experiments.text_to_image.fine_tuning import LORA, metric_names, tune
from experiments.text_to_image.world import World, track
from experiments.verdicts import Claim, mean_and_error, verdict

MEASURED = ("success/seen", "success/unseen", "kl", "shown")


def compare(config: Config, world: World, study: Conduct) -> Path:
    """Run every algorithm at every seed."""
    metrics: dict[str, Any] = {**world.facts, **world.shares(world.before, "before")}
    found = {name: _over_seeds(config, world, study, name) for name in COMPARED}
    for name, runs in found.items():
        for measured in MEASURED:
            mean, error = mean_and_error([run[measured] for run in runs])
            metrics[f"{name}/{measured}"], metrics[f"{name}/{measured}/stderr"] = mean, error
    metrics |= _frontier(config, world, found)
    options = config.compared
    metrics |= {"compared/queries": options.updates * options.batch, "compared/seeds": config.seeds}
    claims = _claims(metrics, found)
    tracks = {f"{name} (seed {i})": run["track"] for name, runs in found.items()
              for i, run in enumerate(runs)}  # fmt: skip
    ideal = world.ideal(config.compared)
    plots.draw_frontier(study.folder / "comparison.png", ideal, tracks)
    digests = {name: [run["digest"] for run in runs] for name, runs in found.items()}
    study.write(metrics, study.fingerprint(digests), claims)
    cells = [[name, *(metrics[f"{name}/{measured}"] for measured in MEASURED)] for name in found]
    if jax.process_index() == 0:
        print_table("at equal queries, means over seeds", ("algorithm", *MEASURED), cells)
    return study.close(claims)


def _over_seeds(config: Config, world: World, study: Conduct, name: str) -> list[dict[str, Any]]:
    options, runs = dataclasses.replace(config.compared, algorithm=name), []
    for i in range(config.seeds):
        out = study.folder / f"{name}-{i}"
        tuned = tune(options, world.given, out, study, seed=config.run.seed + i)
        shares = world.shares(world.draw(config, out / LORA), "after")
        names = metric_names(options)
        points = track(read_metrics(out / "metrics.jsonl"), options.batch, **names)
        run = {part: shares[f"{part}/after"] for part in MEASURED[:2]}
        run |= {"kl": tuned["kl/path/after"], "shown": tuned[f"{names['gold']}/after"]}
        runs.append(run | {"track": [(p["kl"], p["gold"]) for p in points],
                           "digest": tuned["digest"]})  # fmt: skip
    return runs


def _frontier(config: Config, world: World, found: dict[str, list]) -> dict[str, Any]:
    """Path KL over the ideal at the same success, where the frontier reaches it."""
    ideal, metrics = world.ideal(config.compared), {}
    for name, runs in found.items():
        least = [frontiers.kl_at_success(ideal, run["shown"]) for run in runs]
        ratios = [run["kl"] / kl for run, kl in zip(runs, least, strict=True) if kl]
        metrics[f"{name}/kl_ratio"] = float(np.mean(ratios)) if ratios else None
    return metrics


def _claims(metrics: dict[str, Any], found: dict[str, list]) -> list[Claim]:
    claims = []
    for part, statement in (("seen", "captions seen"), ("unseen", "captions never seen")):
        name = f"success/{part}"
        for algorithm, runs in found.items():
            gains = [run[name] - metrics[f"{name}/before"] for run in runs]
            mean, error = mean_and_error(gains)
            said = f"{algorithm} raises the share of right pictures on {statement}"
            numbers = f"by {mean:.3f} +- {error:.3f} over {len(runs)} seeds"
            claims.append(Claim(f"{algorithm}/{part}", said, verdict(gains), numbers))
    return claims
