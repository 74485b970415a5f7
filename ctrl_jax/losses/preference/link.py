r"""Mallows links: the probability that a pair is ranked as it was, given its scaled margin s.

Under the ranking law P(mu) \propto phi^{d(mu, mu_0)} with d Kendall's tau, answers s ranks apart
are ordered as in mu_0 with probability, for s > 0 and alpha = -log phi,

    g(s) = (s + 1)/(1 - phi^{s+1}) - s/(1 - phi^s),     g(-s) = 1 - g(s).                (1)

With h(x) = x/(1 - e^{-x}), whose derivative rises from 0 through h'(0) = 1/2 to 1, it is

    g(s) = [h(alpha (s + 1)) - h(alpha s)] / alpha = \int_0^1 h'(alpha (s + r)) dr,      (2)

and, with phi^s = e^{-alpha s} taken out, what is left of it is

    1 - g(s) = phi^s [(1 - phi) - phi rho] / (rho (1 - phi^{s+1})),  rho = (1 - phi^s)/s (3)
             = phi^s \sum_i w_i e^{-alpha r_i} p(alpha (s + r_i)),                       (4)

p(x) = (x - 1 + e^{-x})/(1 - e^{-x})^2, w and r those of Gauss and Legendre on [0, 1]. Every term of
(3) is of order one where alpha >= 1, and every term of (4) is positive; together they give
log g(-s) = log(1 - g(s)) without cancellation and without underflow, for every phi in (0, 1].

g(1) = 1/(1 + phi). At zero g jumps, from 1 - g(0+) to g(0+) = 1/(1 - phi) + 1/log phi: at s = 0
value and derivatives here are those from the right. Two surrogates are smooth there: a sigmoid,

    g(s) = sigmoid(alpha s),                                                             (5)

and an odd cubic 1/2 + a_1 s + a_3 s^3 on [-epsilon, epsilon] that meets (1) and its slope at
epsilon, with (1) beyond. Around epsilon, with t = epsilon - s and g, g' of (1) at epsilon, it is

    1 - g(s) = (1 - g) + g' t - a_3 t^2 (3 epsilon - t),
    a_3 = -(g - 1/2 - g' epsilon) / (2 epsilon^3) < 0,                                   (6)

positive terms again. Source: Chen et al. 2024 (arXiv 2405.14953), (1) and (5).
"""

import math
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ctrl_jax._checks import check_choice, refuse
from ctrl_jax.losses.preference.pair import (
    Number,
    require_beside,
    require_dispersion,
    require_floating,
    require_known,
)

Link = Literal["exact", "sigmoid", "cubic"]

# Right to the rounding of float64: (4) where alpha < 1, the series below SERIES_BELOW.
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(6)
NODES, NODE_WEIGHTS = (NODES + 1) / 2, NODE_WEIGHTS / 2
SERIES_BELOW = 0.5
SERIES = 1 / np.cumprod(np.arange(1.0, 16.0)) * (-1) ** np.arange(15)  # (-1)^k / (k + 1)!
FLOAT32_TERMS = 9
CUBIC_WIDTH = 0.1


def mallows_link(
    s: Float[Array, "*batch"],
    dispersion: Float[Array, "*batch"] | Float[Array, ""] | float,
    *,
    link: Link = "exact",
    epsilon: Float[Array, "*batch"] | Number | None = None,
) -> Float[Array, "*batch"]:
    """Return g(s), the probability that a pair is ranked in its observed order.

    For s > 0 and phi = dispersion the exact link is
    g(s) = (s + 1)/(1 - phi^{s+1}) - s/(1 - phi^s), and g(-s) = 1 - g(s); at s = 0, where it jumps,
    it is the limit from the right. "sigmoid" is sigmoid(-log(phi) s); "cubic" is
    1/2 + a_1 s + a_3 s^3 on [-epsilon, epsilon], meeting value and slope of the exact link at
    epsilon, and the exact link beyond.

    Args:
        s: scaled margin, beta times the difference of log-ratios.
        dispersion: phi in (0, 1], one or one per example; float32 also where s has less.
        link: "exact", "sigmoid" or "cubic".
        epsilon: half-width of the cubic, positive; 0.1 by default (-2 log phi has been used too).

    Returns:
        Shape and dtype of s.

    Raises:
        ValueError: a shape or dtype is wrong, a concrete dispersion leaves (0, 1], the link is
            unknown, or epsilon is not positive or given to another link.

    Source: Chen et al. 2024 (arXiv 2405.14953), section 3.
    """
    return _link(s, *_read(s, dispersion, link, epsilon), link, log=False)


def mallows_log_link(
    s: Float[Array, "*batch"],
    dispersion: Float[Array, "*batch"] | Float[Array, ""] | float,
    *,
    link: Link = "exact",
    epsilon: Float[Array, "*batch"] | Number | None = None,
) -> Float[Array, "*batch"]:
    """Return log g(s), also where g underflows: minus the loss of Mallows-phi-DPO.

    For s > 0 and phi = dispersion, g(s) = (s + 1)/(1 - phi^{s+1}) - s/(1 - phi^s) and
    g(-s) = 1 - g(s), the probability that a pair is ranked in its observed order; at s = 0, where
    it jumps, value and slope are those from the right.

    Args:
        s: scaled margin, beta times the difference of log-ratios.
        dispersion: phi in (0, 1], one or one per example; float32 also where s has less.
        link: "exact" for g, or "sigmoid" or "cubic" for the surrogates of `mallows_link`.
        epsilon: half-width of the cubic, positive; 0.1 by default.

    Returns:
        Shape and dtype of s.

    Raises:
        ValueError: a shape or dtype is wrong, a concrete dispersion leaves (0, 1], the link is
            unknown, or epsilon is not positive or given to another link.

    Source: Chen et al. 2024 (arXiv 2405.14953), section 3.
    """
    return _link(s, *_read(s, dispersion, link, epsilon), link, log=True)


