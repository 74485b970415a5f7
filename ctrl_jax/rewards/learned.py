"""Reward functions made of a model, or of another reward function."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ctrl_jax._checks import refuse
from ctrl_jax._typing import Model, Params, RewardFn

ROUNDING = 16
"""A spread below this many units in the last place of the largest score is none."""


def learned(model: Model, params: Params) -> RewardFn:
    """Return the reward ``model.apply(params, 0, x, *conditions)``, the parameters held fixed.

    Args:
        model: a value-like model, one number per example, as `algorithms.make_reward_learning`
            fits it.
        params: its parameters.
    """

    def reward_fn(x, *conditions):
        return model.apply(params, jnp.zeros(()), x, *conditions)

    return reward_fn


def standardized(reward_fn: RewardFn, scores: Float[np.ndarray, " samples"]) -> RewardFn:
    """Return `reward_fn` with mean zero and standard deviation one on a sample.

    A penalty in units of the reward per nat then means the same for every reward.

    Args:
        reward_fn: any reward.
        scores: its values on samples of the base model.

    Raises:
        ValueError: there is no score, one is not finite, or all are the same up to rounding.
    """
    scores = np.asarray(scores)
    floating = jnp.issubdtype(scores.dtype, jnp.floating)
    eps = float(jnp.finfo(scores.dtype if floating else np.float64).eps)
    if not floating and scores.dtype.kind not in "iub":
        raise refuse("scores", scores, "they must be real numbers", "give what reward_fn returns")
    scores = scores.astype(np.float64)
    if scores.ndim != 1:
        rule = "it must be one number for each sample"
        raise refuse("scores", scores, rule, "give an array of shape (samples,)")
    if not scores.size:
        raise refuse("scores", [], "there must be values to measure", "score some samples")
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores)).sum())
        received = f"NaN or infinity for {bad} of {scores.size} samples"
        raise refuse("reward_fn", received, "it must be finite on every sample", "repair it")
    mean, std = float(scores.mean()), float(scores.std())
    if std <= ROUNDING * eps * float(np.abs(scores).max()):
        received = f"{mean} for all {scores.size} samples"
        raise refuse("reward_fn", received, "it must tell them apart", "give another")
    return lambda x, *conditions: (reward_fn(x, *conditions) - mean) / std
