"""Algorithms on a rectified flow, whose score does not depend on the data at the horizon."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Batch,
    Critic,
    DataBatch,
    DiffusionControl,
    PolicyUpdate,
    make_ppo,
    make_score_pretraining,
    uniform_times,
)
from ctrl_jax.processes import RectifiedFlow, grids
from ctrl_jax.processes import parameterization as parameterization

PROCESS, MEAN, VARIANCE = RectifiedFlow(), 1.5, 0.25


def flow_model(mean: float) -> Model:
    """The exact flow E[noise - x_0 | x_t] of N(m, VARIANCE), m to be learned, as a score."""

    def apply(params, t, x, *conditions):
        def flow(t, x):
            t = t.reshape(-1, 1)
            slope = (t - (1 - t) * VARIANCE) / (t**2 + (1 - t) ** 2 * VARIANCE)
            return slope * (x - (1 - t) * params["mean"]) - params["mean"]

        return parameterization.from_flow(PROCESS, flow)(t, x)

    return Model(lambda key: {"mean": jnp.asarray(mean)}, apply)


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
        state, metrics = step(state, Batch(jnp.ones(512), ()))
        assert float(metrics["ratio/max_deviation"]) == 0.0
        assert float(metrics["update/finite"]) == 1.0
    learners = getattr(state, "learners", None)
    params = learners["policy"].params if learners else state.policy.params
    assert float(params["mean"]) > MEAN + 0.03
