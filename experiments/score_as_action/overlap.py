"""What it costs and gains to make the next rollout while rewards are awaited.

    python -m experiments.score_as_action.overlap      ten minutes on two CPU cores

DPOK steers a Gaussian, whose optimum is known. First many seeds in one program: with the rollout
of every update made by its own policy, or by that of the update before, whose ratio knows of that
("rollout") or does not ("scored"). Then the loop of runs with rewards from outside, with a function
that does nothing for as long as a rollout and an update take, or twice or half as long. Writes
overlap.json beside this file, which docs/rewards.md quotes.
"""

import functools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrl_jax._records import write_json_atomic
from ctrl_jax.algorithms import Batch, Control, PolicyUpdate, make_dpok, roll_out
from ctrl_jax.runtime import LoopOptions, OutsideStep, in_flight, train_outside, versions
from experiments.known_optima import make_spec, make_task, optimal_objective

FILE = Path(__file__).with_suffix(".json")
STEPS, BATCH, SEEDS, UPDATES = 20, 256, 8, 48
RATES = (1e-3, 4e-3)
LONG = 512
"""Trajectories where time is measured, so that a step takes a while."""

SPEC = make_spec("gaussian", None)
TASK = make_task(SPEC)
PROBLEM = TASK.problem(STEPS, SPEC.penalty)
Old = Literal["scored", "rollout"]


@functools.cache
def optimum() -> float:
    """Return the best penalized reward of the Gaussian."""
    return optimal_objective(SPEC.environment())


def main(quick: bool = False) -> None:
    """Measure both and write the file."""
    updates, seeds = (4, 2) if quick else (UPDATES, SEEDS)
    found: dict[str, Any] = {"optimum": optimum(), "seeds": seeds, "updates": updates}
    for rate in RATES:
        gaps = {
            "without": gaps_of(rate, "scored", updates, seeds, overlap=False),
            "overlap, rollout": gaps_of(rate, "rollout", updates, seeds, overlap=True),
            "overlap, scored": gaps_of(rate, "scored", updates, seeds, overlap=True),
        }
        for name, values in gaps.items():
            found[f"gap/{rate:g}/{name}"] = summary(values)
        for name in ("overlap, rollout", "overlap, scored"):
            # The same noise: what they differ by is known better than either.
            found[f"gap/{rate:g}/{name} less without"] = summary(gaps[name] - gaps["without"])
        print(json.dumps({k: v for k, v in found.items() if f"/{rate:g}/" in k}, indent=1))
    found |= seconds(3 if quick else 15)
    print(json.dumps(found, indent=1))
    if not quick:
        write_json_atomic(FILE, {"metrics": found, "versions": versions()})


def algorithm(rate: float, old: Old) -> Control:
    """Return DPOK with Adam at this step size."""
    update = PolicyUpdate(epochs=1, minibatches=4, old=old)
    return make_dpok(PROBLEM, TASK.policy, optax.adam(rate), update=update)


def gaps_of(rate: float, old: Old, updates: int, seeds: int, *, overlap: bool) -> np.ndarray:
    """Return what each seed's policy lacks to the optimum after a third, and after all updates."""
    control, batch = algorithm(rate, old), Batch(jnp.ones(BATCH))

    def update(carry, _):
        state, acting = carry
        learners = {**state.learners, "policy": state.policy._replace(params=acting)}
        seen = state._replace(learners=learners) if overlap else state
        rollout = control.collect(seen, batch)
        acting = state.policy.params
        state, _ = control.learn(state, rollout, PROBLEM.scored(rollout))
        return (state, acting), None

    def objective(params):
        long = Batch(jnp.ones(8192))
        key = jax.random.key(7)
        rollout = roll_out(key, PROBLEM, TASK.policy, params, TASK.reference.init(key), long)
        return jnp.mean(PROBLEM.rewards(rollout)) - SPEC.penalty * jnp.mean(rollout.path_kl)

    def run(key):
        state = control.init(key)
        carry = (state, state.policy.params)
        carry, _ = jax.lax.scan(update, carry, length=updates // 3)
        early = objective(carry[0].policy.params)
        carry, _ = jax.lax.scan(update, carry, length=updates - updates // 3)
        return early, objective(carry[0].policy.params)

    found = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), seeds))
    return optimum() - np.stack(jax.device_get(found), axis=1)


def summary(values: np.ndarray) -> dict[str, list[float]]:
    """Return mean and standard error over seeds, after a third and after all updates."""
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    return {"mean": values.mean(axis=0).tolist(), "error": error.tolist()}


def seconds(updates: int) -> dict[str, float]:
    """Return the seconds per update with rewards that take as long as the rest, or otherwise."""
    control = algorithm(RATES[0], "rollout")
    alone = per_update(control, updates, 0.0, overlap=False)
    found = {"seconds/rollout and update": alone}
    for share in (0.5, 1.0, 2.0):
        for overlap in (False, True):
            name = f"seconds/reward of {share:g}/{'overlap' if overlap else 'without'}"
            found[name] = per_update(control, updates, share * alone, overlap=overlap)
    return found


def per_update(control: Control, updates: int, pause: float, *, overlap: bool) -> float:
    """Return the median seconds between two updates of the loop."""
    ended: list[float] = []

    def collect(state, batch):
        rollout = control.collect(state, batch)
        return rollout, rollout.states[-1]

    def ask(k, states):
        time.sleep(pause)
        return np.asarray(SPEC.environment().reward(states))

    def learn(state, rollout, rewards):
        return control.learn(state, rollout, rewards)

    state = control.init(jax.random.key(0))
    train_outside(
        OutsideStep(collect, ask, learn),
        in_flight(state) if overlap else state,
        lambda k: Batch(jnp.ones(LONG)),
        steps=updates + 2,
        options=LoopOptions(
            progress=False,
            evaluate_every=1,
            evaluate=lambda k, s: ended.append(time.monotonic()),
        ),
        overlap=overlap,
    )
    return statistics.median(np.diff(ended)[2:])


if __name__ == "__main__":
    main("--quick" in sys.argv)
