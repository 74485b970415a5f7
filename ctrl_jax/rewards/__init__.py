"""Reward callables: R(x, *conditions), one value per example."""

from ctrl_jax._typing import Rewards
from ctrl_jax.rewards.clip import aesthetic, clip_score, hps, pick_score
from ctrl_jax.rewards.combined import Combined, combined
from ctrl_jax.rewards.image_reward import image_reward
from ctrl_jax.rewards.jpeg import jpeg_size, soft_jpeg_size
from ctrl_jax.rewards.learned import learned, standardized
from ctrl_jax.rewards.outside import (
    OutsideReward,
    RewardError,
    RewardUnavailable,
    ServerOptions,
    gathered,
    python_reward,
    server_reward,
)
from ctrl_jax.rewards.picture_reward import PictureReward
from ctrl_jax.rewards.preprocessing import Preprocessing, read_preprocessing
from ctrl_jax.rewards.resize import resize
from ctrl_jax.rewards.weighted import Weighted, weighted

__all__ = [
    "Combined",
    "OutsideReward",
    "PictureReward",
    "Preprocessing",
    "RewardError",
    "RewardUnavailable",
    "Rewards",
    "ServerOptions",
    "Weighted",
    "aesthetic",
    "clip_score",
    "combined",
    "gathered",
    "hps",
    "image_reward",
    "jpeg_size",
    "learned",
    "pick_score",
    "python_reward",
    "read_preprocessing",
    "resize",
    "server_reward",
    "soft_jpeg_size",
    "standardized",
    "weighted",
]
