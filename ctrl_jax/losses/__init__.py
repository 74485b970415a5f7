"""Pure losses: arrays in, one value per example out. Means are taken once, in the algorithm."""

from ctrl_jax.losses import (
    advantage,
    advantage_rate,
    consistency,
    gaussian,
    path_log_ratio,
    policy,
    preference,
    q_learning,
    score_matching,
    time_weighting,
    token_log_prob,
    value,
)

__all__ = [
    "advantage",
    "advantage_rate",
    "consistency",
    "gaussian",
    "path_log_ratio",
    "policy",
    "preference",
    "q_learning",
    "score_matching",
    "time_weighting",
    "token_log_prob",
    "value",
]
