"""Fine-tune a diffusion model from human-style preferences, its score as the action (2409.08400).

The whole run is in `main`; its stages are in this folder. Each run writes
config.json, metrics.jsonl, results.json, samples.png, curves.png and frontier.png to its folder.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ctrl_jax.algorithms import Batch, RunState
from ctrl_jax.metrics import frontier as frontiers
from ctrl_jax.models import DiffusionSpec, SteeringSpec
from ctrl_jax.runtime import (
    CountTraces,
    Run,
    check_batch,
    command,
    digests_of,
    own_part,
    read_metrics,
)
from ctrl_jax.runtime.run.figures import draw_histograms
from ctrl_jax.runtime.saved_models import save_model
from experiments import known_optima
from experiments.fine_tuning import BaseSamples, Evaluation, Task, make_evaluation
from experiments.score_as_action import (
    ANALYTIC,
    COMPARISON,
    OWN_REWARD,
    STUDY,
    comparison,
    digits,
    plots,
    report,
)
from experiments.score_as_action.algorithms import make_algorithm, penalty_of
from experiments.score_as_action.config import Config
from experiments.study import Conduct, Study


def main(config: Config) -> Path:
    """Run the experiment and return the folder of its results."""
    study = study_of(config).begin(
        config,
        partial(load, config),
        lambda: digests_of({"data": config.data}, reward=config.reward),
    )
    run, mesh = study.run, study.mesh
    task = make_task(config, study)
    evaluate = make_evaluation(task, config.grid_steps(), mesh, number=config.evaluation_samples)
    key = jax.random.key(config.run.seed + 1000)
    base = draw_base(config, task, evaluate, key)
    if config.compare:
        return comparison.compare(config, task, base, study)
    before = evaluate(key, task.policy.init(key))
    state, traces = fine_tune(config, task, study, before)
    after = evaluate(key, state.params)
    metrics = summarize(config, task, base, before, after)
    metrics |= {"reward_queries": config.updates() * config.optimization.batch, "traces": traces}
    metrics |= at_other_steps(config, task, mesh, key, state)
    study.write(metrics, state.params)
    save_model(
        run.folder / "model",
        spec_of(config),
        task.shape,
        state.params,
        {"experiment": STUDY.name, "solver_steps": config.grid_steps()},
        precision=config.run.arithmetic,
    )
    if jax.process_index() == 0:
        draw(config, task, run, base, before, after)
        report.print_results(config, metrics)
    return study.close()


def study_of(config: Config) -> Study:
    """Return what a run of these options claims."""
    if config.compare:
        return COMPARISON
    if config.environment != "digits":
        return ANALYTIC
    return STUDY if config.learns_reward else OWN_REWARD


def load(config: Config, mesh: Mesh) -> digits.Inputs | None:
    """Return the inputs of the digits, after the batches were found to fit the mesh."""
    check_batch(mesh, config.optimization.batch, "optimization.batch")
    check_batch(mesh, config.pretraining.batch, "pretraining.batch")
    return digits.load_inputs(config) if config.environment == "digits" else None


def make_task(config: Config, study: Conduct) -> Task:
    """Return the task that the options ask for."""
    if study.loaded is not None:
        return digits.make_task(config, study)
    spec = known_optima.make_spec(config.environment, config.penalty)
    return known_optima.make_task(spec, config.run.dtype)


def spec_of(config: Config) -> DiffusionSpec | SteeringSpec:
    """Return what the run's model is."""
    if config.environment == "digits":
        return config.model
    return known_optima.make_spec(config.environment, config.penalty)


