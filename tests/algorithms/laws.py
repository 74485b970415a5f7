"""Every algorithm on a problem of its own, as small as can be: the table that the laws run over."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrl_jax import algorithms
from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Algorithm,
    Critic,
    DataBatch,
    PairBatch,
    Pairs,
    PolicyUpdate,
    ProximalConfig,
    QLearningConfig,
    ValueUpdate,
)
from ctrl_jax.algorithms.training.consistency_training import ConsistencyConfig
from ctrl_jax.data import TokenPair, pack_pairs
from ctrl_jax.losses import preference
from ctrl_jax.networks import language_model
from ctrl_jax.networks.policies import linear_policy, quadratic_value
from tests.algorithms.diffusion import steering
from tests.algorithms.q_learning.directed import (
    environment,
    make_direction,
    smooth_policy,
    smooth_value,
)
from tests.environments.fixtures import o1
from tests.networks.language.decoders import QWEN, moved

STEPS, BATCH = 4, 8
RATE = 1e-2
AVERAGE_DECAY = 0.75


class Case(NamedTuple):
    """An algorithm and a batch of it, 8 rows."""

    algorithm: Algorithm
    batch: Any


def sgd() -> optax.GradientTransformation:
    """An optimizer with a state. Not Adam, whose first steps have the size of the rate whatever the
    gradient's rounding."""
    return optax.sgd(RATE, momentum=0.9)


def score_model() -> Model:
    """An affine score of two numbers."""

    def apply(params, t, x, *conditions):
        return params["mean"][None] - params["slope"] * x

    return Model(lambda key: {"mean": jnp.zeros(2), "slope": jnp.ones(())}, apply)


def data(seed: int = 9) -> jax.Array:
    """Eight points in the plane."""
    return jax.random.normal(jax.random.key(seed), (BATCH, 2))


def score_pretraining() -> Case:
    process = steering.PROCESS
    times = algorithms.uniform_times(process, 1e-2)
    made = algorithms.make_score_pretraining(process, score_model(), sgd(), sample_times=times)
    return Case(made, DataBatch(data()))


def consistency_training() -> Case:
    config = ConsistencyConfig(steps=4, target_decay=0.5)
    made = algorithms.make_consistency_training(
        steering.PROCESS, score_model(), sgd(), end=1e-2, config=config
    )
    return Case(made, DataBatch(data()))


def reward_learning() -> Case:
    model = Model(lambda key: jnp.zeros(2), lambda params, t, x: x @ params)
    return Case(algorithms.make_reward_learning(model, sgd()), Pairs(data(), data(8)))


def fine_tuning(name: str) -> Case:
    penalty = 0.0 if name == "ddpo" else steering.PENALTY
    problem = steering.make_setting(STEPS, penalty=penalty).problem
    critic = Critic(steering.quadratic_value(problem), sgd(), ValueUpdate(1, 2))
    update = PolicyUpdate(epochs=2, minibatches=2, average_decay=AVERAGE_DECAY)
    policy = steering.affine_policy(problem)
    if name == "ddpo":
        seen = algorithms.PromptStatistics(1, buffer=BATCH + 3, least=2)
        made = algorithms.make_ddpo(
            problem, policy, sgd(), statistics=seen, clamp=1.5, update=update
        )
    else:
        made = steering.make_algorithm(name, problem, policy, sgd(), critic, update)
    return Case(made, steering.one_prompt(BATCH))


def without_value() -> Case:
    """Ascent along the derivative of the outcome."""
    problem = steering.make_setting(STEPS).problem
    update = PolicyUpdate(epochs=2, minibatches=2, average_decay=AVERAGE_DECAY)
    policy = steering.affine_policy(problem)
    made = algorithms.make_value_gradient(problem, policy, sgd(), update=update)
    return Case(made, steering.one_prompt(BATCH))


def grpo() -> Case:
    """In groups, by a mask, on a window."""
    problem = steering.make_setting(STEPS).problem
    problem = dataclasses.replace(problem, window=algorithms.Window(2, first=1))
    update = PolicyUpdate(epochs=2, minibatches=2, average_decay=AVERAGE_DECAY)
    policy = steering.affine_policy(problem)
    made = algorithms.make_grpo(problem, policy, sgd(), scale="batch", mask=0.1, update=update)
    prompts = jnp.arange(BATCH, dtype=jnp.int32) // 4
    return Case(made, steering.one_prompt(BATCH)._replace(prompts=prompts))


