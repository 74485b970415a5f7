"""Reward callables: R(x, *conditions), one value per example."""

from ctrl_jax.rewards.learned import learned, standardized
from ctrl_jax.rewards.preprocessing import Preprocessing, read_preprocessing
from ctrl_jax.rewards.resize import resize

__all__ = ["Preprocessing", "learned", "read_preprocessing", "resize", "standardized"]
