"""The losses of preference pairs that a command may name.

KTO and AOT are missing: they compare the pairs of a batch, whose parts and padding they would see.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from jaxtyping import Array

from ctrl_jax.algorithms import AnswerScores
from ctrl_jax.losses import preference

Loss = Literal[
    "dpo",
    "dpo_smoothed",
    "robust",
    "hinge",
    "ipo",
    "exo",
    "f_dpo_forward_kl",
    "f_dpo_jensen_shannon",
    "sppo",
    "nca",
    "apo_zero",
    "apo_down",
    "cpo",
    "simpo",
    "orpo",
    "mallows_theta",
    "mallows_phi",
    "mallows_phi_sigmoid",
    "mallows_phi_cubic",
    "mallows_ipo",
    "mallows_simpo",
]
Form = Callable[..., Array]
"""``form(scores, beta=..., **options)``, one value per pair."""


class Named(NamedTuple):
    """A loss, and what it takes beside beta."""

    form: Form
    options: tuple[str, ...] = ()


def _ratios(loss: Callable[..., Array], **fixed) -> Form:
    return lambda scores, **given: loss(*scores.log_ratios, **fixed, **given)


def _mean_ratios(loss: Callable[..., Array]) -> Form:
    return lambda scores, **given: loss(*scores.mean_log_ratios, **given)


def _mean_probs(loss: Callable[..., Array]) -> Form:
    return lambda scores, **given: loss(*scores.mean_log_probs, **given)


PHI, SMOOTH = ("dispersion",), ("label_smoothing",)
LOSSES: dict[str, Named] = {
    "dpo": Named(_ratios(preference.dpo)),
    "dpo_smoothed": Named(_ratios(preference.dpo), SMOOTH),
    "robust": Named(_ratios(preference.robust), SMOOTH),
    "hinge": Named(_ratios(preference.hinge)),
    "ipo": Named(_mean_ratios(preference.ipo)),
    "exo": Named(_ratios(preference.exo)),
    "f_dpo_forward_kl": Named(_ratios(preference.f_dpo, divergence="forward_kl")),
    "f_dpo_jensen_shannon": Named(_ratios(preference.f_dpo, divergence="jensen_shannon")),
    "sppo": Named(_ratios(preference.sppo)),
    "nca": Named(_ratios(preference.nca)),
    "apo_zero": Named(_ratios(preference.apo, variant="zero")),
    "apo_down": Named(_ratios(preference.apo, variant="down")),
    "cpo": Named(lambda scores, **given: preference.cpo(*scores.log_probs, **given)),
    "simpo": Named(_mean_probs(preference.simpo), ("gamma",)),
    "orpo": Named(_mean_probs(preference.orpo)),
    "mallows_theta": Named(_ratios(preference.mallows_theta), PHI),
    "mallows_phi": Named(_ratios(preference.mallows_phi), PHI),
    "mallows_phi_sigmoid": Named(_ratios(preference.mallows_phi, link="sigmoid"), PHI),
    "mallows_phi_cubic": Named(_ratios(preference.mallows_phi, link="cubic"), PHI),
    "mallows_ipo": Named(_mean_ratios(preference.mallows_ipo), PHI),
    "mallows_simpo": Named(_mean_probs(preference.mallows_simpo), (*PHI, "gamma")),
}


def make_loss(
    name: str, *, beta: float, label_smoothing: float, gamma: float
) -> Callable[[AnswerScores], Array]:
    """Return a loss of scores, with those of the hyperparameters that it takes."""
    named = LOSSES[name]
    numbers = {"label_smoothing": label_smoothing, "gamma": gamma}
    taken = {key: value for key, value in numbers.items() if key in named.options}

    def loss(scores: AnswerScores) -> Array:
        phi = {"dispersion": scores.dispersion} if "dispersion" in named.options else {}
        return named.form(scores, beta=beta, **taken, **phi)

    return loss
