"""Every preference loss of pairs by its name: what it is computed from, and its options.

What offers a choice of losses reads this table: a new loss is a function and a row of it, and an
option that is in no other row comes with it. Most are losses of one pair alone; those of a batch
look at the other pairs too (AOT ranks them, KTO takes a mean over them), and are told how much each
of them counts, so that padding does not.

`OF_TRL` tells the names that TRL has for them.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, NamedTuple

from jaxtyping import Array

from ctrl_jax._checks import (
    check_choice,
    check_finite,
    check_non_negative,
    check_positive,
    refuse,
)
from ctrl_jax.losses.preference.direct import aot, discopop, dpo, exo, f_dpo, hinge, ipo, robust
from ctrl_jax.losses.preference.mallows import (
    mallows_ipo,
    mallows_phi,
    mallows_simpo,
    mallows_theta,
)
from ctrl_jax.losses.preference.pair import Number, check_label_smoothing
from ctrl_jax.losses.preference.reference_free import check_nonzero, cpo, orpo, sft, simpo
from ctrl_jax.losses.preference.separate import apo, bco, kto_pairs, nca, sppo

Inputs = Literal["log_ratios", "mean_log_ratios", "log_probs", "mean_log_probs", "margins"]
"""Log-ratios to the reference or log-probabilities, summed over an answer's tokens or their mean;
margins: how much more probable the chosen answer is, in the model and in the reference.
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
    """A loss of pairs.

    Fields:
        loss: ``loss(chosen, rejected, *, beta, weights=None, **options)``, with `dispersion` where
            it is dispersed; one value per pair.
        inputs: which values of the answers it takes.
        options: its further hyperparameters by name.
        dispersed: whether it takes the dispersion of each pair.
        of_batch: whether a value depends on the other pairs; it then takes the `mass` of each.
    """

    loss: Callable[..., Array]
    inputs: Inputs = "log_ratios"
    options: Mapping[str, Option] = {}
    dispersed: bool = False
    of_batch: bool = False

    @property
    def rewards(self) -> Inputs:
        """What times beta is an answer's reward, as TRL has it: its log-ratio, where it has one."""
        return self.inputs if self.inputs in ("log_probs", "mean_log_probs") else "log_ratios"

    @property
    def defaults(self) -> dict[str, float]:
        """The options at their defaults."""
        return {name: option.default for name, option in self.options.items()}


def _smoothed(default: float) -> dict[str, Option]:
    check = _above_zero_smoothing if default == EXO_SMOOTHING else check_label_smoothing
    return {"label_smoothing": Option(default, check, "share of labels that are taken to be wrong")}


def _above_zero_smoothing(name: str, value: object) -> None:
    check_positive(name, value)
    check_label_smoothing(name, value)


EXO_SMOOTHING = 1e-3
LIKELIHOOD = {
    "nll_weight": Option(
        1.0,
        check_non_negative,
        "weight of the chosen answer's negative log-likelihood: its sum over the tokens in cpo, "
        "its mean in orpo; 0 leaves it out",
    )
}
SHIFTED = {
    "shift": Option(
        0.0, check_finite, "reward that tells chosen answers from rejected ones; 0 as in TRL"
    )
}
AIMED = {
    "gamma": Option(
        0.5,
        check_non_negative,
        "what beta times the difference of the answers' mean log-probabilities is to exceed",
    )
}
POWER = "power of the ratios (f_dpo_alpha; TRL's coefficient is 1 less this) or the likelihoods"
WEIGHED = {
    f"{kind}_weight": Option(1.0, check_non_negative, f"weight of the {answers} answers")
    for kind, answers in (("desirable", "chosen"), ("undesirable", "rejected"))
}


def _alpha(default: float, check: Callable[[str, object], object]) -> dict[str, Option]:
    return {"alpha": Option(default, check, POWER)}


def _likelihood(chosen: Array, rejected: Array, *, beta: Number, weights=None) -> Array:
    return sft(chosen, weights=weights)


