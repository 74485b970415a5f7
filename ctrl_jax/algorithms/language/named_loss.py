"""Preference losses of a language model's answers by their names in `preference.NAMED`."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ctrl_jax._checks import check_finite, check_positive, refuse
from ctrl_jax.algorithms.language.answer_scores import AnswerScores
from ctrl_jax.algorithms.language.preference import ScoreLoss
from ctrl_jax.losses.preference.named import NAMED, NamedLoss, check_loss
from ctrl_jax.losses.preference.pair import Number, check_scalars


def named_loss(
    name: str | Sequence[str],
    *,
    beta: Number,
    shares: Sequence[float] | None = None,
    **options: Number,
) -> ScoreLoss:
    """Return ``loss(scores)``, for `make_lm_preference`, of the scores that the losses take.

    Args:
        name: one of `preference.NAMED`, or several, whose weighted sum is taken.
        beta: inverse temperature, the same for all.
        shares: weight of each of several losses; 1 by default.
        **options: further hyperparameters, each of every loss that has it; those left out have
            their defaults.

    Raises:
        ValueError: there is no such loss, or none of them has such an option; a weight is missing.
    """
    if not isinstance(name, str | list | tuple):
        raise refuse("name", name, "it must name losses", "give one, such as dpo, or several")
    names = (name,) if isinstance(name, str) else tuple(name)
    if not names:
        raise refuse("name", name, "there must be a loss", "give one, such as dpo")
    for each in names:
        check_loss("name", each)
    rows = [NAMED[each] for each in names]
    known = {key for row in rows for key in row.options}
    if unknown := {*options} - known:
        rule = f"{' and '.join(names)} has no such option"
        raise refuse(
            "options", ", ".join(sorted(unknown)), rule, f"it has {', '.join(known) or 'none'}"
        )
    check_scalars(check_positive, beta=beta)
    for key, value in options.items():
        for row in rows:
            if key in row.options:
                check_scalars(row.options[key].check, **{key: value})
    if shares is not None and np.ndim(shares) != 1:
        raise refuse("shares", shares, "it must be one number for each loss", "give a list")
    shares = (1.0,) * len(names) if shares is None else tuple(shares)
    if len(shares) != len(names):
        rule = f"there must be one for each loss, {len(names)}"
        raise refuse("shares", shares, rule, "give as many")
    for share in shares:
        check_finite("shares", share)
    parts = [_of_scores(row, beta, options) for row in rows]

    def loss(scores: AnswerScores) -> Array:
        first, *others = (s * part(scores) for s, part in zip(shares, parts, strict=True))
        return sum(others, start=first)

    return loss


def _of_scores(
    row: NamedLoss, beta: Number, options: dict[str, Number]
) -> Callable[[AnswerScores], Array]:
    taken = row.defaults | {key: value for key, value in options.items() if key in row.options}

    def loss(scores: AnswerScores) -> Array:
        more: dict[str, Array] = {"dispersion": scores.dispersion} if row.dispersed else {}
        if row.of_batch:
            chosen = getattr(scores, row.inputs)[0]
            mass = jnp.ones_like(chosen) if scores.weights is None else scores.weights
            more["mass"] = mass.astype(chosen.dtype)
        return row.loss(*getattr(scores, row.inputs), beta=beta, **taken, **more)

    return loss
