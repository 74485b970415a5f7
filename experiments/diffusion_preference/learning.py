"""The two ways of learning from comparisons: of own paths, and of real images."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax.runtime import progress
from experiments.diffusion_preference import questions
from experiments.diffusion_preference.annotators import Opinions, draw_opinions
from experiments.diffusion_preference.claims import Curve, curves_of
from experiments.diffusion_preference.config import PPO, Config
from experiments.diffusion_preference.evaluation import GROUPS, Measured, make_evaluation, measure
from experiments.diffusion_preference.methods import COMPARING, beta_of
from experiments.diffusion_preference.training import (
    Name,
    make_runs,
    train_offline,
    train_online,
    train_ppo,
)
from experiments.diffusion_preference.world import CLASSES, World, make_world
from experiments.study import Conduct

SKIPPED = np.empty((), np.int64)
"""What a number of skipped updates is kept as."""


class Learned(NamedTuple):
    """What one way of learning left.

    Fields:
        found: measures of every run.
        snapshots: comparisons so far, and measures of every method then.
        samples: of the pretrained model, and of every method at the lowest temperature in the first
            seed, by name.
        facts: metrics of results.json beside the measures.
        params: of every run.
    """

    found: list[Measured]
    snapshots: list[tuple[int, dict[str, Curve]]]
    samples: dict[str, np.ndarray]
    facts: dict[str, Any]
    params: Any


def set_up(config: Config, study: Conduct) -> tuple[World, Opinions, jax.Array]:
    """Return the world, who is asked in it, and one key per seed."""
    seeds = [config.run.seed + s for s in range(config.seeds)]
    with progress(1, "base model", enabled=config.run.progress) as show:
        world = make_world(
            config.trained,
            pretraining=config.training.pretraining_steps,
            width=config.training.width,
            steps=config.solver_steps,
            number=config.base_samples,
            seed=config.run.seed,
            study=study,
        )
        show(1)
    opinions = draw_opinions(
        config.law, config.ranks, config.agreed, config.divided, seeds, CLASSES
    )
    return world, opinions, jnp.stack([jax.random.key(s) for s in seeds])


def learn_online(
    config: Config, world: World, opinions: Opinions, keys: jax.Array, study: Conduct
) -> Learned:
    """Train on comparisons of own paths, and PPO on a reward from as many comparisons."""
    training, rate = config.budget(), config.rates()
    names = config.names(COMPARING)
    estimated, facts = _estimate(config, world, opinions)
    runs = make_runs(names, opinions, training, config.agreed, estimated, keys)
    watch = Watch(config, world)

    def train():
        with progress(training.updates, "own paths", enabled=config.run.progress) as watch.show:
            params, history = train_online(world, opinions, runs, training, rate.online, watch)
        return params, _skipped(history), watch.drawn

    like = (_params_of(world, runs.key), SKIPPED, watch.like(len(names)))
    params, skipped, drawn = study.once("online", train, like)
    facts["skipped"] = int(skipped)
    snapshots = [
        (update * training.pairs, curves_of(measure(world, opinions, names, *found)))
        for update, found in zip(watch.stops, drawn, strict=True)
    ]
    ppo_names = config.names(PPO)
    if ppo_names:
        ppo_params, ppo_facts = _learn_ppo(config, world, opinions, ppo_names, keys, study)
        names, facts = [*names, *ppo_names], facts | ppo_facts
        params = jax.tree.map(lambda *leaves: np.concatenate(leaves), params, ppo_params)
    keep = partial(study.once, "online-samples")
    found, samples = examine(config, world, opinions, names, params, keep)
    return Learned(found, snapshots, samples, facts, params)


def learn_offline(
    config: Config, world: World, opinions: Opinions, keys: jax.Array, study: Conduct
) -> Learned:
    """Train on as many comparisons of real images."""
    training = config.budget()
    names = config.names(COMPARING)
    estimated, _ = _estimate(config, world, opinions)
    runs = make_runs(names, opinions, training, config.agreed, estimated, keys)
    total, rate = training.offline_updates, config.rates().offline

    def train():
        with progress(total, "pairs of data", enabled=config.run.progress) as show:
            params, history = train_offline(
                world, opinions, runs, training, rate, lambda k, params: show(k)
            )
        return params, _skipped(history)

    params, skipped = study.once("offline", train, (_params_of(world, runs.key), SKIPPED))
    keep = partial(study.once, "offline-samples")
    found, samples = examine(config, world, opinions, names, params, keep)
    return Learned(found, [], samples, {"skipped": int(skipped)}, params)


def _params_of(world: World, keys: jax.Array) -> Any:
    """Return shapes and types of the parameters of runs, one for each key."""
    return jax.eval_shape(jax.vmap(world.policy.init), keys)


def _skipped(history: dict[str, np.ndarray]) -> np.ndarray:
    """Return how many updates of all runs were skipped."""
    return np.asarray(history["update/skipped"][:, -1].sum(), SKIPPED.dtype)


def examine(
    config: Config,
    world: World,
    opinions: Opinions,
    names: Sequence[Name],
    params: Any,
    keep: Callable,
) -> tuple[list[Measured], dict[str, np.ndarray]]:
    """Return the measures of every run, and samples of the first seed, by method.

    With the samples go those of the pretrained model, of the same noise. What is drawn is kept by
    `keep`, a `Conduct.once` of it.
    """
    key = jax.random.key(config.run.seed + 4)
    start = world.policy.init(key)
    every = jax.tree.map(lambda runs, first: np.concatenate([runs, first[None]]), params, start)
    coldest = min(config.temperatures)
    shown = {"pretrained": len(names)} | {
        name.method: i
        for i, name in enumerate(names)
        if (name.temperature, name.seed) == (coldest, 0)
    }

    def draw():
        samples, rewards, kls = make_evaluation(world, config.samples)(key, every)
        return samples[[*shown.values()]], rewards[:-1], kls[:-1]

    each = (CLASSES, config.samples)
    shapes = ((len(shown), *each, *world.shape), (len(names), *each), (len(names), *each))
    samples, *drawn = keep(draw, [np.empty(shape, np.float32) for shape in shapes])
    return measure(world, opinions, names, *drawn), dict(zip(shown, samples, strict=True))


class Watch:
    """Draws from all runs now and then in the course of training; a `training.Show`."""

    def __init__(self, config: Config, world: World):
        self.key = jax.random.key(config.run.seed + 5)
        self.number = max(1, config.samples // 8)
        self.evaluate = make_evaluation(world, self.number)
        stops = np.linspace(0, config.budget().updates, config.snapshots + 1).astype(int)
        self.stops = sorted({int(stop) for stop in stops if stop > 0})
        self.drawn: list[np.ndarray] = []
        self.show: Callable[[int], None] = lambda update: None

    def like(self, runs: int) -> list[np.ndarray]:
        """Return what `drawn` will be like: rewards and path KL at every stop."""
        return [np.empty((2, runs, CLASSES, self.number), np.float32) for _ in self.stops]

    def __call__(self, update: int, params: Any) -> None:
        """Draw, if it is time to."""
        if update in self.stops:
            _, rewards, kls = self.evaluate(self.key, params)
            self.drawn.append(np.stack([rewards, kls]))
        self.show(update)


def _estimate(
    config: Config, world: World, opinions: Opinions
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the dispersion by repeated questions, and what is to be said of it."""
    draw_key, ask_key = jax.random.split(jax.random.key(config.run.seed + 3))
    asked = questions.draw_questions(world, draw_key, config.budget().asked_twice())
    estimated = questions.ask_twice(opinions, asked, jax.random.split(ask_key, config.seeds))
    facts = {
        f"dispersion/estimated/{group}": float(estimated[mask].mean())
        for group, mask in zip(GROUPS, (opinions.agreed, ~opinions.agreed), strict=True)
    }
    return estimated, facts


