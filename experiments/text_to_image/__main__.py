"""Build a small text-to-image model in stages, and fine-tune it by `ctrl-jax fine-tune`.

What a stage makes lies in the run's folder, and in runs/pretrained, where later runs find it by all
that it depends on. Then the model is judged by the detector, fine-tuned from its probability, its
verdicts (on the host, or behind an address) or CLIP score, and judged again, on captions seen in
pre-training and on those set apart.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from ctrl_jax.metrics import frontier as frontiers
from ctrl_jax.runtime import check_batch, command, read_metrics
from ctrl_jax.runtime.run.tables import print_table
from experiments.study import Conduct
from experiments.text_to_image import STUDY, plots
from experiments.text_to_image.comparison import compare
from experiments.text_to_image.config import Config
from experiments.text_to_image.evaluation import Drawn
from experiments.text_to_image.fine_tuning import LORA, metric_names, tune
from experiments.text_to_image.over_optimization import over_optimize
from experiments.text_to_image.stages import build
from experiments.text_to_image.things import Things, things
from experiments.text_to_image.world import World, open_world, track

CHOSEN = ("batch", "group", "window", "penalty", "guidance")
"""Options of the fine-tuning that stand beside its numbers."""


def main(config: Config) -> Path:
    """Run the study and return the folder of its results."""
    study = STUDY.begin(config, lambda mesh: load(config, mesh))
    world = open_world(config, study, build(config, study))
    if config.over_optimize:
        return over_optimize(config, world, study)
    return compare(config, world, study) if config.compare else fine_tune(config, world, study)


def load(config: Config, mesh: Mesh) -> Things:
    """Return what there is to draw; refuse a mesh that does not divide every batch."""
    for name, part in {
        "detector": config.detector,
        "towers.training": config.towers.training,
        "autoencoder.training": config.autoencoder.training,
        "generator.training": config.generator.training,
        config.asked: config.tuning,
    }.items():
        check_batch(mesh, part.batch, f"{name}.batch")
    return things(config.things)


def fine_tune(config: Config, world: World, study: Conduct) -> Path:
    """Fine-tune the model once, judge it and write the results."""
    options, out = config.fine_tuning, study.folder / "fine-tune"
    tuned = tune(options, world.given, out, study)
    after = world.draw(config, out / LORA)
    metrics = {**world.facts, **summarize(config, world, tuned, after)}
    names = metric_names(options)
    points = track(read_metrics(out / "metrics.jsonl"), options.batch, **names)
    plots.draw_samples(
        study.folder / "samples.png", world.found, world.before, after, things=config.things
    )
    tracks = {f"{options.algorithm} ({options.reward})": [(p["kl"], p["gold"]) for p in points]}
    plots.draw_frontier(study.folder / "frontier.png", world.ideal(options), tracks)
    study.write(metrics, str(tuned["digest"]))
    if jax.process_index() == 0:
        print_results(metrics)
    return study.close()


def summarize(
    config: Config, world: World, tuned: Mapping[str, Any], after: Drawn
) -> dict[str, Any]:
    """Return the metrics of a fine-tuning."""
    options = config.fine_tuning
    name = metric_names(options)["gold"]
    gold = tuned[f"{name}/after"]
    ideal = world.ideal(options)
    kl, kl_ideal = tuned["kl/path/after"], frontiers.kl_at_success(ideal, gold)
    assert ideal.success is not None
    return {
        **world.shares(world.before, "before"),
        **world.shares(after, "after"),
        "shown/before": tuned[f"{name}/before"],
        "shown/after": gold,
        "kl/path": kl,
        "kl/ideal": kl_ideal,
        "kl/ratio": None if kl_ideal is None else kl / kl_ideal,
        "frontier/largest_success": float(ideal.success.max()),
        "reward_queries": tuned["reward_queries"],
        "steps": options.solver_steps,
        **{name: getattr(options, name) for name in CHOSEN},
        "evaluated": config.evaluation_pictures,
    }


def print_results(metrics: Mapping[str, Any]) -> None:
    """Print how often pictures are right before and after, by category."""
    names = [name.removesuffix("/before") for name in metrics if name.endswith("/before")]
    names = [name for name in names if not name.endswith("/stderr")]
    rows = [[name, metrics[f"{name}/before"], metrics[f"{name}/after"]] for name in names]
    rows.append(["path KL (nats)", 0.0, metrics["kl/path"]])
    print_table("right by the detector", ("", "before", "after"), rows)
    print(f"reachable through the autoencoder: {metrics['reachable']:.3f}")


if __name__ == "__main__":
    command(Config, main)
