"""From options to an algorithm on a subject: the one place that knows how each is made."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ctrl_jax._checks import check_fraction, check_positive, refuse
from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Control,
    Critic,
    DiffusionControl,
    PolicyUpdate,
    PreferenceUpdate,
    Window,
    make_online_preference,
)
from ctrl_jax.algorithms.diffusion.online_preference import bradley_terry
from ctrl_jax.commands.fine_tuning.config import Config
from ctrl_jax.commands.fine_tuning.inputs import Inputs
from ctrl_jax.commands.fine_tuning.method import CLIP
from ctrl_jax.commands.fine_tuning.named import make_named, policy_optimizer, value_optimizer
from ctrl_jax.commands.fine_tuning.sampler import SOLVERS
from ctrl_jax.commands.fine_tuning.subject import Subject
from ctrl_jax.commands.fine_tuning.value import Unit, reward_of, value_model
from ctrl_jax.data.prompts import Prompt
from ctrl_jax.losses import preference
from ctrl_jax.solvers import guidance


def models_of(
    subject: Subject, frozen: Mapping[str, Any], *, scale: float, passes: int
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
    config: Config,
    subject: Subject,
    reference: Model,
    steps: int,
    *,
    penalty: Array | float = 0.0,
    window: Window | None = None,
    path_kl: bool = False,
) -> DiffusionControl:
    """Return the control problem on a grid of `steps` steps."""
    return DiffusionControl(
        subject.process,
        reference,
        None,
        subject.shape,
        subject.grid(steps),
        penalty,
        solver=SOLVERS[config.sampler.solver],
        start_std=subject.start_std,
        prediction=subject.prediction,
        noise_level=config.sampler.noise_level,
        path_kl=path_kl,
        together=config.batch,
        window=window,
    )


def make_algorithm(
    config: Config,
    inputs: Inputs,
    frozen: Mapping[str, Any],
    unit: Unit,
) -> Control:
    """Return the algorithm that the options name.

    Args:
        config: the options.
        inputs: what is fine-tuned, and on which prompts.
        frozen: what no gradient moves; also traced.
        unit: of the reward.
    """
    method, sampler, subject = config.method, config.sampler, inputs.subject
    passes = sampler.guidance_passes
    policy, reference = models_of(subject, frozen, scale=inputs.scale, passes=passes)
    scaled = method.penalty * unit.std if method.algorithm != "grpo" else method.penalty
    problem = make_problem(
        config,
        subject,
        reference,
        sampler.solver_steps,
        penalty=0.0 if method.penalty == 0 else scaled,
        window=sampler.make_window(),
    )
    optimizer = policy_optimizer(
        config.optimization,
        config.optimization.learning_rate or subject.learning_rate,
        config.updates,
        method.passes * method.pieces(sampler.trained_steps),
        rests=config.has_value,
        weight_decay=config.optimization.weight_decay,
    )
    if method.of_pairs:
        pairs = PreferenceUpdate(method.passes, method.average_decay)
        annotator = partial(preferred, method.sharpness / unit.std)
        loss_fn = pair_loss(config, inputs)
        given = problem, policy, optimizer, loss_fn
        return make_online_preference(*given, annotator=annotator, config=pairs)
    options = rewarded_options(config, inputs)
    if config.has_value:
        value = value_model(config, inputs, frozen, unit, reference)
        learning = config.value.update(sampler.trained_steps)
        its = value_optimizer(config.optimization, config.updates, learning)
        options["critic"] = Critic(value, its, learning)
    elif method.has_value:
        reward_fn = reward_of(config, inputs, frozen)
        problem = dataclasses.replace(problem, reward_fn=reward_fn)
    return make_named(
        method.algorithm, problem, policy, optimizer, policy_update(config), **options
    )


def policy_update(config: Config) -> PolicyUpdate:
    """Return how the policy learns from a batch of trajectories."""
    method = config.method
    # With overlap the trajectories are of the policy before, as their own predictions say.
    old = method.old or ("rollout" if config.rewarding.overlap else "scored")
    pieces = method.pieces(config.sampler.trained_steps)
    kept = method.average_decay, old, method.per_step
    return PolicyUpdate(method.passes, pieces, method.cut, *kept)


def rewarded_options(config: Config, inputs: Inputs) -> dict[str, Any]:
    """Return the options of all algorithms that take rewards, but for the value network."""
    method, rewarding = config.method, config.rewarding
    return {
        "clip": CLIP if method.clip is None and method.mask is None else method.clip,
        "mask": method.mask,
        "trace": method.trace,
        "control_variate": method.control_variate,
        "scale": rewarding.own_scale(inputs.rewards.names),
        "clamp": rewarding.reward_clamp,
        "statistics": rewarding.statistics(len(inputs.given.train)),
    }


def preferred(sharpness: Array | float, key: Array, first: Array, second: Array, batch) -> Array:
    """Return whether the first of two pictures wins, by Bradley and Terry."""
    return bradley_terry(key, sharpness * first, sharpness * second, batch)


def pair_loss(config: Config, inputs: Inputs) -> Callable[..., Array]:
    """Return the loss of a pair of paths."""
    method, beta = config.method, config.method.beta
    if method.algorithm == "dpo":
        return lambda chosen, rejected, batch: preference.dpo(chosen, rejected, beta=beta)
    loss = {"mallows_theta": preference.mallows_theta, "mallows_phi": preference.mallows_phi}
    own = dispersions(inputs.given.train, method.dispersion)

    def loss_fn(chosen, rejected, batch):
        dispersion = jnp.asarray(own, chosen.dtype)[batch.prompts]
        return loss[method.algorithm](chosen, rejected, beta=beta, dispersion=dispersion)

    return loss_fn


def dispersions(prompts: Sequence[Prompt], given: float | None) -> np.ndarray:
    """Return the dispersion of every prompt.

    Raises:
        ValueError: a prompt says none, or none in (0, 1].
    """
    if given is not None:
        return np.full(len(prompts), given)
    for prompt in prompts:
        name = f"{prompt.place or 'prompts'}: dispersion"
        if "dispersion" not in prompt.fields:
            repair = "add it to the prompts, or give --dispersion"
            raise refuse(name, None, "Mallows losses weigh prompts by it", repair)
        check_positive(name, prompt.fields["dispersion"])
        check_fraction(name, prompt.fields["dispersion"])
    return np.asarray([prompt.fields["dispersion"] for prompt in prompts], np.float64)
