"""Models of images on disk, beside the models that were saved before there were any."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax.networks import DiffusionSpec, ImageDiffusionSpec, NCSNppConfig
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


def test_models_saved_without_the_key_are_still_read(tmp_path):
    spec = DiffusionSpec(width=8, depth=1)
    save_model(tmp_path, spec, (2,), random_params(spec.model((2,))))
    record = json.loads((tmp_path / "model.json").read_text())
    del record["images"]
    (tmp_path / "model.json").write_text(json.dumps(record))
    assert load_model(tmp_path).spec == dataclasses.replace(spec)
