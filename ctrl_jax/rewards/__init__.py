"""Reward callables: R(x, *conditions), one value per example."""

from ctrl_jax.rewards.learned import learned, standardized

__all__ = ["learned", "standardized"]
