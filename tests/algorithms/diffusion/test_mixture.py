"""O5: every algorithm with a penalty finds, with a network, the optimum of a mixture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import Critic, DiffusionControl, PolicyUpdate, ValueUpdate, roll_out
from ctrl_jax.environments import GaussianSteering
from ctrl_jax.metrics import distances
from ctrl_jax.networks import MLP, ValueMLP, as_model
from ctrl_jax.processes import VP, grids
from ctrl_jax.solvers import EulerMaruyama, simulate
from tests.algorithms.diffusion.steering import cosine, make_algorithm, one_prompt

PROCESS = VP(0.2, 2.0, horizon=3.0)
VALUE = -1.0978549  # of O5 from N(0, v(T)), by quadrature
STEPS, UPDATES, MINIBATCHES, FRESH = 60, 400, 4, 40000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "value_gradient", "policy_gradient", "dpok", "grpo"])
def test_the_optimum_is_reached(name):
    env = GaussianSteering(PROCESS, [-1.5, 1.0], [0.1, 0.2], 1.5, -0.5, 0.8, weights=[0.3, 0.7])
    options = {"width": 32, "depth": 1, "embedding": 16, "horizon": 3.0}
    network = as_model(lambda rngs: MLP((1,), rngs=rngs, **options))
    value = as_model(lambda rngs: ValueMLP((1,), rngs=rngs, **options))
    policy = Model(network.init, lambda params, t, x: env.score(t, x) + network.apply(params, t, x))
    problem = DiffusionControl(
        PROCESS,
        Model(lambda key: (), lambda params, t, x: env.score(t, x)),
        env.reward,
        (1,),
        grids.log_snr(PROCESS, STEPS, end=1e-3),
        0.8,
        solver=EulerMaruyama(),
        start_std=env.start_std(),
    )
    optimizer = cosine(3e-3, UPDATES * MINIBATCHES)
    critic = Critic(value, cosine(1e-2, UPDATES * 4 * 2), ValueUpdate(2, 4))
    update = PolicyUpdate(minibatches=MINIBATCHES)
    own = {"scale": "none"} if name == "grpo" else {}
    algorithm = make_algorithm(name, problem, policy, optimizer, critic, update, **own)

    @jax.jit
    def run(key):
        def body(state, _):
            return algorithm.step(state, one_prompt(512))

        return jax.lax.scan(body, algorithm.init(key), None, UPDATES)[0]

    @jax.jit
    def fresh(key, params):
        return roll_out(key, problem, policy, params, (), one_prompt(FRESH))

    @jax.jit
    def optimal(key):
        """The law that the exact optimum reaches from N(0, v(T)), on a fine grid."""
        start, path = jax.random.split(key)
        x_0 = env.start_std() * jax.random.normal(start, (FRESH, 1))
        sde = PROCESS.reverse(lambda t, x: env.optimal_policy(PROCESS.horizon - t, x)[0])
        grid = grids.log_snr(PROCESS, 500, end=1e-3)
        return simulate(path, sde, x_0, grid, solver=EulerMaruyama()).states

    state = run(jax.random.key(0))
    rollout = fresh(jax.random.key(1), state.policy.params)
    returns = np.asarray(problem.rewards(rollout) - 0.8 * rollout.kl.sum(axis=0), float)
    assert abs(returns.mean() / VALUE - 1) < 0.02
    exact = optimal(jax.random.key(2))
    assert float(distances.wasserstein_1d(rollout.states[-1][:, 0], exact[:, 0])) < 0.05
    if state.value is not None:
        start = value.apply(state.value.params, jnp.asarray(3.0), rollout.states[0])
        assert abs(float(start.mean()) / VALUE - 1) < 0.02
