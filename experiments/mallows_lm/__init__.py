"""Mallows-DPO on a language model, in a world in which the dispersion of opinions is known."""

from experiments.study import Study

STUDY = Study(
    "mallows_lm",
    about="what the dispersion of opinions buys a language model",
    claim=(
        "Where people agree on some questions and not on others, Mallows-DPO learns more from as "
        "many comparisons than DPO, for less divergence from the base model, also out of "
        "distribution."
    ),
    source="arXiv 2405.14953, sections 2-5",
    minutes=8,
    pictures=("frontier.png", "dispersion.png"),
)
