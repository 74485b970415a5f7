r"""Losses of the difference between two answers: DPO and what came of it.

With rho = log pi(y|x) - log pi_ref(y|x) of the chosen and the rejected answer, m = rho_w - rho_l,
l(s) = -log sigmoid(s) and epsilon the share of wrong labels,

    dpo:     (1 - epsilon) l(beta m) + epsilon l(-beta m)                                (1)
    robust:  [(1 - epsilon) l(beta m) - epsilon l(-beta m)] / (1 - 2 epsilon)            (2)
    hinge:   max(0, 1 - beta m)                                                          (3)
    ipo:     (m - 1/(2 beta))^2                            (m of per-token means)        (4)
    exo:     KL(Bernoulli(sigmoid(beta m)) || Bernoulli(1 - epsilon))                    (5)
    f_dpo:   (1) with m = f'(u_w) - f'(u_l), u = e^rho,                                  (6)
    discopop: (1 - sigmoid(beta m/tau)) l(beta m) + sigmoid(beta m/tau) e^{-beta m},     (7)

(2) has the mean of (1) with clean labels when the labels are flipped with probability epsilon. (6)
penalizes the divergence of f in the place of KL: up to constants f'(u) is

    reverse_kl: log u   forward_kl: -1/u   jensen_shannon: log(2u/(1 + u))   alpha: (1 - u^-a)/a

where a -> 0 is reverse KL and a = 1 forward KL. `aot` is (1) of sorted values (see there).

Source: Rafailov et al. 2023 (arXiv 2305.18290) (1); 2403.00409 (2); 2305.10425 (3); 2310.12036
(4); 2402.00856 (5); 2309.16240 (6); 2406.08414 (7); 2406.05882 (aot).
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_choice, check_positive, refuse
from ctrl_jax.losses.preference.pair import (
    Number,
    check_label_smoothing,
    check_scalars,
    known_values,
    read_pair,
    require_mass,
)

Divergence = Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"]


def bradley_terry(
    reward_chosen: Float[Array, "*batch"],
    reward_rejected: Float[Array, "*batch"],
    *,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the Bradley-Terry loss of rewards, -log sigmoid(reward_chosen - reward_rejected).

    Args:
        reward_chosen: reward of the preferred example of each pair.
        reward_rejected: reward of the other one.
        weights: optional weight of each pair.

    Returns:
        One value per pair, in the shape and dtype of the rewards.

    Raises:
        ValueError: a shape or dtype is wrong.

    Source: Bradley and Terry 1952; as the loss of a reward model arXiv 1706.03741.
    """
    pair = read_pair("reward", reward_chosen, reward_rejected)
    return pair.finish(-jax.nn.log_sigmoid(pair.margin), weights)


