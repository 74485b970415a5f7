r"""Preference losses that hold each answer to a standard of its own, not the pair to a difference.

With rho = log pi(y|x) - log pi_ref(y|x) of the chosen and the rejected answer, r = beta rho,

    sppo:       (rho_w - (p - 1/2)/beta)^2 + (rho_l + (p - 1/2)/beta)^2                  (1)
    nca:        l(r_w) + l(-r_w)/2 + l(-r_l)/2,   l(s) = -log sigmoid(s)                 (2)
    apo, zero:  sigmoid(-r_w) + sigmoid(r_l)                                             (3)
    apo, down:  sigmoid(r_w) + sigmoid(r_l - r_w)                                        (4)
    kto:        lambda_d sigmoid(beta (kl - rho))    where the answer is desirable,      (5)
                lambda_u sigmoid(beta (rho - kl))    where it is not,
    kto_pairs:  the mean of (5) over both answers, kl of either from the other kind,
    bco:        l(r_w - delta) + l(delta - r_l),                                         (6)

p the probability that the chosen answer beats the rejected one, kl the divergence from the
reference that both kinds of answer are measured from, delta the mean reward of both.

Source: arXiv 2405.00675 (1); 2402.05369 (2); 2408.06266 (3), (4); 2402.01306 (5); 2404.04656 (6).
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ctrl_jax._checks import check_choice, check_non_negative, check_positive, refuse
from ctrl_jax.losses.preference.pair import (
    Number,
    check_scalars,
    finish,
    read_pair,
    require_beside,
    require_finite,
    require_floating,
    require_known,
    require_mass,
    widened,
)


def sppo(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    win_probability: Float[Array, "*batch"] | Number = 1.0,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the loss of self-play preference optimization.

    (log_ratio_chosen - (p - 1/2)/beta)^2 + (log_ratio_rejected + (p - 1/2)/beta)^2, with
    p = win_probability.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, summed over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: inverse temperature, positive.
        win_probability: probability that the chosen answer beats the rejected one, in [0, 1], one
            or one per example; 1 is the form with hard labels.
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-ratios.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, a concrete win_probability
            leaves [0, 1].

    Source: Wu et al. 2024 (arXiv 2405.00675).
    """
    pair = read_pair("log_ratio", log_ratio_chosen, log_ratio_rejected, beta=beta)
    chance = require_beside("win_probability", win_probability, pair.chosen)
    rule, repair = "it must lie in [0, 1]", "give a probability"
    require_known("win_probability", win_probability, lambda p: (p >= 0) & (p <= 1), rule, repair)
    target = (chance - 0.5) / beta
    return pair.finish((pair.chosen - target) ** 2 + (pair.rejected + target) ** 2, weights)


