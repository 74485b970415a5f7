"""Algorithms: pairs of pure functions (init, step)."""

from ctrl_jax.algorithms.base import Algorithm
from ctrl_jax.algorithms.consistency_training import (
    ConsistencyConfig,
    make_consistency_training,
)
from ctrl_jax.algorithms.control_step import ControlState, UpdateConfig
from ctrl_jax.algorithms.ddpo import make_ddpo, make_dpok
from ctrl_jax.algorithms.diffusion_control import Batch, DiffusionControl, Rollout, roll_out
from ctrl_jax.algorithms.reward_learning import Pairs, make_reward_learning
from ctrl_jax.algorithms.score_as_action import (
    make_policy_gradient,
    make_ppo,
    make_value_gradient,
)
from ctrl_jax.algorithms.score_pretraining import DataBatch, make_score_pretraining, uniform_times

__all__ = [
    "Algorithm",
    "Batch",
    "ConsistencyConfig",
    "ControlState",
    "DataBatch",
    "DiffusionControl",
    "Pairs",
    "Rollout",
    "UpdateConfig",
    "make_consistency_training",
    "make_ddpo",
    "make_dpok",
    "make_policy_gradient",
    "make_ppo",
    "make_reward_learning",
    "make_score_pretraining",
    "make_value_gradient",
    "roll_out",
    "uniform_times",
]
