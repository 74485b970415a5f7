"""CLIP, T5 and MMDiT from files of transformers and diffusers, and files that they read again."""

import json
import shutil

import jax
import numpy as np
import pytest

from ctrl_jax.networks.text_to_image.mmdit import mmdit
from ctrl_jax.pretrained.diffusers.clip import clip_arrays
from ctrl_jax.pretrained.diffusers.mmdit import mmdit_table, read_mmdit
from ctrl_jax.pretrained.diffusers.t5 import t5_arrays
from ctrl_jax.pretrained.key_table import fill, unfill
from ctrl_jax.pretrained.safetensors_file import read_safetensors, write_safetensors
from tests.oracles import sd3_transformer, towers
from tests.pretrained.diffusers.test_mmdit import INPUTS, predict
from tests.pretrained.diffusers.test_towers import KINDS, STORED, outputs

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
diffusers = pytest.importorskip("diffusers")


def arrays_of(name, file):
    arrays = read_safetensors(file)
    if name.startswith("t5"):
        return t5_arrays(arrays)
    return clip_arrays(arrays, None if name == "both" else name.split()[0])


def write_again(folder, file, arrays):
    """A folder of other weights with the same config.json."""
    again = folder.parent / "again"
    again.mkdir()
    shutil.copy(folder / "config.json", again)
    write_safetensors(again / file, arrays)
    return again


def assert_near(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", towers.RECORDS)
def test_a_tower_from_file_to_file(name, tmp_path):
    """Theirs to ours, and ours, changed by training, to theirs, which miss and ignore nothing."""
    module, _ = towers.make(towers.RECORDS[name])
    folder, file = tmp_path / "theirs", "model.safetensors"
    module.save_pretrained(folder)
    read, build, table_of = KINDS[name.split()[0]]
    network = build(read(json.loads((folder / "config.json").read_text())))
    table = table_of(network.shapes)
    params = fill(network.shapes, table, arrays_of(name, folder / file))
    compute = jax.jit(lambda params: outputs(name, network, params))

    def agree(params, module):
        found = compute(params)
        for key, expected in towers.outputs(name, module).items():
            assert_near(found[key], expected.detach().numpy())

    agree(params, module)
    changed = jax.tree.map(lambda leaf: leaf + 0.01, params)
    again = write_again(folder, file, unfill(changed, table))
    loaded, report = type(module).from_pretrained(again, output_loading_info=True)
    assert not any(report.values()), report
    agree(changed, loaded.eval())


@pytest.mark.parametrize("name", sd3_transformer.RECORDS)
def test_a_transformer_from_file_to_file(name, tmp_path):
    module = sd3_transformer.make(sd3_transformer.RECORDS[name])
    folder, file = tmp_path / "theirs", "diffusion_pytorch_model.safetensors"
    module.save_pretrained(folder)
    network = mmdit(read_mmdit(json.loads((folder / "config.json").read_text())))
    table = mmdit_table(network.shapes)
    params = fill(network.shapes, table, read_safetensors(folder / file))
    compute = jax.jit(lambda params: predict(network, params, INPUTS))
    assert_near(compute(params), sd3_transformer.predict(module).detach().numpy())
    changed = jax.tree.map(lambda leaf: leaf + 0.01, params)
    again = write_again(folder, file, unfill(changed, table))
    loaded, report = type(module).from_pretrained(again, output_loading_info=True)
    assert not any(report.values()), report
    assert_near(compute(changed), sd3_transformer.predict(loaded.eval()).detach().numpy())


def test_what_is_stored_is_what_the_peers_compute():
    """Rounded to six digits there, so that the last one may differ between machines."""
    found = {name: towers.values(name) for name in ("text with projection", "t5 gated")}
    for name, value in found.items():
        for key, rows in value["outputs"].items():
            np.testing.assert_allclose(rows, STORED[name]["outputs"][key], atol=3e-6)
        for key, slope in value["slopes"].items():
            assert slope == pytest.approx(STORED[name]["slopes"][key], rel=1e-4, abs=1e-3)
