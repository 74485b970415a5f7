"""What is measured of a policy, always on the same noise and prompts."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ctrl_jax._errors import RunError, RunWarning
from ctrl_jax._typing import Params
from ctrl_jax.algorithms import roll_out
from ctrl_jax.commands.fine_tuning.algorithms import make_problem, models_of
from ctrl_jax.commands.fine_tuning.config import Config
from ctrl_jax.commands.fine_tuning.inputs import Inputs
from ctrl_jax.commands.fine_tuning.reward_exchange import as_shown, measured
from ctrl_jax.commands.fine_tuning.scoring import parts_of
from ctrl_jax.commands.fine_tuning.value import Unit
from ctrl_jax.runtime import on_mesh, own_part, replicate, shard_batch
from ctrl_jax.runtime.loop.signals import stop_point
from ctrl_jax.runtime.run.arrays import keep_arrays, kept_arrays

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

    def total(self, weights: Mapping[str, float]) -> np.ndarray:
        """Return the weighted sum of the rewards of each picture; NaN where one is missing."""
        parts = (weights[name] * self.rewards[name].astype(np.float64) for name in weights)
        return np.sum([*parts], axis=0)

    def metrics(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Return the means by name, without those that are missing.

        Args:
            weights: of the rewards in their sum.
        """
        found = {"reward/mean": self.total(weights), "kl/path": self.kl}
        found |= {f"reward/{name}/mean": values for name, values in self.rewards.items()}
        found |= {f"held_out/{name}/mean": values for name, values in self.held_out.items()}
        means = {name: float(np.mean(values, dtype=np.float64)) for name, values in found.items()}
        means = {name: mean for name, mean in means.items() if np.isfinite(mean)}
        spread = diversity(self.pictures, self.prompts)
        return means if spread is None else means | {"diversity": spread}

    def check(self) -> None:
        """Raise RunError where a picture has no number of a reward."""
        for name, values in (self.rewards | self.held_out).items():
            if not np.isfinite(values).all():
                text = f"the pictures of the pretrained model got no rewards of {name}"
                raise RunError(f"{text}; mend it and start with --resume latest")

    def unit(self, weights: Mapping[str, float]) -> Unit:
        """Return mean and spread of the reward."""
        total = self.total(weights)
        mean, std = float(total.mean()), float(total.std())
        if std > 1e-6 * abs(mean):
            return Unit(mean, std)
        text = f"the reward is {mean:g} for all {total.size} pictures of the pretrained model"
        warnings.warn(f"{text}; its unit is taken to be 1", RunWarning, stacklevel=2)
        return Unit(mean, 1.0)


Evaluate = Callable[[Params], Found]


def make_evaluation(
    config: Config, inputs: Inputs, frozen: Mapping[str, Any], mesh: Mesh
) -> Evaluate:
    """Return ``evaluate(params)``, one compiled program for as many pictures as a batch holds."""
    subject, before = inputs.subject, len(inputs.network)
    everywhere = NamedSharding(mesh, PartitionSpec())

    # Replicated results, which every process can read.
    @partial(jax.jit, out_shardings=everywhere)
    @partial(on_mesh, mesh)
    def measure(key, params, batch, frozen):
        scale, passes = inputs.scale, config.sampler.guidance_passes
        policy, reference = models_of(subject, frozen, scale=scale, passes=passes)
        steps = config.sampler.evaluated_steps
        problem = make_problem(config, subject, reference, steps, path_kl=True)
        rollout = roll_out(key, problem, policy, params, (), batch)
        pictures, conditions = subject.decode(frozen, rollout.states[-1]), batch.gathered()
        parts = [
            parts_of(rewards, frozen[name], pictures, conditions[start:])
            for name, rewards, start in (
                ("rewards", inputs.rewards, before),
                ("held_out", inputs.held_out, before + len(inputs.read)),
            )
        ]
        return as_shown(pictures)[0], *parts, rollout.path_kl

    shown, number = len(inputs.given.shown), config.evaluation.number
    prompts = np.repeat(np.arange(shown) + len(inputs.given.train), number)
    together = min(config.batch, -(-len(prompts) // mesh.shape["data"]) * mesh.shape["data"])
    key = jax.random.key(config.run.seed + SALT)

    def evaluate(params: Params) -> Found:
        parts = []
        for i, start in enumerate(range(0, len(prompts), together)):
            # The last batch is filled up, so that all are one program.
            rows = np.minimum(np.arange(start, start + together), len(prompts) - 1)
            batch = shard_batch(mesh, own_part(mesh, inputs.batch(prompts[rows], 1, held_out=True)))
            drawn = replicate(mesh, jax.random.fold_in(key, i))
            parts.append(jax.device_get(measure(drawn, params, batch, frozen)))
            stop_point()
        pictures, rewards, held_out, kl = jax.tree.map(
            lambda *some: np.concatenate(some)[: len(prompts)], *parts
        )
        texts = [inputs.given.all[number] for number in prompts]
        rewards |= measured(inputs.rewards.outside, pictures, texts)
        held_out |= measured(inputs.held_out.outside, pictures, texts)
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


def keep(path: Path, found: Found) -> None:
    """Write an evaluation to a file, whole or not at all."""
    named: Any = {"pictures": found.pictures, "kl": found.kl, "prompts": found.prompts}
    for group in ("rewards", "held_out"):
        named |= {f"{group}/{name}": values for name, values in getattr(found, group).items()}
    keep_arrays(path, named)


def kept(path: Path) -> Found | None:
    """Return the evaluation of a file; None where there is none that is whole."""
    arrays = kept_arrays(path)
    if arrays is None:
        return None
    rewards, held_out = (
        {n.removeprefix(f"{group}/"): a for n, a in arrays.items() if n.startswith(f"{group}/")}
        for group in ("rewards", "held_out")
    )
    return Found(arrays["pictures"], rewards, held_out, arrays["kl"], arrays["prompts"])