def dpo(chosen, rejected, *batch):
    return preference.dpo(chosen, rejected, beta=0.5)


def online_preference() -> Case:
    problem = steering.make_setting(STEPS).problem
    config = algorithms.PreferenceUpdate(epochs=2, average_decay=AVERAGE_DECAY)
    policy = steering.affine_policy(problem)
    made = algorithms.make_online_preference(problem, policy, sgd(), dpo, config=config)
    return Case(made, steering.one_prompt(BATCH))


def offline_preference() -> Case:
    process = steering.PROCESS
    times = algorithms.uniform_times(process, 1e-2)
    made = algorithms.make_offline_preference(
        process, score_model(), sgd(), dpo, sample_times=times, average_decay=AVERAGE_DECAY
    )
    return Case(made, PairBatch(data(), data(8), jnp.ones(BATCH)))


def control(make: Callable[..., Algorithm], *config: Any) -> Case:
    problem = algorithms.ContinuousControl(o1(), dt=0.25, horizon=1.0)
    models = linear_policy([[-0.3]], [0.2], [0.8]), quadratic_value(1)
    x_0 = jax.random.normal(jax.random.key(9), (BATCH, 1))
    return Case(make(problem, *models, sgd(), sgd(), *config), x_0)


def proximal(penalty: Any) -> Case:
    return control(algorithms.make_cppo, ProximalConfig(penalty, epochs=2))


def q_learning(**options: Any) -> Case:
    config = QLearningConfig(average_decay=AVERAGE_DECAY, **options)
    models = smooth_policy(environment().score), smooth_value()
    made = algorithms.make_q_learning(make_direction(STEPS), *models, sgd(), sgd(), config)
    return Case(made, steering.one_prompt(BATCH))


def lm_preference(number: int = BATCH, losses: Sequence[str] = ("dpo", "aot", "kto")) -> Case:
    model = language_model(dataclasses.replace(QWEN, depth=1))
    params, draw = moved(model), np.random.default_rng(2).integers
    pairs = [TokenPair(*(draw(0, 23, size).tolist() for size in (3, 3, 2))) for _ in range(number)]
    rows = pack_pairs(pairs, pairs_per_row=1)
    shape = (*rows.weights.shape, 2)
    rows = rows._replace(reference=np.full(shape, -9.0, np.float32))
    made = algorithms.make_lm_preference(
        model._replace(init=lambda key: params),
        sgd(),
        # Two of them look at the other pairs, wherever these are.
        algorithms.named_loss(losses, beta=0.5),
        algorithms.LMPreference(accumulate=2, chunk=16, average_decay=AVERAGE_DECAY),
    )
    return Case(made, rows)


LAWS: dict[str, Callable[[], Case]] = {
    "score_pretraining": score_pretraining,
    "consistency_training": consistency_training,
    "reward_learning": reward_learning,
    **{name: partial(fine_tuning, name) for name in (*steering.WITH_CRITIC, "dpok", "ddpo")},
    "value_gradient, no value": without_value,
    "grpo": grpo,
    "online_preference": online_preference,
    "offline_preference": offline_preference,
    "cpg": partial(control, algorithms.make_cpg),
    "cppo sqrt_kl": partial(proximal, "sqrt_kl"),
    "cppo clipped": partial(proximal, "clipped"),
    "discrete policy gradient": partial(control, algorithms.make_discrete_policy_gradient),
    "discrete ppo": partial(control, algorithms.make_discrete_ppo),
    "q_learning": partial(q_learning, epochs=2, trace=0.5),
    "q_learning online": partial(q_learning, online=True),
    "lm_preference": lm_preference,
}

CHEAP = ("score_pretraining", "dpok", "q_learning")
"""Where a law needs a program of its own, the others are slow tests."""

LIKE_ANOTHER = ("policy_gradient", "value_gradient", "cppo clipped", "discrete policy gradient")
"""The step of one that is there around another surrogate: their laws are slow tests."""
