"""The step size at its corners, and Adam as optax composes it."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax.algorithms.training.optimizer import adam, make_schedule


@pytest.mark.parametrize(("course", "middle"), [("constant", 2), ("linear", 1.1), ("cosine", 1.1)])
def test_a_schedule_rests_rises_and_falls(course, middle):
    final = 1.0 if course == "constant" else 0.1
    rate = make_schedule(2.0, 24, course, rest=3, warmup=5, start=0.5, final=final)
    found = [float(np.asarray(rate(k))) for k in (0, 2, 3, 8, 16, 24, 99)]
    np.testing.assert_allclose(found, [0, 0, 1, 2, middle, 2 * final, 2 * final], rtol=1e-6)


def test_it_is_the_schedule_of_optax():
    known = optax.warmup_cosine_decay_schedule(0.0, 3e-3, 10, 100, 3e-4)
    rate = make_schedule(3e-3, 100, warmup=10, final=0.1)
    steps = jnp.arange(120)
    np.testing.assert_allclose(rate(steps), known(steps), rtol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_clips_and_decays(decay):
    params, gradient = jnp.asarray([1.0, -2.0]), jnp.asarray([30.0, 40.0])
    optimizer = adam(0.1, clip=5.0, weight_decay=decay)
    update, _ = optimizer.update(gradient, optimizer.init(params), params)
    # The first step of Adam is the sign of the gradient, whatever its norm.
    np.testing.assert_allclose(np.asarray(update), -0.1 * (1 + decay * params), rtol=1e-5)


def test_the_clip_is_of_the_norm():
    params = jnp.zeros(2)
    optimizer = adam(1.0, clip=5.0)
    _, state = optimizer.update(jnp.asarray([30.0, 40.0]), optimizer.init(params), params)
    np.testing.assert_allclose(optax.tree_utils.tree_get(state, "mu"), [0.3, 0.4], rtol=1e-5)
