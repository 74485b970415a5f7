"""Every algorithm against the ideal frontier, and the queries each needs.

Five penalties and several seeds of an algorithm run in one compiled program, vmapped: the penalty
and the key are its only differences. DDPO has no penalty, so its points are one run stopped early.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax.algorithms import Batch
from ctrl_jax.metrics import frontier as frontiers
from ctrl_jax.runtime import Run, progress, state_digest, write_results
from experiments.fine_tuning import plots, report
from experiments.fine_tuning.algorithms import make_algorithm, penalty_of
from experiments.fine_tuning.config import ALGORITHMS, Config
from experiments.fine_tuning.task import BaseSamples, Task, make_evaluation

FACTORS = (0.5, 0.8, 1.0, 2.0, 4.0)
"""Penalties compared, in units of the default one."""

GAIN = 0.8
"""Share of the achievable gain whose price in queries is reported."""


class Sweep(NamedTuple):
    """One algorithm's runs: (path KL, success) points, and objectives (seeds, updates)."""

    points: list[tuple[float, float]]
    objectives: np.ndarray
    params: Any


def compare(config: Config, task: Task, base: BaseSamples, run: Run, began: float) -> Path:
    """Run the comparison, write its pictures and results, and return the run's folder."""
    penalty = penalty_of(config, "ppo")
    optimum = frontiers.optimal_objective(base.rewards, penalty)
    start = float(base.rewards.mean())
    sweeps = {}
    with progress(len(ALGORITHMS), "comparing", enabled=config.run.progress) as show:
        for done, name in enumerate(ALGORITHMS, 1):
            sweeps[name] = _sweep(config, task, name, penalty)
            show(done, {"algorithm": done})
    metrics: dict[str, Any] = {"objective/optimal": optimum, "objective/base": start, **task.facts}
    rows = []
    for name, sweep in sweeps.items():
        queries = [
            queries_to_gain(curve, start, optimum, config.optimisation.batch)
            for curve in sweep.objectives
        ]
        found = _summarise(name, sweep, queries, base)
        metrics |= found
        rows.append([name, *(found[f"{name}/{part}"] for part in _PARTS)])
    title = f"{100 * GAIN:.0f} % of the achievable gain, {config.seeds} seed(s)"
    report.print_table(title, ("algorithm", *_PARTS), rows)
    tracks = {name: sweep.points for name, sweep in sweeps.items()}
    plots.draw_frontier(run.folder / "frontier.png", base.frontier(), tracks, joined=False)
    curves = {name: sweep.objectives for name, sweep in sweeps.items()}
    plots.draw_queries(run.folder / "queries.png", curves, config.optimisation.batch, optimum)
    write_results(
        run,
        experiment="score_as_action",
        claim="How close to the ideal frontier each algorithm comes, and at what price in queries.",
        source="arXiv 2409.08400; 2305.13301 (DDPO); 2305.16381 (DPOK)",
        metrics=metrics,
        expected={},
        config=dataclasses.asdict(config),
        digest=state_digest({name: sweep.params for name, sweep in sweeps.items()}),
        seconds=time.monotonic() - began,
    )
    return run.folder


_PARTS = ("queries", "queries/stderr", "seeds_reached", "kl_ratio", "success")


def queries_to_gain(
    objectives: np.ndarray, start: float, optimum: float, batch: int, *, window: int = 5
) -> float | None:
    """Return the queries after which the running mean of the objective keeps `GAIN` of the gain.

    Args:
        objectives: reward minus penalty times path KL of each update, (updates,).
        start: objective of the base model.
        optimum: best objective there is.
        batch: queries per update.
        window: updates averaged over.
    """
    window = min(window, len(objectives))
    smooth = np.convolve(objectives, np.ones(window) / window, mode="valid")
    reached = smooth >= start + GAIN * (optimum - start)
    if not len(reached) or not reached[-1]:
        return None
    misses = np.flatnonzero(~reached)
    first = 0 if not len(misses) else misses[-1] + 1
    return float(batch * (first + window))


def _sweep(config: Config, task: Task, name: str, penalty: float) -> Sweep:
    """Run an algorithm at every penalty and seed, vmapped in one program."""
    factors = np.ones(len(FACTORS)) if name == "ddpo" else np.asarray(FACTORS)
    penalties = penalty * np.concatenate([factors, np.ones(config.seeds - 1)])
    if name == "ddpo":
        penalties = penalty * np.ones(config.seeds)
    seeds = np.arange(len(penalties)) if name == "ddpo" else _seeds(config)
    keys = jax.vmap(jax.random.key)(config.run.seed + jnp.asarray(seeds))

    def algorithm(lam):
        return make_algorithm(config, task, name, 0.0 if name == "ddpo" else lam)

    batch = Batch(jnp.ones(config.optimisation.batch))
    lams = jnp.asarray(penalties, jnp.float32)
    state = jax.jit(jax.vmap(lambda key, lam: algorithm(lam).init(key)))(keys, lams)
    step = jax.jit(jax.vmap(lambda state, lam: algorithm(lam).step(state, batch)), donate_argnums=0)
    evaluate = make_evaluation(task, config.grid_steps(), number=config.evaluation_samples)
    key = jax.random.key(config.run.seed + 1000)
    steps = config.updates()
    stops = set(np.linspace(steps / 5, steps, 5).astype(int)) if name == "ddpo" else {steps}
    points, history = [], []
    with progress(steps, name, enabled=config.run.progress) as show:
        for k in range(1, steps + 1):
            state, metrics = step(state, lams)
            history.append((metrics["reward/mean"], metrics["kl/path"]))
            if k % 10 == 0:
                show(k, {"kl": float(metrics["kl/path"][0])})
            if k in stops:
                runs = 1 if name == "ddpo" else len(FACTORS)
                points += [_point(evaluate, key, state, i) for i in range(runs)]
    reward, kl = (np.stack(part) for part in zip(*jax.device_get(history), strict=True))
    objectives = (reward - penalty * kl).T
    same = np.flatnonzero(np.isclose(penalties, penalty))
    return Sweep(points, objectives[same], jax.device_get(state.average))


def _seeds(config: Config) -> np.ndarray:
    """The first seed at every penalty, the others at the default one."""
    return np.concatenate([np.zeros(len(FACTORS), int), np.arange(1, config.seeds)])


def _point(evaluate, key, state, i: int) -> tuple[float, float]:
    found = evaluate(key, jax.tree.map(lambda leaf: leaf[i], state.average))
    return found.path_kl, found.success


def _summarise(
    name: str, sweep: Sweep, queries: list[float | None], base: BaseSamples
) -> dict[str, Any]:
    reached = [q for q in queries if q is not None]
    path_kl, success = sweep.points[-1 if name == "ddpo" else FACTORS.index(1.0)]
    ideal = frontiers.kl_at_success(base.frontier(), success)
    several = len(reached) > 1
    metrics: dict[str, Any] = {
        f"{name}/queries": float(np.mean(reached)) if reached else None,
        f"{name}/queries/stderr": (
            float(np.std(reached, ddof=1) / np.sqrt(len(reached))) if several else None
        ),
        f"{name}/seeds_reached": f"{len(reached)}/{len(queries)}",
        f"{name}/kl_ratio": None if ideal is None else path_kl / ideal,
        f"{name}/success": success,
    }
    for i, (kl, success) in enumerate(sweep.points):
        metrics[f"{name}/point={i}/kl"], metrics[f"{name}/point={i}/success"] = kl, success
    return metrics
