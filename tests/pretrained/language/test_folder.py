"""Decoders of every family from files against NumPy, and files that do not fit."""

import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ctrl_jax._errors import RunWarning
from ctrl_jax.networks.language.decoder import language_model
from ctrl_jax.networks.lora import LoRA
from ctrl_jax.pretrained.language.folder import load_decoder, save_decoder
from ctrl_jax.pretrained.language.names import FAMILIES
from ctrl_jax.pretrained.language.record import read_record
from ctrl_jax.pretrained.safetensors_file import read_safetensors, write_safetensors
from tests.oracles import decoders as oracle
from tests.oracles import transformers_logits as theirs
from tests.oracles.transformers_logits import TOKENS
from tests.pretrained.language.arrays import random_arrays, write_folder
from tests.pretrained.language.records import GPT2, LLAMA, NEOX, RECORDS

STORED = json.loads(theirs.STORED.read_text())["values"]


@pytest.mark.parametrize("name", RECORDS)
def test_logits_agree_with_numpy(name, tmp_path):
    record = RECORDS[name]
    arrays = random_arrays(record)
    config, params, _ = load_decoder(write_folder(tmp_path / "model", record, arrays))
    model = language_model(config)
    found = jax.jit(lambda p, t: model.logits(p, model.apply(p, t)))(params, jnp.asarray(TOKENS))
    expected = np.stack([oracle.Decoder(record, arrays).logits(row) for row in TOKENS])
    assert found.dtype == jnp.float32
    # Sums of up to 64 float32 terms through two blocks, against float64.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    np.testing.assert_allclose(found[0, -1], STORED[name], rtol=0, atol=1e-4)  # transformers'
    assert expected.std(axis=1).min() > 0.05  # every token's logits depend on where it stands


@pytest.mark.parametrize("name", RECORDS)
def test_what_is_saved_is_what_was_loaded(name, tmp_path):
    record, arrays = RECORDS[name], random_arrays(RECORDS[name])
    config, params, read = load_decoder(write_folder(tmp_path / "model", record, arrays))
    save_decoder(tmp_path / "again", read, params)
    again = read_safetensors(tmp_path / "again" / "model.safetensors")
    assert again.keys() == arrays.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(again[key], array)
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert saved.items() >= record.items() and saved["dtype"] == "float32"
    assert read_record(saved) == config
    with pytest.raises(ValueError, match=r"it holds config.json already; give another"):
        save_decoder(tmp_path / "again", read, params)


@pytest.fixture(scope="module", params=["gpt2", "neox", "llama 3, tied"])
def small(request):
    """A record of one block and its arrays, for each way of naming."""
    record = RECORDS[request.param]
    depth = "n_layer" if "n_layer" in record else "num_hidden_layers"
    record = {**record, depth: 1}
    return record, random_arrays(record)


def refused(tmp_path, record, arrays, message):
    folder = write_folder(tmp_path / "model", record, arrays)
    with pytest.raises(ValueError, match=message) as raised:
        load_decoder(folder)
    assert "\n" not in str(raised.value)


def test_weights_that_do_not_fit_are_refused(small, tmp_path):
    record, arrays = small
    for number, name in enumerate(arrays):
        array, rest = arrays[name], {key: arrays[key] for key in arrays if key != name}
        wrong, message = [
            ({}, f"{name} is missing"),
            ({name: array[1:]}, f"{name} has shape"),
            ({name: array.astype(np.float64)}, f"{name} is float64"),
        ][number % 3]
        refused(tmp_path, record, rest | wrong, message)
    extra = {**arrays, "model.extra.weight": np.zeros(1, np.float32)}
    refused(tmp_path, record, extra, "model.extra.weight is used by no parameter")


def test_transposed_weights_are_refused(tmp_path):
    arrays = random_arrays(LLAMA)
    name = "model.layers.1.mlp.up_proj.weight"
    message = rf"{name} has shape \(16, 20\), \(20, 16\) is needed"
    refused(tmp_path, LLAMA, {**arrays, name: arrays[name].T}, message)


