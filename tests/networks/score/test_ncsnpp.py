"""NCSN++ and DDPM++: published sizes, laws of every network, dropout."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ctrl_jax.networks import (
    DDPMPP,
    NCSNPP,
    NCSNpp,
    as_model,
    count_parameters,
)
from ctrl_jax.networks.layers.dropout import dropout
from ctrl_jax.networks.layers.noise_embedding import fourier_features, positional_features
from ctrl_jax.networks.score.residual_blocks import PixelAttention

SHAPE, BATCH = (8, 8, 3), 4
SMALL = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "dropout": 0.5}
CONFIGS = {
    "NCSN++": dataclasses.replace(NCSNPP, **SMALL),
    "DDPM++": dataclasses.replace(DDPMPP, **SMALL),
}


def random_params(model):
    """Parameters of the usual sizes, away from the zero start, drawn by NumPy: nothing compiles."""
    generator = np.random.default_rng(0)

    def draw(path, leaf):
        name, z = jax.tree_util.keystr(path), generator.normal(size=leaf.shape)
        if "kernel" in name:
            z = z / np.sqrt(np.prod(leaf.shape[:-1]))
        else:
            z = {"frequencies": 16 * z, "scale": 1 + 0.1 * z}.get(path[-1].key, 0.1 * z)
        return jnp.asarray(z, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0)))


def build(config, **options):
    return as_model(lambda rngs: NCSNpp(SHAPE, config, rngs=rngs, **options), has_dropout=True)


@pytest.fixture(scope="module")
def model():
    found = build(CONFIGS["NCSN++"])
    x = np.random.default_rng(1).standard_normal((BATCH, *SHAPE), np.float32)
    return found, random_params(found), x, jax.jit(found.apply)


U = np.array([-2.0, -1.0, 0.5, 3.0], np.float32)


def close(a, b):
    """Equal up to rounding, relative to the largest entry."""
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max())


# Published: 62.8 M and 61.8 M (EDM, 2206.00364, says 56 M for its own, smaller variant).
@pytest.mark.parametrize(
    ("config", "millions"), [(NCSNPP, 62.8), pytest.param(DDPMPP, 61.8, marks=pytest.mark.slow)]
)
def test_the_published_number_of_parameters(config, millions):
    network = as_model(lambda rngs: NCSNpp((32, 32, 3), config, rngs=rngs))
    params = jax.eval_shape(network.init, jax.random.key(0))
    assert count_parameters(params) / 1e6 == pytest.approx(millions, abs=0.05)


def test_the_output_starts_at_zero():
    config = dataclasses.replace(NCSNPP, **SMALL | {"multipliers": (1,), "attention": ()})
    network = build(config)

    @jax.jit
    def start(key):
        return network.apply(network.init(key), jnp.zeros(()), jnp.ones((1, *SHAPE)))

    np.testing.assert_array_equal(start(jax.random.key(0)), jnp.zeros((1, *SHAPE)))


def check_examples_are_independent(apply, params, x):
    together = np.asarray(apply(params, U, x))
    assert together.shape == x.shape and together.dtype == jnp.float32
    others = np.arange(BATCH) != 2
    mates = np.where(others[:, None, None, None], x[::-1] + 5, x)
    alone = apply(params, np.where(others, np.float32(0), U), mates)
    np.testing.assert_array_equal(np.asarray(alone)[2], together[2])
    close(np.asarray(apply(params, U[::-1], x[::-1]))[::-1], together)
    assert not np.allclose(together, apply(params, U[::-1], x), atol=1e-2)


def test_every_example_has_its_own_number_and_no_batch_mates(model):
    _, params, x, apply = model
    check_examples_are_independent(apply, params, x)


def test_ddpmpp_has_no_progressive_input_and_no_frequencies(model):
    found = build(CONFIGS["DDPM++"])
    params = random_params(found)
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert not any("shrink" in path or "frequencies" in path for path in paths)
    check_examples_are_independent(jax.jit(found.apply), params, model[2])


@pytest.mark.slow
def test_gradients_reach_every_parameter_but_the_fixed_frequencies(model):
    found, params, x, _ = model
    gradient = jax.jit(jax.grad(lambda *a: jnp.sum(found.apply(*a) ** 2)))(params, U, x)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        name = jax.tree_util.keystr(path)
        assert jnp.isfinite(leaf).all(), name
        # A softmax does not see a constant that is added to all its scores.
        silent = "frequencies" in name or ("'key'" in name and "'bias'" in name)
        largest = float(jnp.abs(leaf).max())
        assert (largest < 1e-3) if silent else (largest > 1e-3), (name, largest)


def test_dropout_is_random_by_key_only(model):
    found, params, x, apply = model
    train = jax.jit(found.train)
    first, again, other = (train(jax.random.key(k), params, U, x) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other, atol=1e-2)
    assert not np.allclose(first, apply(params, U, x), atol=1e-2)


def test_half_precision_agrees_roughly_and_keeps_its_parameters(model):
    _, params, x, apply = model
    half = build(CONFIGS["NCSN++"], dtype=jnp.dtype("bfloat16"))
    made = jax.eval_shape(half.init, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(made)} == {jnp.dtype("float32")}
    out, expected = jax.jit(half.apply)(params, U, x), apply(params, U, x)
    assert out.dtype == jnp.bfloat16
    # bfloat16 keeps 8 bits; a few dozen roundings of 2**-9 add up to a few percent.
    out, expected = np.float32(out), np.asarray(expected)
    error = np.sqrt(np.mean((out - expected) ** 2) / np.mean(expected**2))
    assert 1e-4 < float(error) < 0.05


def test_dropout_keeps_the_mean_and_the_rate():
    x = jnp.ones((200, 500))
    dropped = dropout(x, 0.25, jax.random.key(0))
    # 100000 independent entries: the fraction has std .0014; 6 of them, false alarm 2e-9.
    assert float(jnp.mean(dropped == 0)) == pytest.approx(0.25, abs=0.0083)
    np.testing.assert_allclose(np.unique(dropped), [0, 1 / 0.75], rtol=1e-6)
    np.testing.assert_array_equal(dropout(x, 0.25, None), x)


def test_features_are_those_written_down():
    u = jnp.asarray([0.0, 3.0])
    rates = 10000.0 ** (-np.arange(4) / 3)
    angles = np.asarray(u)[:, None] * rates
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(positional_features(u, 8), expected, atol=1e-6)
    angles = 2 * np.pi * np.asarray(u)[:, None] * np.array([0.1, -0.7])
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    found = fourier_features(u, jnp.asarray([0.1, -0.7]))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_attention_is_softmax_over_pixels():
    layer = PixelAttention(8, rngs=nnx.Rngs(0))
    layer.out.kernel[...] = jnp.eye(8)
    x = np.asarray(jax.random.normal(jax.random.key(0), (2, 2, 3, 8)), np.float64)
    groups = x.reshape(2, 6, 2, 4)
    mean, variance = groups.mean((1, 3), keepdims=True), groups.var((1, 3), keepdims=True)
    tokens = ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(2, 6, 8)
    query, key, value = (
        tokens @ np.asarray(part.kernel[...], np.float64)
        for part in (layer.query, layer.key, layer.value)
    )
    weights = np.exp(query @ key.swapaxes(1, 2) / np.sqrt(8))
    mixed = weights / weights.sum(-1, keepdims=True) @ value
    expected = (x + mixed.reshape(x.shape)) / np.sqrt(2)
    found = jax.jit(layer.__call__)(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"progressive_input": "skip"}, "progressive_input: received .skip.; it must be one of"),
        ({"width": 7}, "width: received 7; it must be even"),
        ({"width": 130}, "width x multiplier: received 130; its"),
        ({"multipliers": ()}, r"multipliers: received \(\); there must be at least one"),
        ({"blocks": 0}, "blocks: received 0; it must be a whole number of at least 1"),
        ({"dropout": 1.0}, r"dropout: received 1.0; it must lie in \[0, 1\)"),
        ({"fourier_scale": 0.0}, "fourier_scale: received 0.0; it must be above zero"),
        ({"taps": (1.0, 2.0, 3.0, 4.0)}, "taps: received .* four symmetric"),
    ],
)
def test_bad_sizes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(NCSNPP, **options)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((30, 32, 3), {}, r"shape: received \(30, 32, 3\); .* 8 divides"),
        (
            (32, 32, 3),
            {"attention": (16, 7)},
            r"attention: received \[7\]; heights are \[32, 16, 8, 4\]",
        ),
    ],
)
def test_images_that_do_not_fit_are_named(shape, options, message):
    with pytest.raises(ValueError, match=message):
        NCSNpp(shape, dataclasses.replace(NCSNPP, **options), rngs=nnx.Rngs(0))
