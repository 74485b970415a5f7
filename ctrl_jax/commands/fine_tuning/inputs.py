"""What a run reads before it writes anything: prompts, model and rewards, and conditions of them.

Every distinct text is encoded once, on the way in, after which the encoders leave the device. The
conditions stay on the host, and an update is handed the rows of its own prompts.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ctrl_jax._checks import check_unused, refuse
from ctrl_jax.algorithms import Batch
from ctrl_jax.commands.fine_tuning.config import OF_PIPELINE, Config
from ctrl_jax.commands.fine_tuning.of_pipeline import load_of_pipeline
from ctrl_jax.commands.fine_tuning.of_run import is_run, load_of_run
from ctrl_jax.commands.fine_tuning.prompts import Given, read_given
from ctrl_jax.commands.fine_tuning.reward_scale import Summing
from ctrl_jax.commands.fine_tuning.rewarding import OWN
from ctrl_jax.commands.fine_tuning.rewards import RewardSet, check_pictures, read_rewards
from ctrl_jax.commands.fine_tuning.scoring import reading
from ctrl_jax.commands.fine_tuning.subject import Subject
from ctrl_jax.data.prompts import distinct
from ctrl_jax.runtime import check_batch


class Column(NamedTuple):
    """An array of conditions: rows of texts, and which of them each prompt has."""

    rows: np.ndarray
    index: np.ndarray

    def of(self, prompts: np.ndarray) -> np.ndarray:
        """Return the rows of prompts."""
        return self.rows[self.index[prompts]]


class Inputs(NamedTuple):
    """What a run reads.

    Fields:
        subject: what is fine-tuned.
        given: the prompts.
        rewards: what is trained on.
        held_out: what is measured beside.
        network: conditions of the network, by the numbers of ``given.all``.
        read: those of the rewards.
        read_held_out: those of the held-out rewards.
        summing: of the rewards.
        scale: of guidance.
    """

    subject: Subject
    given: Given
    rewards: RewardSet
    held_out: RewardSet
    network: tuple[Column, ...]
    read: tuple[Column, ...]
    read_held_out: tuple[Column, ...]
    summing: Summing
    scale: float

    def batch(self, prompts: np.ndarray, group: int, *, held_out: bool = False) -> Batch:
        """Return a batch of trajectories.

        Args:
            prompts: numbers of prompts, a row of conditions for each.
            group: trajectories of each.
            held_out: whether those of the held-out rewards are there too.
        """
        columns = (*self.network, *self.read, *(self.read_held_out if held_out else ()))
        rows: Any = np.repeat(np.arange(len(prompts), dtype=np.int32), group)
        conditions: Any = tuple(column.of(prompts) for column in columns)
        weights: Any = np.ones(len(rows), np.float32)
        ids: Any = prompts[rows].astype(np.int32)
        return Batch(weights, conditions, ids, rows)


def load_inputs(config: Config, mesh: Mesh) -> Inputs:
    """Read prompts, model and rewards.

    Raises:
        ValueError: a file or an option that does not fit the others.
    """
    check_batch(mesh, config.batch, "batch")
    ours = is_run(config.model)
    check_prompts_wanted(config, ours)
    given = read_given(config.prompts, config.validation_prompts, shown=config.evaluation.prompts)
    if not ours:
        check_groups(config, len(given.train))
    read = partial(read_rewards, options=config.rewarding.outside, dtype=config.run.dtype)
    rewards = read(config.reward)
    held_out = read(config.held_out_reward, option="held_out_reward")
    return (_of_run if ours else partial(_of_pipeline, mesh=mesh))(config, given, rewards, held_out)


def _of_run(config: Config, given: Given, rewards: RewardSet, held_out: RewardSet) -> Inputs:
    for option, found in (("reward", rewards), ("held_out_reward", held_out)):
        if names := reading(found):
            rule = "it reads prompts, which a run of ours has none of"
            raise refuse(option, names[0], rule, "take another")
    subject = load_of_run(config)
    check_rewards(subject, rewards, held_out)
    summing = config.rewarding.summing(rewards.weights, config.method.algorithm)
    return Inputs(subject, given, rewards, held_out, (), (), (), summing, 1.0)


def _of_pipeline(
    config: Config, given: Given, rewards: RewardSet, held_out: RewardSet, mesh: Mesh
) -> Inputs:
    texts, index = distinct(prompt.text for prompt in given.all)
    negatives = [config.negative if p.negative is None else p.negative for p in given.all]
    absent = [*dict.fromkeys(negatives)]
    subject, tables = load_of_pipeline(config, mesh, [*texts, *absent])
    check_rewards(subject, rewards, held_out)
    network = [Column(table, index) for table in tables]
    if config.sampler.scale != 1:
        places = np.asarray([len(texts) + absent.index(text) for text in negatives])
        network += [Column(table, places) for table in tables]
    ours, beside = (_columns(found, texts, index) for found in (rewards, held_out))
    summing = config.rewarding.summing(rewards.weights, config.method.algorithm)
    scale = config.sampler.scale
    return Inputs(subject, given, rewards, held_out, tuple(network), ours, beside, summing, scale)


def check_prompts_wanted(config: Config, ours: bool) -> None:
    """Raise ValueError for a pipeline without prompts, or a run of ours with what it ignores."""
    if ours:
        check_unused(config, OF_PIPELINE, "a run of ours has no use for it")
        guided = ("guidance", "guidance_passes")
        check_unused(config.sampler, guided, "a run of ours has no prompts to be guided by")
    elif config.prompts is None:
        rule = "a text-to-image model needs some"
        raise refuse("prompts", None, rule, "give --prompts FILE, a prompt on each line")


def check_groups(config: Config, prompts: int) -> None:
    """Raise ValueError where an algorithm would compare a picture with none of its prompt."""
    alone = config.together == 1 and prompts > 1
    if config.method.algorithm in OWN and alone and not config.rewarding.reward_statistics.buffer:
        rule = f"{config.method.algorithm} compares the pictures of one prompt"
        if config.batch == 1:
            raise refuse("batch", 1, rule, "give 8 or more")
        raise refuse("group", 1, rule, "give 4 or more, a divisor of --batch")


def check_rewards(subject: Subject, rewards: RewardSet, held_out: RewardSet) -> None:
    """Raise ValueError unless the rewards on the device take the pictures of the model."""
    latents = jax.ShapeDtypeStruct((1, *subject.shape), jnp.float32)
    _, height, width, _ = jax.eval_shape(subject.decode, subject.frozen, latents).shape
    check_pictures(rewards, height, width)
    check_pictures(held_out, height, width, option="held_out_reward")


def _columns(found: RewardSet, texts: Sequence[str], index: np.ndarray) -> tuple[Column, ...]:
    return tuple(Column(np.asarray(rows), index) for rows in found.encode(texts).values())
