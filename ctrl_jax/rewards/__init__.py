"""Reward callables: R(x, *conditions), one value per example."""

from ctrl_jax._typing import Rewards
from ctrl_jax.rewards.jpeg import jpeg_size, soft_jpeg_size
from ctrl_jax.rewards.learned import learned, standardized
from ctrl_jax.rewards.preprocessing import Preprocessing, read_preprocessing
from ctrl_jax.rewards.resize import resize
from ctrl_jax.rewards.weighted import Weighted, weighted

__all__ = [
    "Preprocessing",
    "Rewards",
    "Weighted",
    "jpeg_size",
    "learned",
    "read_preprocessing",
    "resize",
    "soft_jpeg_size",
    "standardized",
    "weighted",
]