def _learn_ppo(
    config: Config,
    world: World,
    opinions: Opinions,
    names: Sequence[Name],
    keys: jax.Array,
    study: Conduct,
) -> tuple[Any, dict[str, Any]]:
    """Return the parameters of PPO's runs, and what is to be said of them."""
    rows = np.asarray([name.seed for name in names])
    like = (_params_of(world, keys[rows]), SKIPPED, np.empty((config.seeds, CLASSES), np.float32))
    train = partial(_train_ppo, config, world, opinions, names, keys)
    params, skipped, right = study.once("ppo", train, like)
    facts: dict[str, Any] = {"skipped/ppo": int(skipped)}
    for group, mask in zip(GROUPS, (opinions.agreed, ~opinions.agreed), strict=True):
        facts[f"learned_reward/accuracy/{group}"] = float(np.nanmean(right[mask]))
    return params, facts


def _train_ppo(
    config: Config, world: World, opinions: Opinions, names: Sequence[Name], keys: jax.Array
) -> tuple[Any, np.ndarray, np.ndarray]:
    """Return parameters, the updates skipped, and how often the learned reward is right."""
    training, seeds = config.budget(), config.seeds
    draw_key, check_key, learn_key = jax.random.split(jax.random.key(config.run.seed + 6), 3)
    asked = questions.draw_questions(world, draw_key, training.comparisons())
    unasked = questions.draw_questions(world, check_key, max(1, training.comparisons() // 5))
    learn_keys = jax.random.split(learn_key, seeds)
    reward, right = questions.learn_reward(
        world, opinions, asked, unasked, learn_keys, training.reward_updates
    )
    rows = np.asarray([name.seed for name in names])
    gold = np.asarray([name.method == "ppo_gold" for name in names])
    penalties = [
        name.temperature
        if name.method == "ppo_gold"
        else beta_of("dpo", config.law, config.ranks, config.agreed, name.temperature)
        for name in names
    ]
    with progress(training.updates, "PPO", enabled=config.run.progress) as show:
        params, history = train_ppo(
            world,
            (
                jnp.asarray(penalties, jnp.float32),
                jax.tree.map(lambda leaf: leaf[rows], reward),
                jnp.asarray(gold),
                keys[rows],
            ),
            training,
            config.rates().ppo,
            lambda k, params: show(k),
        )
    return params, _skipped(history), right
