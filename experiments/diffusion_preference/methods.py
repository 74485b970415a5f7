r"""The methods that learn from comparisons, and what each of them aims at.

With k ranks per unit of reward and alpha = -log phi of the classes on which people agree, beta is
what makes a method aim, on those, at the tilt e^{R / temperature}: exactly where its link is the
annotators' own, else by the slope of their log-odds far from a tie.

| method | link of beta m | beta under kendall | under spearman |
|---|---|---|---|
| dpo | sigmoid(beta m) | alpha k temperature | 2 alpha k temperature |
| theta | sigmoid(2 alpha(c) beta m) | k/2 temperature | k temperature |
| phi | g_{phi(c)}(beta m) | k temperature | 2 k temperature |

DPO so aims at temperature alpha / alpha(c) on a class of dispersion phi(c), which is higher where
people differ; theta and phi aim at the same one everywhere. ``phi_estimated`` is told what a part
of its comparisons, spent on asking twice, says of the dispersion. PPO on a reward learned by
Bradley and Terry's likelihood has DPO's beta for its penalty, and with it DPO's optimum.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Algorithm,
    Batch,
    DiffusionControl,
    PairBatch,
    PreferenceUpdate,
    make_offline_preference,
    make_online_preference,
)
from ctrl_jax.losses import preference
from ctrl_jax.processes import grids
from experiments.diffusion_preference.annotators import Law, make_annotator
from experiments.diffusion_preference.world import World
from experiments.directed_tasks import END, forward_process

COMPARING = ("dpo", "theta", "phi", "phi_estimated")
BETA = {
    "kendall": {"dpo": 1.0, "theta": 0.5, "phi": 1.0},
    "spearman": {"dpo": 2.0, "theta": 1.0, "phi": 2.0},
}
LIKE_DPO = float(np.exp(-0.5))  # the dispersion at which Mallows-theta is DPO
LEVELS = 1024  # of the log-SNR, between which offline times are interpolated


class Runs(NamedTuple):
    """What tells runs apart; every field may have a leading axis of runs.

    Fields:
        key: of the run.
        dispersion: of the annotators, (classes,).
        told: what the loss is told of it, (classes,).
        beta: inverse temperature.
        is_phi: whether the loss is Mallows-phi, else Mallows-theta.
        weights: of the pairs of a batch, (pairs,).
    """

    key: jax.Array
    dispersion: jax.Array
    told: jax.Array
    beta: jax.Array
    is_phi: jax.Array
    weights: jax.Array


def beta_of(method: str, law: Law, ranks: float, agreed: float, temperature: float) -> float:
    """Return beta by the table of this page; `agreed` is phi where people agree."""
    name = method.removesuffix("_estimated")
    alpha = -np.log(agreed) if name == "dpo" else 1.0
    return float(BETA[law][name] * alpha * ranks * temperature)


def online(
    problem: DiffusionControl,
    policy: Model,
    law: Law,
    ranks: float,
    run: Runs,
    optimizer: optax.GradientTransformation,
    config: PreferenceUpdate,
) -> Algorithm:
    """Return the algorithm of one run, which compares its own paths."""

    def loss_fn(chosen, rejected, batch: Batch):
        return _loss(run, chosen, rejected, batch.prompts)

    annotator = make_annotator(law, ranks, run.dispersion)
    return make_online_preference(
        problem, policy, optimizer, loss_fn, annotator=annotator, config=config
    )


def offline(
    world: World, run: Runs, optimizer: optax.GradientTransformation, average_decay: float
) -> Algorithm:
    """Return the algorithm of one run on pairs of data."""
    sample_times, nats = log_snr_times(world.shape)

    def loss_fn(chosen, rejected, batch: PairBatch):
        return _loss(run, chosen, rejected, batch.conditions[0])

    return make_offline_preference(
        forward_process(),
        world.policy,
        optimizer,
        loss_fn,
        sample_times=sample_times,
        nats=nats,
        average_decay=average_decay,
    )


def log_snr_times(shape: tuple[int, ...]) -> tuple[Callable[[Array, int], Array], Array]:
    r"""Return forward times uniform in the log-SNR, and what makes one of them a path.

    With u the log-SNR, (g/std)^2 dt = -du, and (3) of `losses.path_log_ratio` is the mean over such
    times of d |u range| times minus half the difference of the mean noise errors: with this factor
    beta means offline what it means online.
    """
    times = forward_process().horizon - grids.log_snr(forward_process(), LEVELS, end=END)
    ratio = forward_process().noise_to_signal(times)
    nats = 2 * jnp.log(ratio[0] / ratio[-1]) * math.prod(shape)

    def sample_times(key, size):
        levels = LEVELS * (jnp.arange(size) + jax.random.uniform(key, (size,))) / size
        return jnp.interp(levels, jnp.arange(LEVELS + 1), times)

    return sample_times, nats


def _loss(run: Runs, chosen, rejected, labels):
    """Return the loss of a run; both forms are computed, so that runs of either are one program."""
    told = run.told[labels]
    theta, phi = (
        preference.NAMED[name].loss(chosen, rejected, beta=run.beta, dispersion=told)
        for name in ("mallows_theta", "mallows_phi")
    )
    return jnp.where(run.is_phi, phi, theta)
