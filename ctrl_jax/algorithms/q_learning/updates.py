r"""From a batch of episodes to moved learners, in the two ways of little q-learning.

`whole` runs whole episodes and then takes some updates on all of their transitions; `online` takes
one after every step, as time goes on, and stores nothing of it. Both call `update`, one optimizer
step of policy and value on a block of transitions (`residuals`).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool

from ctrl_jax._numerics import failure_of
from ctrl_jax.algorithms.base import Learner, Metrics, apply_gradient
from ctrl_jax.algorithms.diffusion.problem import Batch
from ctrl_jax.algorithms.q_learning.episodes import Episodes, advance, run_episodes
from ctrl_jax.algorithms.q_learning.problem import Coefficients, RewardDirection
from ctrl_jax.algorithms.q_learning.residuals import ActorCritic, Block, block_loss

Learners = dict[str, Learner]
"""The learners "policy" and "value"."""

Collected = tuple[Learners, Episodes, Bool[Array, ""], Metrics]
"""Moved learners, the episodes, whether every update was finite, and metrics over the updates."""


class EpisodeUpdates(NamedTuple):
    """The two ways from learners and a key to moved learners, episodes and metrics."""

    problem: RewardDirection
    models: ActorCritic
    optimizers: dict[str, optax.GradientTransformation]

    def whole(self, key: Array, learners: Learners, batch: Batch, *, epochs: int) -> Collected:
        """Run whole episodes, then update `epochs` times on all of their transitions."""
        params = learners["policy"].params
        episodes = run_episodes(key, self.problem, self.models.policy, params, batch)
        block = Block(
            coefficients=self.problem.coefficients(),
            transitions=episodes.transitions,
            end=episodes.last,
            end_time=self.problem.forward_times()[-1],
            end_value=episodes.values,
            over=jnp.asarray(True),
        )

        def body(learners, _):
            return self.update(learners, block, batch)

        learners, history = jax.lax.scan(body, learners, length=epochs)
        return learners, episodes, *_over_updates(*history)

    def online(self, key: Array, learners: Learners, batch: Batch) -> Collected:
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
                learners["policy"].params,
                coefficients,
                x,
                batch,
            )
            block = self.one_step(step, coefficients, transition, moved, end_time, batch)
            learners, found = self.update(learners, block, batch)
            return (moved, learners), (transition, block.end_value, found)

        inputs = (jnp.arange(self.problem.steps), self.problem.coefficients(), times[1:])
        (last, learners), (transitions, values, history) = jax.lax.scan(
            body, (x_0, learners), inputs
        )
        failed_at = failure_of(jnp.concatenate([transitions.states, last[None]]))
        episodes = Episodes(transitions, last, values[-1], failed_at)
        return learners, episodes, *_over_updates(*history)

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
        self, learners: Learners, block: Block, batch: Batch
    ) -> tuple[Learners, tuple[Array, Metrics]]:
        """Take one optimizer step of policy and value on a block; say whether both were finite."""
        params = (learners["policy"].params, learners["value"].params)
        gradients, metrics = jax.grad(block_loss, has_aux=True)(
            params, self.models, self.problem, block, batch
        )
        moved, finite = {}, jnp.asarray(True)
        for name, gradient in zip(("policy", "value"), gradients, strict=True):
            moved[name], ok = apply_gradient(learners[name], gradient, self.optimizers[name])
            finite &= ok
            metrics[f"{name}/gradient_norm"] = optax.tree.norm(gradient)
        return moved, (finite, metrics)


def _over_updates(finite, history):
    return jnp.all(finite), jax.tree.map(jnp.mean, history)
