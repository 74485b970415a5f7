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

from ctrl_jax._checks import check_non_negative
from ctrl_jax.losses.preference.link import Link, mallows_log_link, negative_log
from ctrl_jax.losses.preference.pair import (
    Number,
    Pair,
    check_scalars,
    read_pair,
    require_dispersion,
)


def mallows_theta(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    dispersion: Float[Array, "*batch"] | Float[Array, ""] | float,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the loss of Mallows-theta-DPO, -log sigmoid(-2 log(dispersion) beta m).

    The margin is m = log_ratio_chosen - log_ratio_rejected. It is DPO with a weight inside the
    link: a dispersion of e^{-1/2} gives DPO itself, and 1 takes the pair out.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, summed over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: inverse temperature, positive.
        dispersion: phi in (0, 1], one or one per example, for instance by `dispersion_from_index`;
            near 0 everybody ranks the answers to the prompt alike.
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-ratios.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, a concrete dispersion leaves
            (0, 1].

    Source: Chen et al. 2024 (arXiv 2405.14953), section 3, from Spearman's rho.
    """
    pair = read_pair("log_ratio", log_ratio_chosen, log_ratio_rejected, beta=beta)
    return pair.finish(
        -jax.nn.log_sigmoid(_agreement(pair, dispersion) * beta * pair.margin), weights
    )


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
    """Return the loss of Mallows-phi-DPO, -log g(s) of the scaled margin s.

    s = beta (log_ratio_chosen - log_ratio_rejected) and, for s > 0 and phi = dispersion,
    g(s) = (s + 1)/(1 - phi^{s+1}) - s/(1 - phi^s), g(-s) = 1 - g(s). At s = 0, where training
    starts, g jumps; the exact link takes its value and its slope from the right.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, summed over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: inverse temperature, positive.
        dispersion: phi in (0, 1], one or one per example, for instance by `dispersion_from_index`;
            near 0 everybody ranks the answers to the prompt alike, 1 takes the pair out.
        link: "exact" for g; "sigmoid" for sigmoid(-log(phi) s) or "cubic" for an odd cubic that
            meets g at |s| = epsilon, both smooth at zero.
        epsilon: half-width of the cubic, positive; 0.1 by default.
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-ratios.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, a concrete dispersion leaves
            (0, 1], the link is unknown, or epsilon is not positive or given to another link.

    Source: Chen et al. 2024 (arXiv 2405.14953), section 3, from Kendall's tau.
    """
    pair = read_pair("log_ratio", log_ratio_chosen, log_ratio_rejected, beta=beta)
    phi = require_dispersion(dispersion, pair.chosen)
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
    """Return the loss of MallowsIPO, (-2 log(dispersion) m - 1/(2 beta))^2.

    The margin is m = log_ratio_chosen - log_ratio_rejected. A dispersion of e^{-1/2} gives IPO.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, the mean over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: the weighted margin aimed at is 1/(2 beta) nats per token; positive.
        dispersion: phi in (0, 1], one or one per example, for instance by `dispersion_from_index`.
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-ratios.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, a concrete dispersion leaves
            (0, 1].

    Source: Chen et al. 2024 (arXiv 2405.14953), its plug-in for IPO.
    """
    pair = read_pair("log_ratio", log_ratio_chosen, log_ratio_rejected, beta=beta)
    return pair.finish((_agreement(pair, dispersion) * pair.margin - 1 / (2 * beta)) ** 2, weights)


def mallows_simpo(
    log_prob_chosen: Float[Array, "*batch"],
    log_prob_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    gamma: Number,
    dispersion: Float[Array, "*batch"] | Float[Array, ""] | float,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the loss of MallowsSimPO, -log sigmoid(-2 log(dispersion) beta m - gamma).

    The margin is m = log_prob_chosen - log_prob_rejected. A dispersion of e^{-1/2} gives SimPO.

    Args:
        log_prob_chosen: mean over the tokens of the chosen answer of log pi.
        log_prob_rejected: the same of the rejected answer.
        beta: inverse temperature, positive.
        gamma: margin that is aimed at, at least 0, in units of the scaled margin.
        dispersion: phi in (0, 1], one or one per example, for instance by `dispersion_from_index`.
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-probabilities.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, gamma is negative, a concrete
            dispersion leaves (0, 1].

    Source: Chen et al. 2024 (arXiv 2405.14953), its plug-in for SimPO.
    """
    pair = read_pair("log_prob", log_prob_chosen, log_prob_rejected, beta=beta)
    check_scalars(check_non_negative, gamma=gamma)
    scaled = _agreement(pair, dispersion) * beta * pair.margin
    return pair.finish(-jax.nn.log_sigmoid(scaled - gamma), weights)


def _agreement(pair: Pair, dispersion: Array | float) -> Array:
    """c = -2 log phi."""
    return 2 * negative_log(require_dispersion(dispersion, pair.chosen))
