r"""What is measured of a fine-tuned model, within each class.

| measure | what it is |
|---|---|
| reward | gold reward, in standard deviations of the pretrained model's samples of the class |
| kl | path KL from the pretrained model, in nats |
| ideal_kl | the least KL any model has at that reward (`metrics.frontier`) |
| objective | reward - temperature kl |
| majority | share of own samples that most annotators prefer to a pretrained one |
| annotators | share of annotators who prefer the own sample, over the same pairs |

The share of annotators is what there is to gain: with much dispersion it stays near a half.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax.algorithms import roll_out
from ctrl_jax.metrics import frontier
from experiments.diffusion_preference.annotators import Opinions, preferred
from experiments.diffusion_preference.training import Name
from experiments.diffusion_preference.world import CLASSES, World, by_class, label_batch

GROUPS = ("agreed", "divided")
MEASURES = ("reward", "kl", "ideal_kl", "objective", "majority", "annotators")


class Measured(NamedTuple):
    """One run: name to group to mean over the group's classes."""

    name: Name
    values: dict[str, dict[str, float]]


def make_evaluation(world: World, number: int):
    """Return ``evaluate(key, params)``: samples, rewards and path KL, (runs, classes, number).

    Args:
        world: the world.
        number: samples of each class and run.
    """
    problem, batch = world.problem(), label_batch(number * CLASSES)

    @jax.jit
    def simulate(key, params):
        reference = world.model.init(key)

        def one(params):
            found = roll_out(key, problem, world.policy, params, reference, batch)
            return found.states[-1], problem.rewards(found), found.path_kl

        return jax.lax.map(one, params)

    def evaluate(key: jax.Array, params: Any) -> tuple[np.ndarray, ...]:
        found = jax.device_get(simulate(key, params))
        return tuple(np.stack([by_class(run) for run in part]) for part in found)

    return evaluate


def measure(
    world: World,
    opinions: Opinions,
    names: Sequence[Name],
    rewards: np.ndarray,
    kls: np.ndarray,
) -> list[Measured]:
    """Return every measure of every run in the two groups of classes.

    Args:
        world: the world.
        opinions: of the annotators.
        names: of the runs.
        rewards: (runs, classes, number).
        kls: the same.
    """
    frontiers = [world.frontier(c) for c in range(CLASSES)]
    found = []
    for name, reward, kl in zip(names, rewards, kls, strict=True):
        base = world.base[:, : reward.shape[1]]
        phi = opinions.dispersion[name.seed][:, None]
        ahead = jnp.asarray(opinions.ranks * (reward - base), jnp.float32)
        share = preferred(opinions.law, ahead, jnp.broadcast_to(phi, ahead.shape))
        mean, path_kl = reward.mean(axis=1), kl.mean(axis=1)
        per_class = {
            "reward": mean,
            "kl": path_kl,
            "ideal_kl": np.asarray([ideal_kl(f, r) for f, r in zip(frontiers, mean, strict=True)]),
            "objective": mean - name.temperature * path_kl,
            "majority": (reward > base).mean(axis=1),
            "annotators": np.asarray(share, np.float64).mean(axis=1),
        }
        agreed = opinions.agreed[name.seed]
        masks = dict(zip(GROUPS, (agreed, ~agreed), strict=True))
        values = {
            m: {g: float(v[mask].mean()) for g, mask in masks.items()} for m, v in per_class.items()
        }
        found.append(Measured(name, values))
    return found


def ideal_kl(ideal: frontier.Frontier, reward: float) -> float:
    """Return the ideal KL at a mean reward; NaN beyond what enough samples of the base tell."""
    trusted = ideal.effective_samples >= 30
    rewards, kl = ideal.reward[trusted][::-1], ideal.kl[trusted][::-1]
    if reward > rewards[-1]:
        return float("nan")
    return float(np.interp(reward, rewards, kl, left=0.0))


def aimed_at(world: World, temperature: float) -> tuple[float, float]:
    """Return reward and KL of the tilt e^{R / temperature}, mean over the classes."""
    found = [frontier.ideal(world.base[c], np.asarray([temperature])) for c in range(CLASSES)]
    reward, kl = (float(np.mean([getattr(f, n)[0] for f in found])) for n in ("reward", "kl"))
    return reward, kl
