"""Adam with clipping, and the course of its step size: one builder for commands and studies."""

from typing import Literal

import optax

Course = Literal["constant", "linear", "cosine"]


def make_schedule(
    rate: float,
    steps: int,
    course: Course = "cosine",
    *,
    rest: int = 0,
    warmup: int = 0,
    start: float = 0.0,
    final: float = 0.0,
) -> optax.Schedule:
    """Return a step size that rests at 0, rises linearly to `rate`, and falls until `steps`.

    Args:
        rate: the peak.
        steps: updates in all, those of rest and rise among them.
        course: of the fall.
        rest: updates at 0 before anything else.
        warmup: updates of the rise.
        start: share of the peak at which the rise begins.
        final: share of the peak at which the fall ends.
    """
    left = max(1, steps - rest - warmup)
    falls = {
        "constant": lambda: optax.constant_schedule(rate),
        "linear": lambda: optax.linear_schedule(rate, final * rate, left),
        "cosine": lambda: optax.cosine_decay_schedule(rate, left, alpha=final),
    }
    parts, ends = [falls[course]()], []
    if warmup:
        parts, ends = [optax.linear_schedule(start * rate, rate, warmup), *parts], [rest + warmup]
    if rest:
        parts, ends = [optax.constant_schedule(0.0), *parts], [rest, *ends]
    return optax.join_schedules(parts, ends)


def adam(
    rate: float | optax.Schedule,
    *,
    clip: float | None = 1.0,
    weight_decay: float = 0.0,
    b2: float = 0.999,
) -> optax.GradientTransformation:
    """Return Adam, with decoupled weight decay, on gradients clipped to a global norm.

    Args:
        rate: step size, or its course.
        clip: largest norm of a gradient; None for none.
        weight_decay: share of the parameters taken off per unit of step size.
        b2: decay of the mean of squared gradients.
    """
    inner = optax.adam(rate, b2=b2)
    if weight_decay:
        inner = optax.adamw(rate, b2=b2, weight_decay=weight_decay)
    return inner if clip is None else optax.chain(optax.clip_by_global_norm(clip), inner)
