"""What `prefer` leaves: a folder like the one that it was given, or adapters alone."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax._sums import SUMS
from ctrl_jax.commands.preference import model as models
from ctrl_jax.commands.preference.saved import save_model
from ctrl_jax.networks import LoRA
from ctrl_jax.pretrained import load_decoder, read_safetensors
from ctrl_jax.runtime import MeshOptions, make_mesh
from tests.commands.byte_model import Bytes, write_model

BESIDE = {
    "tokenizer.json": "{}",
    "tokenizer_config.json": '{"tokenizer_class": "Odd"}',
    "special_tokens_map.json": '{ "eos_token":"<e>"}',
    "generation_config.json": '{"temperature": 0.6, "do_sample": true}',
    "LICENSE": "Some\r\nlicence\n",
    "chat_template.jinja": "{{ messages }}",
    "additional_chat_templates/tool.jinja": "{{ tools }}",
}
LEFT = {
    ".gitattributes": "",
    "adapter_config.json": "{}",
    "trainer_state.json": "{}",
    "optimizer.pt": "",
    "training_args.bin": "",
    "runs/events": "",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model in bfloat16 as published ones lie on disk."""
    folder = tmp_path_factory.mktemp("files") / "model"
    write_model(folder, jnp.bfloat16, torch_dtype="bfloat16", architectures=["LlamaForCausalLM"])
    record = json.loads((folder / "config.json").read_text())
    record = {"torch_dtype": record.pop("dtype"), **record, "transformers_version": "4.40.1"}
    (folder / "config.json").write_text(json.dumps(record))
    for name, text in {**BESIDE, **LEFT}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return folder


@pytest.fixture
def read(folder, monkeypatch):
    """The model as a run reads it, and its mesh."""
    monkeypatch.setattr(models, "load_tokenizer", lambda folder: Bytes())
    mesh = make_mesh(MeshOptions())

    def read(adapters=None):
        options = {"dtype": jnp.dtype("float32"), "remat": False, "fully": False}
        return models.load_model(str(folder), mesh, adapters=adapters, **options), mesh

    return read


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_what_training_does_not_change_is_copied_byte_for_byte(folder, read, tmp_path):
    trained, _ = read()
    params = jax.tree.map(lambda leaf: leaf + 0.5, trained.pretrained.params)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "of_an_earlier_run").write_text("")
    save_model(tmp_path / "model", trained, params, precision=None, merge=True)
    before, after = contents(folder), contents(tmp_path / "model")
    assert {*after} == {*BESIDE, "config.json", "model.safetensors", SUMS}
    assert all(after[name] == before[name] for name in BESIDE)
    assert after["config.json"] == before["config.json"]
    weights = read_safetensors(tmp_path / "model" / "model.safetensors")
    assert {array.dtype for array in weights.values()} == {np.dtype(jnp.bfloat16)}
    found = load_decoder(tmp_path / "model").params
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(leaf.dtype), params)
    jax.tree.map(np.testing.assert_array_equal, found, rounded)


def test_a_precision_that_is_asked_for_is_that_of_the_weights(folder, read, tmp_path):
    trained, _ = read()
    params = jax.tree.map(lambda leaf: leaf + 1e-3, trained.pretrained.params)
    save_model(tmp_path / "model", trained, params, precision="float32", merge=True)
    jax.tree.map(np.testing.assert_array_equal, load_decoder(tmp_path / "model").params, params)
    before, after = contents(folder), contents(tmp_path / "model")
    record = json.loads(after["config.json"])
    assert record["dtype"] == "float32" and record["transformers_version"] == "4.40.1"
    assert all(after[name] == before[name] for name in BESIDE)
    how = {"precision": None, "merge": True, "chat_template": "{{ 1 }}"}
    save_model(tmp_path / "model", trained, params, **how)
    after = contents(tmp_path / "model")
    assert after.pop("chat_template.jinja") == b"{{ 1 }}"
    assert all(after[name] == before[name] for name in BESIDE if name in after)


def test_adapters_alone_are_a_folder_for_peft(folder, read, tmp_path):
    adapters = LoRA(2, 3.0)
    trained, _ = read(adapters)
    params = trained.model.init(jax.random.key(0))
    save_model(tmp_path / "model", trained, params, precision=None, merge=False)
    assert {*contents(tmp_path / "model")} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        SUMS,
    }
    config = json.loads((tmp_path / "model" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder)
    assert (config["r"], config["lora_alpha"]) == (2, 3.0)
    found = read_safetensors(tmp_path / "model" / "adapter_model.safetensors")
    block = params["blocks"][0]["attention"]
    key = "base_model.model.model.layers.0.self_attn.{}_proj.lora_A.weight"
    for name, ours in (("q", "query"), ("v", "value")):
        np.testing.assert_array_equal(found[key.format(name)].T, block[ours]["lora_a"])
    assert len(found) == 4
    how = {"precision": "bfloat16", "merge": False, "chat_template": "{{ 1 }}"}
    save_model(tmp_path / "half", trained, params, **how)
    assert (tmp_path / "half" / "chat_template.jinja").read_text() == "{{ 1 }}"
    half = read_safetensors(tmp_path / "half" / "adapter_model.safetensors")
    assert {array.dtype for array in half.values()} == {np.dtype(jnp.bfloat16)}
