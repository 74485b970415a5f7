"""Policy optimization in continuous time on the trading of a pair of stocks.

Log wealth is the reward, the log-spread follows an Ornstein-Uhlenbeck process, and the optimal
fraction held in the spread is known, so that every policy has an exact distance from the optimum.
Each method is trained at several steps of time, all seeds in one program. Each run writes
config.json, metrics.jsonl, results.json, curves.png and steps.png to its folder.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ctrl_jax._typing import Model
from ctrl_jax.environments import LinearGaussian, PairTrading
from ctrl_jax.networks.policies import linear_policy, quadratic_value
from ctrl_jax.runtime import command
from ctrl_jax.runtime.run.tables import print_table
from experiments.continuous_control.methods import Comparison, Task, Training, train_methods
from experiments.continuous_control.results import distances, leave
from experiments.pair_trading import STUDY

TRAINING = Training(horizon=6.0, batch=64, value_epochs=20, value_rate=0.1)
SPREAD = (0.2, 0.4)
"""Mean and standard deviation of the log-spread at the start; log wealth starts at 0."""
SCALE = 5.0
"""By which networks see the spread multiplied, whose stationary deviation is about 1 / 5."""


@dataclasses.dataclass(frozen=True)
class Config(Comparison):
    """Compare continuous-time and discrete-time policy optimization on pair trading.

    Source: arXiv 2305.18901, section 5.
    Expected: CPG and CPPO within 1 % of the starting gap at every step up to .01.

    Args:
        time_steps: steps h of the simulation, in units of time.
        seeds: independent runs, trained together.
        methods: methods to train; *_difference are those that do not know the simulator's noise.
        training: budget and settings of every method.
        run: the common options.
    """

    training: Training = TRAINING
    usual_updates = 200


def main(config: Config) -> Path:
    """Run the experiment and return the folder of its results."""
    run, environment = STUDY.begin(config, side_by_side=config.seeds), make_environment()

    def evaluate(params):
        return suboptimality(environment, learned_policy(params))

    task = Task(environment, make_policy(), make_value(), start_states, evaluate)
    runs = train_methods(config, task, run)
    metrics = summarize(config, runs)
    leave(run, config, runs, metrics)
    if jax.process_index() == 0:
        print_results(config, metrics)
    return run.close()


def make_environment() -> PairTrading:
    """Return the market."""
    return PairTrading(1.0, 0.1, 0.25, 0.3, 0.4, 0.02, 0.5, 0.05)


def first_policy() -> LinearGaussian:
    """Return the policy that training starts from: no position on average."""
    return LinearGaussian(0.0, 0.0, 1.0)


def suboptimality(environment: PairTrading, policy: LinearGaussian) -> jax.Array:
    """Return the distance from the optimum over that of the first policy."""
    moments = (SPREAD[0], SPREAD[0] ** 2 + SPREAD[1] ** 2)
    best = environment.mean_value(environment.optimal_linear_policy(), 0.0, moments)
    gap = best - environment.mean_value(policy, 0.0, moments)
    return gap / (best - environment.mean_value(first_policy(), 0.0, moments))


def make_policy() -> Model:
    """Return the table of the policy, which sees the scaled spread only."""
    first = first_policy()
    table = linear_policy([[first.slope]], [first.intercept], [first.std])
    return Model(table.init, lambda params, t, x: table.apply(params, t, SCALE * x[:, 1:]))


def make_value() -> Model:
    """Return the quadratic critic of log wealth and scaled spread."""
    table = quadratic_value(2)

    def apply(params, t, x):
        return table.apply(params, t, x * jnp.asarray([[1.0, SCALE]], x.dtype))

    return Model(table.init, apply)


def learned_policy(params) -> LinearGaussian:
    """Return the policy of the parameters, in units of the spread itself."""
    return LinearGaussian(
        SCALE * params.slope[..., 0, 0], params.intercept[..., 0], jnp.exp(params.log_std[..., 0])
    )


def start_states(key: jax.Array, size: int) -> jax.Array:
    """Draw start states (log v, x)."""
    spread = SPREAD[0] + SPREAD[1] * jax.random.normal(key, (size,), float)
    return jnp.stack([jnp.zeros(size), spread], axis=1)


def summarize(config: Config, runs) -> dict[str, Any]:
    """Return final distances and mean parameters by the keys of the results."""
    metrics = distances(runs, config.training)
    for dt, methods in runs.items():
        for name, curves in methods.items():
            policy = learned_policy(curves.params)
            for field, values in zip(policy._fields, policy, strict=True):
                metrics[f"{field}/{name}/dt={dt:g}"] = float(jnp.mean(values))
    best = make_environment().optimal_linear_policy()
    metrics |= {f"{f}/optimal": float(v) for f, v in zip(best._fields, best, strict=True)}
    return metrics


def print_results(config: Config, metrics: dict[str, Any]) -> None:
    """Print the final distances and policies by method and step."""
    columns = ("method", "step", "suboptimality", "± se", "slope", "intercept", "std")
    fields = ("slope", "intercept", "std")
    rows = [
        [
            name,
            f"{dt:g}",
            f"{metrics[f'suboptimality/{name}/dt={dt:g}']:.2g}",
            f"{metrics[f'suboptimality/{name}/dt={dt:g}/stderr']:.1g}",
            *(metrics[f"{field}/{name}/dt={dt:g}"] for field in fields),
        ]
        for dt in config.time_steps
        for name in config.methods
    ]
    rows.append(["optimal", "", "0", "", *(metrics[f"{field}/optimal"] for field in fields)])
    print_table("pair trading: distance from the optimum and policies", columns, rows)


if __name__ == "__main__":
    command(Config, main)
