"""Every algorithm against the ideal frontier, and the queries each needs.

Five penalties and several seeds of an algorithm run in one compiled program, vmapped: the penalty
and the key are its only differences. DDPO has no penalty, so its points are one run stopped early.
A run that never keeps its share of the gain counts with all the queries that it had, and the mean
over seeds is then a lower bound. The base model, the reward and its pairs are shared by all runs:
the spread over seeds is that of fine-tuning alone. Success and path KL are those of the first seed.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ctrl_jax.algorithms import Batch
from ctrl_jax.metrics import frontier as frontiers
from ctrl_jax.runtime import RunError, own_part, progress, refuse, replicate, shard_batch
from ctrl_jax.runtime.run.tables import print_table
from experiments import known_optima
from experiments.fine_tuning import BaseSamples, Task, make_evaluation
from experiments.score_as_action import plots, report
from experiments.score_as_action.algorithms import make_algorithm, penalty_of
from experiments.score_as_action.config import ALGORITHMS, Config
from experiments.study import Conduct

FACTORS = (0.5, 0.8, 1.0, 2.0, 4.0)
"""Penalties compared, in units of the default one."""

GAIN = 0.8
"""Share of the achievable gain whose price in queries is reported."""


class Sweep(NamedTuple):
    """One algorithm's runs.

    Fields:
        points: (path KL, success) of each penalty, or of each stop of DDPO.
        objectives: at the default penalty, (seeds, updates).
        skipped: updates left out because they were not finite, over all runs.
        diverged: whether the states of a run overflowed; its points are then not numbers.
        params: averaged parameters of every run.
    """

    points: list[tuple[float, float]]
    objectives: np.ndarray
    skipped: int
    diverged: bool
    params: Any


def compare(config: Config, task: Task, base: BaseSamples, study: Conduct) -> Path:
    """Run the comparison, write its pictures and results, and return the run's folder."""
    run, mesh, penalty = study.run, study.mesh, penalty_of(config, "ppo")
    optimum = best_objective(config, base, penalty)
    start = float(base.rewards.mean())
    sweeps = {}
    for done, name in enumerate(ALGORITHMS, 1):
        title = f"{name} ({done} of {len(ALGORITHMS)})"
        sweeps[name] = _sweep(config, task, name, penalty, mesh, title)
    metrics: dict[str, Any] = {"objective/optimal": optimum, "objective/base": start, **task.facts}
    rows, batch = [], config.optimization.batch
    for name, sweep in sweeps.items():
        queries = [
            queries_to_gain(np.nan_to_num(curve, nan=-np.inf), start, optimum, batch)
            for curve in sweep.objectives
        ]
        budget = float(config.updates() * batch)
        found = _summarize(name, sweep, queries, base, budget)
        metrics |= found
        at_least = ">= " if found[f"{name}/queries/is_lower_bound"] else ""
        cells = [found[f"{name}/{part}"] for part in _PARTS[1:]]
        rows.append([name, f"{at_least}{found[f'{name}/queries']:.0f}", *cells])
    study.write(metrics, {name: sweep.params for name, sweep in sweeps.items()})
    if jax.process_index() == 0:
        title = f"{100 * GAIN:.0f} % of the achievable gain, {config.seeds} seed(s)"
        print_table(title, ("algorithm", *_PARTS), rows)
        tracks = {name: sweep.points for name, sweep in sweeps.items()}
        success = report.titles(config)[0]
        plots.draw_frontier(
            run.folder / "frontier.png", base.frontier(), tracks, joined=False, success=success
        )
        curves = {name: sweep.objectives for name, sweep in sweeps.items()}
        plots.draw_queries(run.folder / "queries.png", curves, config.optimization.batch, optimum)
    return study.close()


_PARTS = ("queries", "queries/stderr", "seeds_reached", "kl_ratio", "success")


def best_objective(config: Config, base: BaseSamples, penalty: float) -> float:
    """Return the best penalized reward there is: exactly where it is known, else from base samples.

    Raises:
        ValueError: fewer than 100 base samples are effective at this penalty.
    """
    if config.environment != "digits":
        spec = known_optima.make_spec(config.environment, penalty)
        return known_optima.optimal_objective(spec.environment())
    effective = frontiers.ideal(base.rewards, np.asarray([penalty])).effective_samples[0]
    if effective < 100:
        rule = (
            f"the optimum rests on {effective:.0f} effective samples of the base model, 100 needed"
        )
        raise refuse("penalty", penalty, rule, "raise it, or --frontier-samples")
    return frontiers.optimal_objective(base.rewards, penalty)


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


