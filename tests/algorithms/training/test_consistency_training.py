"""A consistency function with one unknown is found by distillation and from data alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax._typing import Model
from ctrl_jax.algorithms import DataBatch
from ctrl_jax.algorithms.training.consistency_training import (
    ConsistencyConfig,
    make_consistency_training,
)
from ctrl_jax.losses import time_weighting
from ctrl_jax.processes import VP
from tests.losses.gaussian_consistency import MEAN, VARIANCE, consistency_fn, score_fn

PROCESS, END, STEPS = VP(0.1, 5.0), 1e-2, 300
CONFIG = ConsistencyConfig(steps=STEPS, first_levels=20, doublings=2, average_decay=0.95)


def model():
    """Deviations scaled by (ratio of stds)^k: exact for k = 1."""

    def apply(params, t, x, *conditions):
        return consistency_fn(PROCESS, END, params["power"])(t, x)

    return Model(lambda key: {"power": jnp.asarray(0.3)}, apply)


def build(config=CONFIG, **options):
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-2, STEPS))
    return make_consistency_training(PROCESS, model(), optimizer, end=END, config=config, **options)


@pytest.mark.parametrize("teacher", [None, score_fn(PROCESS)])
def test_the_exact_function_is_learned(teacher):
    algorithm = build(teacher=teacher)

    @jax.jit
    def run(key):
        def body(state, key):
            x_0 = MEAN + VARIANCE**0.5 * jax.random.normal(key, (256, 1))
            return algorithm.step(state, DataBatch(x_0))

        return jax.lax.scan(body, algorithm.init(key), jax.random.split(key, STEPS))

    state, metrics = run(jax.random.key(0))
    # A level of width 1/80 biases training by order 1/80; distillation has the teacher's only.
    tolerance = 0.1 if teacher is None else 0.02
    np.testing.assert_allclose(state.average["power"], 1.0, atol=tolerance)
    np.testing.assert_array_equal(
        metrics["levels"][jnp.asarray([0, 99, 100, 299])], [20, 20, 40, 80]
    )
    assert int(state.update) == STEPS


def test_the_target_is_the_average_it_is_said_to_be():
    algorithm = build(ConsistencyConfig(steps=10, target_decay=0.9))
    state, batch = algorithm.init(jax.random.key(0)), DataBatch(jnp.ones((16, 1)))
    moved, _ = jax.jit(algorithm.step)(state, batch)
    power = moved.learners["model"].params["power"]
    expected = 0.9 * state.reference["power"] + 0.1 * power
    np.testing.assert_allclose(moved.reference["power"], expected, rtol=1e-6)
    assert float(power) != 0.3


def test_weights_scale_the_loss():
    batch = DataBatch(jnp.linspace(-1.0, 1.0, 16)[:, None])
    losses = []
    for weighting in (None, lambda t, s: 2.0 * time_weighting.inverse_gap(PROCESS)(t, s)):
        algorithm = build(weighting=weighting)
        _, metrics = jax.jit(algorithm.step)(algorithm.init(jax.random.key(0)), batch)
        losses.append(float(metrics["loss"]))
    np.testing.assert_allclose(losses[1], 2 * losses[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first_levels": 0}, "first_levels: received 0"),
        ({"doublings": -1}, "doublings: received -1"),
        ({"target_decay": 1.0}, r"target_decay: received 1\.0"),
        ({"teacher_order": 3}, "teacher_order: received 3; it must be at most 2"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ConsistencyConfig(**options)
