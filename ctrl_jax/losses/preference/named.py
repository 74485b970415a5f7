"""Every preference loss of pairs by its name: what it is computed from, and its options.

What offers a choice of losses reads this table: a new loss is a function and a row of it, and an
option that is in no other row comes with it. KTO and AOT are not losses of one pair alone: KTO
takes answers that come alone, and AOT ranks those of a batch.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, NamedTuple

from jaxtyping import Array

from ctrl_jax._checks import check_finite, check_non_negative
from ctrl_jax.losses.preference.direct import dpo, exo, f_dpo, hinge, ipo, robust
from ctrl_jax.losses.preference.mallows import (
    mallows_ipo,
    mallows_phi,
    mallows_simpo,
    mallows_theta,
)
from ctrl_jax.losses.preference.pair import check_label_smoothing
from ctrl_jax.losses.preference.reference_free import cpo, orpo, simpo
from ctrl_jax.losses.preference.separate import apo, bco, nca, sppo

Inputs = Literal["log_ratios", "mean_log_ratios", "log_probs", "mean_log_probs"]
"""Log-ratios to the reference or log-probabilities, summed over an answer's tokens or their mean.
"""


class Option(NamedTuple):
    """A number that a loss takes beside beta.

    Fields:
        default: its value where none is given.
        check: ``check(name, value)`` raises ValueError for a value out of range.
        meaning: what it does, a clause.
    """

    default: float
    check: Callable[[str, object], object]
    meaning: str


class NamedLoss(NamedTuple):
    """A loss of pairs, each of its own pair alone.

    Fields:
        loss: ``loss(chosen, rejected, *, beta, weights=None, **options)``, with `dispersion` where
            it is dispersed; one value per pair.
        inputs: which values of the answers it takes.
        options: its further hyperparameters by name.
        dispersed: whether it takes the dispersion of each pair.
    """

    loss: Callable[..., Array]
    inputs: Inputs = "log_ratios"
    options: Mapping[str, Option] = {}
    dispersed: bool = False

    @property
    def defaults(self) -> dict[str, float]:
        """The options at their defaults."""
        return {name: option.default for name, option in self.options.items()}


SMOOTHED = {
    "label_smoothing": Option(
        0.1, check_label_smoothing, "share of labels that are taken to be wrong"
    )
}
SHIFTED = {
    "shift": Option(
        0.0,
        check_finite,
        "reward that tells chosen answers from rejected ones; in TRL the running mean of both",
    )
}
AIMED = {
    "gamma": Option(
        0.5,
        check_non_negative,
        "what beta times the difference of the answers' mean log-probabilities is to exceed",
    )
}

NAMED: dict[str, NamedLoss] = {
    "dpo": NamedLoss(dpo),
    "dpo_smoothed": NamedLoss(dpo, options=SMOOTHED),
    "robust": NamedLoss(robust, options=SMOOTHED),
    "hinge": NamedLoss(hinge),
    "ipo": NamedLoss(ipo, "mean_log_ratios"),
    "exo": NamedLoss(exo),
    "f_dpo_forward_kl": NamedLoss(partial(f_dpo, divergence="forward_kl")),
    "f_dpo_jensen_shannon": NamedLoss(partial(f_dpo, divergence="jensen_shannon")),
    "sppo": NamedLoss(sppo),
    "nca": NamedLoss(nca),
    "apo_zero": NamedLoss(partial(apo, variant="zero")),
    "apo_down": NamedLoss(partial(apo, variant="down")),
    "bco": NamedLoss(bco, options=SHIFTED),
    "cpo": NamedLoss(cpo, "log_probs"),
    "simpo": NamedLoss(simpo, "mean_log_probs", AIMED),
    "orpo": NamedLoss(orpo, "mean_log_probs"),
    "mallows_theta": NamedLoss(mallows_theta, dispersed=True),
    "mallows_phi": NamedLoss(mallows_phi, dispersed=True),
    "mallows_phi_sigmoid": NamedLoss(partial(mallows_phi, link="sigmoid"), dispersed=True),
    "mallows_phi_cubic": NamedLoss(partial(mallows_phi, link="cubic"), dispersed=True),
    "mallows_ipo": NamedLoss(mallows_ipo, "mean_log_ratios", dispersed=True),
    "mallows_simpo": NamedLoss(mallows_simpo, "mean_log_probs", AIMED, dispersed=True),
}
"""The losses by name."""


def options_of(named: Mapping[str, NamedLoss] = NAMED) -> dict[str, tuple[Option, list[str]]]:
    """Return every option of the losses with the names of those that take it.

    Args:
        named: the losses.
    """
    found: dict[str, tuple[Option, list[str]]] = {}
    for name, row in named.items():
        for key, option in row.options.items():
            found.setdefault(key, (option, []))[1].append(name)
    return found
