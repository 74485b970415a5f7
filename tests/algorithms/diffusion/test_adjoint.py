"""Ascent of the value without a value network: the derivative of the outcome through the path.

The oracle is `jax.grad` of the simulation itself.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Batch,
    DiffusionControl,
    PolicyUpdate,
    Window,
    make_value_gradient,
    roll_out,
)
from ctrl_jax.algorithms.diffusion.adjoint import adjoint
from ctrl_jax.networks import MLP, as_model
from ctrl_jax.processes import VP, RectifiedFlow, grids
from ctrl_jax.solvers import EulerMaruyama, ExponentialEuler

STEPS, SHAPE = 5, (3,)
CONDITIONS = jnp.asarray([[0.5], [-1.0], [2.0], [9.0]])
BATCH = Batch(jnp.asarray([1.0, 2.0, 1.0, 0.0]), (CONDITIONS,), rows=jnp.asarray([0, 2, 1, 3]))
CALM = BATCH._replace(conditions=(CONDITIONS.at[3].set(1.0),))
"""The same without NaN at the padding."""


def reward(x, condition):
    """NaN, and so is its derivative, where the condition is 9: that of padding."""
    spoiled = jnp.where(condition[:, 0] == 9.0, jnp.nan, 1.0)
    return spoiled * jnp.sum(jnp.sin(x), axis=1) * condition[:, 0]


def model(seed):
    """A network of states, shifted by the condition."""
    network = as_model(lambda rngs: MLP(SHAPE, width=8, depth=1, embedding=4, rngs=rngs))

    def init(key):
        params = network.init(jax.random.key(seed))
        noise = jax.random.normal(jax.random.key(seed + 1), (999,))
        return jax.tree.map(lambda a: a + 0.3 * noise[: a.size].reshape(a.shape), params)

    return Model(init, lambda params, t, x, condition: network.apply(params, t, x) + condition)


def make_problem(penalty, process=None, **options):
    process = VP(0.2, 3.0) if process is None else process
    grid = grids.uniform(process, STEPS, end=1e-2)
    return DiffusionControl(process, model(1), reward, SHAPE, grid, penalty, **options)


def simulate(problem, key, params, batch):
    policy, reference = model(3), problem.reference.init(key)
    return roll_out(key, problem, policy, params, reference, batch, compare=True)


def outcome(problem, key, params):
    """J of every trajectory."""
    rollout = simulate(problem, key, params, CALM)
    return problem.rewards(rollout) - problem.penalty * rollout.path_kl


@pytest.mark.parametrize(
    "penalty, process, options",
    [
        (0.0, VP(0.2, 3.0), {"solver": ExponentialEuler()}),
        pytest.param(
            *(0.3, VP(0.2, 3.0), {"solver": EulerMaruyama(), "noise_level": 0.7}),
            marks=pytest.mark.slow,
        ),
        (0.3, RectifiedFlow(), {"prediction": "flow", "noise_level": 0.7}),
    ],
)
def test_a_step_has_the_exact_gradient_of_the_simulation(penalty, process, options):
    problem, rate = make_problem(penalty, process, path_kl=True, **options), 1e-2
    made = make_value_gradient(problem, model(3), optax.sgd(rate), update=PolicyUpdate(1, 1))
    state = made.init(jax.random.key(0))
    moved, metrics = jax.jit(made.step)(state, BATCH)
    key, share = jax.random.split(state.key, 4)[1], BATCH.weights / BATCH.weights.sum()
    objective = lambda params: jnp.sum(share * outcome(problem, key, params))  # noqa: E731
    exact = jax.jit(jax.grad(objective))(state.policy.params)
    # The update descends the mean over steps.
    found = jax.tree.map(
        lambda a, b: STEPS * (a - b) / rate, moved.policy.params, state.policy.params
    )
    scale = float(optax.tree.norm(exact))
    assert scale > 0.1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4 * scale), found, exact)
    assert "value" not in state.learners and not any(n.startswith("value/") for n in metrics)


def test_the_adjoint_of_the_first_state_and_of_padding():
    problem, key = make_problem(0.3), jax.random.key(2)
    params = model(3).init(key)
    rollout = simulate(problem, key, params, BATCH)
    found = adjoint(problem, model(3), params, problem.reference.init(key), rollout)
    assert found.shape == (STEPS, 4, *SHAPE)
    assert not np.asarray(found[-1, 3]).any()  # a padding row has no reward
    # By x_1: the path begins there, one step shorter, with the noise that it had.
    later = dataclasses.replace(problem, grid=problem.grid[1:])

    def rest(x_1):
        x, total = x_1, 0.0
        reference, kernel = problem.reference.init(key), later.kernel()
        for i, t in enumerate(later.forward_times()[:-1]):
            rows, own = BATCH.gathered(), jax.tree.map(lambda a, i=i: a[i], kernel)
            action = model(3).apply(params, t, x, *rows)
            apart = action - problem.reference.apply(reference, t, x, *rows)
            total = total - 0.3 * own.kl_rate * jnp.sum(apart**2, axis=1) / 2
            x = own.mean(x, action) + own.std * rollout.noise[i + 1]
        return jnp.sum((reward(x, *BATCH.gathered()) + total)[:3])

    exact = jax.grad(rest)(rollout.states[1])
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[0, :3], exact[:3], rtol=1e-4, atol=1e-5)


def test_what_it_needs():
    outside = dataclasses.replace(make_problem(0.0), reward_fn=None)
    inside = dataclasses.replace(make_problem(0.0), window=Window(2))
    for problem in (outside, inside):
        with pytest.raises(ValueError, match="a reward_fn and neither window"):
            make_value_gradient(problem, model(3), optax.sgd(1.0))
