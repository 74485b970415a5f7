"""Policy optimization in continuous time on linear-quadratic control, as the step goes to zero.

The optimum of the problem is known, so every policy on the way has an exact distance from it. Each
method is trained at several steps of time with one budget of environment time, all seeds of a
method in one program; and the estimators of the advantage rate are measured at the exact value.
Each run writes config.json, metrics.jsonl, results.json, curves.png, steps.png and estimators.png
to its folder.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import ContinuousControl, OccupationConfig
from ctrl_jax.algorithms.control.actor_critic import sample_occupation
from ctrl_jax.environments import LinearGaussian, LinearQuadratic, simulate_control
from ctrl_jax.losses import gaussian
from ctrl_jax.networks.policies import linear_policy, quadratic_value
from ctrl_jax.runtime import command
from ctrl_jax.runtime.run.tables import print_table
from experiments.continuous_control import plots
from experiments.continuous_control.methods import (
    METHODS,
    VARIANTS,
    Comparison,
    Task,
    Training,
    train_methods,
)
from experiments.continuous_control.results import distances, leave
from experiments.linear_quadratic import STUDY

TRAINING = Training(horizon=4.2)  # a whole number of each step of time
START = (0.4, 0.7)
FIRST = LinearGaussian(-0.3, 0.2, 0.8)
ESTIMATORS = ("difference", "pathwise", "generalized")


@dataclasses.dataclass(frozen=True)
class Config(Comparison):
    """Compare continuous-time and discrete-time policy optimization on an exact problem.

    Source: arXiv 2305.18901.
    Expected: CPG and CPPO within 1 % of the starting gap at every step up to .01.

    Args:
        time_steps: steps h of the simulation, in units of time.
        seeds: independent runs, trained together.
        methods: methods to train; *_difference are those that do not know the simulator's noise.
        training: budget and settings of every method.
        run: the common options.
    """

    time_steps: tuple[float, ...] = (0.1, 0.03, 0.01, 0.003, 0.001)
    methods: tuple[str, ...] = METHODS + VARIANTS
    training: Training = TRAINING
    usual_updates = 80


def main(config: Config) -> Path:
    """Run the experiment and return the folder of its results."""
    run, environment = STUDY.begin(config, side_by_side=config.seeds), make_environment()
    evaluate = partial(evaluate_policy, environment)
    task = Task(environment, first_policy(), quadratic_value(1), start_states, evaluate)
    runs = train_methods(config, task, run)
    measured = [measure_estimators(config, environment, dt) for dt in config.time_steps]
    variances = {name: [errors[name] for errors in measured] for name in ESTIMATORS}
    metrics = summarize(config, runs, variances)
    leave(run, config, runs, metrics)
    if jax.process_index() == 0:
        plots.draw_variances(run.folder / "estimators.png", config.time_steps, variances)
        print_tables(config, metrics)
    return run.close()


def make_environment() -> LinearQuadratic:
    """Return the problem: control in drift and noise, no symmetry that would hide a mistake."""
    return LinearQuadratic(-1.0, 0.6, 0.3, 0.5, 2.0, 2.0, 1.0, 1.0, 2.0, 1.0, 0.1)


def first_policy() -> Model:
    """Return the table of the policy, at FIRST in the beginning."""
    return linear_policy([[FIRST.slope]], [FIRST.intercept], [FIRST.std])


def suboptimality(environment: LinearQuadratic, policy: LinearGaussian) -> jax.Array:
    """Return the distance from the optimum over that of the first policy; inf where unstable."""
    best = environment.mean_value(environment.optimal_linear_policy(), START)
    gap = best - environment.mean_value(policy, START)
    first = best - environment.mean_value(FIRST, START)
    return jnp.where(environment.stable(policy), gap / first, jnp.inf)


def evaluate_policy(environment: LinearQuadratic, params) -> jax.Array:
    """Return the `suboptimality` of a table of the policy."""
    slope, intercept, std = params.slope[0, 0], params.intercept[0], jnp.exp(params.log_std[0])
    return suboptimality(environment, LinearGaussian(slope, intercept, std))


def start_states(key: jax.Array, size: int) -> jax.Array:
    """Draw start states of the moments START."""
    spread = (START[1] - START[0] ** 2) ** 0.5
    return START[0] + spread * jax.random.normal(key, (size, 1), float)


def measure_estimators(config: Config, environment: LinearQuadratic, dt: float) -> dict[str, float]:
    """Return the mean squared error of each estimator of A at the first policy and its value."""
    problem = ContinuousControl(environment, dt, config.training.horizon)
    policy = first_policy()
    params = policy.init(jax.random.key(0))
    value_fn = partial(environment.policy_value, FIRST)

    @jax.jit
    def measure(key):
        start_key, path_key, time_key = jax.random.split(key, 3)
        policy_fn = partial(policy.apply, params, jnp.zeros(()))
        x_0 = start_states(start_key, 256)
        path = simulate_control(path_key, environment, policy_fn, x_0, dt=dt, steps=problem.steps)
        errors = []
        for name in ESTIMATORS:
            samples, _ = sample_occupation(
                time_key, problem, path, value_fn, OccupationConfig(estimator=name)
            )
            x, a = samples.states[:, 0], samples.actions[:, 0]
            log_prob = gaussian.log_prob(samples.means, samples.stds, samples.actions)
            exact = environment.advantage_rate(FIRST, x, a) - environment.temperature * log_prob
            errors.append(jnp.mean((samples.advantages - exact) ** 2))
        return errors

    errors = measure(jax.random.key(config.run.seed + 1))
    return {name: float(error) for name, error in zip(ESTIMATORS, errors, strict=True)}


def summarize(config: Config, runs, variances) -> dict[str, Any]:
    """Return final distances, parameters and variances by the keys of the results."""
    metrics = distances(runs, config.training)
    best = make_environment().optimal_linear_policy()
    for dt, methods in runs.items():
        for name, curves in methods.items():
            key = f"{name}/dt={dt:g}"
            metrics[f"parameters/{key}"] = parameter_error(curves.params, best)
            if "trust_region/backtracked" in curves.metrics:
                shortened = curves.metrics["trust_region/backtracked"][:, -1]
                metrics[f"backtracked/{key}"] = float(shortened.mean() / config.updates())
    for name, values in variances.items():
        for dt, variance in zip(config.time_steps, values, strict=True):
            metrics[f"estimators/{name}/dt={dt:g}"] = variance
        if len(values) > 1:
            slope = np.polyfit(np.log(config.time_steps), np.log(values), 1)[0]
            metrics[f"estimators/{name}/slope"] = float(slope)
    return metrics


def parameter_error(params, best: LinearGaussian) -> float:
    """Return the largest mean distance over seeds of slope, intercept and std from the optimum."""
    found = (params.slope, params.intercept, jnp.exp(params.log_std))
    return max(float(jnp.mean(abs(f - b))) for f, b in zip(found, best, strict=True))


def print_tables(config: Config, metrics: dict[str, Any]) -> None:
    """Print the final distances by method and step, and the variances of the estimators."""
    columns = ("method", *(f"dt={dt:g}" for dt in config.time_steps))
    rows = [
        [name, *(f"{metrics[f'suboptimality/{name}/{c}']:.1e}" for c in columns[1:])]
        for name in config.methods
    ]
    print_table("suboptimality over the starting gap, mean over seeds", columns, rows)
    rows = [
        [name, *(f"{metrics[f'estimators/{name}/{c}']:.3g}" for c in columns[1:])]
        for name in ESTIMATORS
    ]
    print_table("squared error of the estimators of q at the exact value", columns, rows)


if __name__ == "__main__":
    command(Config, main)
