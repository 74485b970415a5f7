"""A preference loss of a language model's answers by its name in `preference.NAMED`."""

from jaxtyping import Array

from ctrl_jax._checks import check_choice, refuse
from ctrl_jax.algorithms.language.answer_scores import AnswerScores
from ctrl_jax.algorithms.language.preference import ScoreLoss
from ctrl_jax.losses.preference.named import NAMED
from ctrl_jax.losses.preference.pair import Number


def named_loss(name: str, *, beta: Number, **options: Number) -> ScoreLoss:
    """Return ``loss(scores)``, for `make_lm_preference`, of the scores that the loss takes.

    Args:
        name: one of `preference.NAMED`.
        beta: inverse temperature.
        **options: further hyperparameters of the loss; those left out have their defaults.

    Raises:
        ValueError: there is no such loss, or it has no such option.
    """
    check_choice("name", name, tuple(NAMED))
    named = NAMED[name]
    if unknown := {*options} - {*named.options}:
        rule, repair = f"{name} has no such option", f"it has {', '.join(named.options) or 'none'}"
        raise refuse("options", ", ".join(sorted(unknown)), rule, repair)
    taken = {"beta": beta, **named.defaults, **options}

    def loss(scores: AnswerScores) -> Array:
        phi = {"dispersion": scores.dispersion} if named.dispersed else {}
        return named.loss(*getattr(scores, named.inputs), **taken, **phi)

    return loss
