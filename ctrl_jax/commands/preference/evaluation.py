"""What is measured of a policy: means over held-out pairs, and the divergence of its answers."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from ctrl_jax._typing import Params
from ctrl_jax.algorithms import score_answers
from ctrl_jax.algorithms.language.preference import ScoreLoss, answer_metrics
from ctrl_jax.commands.preference.divergence import make_divergence, pad_prompts
from ctrl_jax.data import PreferenceRows
from ctrl_jax.data.preferences.rows import take_rows
from ctrl_jax.losses.preference.named import Inputs
from ctrl_jax.networks import LanguageModel
from ctrl_jax.runtime import on_mesh, own_part, replicate, shard_batch
from ctrl_jax.runtime.loop.signals import stop_point

Evaluate = Callable[[Params], dict[str, float]]


class Answering(NamedTuple):
    """What is known of a policy by its own answers.

    Fields:
        kl: their divergence from the reference model, nothing where there are no prompts.
        answers: their tokens, up to the end token, one list for every prompt.
    """

    kl: Evaluate
    answers: Callable[[Params], list[list[int]]]


def make_evaluation(
    model: LanguageModel,
    loss_fn: ScoreLoss,
    rows: PreferenceRows,
    mesh: Mesh,
    *,
    beta: float,
    rewards: Inputs,
    at_a_time: int,
    chunk: int | None,
) -> Evaluate:
    """Return ``evaluate(params)``: the metrics of training, as means over held-out pairs.

    Args:
        model: the policy.
        loss_fn: the loss.
        rows: held-out rows, a multiple of `at_a_time`.
        mesh: devices that rows are divided over.
        beta: unit of the rewards.
        rewards: what they are times beta.
        at_a_time: rows per compiled call.
        chunk: as in training.
    """

    # Replicated results, which every process can read.
    @partial(jax.jit, out_shardings=NamedSharding(mesh, PartitionSpec()))
    @partial(on_mesh, mesh)
    def measure(params, rows):
        scores = score_answers(model, params, rows, chunk=chunk)
        weights = rows.weights.reshape(-1)
        values = {"loss": loss_fn(scores)} | answer_metrics(scores, beta, rewards)
        return {name: jnp.sum(weights * v) for name, v in values.items()}, jnp.sum(weights)

    batches = [
        shard_batch(mesh, own_part(mesh, take_rows(rows, slice(start, start + at_a_time))))
        for start in range(0, len(rows.tokens), at_a_time)
    ]

    def evaluate(params: Params) -> dict[str, float]:
        found = jax.device_get([measure(params, some) for some in batches])
        stop_point()
        weight = sum(float(total) for _, total in found)
        return {
            f"evaluation/{name}": sum(float(sums[name]) for sums, _ in found) / weight
            for name in found[0][0]
        }

    return evaluate


def make_answering(
    model: LanguageModel,
    base: Params,
    prompts: Sequence[Sequence[int]],
    mesh: Mesh,
    *,
    length: int,
    end: int | None,
    key: Array,
) -> Answering:
    """Return the evaluation of a policy's answers to prompts.

    Args:
        model: the policy and the reference model.
        base: parameters of the reference model.
        prompts: token ids of what is answered.
        mesh: devices.
        length: most tokens of an answer.
        end: the end token; None where there is none.
        key: of the answers, the same at every evaluation.
    """
    if not prompts:
        return Answering(lambda params: {}, lambda params: [])
    everywhere = NamedSharding(mesh, PartitionSpec())
    diverge = on_mesh(mesh, make_divergence(model, length=length, end=end))
    run = jax.jit(diverge, out_shardings=everywhere)
    _, lengths = padded = pad_prompts(prompts, length)
    key, *texts = replicate(mesh, (key, *map(jnp.asarray, padded)))

    def evaluate(params: Params) -> dict[str, float]:
        values = np.asarray(run(key, params, base, *texts)[0], np.float64)
        stop_point()
        error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
        return {"evaluation/kl": float(values.mean()), "evaluation/kl/stderr": float(error)}

    def answers(params: Params) -> list[list[int]]:
        rows = np.asarray(run(key, params, base, *texts)[1])
        stop_point()
        drawn = [row[n : n + length].tolist() for row, n in zip(rows, lengths, strict=True)]
        return [some[: some.index(end)] if end in some else some for some in drawn]

    return Answering(evaluate, answers)
