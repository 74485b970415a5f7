"""Reward callables: R(x, *conditions), one value per example."""

from ctrl_jax._typing import Rewards
from ctrl_jax.rewards.clip import aesthetic, clip_score, hps, pick_score
from ctrl_jax.rewards.image_reward import image_reward
from ctrl_jax.rewards.jpeg import jpeg_size, soft_jpeg_size
from ctrl_jax.rewards.learned import learned, standardized
from ctrl_jax.rewards.picture_reward import PictureReward
from ctrl_jax.rewards.preprocessing import Preprocessing, read_preprocessing
from ctrl_jax.rewards.resize import resize
from ctrl_jax.rewards.weighted import Weighted, weighted

__all__ = [
    "PictureReward",
    "Preprocessing",
    "Rewards",
    "Weighted",
    "aesthetic",
    "clip_score",
    "hps",
    "image_reward",
    "jpeg_size",
    "learned",
    "pick_score",
    "read_preprocessing",
    "resize",
    "soft_jpeg_size",
    "standardized",
    "weighted",
]
