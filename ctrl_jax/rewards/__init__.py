"""Reward callables: R(x, *conditions), one value per example."""

from ctrl_jax.rewards.learned import learned, standardised

__all__ = ["learned", "standardised"]
