r"""From a batch of episodes to moved learners, in the two ways of little q-learning.

`whole` runs whole episodes and then takes some updates on all of their transitions; `online` takes
one after every step, as time goes on, and stores nothing of it. Both call `update`, one optimizer
step of policy and value on a block of transitions (`q_residuals`).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from ctrl_jax.algorithms.base import Learner, apply_gradient
from ctrl_jax.algorithms.diffusion.problem import Batch
from ctrl_jax.algorithms.q_learning.episodes import Episodes, advance, run_episodes
from ctrl_jax.algorithms.q_learning.problem import Coefficients, RewardDirection
from ctrl_jax.algorithms.q_learning.residuals import ActorCritic, Block, block_loss


class Learners(NamedTuple):
    """The two ways from learners and a key to moved learners, episodes and metrics."""

    problem: RewardDirection
    models: ActorCritic
    optimizer: optax.GradientTransformation
    value_optimizer: optax.GradientTransformation

    def whole(self, key: Array, policy: Learner, value: Learner, batch: Batch, *, epochs: int):
        """Run whole episodes, then update `epochs` times on all of their transitions."""
        episodes = run_episodes(key, self.problem, self.models.policy, policy.params, batch)
        block = Block(
            coefficients=self.problem.coefficients(),
            transitions=episodes.transitions,
            end=episodes.last,
            end_time=self.problem.forward_times()[-1],
            end_value=episodes.values,
            over=jnp.asarray(True),
        )

        def body(learners, _):
            policy, value = learners
            return self.update(policy, value, block, batch)

        learners, history = jax.lax.scan(body, (policy, value), length=epochs)
        return learners, episodes, _over_updates(history)

    def online(self, key: Array, policy: Learner, value: Learner, batch: Batch):
        """Update after every step of the episodes."""
        start_key, path_key = jax.random.split(key)
        x_0, times = self.problem.start(start_key, batch), self.problem.forward_times()

        def body(carry, inputs):
            x, learners = carry
            step, coefficients, end_time = inputs
            moved, transition = advance(
                jax.random.fold_in(path_key, step),
                self.problem,
                self.models.policy,
                learners[0].params,
                coefficients,
                x,
                batch,
            )
            block = self.one_step(step, coefficients, transition, moved, end_time, batch)
            learners, metrics = self.update(learners[0], learners[1], block, batch)
            return (moved, learners), (transition, block.end_value, metrics)

        inputs = (jnp.arange(self.problem.steps), self.problem.coefficients(), times[1:])
        (last, learners), (transitions, values, history) = jax.lax.scan(
            body, (x_0, (policy, value)), inputs
        )
        ok = jnp.isfinite(last).reshape(last.shape[0], -1).all(axis=1)
        return learners, Episodes(transitions, last, values[-1], ok), _over_updates(history)

    def one_step(self, step, coefficients: Coefficients, transition, end, end_time, batch) -> Block:
        """Return the block of one step; the reward is asked for after the last one only."""
        over = step == self.problem.steps - 1
        ended = jax.lax.cond(
            over,
            lambda: self.problem.end_values(end, batch),
            lambda: jnp.zeros(end.shape[0], end.dtype),
        )
        first = partial(jax.tree.map, lambda leaf: leaf[None])
        return Block(first(coefficients), first(transition), end, end_time, ended, over)

    def update(
        self, policy: Learner, value: Learner, block: Block, batch: Batch
    ) -> tuple[tuple[Learner, Learner], dict[str, Array]]:
        """Take one optimizer step of policy and value on a block."""
        params = (policy.params, value.params)
        gradients, metrics = jax.grad(block_loss, has_aux=True)(
            params, self.models, self.problem, block, batch
        )
        policy, policy_finite = apply_gradient(policy, gradients[0], self.optimizer)
        value, value_finite = apply_gradient(value, gradients[1], self.value_optimizer)
        finite: Bool[Array, ""] = policy_finite & value_finite
        metrics["update/finite"] = finite.astype(metrics["residual/mean"].dtype)
        metrics["policy/gradient_norm"] = optax.tree.norm(gradients[0])
        metrics["value/gradient_norm"] = optax.tree.norm(gradients[1])
        return (policy, value), metrics


def _over_updates(history):
    metrics = {name: jnp.mean(values) for name, values in history.items()}
    return metrics | {"update/finite": jnp.min(history["update/finite"])}
