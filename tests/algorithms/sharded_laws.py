"""Run by a test on eight simulated devices: a step of every algorithm, the batch sharded over
`data`, against the same step on one device. Sums over rows are taken in another order: 1e-4."""

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.algorithms.laws import BATCH, LAWS
from tests.algorithms.test_laws import ROUNDING, bits

DEVICES = 8
assert jax.device_count() == DEVICES and BATCH % DEVICES == 0
mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))

for name, make in LAWS.items():
    algorithm, batch = make()
    state = algorithm.init(jax.random.key(0))
    one, expected = jax.jit(algorithm.step)(state, batch)
    sharded_step = jax.jit(algorithm.step, out_shardings=(whole, None))
    many, metrics = sharded_step(jax.device_put(state, whole), jax.device_put(batch, rows))
    assert metrics.keys() == expected.keys()
    for found in (metrics, expected):
        for rounding in ROUNDING:
            found.pop(rounding, None)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(bits((many, metrics))),
        jax.tree.leaves(bits((one, expected))),
        strict=True,
    ):
        where = f"{name}: {jax.tree_util.keystr(path)}"
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=where)
    print("agreed")
