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


@jax.jit
def every_logit(params):
    """Before the cap, of every letter of every answer."""
    hidden = MODEL.apply(params, jnp.concatenate([PROMPTS, EVERY], axis=1))
    return (hidden @ MODEL.head(params))[:, 1:-1]


@jax.jit
def along(policy, reference):
    return divergence_along(MODEL, policy, reference, PROMPTS, EVERY)


def log_law(params, temperature=1.0):
    """Log-probability of every answer, token by token from the whole text."""
    logits = 2 * np.tanh(np.asarray(every_logit(params), np.float64) / 2) / temperature
    logs = logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)
    return np.take_along_axis(logs, np.asarray(EVERY)[:, :, None], axis=2)[:, :, 0].sum(axis=1)


def test_the_mean_divergence_is_that_of_the_laws():
    """By enumeration on both sides: no sampling error."""
    policy, reference = log_law(POLICY), log_law(REFERENCE)
    exact = np.sum(np.exp(policy) * (policy - reference))
    found = np.asarray(along(POLICY, REFERENCE))
    assert exact > 0.05
    np.testing.assert_allclose(np.sum(np.exp(policy) * found), exact, rtol=1e-4)
    assert (found >= 0).all()


def test_a_model_is_at_no_distance_from_itself():
    assert not np.any(along(POLICY, POLICY))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_answers_follow_the_law(temperature):
    """Chi square over the 27 answers, once in 10 000 a false alarm (the key is fixed)."""
    number = 20_000

    @jax.jit
    def draw(key):
        prompts = jnp.broadcast_to(PROMPT, (number, 2))
        return sample_answers(key, DECODING, POLICY, prompts, LENGTH, temperature=temperature)

    drawn = draw(jax.random.key(5))
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
    draw = jax.jit(lambda prompts: sample_answers(key, DECODING, POLICY, prompts, 8))
    np.testing.assert_array_equal(draw(prompts[:1]), draw(prompts)[:1])


def test_the_temperature_may_be_traced():
    def draw(temperature):
        key = jax.random.key(1)
        return sample_answers(key, DECODING, POLICY, PROMPT, 4, temperature=temperature)

    np.testing.assert_array_equal(jax.jit(draw)(0.5), jax.jit(lambda: draw(0.5))())


def test_what_is_refused():
    with pytest.raises(ValueError, match="length: received 0"):
        sample_answers(jax.random.key(0), DECODING, POLICY, PROMPT, 0)
    with pytest.raises(ValueError, match=r"temperature: received 0\.0; it must be above zero"):
        sample_answers(jax.random.key(0), DECODING, POLICY, PROMPT, 1, temperature=0.0)
