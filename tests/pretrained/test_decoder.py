"""Decoders of every family from files against NumPy, and files that do not fit."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.networks.transformer import language_model
from ctrl_jax.pretrained.decoder import load_decoder, save_decoder
from ctrl_jax.pretrained.safetensors_file import read_safetensors, write_safetensors
from tests.oracles import decoders as oracle
from tests.pretrained.decoder_arrays import random_arrays, write_folder
from tests.pretrained.decoder_records import GPT2, LLAMA, NEOX, RECORDS

TOKENS = np.random.default_rng(0).integers(0, 37, (2, 11))


@pytest.mark.parametrize("name", RECORDS)
def test_logits_agree_with_numpy(name, tmp_path):
    record = RECORDS[name]
    arrays = random_arrays(record)
    config, params, _ = load_decoder(write_folder(tmp_path / "model", record, arrays))
    model = language_model(config)
    found = jax.jit(lambda p, t: model.apply(p, t) @ model.head(p))(params, jnp.asarray(TOKENS))
    expected = np.stack([oracle.Decoder(record, arrays).logits(row) for row in TOKENS])
    assert found.dtype == jnp.float32
    # Sums of up to 64 float32 terms through two blocks, against float64.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    assert expected.std(axis=1).min() > 0.05  # every token's logits depend on where it stands


@pytest.mark.parametrize("name", RECORDS)
def test_what_is_saved_is_what_was_loaded(name, tmp_path):
    record, arrays = RECORDS[name], random_arrays(RECORDS[name])
    _, params, read = load_decoder(write_folder(tmp_path / "model", record, arrays))
    save_decoder(tmp_path / "again", read, params)
    again = read_safetensors(tmp_path / "again" / "model.safetensors")
    assert again.keys() == arrays.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(again[key], array)
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert saved.items() >= record.items() and saved["dtype"] == "float32"
    assert load_decoder(tmp_path / "again").config == load_decoder(tmp_path / "model").config
    with pytest.raises(ValueError, match=r"it holds config.json already; give another folder"):
        save_decoder(tmp_path / "again", read, params)
