"""Algorithms that steer a diffusion towards rewards, by name, and their optimizers.

The command and the studies make them here: a table says what each reads, the rest is left out.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import optax

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import (
    Control,
    DiffusionControl,
    PolicyUpdate,
    ValueUpdate,
    make_ddpo,
    make_dpok,
    make_grpo,
    make_policy_gradient,
    make_ppo,
    make_value_gradient,
)
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule


class Named(NamedTuple):
    """An algorithm by name: what makes it, and the options of its own that this takes."""

    make: Callable[..., Control]
    options: tuple[str, ...]

    @property
    def has_value(self) -> bool:
        """Whether it learns a value network."""
        return "critic" in self.options


NAMED: dict[str, Named] = {
    "ppo": Named(make_ppo, ("critic", "trace", "clip", "control_variate")),
    "value_gradient": Named(make_value_gradient, ("critic",)),
    "policy_gradient": Named(make_policy_gradient, ("critic", "trace")),
    "ddpo": Named(make_ddpo, ("clip", "statistics", "clamp")),
    "dpok": Named(make_dpok, ("clip",)),
    "grpo": Named(make_grpo, ("clip", "mask", "scale", "clamp")),
}
"""Those that take rewards."""


def make_named(
    name: str,
    problem: DiffusionControl,
    policy: Model,
    optimizer: optax.GradientTransformation,
    update: PolicyUpdate,
    **options: Any,
) -> Control:
    """Return the algorithm of a name in `NAMED`.

    Args:
        name: of the algorithm.
        problem: what to control.
        policy: the acting model.
        optimizer: of the policy.
        update: how the policy learns from a batch.
        **options: of any of the algorithms; those that it does not take are left out.
    """
    make, own = NAMED[name]
    given = {key: value for key, value in options.items() if key in own}
    return make(problem, policy, optimizer, update=update, **given)


@runtime_checkable
class Courses(Protocol):
    """What the optimizers of policy and value are told."""

    @property
    def value_learning_rate(self) -> float: ...
    @property
    def schedule(self) -> Literal["constant", "linear", "cosine"]: ...
    @property
    def warmup(self) -> int: ...
    @property
    def gradient_clip(self) -> float: ...


def policy_optimizer(
    options: Courses,
    rate: float,
    updates: int,
    each: int,
    *,
    rests: bool,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Return Adam with clipping and a decay to 2 percent.

    Args:
        options: of the optimizers.
        rate: the peak of its step size.
        updates: of the run.
        each: optimizer steps of one of them.
        rests: whether it rests while the value network warms up.
        weight_decay: decoupled.
    """
    rest = options.warmup * each if rests else 0
    course = make_schedule(rate, updates * each, options.schedule, rest=rest, final=0.02)
    return adam(course, clip=options.gradient_clip, weight_decay=weight_decay)


def value_optimizer(
    options: Courses, updates: int, update: ValueUpdate
) -> optax.GradientTransformation:
    """Return Adam with clipping and a decay to 5 percent.

    Args:
        options: of the optimizers.
        updates: of the run.
        update: how the value learns from a batch.
    """
    steps = updates * update.epochs * update.minibatches
    course = make_schedule(options.value_learning_rate, steps, options.schedule, final=0.05)
    return adam(course, clip=options.gradient_clip)