def draw_base(config: Config, task: Task, evaluate, key) -> BaseSamples:
    """Return rewards and successes of many samples of the pretrained model."""
    params = task.policy.init(key)
    rounds = -(-config.frontier_samples // config.evaluation_samples)
    parts = [evaluate(jax.random.fold_in(key, i), params) for i in range(1, rounds + 1)]
    return BaseSamples(
        np.concatenate([part.rewards for part in parts]),
        np.concatenate([part.successes for part in parts]),
    )


def fine_tune(
    config: Config, task: Task, study: Conduct, before: Evaluation
) -> tuple[RunState, int]:
    """Run the main loop; return its last state and how often the step was traced."""
    algorithm = make_algorithm(config, task, config.algorithm, penalty_of(config, config.algorithm))
    batch, number = config.optimization.batch, min(1024, config.evaluation_samples)
    watch = make_evaluation(task, config.grid_steps(), study.mesh, number=number)
    watch_key = jax.random.key(config.run.seed + 2000)
    step = CountTraces(algorithm.step)
    state = study.train(
        step,
        algorithm.init(jax.random.key(config.run.seed)),
        lambda k: own_part(study.mesh, Batch(jnp.ones(batch))),
        config.updates(),
        first=_curve_row(before, 0),
        fetch_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        evaluate_every=config.evaluate_every,
        evaluate=lambda k, s: _curve_row(watch(watch_key, s.average), k * batch),
        description=f"fine-tuning ({config.algorithm})",
    )
    return state, step.traces


def summarize(
    config: Config, task: Task, base: BaseSamples, before: Evaluation, after: Evaluation
) -> dict[str, Any]:
    """Return the metrics of results.json."""
    ideal = base.frontier()
    kl_ideal = frontiers.kl_at_success(ideal, after.success)
    trusted = ideal.effective_samples >= 100
    assert ideal.success is not None
    success, reward = report.names(config)
    metrics = {
        f"{success}/before": before.success,
        f"{success}/after": after.success,
        f"{reward}/before": before.reward,
        f"{reward}/after": after.reward,
        "diversity/before": before.diversity,
        "diversity/after": after.diversity,
        "diversity/real": task.facts.get("diversity/real"),
        "kl/path": after.path_kl,
        "kl/ideal": kl_ideal,
        "kl/ratio": None if kl_ideal is None else after.path_kl / kl_ideal,
        "frontier/largest_success": float(np.max(ideal.success[trusted], initial=0.0)),
        "base_rate": float(base.successes.mean()),
        "penalty": penalty_of(config, config.algorithm),
        **task.facts,
    }
    if config.environment != "digits":
        environment = known_optima.make_spec(config.environment, config.penalty).environment()
        metrics["objective/penalty"] = environment.penalty
        metrics |= known_optima.compare_with_optimum(
            environment, after.samples, after.reward, after.path_kl
        )
        metrics["w2/two_samples"] = known_optima.sampling_noise(environment, len(after.samples))
    return metrics


def at_other_steps(config: Config, task: Task, mesh, key, state: RunState) -> dict[str, Any]:
    """Return success, reward and path KL of the trained policy under other numbers of steps."""
    metrics, (success, reward) = {}, report.names(config)
    for steps in config.evaluation_solver_steps:
        evaluate = make_evaluation(task, steps, mesh, number=config.evaluation_samples)
        for when, params in (("before", task.policy.init(key)), ("after", state.params)):
            found = evaluate(key, params)
            metrics[f"{success}/{when}/steps={steps}"] = found.success
            metrics[f"{reward}/{when}/steps={steps}"] = found.reward
            metrics[f"kl/path/{when}/steps={steps}"] = found.path_kl
    return metrics


def draw(
    config: Config, task: Task, run: Run, base: BaseSamples, before: Evaluation, after: Evaluation
) -> None:
    """Draw the pictures of the run."""
    rows = read_metrics(run.metrics)
    labels = report.titles(config)
    plots.draw_curves(run.folder / "curves.png", rows, labels, task.facts.get("diversity/real"))
    track = [
        (row["evaluation/kl"], row["evaluation/success"]) for row in rows if "evaluation/kl" in row
    ]
    plots.draw_frontier(
        run.folder / "frontier.png", base.frontier(), {config.algorithm: track}, success=labels[0]
    )
    pictures = run.folder / "samples.png"
    if config.environment == "digits":
        target = "--reward" if config.reward else f"class {config.target_class}"
        plots.draw_samples(pictures, before.samples[:64], after.samples[:64], target)
        return
    environment = known_optima.make_spec(config.environment, config.penalty).environment()
    ideal = environment.tilted_law().sample(jax.random.key(1), len(after.samples))
    laws = {
        "fine-tuned": after.samples[:, 0],
        "pretrained": before.samples[:, 0],
        "known optimum": np.asarray(ideal[:, 0]),
    }
    draw_histograms(pictures, laws)


def _curve_row(found: Evaluation, queries: int) -> dict[str, Any]:
    return {
        "reward_queries": queries,
        "evaluation/reward": found.reward,
        "evaluation/success": found.success,
        "evaluation/diversity": found.diversity,
        "evaluation/kl": found.path_kl,
    }


if __name__ == "__main__":
    command(Config, main)