def nca(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the loss of noise-contrastive alignment of pairs, l(r_w) + [l(-r_w) + l(-r_l)] / 2.

    l(s) = -log sigmoid(s), and r = beta log_ratio of the chosen and the rejected answer.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, summed over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: inverse temperature, positive.
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-ratios.

    Raises:
        ValueError: a shape or dtype is wrong, or beta is not positive.

    Source: Chen et al. 2024 (arXiv 2402.05369).
    """
    pair = read_pair("log_ratio", log_ratio_chosen, log_ratio_rejected, beta=beta)
    chosen, rejected = beta * pair.chosen, beta * pair.rejected
    pushed_down = jax.nn.log_sigmoid(-chosen) + jax.nn.log_sigmoid(-rejected)
    return pair.finish(-jax.nn.log_sigmoid(chosen) - pushed_down / 2, weights)


def apo(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    variant: Literal["zero", "down"] = "zero",
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the loss of anchored preference optimization.

    sigmoid(-r_w) + sigmoid(r_l) for "zero" and sigmoid(r_w) + sigmoid(r_l - r_w) for "down", with
    r = beta log_ratio of the chosen and the rejected answer.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, summed over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: inverse temperature, positive.
        variant: "zero" raises the chosen answer, for data better than the model; "down" lowers
            both, the rejected one more, for data worse than the model.
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-ratios.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, the variant is unknown.

    Source: D'Oosterlinck et al. 2024 (arXiv 2408.06266).
    """
    pair = read_pair("log_ratio", log_ratio_chosen, log_ratio_rejected, beta=beta)
    check_choice("variant", variant, ("zero", "down"))
    if variant == "zero":
        loss = jax.nn.sigmoid(-beta * pair.chosen) + jax.nn.sigmoid(beta * pair.rejected)
    else:
        loss = jax.nn.sigmoid(beta * pair.chosen) + jax.nn.sigmoid(-beta * pair.margin)
    return pair.finish(loss, weights)


def bco(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    shift: Float[Array, "*batch"] | Number,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the loss of binary classifier optimization, l(r_w - shift) + l(shift - r_l).

    l(s) = -log sigmoid(s), and r = beta log_ratio of the chosen and the rejected answer: rewards
    are the logits of a classifier that tells chosen from rejected answers at the threshold shift.
    In the paper it is the mean reward of both kinds of answer, held fixed: of one batch
    ``jax.lax.stop_gradient(beta * (jnp.mean(w) + jnp.mean(l)) / 2)``, or the running mean of that
    over the batches. It is given, so that no pair depends on another; 0, which is TRL's "bco_pair",
    is its value at the reference model, where training starts.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, summed over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: inverse temperature, positive.
        shift: threshold of the rewards, one or one per example.
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-ratios.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, a known shift not finite.

    Source: Jung et al. 2024 (arXiv 2404.04656).
    """
    pair = read_pair("log_ratio", log_ratio_chosen, log_ratio_rejected, beta=beta)
    delta = require_beside("shift", shift, pair.chosen)
    require_finite("shift", shift)
    right = jax.nn.log_sigmoid(beta * pair.chosen - delta)
    return pair.finish(-right - jax.nn.log_sigmoid(delta - beta * pair.rejected), weights)


def kto(
    log_ratio: Float[Array, "*batch"],
    desirable: Bool[Array, "*batch"],
    kl: Float[Array, "*batch"] | Number,
    *,
    beta: Number,
    desirable_weight: Number = 1.0,
    undesirable_weight: Number = 1.0,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the loss of Kahneman-Tversky optimization, of answers that come alone.

    desirable_weight sigmoid(beta (kl - log_ratio)) where the answer is desirable, and
    undesirable_weight sigmoid(beta (log_ratio - kl)) where it is not.

    Args:
        log_ratio: log pi - log pi_ref of each answer, summed over its tokens.
        desirable: whether the answer is a good one.
        kl: estimate of KL(pi || pi_ref) in nats, at least 0, one or one per example, held fixed by
            the caller: the mean log-ratio of answers to other prompts, cut at 0.
        beta: inverse temperature, positive.
        desirable_weight: at least 0.
        undesirable_weight: at least 0.
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-ratios.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, a weight is negative, a known
            kl is not finite.

    Source: Ethayarajh et al. 2024 (arXiv 2402.01306).
    """
    require_floating(log_ratio=log_ratio)
    check_scalars(check_positive, beta=beta)
    check_scalars(
        check_non_negative, desirable_weight=desirable_weight, undesirable_weight=undesirable_weight
    )
    if getattr(desirable, "dtype", None) != jnp.bool_ or desirable.shape != log_ratio.shape:
        rule = f"it must hold booleans of shape {list(log_ratio.shape)}"
        raise refuse("desirable", desirable, rule, "give one for each example")
    divergence = require_beside("kl", kl, log_ratio)
    require_finite("kl", kl)
    gain = beta * (widened(log_ratio) - divergence)
    loss = jnp.where(
        desirable,
        desirable_weight * jax.nn.sigmoid(-gain),
        undesirable_weight * jax.nn.sigmoid(gain),
    )
    return finish(loss, weights, jnp.asarray(log_ratio).dtype)


def kto_pairs(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    desirable_weight: Number = 1.0,
    undesirable_weight: Number = 1.0,
    mass: Float[Array, "*batch"] | None = None,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the loss of Kahneman-Tversky optimization of the answers of pairs, the mean over both.

    [desirable_weight sigmoid(beta (kl_w - log_ratio_chosen)) + undesirable_weight
    sigmoid(beta (log_ratio_rejected - kl_l))] / 2. kl_w is the mean log-ratio of the rejected
    answers of the batch, kl_l that of the chosen ones, both cut at 0 and held fixed: the estimate
    that needs no further pass of the model, by which a value depends on the other examples. The
    paper's later form, which is TRL's, takes answers to other prompts: give `kto` their mean.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answers, summed over their tokens.
        log_ratio_rejected: the same of the rejected answers.
        beta: inverse temperature, positive.
        desirable_weight: of the chosen answers, at least 0.
        undesirable_weight: of the rejected ones, at least 0.
        mass: of each pair in the two means, at least 0 and 0 for padding; 1 by default.
        weights: optional weight of each example, which leaves the means alone.

    Returns:
        One value per example, in the shape and dtype of the log-ratios.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, a weight or a mass is negative.

    Source: Ethayarajh et al. 2024 (arXiv 2402.01306), kl as in the report that preceded it.
    """
    pair = read_pair("log_ratio", log_ratio_chosen, log_ratio_rejected, beta=beta)
    check_scalars(
        check_non_negative, desirable_weight=desirable_weight, undesirable_weight=undesirable_weight
    )
    share = require_mass(mass, pair.chosen)
    share = jnp.ones_like(pair.chosen) if share is None else share
    share = share / jnp.maximum(jnp.sum(share), jnp.finfo(share.dtype).tiny)
    of_chosen, of_rejected = (
        jax.lax.stop_gradient(jnp.maximum(jnp.sum(share * other), 0.0))
        for other in (pair.rejected, pair.chosen)
    )
    good = desirable_weight * jax.nn.sigmoid(beta * (of_chosen - pair.chosen))
    bad = undesirable_weight * jax.nn.sigmoid(beta * (pair.rejected - of_rejected))
    return pair.finish((good + bad) / 2, weights)
