"""What is asked of a model, compiled once for batches of one size."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from ctrl_jax.algorithms import (
    Reference,
    divergence_along,
    make_reference_pass,
    sample_answers,
    score_answers,
)
from ctrl_jax.networks import DecoderConfig, language_model, make_decoding


class Instruments(NamedTuple):
    """Functions of parameters and of any number of rows, on the host's arrays.

    Fields:
        sample: ``sample(key, params, prompts)`` draws an answer to each, (n, length).
        refer: ``refer(params, rows) -> Reference`` of pairs.
        score: ``score(params, rows)`` returns the log-probabilities of both answers, (n, 2), of
            rows that hold a pair each.
        diverge: ``diverge(params, reference_params, prompts, answers)`` returns the divergence
            along each answer, (n,), in nats.
    """

    sample: Callable[..., np.ndarray]
    refer: Callable[..., Reference]
    score: Callable[..., np.ndarray]
    diverge: Callable[..., np.ndarray]


def make_instruments(config: DecoderConfig, answer_length: int, batch: int) -> Instruments:
    """Return the instruments for a decoder.

    Args:
        config: the decoder.
        answer_length: bytes of the answers that are drawn.
        batch: rows that are computed together.
    """
    model, decoding = language_model(config), make_decoding(config)
    draw = jax.jit(lambda key, params, x: sample_answers(key, decoding, params, x, answer_length))
    reference = jax.jit(make_reference_pass(model))

    @jax.jit
    def log_probs(params, rows):
        scores = score_answers(model, params, rows)
        return scores.log_probs

    @jax.jit
    def divergence(params, reference_params, texts):
        return divergence_along(model, params, reference_params, *texts)

    def sample(key, params, prompts):
        return in_batches(lambda i, x: draw(jax.random.fold_in(key, i), params, x), batch, prompts)

    def refer(params, rows):
        return in_batches(lambda i, part: reference(params, part), batch, rows)

    def score(params, rows):
        both = in_batches(lambda i, part: log_probs(params, part), batch, rows)
        return np.stack(both, axis=1)

    def diverge(params, reference_params, prompts, answers):
        found = lambda i, texts: divergence(params, reference_params, texts)  # noqa: E731
        return in_batches(found, batch, (prompts, answers))

    return Instruments(sample, refer, score, diverge)


def in_batches(function: Callable, size: int, rows):
    """Call ``function(number of the batch, part)`` on so many rows at a time; fill the last up."""
    number = len(jax.tree.leaves(rows)[0])
    places = (np.arange(-(-number // size) * size) % number).reshape(-1, size)
    parts = [
        jax.device_get(function(i, jax.tree.map(lambda leaf, own=own: leaf[own], rows)))
        for i, own in enumerate(places)
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:number], *parts)
