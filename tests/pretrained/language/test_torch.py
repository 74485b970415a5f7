"""Decoders against the PyTorch models of transformers, from files to files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.networks.language.decoder import language_model
from ctrl_jax.pretrained.language.folder import load_decoder, save_decoder
from tests.oracles import decoders as oracle
from tests.oracles import transformers_logits as theirs
from tests.oracles.transformers_logits import TOKENS
from tests.pretrained.language.arrays import random_arrays, write_folder
from tests.pretrained.language.records import RECORDS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


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


def their_logits(model):
    return theirs.logits(model, TOKENS)


@pytest.fixture(scope="module", params=RECORDS)
def saved(request, tmp_path_factory):
    model = make_theirs(RECORDS[request.param])
    folder = tmp_path_factory.mktemp("theirs")
    model.save_pretrained(folder)
    return folder, their_logits(model)


def our_logits(config, params):
    model = language_model(config)
    return jax.jit(lambda p, t: model.logits(p, model.apply(p, t)))(params, jnp.asarray(TOKENS))


def test_logits_agree_from_file_to_file(saved, tmp_path):
    """Theirs to ours, and ours, changed by training, to theirs."""
    folder, expected = saved
    config, params, record = load_decoder(folder)
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(our_logits(config, params), expected, rtol=0, atol=1e-4)

    changed = jax.tree.map(lambda leaf: leaf + 0.01, params)
    save_decoder(tmp_path / "again", record, changed)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()
    found = their_logits(again)
    np.testing.assert_allclose(found, our_logits(config, changed), rtol=0, atol=1e-4)
    assert np.abs(found - expected).max() > 0.01


@pytest.mark.parametrize("name", RECORDS)
def test_the_oracle_is_what_transformers_computes(name, tmp_path):
    """From the files that the tests without PyTorch use; and so are the stored values."""
    record, arrays = RECORDS[name], random_arrays(RECORDS[name])
    model = theirs.load(write_folder(tmp_path / "model", record, arrays))
    found = their_logits(model)
    expected = np.stack([oracle.Decoder(record, arrays).logits(row) for row in TOKENS])
    # They compute the angles of rotations in float32, and Gemma's normalizations.
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)
    stored = json.loads(theirs.STORED.read_text())["values"][name]
    np.testing.assert_allclose(found[0, -1], stored, rtol=0, atol=2e-5)
