r"""Losses of the difference between two answers: DPO and what came of it.

With rho = log pi(y|x) - log pi_ref(y|x) of the chosen and the rejected answer, m = rho_w - rho_l,
l(s) = -log sigmoid(s) and epsilon the share of wrong labels,

    dpo:     (1 - epsilon) l(beta m) + epsilon l(-beta m)                                (1)
    robust:  [(1 - epsilon) l(beta m) - epsilon l(-beta m)] / (1 - 2 epsilon)            (2)
    hinge:   max(0, 1 - beta m)                                                          (3)
    ipo:     (m - 1/(2 beta))^2                            (m of per-token means)        (4)
    exo:     KL(Bernoulli(sigmoid(beta m)) || Bernoulli(1 - epsilon))                    (5)
    f_dpo:   (1) with m = f'(u_w) - f'(u_l), u = e^rho,                                  (6)

(2) has the mean of (1) with clean labels when the labels are flipped with probability epsilon. (6)
penalizes the divergence of f in the place of KL: up to constants f'(u) is

    reverse_kl: log u   forward_kl: -1/u   jensen_shannon: log(2u/(1 + u))   alpha: (1 - u^-a)/a

where a -> 0 is reverse KL and a = 1 forward KL. `aot` is (1) of sorted values (see there).

Source: Rafailov et al. 2023 (arXiv 2305.18290) (1); 2403.00409 (2); 2305.10425 (3); 2310.12036
(4); 2402.00856 (5); 2309.16240 (6); 2406.05882 (aot).
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax.losses.preference.pair import (
    Number,
    Pair,
    concrete,
    read_pair,
    require_label_smoothing,
    require_positive_scalars,
)

Divergence = Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"]


def bradley_terry(
    reward_chosen: Float[Array, "*batch"],
    reward_rejected: Float[Array, "*batch"],
    *,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return -log sigmoid(reward_chosen - reward_rejected), the Bradley-Terry likelihood.

    Args:
        reward_chosen: reward of the preferred example of each pair.
        reward_rejected: reward of the other one.
        weights: optional weight of each pair.

    Raises:
        ValueError: a shape or dtype is wrong.
    """
    pair = read_pair("bradley_terry", reward_chosen, reward_rejected)
    return pair.finish(-jax.nn.log_sigmoid(pair.margin), weights)


