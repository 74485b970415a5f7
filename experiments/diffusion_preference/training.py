"""All runs of an algorithm at once: vmapped over methods, temperatures and seeds, one program."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._checks import check_numbers, refuse
from ctrl_jax.algorithms import (
    Critic,
    PairBatch,
    PolicyUpdate,
    PreferenceUpdate,
    ValueUpdate,
    make_ppo,
)
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from ctrl_jax.rewards import learned
from experiments.diffusion_preference.annotators import Opinions, make_annotator
from experiments.diffusion_preference.methods import (
    COMPARING,
    LIKE_DPO,
    Runs,
    beta_of,
    offline,
    online,
)
from experiments.diffusion_preference.questions import reward_model
from experiments.diffusion_preference.world import CLASSES, World, label_batch

Show = Callable[[int, Any], None]
"""``show(update, params)``, called after every update with the averaged parameters."""


@dataclasses.dataclass(frozen=True)
class Training:
    """Budgets and optimizers of every method.

    Args:
        updates: updates online and of PPO, each on a fresh batch; --steps.
        pairs: comparisons per update; PPO has twice as many paths per update.
        epochs: updates on the same pairs, online.
        rate: peak step size online; 0.01 by default, 1e-4 with --trained network.
        ppo_rate: peak step size of PPO; 3e-3 by default, 3e-4 with --trained network.
        offline_updates: updates offline, on as many comparisons as there are online.
        offline_rate: peak step size offline; 0.01 by default, 1e-4 with --trained network.
        estimation: share of the comparisons of phi_estimated that tell it the dispersion.
        reward_updates: updates of the reward network of PPO.
        pretraining_steps: updates of the base model.
        width: half the hidden size of the base model.
    """

    updates: int = 60
    pairs: int = 200
    epochs: int = 1
    rate: float | None = None
    ppo_rate: float | None = None
    offline_updates: int = 400
    offline_rate: float | None = None
    estimation: float = 0.16
    reward_updates: int = 300
    pretraining_steps: int = 3000
    width: int = 48

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_numbers(self, "training")
        if self.pairs % CLASSES:
            rule = f"it must be a multiple of the {CLASSES} classes"
            raise refuse("training.pairs", self.pairs, rule, "give 200")
        if not self.asked_twice() // CLASSES > 0 or not self.kept() > 0:
            rule = "it must leave comparisons for every class, and some for training"
            raise refuse("training.estimation", self.estimation, rule, "give 0.16")

    def comparisons(self) -> int:
        """Return the comparisons of a run."""
        return self.updates * self.pairs

    def asked_twice(self) -> int:
        """Return the pairs that phi_estimated has annotated twice before it starts."""
        return self.updates * (self.pairs - self.kept()) // 2

    def kept(self) -> int:
        """Return the pairs per update that are left to it."""
        return self.pairs - round(self.estimation * self.pairs)


class Name(NamedTuple):
    """What a run is called: its method, its temperature and the row of its seed."""

    method: str
    temperature: float
    seed: int


def names_of(methods: Sequence[str], temperatures: Sequence[float], seeds: int) -> list[Name]:
    """Return the runs in the order of every result."""
    return [Name(m, t, s) for m in methods for t in temperatures for s in range(seeds)]


def make_runs(
    names: Sequence[Name],
    opinions: Opinions,
    training: Training,
    agreed: float,
    estimated: np.ndarray,
    keys: jax.Array,
) -> Runs:
    """Return what tells the runs of `COMPARING` methods apart.

    Args:
        names: of the runs.
        opinions: of the annotators.
        training: budgets.
        agreed: phi where people agree, that DPO's beta is chosen by.
        estimated: dispersion as `ask_twice` tells it, (seeds, classes).
        keys: one per seed.
    """
    seeds = np.asarray([name.seed for name in names])
    true = opinions.dispersion[seeds]
    # A dispersion of one would leave the class out for good.
    told = {"dpo": np.full_like(true, LIKE_DPO), "phi_estimated": estimated[seeds].clip(0.01, 0.99)}
    rows = {m: told.get(m, true) for m in COMPARING}
    weights = np.ones((len(names), training.pairs), np.float32)
    for i, name in enumerate(names):
        weights[i, training.kept() :] *= name.method != "phi_estimated"
    betas = [beta_of(n.method, opinions.law, opinions.ranks, agreed, n.temperature) for n in names]
    return Runs(
        keys[seeds],
        jnp.asarray(true),
        jnp.asarray(np.stack([rows[n.method][i] for i, n in enumerate(names)]), jnp.float32),
        jnp.asarray(betas, jnp.float32),
        jnp.asarray([n.method.startswith("phi") for n in names]),
        jnp.asarray(weights),
    )


def train_online(
    world: World, opinions: Opinions, runs: Runs, training: Training, rate: float, show: Show
) -> tuple[Any, dict[str, np.ndarray]]:
    """Train every run on comparisons of its own paths; return averaged parameters and metrics."""
    config = PreferenceUpdate(epochs=training.epochs, average_decay=0.9)
    optimizer = adam(make_schedule(rate, training.updates * training.epochs, final=0.02))

    def make(run):
        return online(
            world.problem(), world.policy, opinions.law, opinions.ranks, run, optimizer, config
        )

    def step(state, run):
        return make(run).step(state, label_batch(training.pairs, run.weights))

    return repeat(lambda run: make(run).init(run.key), step, runs, training.updates, show)


def train_ppo(
    world: World, runs: tuple[Any, ...], training: Training, rate: float, show: Show
) -> tuple[Any, dict[str, np.ndarray]]:
    """Train every run of PPO.

    Args:
        world: the world.
        runs: of each run the penalty lambda in units of its reward per nat, the parameters of its
            learned reward, whether it has the gold reward instead, and its key.
        training: budgets.
        rate: peak step size.
        show: see `Show`.
    """
    update, of_value = PolicyUpdate(average_decay=0.9), ValueUpdate()
    per_update = update.epochs * update.minibatches
    optimizer = adam(
        make_schedule(rate, training.updates * per_update, rest=2 * per_update, final=0.02)
    )
    value_updates = training.updates * of_value.epochs * of_value.minibatches
    # Ink is linear in the image: what it will be is nearly linear in the state, and soon learned.
    model = reward_model(world)
    critic = Critic(model, adam(make_schedule(2e-3, value_updates, final=0.02)), of_value)

    def make(run):
        penalty, reward_params, gold, _ = run
        own = learned(model, reward_params)

        def reward_fn(x, label):
            return jnp.where(gold, world.reward_fn(x, label), own(x, label))

        problem = world.problem(penalty, reward_fn)
        return make_ppo(problem, world.policy, optimizer, critic, trace=0.0, update=update)

    def step(state, run):
        return make(run).step(state, label_batch(2 * training.pairs))

    return repeat(lambda run: make(run).init(run[3]), step, runs, training.updates, show)


def train_offline(
    world: World, opinions: Opinions, runs: Runs, training: Training, rate: float, show: Show
) -> tuple[Any, dict[str, np.ndarray]]:
    """Train every run on comparisons of real images, each pair drawn and annotated once.

    A run whose pairs have weight zero online, since it asked twice, has as many less here.
    """
    optimizer = adam(make_schedule(rate, training.offline_updates, final=0.02))
    number, images = training.comparisons(), jnp.asarray(world.images)
    per_class = [np.flatnonzero(world.labels == c) for c in range(CLASSES)]
    least = min(map(len, per_class))
    rows = jnp.asarray(np.stack([r[:least] for r in per_class]))
    batch = label_batch(number)
    labels = batch.conditions[0]

    def pairs(run: Runs):
        pair_key, answer_key = jax.random.split(jax.random.fold_in(run.key, 1))
        of_class = jax.random.randint(pair_key, (2, number), 0, least)
        shown = rows[labels[None], of_class]
        rewards = world.reward_fn(images[shown.reshape(-1)], jnp.tile(labels, 2)).reshape(2, -1)
        annotator = make_annotator(opinions.law, opinions.ranks, run.dispersion)
        wins = annotator(answer_key, rewards[0], rewards[1], batch)
        return jnp.where(wins, shown[0], shown[1]), jnp.where(wins, shown[1], shown[0])

    def step(state, run):
        found, data = run
        owned = jnp.round(number * jnp.mean(found.weights)).astype(jnp.int32)
        row_key = jax.random.fold_in(state.key, 1)
        taken = jax.random.randint(row_key, (training.pairs,), 0, owned)
        chosen, rejected = (images[part[taken]] for part in data)
        own = PairBatch(chosen, rejected, jnp.ones(training.pairs), (labels[taken],))
        return offline(world, found, optimizer, 0.9).step(state, own)

    data = jax.jit(jax.vmap(pairs))(runs)
    return repeat(
        lambda run: offline(world, run[0], optimizer, 0.9).init(run[0].key),
        step,
        (runs, data),
        training.offline_updates,
        show,
    )


def repeat(init, step, runs: Any, updates: int, show: Show) -> tuple[Any, dict[str, np.ndarray]]:
    """Take every run through its updates, vmapped; metrics are (runs, updates)."""
    state = jax.jit(jax.vmap(init))(runs)
    advance = jax.jit(jax.vmap(step), donate_argnums=0)
    history = []
    for k in range(1, updates + 1):
        state, metrics = advance(state, runs)
        history.append(jax.block_until_ready(metrics))
        show(k, state.params)
    kept = jax.tree.map(lambda *parts: np.stack(parts, axis=1), *jax.device_get(history))
    return jax.device_get(state.params), kept
