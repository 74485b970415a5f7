"""Training a diffusion model by denoising score matching (2402.07487, section 4)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ctrl_jax._checks import check_decay, check_end
from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import (
    Algorithm,
    RunState,
    apply_gradient,
    finish,
    growing_decay,
    start,
)
from ctrl_jax.losses import score_matching
from ctrl_jax.processes import LinearProcess


class DataBatch(NamedTuple):
    """Data x_0 (batch, ...) with conditions of leading axis batch."""

    x_0: Float[Array, "batch ..."]
    conditions: tuple[Array, ...] = ()


def uniform_times(process: LinearProcess, end: float) -> Callable[[Array, int], Array]:
    """Return ``sample_times(key, batch)``, stratified uniform on [end, horizon].

    Args:
        process: the forward process, which has the horizon.
        end: the smallest forward time.
    """

    check_end(end, process.horizon, zero=True)

    def sample_times(key, batch):
        levels = (jnp.arange(batch) + jax.random.uniform(key, (batch,))) / batch
        return end + (process.horizon - end) * levels

    return sample_times


def make_score_pretraining(
    process: LinearProcess,
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    sample_times: Callable[[Array, int], Array],
    weighting: Callable[[Array], Array] | None = None,
    average_decay: float = 0.999,
) -> Algorithm:
    """Return training by denoising score matching; its batch is a `DataBatch`.

    Each step noises the data, d numbers each, to times t drawn by `sample_times` and minimizes

        E w(t) |std s_theta(t, x_t) + noise|^2 / d,   x_t = a x_0 + std noise.

    w = 1 weighs noise predictions equally; w = 1 / a^2 does the same for velocity predictions of a
    variance-preserving process. Where the model has dropout, each step draws its mask anew; the
    averaged parameters are meant for `Model.apply`, which has none.

    Args:
        process: the forward process.
        model: score model.
        optimizer: optax transformation.
        sample_times: ``sample_times(key, batch)`` returns forward times (batch,).
        weighting: w(t); 1 by default.
        average_decay: decay per step of the moving average of the parameters.

    Source: arXiv 2402.07487, section 4.
    """

    check_decay("average_decay", average_decay)

    def init(key: Array) -> RunState:
        return start(key, {"model": (model.init, optimizer.init)}, averaged=True)

    def step(state: RunState, batch: DataBatch):
        key, time_key, noise_key = jax.random.split(state.key, 3)
        score_fn = _with_dropout(model, jax.random.fold_in(noise_key, 1))
        t = sample_times(time_key, batch.x_0.shape[0])
        x_t, noise = process.sample_marginal(noise_key, batch.x_0, t)
        std = process.marginal(t).std
        weights = None if weighting is None else weighting(t)

        def loss_fn(params):
            score = score_fn(params, t, x_t, *batch.conditions)
            return jnp.mean(score_matching.denoising(score, noise, std, weights=weights))

        learner = state.learners["model"]
        loss, gradient = jax.value_and_grad(loss_fn)(learner.params)
        learner, finite = apply_gradient(learner, gradient, optimizer)
        decay = growing_decay(average_decay, state.update)
        state, metrics = finish(state, key, {"model": learner}, finite, decay=decay)
        return state, {"loss": loss, "gradient_norm": optax.tree.norm(gradient), **metrics}

    return Algorithm(init, step)


def _with_dropout(model: Model, key: Array) -> Callable[..., Array]:
    return model.apply if model.train is None else functools.partial(model.train, key)
