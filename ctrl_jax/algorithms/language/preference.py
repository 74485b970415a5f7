r"""Preference optimization of a language model on pairs of answers, offline.

With the log-ratio rho = log pi(y|x) - log pi_ref(y|x) of either answer y to a prompt x, summed over
the tokens of y and its end token, one descends

    sum_i w_i loss(rho_w, rho_l, ...)_i / sum_i w_i                                        (1)

over the pairs i of a batch: for instance `preference.dpo`, or `preference.mallows_theta` with the
dispersion phi(x) of opinions on x. `answer_scores` says how the log-ratios are computed. A batch
that weighs nothing has a gradient of zero, and its metrics are NaN.

Source: Rafailov et al. 2023 (arXiv 2305.18290); Mallows: Chen et al. 2024 (arXiv 2405.14953).
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from ctrl_jax._typing import Params
from ctrl_jax.algorithms.base import (
    Algorithm,
    Learner,
    apply_gradient,
    count_skips,
    move_average,
    skip_metrics,
    start_learner,
)
from ctrl_jax.algorithms.language.answer_scores import AnswerScores, score_answers
from ctrl_jax.data.preferences.rows import CHOSEN, REJECTED, PreferenceRows
from ctrl_jax.networks import lora
from ctrl_jax.networks.language.decoder import LanguageModel

ScoreLoss = Callable[[AnswerScores], Array]
"""``loss(scores)``, one value per pair, each of its own pair alone; for instance
``lambda scores: preference.dpo(*scores.log_ratios, beta=0.1)``."""


@dataclasses.dataclass(frozen=True)
class LMPreference:
    """How a batch is used.

    Args:
        beta: unit of the metrics ``rewards/*``, which are beta times log-ratios.
        accumulate: parts that a batch is taken in, one after the other; the update is that of the
            whole batch.
        chunk: tokens of answers whose logits are held together; None for all.
        adapters_only: whether only the adapters (`networks.lora`) are trained.
        average_decay: decay per update of the moving average of what is trained; 0 for none.
    """

    beta: float = 1.0
    accumulate: int = 1
    chunk: int | None = None
    adapters_only: bool = False
    average_decay: float = 0.0

    def __post_init__(self):
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, got {self.beta}.")
        if self.accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, got {self.accumulate}.")
        if not 0 <= self.average_decay < 1:
            raise ValueError(f"average_decay must lie in [0, 1), got {self.average_decay}.")


class LMState(NamedTuple):
    """State of a run.

    Fields:
        update: how many updates there were.
        policy: the parameters that are trained.
        average: their moving average; None for none.
        frozen: the parameters that are not trained.
        skipped: updates left out for a gradient that was not finite.
        skipped_in_a_row: those since the last one taken.
    """

    update: Int[Array, ""]
    policy: Learner
    average: Params | None
    frozen: Params
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]

    @property
    def params(self) -> Params:
        """The whole parameters, averaged where there is an average."""
        return _whole(self.policy.params if self.average is None else self.average, self.frozen)


def make_lm_preference(
    model: LanguageModel,
    optimizer: optax.GradientTransformation,
    loss_fn: ScoreLoss,
    config: LMPreference | None = None,
) -> Algorithm:
    """Return the algorithm of (1); its batch is `PreferenceRows`.

    Args:
        model: the policy; its ``init`` returns the pretrained parameters
            (``model._replace(init=lambda key: params)``).
        optimizer: of what is trained.
        loss_fn: see `ScoreLoss`. Losses of the whole batch (KTO's KL, AOT) are of its part under
            accumulation.
        config: how a batch is used.

    Raises:
        ValueError: `adapters_only` of a model without adapters; in the step, rows that `accumulate`
            does not divide.
    """
    config = config or LMPreference()
    if config.adapters_only and not lora.split(model.shapes)[0]:
        raise ValueError(
            "adapters_only: the model has no adapters; make it with `lora`, or train all of it"
        )

    def init(key: Array) -> LMState:
        # Every leaf is a buffer of its own, so that the state can be donated.
        params = jax.tree.map(jnp.copy, model.init(key))
        trained, frozen = lora.split(params) if config.adapters_only else (params, {})
        average = jax.tree.map(jnp.copy, trained) if config.average_decay else None
        zeros = [jnp.zeros((), jnp.int32) + 0 for _ in range(3)]
        return LMState(zeros[0], start_learner(trained, optimizer), average, frozen, *zeros[1:])

    def step(state: LMState, rows: PreferenceRows) -> tuple[LMState, dict[str, Array]]:
        def objective(trained, part):
            scores = score_answers(model, _whole(trained, state.frozen), part, chunk=config.chunk)
            weights = part.weights.reshape(-1)
            loss = jnp.sum(weights * loss_fn(scores))
            metrics = pair_metrics(scores, config.beta)
            return loss, {"loss": loss} | {
                name: jnp.sum(weights * value) for name, value in metrics.items()
            }

        gradient, sums = _accumulated(objective, state.policy.params, rows, config.accumulate)
        weight = jnp.sum(rows.weights)
        held = jnp.where(weight > 0, weight, 1.0)
        gradient = jax.tree.map(lambda g: g / held.astype(g.dtype), gradient)
        policy, finite = apply_gradient(state.policy, gradient, optimizer)
        average = state.average
        if average is not None:
            average = move_average(average, policy.params, config.average_decay)
        skips = count_skips(state, finite)
        metrics = {name: total / weight for name, total in sums.items()}
        metrics |= {
            "policy/gradient_norm": optax.tree.norm(gradient),
            "update/finite": finite.astype(weight.dtype),
            **skip_metrics(skips),
        }
        return LMState(state.update + 1, policy, average, state.frozen, **skips), metrics

    return Algorithm(init, step)


def _whole(trained: Params, frozen: Params) -> Params:
    return lora.combine(trained, frozen) if frozen else trained


def _accumulated(objective: Callable, params: Params, rows: PreferenceRows, parts: int):
    """Return the sums over the parts of a batch of the gradient and of what comes with it."""
    gradient_of = jax.grad(objective, has_aux=True)
    if parts == 1:
        return gradient_of(params, rows)
    number = rows.weights.shape[0]
    if number % parts:
        raise ValueError(
            f"accumulate: received {parts} parts for a batch of {number} rows; it must divide "
            "them; change either"
        )

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


def pair_metrics(scores: AnswerScores, beta: float) -> dict[str, Float[Array, " all_pairs"]]:
    """Return what TRL's names stand for, of every pair: ``logps/*``, and of what the rows have.

    Args:
        scores: of the pairs.
        beta: rewards are beta times log-ratios.
    """
    values = {
        "logps/chosen": scores.log_probs[CHOSEN],
        "logps/rejected": scores.log_probs[REJECTED],
    }
    if scores.ratios is not None:
        chosen, rejected = (beta * ratio for ratio in scores.ratios)
        values |= {
            "rewards/chosen": chosen,
            "rewards/rejected": rejected,
            "rewards/margins": chosen - rejected,
            "rewards/accuracies": (chosen > rejected).astype(chosen.dtype),
        }
    if scores.phi is not None:
        values["dispersion/mean"] = scores.phi
        values["weights/mean"] = -2 * jnp.log(scores.phi)  # c of Mallows-theta
    return values
