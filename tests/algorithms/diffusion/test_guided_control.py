"""Control of a guided model: rollout, ratio and update are of the same guided prediction."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax._numerics import expand
from ctrl_jax._typing import Model
from ctrl_jax.algorithms import Batch, DiffusionControl, PolicyUpdate, make_dpok
from ctrl_jax.algorithms.diffusion.problem import roll_out
from ctrl_jax.processes import RectifiedFlow, grids
from ctrl_jax.solvers import guidance, simulate

SIZE, WIDTH, PROCESS = 6, 4, RectifiedFlow()


def flow(params, t, x, prompt):
    """A small network of a flow, of prompts that are vectors."""
    hidden = jnp.tanh(x @ params["in"] + prompt + expand(t, x))
    return hidden @ params["out"]


def guided(params, t, x, *conditions):
    """Negative prompts are conditions, which go with their rows."""
    function = guidance.classifier_free(
        partial(flow, params), 3.0, None, passes=1, interval=(0.2, 0.9)
    )
    return function(t, x, *conditions)


def init(key):
    shapes = {"in": (2, WIDTH), "out": (WIDTH, 2)}
    keys = jax.random.split(key, len(shapes))
    pairs = zip(shapes.items(), keys, strict=True)
    return {name: jax.random.normal(k, shape) / 2 for (name, shape), k in pairs}


def batch():
    prompts = jax.random.normal(jax.random.key(5), (2, SIZE, WIDTH))
    return Batch(jnp.ones(SIZE), (prompts[0], prompts[1]))


def problem():
    model, grid = Model(init, guided), grids.uniform(PROCESS, 4, end=0.1)
    reward = lambda x, *conditions: x.sum(axis=1)  # noqa: E731
    return DiffusionControl(PROCESS, model, reward, (2,), grid, 0.1, prediction="flow")


@pytest.mark.usefixtures("optimized")
def test_the_ratio_of_guided_predictions_starts_at_exactly_one():
    update = PolicyUpdate(minibatches=2)
    algorithm = make_dpok(problem(), Model(init, guided), optax.sgd(1e-2), update=update)
    step, state = jax.jit(algorithm.step), algorithm.init(jax.random.key(0))
    for _ in range(2):
        before = state.policy.params
        state, metrics = step(state, batch())
        assert float(metrics["ratio/max_deviation"]) == 0.0
        assert float(metrics["ratio/rollout_deviation"]) <= 1e-4
        assert all((state.policy.params[name] != before[name]).any() for name in before)
    assert float(metrics["kl/path"]) > 0


def test_the_rollout_is_what_the_sampler_does_with_the_guided_function():
    steered, rows = problem(), batch()
    params = init(jax.random.key(0))

    def both():
        model, key = Model(init, guided), jax.random.key(1)
        rollout = roll_out(key, steered, model, params, params, rows)
        sde = PROCESS.reverse(
            lambda t, x: guided(params, t, x, *rows.conditions), prediction="flow"
        )
        path = simulate(
            jax.random.split(key)[1], sde, rollout.states[0], steered.grid, solver=steered.solver
        )
        return rollout.states[-1], path.states

    np.testing.assert_allclose(*jax.jit(both)(), atol=1e-5)
