"""Models of images on disk, beside the models that were saved before there were any."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.models import DiffusionSpec, ImageDiffusionSpec, SteeringSpec
from ctrl_jax.networks import NCSNppConfig
from ctrl_jax.runtime import load, load_model, save_model

SHAPE = (8, 8, 3)
NETWORK = NCSNppConfig(width=4, multipliers=(1,), blocks=1, attention=(), dropout=0.5)


def random_params(model):
    generator = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: jnp.asarray(generator.normal(size=leaf.shape), leaf.dtype), shapes
    )


def test_a_saved_network_of_images_is_loaded(tmp_path):
    spec = ImageDiffusionSpec("contractive_sub_vp", (1.0, 4.0), None, NETWORK)
    model = spec.model(SHAPE)
    params = random_params(model)
    save_model(tmp_path, spec, SHAPE, params, {"solver_steps": 7})
    found = load_model(tmp_path)
    assert found.spec == spec and found.shape == SHAPE and found.notes == {"solver_steps": 7}
    process, score_fn = load(tmp_path)
    assert float(process.prior_std()) == float(spec.process().prior_std())
    t, x = jnp.asarray([0.2, 0.9]), jnp.ones((2, *SHAPE))
    score = jax.jit(score_fn)(t, x)
    # Evaluation has no dropout: the same twice, and the model's own.
    np.testing.assert_array_equal(score, jax.jit(score_fn)(t, x))
    np.testing.assert_allclose(score, jax.jit(model.apply)(params, t, x), rtol=1e-5, atol=1e-5)


def test_the_precision_of_a_model_is_kept(tmp_path):
    """A network in bfloat16 is loaded as one; one in float64 is not read as something else."""
    spec = DiffusionSpec(width=8, depth=1)
    params = random_params(spec.model((2,)))
    save_model(tmp_path / "half", spec, (2,), params, precision="bfloat16")
    t, x = jnp.asarray([0.2, 0.9]), jnp.ones((2, 2))
    model = load_model(tmp_path / "half")
    half, full = model.score_fn(t, x), spec.model((2,)).apply(params, t, x)
    expected = spec.model((2,), jnp.dtype("bfloat16")).apply(params, t, x)
    np.testing.assert_array_equal(half, expected)
    assert half.dtype == full.dtype and not np.array_equal(half, full)
    save_model(tmp_path / "double", spec, (2,), params, precision="float64")
    with pytest.raises(ValueError, match="JAX_ENABLE_X64=1"):
        load_model(tmp_path / "double")


def test_a_steering_policy_is_loaded_with_its_environment(tmp_path):
    spec = SteeringSpec((-1.5, 1.0), (0.1, 0.2), (0.3, 0.7), 1.5, -0.5, 0.8, width=8, depth=1)
    params = random_params(spec.model())
    save_model(tmp_path, spec, (1,), params)
    assert load_model(tmp_path).spec == spec
    process, score_fn = load(tmp_path)
    assert process.horizon == 3.0
    t, x = jnp.asarray([0.5, 2.0]), jnp.asarray([[0.3], [-1.0]])
    np.testing.assert_array_equal(score_fn(t, x), spec.model().apply(params, t, x))
    untrained = spec.model().apply(spec.model().init(jax.random.key(0)), t, x)
    np.testing.assert_allclose(untrained, spec.environment().score(t, x), rtol=1e-6)


def test_a_model_of_another_format_is_told(tmp_path):
    spec = DiffusionSpec(width=8, depth=1)
    save_model(tmp_path, spec, (2,), random_params(spec.model((2,))))
    record = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**record, "format": 1}))
    with pytest.raises(ValueError, match=r"written in format 1, this version reads 2"):
        load_model(tmp_path)