NAMED: dict[str, NamedLoss] = {
    "dpo": NamedLoss(dpo),
    "dpo_smoothed": NamedLoss(dpo, options=_smoothed(0.1)),
    "sigmoid_norm": NamedLoss(dpo, "mean_log_ratios"),
    "robust": NamedLoss(robust, options=_smoothed(0.1)),
    "hinge": NamedLoss(hinge),
    "ipo": NamedLoss(ipo, "mean_log_ratios"),
    "exo": NamedLoss(exo, options=_smoothed(EXO_SMOOTHING)),
    "discopop": NamedLoss(
        discopop, options={"tau": Option(0.05, check_positive, "width of its change of form")}
    ),
    "f_dpo_forward_kl": NamedLoss(partial(f_dpo, divergence="forward_kl")),
    "f_dpo_jensen_shannon": NamedLoss(partial(f_dpo, divergence="jensen_shannon")),
    "f_dpo_alpha": NamedLoss(
        partial(f_dpo, divergence="alpha"), options=_alpha(0.5, check_positive)
    ),
    "aot": NamedLoss(aot, "margins", _smoothed(0.0), of_batch=True),
    "aot_unpaired": NamedLoss(aot, options=_smoothed(0.0), of_batch=True),
    "sppo": NamedLoss(sppo),
    "nca": NamedLoss(nca),
    "apo_zero": NamedLoss(partial(apo, variant="zero")),
    "apo_down": NamedLoss(partial(apo, variant="down")),
    "bco": NamedLoss(bco, options=SHIFTED),
    "kto": NamedLoss(kto_pairs, options=WEIGHED, of_batch=True),
    "sft": NamedLoss(_likelihood, "mean_log_probs"),
    "cpo": NamedLoss(cpo, "log_probs", LIKELIHOOD | _smoothed(0.0)),
    "cpo_hinge": NamedLoss(hinge, "log_probs"),
    "cpo_ipo": NamedLoss(ipo, "mean_log_probs"),
    "simpo": NamedLoss(simpo, "mean_log_probs", AIMED | _smoothed(0.0)),
    "alphapo": NamedLoss(simpo, "mean_log_probs", AIMED | _alpha(0.25, check_nonzero)),
    "orpo": NamedLoss(orpo, "mean_log_probs", LIKELIHOOD),
    "mallows_theta": NamedLoss(mallows_theta, dispersed=True),
    "mallows_phi": NamedLoss(mallows_phi, dispersed=True),
    "mallows_phi_sigmoid": NamedLoss(partial(mallows_phi, link="sigmoid"), dispersed=True),
    "mallows_phi_cubic": NamedLoss(partial(mallows_phi, link="cubic"), dispersed=True),
    "mallows_ipo": NamedLoss(mallows_ipo, "mean_log_ratios", dispersed=True),
    "mallows_simpo": NamedLoss(mallows_simpo, "mean_log_probs", AIMED, dispersed=True),
}
"""The losses by name."""

OF_TRL = {
    "sigmoid": "dpo",
    "exo_pair": "exo",
    "nca_pair": "nca",
    "sppo_hard": "sppo",
    "bco_pair": "bco",
    "aot_pair": "aot_unpaired",
    "kto_pair": "kto",
    "apo_zero_unpaired": "apo_zero",
}
"""TRL's names where they are not ours."""


def check_loss(name: str, value: object) -> None:
    """Raise ValueError, about `name`, unless `value` is a name in `NAMED`."""
    if value in OF_TRL:
        rule = "it is TRL's name of another here"
        raise refuse(name, value, rule, f"give {OF_TRL[str(value)]}")
    check_choice(name, value, tuple(NAMED))


def options_of(named: Mapping[str, NamedLoss] = NAMED) -> dict[str, tuple[Option, list[str]]]:
    """Return every option of the losses with the names of those that take it.

    Args:
        named: the losses; of an option whose default differs, the first one's is returned.
    """
    found: dict[str, tuple[Option, list[str]]] = {}
    for name, row in named.items():
        for key, option in row.options.items():
            found.setdefault(key, (option, []))[1].append(name)
    return found