def test_narrow_weights_become_the_wanted_type(tmp_path):
    arrays = random_arrays(NEOX)
    for dtype in (np.float16, jnp.bfloat16):
        narrow = {name: array.astype(dtype) for name, array in arrays.items()}
        folder = write_folder(tmp_path / np.dtype(dtype).name, NEOX, narrow)
        params = load_decoder(folder).params
        assert params["tokens"].dtype == jnp.float32
        expected = narrow["gpt_neox.embed_in.weight"].astype(np.float32)
        np.testing.assert_array_equal(params["tokens"], expected)
        _, half, record = load_decoder(folder, param_dtype=jnp.bfloat16)
        assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {np.dtype(jnp.bfloat16)}
    save_decoder(tmp_path / "again", record, half)
    again = read_safetensors(tmp_path / "again" / "model.safetensors")
    assert all(np.array_equal(again[name], array) for name, array in narrow.items())
    assert json.loads((tmp_path / "again" / "config.json").read_text())["dtype"] == "bfloat16"


def test_old_files_name_things_differently(tmp_path):
    """The first GPT-2 files lack the prefix and keep masks; a tied head may be there twice."""
    arrays = random_arrays(GPT2)
    old = {name.removeprefix("transformer."): array for name, array in arrays.items()}
    old |= {f"h.{i}.attn.bias": np.ones((1, 1, 16, 16), np.float32) for i in range(2)}
    plain = load_decoder(write_folder(tmp_path / "new", GPT2, arrays)).params
    head = {"lm_head.weight": arrays["transformer.wte.weight"]}
    for name, found in (("old", old), ("twice", {**old, **head}), ("both", {**arrays, **head})):
        params = load_decoder(write_folder(tmp_path / name, GPT2, found)).params
        jax.tree.map(np.testing.assert_array_equal, params, plain)
    other = {"lm_head.weight": 2 * arrays["transformer.wte.weight"]}
    refused(
        tmp_path, GPT2, arrays | other, "lm_head.weight: .* differs from transformer.wte.weight"
    )


def test_parameters_do_not_share_the_memory_of_the_file(tmp_path):
    folder = write_folder(tmp_path / "model", GPT2, random_arrays(GPT2))
    params = load_decoder(folder).params
    before = jax.tree.map(np.array, params)
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(b"\xff" * (folder / "model.safetensors").stat().st_size)
    jax.tree.map(np.testing.assert_array_equal, params, before)


def in_two_files(folder, record, arrays):
    """The folder with an index, as large models have it."""
    names = list(arrays)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(record))
    for file, part in files.items():
        write_safetensors(folder / file, {name: arrays[name] for name in part})
    places = {name: file for file, part in files.items() for name in part}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index, places


def test_weights_in_several_files(tmp_path):
    arrays = random_arrays(LLAMA)
    index, places = in_two_files(tmp_path / "several", LLAMA, arrays)
    whole = load_decoder(write_folder(tmp_path / "one", LLAMA, arrays)).params
    jax.tree.map(np.testing.assert_array_equal, load_decoder(tmp_path / "several").params, whole)
    name = next(iter(places))
    for changed, message in (
        ({"weight_map": {**places, name: "b.safetensors"}}, f"the index disagrees about .*{name}"),
        ({"weight_map": {**places, name: "../one/model.safetensors"}}, "must name a file of this"),
        ({"weight_map": {**places, name: "c.safetensors"}}, r"names c.safetensors, which the f"),
        ({"weights": {}}, "its weight_map must name"),
        ([], "it holds no JSON object"),
    ):
        index.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            load_decoder(tmp_path / "several")


def same(folder, expected):
    jax.tree.map(np.testing.assert_array_equal, load_decoder(folder).params, expected)


