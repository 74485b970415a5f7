"""`ctrl-jax fine-tune`: fine-tune a text-to-image model, or a run, towards rewards of any kind.

The stages are in `ctrl_jax.commands.fine_tuning`. Each run writes config.json, metrics.jsonl,
results.json, sheet.png, curves.png, checkpoints and what was trained to its folder.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax

from ctrl_jax.commands.fine_tuning import report
from ctrl_jax.commands.fine_tuning.config import Config
from ctrl_jax.commands.fine_tuning.inputs import load_inputs
from ctrl_jax.commands.fine_tuning.reward_spec import reward_digests
from ctrl_jax.commands.fine_tuning.training import Outcome, tune
from ctrl_jax.runtime import (
    command,
    digests_of,
    open_run,
    prepare,
    read_metrics,
    state_digest,
    write_results,
)
from ctrl_jax.runtime.checkpoints.digests import host_array

NAME = "fine-tune"
SOURCES = {
    "ppo": "arXiv 2409.08400",
    "value_gradient": "arXiv 2409.08400",
    "policy_gradient": "arXiv 2409.08400",
    "ddpo": "arXiv 2305.13301",
    "dpok": "arXiv 2305.16381",
    "grpo": "arXiv 2505.05470",
    "dpo": "arXiv 2305.18290",
    "mallows_theta": "arXiv 2405.14953",
    "mallows_phi": "arXiv 2405.14953",
}


def main(config: Config) -> Path:
    """Fine-tune the model and return the folder of the run."""
    began = time.monotonic()
    mesh = prepare(config.run)
    inputs = load_inputs(config, mesh)
    options, plain = config.run, dataclasses.asdict(config)
    where = {"out": options.out, "resume": options.resume, "seed": options.seed}
    run = open_run(NAME, plain, **where, inputs=digests(config))
    outcome = tune(config, inputs, run, mesh)
    metrics = metrics_of(outcome, inputs.rewards.weights)
    write_results(
        run,
        experiment=NAME,
        claim=f"{config.method.algorithm} towards {', '.join(config.reward)}",
        source=SOURCES[config.method.algorithm],
        metrics=metrics,
        expected={"traces": "== 1"},
        config=plain,
        digest=state_digest(outcome.params),
        seconds=time.monotonic() - began,
    )
    params = jax.tree.map(host_array, outcome.params)
    if jax.process_index() == 0:
        names = inputs.subject.save(run.folder, params)
        report.draw_before_and_after(
            run.folder / "sheet.png", inputs.given.all, outcome.before, outcome.after
        )
        report.draw_curves(run.folder / "curves.png", read_metrics(run.metrics))
        if "stopped" in metrics:
            print(f"stopped after update {metrics['updates']}: {metrics['stopped']}")
        report.print_results(f"fine-tuning ({config.method.algorithm})", metrics)
        print(f"{', '.join(names)}, sheet.png and curves.png: {run.folder}")
    run.seal()
    return run.folder


def digests(config: Config) -> dict[str, str]:
    """Return the digests of what a run is given: model, prompts and rewards."""
    paths = {name: getattr(config, name) for name in ("model", "prompts", "validation_prompts")}
    found = digests_of(paths) | reward_digests(config.reward)
    return found | reward_digests(config.held_out_reward, option="held_out_reward")


def metrics_of(outcome: Outcome, weights: dict[str, float]) -> dict[str, Any]:
    """Return the metrics of results.json."""
    found: dict[str, Any] = {}
    for when, part in (("before", outcome.before), ("after", outcome.after)):
        found |= {f"{name}/{when}": value for name, value in part.metrics(weights).items()}
    return found | outcome.facts


if __name__ == "__main__":
    command(Config, main)
