"""The callables and shapes that the whole library speaks of, named once.

Every callable sees a batch. A time `t` has shape ``()`` or ``(batch,)``; a state `x` has shape
``(batch, ...)``; conditions are arrays with leading axis ``batch``.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array

Params = Any
"""A pytree of arrays."""

ScoreFn = Callable[..., Array]
"""``score_fn(t, x, *conditions)`` returns an array of x's shape; t is the forward time."""

RewardFn = Callable[..., Array]
"""``reward_fn(x, *conditions)`` returns one reward per example, shape ``(batch,)``.

One with a method ``scored(x, *conditions)`` says with it how its `Rewards` come about.
"""


class Rewards(NamedTuple):
    """Rewards of a batch with what they are made of.

    Fields:
        values: what counts, one value per example, shape (batch,).
        parts: by name, values of each example that are shown beside, shape (batch,) each.
    """

    values: Array
    parts: dict[str, Array] = {}  # noqa: RUF012


class Model(NamedTuple):
    """A function with parameters, seen by algorithms as two pure callables.

    Fields:
        init: ``init(key) -> params``.
        apply: ``apply(params, t, x, *conditions)``: a score of x's shape (policies), mean and
            standard deviation of an action (Gaussian policies), or one value per example (value
            functions).
        observe: for value functions, an optional ``observe(t, x, *conditions)`` without parameters
            of its own, whose result `apply` takes in place of x: an array with leading axis batch,
            or a tree of such. It is evaluated once per trajectory, however often the parameters are
            fitted.
        train: for networks with dropout, ``train(key, params, t, x, *conditions)``: what `apply`
            returns, with features dropped at random; None for networks without.
    """

    init: Callable[[Array], Params]
    apply: Callable[..., Any]
    observe: Callable[..., Any] | None = None
    train: Callable[..., Array] | None = None
