"""Run by a test on eight simulated devices: the step, sharded over `data`, against one device.

Its conditions are a table that every device holds, and the rollout's predictions the old ones.
"""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import Critic, PolicyUpdate, make_ppo
from ctrl_jax.networks import MLP, ValueMLP, as_model
from ctrl_jax.runtime import shard_batch
from tests.algorithms.diffusion.steering import make_setting, one_prompt
from tests.networks.drawn import drawn

DEVICES, LOCAL, STEPS = 8, 13, 6  # 13 rows a device, 104 in all: numbers that nothing else has
BATCH = DEVICES * LOCAL
assert jax.device_count() == DEVICES

mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
rows, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))

problem = make_setting(STEPS).problem
worth: Any = problem.reward_fn
problem = dataclasses.replace(problem, reward_fn=lambda x, label: worth(x - label[:, None]))
network = drawn(
    as_model(lambda rngs: MLP((1,), width=16, depth=1, embedding=8, horizon=3.0, rngs=rngs))
)
value = as_model(
    lambda rngs: ValueMLP((1,), width=16, depth=1, embedding=8, horizon=3.0, rngs=rngs)
)


def apply(params, t, x, label):
    return problem.reference.apply((), t, x) + network.apply(params, t, x + label[:, None])


policy = Model(network.init, apply)
value = drawn(value)
critic = Critic(
    value._replace(apply=lambda params, t, x, label: value.apply(params, t, x)), optax.sgd(1e-3)
)
update = PolicyUpdate(minibatches=2, chunks=3, old="rollout", per_step=True)
algorithm = make_ppo(problem, policy, optax.sgd(1e-3), critic, update=update)

state, table = algorithm.init(jax.random.key(0)), jnp.asarray([0.0, 0.3, -0.2])
batch = one_prompt(BATCH)._replace(conditions=(table,), rows=jnp.arange(BATCH) % 3)
sharded_state, sharded_batch = jax.device_put(state, whole), shard_batch(mesh, batch)

step = jax.jit(algorithm.step).lower(state, batch).compile()
# The state keeps its place; the compiler is free to choose only where the metrics go.
sharded_step = (
    jax.jit(algorithm.step, out_shardings=(whole, None))
    .lower(sharded_state, sharded_batch)
    .compile()
)

text = sharded_step.as_text() or ""
shapes = {
    tuple(int(n) for n in dims.split(","))
    for dims in re.findall(r"\b(?:f32|u32|s32|pred|bf16|f16)\[([\d,]+)\]", text)
}
assert any(LOCAL in shape for shape in shapes), "no array has a device's share of the rows"
full = {shape for shape in shapes if BATCH in shape}
assert not full, f"arrays with the rows of all devices: {sorted(full)}"
assert "all-reduce" in text, "gradients are never summed over devices"
moves = re.findall(r"= (\S+) (all-gather|all-to-all|collective-permute)(?:-start)?\(", text)
assert not moves, moves

assert sharded_batch.conditions[0].sharding.is_fully_replicated
for update in range(3):
    state, metrics = step(state, batch)
    sharded_state, sharded_metrics = sharded_step(sharded_state, sharded_batch)
    assert metrics.keys() == sharded_metrics.keys()
    for name, expected in metrics.items():
        if "deviation" in name:  # rounding itself: only its bound is promised
            assert max(float(expected), float(sharded_metrics[name])) <= 1e-4
            continue
        np.testing.assert_allclose(
            sharded_metrics[name], expected, rtol=1e-5, atol=1e-6, err_msg=f"{name}, {update}"
        )

print("agreed")
