"""How near the penalized algorithms come to the known optima at their defaults, over seeds.

    python -m experiments.score_as_action.over_seeds      half an hour on two CPU cores

Trains every algorithm on both environments, the seeds in one program, and writes over_seeds.json
beside this file, which the page of the study quotes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._records import write_json_atomic
from ctrl_jax.algorithms import Batch
from ctrl_jax.runtime import make_mesh, progress, versions
from experiments import known_optima
from experiments.fine_tuning import make_evaluation
from experiments.score_as_action.algorithms import make_algorithm, penalty_of
from experiments.score_as_action.config import Config

FILE = Path(__file__).with_suffix(".json")
ENVIRONMENTS = ("gaussian", "mixture")
ALGORITHMS = ("ppo", "value_gradient", "policy_gradient", "dpok")
SEEDS, SAMPLES = 5, 4096


def main() -> None:
    """Measure all of them and write the file."""
    metrics = {}
    for environment in ENVIRONMENTS:
        for name in ALGORITHMS:
            config = Config(environment=environment, algorithm=name)
            rows = measure(config, range(SEEDS), show=True)
            metrics |= {f"{environment}/{name}/{key}": v for key, v in summarize(rows).items()}
            print(environment, name, json.dumps(summarize(rows)))
        law = known_optima.make_spec(environment, None).environment()
        metrics[f"{environment}/two_samples"] = known_optima.sampling_noise(law, SAMPLES)
    content = {"metrics": metrics, "seeds": SEEDS, "samples": SAMPLES, "versions": versions()}
    write_json_atomic(FILE, content)


def measure(
    config: Config, seeds: Sequence[int], *, number: int = SAMPLES, show: bool = False
) -> list[dict[str, float]]:
    """Return how far from the optimum the policy of each seed ends.

    Args:
        config: of a run whose environment has a known optimum.
        seeds: of the trainings.
        number: samples of an evaluation.
        show: whether to show progress.
    """
    spec = known_optima.make_spec(config.environment, config.penalty)
    task = known_optima.make_task(spec)
    penalty = penalty_of(config, config.algorithm)
    algorithm = make_algorithm(config, task, config.algorithm, penalty)
    batch = Batch(jnp.ones(config.optimization.batch))
    step = jax.jit(jax.vmap(lambda state: algorithm.step(state, batch)[0]), donate_argnums=0)
    states = jax.jit(jax.vmap(algorithm.init))(jnp.stack([jax.random.key(s) for s in seeds]))
    updates = config.updates()
    with progress(updates, f"{config.environment} {config.algorithm}", enabled=show) as update:
        for k in range(updates):
            states = step(states)
            update(k + 1)
    evaluate = make_evaluation(task, config.grid_steps(), make_mesh(), number=number)
    rows = []
    for place, seed in enumerate(seeds):
        params = jax.tree.map(lambda leaf, i=place: leaf[i], states.params)
        found = evaluate(jax.random.key(seed + 1000), params)
        optimum = known_optima.compare_with_optimum(
            spec.environment(), found.samples, found.reward, found.path_kl
        )
        rows.append(optimum)
    return rows


def summarize(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Return the range of the distances, and how much of the best objective is missed in the mean.

    Args:
        rows: by `measure`, of the seeds.
    """
    distances = [row["w2/tilted"] for row in rows]
    missed = [row["objective"] / row["objective/optimal"] - 1 for row in rows]
    return {
        "seeds": len(rows),
        "w2/least": min(distances),
        "w2/most": max(distances),
        "objective/missed": float(np.mean(missed)),
    }


if __name__ == "__main__":
    main()