def test_several_files_without_their_index(tmp_path):
    arrays = random_arrays(LLAMA)
    expected = load_decoder(write_folder(tmp_path / "one", LLAMA, arrays)).params
    index, _ = in_two_files(tmp_path / "model", LLAMA, arrays)
    index.unlink()
    parts = [tmp_path / "model" / f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for letter, part in zip("ab", parts, strict=True):
        (tmp_path / "model" / f"{letter}.safetensors").rename(part)
    with pytest.warns(RunWarning, match=r"00001-of.*00002-of.* are read without model.safetensors"):
        same(tmp_path / "model", expected)
    second = parts[1].read_bytes()
    parts[1].write_bytes(parts[0].read_bytes())
    with (
        pytest.warns(RunWarning),
        pytest.raises(ValueError, match=r"stand in a file before it too; restore model.saf"),
    ):
        load_decoder(tmp_path / "model")
    parts[1].unlink()
    with pytest.raises(ValueError, match=r"model-00001-of-00002.*not all of one model; fetch"):
        load_decoder(tmp_path / "model")
    parts[1].write_bytes(second)
    write_folder(tmp_path / "model", LLAMA, arrays)
    with pytest.warns(RunWarning, match=r"model.safetensors is read, .*model-00001-of.* beside"):
        same(tmp_path / "model", expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pytorch_model.bin", "of weights it holds pytorch_model.bin only, .*save_pretrained"),
        ("pytorch_model-00001-of-00002.bin", "it holds pytorch_model-00001-of-00002.bin only"),
        ("consolidated.safetensors", "it holds consolidated.safetensors only"),
        ("adapter_model.safetensors", "adapter_model.safetensors: adapters without the model"),
    ],
)
def test_weights_that_are_not_read_are_named(name, message, tmp_path):
    folder = write_folder(tmp_path / "model", GPT2, {})
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(ValueError, match=f"model: received .*; .*{message}"):
        load_decoder(folder)


@pytest.mark.parametrize("name", ["gpt2", "llama 3, tied", "gemma2"])
def test_names_that_a_tied_model_may_have(name, tmp_path):
    """The table under the head's name; and without the prefix, as a model without head has it."""
    record, arrays = RECORDS[name], random_arrays(RECORDS[name])
    tokens = FAMILIES[record["model_type"]].tokens
    expected = load_decoder(write_folder(tmp_path / "model", record, arrays)).params
    rest = {key: array for key, array in arrays.items() if key != tokens}
    same(
        write_folder(tmp_path / "head", record, rest | {"lm_head.weight": arrays[tokens]}), expected
    )
    short = {key.split(".", 1)[1]: array for key, array in arrays.items()}
    same(write_folder(tmp_path / "short", record, short), expected)


def test_what_is_read_over_is_said_in_one_line(tmp_path):
    record = {**GPT2, "n_special": 0, "do_sample": True}
    folder = write_folder(tmp_path / "model", record, random_arrays(GPT2))
    with pytest.warns(RunWarning, match=r"^config.json: do_sample, n_special read over") as said:
        load_decoder(folder)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_decoder(write_folder(tmp_path / "plain", GPT2, random_arrays(GPT2)))


def test_weights_are_placed_on_a_mesh_as_they_are_read(tmp_path):
    folder = write_folder(tmp_path / "model", LLAMA, random_arrays(LLAMA))
    mesh = jax.make_mesh((1, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    plain, placed = load_decoder(folder).params, load_decoder(folder, mesh=mesh, fully=True).params
    jax.tree.map(np.testing.assert_array_equal, placed, plain)
    kernel = placed["blocks"][1]["feed_forward"]["down"]["kernel"]
    assert kernel.sharding == NamedSharding(mesh, PartitionSpec("model", "data"))
    with pytest.raises(ValueError, match=r"load_decoder.fully: received True; it needs a mesh"):
        load_decoder(folder, fully=True)


def test_broken_folders_are_refused(tmp_path):
    folder = write_folder(tmp_path / "model", GPT2, random_arrays(GPT2))
    with pytest.raises(ValueError, match=r"nowhere/config.json'; there is no such file"):
        load_decoder(tmp_path / "nowhere")
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="it is truncated"):
        load_decoder(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"model'; it holds neither model.safetensors nor model"):
        load_decoder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        load_decoder(folder)


def test_parameters_of_another_model_are_not_saved(tmp_path):
    config, params, record = load_decoder(
        write_folder(tmp_path / "model", LLAMA, random_arrays(LLAMA))
    )
    adapted = language_model(config, lora=LoRA()).shapes
    with pytest.raises(ValueError, match=r"blocks.0.attention.query.lora_a.*merge adapters first"):
        save_decoder(tmp_path / "again", record, adapted)
    with pytest.raises(
        ValueError, match="they differ from what the record describes at head, tokens"
    ):
        save_decoder(tmp_path / "again", {**record, "vocab_size": 38}, params)
    assert not (tmp_path / "again").exists()
