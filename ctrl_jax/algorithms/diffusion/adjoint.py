r"""The derivative of an outcome by the states that led to it: the adjoint of a simulated path.

With the noise z_i of every step x_{i+1} = m_i(x_i) + std_i z_i held, and the outcome

    J = R(x_n) - lambda \sum_i KL_i(x_i),                                                (1)

the derivative of its part from i on by x_i runs backward along the path,

    a_n = \nabla R(x_n),   a_i = (dm_i / dx)^T a_{i+1} - lambda \nabla KL_i(x_i).        (2)

E[a_i | x_i] = \nabla V(t_i, x_i), so that a_{i+1} is an estimate without bias of what a value
network would have to learn, and of the policy's parameters theta

    dJ / d theta = \sum_i [a_{i+1} . dm_i / d theta - lambda dKL_i / d theta].           (3)

Source: 2409.08861 (the adjoint of a controlled diffusion); 2309.17400 without a penalty.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._numerics import expand
from ctrl_jax._typing import Model, Params
from ctrl_jax.algorithms.diffusion.problem import DiffusionControl, Rollout, terminal_rewards
from ctrl_jax.solvers import girsanov


def adjoint(
    problem: DiffusionControl,
    policy: Model,
    params: Params,
    reference_params: Params,
    rollout: Rollout,
) -> Float[Array, "steps batch ..."]:
    """Return a_{i+1} of (2) for every step i of a rollout.

    Args:
        problem: gives the reward, which has a derivative, and the penalty.
        policy: the acting model.
        params: its parameters.
        reference_params: of the reference; not looked at without a penalty.
        rollout: of all steps of the grid.
    """
    conditions = rollout.batch.gathered()

    def outcome(x):
        return jnp.sum(terminal_rewards(problem.reward_fn, x, rollout.batch).values)

    def step(x, t, kernel):
        action = policy.apply(params, t, x, *conditions)
        if not problem.penalized:
            return kernel.mean(x, action), jnp.zeros(x.shape[:1], x.dtype)
        reference = problem.reference.apply(reference_params, t, x, *conditions)
        return kernel.mean(x, action), girsanov.kl_rate(kernel.kl_rate, action, reference)

    def backward(later, inputs):
        t, kernel, x = inputs
        (_, kl), pull_back = jax.vjp(partial(step, t=t, kernel=kernel), x)
        here = pull_back((later, jnp.full_like(kl, -problem.penalty)))[0]
        return here, here

    last = jax.grad(outcome)(rollout.states[-1])
    # Rewards of padding are masked, but the derivative of what is masked may be NaN.
    last = jnp.where(expand(rollout.batch.weights, last) > 0, last, 0.0)
    points = jax.tree.map(lambda a: a[1:], (rollout.times, rollout.kernel, rollout.states[:-1]))
    _, earlier = jax.lax.scan(backward, last, points, reverse=True)
    return jnp.concatenate([earlier, last[None]])
