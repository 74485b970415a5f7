"""Algorithms on a rectified flow, whose score does not depend on the data at the horizon."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Batch,
    Critic,
    DataBatch,
    DiffusionControl,
    PolicyUpdate,
    Window,
    make_grpo,
    make_ppo,
    make_score_pretraining,
    uniform_times,
)
from ctrl_jax.processes import RectifiedFlow, flow_noise_level, grids
from ctrl_jax.processes import parameterization as parameterization
from ctrl_jax.solvers import CoefficientsPreserving, EulerMaruyama

PROCESS, MEAN, VARIANCE = RectifiedFlow(), 1.5, 0.25


def flow_model(mean: float) -> Model:
    """The exact flow E[noise - x_0 | x_t] of N(m, VARIANCE), m to be learned, as a score."""

    def apply(params, t, x, *conditions):
        return parameterization.from_flow(PROCESS, lambda t, x: exact_flow(params, t, x))(t, x)

    return Model(lambda key: {"mean": jnp.asarray(mean)}, apply)


def exact_flow(params, t, x, *conditions):
    t = t.reshape(-1, 1)
    slope = (t - (1 - t) * VARIANCE) / (t**2 + (1 - t) ** 2 * VARIANCE)
    return slope * (x - (1 - t) * params["mean"]) - params["mean"]


def test_score_pretraining_learns_the_flow():
    algorithm = make_score_pretraining(
        PROCESS,
        flow_model(0.0),
        optax.adam(optax.cosine_decay_schedule(5e-2, 200)),
        sample_times=uniform_times(PROCESS, 1e-2),
    )

    def body(state, key):
        x_0 = MEAN + VARIANCE**0.5 * jax.random.normal(key, (256, 1))
        return algorithm.step(state, DataBatch(x_0))

    keys = jax.random.split(jax.random.key(1), 200)
    state, _ = jax.jit(lambda s: jax.lax.scan(body, s, keys))(algorithm.init(jax.random.key(0)))
    # 200 batches of 256 draws at a decaying step size: the statistical error is near .01.
    np.testing.assert_allclose(state.learners["model"].params["mean"], MEAN, atol=0.05)


@pytest.mark.slow  # GRPO does so below
def test_ppo_moves_the_flow_towards_the_reward_from_a_ratio_of_one():
    """Reward x: the mean rises. The first step starts at the horizon itself."""
    policy = flow_model(MEAN)
    grid = grids.log_snr(PROCESS, 8)
    assert float(grid[0]) == 0.0
    problem = DiffusionControl(PROCESS, policy, lambda x: x[:, 0], (1,), grid, 0.1)
    value = Model(
        lambda key: {"slope": jnp.zeros(()), "level": jnp.zeros(())},
        lambda params, t, x: params["slope"] * x[:, 0] + params["level"],
    )
    algorithm = make_ppo(
        problem,
        policy,
        optax.adam(1e-2),
        Critic(value, optax.adam(1e-3)),
        update=PolicyUpdate(minibatches=1),
    )
    step = jax.jit(algorithm.step)
    state = algorithm.init(jax.random.key(0))
    for _ in range(12):
        state, metrics = step(state, Batch(jnp.ones(128), ()))
        assert float(metrics["ratio/max_deviation"]) == 0.0
        assert float(metrics["update/finite"]) == 1.0
    learners = getattr(state, "learners", None)
    params = learners["policy"].params if learners else state.policy.params
    assert float(params["mean"]) > MEAN + 0.03


every_noise = pytest.mark.parametrize(
    ("solver", "level"),
    [
        (EulerMaruyama(clamped=True), flow_noise_level(0.7)),
        pytest.param(CoefficientsPreserving(0.7), 1.0, marks=pytest.mark.slow),
    ],
)


def flow_grpo(solver, level):
    """As Flow-GRPO does: the network's own prediction, few steps, noise in two of them, the first
    from noise alone among them; groups of 8 of one prompt. Metrics of twelve steps and the mean."""
    policy = Model(lambda key: {"mean": jnp.asarray(MEAN)}, exact_flow)
    problem = DiffusionControl(
        PROCESS,
        policy,
        lambda x: x[:, 0],
        (1,),
        grids.uniform(PROCESS, 6, end=0.0),
        0.1,
        solver,
        prediction="flow",
        noise_level=level,
        window=Window(2, last=4),
    )
    update = PolicyUpdate(minibatches=1, epochs=2)
    algorithm = make_grpo(problem, policy, optax.adam(1e-2), mask=0.05, update=update)
    step, batch = jax.jit(algorithm.step), Batch(jnp.ones(256), prompts=jnp.arange(256) // 8)
    state, history = algorithm.init(jax.random.key(0)), []
    for _ in range(12):
        state, metrics = step(state, batch)
        history.append(metrics)
    return history, float(state.policy.params["mean"])


@every_noise
def test_grpo_moves_the_flow_on_a_window_of_noise(solver, level):
    history, mean = flow_grpo(solver, level)
    assert all(bool(m["update/finite"]) and float(m["kl/path"]) < 1 for m in history)
    assert mean > MEAN + 0.03


@pytest.mark.slow  # quick, `test_guided_control` has the ratio of a flow
@pytest.mark.usefixtures("optimized")
@every_noise
def test_the_ratio_of_a_flow_on_a_window_starts_at_exactly_one(solver, level):
    history, _ = flow_grpo(solver, level)
    assert all(float(m["ratio/max_deviation"]) == 0.0 for m in history)
