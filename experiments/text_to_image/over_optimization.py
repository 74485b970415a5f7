"""What becomes of the gold measure while CLIP score is optimized, and what a penalty holds off."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ctrl_jax.runtime import read_metrics
from experiments.study import Conduct
from experiments.text_to_image import plots
from experiments.text_to_image.config import Config
from experiments.text_to_image.fine_tuning import metric_names, tune
from experiments.text_to_image.world import World, track
from experiments.verdicts import Claim, mean_and_error, verdict


def over_optimize(config: Config, world: World, study: Conduct) -> Path:
    """Fine-tune from CLIP score without a penalty and with one; write the results."""
    metrics: dict[str, Any] = {**world.facts, **world.shares(world.before, "before")}
    rows, shares, digests = {}, {}, []
    for label, penalty in (("free", 0.0), ("penalized", config.proxied.penalty)):
        options = dataclasses.replace(config.proxied, penalty=penalty)
        out = study.folder / label
        tuned = tune(options, world.given, out, study)
        digests.append(tuned["digest"])
        names = metric_names(options)
        rows[label] = track(read_metrics(out / "metrics.jsonl"), options.batch, **names)
        for name in ("gold", "proxy", "kl"):
            values = [row[name] for row in rows[label]]
            metrics[f"proxy/{label}/{name}/before"] = values[0]
            metrics[f"proxy/{label}/{name}/after"] = values[-1]
        metrics[f"proxy/{label}/gold/best"] = max(row["gold"] for row in rows[label])
        last = read_metrics(out / "evaluations.jsonl")[-1]["held_out"]["detector"]
        shares[label] = np.mean(np.reshape(last, (len(world.shown), -1)), axis=1)
    gaps = shares["penalized"] - shares["free"]
    metrics["proxy/penalty"] = config.proxied.penalty
    metrics["proxy/gap"], metrics["proxy/gap/stderr"] = mean_and_error(gaps)
    plots.draw_over_optimization(study.folder / "over_optimization.png", rows)
    claims = [claim(metrics, gaps)]
    study.write(metrics, study.fingerprint(digests), claims, expected={})
    return study.close(claims)


def claim(metrics: Mapping[str, Any], gaps: np.ndarray) -> Claim:
    """Return whether the gold measure suffers where the proxy is trained on without a penalty.

    Args:
        metrics: of both runs.
        gaps: of each prompt, how many more pictures are right in the end with the penalty.
    """
    name = "proxy/free/proxy"
    rose = metrics[f"{name}/after"] > metrics[f"{name}/before"]
    before, free, kept = (
        metrics[f"proxy/{run}/gold/{when}"]
        for run, when in (("free", "before"), ("free", "after"), ("penalized", "after"))
    )
    fell = free < before
    gap, error = mean_and_error(gaps)
    return Claim(
        "over_optimization",
        "trained on CLIP score alone, fewer pictures are right in the end than at first, and than "
        "with a penalty",
        verdict(gaps) if rose and fell else "no",
        f"right {before:.3f} at first, {free:.3f} without and {kept:.3f} with a penalty; between "
        f"these {gap:.3f} +- {error:.3f} over {len(gaps)} prompts",
    )
