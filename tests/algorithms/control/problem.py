"""Runs of the continuous-time algorithms on O1 and O2, whole and compiled."""

import jax
import jax.numpy as jnp
import optax

from ctrl_jax.algorithms import (
    ContinuousControl,
    OccupationConfig,
    ProximalConfig,
    make_cpg,
    make_cppo,
    make_discrete_policy_gradient,
    make_discrete_ppo,
)
from ctrl_jax.environments import LinearGaussian
from ctrl_jax.networks.policies import linear_policy, quadratic_value
from tests.environments.fixtures import o1

EPOCHS = 15
TARGETS = {"sqrt_kl": {"target": 0.1}, "linear_kl": {"target": 0.01}}
O1_START = ([[-0.3]], [0.2], [0.8])
O2_START = ([[0.2, -0.2], [0.3, 0.1]], [0.5, -0.5], [0.8, 0.8])


def problem_of(environment=None, dt=0.02, horizon=4.0):
    return ContinuousControl(environment or o1(), dt, horizon)


def inner():
    """The optimizer of one update, its rate falling over the epochs."""
    return optax.adam(optax.cosine_decay_schedule(0.02, EPOCHS, alpha=0.1))


def make(name, problem, start, updates, **occupation):
    """An algorithm by name, its settings those of the tests."""
    policy, value = linear_policy(*start), quadratic_value(problem.environment.state_dimension)
    config = OccupationConfig(**occupation)
    outer = optax.adam(optax.cosine_decay_schedule(0.05, updates, alpha=0.05))
    critic = optax.adam(0.05)
    if name == "cpg":
        return make_cpg(problem, policy, value, outer, critic, config)
    if name == "pg":
        return make_discrete_policy_gradient(
            problem, policy, value, outer, critic, occupation=config
        )
    if name == "ppo":
        return make_discrete_ppo(
            problem, policy, value, inner(), critic, epochs=EPOCHS, occupation=config
        )
    proximal = ProximalConfig(penalty=name, epochs=EPOCHS, **TARGETS.get(name, {}))
    return make_cppo(problem, policy, value, inner(), critic, proximal, config)


def start_states(key, batch, dimension):
    """Start law: mean .4, variance .54 in every coordinate, so that O1's moments are (.4, .7)."""
    return 0.4 + 0.54**0.5 * jax.random.normal(key, (batch, dimension))


def train(algorithm, key, updates, batch, dimension):
    """Policy parameters and metrics of every update."""
    init_key, *keys = jax.random.split(key, updates + 1)

    def body(state, key):
        state, metrics = algorithm.step(state, start_states(key, batch, dimension))
        return state, (state.policy.params, metrics)

    return jax.lax.scan(body, algorithm.init(init_key), jnp.stack(keys))


def scalar(params):
    """O1's policy by its exact parameters."""
    return LinearGaussian(
        params.slope[..., 0, 0], params.intercept[..., 0], jnp.exp(params.log_std[..., 0])
    )
