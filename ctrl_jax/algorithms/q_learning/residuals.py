r"""The updates of little q-learning on a block of transitions, the martingale as the only teacher.

With q_i = \theta log pi_i (`losses.q_learning`), residuals \delta_i and a block of k steps,

    A_i = \sum_{j >= i} trace^{j-i} \delta_j,                                             (1)
    value:   \sum_i A_i \nabla J_i,        policy:  \sum_i A_i \nabla log pi_i.            (2)

`difference` is (2) as the paper has it. Of two mean-zero parts that the simulator knows the noise
can be taken out without moving the mean of (2):

    pathwise:   \delta_i - \nabla J_i . std_i z_i, the noise of the state;                 (3)
    gradient:   (3), and the mean over the noise of the action in closed form: by Stein's identity
                E[\delta_i \nabla log pi_i] = E[2 rate_i dt_i (s_i - \mu_i) + action_gain_i
                \nabla J(t_{i+1}, x_{i+1})] . \nabla \mu_i.                                (4)

(4) needs the gradient of the learned value, never that of the reward. The value at the last time is
the reward itself; the network is fitted to it there too.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ctrl_jax._numerics import discounted_sums
from ctrl_jax._typing import Model
from ctrl_jax.algorithms.diffusion.problem import Batch
from ctrl_jax.algorithms.q_learning.episodes import Transition, penalty_rates
from ctrl_jax.algorithms.q_learning.problem import Coefficients, RewardDirection
from ctrl_jax.losses import q_learning

Estimator = Literal["difference", "pathwise", "gradient"]


class Block(NamedTuple):
    """Consecutive transitions of a batch of episodes.

    Fields:
        coefficients: of each step, (k,).
        transitions: (k, batch, ...).
        end: state after the last of them.
        end_time: its forward time.
        end_value: w h(end) where the episodes are over; anything elsewhere.
        over: whether they are.
    """

    coefficients: Coefficients
    transitions: Transition
    end: Float[Array, "batch ..."]
    end_time: Float[Array, ""]
    end_value: Float[Array, " batch"]
    over: Bool[Array, ""]


class ActorCritic(NamedTuple):
    """The two models, their noise removal and their memory.

    Fields:
        policy: mean of the action.
        value: J(t, x, *conditions).
        estimator: `difference`, (3) or (4).
        trace: of (1).
    """

    policy: Model
    value: Model
    estimator: Estimator
    trace: float


class ValueAlong(NamedTuple):
    """The value at the k + 1 states of a block, what moved it, and its gradients where needed."""

    values: Float[Array, "points batch"]
    increments: Float[Array, "k batch"] | float
    gradients: Float[Array, "points batch ..."] | None


def block_loss(
    params: tuple, models: ActorCritic, problem: RewardDirection, block: Block, batch: Batch
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Return the function whose descent is (2), summed over steps and averaged over episodes.

    Args:
        params: parameters of policy and value.
        models: the two models and the form of (2).
        problem: what is controlled.
        block: the transitions.
        batch: weights and conditions.
    """
    policy_params, value_params = params
    moved, steps = block.transitions, block.coefficients
    along = value_along(value_params, models, problem, block, batch)
    means = _apply(models.policy, policy_params, steps.time, moved.states, batch)
    rate, dt = steps.rate[:, None], steps.dt[:, None]
    theta, dimension = problem.temperature, moved.states[0, 0].size
    q = q_learning.gaussian_rate(_square(moved.actions - means), rate, dimension, temperature=theta)
    reward = -penalty_rates(steps.rate, moved, moved.actions)
    last = along.values[-1]
    end_value = jnp.where(block.over, block.end_value, jax.lax.stop_gradient(last))
    later = jnp.concatenate([along.values[1:-1], end_value[None]])
    values = along.values[:-1]
    residuals = q_learning.martingale_residual(values, later, reward, q, dt=dt) - along.increments
    sums = discounted_sums(residuals, models.trace)
    if along.gradients is None or models.estimator != "gradient":
        actor = q_learning.moment(sums, q / theta)
    else:
        pull = _over(steps.rate * steps.dt, means) * (moved.scores + moved.twins - 2 * means)
        pull += _over(steps.kernel.action_gain, means) * along.gradients[1:]
        actor = -_inner(jax.lax.stop_gradient(pull), means)
    critic = q_learning.moment(sums, values)
    ending = q_learning.moment(end_value - last, last)
    share = batch.weights / jnp.sum(batch.weights)
    loss = jnp.sum((actor + critic) @ share) + ending @ share
    metrics = {
        "residual/mean": jnp.mean(residuals @ share),
        "residual/rms": jnp.sqrt(jnp.mean(residuals**2 @ share)),
    }
    return loss, metrics


def value_along(
    params, models: ActorCritic, problem: RewardDirection, block: Block, batch: Batch
) -> ValueAlong:
    """Evaluate the value at every state of a block, with what the estimator needs of it."""
    moved = block.transitions
    states = jnp.concatenate([moved.states, block.end[None]])
    times = jnp.append(block.coefficients.time, block.end_time)

    def values_of(states):
        return _apply(models.value, params, times, states, batch)

    if models.estimator == "gradient":
        values, pull_back = jax.vjp(values_of, states)
        gradients = jax.lax.stop_gradient(pull_back(jnp.ones_like(values))[0])
        return ValueAlong(values, _inner(gradients[:-1], moved.noise), gradients)
    if models.estimator == "pathwise" and not problem.probability_flow:
        noise = jnp.concatenate([moved.noise, jnp.zeros_like(block.end)[None]])
        values, increments = jax.jvp(values_of, (states,), (noise,))
        return ValueAlong(values, increments[:-1], None)
    return ValueAlong(values_of(states), 0.0, None)


def _apply(model: Model, params, times, states, batch):
    """Evaluate a model at (k, batch, ...) states in one call."""
    k, size = states.shape[:2]
    t = jnp.repeat(times, size)
    x = states.reshape(k * size, *states.shape[2:])
    conditions = tuple(jnp.tile(c, (k,) + (1,) * (c.ndim - 1)) for c in batch.gathered())
    if model.observe is not None:
        x = model.observe(t, x, *conditions)
    result = model.apply(params, t, x, *conditions)
    return result.reshape(k, size, *result.shape[1:])


def _square(x):
    return _inner(x, x)


def _inner(x, y):
    return jnp.sum((x * y).reshape(*x.shape[:2], -1), axis=2)


def _over(coefficient, x):
    return coefficient.reshape((-1,) + (1,) * (x.ndim - 1))
