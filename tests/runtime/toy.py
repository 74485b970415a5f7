"""A toy algorithm for the loop's tests: noisy gradient descent with its own PRNG key.

Run as a program it trains to `--steps` in `--folder` and prints the digest of the final state;
`--pause` makes it slow enough to be killed half-way, and `--rank` one of two processes.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from ctrl_jax.runtime import (
    Checkpoints,
    LoopOptions,
    MetricsLog,
    command,
    make_mesh,
    own_part,
    start,
    state_digest,
    train,
)


class ToyState(NamedTuple):
    """Weights, their average, the key and the count of skipped updates."""

    weights: jax.Array
    average: jax.Array
    key: jax.Array
    skipped: jax.Array


def init(key: jax.Array) -> ToyState:
    """A start whose average shares its buffer with the weights, as real ones do."""
    weights = jax.random.normal(key, (64, 33))
    return ToyState(weights, weights, key, jnp.int32(0))


def step(state: ToyState, batch: jax.Array | None):
    """One noisy update; NaN in the batch makes it a skipped one."""
    key, noise_key = jax.random.split(state.key)
    noise = jax.random.normal(noise_key, state.weights.shape)
    target = 0.0 if batch is None else batch.mean()
    weights = state.weights - 0.1 * (jnp.sin(state.weights) - target) + 0.01 * noise
    finite = jnp.isfinite(weights).all()
    skipped = jnp.where(finite, 0, state.skipped + 1)
    weights = jnp.where(finite, weights, state.weights)
    average = 0.9 * state.average + 0.1 * weights
    metrics = {
        "loss": jnp.mean(weights**2),
        "update/finite": finite,
        "update/skipped_in_a_row": skipped,
    }
    return ToyState(weights, average, key, skipped), metrics


def batches(k: int) -> jax.Array:
    """The batch of the update after k completed ones."""
    return jnp.full((8, 3), 0.01 * k)


def main(arguments: argparse.Namespace) -> None:
    """Continues from the newest checkpoint, where there is one."""
    folder, mesh = Path(arguments.folder), None
    if arguments.rank is not None:
        start("on", arguments.coordinator, 2, arguments.rank, heartbeat_seconds=5)
        mesh = make_mesh()
    everywhere = None if mesh is None else NamedSharding(mesh, PartitionSpec())

    def slow(k: int) -> jax.Array:
        time.sleep(arguments.pause)
        return batches(k) if mesh is None else own_part(mesh, batches(k))

    with Checkpoints(folder / "checkpoints") as checkpoints:
        state, done = init(jax.random.key(0)), 0
        if checkpoints.steps():
            done, state, _ = checkpoints.restore(state, shardings=everywhere)
        with MetricsLog(folder / "metrics.jsonl", start=done) as log:
            print(f"start {done}", flush=True)
            state = train(
                step,
                state,
                slow,
                steps=arguments.steps,
                start=done,
                log=log,
                checkpoints=checkpoints,
                options=LoopOptions(fetch_every=3, checkpoint_every=5, progress=False, mesh=mesh),
            )
    print("digest", state_digest(state), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--coordinator")
    parser.add_argument("--rank", type=int)
    parsed = parser.parse_args()

    import dataclasses

    @dataclasses.dataclass(frozen=True)
    class Nothing:
        """No options."""

    command(Nothing, lambda _: main(parsed), args=[])
    sys.exit(0)
