"""What is measured of a policy, always on the same noise and prompts."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ctrl_jax._typing import Params
from ctrl_jax.algorithms import roll_out
from ctrl_jax.commands.fine_tuning.algorithms import make_problem, models_of
from ctrl_jax.commands.fine_tuning.config import Config
from ctrl_jax.commands.fine_tuning.inputs import Inputs
from ctrl_jax.commands.fine_tuning.scoring import Scores
from ctrl_jax.runtime import own_part, replicate, shard_batch

SALT = 1000  # from the seed of training to that of the evaluations


class Found(NamedTuple):
    """A policy on the prompts of the evaluations, pictures of one prompt after the other.

    Fields:
        pictures: (number, h, w, 3), bytes.
        rewards: every reward by its name, (number,).
        held_out: the same of those that are not trained on.
        kl: divergence of each path from the pretrained model, in nats.
        prompts: numbers of their prompts.
    """

    pictures: np.ndarray
    rewards: dict[str, np.ndarray]
    held_out: dict[str, np.ndarray]
    kl: np.ndarray
    prompts: np.ndarray

    def metrics(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Return the means by name.

        Args:
            weights: of the rewards in their sum.
        """
        total = sum(weights[name] * values for name, values in self.rewards.items())
        named = {f"reward/{name}/mean": values for name, values in self.rewards.items()}
        named |= {f"held_out/{name}/mean": values for name, values in self.held_out.items()}
        found = {"reward/mean": total, **named, "kl/path": self.kl}
        means = {name: float(np.mean(values, dtype=np.float64)) for name, values in found.items()}
        spread = diversity(self.pictures, self.prompts)
        return means if spread is None else means | {"diversity": spread}


Evaluate = Callable[[Params], Found]


def make_evaluation(
    config: Config, inputs: Inputs, frozen: Mapping[str, Any], mesh: Mesh
) -> Evaluate:
    """Return ``evaluate(params)``, one compiled program for as many pictures as a batch holds."""
    steps = config.evaluation_solver_steps or config.solver_steps
    subject = inputs.subject
    everywhere = NamedSharding(mesh, PartitionSpec())

    # Replicated results, which every process can read.
    @partial(jax.jit, out_shardings=everywhere)
    def measure(key, params, batch, frozen):
        scale, passes = inputs.scale, config.guidance_passes
        policy, reference = models_of(subject, frozen, scale=scale, passes=passes)
        problem = make_problem(config, subject, reference, None, steps)
        rollout = roll_out(key, problem, policy, params, (), batch)
        pictures = subject.decode(frozen, rollout.states[-1])
        before, conditions = len(inputs.network), batch.gathered()
        trained = Scores(subject, frozen, inputs.rewards, before)
        held_out = {**frozen, "rewards": frozen["held_out"]}
        beside = Scores(subject, held_out, inputs.held_out, before + len(inputs.read))
        return (
            jnp.floor(255 * pictures + 0.5).astype(jnp.uint8),
            trained.parts(pictures, *conditions),
            beside.parts(pictures, *conditions),
            rollout.path_kl,
        )

    shown, number = len(inputs.given.shown), config.evaluation.number
    prompts = np.repeat(np.arange(shown) + len(inputs.given.train), number)
    together = min(config.batch, -(-len(prompts) // mesh.shape["data"]) * mesh.shape["data"])
    key = jax.random.key(config.run.seed + SALT)

    def evaluate(params: Params) -> Found:
        parts = []
        for i, start in enumerate(range(0, len(prompts), together)):
            # The last batch is filled up, so that all are one program.
            rows = np.minimum(np.arange(start, start + together), len(prompts) - 1)
            batch = shard_batch(mesh, own_part(inputs.batch(prompts[rows], 1, held_out=True)))
            drawn = replicate(mesh, jax.random.fold_in(key, i))
            parts.append(jax.device_get(measure(drawn, params, batch, frozen)))
        pictures, rewards, held_out, kl = jax.tree.map(
            lambda *some: np.concatenate(some)[: len(prompts)], *parts
        )
        return Found(pictures, rewards, held_out, kl, prompts)

    return evaluate


def diversity(pictures: np.ndarray, prompts: np.ndarray) -> float | None:
    """Return the mean distance of two pictures of one prompt, per pixel, of [0, 1].

    It is the root of the mean square over pixels and colors; None where no prompt has two.
    """
    found = []
    for prompt in np.unique(prompts):
        own = pictures[prompts == prompt].reshape(np.sum(prompts == prompt), -1) / 255.0
        first, second = np.triu_indices(len(own), 1)
        found += [*np.sqrt(np.mean((own[first] - own[second]) ** 2, axis=1))]
    return float(np.mean(found)) if found else None
