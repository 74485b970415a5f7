"""From options to an algorithm on a subject: the one place that knows how each is made."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from ctrl_jax._typing import Model, Params, RewardFn
from ctrl_jax.algorithms import (
    Control,
    Critic,
    DiffusionControl,
    PolicyUpdate,
    PreferenceUpdate,
    ValueUpdate,
    make_ddpo,
    make_dpok,
    make_online_preference,
    make_policy_gradient,
    make_ppo,
    make_value_gradient,
)
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from ctrl_jax.commands.fine_tuning.config import OF_PAIRS, WITH_VALUE, Config
from ctrl_jax.commands.fine_tuning.subject import Subject
from ctrl_jax.losses import preference
from ctrl_jax.networks import ValueMLP, as_model
from ctrl_jax.solvers import ExponentialEuler, guidance

FINEST = 32
"""Side of what a value network sees of a state, or up to twice of it."""


def models_of(
    subject: Subject, frozen: dict[str, Params], *, scale: float, passes: int
) -> tuple[Model, Model]:
    """Return the policy and the reference, guided alike.

    Args:
        subject: what is fine-tuned.
        frozen: what no gradient moves; also traced.
        scale: of guidance; 1 for none.
        passes: of the network per guided step.
    """
    number = len(subject.widths) * (1 if scale == 1 else 2)

    def guided(predict):
        if scale != 1:
            predict = guidance.classifier_free(predict, scale, None, passes=passes)
        # What follows is for the rewards.
        return lambda t, x, *conditions: predict(t, x, *conditions[:number])

    def policy(params, t, x, *conditions):
        return guided(partial(subject.predict, frozen, params))(t, x, *conditions)

    def reference(params, t, x, *conditions):
        return guided(partial(subject.refer, frozen))(t, x, *conditions)

    return Model(lambda key: subject.params, policy), Model(lambda key: (), reference)


def make_problem(
    config: Config, subject: Subject, reference: Model, reward_fn: RewardFn | None, steps: int
) -> DiffusionControl:
    """Return the control problem on a grid of `steps` steps."""
    return DiffusionControl(
        subject.process,
        reference,
        reward_fn,
        subject.shape,
        subject.grid(steps),
        config.penalty,
        solver=ExponentialEuler(),
        start_std=subject.start_std,
        prediction=subject.prediction,
        noise_level=config.noise_level,
        path_kl=True,  # every curve shows it
        together=config.batch,
    )


def make_algorithm(
    config: Config,
    subject: Subject,
    frozen: dict[str, Params],
    reward_fn: RewardFn | None,
    *,
    scale: float,
) -> Control:
    """Return the algorithm that the options name.

    Args:
        config: the options.
        subject: what is fine-tuned.
        frozen: what no gradient moves; also traced.
        reward_fn: R; None where all rewards come from outside.
        scale: of guidance; 1 for none.
    """
    policy, reference = models_of(subject, frozen, scale=scale, passes=config.guidance_passes)
    problem = make_problem(config, subject, reference, reward_fn, config.solver_steps)
    optimizer = policy_optimizer(config)
    if config.algorithm in OF_PAIRS:
        pairs = PreferenceUpdate(config.epochs, config.average_decay)
        loss_fn = pair_loss(config)
        return make_online_preference(problem, policy, optimizer, loss_fn, config=pairs)
    critic = Critic(
        value_model(config, subject),
        value_optimizer(config),
        ValueUpdate(config.value.epochs, config.value.minibatches),
    )
    given, clip = (problem, policy, optimizer), {"clip": config.clip}
    trace = {"trace": config.trace}
    makers: dict[str, Callable[..., Control]] = {
        "ppo": partial(
            make_ppo,
            critic=critic,
            control_variate=config.control_variate,
            **trace,
            **clip,
        ),
        "value_gradient": partial(make_value_gradient, critic=critic),
        "policy_gradient": partial(make_policy_gradient, critic=critic, **trace),
        "ddpo": partial(make_ddpo, **clip),
        "dpok": partial(make_dpok, **clip),
    }
    update = PolicyUpdate(config.epochs, config.pieces(), config.chunks, config.average_decay)
    return makers[config.algorithm](*given, update=update)


def pair_loss(config: Config) -> Callable[..., Array]:
    """Return the loss of a pair of paths."""
    if config.algorithm == "dpo":
        return lambda chosen, rejected, batch: preference.dpo(chosen, rejected, beta=config.beta)
    return lambda chosen, rejected, batch: preference.mallows_phi(
        chosen, rejected, beta=config.beta, dispersion=jnp.full(chosen.shape, 0.5)
    )


def value_model(config: Config, subject: Subject) -> Model:
    """Return a network of the state, coarsened, and of the mean of each condition over tokens."""
    number = len(subject.widths)

    def observe(t, x, *conditions):
        texts = [jnp.mean(c.reshape(c.shape[0], -1, c.shape[-1]), axis=1) for c in conditions]
        seen = [coarse(x).reshape(x.shape[0], -1), *texts[:number]]
        return jnp.concatenate([part.astype(x.dtype) for part in seen], axis=-1)

    blank = jax.eval_shape(coarse, jax.ShapeDtypeStruct((1, *subject.shape), jnp.float32))
    size = blank.size + sum(subject.widths)
    network = as_model(
        lambda rngs: ValueMLP(
            (size,),
            width=config.value.width,
            depth=config.value.depth,
            horizon=float(subject.process.horizon),
            rngs=rngs,
        )
    )

    def apply(params, t, observation, *conditions):
        return network.apply(params, t, observation)

    return Model(network.init, apply, observe)


def coarse(x: Array) -> Array:
    """Return means over squares of pixels, so that no side is longer than twice `FINEST`."""
    side = max(1, max(x.shape[1:3]) // FINEST)
    if side == 1:
        return x
    window = (1, side, side, 1)
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, window, "VALID") / side**2


def policy_optimizer(config: Config) -> optax.GradientTransformation:
    """Return Adam with clipping and its course; the policy rests while the value warms up."""
    options, per_update = config.optimization, config.epochs * config.pieces()
    if config.algorithm in OF_PAIRS:
        per_update = config.epochs
    rest = options.warmup * per_update if config.algorithm in WITH_VALUE else 0
    steps = config.updates * per_update
    rate = make_schedule(config.learning_rate, steps, options.schedule, rest=rest, final=0.02)
    return adam(rate, clip=options.gradient_clip, weight_decay=options.weight_decay)


def value_optimizer(config: Config) -> optax.GradientTransformation:
    """Return Adam with clipping and its course."""
    options = config.optimization
    steps = config.updates * config.value.epochs * config.value.minibatches
    rate = make_schedule(options.value_learning_rate, steps, options.schedule, final=0.05)
    return adam(rate, clip=options.gradient_clip)
