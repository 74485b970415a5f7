"""Run by tests on four devices, of one process or of two: the noise of a rollout on every mesh.

    python -m tests.algorithms.noise_on_meshes [PORT RANK]

For each mesh it prints a digest of the bits of the start states, of the increments that the rollout
drew, and of the path that `BrownianPath.draw` gives, rows in the order of the whole batch.
"""

import hashlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import Batch, DiffusionControl, roll_out
from ctrl_jax.processes import VP
from ctrl_jax.runtime import (
    MeshOptions,
    make_mesh,
    on_mesh,
    own_part,
    replicate,
    shard_batch,
    start,
)
from ctrl_jax.runtime.checkpoints.digests import host_array
from ctrl_jax.solvers import BrownianPath

SHAPE, ROWS = (3, 5), 8


def drawn(key, batch):
    """Start states, increments of the rollout, and the path of a sampler, (steps, batch, ...)."""
    model, grid = Model(lambda key: (), lambda params, t, x: -x), jnp.linspace(0.0, 0.98, 5)
    problem = DiffusionControl(VP(0.1, 5.0), model, None, SHAPE, grid, penalty=0.0)
    rollout = roll_out(key, problem, model, (), (), batch)
    path = BrownianPath.draw(key, grid, rollout.states[0])
    return rollout.states[:1], rollout.noise, path.noise, path.levy_noise


def bits(mesh, rows: int) -> str:
    """The digest of the first rows of a batch of so many."""
    cut = NamedSharding(mesh, PartitionSpec(None, "data"))
    batch = shard_batch(mesh, Batch(own_part(mesh, np.ones(rows, np.float32))))
    draw = jax.jit(on_mesh(mesh, drawn), out_shardings=cut)
    found = draw(replicate(mesh, jax.random.key(3)), batch)
    digest = hashlib.sha256()
    for array in map(host_array, found):
        assert array.shape[1:] == (rows, *SHAPE) and np.abs(array).min() > 0
        digest.update(np.ascontiguousarray(array[:, :ROWS]).tobytes())
    return digest.hexdigest()


def main(port: str = "", rank: str = "0") -> None:
    if port:
        start("on", f"127.0.0.1:{port}", 2, int(rank), heartbeat_seconds=10)
    assert jax.device_count() == 4
    alone = [] if port else [(1, 1), (2, 1)]
    for data, model in [*alone, (4, 1), (2, 2), (1, 4)]:
        mesh = make_mesh(MeshOptions(data, model))
        print(f"on {data}x{model}", bits(mesh, ROWS))
        print(f"on {data}x{model}, a larger batch", bits(mesh, 3 * ROWS))


if __name__ == "__main__":
    main(*sys.argv[1:])
