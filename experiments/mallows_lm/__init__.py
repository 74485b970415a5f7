"""Mallows-DPO on a language model, in a world in which the dispersion of opinions is known."""
