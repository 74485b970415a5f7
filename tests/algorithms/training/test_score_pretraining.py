"""Denoising score matching learns the exact score of Gaussian data."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ctrl_jax._numerics import expand
from ctrl_jax._typing import Model
from ctrl_jax.algorithms import DataBatch, make_score_pretraining, uniform_times
from ctrl_jax.processes import VP

PROCESS, END = VP(0.1, 5.0), 1e-2
MEAN, VARIANCE = 1.5, 0.25


def gaussian_score():
    """The score of the noised N(m, S), with m and log S to be learned."""

    def apply(params, t, x, *conditions):
        scale, std = PROCESS.marginal(t)
        noised = scale**2 * jnp.exp(params["log_variance"]) + std**2
        return -(x - expand(scale, x) * params["mean"]) / expand(noised, x)

    return Model(lambda key: {"mean": jnp.zeros(()), "log_variance": jnp.zeros(())}, apply)


def build(**options):
    return make_score_pretraining(
        PROCESS,
        gaussian_score(),
        optax.adam(optax.cosine_decay_schedule(3e-2, 300)),
        sample_times=uniform_times(PROCESS, END),
        **options,
    )


@pytest.mark.parametrize("weighting", [None, lambda t: 1 / PROCESS.marginal(t).scale ** 2])
def test_the_score_of_gaussian_data_is_learned(weighting):
    algorithm = build(weighting=weighting, average_decay=0.9)

    @jax.jit
    def run(key):
        def body(state, key):
            x_0 = MEAN + VARIANCE**0.5 * jax.random.normal(key, (512, 1))
            return algorithm.step(state, DataBatch(x_0))

        return jax.lax.scan(body, algorithm.init(key), jax.random.split(key, 300))

    state, metrics = run(jax.random.key(0))
    # 300 batches of 512 draws at a decaying step size: statistical errors are near .01.
    for params in (state.learners["model"].params, state.average):
        np.testing.assert_allclose(params["mean"], MEAN, atol=0.05)
        np.testing.assert_allclose(jnp.exp(params["log_variance"]), VARIANCE, atol=0.05)
    assert float(metrics["loss"][-50:].mean()) < float(metrics["loss"][:10].mean())
    assert int(state.update) == 300


def test_times_are_stratified_within_their_range():
    times = uniform_times(PROCESS, END)(jax.random.key(0), 64)
    cells = np.sort(np.floor((np.asarray(times) - END) / (1 - END) * 64))
    np.testing.assert_array_equal(cells, np.arange(64))


def test_dropout_is_drawn_anew_each_step_and_never_in_evaluation():
    """With a model that returns the number its key draws, times a parameter."""

    def train(key, params, t, x):
        return params * jax.random.normal(key) * jnp.ones_like(x)

    def evaluate(params, t, x):
        raise AssertionError("training uses `train`")

    def losses(seed):
        model = Model(lambda key: jnp.ones(()), evaluate, train=train)
        algorithm = make_score_pretraining(
            PROCESS, model, optax.sgd(0.0), sample_times=lambda key, n: jnp.full(n, 0.5)
        )
        step = jax.jit(algorithm.step)
        state = algorithm.init(jax.random.key(seed))
        found = []
        for _ in range(3):
            state, metrics = step(state, DataBatch(jnp.zeros((64, 100))))
            found.append(float(metrics["loss"]))
        return found

    first = losses(0)
    assert first == losses(0) != losses(1)
    # The loss is 1 + (std n)^2 up to 2 %, n the number drawn: three equal ones have no chance.
    assert len({round(loss, 2) for loss in first}) == 3
