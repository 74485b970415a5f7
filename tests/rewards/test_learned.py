"""Rewards made of models and of other rewards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax._typing import Model
from ctrl_jax.rewards import learned, standardized


def test_learned_holds_time_at_zero():
    model = Model(lambda key: 2.0, lambda params, t, x: params * x[:, 0] + t)
    np.testing.assert_allclose(learned(model, 2.0)(jnp.array([[1.0], [3.0]])), [2.0, 6.0])


def test_standardized_on_its_sample():
    x = jax.random.normal(jax.random.key(0), (500, 3))
    reward = standardized(
        lambda x: 5.0 + 3.0 * x.sum(axis=1), np.asarray(5.0 + 3.0 * x.sum(axis=1))
    )
    values = np.asarray(reward(x), np.float64)
    # float32 sums of 500 numbers of size one
    assert abs(values.mean()) < 1e-5 and abs(values.std() - 1) < 1e-5


def test_a_reward_in_small_units_is_one():
    reward = standardized(lambda x: 1e-9 * x, 1e-9 * np.array([1.0, 3.0]))
    np.testing.assert_allclose(reward(np.array([1.0, 3.0])), [-1.0, 1.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            np.array([1.0, np.nan]),
            "received .NaN or infinity for 1 of 2 samples.; it must be finite",
        ),
        (np.array([]), "scores: received .*; there must be values to measure"),
        (
            np.float32(0.7) * (1 + np.finfo(np.float32).eps * np.arange(5, dtype="f4")),
            "it must tell them apart",
        ),
        (np.array([2.0, 2.0]), "received .2.0 for all 2 samples.; it must tell them apart"),
    ],
)
def test_mistakes(bad, message):
    with pytest.raises(ValueError, match=message):
        standardized(lambda x: x[:, 0], bad)
