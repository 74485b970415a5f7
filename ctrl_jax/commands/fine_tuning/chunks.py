"""`--chunks auto`: the fewest pieces of a minibatch in which an update fits into a device.

What was found is kept in the run's folder: a run that goes on takes the same, whatever is free.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ctrl_jax._records import read_sealed, write_sealed
from ctrl_jax.algorithms import Batch
from ctrl_jax.commands.fine_tuning.config import Config
from ctrl_jax.commands.fine_tuning.inputs import Inputs
from ctrl_jax.commands.fine_tuning.steps import Fixed, control, one_program
from ctrl_jax.runtime import Run, fitting_chunks, jit_step, memory_plan
from ctrl_jax.runtime.devices.distributed import broadcast_text, on_the_first

FILE = "chunks.json"


def fitted(
    config: Config, inputs: Inputs, run: Run, mesh: Mesh, batch: Batch, fixed: Fixed, state: Any
):
    """Return the options with the number of chunks that fits, compiled to find it.

    Args:
        config: with ``chunks="auto"``.
        inputs: what is fine-tuned, and by which rewards.
        run: where the number is kept.
        mesh: its devices.
        batch: one of the updates, placed.
        fixed: what no gradient moves, placed.
        state: shapes and types of the state, with how it is divided.

    Raises:
        ValueError: an update does not fit in the most chunks.
    """
    path = run.folder / FILE

    def read() -> dict[str, Any] | None:
        if not (run.resumed and path.exists()):
            return None
        return read_sealed(path, name=FILE, repair="remove it: the number is found again")

    if kept := on_the_first(read):
        return _with(config, kept["chunks"])

    def plan_of(chunks: int):
        # As the loop compiles it where rewards are in JAX: it finds the program in the cache.
        update = whole_update(_with(config, chunks), inputs)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        return memory_plan(jit_step(update, mesh, shardings), state, batch, fixed)

    steps = config.sampler.trained_steps
    steps //= config.method.pieces(steps)
    divisors = [number for number in range(1, steps + 1) if steps % number == 0]
    chunks, plan = fitting_chunks(plan_of, divisors)
    # Devices of one kind may have been used for other things before: the first process decides.
    chunks = int(broadcast_text(str(chunks)))
    if jax.process_index() == 0:
        write_sealed(path, {"chunks": chunks, **dataclasses.asdict(plan)})
        print(f"chunks: {chunks}, for which an update needs {plan.total / 1e9:.2f} GB of a device")
    return _with(config, chunks)


def _with(config: Config, chunks: int) -> Config:
    return dataclasses.replace(config, method=dataclasses.replace(config.method, chunks=chunks))


def whole_update(config: Config, inputs: Inputs) -> Callable[..., Any]:
    """Return an update as one program, also where its rewards are asked between two."""
    if not inputs.rewards.outside:
        return one_program(config, inputs)

    def update(state, batch, fixed):
        algorithm = control(config, inputs, fixed)
        rollout = algorithm.collect(state, batch)
        return algorithm.learn(state, rollout, jnp.zeros_like(batch.weights))

    return update
