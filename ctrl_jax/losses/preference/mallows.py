r"""Mallows preference losses: people agree on some prompts more than on others.

rho = log pi(y|x) - log pi_ref(y|x) of the chosen and the rejected answer, m = rho_w - rho_l; the
dispersion phi(x) in (0, 1] says how far the answers to x are from being ranked alike by everybody
(phi -> 0). With g of `mallows_link` and c = -2 log phi,

    theta:  -log sigmoid(c beta m)                       (Spearman's rho)                (1)
    phi:    -log g(beta m)                               (Kendall's tau)                 (2)
    IPO:    (c m - 1/(2 beta))^2                                                         (3)
    SimPO:  -log sigmoid(c beta m - gamma)               (m of per-token mean log-probs) (4)

c = 1, phi = e^{-1/2}, makes (1) DPO, (3) IPO and (4) SimPO; phi = 1 takes a pair out of (1) and
(2). Source: Chen et al. 2024 (arXiv 2405.14953).
"""

import jax
from jaxtyping import Array, Float

from ctrl_jax.losses.preference.link import Link, mallows_log_link, negative_log
from ctrl_jax.losses.preference.pair import (
    Number,
    read_pair,
    require_dispersion,
    require_nonnegative,
)


def mallows_theta(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    dispersion: Float[Array, "*batch"] | Float[Array, ""] | float,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (1), Mallows-theta-DPO.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, summed over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: inverse temperature.
        dispersion: phi in (0, 1], one or one per example, by `dispersion_from_index`.
        weights: optional weight of each example.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, a concrete dispersion leaves
            (0, 1].
    """
    pair = read_pair("mallows_theta", log_ratio_chosen, log_ratio_rejected, beta=beta)
    agreement = 2 * negative_log(require_dispersion(pair.owner, dispersion, pair.chosen))
    return pair.finish(-jax.nn.log_sigmoid(agreement * beta * pair.margin), weights)


def mallows_phi(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    dispersion: Float[Array, "*batch"] | Float[Array, ""] | float,
    link: Link = "exact",
    epsilon: Float[Array, "*batch"] | Number | None = None,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (2), Mallows-phi-DPO; arguments and errors as `mallows_theta` and `mallows_link`.

    At m = 0, where training starts, the exact link takes its value and its slope from the right.
    """
    pair = read_pair("mallows_phi", log_ratio_chosen, log_ratio_rejected, beta=beta)
    phi = require_dispersion(pair.owner, dispersion, pair.chosen)
    log_link = mallows_log_link(beta * pair.margin, phi, link=link, epsilon=epsilon)
    return pair.finish(-log_link, weights)


def mallows_ipo(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    dispersion: Float[Array, "*batch"] | Float[Array, ""] | float,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (3); arguments and errors as `mallows_theta`, log-ratios as means over the tokens."""
    pair = read_pair("mallows_ipo", log_ratio_chosen, log_ratio_rejected, beta=beta)
    agreement = 2 * negative_log(require_dispersion(pair.owner, dispersion, pair.chosen))
    return pair.finish((agreement * pair.margin - 1 / (2 * beta)) ** 2, weights)


def mallows_simpo(
    log_prob_chosen: Float[Array, "*batch"],
    log_prob_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    gamma: Number,
    dispersion: Float[Array, "*batch"] | Float[Array, ""] | float,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (4).

    Args:
        log_prob_chosen: mean over the tokens of the chosen answer of log pi.
        log_prob_rejected: the same of the rejected answer.
        beta: inverse temperature.
        gamma: margin that is aimed at, at least 0.
        dispersion: phi in (0, 1], one or one per example.
        weights: optional weight of each example.

    Raises:
        ValueError: as `mallows_theta`, or gamma is negative.
    """
    pair = read_pair("mallows_simpo", log_prob_chosen, log_prob_rejected, beta=beta)
    require_nonnegative(pair.owner, gamma=gamma)
    agreement = 2 * negative_log(require_dispersion(pair.owner, dispersion, pair.chosen))
    return pair.finish(-jax.nn.log_sigmoid(agreement * beta * pair.margin - gamma), weights)