def negative_log(dispersion: Array) -> Array:
    """Return alpha = -log phi, to rounding also near phi = 1; NaN for phi above 1."""
    near_one = dispersion > 0.5
    close = jnp.log1p(jnp.where(near_one, dispersion, 1.0) - 1)
    alpha = -jnp.where(near_one, close, jnp.log(jnp.where(near_one, 1.0, dispersion)))
    return jnp.where(dispersion <= 1, alpha, jnp.nan)


def _read(s: Array, dispersion, link: Link, epsilon) -> tuple[Array, Array]:
    """Check the arguments; return the dispersion and the cubic's width in at least float32."""
    require_floating(s=s)
    phi = require_dispersion(dispersion, s)
    check_choice("link", link, ("exact", "sigmoid", "cubic"))
    if epsilon is not None and link != "cubic":
        rule = f'it is the width of link="cubic", given was {link!r}'
        raise refuse("epsilon", epsilon, rule, "leave it out")
    epsilon = CUBIC_WIDTH if epsilon is None else epsilon
    width = require_beside("epsilon", epsilon, s)
    rule, repair = "it must be positive, and its cube a finite number", f"give {CUBIC_WIDTH}"
    cube = jnp.finfo(width.dtype).max ** (1 / 3)
    require_known("epsilon", epsilon, lambda v: (v > 0) & (v < cube), rule, repair)
    return phi, width


@partial(jax.jit, static_argnames=("link", "log"))
def _link(s: Array, phi: Array, width: Array, link: Link, log: bool) -> Array:
    alpha = negative_log(phi)
    wide = s.astype(alpha.dtype)
    # Not abs, whose slope at zero is zero.
    distance = jnp.where(wide >= 0, wide, -wide)
    if link == "sigmoid":
        tail = jax.nn.log_sigmoid(-alpha * distance)
    elif link == "exact":
        tail = _log_tail(distance, alpha)
    else:
        tail = _log_cubic_tail(distance, alpha, width)
    upper, lower = (jnp.log1p(-jnp.exp(tail)), tail) if log else (-jnp.expm1(tail), jnp.exp(tail))
    return jnp.where(s >= 0, upper, lower).astype(s.dtype)


def _log_tail(s: Array, alpha: Array) -> Array:
    """log(1 - g(s)) for s >= 0: (4) where alpha < 1 and (3) elsewhere."""
    spread = alpha < 1
    # Beyond, these are lost beside alpha s.
    held = jnp.minimum(s, math.sqrt(jnp.finfo(s.dtype).max))
    averaged = _log_averaged(held, jnp.where(spread, alpha, 0.5))
    closed = _log_closed(held, jnp.where(spread, 1.0, alpha))
    return -alpha * s + jnp.where(spread, averaged, closed)


def _log_averaged(s: Array, alpha: Array) -> Array:
    nodes, node_weights = (
        jnp.asarray(values, s.dtype).reshape(-1, *[1] * s.ndim) for values in (NODES, NODE_WEIGHTS)
    )
    alpha = jnp.broadcast_to(alpha, s.shape)[None]
    terms = node_weights * jnp.exp(-alpha * nodes) * _decay_ratio(alpha * (s[None] + nodes))
    return jnp.log(jnp.sum(terms, axis=0))


def _log_closed(s: Array, alpha: Array) -> Array:
    phi, rho = jnp.exp(-alpha), alpha * _mean_decay(alpha * s)
    return (
        jnp.log(-jnp.expm1(-alpha) - phi * rho)
        - jnp.log(rho)
        - jnp.log1p(-phi * jnp.exp(-alpha * s))
    )


def _log_cubic_tail(s: Array, alpha: Array, epsilon: Array) -> Array:
    """(6) below epsilon and (1) from there on."""
    inside = s < epsilon
    # A width of zero is the exact link, and -2 log phi is zero where phi = 1.
    alpha, width = jnp.broadcast_arrays(alpha, jnp.where(epsilon > 0, epsilon, 1.0))
    at_width, slope = jax.jvp(lambda t: _log_tail(t, alpha), (width,), (jnp.ones_like(width),))
    tail = jnp.exp(at_width)
    rise = -slope * tail
    bend = (0.5 - tail - rise * width) / 2
    gap = jnp.where(inside, width - s, 0.0) / width
    cubic = tail + rise * width * gap + bend * gap**2 * (3 - gap)
    return jnp.where(inside, jnp.log(cubic), _log_tail(s, alpha))


def _mean_decay(x: Array) -> Array:
    """(1 - e^{-x}) / x for x >= 0, with its derivatives, by its series where x is small."""
    near = x < SERIES_BELOW
    far = jnp.where(near, 1.0, x)
    return jnp.where(near, _series(jnp.where(near, x, 0.0), SERIES), -jnp.expm1(-far) / far)


def _decay_ratio(x: Array) -> Array:
    """p(x) of (4) for x >= 0, with its derivatives, by series where x is small."""
    near = x < SERIES_BELOW
    low, far = jnp.where(near, x, 0.0), jnp.where(near, 1.0, x)
    by_series = -_series(low, SERIES[1:]) / _series(low, SERIES) ** 2
    kept = -jnp.expm1(-far)
    return jnp.where(near, by_series, (far - kept) / kept**2)


def _series(x: Array, coefficients: np.ndarray) -> Array:
    if jnp.finfo(x.dtype).bits == 32:
        coefficients = coefficients[:FLOAT32_TERMS]
    total = jnp.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = total * x + float(coefficient)
    return total
