"""Learning a reward from preferences: its first loss, and one taste for each label."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import Pairs, make_reward_learning
from ctrl_jax.rewards import learned


def test_a_reward_of_each_label_is_learned():
    """Label 0 wants a large number and label 1 a small one, by Bradley and Terry with slope 2."""
    model = Model(lambda key: jnp.zeros(2), lambda slopes, t, x, label: slopes[label] * x[:, 0])
    algorithm = make_reward_learning(model, optax.adam(0.1))

    def pairs(key):
        label_key, x_key, choice_key = jax.random.split(key, 3)
        label = jax.random.bernoulli(label_key, shape=(512,)).astype(jnp.int32)
        x = jax.random.normal(x_key, (2, 512, 1))
        gap = 2.0 * (1 - 2 * label) * (x[0] - x[1])[:, 0]
        first = jax.random.bernoulli(choice_key, jax.nn.sigmoid(gap))[:, None]
        return Pairs(jnp.where(first, x[0], x[1]), jnp.where(first, x[1], x[0]), (label,))

    @jax.jit
    def run(key):
        init_key, data_key = jax.random.split(key)
        keys = jax.random.split(data_key, 200)
        return jax.lax.scan(
            lambda state, key: algorithm.step(state, pairs(key)), algorithm.init(init_key), keys
        )

    state, metrics = run(jax.random.key(0))
    np.testing.assert_allclose(metrics["loss"][0], np.log(2), rtol=1e-6)
    # One batch's slope has an error of about 0.2; Adam averages over some ten.
    np.testing.assert_allclose(state.params, [2.0, -2.0], atol=0.5)
    reward_fn = learned(model, state.params)
    found = reward_fn(jnp.ones((2, 1)), jnp.asarray([0, 1]))
    assert found[0] > 1 and found[1] < -1
