"""A toy policy whose rewards come from outside, for the loop's tests.

Run as a program it trains to `--steps` in `--folder`, with `--overlap` if asked, and prints the
digest of the final state; each answer takes `--pause` seconds.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax.algorithms import Learner, RunState
from ctrl_jax.algorithms.base import finish, start
from ctrl_jax.runtime import (
    Checkpoints,
    LoopOptions,
    MetricsLog,
    OutsideStep,
    command,
    in_flight,
    state_digest,
    train_outside,
)


def init(key: jax.Array) -> RunState:
    """Weights of a policy, and counters."""
    weights = (lambda key: jax.random.normal(key, (16, 5)), lambda params: jnp.zeros(()))
    return start(key, {"policy": weights}, reference=lambda key: jnp.ones(5), averaged=True)


def collect(state: RunState, batch: jax.Array):
    """Draw actions about the weights; what is shown is not what is learned from."""
    noise_key = jax.random.split(state.key, 4)[1]
    noise = jax.random.normal(noise_key, (batch.shape[0], 16, 5))
    actions = state.policy.params[None] + 0.1 * noise + batch[:, None, None]
    return noise, jnp.clip(40.0 * actions + 128.0, 0, 255).astype(jnp.uint8)


def ask(k: int, shown: np.ndarray) -> np.ndarray:
    """Darkness, and a bit more for later updates."""
    return -shown.mean(axis=(1, 2)) / 255 + 0.001 * k


def learn(state: RunState, noise: jax.Array, rewards: jax.Array):
    """A score-function step with decay."""
    key = jax.random.split(state.key, 4)[0]
    centered = (rewards - jnp.mean(rewards))[:, None, None]
    weights = 0.99 * state.policy.params + jnp.mean(centered * noise, axis=0)
    finite = jnp.isfinite(weights).all()
    weights = jnp.where(finite, weights, state.policy.params)
    learners = {"policy": Learner(weights, state.policy.optimizer + 1)}
    state, metrics = finish(state, key, learners, finite, decay=0.9)
    return state, metrics | {"reward/mean": jnp.mean(rewards)}


def batches(k: int) -> np.ndarray:
    """The batch of the update after k completed ones."""
    return np.full((8,), 0.01 * k, np.float32)


STEP = OutsideStep(collect, ask, learn)


def by_hand(steps: int, *, overlap: bool = False) -> RunState:
    """The same in a plain loop: what is in flight is kept, and not made again."""
    made, learned = jax.jit(collect), jax.jit(learn)
    state = acting = init(jax.random.key(0))
    for k in range(steps):
        # The noise of this update, the parameters of the one before.
        seen = acting._replace(key=state.key, update=state.update) if overlap else state
        rollout, shown = made(seen, batches(k))
        acting = state
        state, _ = learned(state, rollout, ask(k, np.asarray(shown)))
    return state


def main(arguments: argparse.Namespace) -> None:
    """Continues from the newest checkpoint, where there is one."""
    folder = Path(arguments.folder)

    def slow(k: int, shown: np.ndarray) -> np.ndarray:
        time.sleep(arguments.pause)
        return ask(k, shown)

    with Checkpoints(folder / "checkpoints") as checkpoints:
        state, begin = init(jax.random.key(0)), 0
        state = in_flight(state) if arguments.overlap else state
        if checkpoints.steps():
            begin, state, _ = checkpoints.restore(state)
        with MetricsLog(folder / "metrics.jsonl", start=begin) as log:
            print(f"start {begin}", flush=True)
            state = train_outside(
                dataclasses.replace(STEP, ask=slow),
                state,
                batches,
                steps=arguments.steps,
                start=begin,
                log=log,
                checkpoints=checkpoints,
                options=LoopOptions(fetch_every=3, checkpoint_every=5, progress=False),
                overlap=arguments.overlap,
            )
    print("digest", state_digest(state.state if arguments.overlap else state), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--overlap", action="store_true")
    parsed = parser.parse_args()

    @dataclasses.dataclass(frozen=True)
    class Nothing:
        """No options."""

    command(Nothing, lambda _: main(parsed), args=[])
    sys.exit(0)
