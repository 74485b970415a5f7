"""`ctrl-jax prefer`: tune a language model of one's own on preference pairs, by any loss.

The stages are in `ctrl_jax.commands.preference`. Each run writes config.json, metrics.jsonl,
results.json, samples.jsonl, pictures, checkpoints and the trained model to its folder.
"""

import dataclasses
import time
from pathlib import Path

import jax

from ctrl_jax.commands.preference import report, training
from ctrl_jax.commands.preference.config import Config
from ctrl_jax.commands.preference.saved import MODEL, check_place, save_model
from ctrl_jax.runtime import command, open_run, prepare, read_metrics, state_digest, write_results

NAME = "prefer"
SOURCE = "arXiv 2405.14953 and the losses' own papers"


def main(config: Config) -> Path:
    """Train the model and return the folder of the run."""
    began = time.monotonic()
    mesh = prepare(config.run)
    check_place(config.run.out)
    inputs = training.load_inputs(config, mesh)
    options, plain = config.run, dataclasses.asdict(config)
    where = {"out": options.out, "resume": options.resume, "seed": options.seed}
    run = open_run(NAME, plain, **where, inputs=training.digests(config, inputs))
    outcome = training.tune(config, inputs, run)
    metrics = dict(training.metrics_of(outcome))
    write_results(
        run,
        experiment=NAME,
        claim=f"{config.objective.title} on {config.data}",
        source=SOURCE,
        metrics=metrics,
        expected={"traces": "== 1"},
        config=plain,
        digest=state_digest(outcome.params),
        seconds=time.monotonic() - began,
    )
    save_model(
        run.folder / MODEL,
        inputs.trained,
        outcome.params,
        precision=options.precision,
        merge=config.adapters.merge,
        chat_template=inputs.data.template,
    )
    if jax.process_index() == 0:
        report.draw_curves(run.folder / "curves.png", read_metrics(run.metrics))
        scale = metrics.get("dispersion/scale")
        report.draw_dispersion(run.folder / "dispersion.png", outcome.index, scale)
        report.write_samples(run.folder / "samples.jsonl", outcome.samples)
        report.print_samples(outcome.samples)
        report.print_results(metrics, config.objective.title)
        print(f"results: {run.folder}")
    run.seal()
    return run.folder


if __name__ == "__main__":
    command(Config, main)