def dpo(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    label_smoothing: Number = 0.0,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the DPO loss, or that of conservative DPO where labels are smoothed.

    (1 - epsilon) l(beta m) + epsilon l(-beta m), with l(s) = -log sigmoid(s), the margin
    m = log_ratio_chosen - log_ratio_rejected and epsilon = label_smoothing.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, summed over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: inverse temperature, positive.
        label_smoothing: share of wrong labels, in [0, 0.5).
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-ratios.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, label_smoothing out of range.

    Source: Rafailov et al. 2023 (arXiv 2305.18290), equation 7.
    """
    pair = read_pair("log_ratio", log_ratio_chosen, log_ratio_rejected, beta=beta)
    return pair.finish(smoothed_logistic(beta * pair.margin, label_smoothing), weights)


def robust(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    label_smoothing: Number,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the loss of robust DPO, which flipped labels leave unbiased.

    [(1 - epsilon) l(beta m) - epsilon l(-beta m)] / (1 - 2 epsilon), with l(s) = -log sigmoid(s),
    the margin m = log_ratio_chosen - log_ratio_rejected and epsilon = label_smoothing: where labels
    are flipped with probability epsilon its mean is the DPO loss of the true ones.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, summed over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: inverse temperature, positive.
        label_smoothing: share of wrong labels, in [0, 0.5).
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-ratios.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, label_smoothing out of range.

    Source: Chowdhury et al. 2024 (arXiv 2403.00409).
    """
    pair = read_pair("log_ratio", log_ratio_chosen, log_ratio_rejected, beta=beta)
    check_scalars(check_label_smoothing, label_smoothing=label_smoothing)
    s = beta * pair.margin
    right, wrong = -jax.nn.log_sigmoid(s), -jax.nn.log_sigmoid(-s)
    loss = ((1 - label_smoothing) * right - label_smoothing * wrong) / (1 - 2 * label_smoothing)
    return pair.finish(loss, weights)


def hinge(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the hinge loss, max(0, 1 - beta (log_ratio_chosen - log_ratio_rejected)).

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, summed over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: inverse temperature, positive.
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-ratios.

    Raises:
        ValueError: a shape or dtype is wrong, or beta is not positive.

    Source: Zhao et al. 2023 (arXiv 2305.10425, SLiC-HF), of log-ratios as in arXiv 2309.06657.
    """
    pair = read_pair("log_ratio", log_ratio_chosen, log_ratio_rejected, beta=beta)
    return pair.finish(jax.nn.relu(1 - beta * pair.margin), weights)


def ipo(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the IPO loss, (log_ratio_chosen - log_ratio_rejected - 1/(2 beta))^2.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, the mean over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: the margin aimed at is 1/(2 beta) nats per token; positive.
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-ratios.

    Raises:
        ValueError: a shape or dtype is wrong, or beta is not positive.

    Source: Azar et al. 2023 (arXiv 2310.12036); of means over the tokens, as TRL has it.
    """
    pair = read_pair("log_ratio", log_ratio_chosen, log_ratio_rejected, beta=beta)
    return pair.finish((pair.margin - 1 / (2 * beta)) ** 2, weights)


def exo(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    label_smoothing: Number = 1e-3,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the EXO loss of pairs, KL(Bernoulli(sigmoid(beta m)) || Bernoulli(1 - epsilon)).

    The margin is m = log_ratio_chosen - log_ratio_rejected and epsilon = label_smoothing.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, summed over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: inverse temperature, positive.
        label_smoothing: share of wrong labels, in (0, 0.5); at 0 the divergence is infinite.
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-ratios.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, label_smoothing out of range.

    Source: Ji et al. 2024 (arXiv 2402.00856).
    """
    pair = read_pair("log_ratio", log_ratio_chosen, log_ratio_rejected, beta=beta)
    for check in (check_positive, check_label_smoothing):
        check_scalars(check, label_smoothing=label_smoothing)
    s = beta * pair.margin
    kept = jax.nn.log_sigmoid(s) - jnp.log1p(-label_smoothing)
    turned = jax.nn.log_sigmoid(-s) - jnp.log(label_smoothing)
    return pair.finish(jax.nn.sigmoid(s) * kept + jax.nn.sigmoid(-s) * turned, weights)


def discopop(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    tau: Number = 0.05,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the loss of discovered preference optimization, between a logistic and an exponential.

    (1 - p) l(s) + p e^-s, with l(s) = -log sigmoid(s), s = beta (log_ratio_chosen -
    log_ratio_rejected) and p = sigmoid(s/tau). It is not monotone: around s = 0, where training
    starts, it rises where tau is small.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, summed over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: inverse temperature, positive.
        tau: width of the change from the logistic, where the rejected answer is ahead, to the
            exponential, in units of s; positive.
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-ratios.

    Raises:
        ValueError: a shape or dtype is wrong, or beta or tau is not positive.

    Source: Lu et al. 2024 (arXiv 2406.08414), equation 5.
    """
    pair = read_pair("log_ratio", log_ratio_chosen, log_ratio_rejected, beta=beta)
    check_scalars(check_positive, tau=tau)
    s = beta * pair.margin
    # e^-s alone overflows where its share vanishes faster.
    exponential = jnp.exp(jax.nn.log_sigmoid(s / tau) - s)
    return pair.finish(jax.nn.sigmoid(-s / tau) * -jax.nn.log_sigmoid(s) + exponential, weights)


def f_dpo(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    divergence: Divergence,
    alpha: Number | None = None,
    label_smoothing: Number = 0.0,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the loss of f-DPO, which is DPO under another divergence than KL.

    (1 - epsilon) l(beta m) + epsilon l(-beta m), with l(s) = -log sigmoid(s),
    epsilon = label_smoothing and m = f'(u_w) - f'(u_l) of the ratios u = e^log_ratio; f'(u) is
    log u for "reverse_kl", -1/u for "forward_kl", log(2u/(1 + u)) for "jensen_shannon" and
    (1 - u^-alpha)/alpha for "alpha". Powers u^-alpha saturate at the root of the type's largest
    number, where their gradient ends.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, summed over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: inverse temperature, positive.
        divergence: "reverse_kl" (DPO itself), "forward_kl", "jensen_shannon" or "alpha".
        alpha: positive, with "alpha" only: towards 0 it is reverse KL, at 1 forward KL.
        label_smoothing: share of wrong labels, in [0, 0.5).
        weights: optional weight of each example.

    Returns:
        One value per example, in the shape and dtype of the log-ratios.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, label_smoothing out of range;
            the divergence is unknown; alpha is missing, not positive, or given to another
            divergence.

    Source: Wang et al. 2023 (arXiv 2309.16240).
    """
    pair = read_pair("log_ratio", log_ratio_chosen, log_ratio_rejected, beta=beta)
    check_choice("divergence", divergence, ("reverse_kl", "forward_kl", "jensen_shannon", "alpha"))
    if (alpha is not None) != (divergence == "alpha"):
        rule = f'it belongs to divergence="alpha", given was {divergence!r}'
        raise refuse("alpha", alpha, rule, "give both, or another divergence without it")
    margin = pair.margin
    if divergence == "jensen_shannon":
        margin = margin - (jax.nn.softplus(pair.chosen) - jax.nn.softplus(pair.rejected))
    elif divergence != "reverse_kl":
        power = 1.0 if alpha is None else alpha
        check_scalars(check_positive, alpha=power)
        margin = (excess_power(pair.rejected, power) - excess_power(pair.chosen, power)) / power
    return pair.finish(smoothed_logistic(beta * margin, label_smoothing), weights)


def aot(
    log_ratio_chosen: Float[Array, " batch"],
    log_ratio_rejected: Float[Array, " batch"],
    *,
    beta: Number,
    label_smoothing: Number = 0.0,
    mass: Float[Array, " batch"] | None = None,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return the loss of AOT, alignment of distributions by optimal transport.

    (1 - epsilon) l(beta m) + epsilon l(-beta m), with l(s) = -log sigmoid(s),
    epsilon = label_smoothing and m between values of equal rank, the i-th smallest chosen one less
    the i-th smallest rejected one. The chosen values need not be paired with the rejected ones:
    asked for is that their distribution dominates. With margins log pi(y_w) - log pi(y_l) of the
    policy in the place of the chosen and those of the reference in the place of the rejected it is
    the form for paired data. A value here depends on the other examples.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answers, summed over their tokens; the
            value returned at i belongs to this example.
        log_ratio_rejected: the same of rejected answers, in any order.
        beta: inverse temperature, positive.
        label_smoothing: share of wrong labels, in [0, 0.5).
        mass: how many examples the i-th of both stand for in the ranks, at least 0: 2 counts as two
            of the kind, 0 (padding) as none; 1 by default.
        weights: optional weight of each chosen example, which leaves the ranks alone.

    Returns:
        One value per chosen example, in the shape and dtype of the log-ratios: the mean over what
        it is matched with.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, label_smoothing out of range, a
            mass is negative.

    Source: Melnyk et al. 2024 (arXiv 2406.05882).
    """
    pair = read_pair("log_ratio", log_ratio_chosen, log_ratio_rejected, beta=beta)
    if pair.chosen.ndim != 1:
        rule = "log-ratios must have one axis, along which they are ranked"
        raise refuse("log_ratio_chosen", log_ratio_chosen, rule, "ravel them, or use vmap")
    mass = require_mass(mass, pair.chosen)
    if mass is None:
        rank = jnp.argsort(jnp.argsort(pair.chosen))
        margin = pair.chosen - jnp.sort(pair.rejected)[rank]
        return pair.finish(smoothed_logistic(beta * margin, label_smoothing), weights)
    chosen, rejected, width = _matched(pair.chosen, pair.rejected, mass)
    margin = jnp.where(width > 0, pair.chosen[chosen] - pair.rejected[rejected], 0.0)
    cost = width * smoothed_logistic(beta * margin, label_smoothing)
    total = jnp.zeros_like(mass).at[chosen].add(cost)
    return pair.finish(total / jnp.where(mass > 0, mass, 1.0), weights)


def _matched(chosen: Array, rejected: Array, mass: Array) -> tuple[Array, Array, Array]:
    """Return the pieces of the monotone coupling: which chosen, which rejected one, how much."""
    orders = [jnp.argsort(values) for values in (chosen, rejected)]
    sums = [jnp.cumsum(mass[order]) for order in orders]
    ends = jnp.sort(jnp.concatenate(sums))
    starts = jnp.concatenate([jnp.zeros_like(ends[:1]), ends[:-1]])
    middle, last = (starts + ends) / 2, mass.size - 1
    places = [jnp.minimum(jnp.searchsorted(s, middle, side="right"), last) for s in sums]
    return orders[0][places[0]], orders[1][places[1]], ends - starts


def smoothed_logistic(s: Array, label_smoothing: Number) -> Array:
    """Return (1 - epsilon) l(s) + epsilon l(-s), after a check of epsilon."""
    check_scalars(check_label_smoothing, label_smoothing=label_smoothing)
    right = -jax.nn.log_sigmoid(s)
    if known_values(label_smoothing) == 0:  # nor 0 times infinity where a margin is infinite
        return right
    return (1 - label_smoothing) * right - label_smoothing * jax.nn.log_sigmoid(-s)


def excess_power(log_ratio: Array, power: Number) -> Array:
    """Return u^-a - 1, held where the difference of two of them and its multiples are finite."""
    greatest = math.log(float(jnp.finfo(log_ratio.dtype).max)) / 2
    return jnp.expm1(jnp.minimum(-power * log_ratio, greatest))
