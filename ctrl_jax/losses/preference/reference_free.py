r"""Preference losses without a reference model: they take log-probabilities, not log-ratios.

With p = log pi(y|x), summed over the tokens of an answer, q its mean over them, m the difference of
the chosen and the rejected answer's and l(s) = -log sigmoid(s),

    cpo:    (1 - epsilon) l(beta m) + epsilon l(-beta m) - nu p_w          (m of p)      (1)
    simpo:  (1 - epsilon) l(beta m - gamma) + epsilon l(gamma - beta m)    (m of q)      (2)
    orpo:   -nu q_w + beta l(log odds_w - log odds_l),                                   (3)
    sft:    -q_w,                                                                        (4)

odds = e^q / (1 - e^q). nu weighs the likelihood of the chosen answer, which keeps it probable.
AlphaPO is (2) with (1 - e^{-alpha q})/alpha in the place of q, which alpha -> 0 makes q.

Source: arXiv 2401.08417 (1); 2405.14734 (2); 2403.07691 (3); 2501.03884 (AlphaPO).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ctrl_jax._checks import check_finite, check_non_negative, refuse
from ctrl_jax.losses.preference.direct import excess_power, smoothed_logistic
from ctrl_jax.losses.preference.pair import (
    Number,
    check_scalars,
    finish,
    read_pair,
    require_beside,
    require_floating,
    require_known,
    widened,
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
    """Return the loss of contrastive preference optimization.

    (1 - epsilon) l(beta m) + epsilon l(-beta m) - nll_weight log_prob_chosen, with
    l(s) = -log sigmoid(s), m = log_prob_chosen - log_prob_rejected and epsilon = label_smoothing.

    Args:
        log_prob_chosen: log pi of the chosen answer, summed over its tokens.
        log_prob_rejected: the same of the rejected answer.
        beta: inverse temperature, positive.
        label_smoothing: share of wrong labels, in [0, 0.5).
        nll_weight: at least 0, one or one per example; 0 leaves the likelihood out. The paper has
            1; one over the number of tokens makes it the likelihood per token that most programs
            add, `sft`.
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-probabilities.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, another number out of range.

    Source: Xu et al. 2024 (arXiv 2401.08417).
    """
    pair = read_pair("log_prob", log_prob_chosen, log_prob_rejected, beta=beta)
    share = require_beside("nll_weight", nll_weight, pair.chosen)
    rule, repair = "it must be a finite number, zero or above", "give 0 or 1"
    require_known("nll_weight", nll_weight, lambda v: (v >= 0) & np.isfinite(v), rule, repair)
    preference = smoothed_logistic(beta * pair.margin, label_smoothing)
    return pair.finish(preference - share * pair.chosen, weights)


def simpo(
    log_prob_chosen: Float[Array, "*batch"],
    log_prob_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    gamma: Number,
    alpha: Number | None = None,
    label_smoothing: Number = 0.0,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the loss of simple preference optimization, or of AlphaPO where alpha is given.

    (1 - epsilon) l(beta m - gamma) + epsilon l(gamma - beta m), with l(s) = -log sigmoid(s),
    m = log_prob_chosen - log_prob_rejected and epsilon = label_smoothing. With alpha the margin is
    that of (1 - p^-alpha)/alpha, p = e^log_prob.

    Args:
        log_prob_chosen: mean over the tokens of the chosen answer of log pi.
        log_prob_rejected: the same of the rejected answer.
        beta: inverse temperature, positive.
        gamma: margin that is aimed at, at least 0, in units of beta m.
        alpha: shape of the reward, not 0: above it an improbable answer is punished more, below
            less; log p itself by default.
        label_smoothing: share of wrong labels, in [0, 0.5).
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-probabilities.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, another number out of range.

    Source: Meng et al. 2024 (arXiv 2405.14734); with alpha 2501.03884.
    """
    pair = read_pair("log_prob", log_prob_chosen, log_prob_rejected, beta=beta)
    check_scalars(check_non_negative, gamma=gamma)
    margin = pair.margin
    if alpha is not None:
        check_scalars(check_nonzero, alpha=alpha)
        margin = (excess_power(pair.rejected, alpha) - excess_power(pair.chosen, alpha)) / alpha
    return pair.finish(smoothed_logistic(beta * margin - gamma, label_smoothing), weights)


def orpo(
    log_prob_chosen: Float[Array, "*batch"],
    log_prob_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    nll_weight: Number = 1.0,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the loss of odds-ratio preference optimization.

    -nll_weight log_prob_chosen - beta log sigmoid(log odds_w - log odds_l), with the odds
    e^q / (1 - e^q) of the chosen and the rejected answer's log-probabilities q.

    Args:
        log_prob_chosen: mean over the tokens of the chosen answer of log pi, at most 0.
        log_prob_rejected: the same of the rejected answer.
        beta: weight of the odds ratio, positive.
        nll_weight: weight of the likelihood, at least 0; 0 leaves the odds ratio alone.
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-probabilities.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, nll_weight is negative.

    Source: Hong et al. 2024 (arXiv 2403.07691).
    """
    pair = read_pair("log_prob", log_prob_chosen, log_prob_rejected, beta=beta)
    check_scalars(check_non_negative, nll_weight=nll_weight)
    log_odds = _log_odds(pair.chosen) - _log_odds(pair.rejected)
    loss = -beta * jax.nn.log_sigmoid(log_odds) - nll_weight * pair.chosen
    return pair.finish(loss, weights)


def sft(
    log_prob_chosen: Float[Array, "*batch"], *, weights: Float[Array, "*batch"] | None = None
) -> Float[Array, "*batch"]:
    """Return the loss of supervised fine-tuning on the chosen answers, -log_prob_chosen.

    Beside a preference loss it keeps the chosen answers probable.

    Args:
        log_prob_chosen: log pi of the chosen answer, the mean over its tokens, so that every answer
            counts alike; TRL's mean is over the tokens of a batch, where a long one counts more.
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-probabilities.

    Raises:
        ValueError: a shape or dtype is wrong.

    Source: as a part of a loss of preferences Pang et al. 2024 (arXiv 2404.19733).
    """
    require_floating(log_prob_chosen=log_prob_chosen)
    return finish(-widened(log_prob_chosen), weights, jnp.asarray(log_prob_chosen).dtype)


def check_nonzero(name: str, value: object) -> None:
    """Raise ValueError unless a known value is a finite number other than zero."""
    if abs(check_finite(name, value)) < np.finfo(np.float32).tiny:
        raise refuse(name, value, "it must not be 0", "leave it out for its limit at 0")


def _log_odds(log_prob: Array) -> Array:
    """log p - log(1 - p); 1 - p is held above rounding, where an answer is certain."""
    rest = jnp.maximum(-jnp.expm1(log_prob), jnp.finfo(log_prob.dtype).eps)
    return log_prob - jnp.log(rest)
