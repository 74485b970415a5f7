r"""Preference losses that hold each answer to a standard of its own, not the pair to a difference.

With rho = log pi(y|x) - log pi_ref(y|x) of the chosen and the rejected answer, r = beta rho,

    sppo:       (rho_w - (p - 1/2)/beta)^2 + (rho_l + (p - 1/2)/beta)^2                  (1)
    nca:        l(r_w) + l(-r_w)/2 + l(-r_l)/2,   l(s) = -log sigmoid(s)                 (2)
    apo, zero:  sigmoid(-r_w) + sigmoid(r_l)                                             (3)
    apo, down:  sigmoid(r_w) + sigmoid(r_l - r_w)                                        (4)
    kto:        lambda_d sigmoid(beta (kl - rho))    where the answer is desirable,      (5)
                lambda_u sigmoid(beta (rho - kl))    where it is not,

p the probability that the chosen answer beats the rejected one, kl the divergence from the
reference that both kinds of answer are measured from.

Source: arXiv 2405.00675 (1); 2402.05369 (2); 2408.06266 (3), (4); 2402.01306 (5).
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ctrl_jax.losses.preference.pair import (
    Number,
    finish,
    known_values,
    read_pair,
    require_beside,
    require_floating,
    require_nonnegative,
    require_positive_scalars,
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
    """Return (1), self-play preference optimization.

    Args:
        log_ratio_chosen: log pi - log pi_ref of the chosen answer, summed over its tokens.
        log_ratio_rejected: the same of the rejected answer.
        beta: inverse temperature.
        win_probability: p in [0, 1], one or one per example; 1 is the form with hard labels.
        weights: optional weight of each example.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, a concrete p leaves [0, 1].
    """
    pair = read_pair("sppo", log_ratio_chosen, log_ratio_rejected, beta=beta)
    chance = require_beside(pair.owner, "win_probability", win_probability, pair.chosen)
    known = known_values(win_probability)
    if known is not None and not np.all((known >= 0) & (known <= 1)):
        raise ValueError(f"sppo: win_probability must lie in [0, 1], got {win_probability!r}.")
    target = (chance - 0.5) / beta
    return pair.finish((pair.chosen - target) ** 2 + (pair.rejected + target) ** 2, weights)


def nca(
    log_ratio_chosen: Float[Array, "*batch"],
    log_ratio_rejected: Float[Array, "*batch"],
    *,
    beta: Number,
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Return (2), noise-contrastive alignment of pairs; arguments and errors as `sppo`."""
    pair = read_pair("nca", log_ratio_chosen, log_ratio_rejected, beta=beta)
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
    """Return anchored preference optimization; arguments and errors as `sppo`.

    Args:
        variant: "zero" (3) raises the chosen answer, for data better than the model; "down" (4)
            lowers both, the rejected one more, for data worse than the model.
    """
    pair = read_pair("apo", log_ratio_chosen, log_ratio_rejected, beta=beta)
    if variant not in ("zero", "down"):
        raise ValueError(f'apo: variant must be "zero" or "down", got {variant!r}.')
    if variant == "zero":
        loss = jax.nn.sigmoid(-beta * pair.chosen) + jax.nn.sigmoid(beta * pair.rejected)
    else:
        loss = jax.nn.sigmoid(beta * pair.chosen) + jax.nn.sigmoid(-beta * pair.margin)
    return pair.finish(loss, weights)


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
    """Return (5), Kahneman-Tversky optimization of answers that come alone.

    Args:
        log_ratio: log pi - log pi_ref of each answer, summed over its tokens.
        desirable: whether the answer is a good one.
        kl: estimate of KL(pi || pi_ref) in nats, at least 0, held fixed by the caller: the mean
            log-ratio of answers to other prompts, cut at 0.
        beta: inverse temperature.
        desirable_weight: lambda_d, at least 0.
        undesirable_weight: lambda_u, at least 0.
        weights: optional weight of each example.

    Raises:
        ValueError: a shape or dtype is wrong, beta is not positive, a weight is negative.
    """
    require_floating("kto", log_ratio=log_ratio)
    require_positive_scalars("kto", beta=beta)
    require_nonnegative(
        "kto", desirable_weight=desirable_weight, undesirable_weight=undesirable_weight
    )
    if getattr(desirable, "dtype", None) != jnp.bool_ or desirable.shape != log_ratio.shape:
        raise ValueError(
            f"kto: desirable must be booleans of shape {list(log_ratio.shape)}, got {desirable!r}."
        )
    gain = beta * (widened(log_ratio) - require_beside("kto", "kl", kl, log_ratio))
    loss = jnp.where(
        desirable,
        desirable_weight * jax.nn.sigmoid(-gain),
        undesirable_weight * jax.nn.sigmoid(gain),
    )
    return finish("kto", loss, weights, jnp.asarray(log_ratio).dtype)
