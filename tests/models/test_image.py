"""The model of images: what its network sees, and the score it stands for, for every process."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ctrl_jax._numerics import expand
from ctrl_jax.models import ImageDiffusionSpec
from ctrl_jax.models.image import USUAL
from ctrl_jax.models.spec import from_record
from ctrl_jax.networks import NCSNppConfig
from ctrl_jax.networks.layers.noise_embedding import NoiseEmbedding

SHAPE = (8, 8, 3)
ONE_LEVEL = NCSNppConfig(width=4, multipliers=(1,), blocks=1, attention=(), dropout=0.5)
T = jnp.asarray([0.2, 0.9])


@pytest.mark.parametrize("fourier_scale", [16.0, None])
@pytest.mark.parametrize("kind", USUAL)
def test_the_score_is_the_noise_over_minus_std(kind, fourier_scale, monkeypatch):
    """With the network replaced by a record of what it was given."""
    seen = []

    def call(self, u, x, *, key=None):
        seen.append(u)
        return 3.0 * jnp.ones_like(x) if key is None else 5.0 * jnp.ones_like(x)

    monkeypatch.setattr("ctrl_jax.networks.score.ncsnpp.NCSNpp.__call__", call)
    config = dataclasses.replace(ONE_LEVEL, fourier_scale=fourier_scale)
    spec = ImageDiffusionSpec(kind=kind, network=config)
    model, process = spec.model(SHAPE), spec.process()
    x, std = jnp.ones((2, *SHAPE)), process.marginal(T).std
    params = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(model.init, jax.random.key(0))
    )
    np.testing.assert_allclose(model.apply(params, T, x), -3 / expand(std, x) * x, rtol=1e-6)
    assert model.train is not None
    train = model.train(jax.random.key(0), params, T, x)
    np.testing.assert_allclose(train, -5 / expand(std, x) * x, rtol=1e-6)
    np.testing.assert_allclose(seen[0], 999 * T if fourier_scale is None else jnp.log(std))


def test_published_settings():
    stds = {k: float(ImageDiffusionSpec(kind=k).process().prior_std()) for k in USUAL}
    # ve: 50 in [0, 1] is 100 in [-1, 1]; contractive sub-VP: e^{4.5} - 1.
    expected = {"ve": 100.0, "vp": 1.0, "sub_vp": 1.0, "contractive_sub_vp": np.expm1(4.5)}
    assert stds == pytest.approx(expected, rel=1e-5)
    blurred = ImageDiffusionSpec(kind="ve").process().marginal(jnp.asarray(0.0)).std
    assert float(blurred) == pytest.approx(0.02, rel=1e-5)
    ends = [ImageDiffusionSpec(kind=k).end for k in ("ve", "vp", "sub_vp", "contractive_sub_vp")]
    assert ends == [1e-5, 1e-3, 1e-3, 1e-5]


def test_a_spec_is_its_record():
    spec = ImageDiffusionSpec("vp", (0.1, 5.0), 1e-2, ONE_LEVEL)
    assert from_record(ImageDiffusionSpec, dataclasses.asdict(spec)) == spec


def test_without_dropout_training_is_evaluation():
    spec = ImageDiffusionSpec(network=dataclasses.replace(ONE_LEVEL, dropout=0.0))
    assert spec.model(SHAPE).train is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coefficients": (1.0, 0.0)}, "coefficients: received .* smallest and largest"),
        ({"kind": "ve", "coefficients": (-2.0, 1.0)}, "sigma_min: received -2.0; it must be above"),
        ({"sampling_end": 1.0}, r"sampling_end: received 1.0; it must lie in \(0, 1\)"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ImageDiffusionSpec(**{"kind": "vp", **options})


def test_conditions_and_flat_data_are_refused():
    spec = ImageDiffusionSpec(network=ONE_LEVEL)
    model = spec.model(SHAPE)
    with pytest.raises(
        ValueError, match="conditions: received 1; a score of ImageDiffusionSpec takes 0"
    ):
        model.apply({}, T, jnp.ones((2, *SHAPE)), jnp.zeros(2))
    with pytest.raises(ValueError, match="network needs images"):
        spec.model((8,))


def test_an_embedding_of_one_number_serves_a_batch():
    layer = NoiseEmbedding(4, fourier_scale=None, rngs=nnx.Rngs(0))
    one = layer(jnp.asarray(3.0))
    np.testing.assert_allclose(layer(jnp.full(2, 3.0)), jnp.tile(one, (2, 1)), rtol=1e-6)
