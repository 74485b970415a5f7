"""Answers and divergences, against all the texts there are over three letters."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ctrl_jax.algorithms.language.sampling import divergence_along, sample_answers
from ctrl_jax.networks.language.config import DecoderConfig
from ctrl_jax.networks.language.decoder import language_model
from ctrl_jax.networks.language.decoding import make_decoding
from ctrl_jax.networks.layers.rotary import Rotary
from tests.networks.language.decoders import moved

CONFIG = DecoderConfig(
    vocabulary=3,
    width=8,
    depth=1,
    heads=2,
    key_heads=2,
    head_width=4,
    hidden=8,
    positions=Rotary(),
    logit_cap=2.0,
)
LENGTH = 3
MODEL = language_model(CONFIG)
DECODING = make_decoding(CONFIG)
PROMPT = jnp.asarray([[2, 0]])
EVERY = jnp.asarray(list(itertools.product(range(3), repeat=LENGTH)))
PROMPTS = jnp.broadcast_to(PROMPT, (len(EVERY), 2))
POLICY = moved(MODEL)
REFERENCE = jax.tree.map(lambda leaf: leaf[::-1] * 0.7, POLICY)


def log_law(params, temperature=1.0):
    """Log-probability of every answer, token by token from the whole text."""
    hidden = MODEL.apply(params, jnp.concatenate([PROMPTS, EVERY], axis=1))
    logits = 2 * jnp.tanh(hidden @ MODEL.head(params) / 2)
    logs = np.asarray(jax.nn.log_softmax(logits[:, 1:-1] / temperature), np.float64)
    return np.take_along_axis(logs, np.asarray(EVERY)[:, :, None], axis=2)[:, :, 0].sum(axis=1)


def test_the_mean_divergence_is_that_of_the_laws():
    """By enumeration on both sides: no sampling error."""
    policy, reference = log_law(POLICY), log_law(REFERENCE)
    exact = np.sum(np.exp(policy) * (policy - reference))
    along = divergence_along(MODEL, POLICY, REFERENCE, PROMPTS, EVERY)
    assert exact > 0.05
    np.testing.assert_allclose(np.sum(np.exp(policy) * np.asarray(along)), exact, rtol=1e-4)
    assert bool(jnp.all(along >= 0))


def test_a_model_is_at_no_distance_from_itself():
    assert not jnp.any(divergence_along(MODEL, POLICY, POLICY, PROMPTS, EVERY))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_answers_follow_the_law(temperature):
    """Chi square over the 27 answers, once in 10 000 a false alarm (the key is fixed)."""
    number = 20_000
    prompts = jnp.broadcast_to(PROMPT, (number, 2))
    drawn = sample_answers(
        jax.random.key(5), DECODING, POLICY, prompts, LENGTH, temperature=temperature
    )
    counts = np.bincount(np.asarray(drawn) @ [9, 3, 1], minlength=27)
    expected = number * np.exp(log_law(POLICY, temperature))
    seldom = expected < 5
    kept = np.append(expected[~seldom], expected[seldom].sum())
    found = np.append(counts[~seldom], counts[seldom].sum())
    keep = kept > 0
    value = np.sum((found - kept)[keep] ** 2 / kept[keep])
    assert value < stats.chi2.ppf(1 - 1e-4, keep.sum() - 1)


def test_an_answer_does_not_depend_on_its_batch_mates():
    prompts = jnp.asarray([[2, 0], [0, 1], [1, 1]])
    key = jax.random.key(1)
    every = sample_answers(key, DECODING, POLICY, prompts, 8)
    np.testing.assert_array_equal(sample_answers(key, DECODING, POLICY, prompts[:1], 8), every[:1])


def test_the_temperature_may_be_traced():
    drawn = jax.jit(
        lambda t: sample_answers(jax.random.key(1), DECODING, POLICY, PROMPT, 4, temperature=t)
    )(0.5)
    expected = sample_answers(jax.random.key(1), DECODING, POLICY, PROMPT, 4, temperature=0.5)
    np.testing.assert_array_equal(drawn, expected)


def test_what_is_refused():
    with pytest.raises(ValueError, match="length: received 0"):
        sample_answers(jax.random.key(0), DECODING, POLICY, PROMPT, 0)
    with pytest.raises(ValueError, match=r"temperature: received 0\.0; it must be above zero"):
        sample_answers(jax.random.key(0), DECODING, POLICY, PROMPT, 1, temperature=0.0)
