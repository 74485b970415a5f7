r"""Preference optimization of a diffusion model, offline: pairs of data, no sampling.

The sibling of `diffusion_preference`, which draws its own pairs.

Both examples of a pair are noised to the same random time with the same noise eps; with the mean
squared errors of the noise e = |eps - eps_theta|^2/d and e_ref of the pretrained model one descends

    E loss(e_w, e_l, e_ref_w, e_ref_l),                                                   (1)

for instance `path_preference.diffusion_dpo`: the noise errors stand for the log-ratios of the paths
that lead to an example. With the pretrained parameters every log-ratio is exactly zero.
Source: Wallace et al. 2023 (arXiv 2311.12908); Mallows forms: 2405.14953.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ctrl_jax._numerics import expand
from ctrl_jax._typing import Model
from ctrl_jax.algorithms.base import (
    Algorithm,
    Learner,
    apply_gradient,
    count_skips,
    move_average,
    skip_metrics,
    start_learner,
    weighted_mean,
)
from ctrl_jax.processes import LinearProcess

ErrorLoss = Callable[[Array, Array, Array, Array, "PairBatch"], Array]
"""``loss(chosen, rejected, reference_chosen, reference_rejected, batch)``, one value per pair."""


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


class OfflineState(NamedTuple):
    """State of a run: `reference` holds the parameters that it started from."""

    key: Array
    update: Int[Array, ""]
    policy: Learner
    average: Any
    reference: Any
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]


def make_offline_preference(
    process: LinearProcess,
    model: Model,
    optimizer: optax.GradientTransformation,
    loss_fn: ErrorLoss,
    *,
    sample_times: Callable[[Array, int], Array],
    average_decay: float = 0.0,
) -> Algorithm:
    """Return the algorithm of (1); its batch is a `PairBatch`.

    Args:
        process: the forward process.
        model: the score model; its ``init`` returns the pretrained parameters.
        optimizer: of the model.
        loss_fn: see `ErrorLoss`; ``lambda *errors_and_batch:
            path_preference.diffusion_dpo(*errors_and_batch[:4], beta=2000.0)``.
        sample_times: ``sample_times(key, batch)`` returns forward times (batch,).
        average_decay: decay per step of the moving average of the parameters; 0 for none.
    """

    def init(key: Array) -> OfflineState:
        key, params_key = jax.random.split(key)
        # Every leaf is a buffer of its own, so that the state can be donated.
        params = jax.tree.map(jnp.copy, model.init(params_key))
        zeros = [jnp.zeros((), jnp.int32) + 0 for _ in range(3)]
        copies = [jax.tree.map(jnp.copy, params) for _ in range(2)]
        return OfflineState(
            key, zeros[0], start_learner(params, optimizer), copies[0], copies[1], *zeros[1:]
        )

    def step(state: OfflineState, batch: PairBatch) -> tuple[OfflineState, dict[str, Array]]:
        key, time_key, noise_key = jax.random.split(state.key, 3)
        t = sample_times(time_key, batch.weights.shape[0])
        (x_w, noise), (x_l, _) = (
            process.sample_marginal(noise_key, x, t) for x in (batch.chosen, batch.rejected)
        )
        std = process.marginal(t).std

        def errors(params):
            return [_noise_error(model, params, t, std, x, noise, batch) for x in (x_w, x_l)]

        reference = errors(state.reference)

        def objective(params):
            found = errors(params)
            losses = loss_fn(found[0], found[1], reference[0], reference[1], batch)
            return weighted_mean(losses, batch.weights), found

        (loss, found), gradient = jax.value_and_grad(objective, has_aux=True)(state.policy.params)
        policy, finite = apply_gradient(state.policy, gradient, optimizer)
        skips = count_skips(state, finite)
        moved = OfflineState(
            key=key,
            update=state.update + 1,
            policy=policy,
            average=move_average(state.average, policy.params, average_decay),
            reference=state.reference,
            **skips,
        )
        gains = [(ref - own) / 2 for own, ref in zip(found, reference, strict=True)]
        metrics = {
            "loss": loss,
            "rewards/chosen": weighted_mean(gains[0], batch.weights),
            "rewards/rejected": weighted_mean(gains[1], batch.weights),
            "rewards/margins": weighted_mean(gains[0] - gains[1], batch.weights),
            "rewards/accuracies": weighted_mean(
                (gains[0] > gains[1]).astype(loss.dtype), batch.weights
            ),
            "policy/gradient_norm": optax.tree.norm(gradient),
            "update/finite": finite.astype(loss.dtype),
            **skip_metrics(skips),
        }
        return moved, metrics

    return Algorithm(init, step)


def _noise_error(model: Model, params, t, std, x, noise, batch: PairBatch):
    """Return the mean square of eps + std s, one value per example."""
    score = model.apply(params, t, x, *batch.conditions)
    square = jnp.square(noise + expand(std, x) * score)
    return jnp.mean(square.reshape(square.shape[0], -1), axis=1)
