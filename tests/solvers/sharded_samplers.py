"""Run by a test on eight simulated devices: every kind of sampler, sharded, against one device."""

import re

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ctrl_jax.processes import VP
from ctrl_jax.solvers import (
    DPMSolverPP2M,
    ExponentialEuler,
    Inpainting,
    PredictorCorrector,
    StochasticHeun,
    simulate,
)
from ctrl_jax.solvers.adaptive import flow

DEVICES, LOCAL = 8, 13
assert jax.device_count() == DEVICES
PROCESS, GRID, KEY = VP(0.1, 5.0), jnp.linspace(0.0, 0.98, 5), jax.random.key(0)

mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
rows = NamedSharding(mesh, PartitionSpec("data"))


def score_fn(t, x):
    scale, std = PROCESS.marginal(t)
    return -(x - 1.5 * scale) / (scale**2 / 4 + std**2)


def solve(solver):
    def run(x):
        return simulate(KEY, PROCESS.reverse(score_fn), x, GRID, solver=solver).states

    return run


def inpaint(x):
    return solve(Inpainting(ExponentialEuler(), jnp.ones_like(x), x > 0, 2))(x)


SAMPLERS = {
    "ShARK": solve(diffrax.ShARK()),
    "PredictorCorrector": solve(PredictorCorrector()),
    "StochasticHeun": solve(StochasticHeun(s_churn=1.0)),
    "DPMSolverPP2M": solve(DPMSolverPP2M()),
    "Inpainting": inpaint,
    "flow": lambda x: flow(PROCESS, score_fn, x, end=0.02, tolerance=1e-6).states,
}


def everything(x):
    return {name: sampler(x) for name, sampler in SAMPLERS.items()}


x_0 = jax.random.normal(jax.random.key(1), (DEVICES * LOCAL, 3))
sharded = jax.jit(everything, out_shardings=rows).lower(jax.device_put(x_0, rows)).compile()
text = sharded.as_text() or ""
moves = re.findall(r"= (\S+) (all-gather|all-to-all|collective-permute)(?:-start)?\(", text)
assert not moves, moves

expected, found = jax.jit(everything)(x_0), sharded(jax.device_put(x_0, rows))
for name, states in found.items():
    assert {shard.data.shape[0] for shard in states.addressable_shards} == {LOCAL}
    # An adaptive solve may accept another step after another rounding: it agrees to its tolerance.
    error = 1e-4 if name == "flow" else 1e-5
    np.testing.assert_allclose(states, expected[name], rtol=error, atol=error, err_msg=name)
print("agreed")
