"""A grid may end at the data: its last step is certain, and carries no ratio and no divergence."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax.algorithms import Critic, PolicyUpdate
from ctrl_jax.processes import grids
from ctrl_jax.solvers import ExponentialEuler
from tests.algorithms.diffusion.steering import (
    PROCESS,
    affine_policy,
    make_algorithm,
    make_setting,
    one_prompt,
    quadratic_value,
)
from tests.algorithms.q_learning.directed import make_direction


@pytest.mark.parametrize("name", ["ppo", pytest.param("ddpo", marks=pytest.mark.slow)])
def test_updates_are_finite_and_start_at_a_ratio_of_one(name):
    problem = make_setting(4, penalty=0.0 if name == "ddpo" else 1.0).problem
    problem = dataclasses.replace(problem, grid=grids.uniform(PROCESS, 4, end=0.0))
    assert float(problem.kernel().std[-1]) == 0.0
    policy, optimizer = affine_policy(problem), optax.sgd(0.01)
    critic = Critic(quadratic_value(problem), optax.sgd(0.01))
    update = PolicyUpdate(minibatches=2)
    algorithm = make_algorithm(name, problem, policy, optimizer, critic, update)
    state = algorithm.init(jax.random.key(0))
    after, metrics = jax.jit(algorithm.step)(state, one_prompt(8))
    assert all(np.isfinite(value).all() for value in metrics.values()), metrics
    assert float(metrics["ratio/max_deviation"]) < 1e-5
    before, moved = (s.policy.params["slope"] for s in (state, after))
    assert np.isfinite(moved).all() and np.abs(moved - before).max() > 0


def test_the_rate_of_a_certain_step_is_the_equations():
    """Of q-learning, whose exploration and penalty go by it: g^2 in the middle of the step."""
    grid = grids.uniform(PROCESS, 4, end=0.0)
    problem = make_direction(4, grid=grid, solver=ExponentialEuler())
    found = problem.coefficients()
    g2 = PROCESS.diffusion(found.time - found.dt / 2) ** 2
    np.testing.assert_allclose(found.rate[-1], g2[-1], rtol=1e-6)
    assert jnp.isfinite(problem.action_std(found.rate)).all()
