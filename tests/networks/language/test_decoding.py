"""Reading on gives what reading the whole text gives."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.networks import LoRA
from ctrl_jax.networks.language.decoder import language_model
from ctrl_jax.networks.language.decoding import make_decoding
from ctrl_jax.networks.layers.rotary import Rotary
from ctrl_jax.networks.layers.rotary_scaling import LongScaling
from tests.networks.language.decoders import CONFIGS, GPT2, QWEN, SIZES, moved

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, SIZES["vocabulary"], (3, 9)))


# Quickly: windows and two rotations are Gemma's, parallel parts are no matter of decoding.
SLOW = {"qwen", "neox"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CONFIGS]
)
def test_parts_give_the_states_of_the_whole(name):
    """A prompt of four tokens, three of one, then two, in a cache longer than the text."""
    config = CONFIGS[name]
    model, decoding = language_model(config), make_decoding(config)
    params = moved(model)
    cache, parts, position = jax.jit(lambda: decoding.start(3, 11))(), [], 0
    read, tokens = jax.jit(decoding.read), np.asarray(TOKENS)
    for size in (4, 1, 1, 1, 2):
        hidden, cache = read(params, cache, tokens[:, position : position + size], position)
        parts.append(hidden)
        position += size
    whole = jax.jit(model.apply)(params, TOKENS)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=2e-5, atol=2e-5)
    np.testing.assert_array_equal(decoding.head(params), model.head(params))


def test_adapters_and_bfloat16():
    """States are of order one and have eight bits."""
    options = {"lora": LoRA(rank=2), "dtype": jnp.bfloat16}
    model, decoding = language_model(QWEN, **options), make_decoding(QWEN, **options)

    @jax.jit
    def both(params):
        first, cache = decoding.read(params, decoding.start(3, 9), TOKENS[:, :5], 0)
        second, _ = decoding.read(params, cache, TOKENS[:, 5:], 5)
        return jnp.concatenate([first, second], axis=1), model.apply(params, TOKENS)

    parts, whole = map(np.asarray, both(moved(model)))
    assert parts.dtype == whole.dtype == jnp.bfloat16
    difference = parts.astype(np.float32) - whole.astype(np.float32)
    assert np.sqrt(np.mean(difference**2)) < 0.02


def test_rotations_that_depend_on_the_length_are_those_of_a_full_cache():
    scaling = LongScaling((1.0, 1.2), (3.0, 0.7), 6)
    config = dataclasses.replace(QWEN, depth=1, positions=Rotary(20.0, 1.0, scaling))
    model, decoding = language_model(config), make_decoding(config)
    params = moved(model)

    @jax.jit
    def both(params):
        apart, whole = [], []
        for length in (9, 6):
            cache = decoding.start(3, length)
            first, cache = decoding.read(params, cache, TOKENS[:, :4], 0)
            second, _ = decoding.read(params, cache, TOKENS[:, 4:length], 4)
            apart.append(jnp.concatenate([first, second], axis=1))
            whole.append(model.apply(params, TOKENS[:, :length]))
        return apart, whole

    for parts, expected in zip(*both(params), strict=True):
        np.testing.assert_allclose(parts, expected, rtol=2e-5, atol=2e-5)


def test_a_text_longer_than_the_table_is_refused():
    with pytest.raises(ValueError, match=r"start.length: received 13; the model has 12 positions"):
        make_decoding(GPT2).start(1, 13)
