"""The value networks side by side on digits, over seeds.

    python -m experiments.score_as_action.value_networks      ten minutes on two CPU cores

Trains PPO with each of `NETWORKS`, the seeds in one program, and writes value_networks.json
beside this file, which the page of the study quotes.
"""

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._records import write_json_atomic
from ctrl_jax.algorithms import Batch
from ctrl_jax.runtime import progress, versions
from experiments.fine_tuning import make_evaluation
from experiments.options import COMMON
from experiments.score_as_action import STUDY
from experiments.score_as_action.__main__ import load
from experiments.score_as_action.algorithms import make_algorithm, penalty_of
from experiments.score_as_action.config import Config, ValueNetwork
from experiments.score_as_action.digits import make_task
from experiments.study import Conduct

FILE = Path(__file__).with_suffix(".json")
ALGORITHMS = ("ppo",)
NETWORKS: tuple[ValueNetwork, ...] = ("denoising", "anchored")
SEEDS, LAST = 3, 10


def main() -> None:
    """Measure all of them and write the file."""
    metrics: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        run = dataclasses.replace(COMMON, out=str(Path(folder) / "run"), steps=60, progress=False)
        config = Config(run=run, solver_steps=25)
        study = STUDY.begin(config, partial(load, config))
        for algorithm in ALGORITHMS:
            for network in NETWORKS:
                of = dataclasses.replace(config, algorithm=algorithm, value_network=network)
                rows = measure(of, study, range(SEEDS), show=True)
                found = {f"{algorithm}/{network}/{k}": v for k, v in summarize(rows).items()}
                print(json.dumps(found))
                metrics |= found
    metrics |= {"value_networks/seeds": SEEDS, "value_networks/updates": config.updates()}
    write_json_atomic(FILE, {"metrics": metrics, "versions": versions()})


def measure(
    config: Config, study: Conduct, seeds: Sequence[int], *, show: bool = False
) -> list[dict[str, float]]:
    """Return what the policy and the value of each seed come to.

    Args:
        config: of a run on digits.
        study: gives data and mesh.
        seeds: of the trainings; base model and reward are those of the study's seed.
        show: whether to show progress.
    """
    task = make_task(config, study)
    algorithm = make_algorithm(config, task, config.algorithm, penalty_of(config, config.algorithm))
    batch, updates = Batch(jnp.ones(config.optimization.batch)), config.updates()
    step = jax.jit(jax.vmap(lambda state: algorithm.step(state, batch)), donate_argnums=0)
    states = jax.jit(jax.vmap(algorithm.init))(jnp.stack([jax.random.key(s) for s in seeds]))
    explained = []
    title = f"{config.algorithm}, {config.value_network}"
    with progress(updates, title, enabled=show) as update:
        for k in range(updates):
            states, found = step(states)
            explained.append(np.asarray(found["value/explained_variance"]))
            update(k + 1)
    number = config.evaluation_samples
    evaluate = make_evaluation(task, config.grid_steps(), study.mesh, number=number)
    rows = []
    for place, seed in enumerate(seeds):
        params = jax.tree.map(lambda leaf, i=place: leaf[i], states.params)
        after = evaluate(jax.random.key(seed + 1000), params)
        rows.append(
            {
                "success": after.success,
                "reward": after.reward,
                "kl": after.path_kl,
                "explained/first": float(explained[0][place]),
                "explained/last": float(np.mean(explained[-LAST:], axis=0)[place]),
            }
        )
    return rows


def summarize(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return mean and standard error over seeds of what `measure` found."""
    found = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        found[name] = float(values.mean())
        found[f"{name}/error"] = float(values.std(ddof=1) / len(rows) ** 0.5)
    return found


if __name__ == "__main__":
    main()
