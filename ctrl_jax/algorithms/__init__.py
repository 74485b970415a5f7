"""Algorithms: pairs of pure functions (init, step)."""

from ctrl_jax.algorithms.base import Algorithm
from ctrl_jax.algorithms.ddpo import make_ddpo, make_dpok
from ctrl_jax.algorithms.diffusion_control import Batch, DiffusionControl, Rollout, roll_out
from ctrl_jax.algorithms.score_as_action import (
    UpdateConfig,
    make_policy_gradient,
    make_ppo,
    make_value_gradient,
)

__all__ = [
    "Algorithm",
    "Batch",
    "DiffusionControl",
    "Rollout",
    "UpdateConfig",
    "make_ddpo",
    "make_dpok",
    "make_policy_gradient",
    "make_ppo",
    "make_value_gradient",
    "roll_out",
]
