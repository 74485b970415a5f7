"""Rewards that are computed outside JAX: by a Python function, or by a server."""

from ctrl_jax._errors import RewardError, RewardUnavailable
from ctrl_jax.rewards.outside.function import python_reward
from ctrl_jax.rewards.outside.gathering import gathered
from ctrl_jax.rewards.outside.reward import OutsideReward
from ctrl_jax.rewards.outside.server import ServerOptions, server_reward

__all__ = [
    "OutsideReward",
    "RewardError",
    "RewardUnavailable",
    "ServerOptions",
    "gathered",
    "python_reward",
    "server_reward",
]
