"""Preference optimization of a language model on pairs of answers, offline.

`answer_scores` says how the log-ratios of answers are computed.

Source: Rafailov et al. 2023 (arXiv 2305.18290); Mallows: Chen et al. 2024 (arXiv 2405.14953).
"""

import dataclasses
from collections.abc import Callable
from typing import get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from ctrl_jax._checks import check_choice, check_count, check_decay, check_positive, refuse
from ctrl_jax._typing import Params
from ctrl_jax.algorithms.base import (
    Algorithm,
    Metrics,
    RunState,
    apply_gradient,
    finish,
    pair_metrics,
    start,
)
from ctrl_jax.algorithms.language.answer_scores import AnswerScores, score_answers
from ctrl_jax.data.preferences.rows import CHOSEN, REJECTED, PreferenceRows
from ctrl_jax.losses.preference.named import Inputs
from ctrl_jax.networks import lora
from ctrl_jax.networks.language.decoder import LanguageModel

ScoreLoss = Callable[[AnswerScores], Array]
"""``loss(scores)``, one value per pair; for instance
``lambda scores: preference.dpo(*scores.log_ratios, beta=0.1)``."""


@dataclasses.dataclass(frozen=True)
class LMPreference:
    """How a batch is used.

    Args:
        beta: unit of the metrics ``rewards/*``, which are beta times what `rewards` names.
        accumulate: parts that a batch is taken in, one after the other; the update is that of the
            whole batch.
        chunk: tokens of answers whose logits are held together; None for all.
        adapters_only: whether only the adapters (`networks.lora`) are trained.
        frozen_apart: whether the step is ``step(state, rows, frozen)``, with the other weights as
            `networks.lora.split` returns them: then no state and no checkpoint holds them
            (`runtime.LoopOptions` gives a loop's steps such an argument as `fixed`).
        average_decay: decay per update of the moving average of what is trained; 0 for none.
        rewards: "log_ratios", or for a loss without reference "log_probs" or "mean_log_probs".
    """

    beta: float = 1.0
    accumulate: int = 1
    chunk: int | None = None
    adapters_only: bool = False
    frozen_apart: bool = False
    average_decay: float = 0.0
    rewards: Inputs = "log_ratios"

    def __post_init__(self):
        check_positive("beta", self.beta)
        check_choice("rewards", self.rewards, get_args(Inputs))
        check_count("accumulate", self.accumulate)
        if self.chunk is not None:
            check_count("chunk", self.chunk)
        check_decay("average_decay", self.average_decay)


