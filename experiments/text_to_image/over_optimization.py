"""What becomes of the gold measure while CLIP score is optimized, and what a penalty holds off."""

import dataclasses
from pathlib import Path
from typing import Any

from ctrl_jax.runtime import read_metrics
from experiments.study import Conduct
from experiments.text_to_image import plots
from experiments.text_to_image.config import Config
from experiments.text_to_image.fine_tuning import metric_names, tune
from experiments.text_to_image.world import World, track
from experiments.verdicts import Claim

LEAST_LOSS = 0.05
"""Of the share of right pictures; less of a fall is none."""


def over_optimize(config: Config, world: World, study: Conduct) -> Path:
    """Fine-tune from CLIP score without a penalty and with one; write the results."""
    metrics: dict[str, Any] = {**world.facts, **world.shares(world.before, "before")}
    rows, digests = {}, []
    for label, penalty in (("free", 0.0), ("penalized", config.proxied.penalty)):
        options = dataclasses.replace(config.proxied, penalty=penalty)
        out = study.folder / label
        tuned = tune(options, world.given, out, seed=config.run.seed, progress=config.run.progress)
        digests.append(tuned["digest"])
        names = metric_names(options)
        rows[label] = track(read_metrics(out / "metrics.jsonl"), options.batch, **names)
        for name in ("gold", "proxy", "kl"):
            values = [row[name] for row in rows[label]]
            metrics[f"proxy/{label}/{name}/before"] = values[0]
            metrics[f"proxy/{label}/{name}/after"] = values[-1]
        metrics[f"proxy/{label}/gold/best"] = max(row["gold"] for row in rows[label])
    metrics["proxy/penalty"] = config.proxied.penalty
    plots.draw_over_optimization(study.folder / "over_optimization.png", rows)
    claims = [claim(metrics)]
    study.write(metrics, study.fingerprint(digests), claims, expected={})
    return study.close(claims)


def claim(metrics: dict[str, Any]) -> Claim:
    """Return whether the gold measure falls while the proxy rises, and less with a penalty."""
    lost, kept = (
        metrics[f"proxy/{label}/gold/best"] - metrics[f"proxy/{label}/gold/after"]
        for label in ("free", "penalized")
    )
    rose = metrics["proxy/free/proxy/after"] > metrics["proxy/free/proxy/before"]
    return Claim(
        "over_optimization",
        "trained on CLIP score alone, fewer pictures are right in the end; less so with a penalty",
        "yes" if rose and lost > max(kept, LEAST_LOSS) else "no",
        f"it ends {lost:.3f} below its best without a penalty, {kept:.3f} with",
    )
