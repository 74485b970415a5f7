"""Pure losses: arrays in, one value per example out. Means are taken once, in the algorithm."""

from ctrl_jax.losses import advantage, policy, preference, score_matching, value

__all__ = ["advantage", "policy", "preference", "score_matching", "value"]
