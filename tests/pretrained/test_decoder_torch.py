"""Decoders against the PyTorch models of transformers, from files to files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.networks.transformer import language_model
from ctrl_jax.pretrained.decoder import load_decoder, save_decoder
from tests.pretrained.decoder_records import RECORDS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOKENS = np.random.default_rng(0).integers(0, 37, (2, 11))


def make_theirs(record):
    """A model of transformers with every parameter random, biases and scales too."""
    fields = {name: value for name, value in record.items() if name != "model_type"}
    config = transformers.AutoConfig.for_model(record["model_type"], **fields)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def their_logits(model, **inputs):
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS), **inputs).logits.numpy()


@pytest.fixture(scope="module", params=RECORDS)
def saved(request, tmp_path_factory):
    model = make_theirs(RECORDS[request.param])
    folder = tmp_path_factory.mktemp("theirs")
    model.save_pretrained(folder)
    return folder, their_logits(model)


def test_logits_agree(saved):
    folder, expected = saved
    config, params, _ = load_decoder(folder)
    model = language_model(config)
    found = model.apply(params, jnp.asarray(TOKENS)) @ model.head(params)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_transformers_loads_what_is_saved(saved, tmp_path):
    folder, expected = saved
    config, params, record = load_decoder(folder)
    changed = jax.tree.map(lambda leaf: leaf + 0.01, params)
    for name, weights in (("same", params), ("changed", changed)):
        save_decoder(tmp_path / name, record, weights)
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name).eval()
        found = their_logits(theirs)
        if name == "same":
            np.testing.assert_array_equal(found, expected)
        else:
            model = language_model(config)
            ours = model.apply(weights, jnp.asarray(TOKENS)) @ model.head(weights)
            np.testing.assert_allclose(found, ours, rtol=0, atol=1e-4)
            assert np.abs(found - expected).max() > 0.01
