"""Stages of `experiments.preference_lm`: a world in which the dispersion of opinions is known."""