def _sweep(config: Config, task: Task, name: str, penalty: float, mesh: Mesh, title: str) -> Sweep:
    """Run an algorithm at every penalty and seed, vmapped in one program."""
    penalties, seeds = _runs(config, name, penalty)
    # One by one: a key of a traced seed would take its low 32 bits.
    keys = jnp.stack([jax.random.key(config.run.seed + int(seed)) for seed in seeds])

    def algorithm(lam):
        return make_algorithm(config, task, name, 0.0 if name == "ddpo" else lam)

    batch = shard_batch(mesh, own_part(mesh, Batch(jnp.ones(config.optimization.batch))))
    lams = jnp.asarray(penalties, jnp.float32)
    state = jax.jit(jax.vmap(lambda key, lam: algorithm(lam).init(key)))(keys, lams)
    lams, state = replicate(mesh, (lams, state))
    step = jax.jit(
        jax.vmap(lambda state, lam, batch: algorithm(lam).step(state, batch), (0, 0, None)),
        donate_argnums=0,
    )
    evaluate = make_evaluation(task, config.grid_steps(), mesh, number=config.evaluation_samples)
    key = jax.random.key(config.run.seed + 1000)
    steps = config.updates()
    stops = set(np.linspace(steps / 5, steps, 5).astype(int)) if name == "ddpo" else {steps}
    points, history = [], []
    with progress(steps, title, enabled=config.run.progress) as show:
        for k in range(1, steps + 1):
            state, metrics = step(state, lams, batch)
            history.append({part: metrics[part] for part in _KEPT})
            if k % 10 == 0:
                show(k, {"kl": float(metrics["kl/path"][0])})
            if k in stops:
                runs = 1 if name == "ddpo" else len(FACTORS)
                points += [_point(evaluate, key, state, i) for i in range(runs)]
    found = jax.tree.map(lambda *parts: np.stack(parts), *jax.device_get(history))
    _check_reward(name, found)
    objectives = (found["reward/mean"] - penalty * found["kl/path"]).T
    same = np.flatnonzero(np.isclose(penalties, penalty))
    return Sweep(
        points,
        objectives[same],
        skipped=int(found["update/skipped"][-1].sum()),
        diverged=not found["states/finite"].all(),
        params=jax.device_get(state.params),
    )


_KEPT = ("reward/mean", "kl/path", "reward/finite", "states/finite", "update/skipped")


def _runs(config: Config, name: str, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Penalties and seeds of the runs: the first seed at every penalty, the others at one."""
    if name == "ddpo":
        return np.full(config.seeds, penalty), np.arange(config.seeds)
    factors = np.concatenate([FACTORS, np.ones(config.seeds - 1)])
    seeds = np.concatenate([np.zeros(len(FACTORS), int), np.arange(1, config.seeds)])
    return penalty * factors, seeds


def _check_reward(name: str, found: dict[str, np.ndarray]) -> None:
    bad = np.flatnonzero(~found["reward/finite"].all(axis=1))
    if len(bad):
        raise RunError(
            f"the reward returned NaN or inf at update {bad[0] + 1} of {name}; return finite "
            "rewards: clip them, or replace NaN with a low value"
        )


def _point(evaluate, key, state, i: int) -> tuple[float, float]:
    found = evaluate(key, jax.tree.map(lambda leaf: leaf[i], state.params))
    return found.path_kl, found.success


def _summarize(
    name: str, sweep: Sweep, queries: list[float | None], base: BaseSamples, budget: float
) -> dict[str, Any]:
    counted = np.asarray([budget if q is None else q for q in queries])
    reached = sum(q is not None for q in queries)
    path_kl, success = sweep.points[-1 if name == "ddpo" else FACTORS.index(1.0)]
    ideal = frontiers.kl_at_success(base.frontier(), success)
    metrics: dict[str, Any] = {
        f"{name}/queries": float(counted.mean()),
        f"{name}/queries/is_lower_bound": reached < len(queries),
        f"{name}/queries/stderr": (
            float(counted.std(ddof=1) / np.sqrt(len(counted)))
            if reached == len(counted) > 1
            else None
        ),
        f"{name}/seeds_reached": f"{reached}/{len(queries)}",
        f"{name}/kl_ratio": None if ideal is None else path_kl / ideal,
        f"{name}/success": success,
        f"{name}/skipped": sweep.skipped,
        f"{name}/diverged": sweep.diverged,
    }
    for i, (kl, success) in enumerate(sweep.points):
        ideal = frontiers.kl_at_success(base.frontier(), success)
        metrics[f"{name}/point={i}/kl"], metrics[f"{name}/point={i}/success"] = kl, success
        metrics[f"{name}/point={i}/kl_ideal"] = ideal
    return metrics
