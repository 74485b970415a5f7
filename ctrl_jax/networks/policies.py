"""Gaussian policies and values of states: tables with few parameters, and heads for networks.

A policy is a `Model` whose ``apply(params, t, x)`` returns mean and standard deviation (batch, m)
of the action; t is ignored where the horizon is infinite.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._typing import Model


class LinearTable(NamedTuple):
    """Parameters of a linear-Gaussian policy: slope (m, d), intercept (m,), log_std (m,)."""

    slope: Float[Array, "m d"]
    intercept: Float[Array, " m"]
    log_std: Float[Array, " m"]


class QuadraticTable(NamedTuple):
    """Parameters of V(x) = x^T curvature x / 2 + slope . x + constant."""

    curvature: Float[Array, "d d"]
    slope: Float[Array, " d"]
    constant: Float[Array, ""]


def linear_policy(slope: Any, intercept: Any, std: Any) -> Model:
    """Return the policy N(slope x + intercept, diag std^2), its std kept positive by its logarithm.

    Args:
        slope: first slope, an array or nested sequence (m, d).
        intercept: first intercept (m,).
        std: first standard deviation (m,), positive.
    """

    def init(key):
        del key
        log_std = jnp.log(jnp.asarray(std, float))
        # Copies, so that the state of a run can be donated.
        return LinearTable(jnp.array(slope, float), jnp.array(intercept, float), log_std)

    def apply(params, t, x):
        del t
        mean = x @ params.slope.T + params.intercept[None]
        return mean, jnp.broadcast_to(jnp.exp(params.log_std)[None], mean.shape)

    return Model(init, apply)


def quadratic_value(dimension: int) -> Model:
    """Return the quadratic value function on R^dimension, zero at first."""

    def init(key):
        del key
        return QuadraticTable(
            jnp.zeros((dimension, dimension)), jnp.zeros(dimension), jnp.zeros(())
        )

    def apply(params, t, x):
        del t
        quadratic = jnp.sum((x @ params.curvature) * x, axis=1) / 2
        return quadratic + x @ params.slope + params.constant

    return Model(init, apply)


def gaussian_head(
    model: Model, observe: Callable[[Array], Array] | None = None, *, limits=(-5.0, 1.0)
) -> Model:
    """Return the policy whose mean and log std are the two halves of a network's outputs.

    Args:
        model: ``apply(params, t, observation)`` of shape (batch, 2 m).
        observe: what the network sees of the state; the state itself by default.
        limits: between which the log std is squeezed.
    """

    def apply(params, t, x):
        outputs = model.apply(params, t, x if observe is None else observe(x))
        mean, raw = jnp.split(outputs, 2, axis=1)
        low, high = limits
        return mean, jnp.exp(low + (high - low) * (1 + jnp.tanh(raw)) / 2)

    return Model(model.init, apply)
