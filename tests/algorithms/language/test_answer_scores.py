"""What a model says of packed pairs is what it says of every answer written out alone."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.algorithms.language.answer_scores import make_reference_pass, score_answers
from ctrl_jax.data import TokenPair, pack_pairs
from ctrl_jax.networks import language_model
from tests.networks.language.decoders import CONFIGS, GPT2, moved

GENERATOR = np.random.default_rng(5)


def part(least, most):
    return GENERATOR.integers(0, 23, GENERATOR.integers(least, most)).tolist()


# No text is longer than GPT-2's twelve positions.
PAIRS = [TokenPair(part(1, 7), part(1, 6), part(1, 6), 1.0, 0.5) for _ in range(7)]


LENGTH = 12


def texts_alone(model, params):
    """Logits of every prompt with every answer, a text to a row, padded by what is not seen."""
    texts = [[*pair.prompt, *answer] for pair in PAIRS for answer in pair[1:3]]
    tokens = jnp.array([text + [0] * (LENGTH - len(text)) for text in texts])
    hidden = np.asarray(jax.jit(model.apply)(params, tokens), np.float64)
    logits = hidden.reshape(len(PAIRS), 2, LENGTH, -1) @ np.asarray(model.head(params), np.float64)
    return logits if model.cap is None else model.cap * np.tanh(logits / model.cap)


def alone(pair, logits_of):
    """Log-probabilities of both answers and the mean entropy over their tokens, in float64."""
    log_probs, entropies = [], []
    for answer, logits in zip(pair[1:3], logits_of, strict=True):
        first = len(pair.prompt) - 1
        logits = logits[first : first + len(answer)]
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        log_probs.append(log_p[np.arange(len(answer)), answer].sum())
        entropies += (-(np.exp(log_p) * log_p).sum(axis=1)).tolist()
    return log_probs, np.mean(entropies)


FEW = ("gpt2", "qwen", "gemma")  # learned positions, rotary ones, a cap on the logits


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in CONFIGS],
)
def case(request):
    model = language_model(CONFIGS[request.param])
    params = moved(model)
    logits = texts_alone(model, params)
    return model, params, [alone(pair, rows) for pair, rows in zip(PAIRS, logits, strict=True)]


@pytest.mark.parametrize("most", [None, pytest.param(1, marks=pytest.mark.slow)])
def test_packed_answers_are_the_answers_alone(case, most):
    model, params, expected = case
    rows = pack_pairs(PAIRS, length=None if most else 40, pairs_per_row=most)
    reference = jax.jit(make_reference_pass(model, chunk=5, entropy_chunk=3))(params, rows)
    there = rows.numbers >= 0
    order = rows.numbers[there]
    assert most or there.sum(axis=1).max() > 1
    np.testing.assert_allclose(
        reference.log_probs[there], np.array([e[0] for e in expected])[order], atol=2e-5, rtol=2e-6
    )
    index = np.array([e[1] for e in expected]) / np.log(23)
    np.testing.assert_allclose(reference.index[there], index[order], rtol=1e-5)
    assert (np.asarray(reference.log_probs)[~there] == 0).all()
    assert (np.asarray(reference.index)[~there] == 1).all()
    scores = jax.jit(partial(score_answers, model))(params, rows)
    tokens = np.array([(len(p.chosen), len(p.rejected)) for p in PAIRS])[order]
    flat = there.reshape(-1)
    np.testing.assert_array_equal(scores.tokens[0][flat], tokens[:, 0])
    np.testing.assert_array_equal(scores.tokens[1][flat], tokens[:, 1])
    np.testing.assert_allclose(
        scores.log_probs[0][flat], reference.log_probs[there][:, 0], rtol=2e-6
    )
    np.testing.assert_allclose(
        scores.log_probs[1][flat], reference.log_probs[there][:, 1], rtol=2e-6
    )


def test_no_answer_sees_the_other_nor_another_pair():
    """By gradients: what a pair's chosen answer depends on is its prompt and itself."""
    model = language_model(GPT2)
    params = moved(model)
    rows = pack_pairs(PAIRS, length=40)

    @jax.jit
    def chosen(tokens):
        scores = score_answers(model, params, rows._replace(tokens=tokens))
        return scores.log_probs[0].reshape(rows.weights.shape)

    before = np.asarray(chosen(rows.tokens))
    text, own = 0, (rows.texts == 0) & (rows.branches < 2)
    elsewhere = np.where(own, rows.tokens, (rows.tokens + 1) % 23)
    np.testing.assert_array_equal(chosen(elsewhere)[:, text], before[:, text])
    prompts = (rows.texts == 0) & (rows.branches == 0)
    moved_prompts = np.where(prompts, (rows.tokens + 1) % 23, rows.tokens)
    assert (np.abs(chosen(moved_prompts)[:, text] - before[:, text]) > 1e-3).all()
    np.testing.assert_array_equal(chosen(moved_prompts)[:, 1:], before[:, 1:])


def test_losses_of_log_ratios_need_a_reference():
    model, rows = language_model(GPT2), pack_pairs(PAIRS)
    score, params = jax.jit(partial(score_answers, model)), moved(model)
    scores = score(params, rows)
    with pytest.raises(ValueError, match=r"rows\.reference: received None"):
        _ = scores.log_ratios
    np.testing.assert_allclose(scores.mean_log_probs[0], scores.log_probs[0] / scores.tokens[0])
    reference = np.zeros((*rows.weights.shape, 2), np.float32)
    scores = score(params, rows._replace(reference=reference))
    for means, both in (
        (scores.mean_log_ratios, scores.log_ratios),
        (scores.mean_log_probs, scores.log_probs),
    ):
        for mean, total, tokens in zip(means, both, scores.tokens, strict=True):
            np.testing.assert_allclose(mean, total / tokens)
            assert (np.abs(mean - total) > 0.1).any()
