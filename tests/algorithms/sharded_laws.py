"""Run by a test on eight simulated devices: a step of every algorithm, compiled as `train` does it
over the data of eight, and over 4 x 2 with weights fully divided, against the same step on one
device. Sums over rows are taken in another order: 1e-4."""

import jax
import numpy as np
from jax.sharding import NamedSharding

from ctrl_jax.networks.sharding import DECODER, SCORE, partition_specs
from ctrl_jax.runtime import MeshOptions, make_mesh, replicate, shard_batch
from ctrl_jax.runtime.devices.mesh import place
from ctrl_jax.runtime.loop.compilation import jit_step
from tests.algorithms.laws import BATCH, LAWS
from tests.algorithms.test_laws import ROUNDING, bits

assert jax.device_count() == 8 and BATCH % 8 == 0


def compare(name, algorithm, batch, fully: bool, options: MeshOptions) -> None:
    mesh = make_mesh(options)
    state = algorithm.init(jax.random.key(0))
    one, expected = jax.jit(algorithm.step)(state, batch)
    rules = DECODER if name == "lm_preference" else SCORE
    specs = partition_specs(state, mesh, fully=fully, rules=rules)
    places = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    many, metrics = jit_step(algorithm.step, mesh, places)(
        place(state, places), shard_batch(mesh, batch)
    )
    many = replicate(mesh, many)
    assert metrics.keys() == expected.keys()
    for found in (metrics, expected):
        for rounding in ROUNDING:
            found.pop(rounding, None)
    leaves = jax.tree_util.tree_leaves_with_path(bits((many, metrics)))
    for (path, a), b in zip(leaves, jax.tree.leaves(bits((one, expected))), strict=True):
        where = f"{name}, {options}: {jax.tree_util.keystr(path)}"
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=where)


for name, make in LAWS.items():
    algorithm, batch = make()
    compare(name, algorithm, batch, False, MeshOptions(8))
    compare(name, algorithm, batch, True, MeshOptions(4, 2))
    print("agreed")
