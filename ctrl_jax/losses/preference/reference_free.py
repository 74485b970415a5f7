r"""Preference losses without a reference model: they take log-probabilities, not log-ratios.

With p = log pi(y|x), summed over the tokens of an answer, q its mean over them, m the difference of
the chosen and the rejected answer's and l(s) = -log sigmoid(s),

    cpo:    (1 - epsilon) l(beta m) + epsilon l(-beta m) - nu p_w          (m of p)      (1)
    simpo:  (1 - epsilon) l(beta m - gamma) + epsilon l(gamma - beta m)    (m of q)      (2)
    orpo:   -nu q_w + beta l(log odds_w - log odds_l),                                   (3)

odds = e^q / (1 - e^q). nu weighs the likelihood of the chosen answer, which keeps it probable.

Source: arXiv 2401.08417 (1); 2405.14734 (2); 2403.07691 (3).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ctrl_jax.losses.preference.direct import smoothed_logistic
from ctrl_jax.losses.preference.pair import (
    Number,
    known_values,
    read_pair,
    require_beside,
    require_nonnegative,
)


def cpo(
    log_prob_chosen: Float[Array, "*batch"],
    log_prob_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    label_smoothing: Number = 0.0,
    nll_weight: Float[Array, "*batch"] | Number = 0.0,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (1), contrastive preference optimization.

    Args:
        log_prob_chosen: log pi of the chosen answer, summed over its tokens.
        log_prob_rejected: the same of the rejected answer.
        beta: inverse temperature.
        label_smoothing: epsilon, in [0, 0.5).
        nll_weight: nu, at least 0, one or one per example. The paper has 1; one over the number of
            tokens makes it the likelihood per token that most programs add.
        weights: optional weight of each example.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, another number out of range.
    """
    pair = read_pair("cpo", log_prob_chosen, log_prob_rejected, beta=beta)
    share = require_beside(pair.owner, "nll_weight", nll_weight, pair.chosen)
    known = known_values(nll_weight)
    if known is not None and not np.all((known >= 0) & np.isfinite(known)):
        raise ValueError(f"cpo: nll_weight must be a finite number >= 0, got {nll_weight!r}.")
    preference = smoothed_logistic(pair, beta * pair.margin, label_smoothing)
    return pair.finish(preference - share * pair.chosen, weights)


def simpo(
    log_prob_chosen: Float[Array, "*batch"],
    log_prob_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    gamma: Number,
    label_smoothing: Number = 0.0,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (2), simple preference optimization.

    Args:
        log_prob_chosen: mean over the tokens of the chosen answer of log pi.
        log_prob_rejected: the same of the rejected answer.
        beta: inverse temperature.
        gamma: margin that is aimed at, at least 0, in units of beta m.
        label_smoothing: epsilon, in [0, 0.5).
        weights: optional weight of each example.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, another number out of range.
    """
    pair = read_pair("simpo", log_prob_chosen, log_prob_rejected, beta=beta)
    require_nonnegative(pair.owner, gamma=gamma)
    loss = smoothed_logistic(pair, beta * pair.margin - gamma, label_smoothing)
    return pair.finish(loss, weights)


def orpo(
    log_prob_chosen: Float[Array, "*batch"],
    log_prob_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    nll_weight: Number = 1.0,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (3), odds-ratio preference optimization.

    Args:
        log_prob_chosen: mean over the tokens of the chosen answer of log pi, at most 0.
        log_prob_rejected: the same of the rejected answer.
        beta: weight of the odds ratio.
        nll_weight: nu, at least 0; 0 leaves the odds ratio alone.
        weights: optional weight of each example.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, nll_weight is negative.
    """
    pair = read_pair("orpo", log_prob_chosen, log_prob_rejected, beta=beta)
    require_nonnegative(pair.owner, nll_weight=nll_weight)
    log_odds = _log_odds(pair.chosen) - _log_odds(pair.rejected)
    loss = -beta * jax.nn.log_sigmoid(log_odds) - nll_weight * pair.chosen
    return pair.finish(loss, weights)


def _log_odds(log_prob: Array) -> Array:
    """log p - log(1 - p); 1 - p is held above rounding, where an answer is certain."""
    rest = jnp.maximum(-jnp.expm1(log_prob), jnp.finfo(log_prob.dtype).eps)
    return log_prob - jnp.log(rest)
