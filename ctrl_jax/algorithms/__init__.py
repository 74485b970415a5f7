"""Algorithms: pairs of pure functions (init, step)."""

from ctrl_jax.algorithms.base import Algorithm, Learner, RunState, ahead, skip
from ctrl_jax.algorithms.control.actor_critic import ContinuousControl, OccupationConfig
from ctrl_jax.algorithms.control.cpg import make_cpg
from ctrl_jax.algorithms.control.cppo import ProximalConfig, make_cppo
from ctrl_jax.algorithms.control.discrete import make_discrete_policy_gradient, make_discrete_ppo
from ctrl_jax.algorithms.diffusion.actor_critic import (
    Control,
    Scoring,
    generalized_advantage,
    make_control,
)
from ctrl_jax.algorithms.diffusion.critic import Critic, ValueUpdate
from ctrl_jax.algorithms.diffusion.ddpo import PromptStatistics, make_ddpo
from ctrl_jax.algorithms.diffusion.dpok import make_dpok
from ctrl_jax.algorithms.diffusion.grpo import make_grpo
from ctrl_jax.algorithms.diffusion.offline_preference import PairBatch, make_offline_preference
from ctrl_jax.algorithms.diffusion.online_preference import PreferenceUpdate, make_online_preference
from ctrl_jax.algorithms.diffusion.policy_gradient import make_policy_gradient
from ctrl_jax.algorithms.diffusion.policy_update import PolicyUpdate, Surrogate
from ctrl_jax.algorithms.diffusion.ppo import make_ppo
from ctrl_jax.algorithms.diffusion.problem import Batch, DiffusionControl, Rollout, roll_out
from ctrl_jax.algorithms.diffusion.value_gradient import make_value_gradient
from ctrl_jax.algorithms.diffusion.window import Window
from ctrl_jax.algorithms.language.answer_scores import (
    AnswerScores,
    Reference,
    make_reference_pass,
    score_answers,
)
from ctrl_jax.algorithms.language.named_loss import named_loss
from ctrl_jax.algorithms.language.preference import LMPreference, make_lm_preference, whole_params
from ctrl_jax.algorithms.language.sampling import divergence_along, sample_answers
from ctrl_jax.algorithms.q_learning.little_q import QLearningConfig, make_q_learning
from ctrl_jax.algorithms.q_learning.problem import RewardDirection, known_score
from ctrl_jax.algorithms.training.consistency_training import (
    ConsistencyConfig,
    make_consistency_training,
)
from ctrl_jax.algorithms.training.reward_learning import Pairs, make_reward_learning
from ctrl_jax.algorithms.training.score_pretraining import (
    DataBatch,
    make_score_pretraining,
    uniform_times,
)

__all__ = [
    "Algorithm",
    "AnswerScores",
    "Batch",
    "ConsistencyConfig",
    "ContinuousControl",
    "Control",
    "Critic",
    "DataBatch",
    "DiffusionControl",
    "LMPreference",
    "Learner",
    "OccupationConfig",
    "PairBatch",
    "Pairs",
    "PolicyUpdate",
    "PreferenceUpdate",
    "PromptStatistics",
    "ProximalConfig",
    "QLearningConfig",
    "Reference",
    "RewardDirection",
    "Rollout",
    "RunState",
    "Scoring",
    "Surrogate",
    "ValueUpdate",
    "Window",
    "ahead",
    "divergence_along",
    "generalized_advantage",
    "known_score",
    "make_consistency_training",
    "make_control",
    "make_cpg",
    "make_cppo",
    "make_ddpo",
    "make_discrete_policy_gradient",
    "make_discrete_ppo",
    "make_dpok",
    "make_grpo",
    "make_lm_preference",
    "make_offline_preference",
    "make_online_preference",
    "make_policy_gradient",
    "make_ppo",
    "make_q_learning",
    "make_reference_pass",
    "make_reward_learning",
    "make_score_pretraining",
    "make_value_gradient",
    "named_loss",
    "roll_out",
    "sample_answers",
    "score_answers",
    "skip",
    "uniform_times",
    "whole_params",
]