def dpo(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    label_smoothing: Number = 0.0,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (1): DPO, or conservative DPO where labels are smoothed.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, summed over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: inverse temperature.
        label_smoothing: epsilon, in [0, 0.5).
        weights: optional weight of each example.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, label_smoothing out of range.
    """
    pair = read_pair("dpo", log_ratio_chosen, log_ratio_rejected, beta=beta)
    return pair.finish(smoothed_logistic(pair, beta * pair.margin, label_smoothing), weights)


def robust(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    label_smoothing: Number,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (2), DPO's loss unbiased by flipped labels; arguments and errors as `dpo`."""
    pair = read_pair("robust", log_ratio_chosen, log_ratio_rejected, beta=beta)
    require_label_smoothing(pair.owner, label_smoothing)
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
    """Return (3); arguments and errors as `dpo`."""
    pair = read_pair("hinge", log_ratio_chosen, log_ratio_rejected, beta=beta)
    return pair.finish(jax.nn.relu(1 - beta * pair.margin), weights)


def ipo(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (4); arguments and errors as `dpo`, but log-ratios are means over the tokens."""
    pair = read_pair("ipo", log_ratio_chosen, log_ratio_rejected, beta=beta)
    return pair.finish((pair.margin - 1 / (2 * beta)) ** 2, weights)


def exo(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    label_smoothing: Number = 1e-3,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (5), EXO for pairs; arguments and errors as `dpo`, label_smoothing in (0, 0.5)."""
    pair = read_pair("exo", log_ratio_chosen, log_ratio_rejected, beta=beta)
    require_positive_scalars(pair.owner, label_smoothing=label_smoothing)
    require_label_smoothing(pair.owner, label_smoothing)
    s = beta * pair.margin
    kept = jax.nn.log_sigmoid(s) - jnp.log1p(-label_smoothing)
    turned = jax.nn.log_sigmoid(-s) - jnp.log(label_smoothing)
    return pair.finish(jax.nn.sigmoid(s) * kept + jax.nn.sigmoid(-s) * turned, weights)


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
    """Return (6), DPO under another divergence than KL.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, summed over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: inverse temperature.
        divergence: "reverse_kl" (DPO itself), "forward_kl", "jensen_shannon" or "alpha".
        alpha: a > 0, with "alpha" only.
        label_smoothing: epsilon, in [0, 0.5).
        weights: optional weight of each example.

    Powers u^-a saturate at the root of the type's largest number, where their gradient ends.

    Raises:
        ValueError: as `dpo`; the divergence is unknown; alpha is missing, not positive, or given to
            another divergence.
    """
    pair = read_pair("f_dpo", log_ratio_chosen, log_ratio_rejected, beta=beta)
    if divergence not in ("reverse_kl", "forward_kl", "jensen_shannon", "alpha"):
        raise ValueError(
            'f_dpo: divergence must be "reverse_kl", "forward_kl", "jensen_shannon" or "alpha", '
            f"got {divergence!r}."
        )
    if (alpha is not None) != (divergence == "alpha"):
        raise ValueError(
            f'f_dpo: alpha belongs to divergence="alpha", got {alpha!r} with {divergence!r}.'
        )
    margin = pair.margin
    if divergence == "jensen_shannon":
        margin = margin - (jax.nn.softplus(pair.chosen) - jax.nn.softplus(pair.rejected))
    elif divergence != "reverse_kl":
        power = 1.0 if alpha is None else alpha
        require_positive_scalars(pair.owner, alpha=power)
        margin = (_excess_power(pair.rejected, power) - _excess_power(pair.chosen, power)) / power
    return pair.finish(smoothed_logistic(pair, beta * margin, label_smoothing), weights)


def aot(
    log_ratio_chosen: Float[Array, " batch"],
    log_ratio_rejected: Float[Array, " batch"],
    *,
    beta: Number,
    label_smoothing: Number = 0.0,
    weights: Float[Array, " batch"] | None = None,
) -> Float[Array, " batch"]:
    """Return (1) between values of equal rank: alignment of distributions by optimal transport.

    The chosen values need not be paired with the rejected ones: asked for is that their
    distribution dominates. With margins log pi(y_w) - log pi(y_l) of the policy in the place of the
    chosen and those of the reference in the place of the rejected it is the form for paired data.
    The one loss here whose value for an example depends on the others.

    Args:
        log_ratio_chosen: as in `dpo`; the value returned at i belongs to this example.
        log_ratio_rejected: as in `dpo`, in any order.
        beta: inverse temperature.
        label_smoothing: epsilon, in [0, 0.5).
        weights: optional weight of each chosen example.

    Raises:
        ValueError: as `dpo`.
    """
    pair = read_pair("aot", log_ratio_chosen, log_ratio_rejected, beta=beta)
    if pair.chosen.ndim != 1:
        raise ValueError(
            "aot: log-ratios must have one axis, along which they are ranked, got shape "
            f"{list(pair.chosen.shape)}; ravel them, or use vmap."
        )
    rank = jnp.argsort(jnp.argsort(pair.chosen))
    margin = pair.chosen - jnp.sort(pair.rejected)[rank]
    return pair.finish(smoothed_logistic(pair, beta * margin, label_smoothing), weights)


def smoothed_logistic(pair: Pair, s: Array, label_smoothing: Number) -> Array:
    """Return (1 - epsilon) l(s) + epsilon l(-s), after a check of epsilon."""
    require_label_smoothing(pair.owner, label_smoothing)
    right = -jax.nn.log_sigmoid(s)
    if concrete(label_smoothing) == 0:  # nor 0 times infinity where a margin is infinite
        return right
    return (1 - label_smoothing) * right - label_smoothing * jax.nn.log_sigmoid(-s)


def _excess_power(log_ratio: Array, power: Number) -> Array:
    """u^-a - 1, held where the difference of two of them and its multiples are finite."""
    greatest = math.log(float(jnp.finfo(log_ratio.dtype).max)) / 2
    return jnp.expm1(jnp.minimum(-power * log_ratio, greatest))
