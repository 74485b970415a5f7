r"""Preference optimization of a diffusion model, offline: pairs of data, no sampling.

The sibling of `online_preference`, which draws its own pairs.

Both examples of a pair are noised to the same random time with the same noise eps; with the mean
squared errors of the noise e = |eps - eps_theta|^2/d and e_ref of the pretrained model

    rho = -nats (e - e_ref) / 2                                                           (1)

stands for the log-ratio of the paths that lead to an example (`losses.path_log_ratio`), and one
descends E loss(rho_w, rho_l): any preference loss of log-ratios, with DPO's Diffusion-DPO. With
the pretrained parameters every log-ratio is exactly zero.
Source: Wallace et al. 2023 (arXiv 2311.12908); Mallows forms: 2405.14953.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ctrl_jax._checks import check_decay, check_positive
from ctrl_jax._numerics import mean_each
from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import (
    Algorithm,
    Metrics,
    RunState,
    apply_gradient,
    finish,
    own_buffers,
    pair_metrics,
    start,
    weighted_mean,
    weighted_means,
)
from ctrl_jax.losses import path_log_ratio
from ctrl_jax.processes import LinearProcess, Prediction
from ctrl_jax.processes.prediction import check_prediction, read_noise

PairLoss = Callable[[Array, Array, "PairBatch"], Array]
"""``loss(log_ratio_chosen, log_ratio_rejected, batch)`` returns one loss per pair, for instance
``lambda chosen, rejected, batch: preference.dpo(chosen, rejected, beta=2000.0)``."""


class PairBatch(NamedTuple):
    """Pairs of examples.

    Fields:
        chosen: the better examples, (batch, ...).
        rejected: the worse ones.
        weights: weight of each pair, (batch,); zero for padding.
        conditions: arrays of leading axis batch, common to both examples.
    """

    chosen: Float[Array, "batch ..."]
    rejected: Float[Array, "batch ..."]
    weights: Float[Array, " batch"]
    conditions: tuple[Array, ...] = ()


def make_offline_preference(
    process: LinearProcess,
    model: Model,
    optimizer: optax.GradientTransformation,
    loss_fn: PairLoss,
    *,
    sample_times: Callable[[Array, int], Array],
    nats: float | Array = 1.0,
    prediction: Prediction = "score",
    average_decay: float = 0.0,
) -> Algorithm:
    """Return preference optimization on pairs of data; its batch is a `PairBatch`.

    A preference loss of rho = -nats (e - e_ref) / 2, the mean squared error e of the noise at one
    random time and that of the pretrained model, at the same time and noise for both examples.

    Args:
        process: the forward process.
        model: the score model, or one of what `prediction` says; its ``init`` returns the
            pretrained parameters.
        optimizer: of the model.
        loss_fn: ``loss_fn(log_ratio_chosen, log_ratio_rejected, batch)`` returns one loss per
            pair, for instance ``lambda w, l, batch: preference.dpo(w, l, beta=2000.0)``.
        sample_times: ``sample_times(key, batch)`` returns forward times (batch,).
        nats: unit of the log-ratios; 1 is that of Diffusion-DPO, whose betas are in the thousands.
        prediction: what the model returns, "score", "noise", "data", "v" or "flow".
        average_decay: decay per step of the moving average of the parameters; 0 for none.

    Source: Wallace et al. 2023 (arXiv 2311.12908).
    """

    check_positive("nats", nats)
    check_prediction(prediction)
    check_decay("average_decay", average_decay)

    def init(key: Array) -> RunState:
        state = start(key, {"policy": (model.init, optimizer.init)}, averaged=average_decay > 0)
        return state._replace(reference=own_buffers(state.policy.params))

    def step(state: RunState, batch: PairBatch) -> tuple[RunState, Metrics]:
        key, time_key, noise_key = jax.random.split(state.key, 3)
        t = sample_times(time_key, batch.weights.shape[0])
        (x_w, noise), (x_l, _) = (
            process.sample_marginal(noise_key, x, t) for x in (batch.chosen, batch.rejected)
        )
        read = read_noise(process, t, prediction)

        def error(params, x):
            """Return the mean square of eps - eps_theta, one value per example."""
            predicted = read.of(x, model.apply(params, t, x, *batch.conditions))
            return mean_each(jnp.square(noise - predicted))

        def errors(params):
            return [error(params, x) for x in (x_w, x_l)]

        reference = errors(state.reference)

        def objective(params):
            both = map(path_log_ratio.from_noise_errors, errors(params), reference)
            chosen, rejected = (nats * rho for rho in both)
            losses = loss_fn(chosen, rejected, batch)
            return weighted_mean(losses, batch.weights), (chosen, rejected)

        (loss, ratios), gradient = jax.value_and_grad(objective, has_aux=True)(state.policy.params)
        policy, finite = apply_gradient(state.policy, gradient, optimizer)
        state, metrics = finish(state, key, {"policy": policy}, finite, decay=average_decay)
        metrics |= {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}
        return state, metrics | weighted_means(pair_metrics(*ratios), batch.weights)

    return Algorithm(init, step)
