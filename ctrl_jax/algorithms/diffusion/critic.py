r"""The value network of a fine-tuning run: evaluated along trajectories, fitted to their returns.

Fitting minimizes the martingale loss (`losses.value`) of the penalized return to go,

    E \sum_i (R - lambda \sum_{j>=i} KL_j - V(t_i, x_i))^2 / 2,                            (1)

over minibatches of grid points, the terminal one included.
"""

import dataclasses
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from ctrl_jax._checks import check_count, check_fields, refuse
from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import Learner, Metrics, apply_gradient
from ctrl_jax.algorithms.diffusion.policy_update import arrange, minibatch_order, minibatch_passes
from ctrl_jax.algorithms.diffusion.problem import DiffusionControl, Rollout, along_path, path_price
from ctrl_jax.losses import advantage, value


@dataclasses.dataclass(frozen=True)
class ValueUpdate:
    """How the value learns from one batch of trajectories.

    Args:
        epochs: passes over the grid points.
        minibatches: optimizer steps per pass, at most the number of solver steps + 1.
    """

    epochs: int = 2
    minibatches: int = 5

    def __post_init__(self):
        check_fields(self, check_count, "epochs", "minibatches")

    def check_steps(self, steps: int) -> None:
        """Raise ValueError where there are more minibatches than grid points."""
        if self.minibatches > steps + 1:
            rule = f"there are {steps + 1} grid points to divide"
            raise refuse("the value's minibatches", self.minibatches, rule, "give a smaller one")


class Critic(NamedTuple):
    """A value network and how it learns.

    Fields:
        model: V(t, x, *conditions), one value per example.
        optimizer: optax transformation.
        update: how it learns from one batch of trajectories.
    """

    model: Model
    optimizer: optax.GradientTransformation
    update: ValueUpdate = ValueUpdate()


class Evaluated(NamedTuple):
    """The critic along a rollout, time-major.

    Fields:
        observations: what the value network sees of every state, x_i itself by default; an array
            (points, batch, ...) or a tree of such arrays.
        values: V(t_i, x_i) for i < n.
        expected: V(t_{i+1}, .) where its gradient is needed; None where it is not.
        gradients: its gradient there; None likewise.
    """

    observations: Any
    values: Float[Array, "steps batch"]
    expected: Float[Array, "steps batch"] | None
    gradients: Float[Array, "steps batch ..."] | None


def evaluate_critic(
    critic: Critic,
    learner: Learner,
    problem: DiffusionControl,
    rollout: Rollout,
    gradient_at: Literal["next", "mean"] | None,
) -> Evaluated:
    """Evaluate the critic along a rollout, and its gradient at x_{i+1} or m_i where asked for."""

    def observe(t, x, *conditions):
        return x if critic.model.observe is None else critic.model.observe(t, x, *conditions)

    value_fn = partial(critic.model.apply, learner.params)

    def value_and_gradient(t, x, *conditions):
        def value_of(x):
            seen = observe(t, x, *conditions)
            return value_fn(t, seen, *conditions), seen

        values, pull_back, seen = jax.vjp(value_of, x, has_aux=True)
        return values, pull_back(jnp.ones_like(values))[0], seen

    times, states = problem.forward_times(), rollout.states
    along = partial(along_path, batch=rollout.batch, rows=problem.together)
    if gradient_at == "next":
        # The gradient's pass observes and evaluates all states but the first.
        expected, gradients, seen = along(value_and_gradient, times[1:], states[1:])
        first = along(observe, times[:1], states[:1])
        value = along(value_fn, times[:1], first)
        observations = jax.tree.map(lambda *parts: jnp.concatenate(parts), first, seen)
        values = jnp.concatenate([value, expected[:-1]])
        return Evaluated(observations, values, expected, gradients)
    observations = along(observe, times, states)
    values = along(value_fn, times[:-1], jax.tree.map(lambda seen: seen[:-1], observations))
    if gradient_at is None:
        return Evaluated(observations, values, None, None)
    means = states[1:] - _noise_step(problem, rollout)
    expected, gradients, _ = along(value_and_gradient, times[1:], means)
    return Evaluated(observations, values, expected, gradients)


