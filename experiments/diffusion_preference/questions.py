"""What annotators are asked about samples of the pretrained model, before any fine-tuning."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import Pairs, make_reward_learning
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from ctrl_jax.networks import ValueMLP, as_model
from experiments.diffusion_preference.annotators import (
    Opinions,
    estimate_dispersion,
    make_annotator,
)
from experiments.diffusion_preference.world import CLASSES, World, draw_base, label_batch

BATCH = 256  # comparisons per update of the reward network


class Questions(NamedTuple):
    """Pairs of samples of the pretrained model, classes in turn, and their gold rewards.

    Fields:
        first, second: images, (number, ...).
        rewards: of both, (2, number).
    """

    first: np.ndarray
    second: np.ndarray
    rewards: np.ndarray


def draw_questions(world: World, key: jax.Array, number: int) -> Questions:
    """Return so many pairs; the annotators are not asked yet."""
    images, rewards = draw_base(world, key, 2 * -(-number // CLASSES))

    def in_turn(values):
        halves = np.split(values.swapaxes(0, 1), 2)
        return [half.reshape(-1, *values.shape[2:])[:number] for half in halves]

    (first, second), pair = in_turn(images), in_turn(rewards)
    return Questions(first, second, np.stack(pair))


def ask_twice(opinions: Opinions, questions: Questions, keys: jax.Array) -> np.ndarray:
    """Return the dispersion of each class, (seeds, classes), as two annotators per pair tell it."""
    number = len(questions.first) // CLASSES * CLASSES
    batch = label_batch(number)
    first, second = jnp.asarray(questions.rewards[:, :number])

    @jax.vmap
    def alike(key, dispersion):
        annotator = make_annotator(opinions.law, opinions.ranks, dispersion)
        one, two = (annotator(k, first, second, batch) for k in jax.random.split(key))
        return jnp.mean((one == two).reshape(-1, CLASSES), axis=0)

    share = np.asarray(alike(keys, jnp.asarray(opinions.dispersion)))
    return estimate_dispersion(opinions.law, opinions.ranks, share)


def reward_model(world: World) -> Model:
    """Return a network of an image (or state) and its label: a reward, or a value."""
    return as_model(
        lambda rngs: ValueMLP(world.shape, width=64, depth=1, classes=CLASSES, rngs=rngs)
    )


def learn_reward(
    world: World,
    opinions: Opinions,
    questions: Questions,
    unasked: Questions,
    keys: jax.Array,
    updates: int,
) -> tuple[Any, np.ndarray]:
    """Fit a reward to one answer per question, by Bradley and Terry's likelihood, for every seed.

    Args:
        world: the digits, or a Gaussian with a quadratic reward.
        opinions: of the annotators.
        questions: what they are asked, once.
        unasked: pairs that nobody compares, for the share below.
        keys: one per seed.
        updates: of the reward.

    Returns:
        Parameters of `reward_model`, a leading axis of seeds, and the share of the unasked pairs
        of each class that the reward orders as the gold one does.
    """
    model = reward_model(world)
    optimizer = adam(make_schedule(1e-3, updates), weight_decay=1e-2)
    algorithm = make_reward_learning(model, optimizer)
    batch = label_batch(len(questions.first))
    labels = batch.conditions[0]
    first, second, rewards = (jnp.asarray(part) for part in questions)
    checked = [jnp.asarray(part) for part in unasked]
    checked_labels = label_batch(len(unasked.first)).conditions[0]

    @jax.jit
    @jax.vmap
    def fit(key, dispersion):
        init_key, answer_key, row_key = jax.random.split(key, 3)
        annotator = make_annotator(opinions.law, opinions.ranks, dispersion)
        wins = annotator(answer_key, rewards[0], rewards[1], batch)
        wins = wins.reshape(-1, *[1] * (first.ndim - 1))
        chosen, rejected = jnp.where(wins, first, second), jnp.where(wins, second, first)

        def body(state, key):
            rows = jax.random.randint(key, (BATCH,), 0, len(first))
            pairs = Pairs(chosen[rows], rejected[rows], (labels[rows],))
            return algorithm.step(state, pairs)[0], None

        keys = jax.random.split(row_key, updates)
        state, _ = jax.lax.scan(body, algorithm.init(init_key), keys)
        one, two = (
            model.apply(state.params, jnp.zeros(()), x, checked_labels) for x in checked[:2]
        )
        right = (one > two) == (checked[2][0] > checked[2][1])
        members = checked_labels[:, None] == jnp.arange(CLASSES)[None]
        return state.params, jnp.sum(right[:, None] * members, axis=0) / members.sum(axis=0)

    params, right = fit(keys, jnp.asarray(opinions.dispersion))
    return params, np.asarray(right)