def make_lm_preference(
    model: LanguageModel,
    optimizer: optax.GradientTransformation,
    loss_fn: ScoreLoss,
    config: LMPreference | None = None,
) -> Algorithm:
    r"""Return preference optimization on pairs of answers; its batch is `PreferenceRows`.

    With the log-ratio rho = log pi(y|x) - log pi_ref(y|x) of either answer y to a prompt x, summed
    over the tokens of y and its end token, one descends

        \sum_i weight_i loss(rho_w, rho_l, ...)_i / \sum_i weight_i

    over the pairs i of a batch, with rho_w of the chosen answer, rho_l of the rejected one and the
    `weights` of the rows. The loss is for instance `preference.dpo`, or `preference.mallows_theta`
    with the dispersion phi(x) of opinions on x. A batch that weighs nothing has a gradient of zero,
    and its metrics are NaN.

    Args:
        model: the policy; its ``init`` returns the pretrained parameters
            (``model._replace(init=lambda key: params)``).
        optimizer: of what is trained.
        loss_fn: ``loss_fn(scores)`` returns one value per pair from `AnswerScores`, for instance
            ``lambda scores: preference.dpo(*scores.log_ratios, beta=0.1)``. Losses of the whole
            batch (KTO's KL, AOT) are of its part under accumulation.
        config: how a batch is used.

    Raises:
        ValueError: `adapters_only` of a model without adapters; in the step, rows that `accumulate`
            does not divide.

    Source: Rafailov et al. 2023 (arXiv 2305.18290); Mallows: Chen et al. 2024 (arXiv 2405.14953).
    """
    config = config or LMPreference()
    if config.adapters_only and not lora.split(model.shapes)[0]:
        rule, repair = "the model has no adapters", "make it with `lora`, or train all of it"
        raise refuse("adapters_only", True, rule, repair)

    def init(key: Array) -> RunState:
        params = model.init(key)
        trained, frozen = lora.split(params) if config.adapters_only else (params, {})
        policy = (lambda _: trained, optimizer.init)
        reference = (lambda _: {}) if config.frozen_apart else (lambda _: frozen)
        averaged = config.average_decay > 0
        return start(key, {"policy": policy}, reference=reference, averaged=averaged)

    def step(
        state: RunState, rows: PreferenceRows, frozen: Params | None = None
    ) -> tuple[RunState, Metrics]:
        held = state.reference if frozen is None else frozen

        def objective(trained, part):
            params = _whole(trained, held)
            scores = score_answers(model, params, part, chunk=config.chunk)
            weights = part.weights.reshape(-1)
            loss = jnp.sum(weights * loss_fn(scores))
            metrics = answer_metrics(scores, config.beta, config.rewards)
            return loss, {"loss": loss} | {
                name: jnp.sum(weights * value) for name, value in metrics.items()
            }

        gradient, sums = _accumulated(objective, state.policy.params, rows, config.accumulate)
        weight = jnp.sum(rows.weights)
        held = jnp.where(weight > 0, weight, 1.0)
        gradient = jax.tree.map(lambda g: g / held.astype(g.dtype), gradient)
        policy, finite = apply_gradient(state.policy, gradient, optimizer)
        decay = config.average_decay
        state, metrics = finish(state, state.key, {"policy": policy}, finite, decay=decay)
        metrics |= {name: total / weight for name, total in sums.items()}
        return state, metrics | {"gradient_norm": optax.tree.norm(gradient)}

    return Algorithm(init, step)


def whole_params(state: RunState, frozen: Params | None = None) -> Params:
    """Return all parameters of a model in training: those of the run, and those held fixed.

    Args:
        state: of the run.
        frozen: what is held fixed, of a run with `LMPreference(frozen_apart=True)`.
    """
    return _whole(state.params, state.reference if frozen is None else frozen)


def _whole(trained: Params, frozen: Params) -> Params:
    return lora.combine(trained, frozen) if frozen else trained


def _accumulated(objective: Callable, params: Params, rows: PreferenceRows, parts: int):
    """Return the sums over the parts of a batch of the gradient and of what comes with it."""
    gradient_of = jax.grad(objective, has_aux=True)
    if parts == 1:
        return gradient_of(params, rows)
    number = rows.weights.shape[0]
    if number % parts:
        raise refuse("accumulate", parts, f"it must divide the {number} rows", "change either")

    def split(leaf):
        # Every part takes some rows of every device.
        return jnp.swapaxes(jnp.asarray(leaf).reshape(-1, parts, *leaf.shape[1:]), 0, 1)

    def add(total, part):
        return jax.tree.map(jnp.add, total, gradient_of(params, part)), None

    split_rows = jax.tree.map(split, rows)
    first = jax.tree.map(lambda leaf: leaf[0], split_rows)
    zeros = jax.tree.map(
        lambda shape: jnp.zeros(shape.shape, shape.dtype),
        jax.eval_shape(gradient_of, params, first),
    )
    return jax.lax.scan(add, zeros, split_rows)[0]


def answer_metrics(scores: AnswerScores, beta: float, rewards: Inputs = "log_ratios") -> Metrics:
    """Return what TRL's names stand for, of every pair: ``logps/*``, and of what the rows have.

    Args:
        scores: of the pairs.
        beta: rewards are beta times what `rewards` names.
        rewards: which of the scores; those of the reference are left out where there is none.
    """
    values = {
        "logps/chosen": scores.log_probs[CHOSEN],
        "logps/rejected": scores.log_probs[REJECTED],
    }
    if scores.ratios is not None or not rewards.endswith("ratios"):
        values |= pair_metrics(*(beta * each for each in getattr(scores, rewards)))
    if scores.phi is not None:
        values["dispersion/mean"] = scores.phi
        values["weights/mean"] = -2 * jnp.log(scores.phi)  # c of Mallows-theta
    return values