def remove_martingale(
    advantages: Float[Array, "steps batch"],
    evaluated: Evaluated,
    problem: DiffusionControl,
    rollout: Rollout,
) -> Float[Array, "steps batch"]:
    r"""Return the advantages less what the critic knows of them: a control variate.

    The part \nabla V(t_{i+1}, m_i) . std_i z_i is a martingale increment whose contribution to the
    policy gradient is known without noise (`losses.policy.value_gradient` at m_i), and the baseline
    becomes V(t_{i+1}, m_i), the critic's own prediction from the same state. Both are functions of
    x_i times at most the noise, so the gradient's expectation does not change.
    """
    assert evaluated.expected is not None and evaluated.gradients is not None
    product = evaluated.gradients * _noise_step(problem, rollout)
    increment = jnp.sum(product.reshape(*advantages.shape, -1), axis=2)
    baseline = evaluated.expected - evaluated.values - path_price(problem, rollout)
    return advantages - baseline - increment


def _noise_step(problem, rollout):
    std = problem.kernel().std
    return std.reshape((-1,) + (1,) * (rollout.noise.ndim - 1)) * rollout.noise


def returns_from(
    problem: DiffusionControl, rollout: Rollout, rewards: Float[Array, " batch"]
) -> Float[Array, "points batch"]:
    """Return the penalized return from every grid point on; the last is the reward."""
    to_go = advantage.returns_to_go(-path_price(problem, rollout), rewards)
    return jnp.concatenate([to_go, rewards[None]])


def fit_critic(
    key: Array,
    critic: Critic,
    learner: Learner,
    problem: DiffusionControl,
    rollout: Rollout,
    evaluated: Evaluated,
    returns: Float[Array, "points batch"],
) -> tuple[Learner, Bool[Array, ""], Metrics]:
    """Minimize (1) over minibatches of the grid points of every trajectory.

    Args:
        key: PRNG key of the minibatches.
        critic: the value network.
        learner: its parameters and optimizer state.
        problem: gives the times.
        rollout: gives weights and conditions.
        evaluated: what the network sees of every state.
        returns: what it is to predict, as from `returns_from`.

    Returns:
        The learner, whether every update was finite, and metrics.
    """
    batch, update = rollout.batch, critic.update
    order_key, pass_key = jax.random.split(key)
    points, size = returns.shape
    order = minibatch_order(order_key, size, points, update.minibatches)
    seen, targets = jax.tree.map(
        lambda field: arrange(jnp.swapaxes(field, 0, 1), order), (evaluated.observations, returns)
    )
    times = problem.forward_times()[order.reshape(order.shape[0], -1)]
    k = order.shape[2]
    share = jnp.repeat(batch.weights / jnp.sum(batch.weights) / k, k, axis=0)

    def loss_fn(params, m):
        rows = jax.tree.map(lambda field: field[m], seen)
        predicted = critic.model.apply(params, times[m], rows, *batch.gathered(k))
        return jnp.sum(value.martingale(predicted, targets[m], weights=share))

    def body(learner, m):
        loss, gradient = jax.value_and_grad(loss_fn)(learner.params, m)
        learner, finite = apply_gradient(learner, gradient, critic.optimizer)
        return learner, (loss, finite)

    passes = minibatch_passes(pass_key, update.minibatches, update.epochs)
    learner, (losses, finite) = jax.lax.scan(body, learner, passes)
    explained = _explained_variance(returns[:-1], evaluated.values, batch.weights)
    metrics = {"value/loss": jnp.mean(losses), "value/explained_variance": explained}
    return learner, jnp.all(finite), metrics


def _explained_variance(returns, values, weights):
    """Share of the variance of the returns, over steps and trajectories, that the values hold.

    0 where the returns do not vary beyond rounding.
    """
    # Steps and trajectories stay two axes: joined, every device would hold all trajectories.
    share = weights / (jnp.sum(weights) * values.shape[0])

    def std(x):
        held = x - jnp.max(jnp.where(weights > 0, x, -jnp.inf))  # a constant is exactly 0
        return jnp.sqrt(jnp.sum(jnp.square(held - jnp.sum(held @ share)) @ share))

    largest = jnp.max(jnp.where(weights > 0, jnp.abs(returns), 0.0))
    whole = advantage.beyond_rounding(std(returns), largest)
    return jnp.where(
        whole == 0, 0.0, 1 - jnp.square(std(returns - values) / jnp.where(whole == 0, 1.0, whole))
    )
