"""Files of adapters in every form that is read, against W + (alpha / rank) B A by NumPy."""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from ctrl_jax.networks.functional import as_network
from ctrl_jax.networks.layers.blocks import Blocks
from ctrl_jax.networks.lora import LoRA, combine, merge, split
from ctrl_jax.pretrained.diffusers.lora_file import METADATA, adapters_of, read_lora, write_lora
from ctrl_jax.pretrained.key_table import fill, unfill
from ctrl_jax.pretrained.safetensors_file import read_metadata, read_safetensors, write_safetensors
from ctrl_jax.pretrained.torch_names import torch_table
from tests.oracles.named_weights import named_weight

LAYERS = ("conv", "row.0.attn.to_q", "row.1.attn.to_q", "row.2.attn.to_out.0", "row.3.attn.to_q")
"""Of those below; no file here adapts row.2.attn.to_q."""


class Attention(nnx.Module):
    def __init__(self, layers):
        self.to_q = layers.linear(6, 6)
        self.to_out = nnx.List([layers.linear(6, 5)])


class Block(nnx.Module):
    def __init__(self, layers):
        self.attn = Attention(layers)


class Net(nnx.Module):
    def __init__(self, layers):
        self.conv = layers.convolution(3, 6)
        self.row = Blocks(lambda i: Block(layers), ("a", "a", "a", "b"))


NETWORK = as_network(Net)
TABLE = torch_table(NETWORK.shapes)


@pytest.fixture(scope="module")
def params():
    empty = unfill(jax.tree.map(lambda x: np.zeros(x.shape, np.int8), NETWORK.shapes), TABLE)
    arrays = {key: named_weight(key, array.shape) for key, array in empty.items()}
    return fill(NETWORK.shapes, TABLE, arrays)


def factors(layer, rank):
    """A and B of a layer as PyTorch has them."""
    if layer == "conv":
        return named_weight("a", (rank, 3, 3, 3)), named_weight("b", (6, rank, 1, 1))
    outputs = 5 if layer.endswith("to_out.0") else 6
    return named_weight(layer + "a", (rank, 6)), named_weight(layer + "b", (outputs, rank))


def expected(params, scales, ranks):
    """The weights of the file's names with every product added."""
    arrays = unfill(jax.device_get(params), TABLE)
    for layer, scale in scales.items():
        a, b = factors(layer, ranks[layer])
        product = np.tensordot(b.reshape(len(b), -1), a, 1)
        arrays[f"{layer}.weight"] = arrays[f"{layer}.weight"] + scale * product
    return arrays


def peft(layer):
    return f"unet.{layer}.lora_A.weight", f"unet.{layer}.lora_B.weight"


def diffusers(layer):
    return f"unet.{layer}.lora.down.weight", f"unet.{layer}.lora.up.weight"


def old(layer):
    if layer == "conv":
        return diffusers(layer)
    module, _, last = layer.removesuffix(".0").rpartition(".")
    return tuple(f"unet.{module}.processor.{last}_lora.{way}.weight" for way in ("down", "up"))


def of_texts(layer):
    return tuple(f"text_encoder.{layer}.lora_linear_layer.{way}.weight" for way in ("down", "up"))


def kohya(layer):
    name = f"lora_unet_{layer.replace('.', '_')}"
    return f"{name}.lora_down.weight", f"{name}.lora_up.weight"


def alone(layer):
    return tuple(f"base_model.model.{layer}.lora_{way}.weight" for way in "AB")


def merged(path, params):
    ((part, layers),) = read_lora(path).items()
    lora, adapters = adapters_of(part or "unet", layers, NETWORK.shapes, TABLE)
    return unfill(jax.device_get(merge(combine(adapters, params), lora)), TABLE)


@pytest.mark.parametrize("form", [peft, diffusers, old, of_texts, kohya, alone])
def test_every_form_is_read(form, tmp_path, params):
    """With another rank in every layer."""
    ranks = {layer: 1 + i for i, layer in enumerate(LAYERS)}
    arrays = {
        key: factor
        for layer in LAYERS
        for key, factor in zip(form(layer), factors(layer, ranks[layer]), strict=True)
    }
    scales = dict.fromkeys(LAYERS, 1.0)
    if form is kohya:
        scales = {layer: (i + 0.5) / ranks[layer] for i, layer in enumerate(LAYERS)}
        for i, layer in enumerate(LAYERS):
            name = f"lora_unet_{layer.replace('.', '_')}.alpha"
            arrays[name] = np.asarray(i + 0.5, np.float32)
    write_safetensors(tmp_path / "lora.safetensors", arrays)
    found, wanted = merged(tmp_path / "lora.safetensors", params), expected(params, scales, ranks)
    for key, array in wanted.items():
        np.testing.assert_allclose(found[key], array, rtol=0, atol=2e-6, err_msg=key)


def test_alpha_is_read_from_the_metadata(tmp_path, params):
    arrays = {
        key: factor
        for layer in LAYERS
        for key, factor in zip(peft(layer), factors(layer, 2), strict=True)
    }
    patterns = {"row.1.attn.to_q": 1, "1.*to_q": 9}  # PEFT takes the first that fits
    told = {"unet.r": 2, "unet.lora_alpha": 6, "unet.alpha_pattern": patterns}
    path = tmp_path / "pytorch_lora_weights.safetensors"
    write_safetensors(path, arrays, {METADATA: json.dumps(told)})
    scales = dict.fromkeys(LAYERS, 3.0) | {"row.1.attn.to_q": 0.5}
    found, wanted = merged(tmp_path, params), expected(params, scales, dict.fromkeys(LAYERS, 2))
    for key, array in wanted.items():
        np.testing.assert_allclose(found[key], array, rtol=0, atol=2e-6, err_msg=key)


def test_what_is_written_is_read_as_the_same_weights(tmp_path, params):
    lora = LoRA(rank=3, alpha=1.5, targets=("to_q", "conv"))
    adapted = as_network(Net, lora=lora)
    fresh = split(adapted.init(jax.random.key(0)))[0]
    trained = jax.tree.map(lambda x: x + 0.1, fresh)
    path = tmp_path / "lora.safetensors"
    write_lora(path, {"unet": (lora, jax.device_get(trained), TABLE)})
    assert METADATA not in read_metadata(path)
    layers = ("conv", *(f"row.{i}.attn.to_q" for i in range(4)))
    assert {*read_safetensors(path)} == {key for layer in layers for key in peft(layer)}
    wanted = unfill(jax.device_get(merge(combine(trained, params), lora)), TABLE)
    for key, array in merged(path, params).items():
        np.testing.assert_allclose(array, wanted[key], rtol=0, atol=1e-6, err_msg=key)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unet.conv.lora_magnitude_vector": 3}, "no factor of a low-rank adapter"),
        ({"unet.other.lora_A.weight": 3, "unet.other.lora_B.weight": 3}, "has no such layer"),
        ({"unet.conv.lora_A.weight": 4}, "half of its adapter is missing"),
        ({"unet.row.0.attn.to_q.lora_A.weight": 7}, "the network needs"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message, tmp_path, params):
    a, b = factors("row.0.attn.to_q", 3)
    arrays = dict(zip(peft("row.0.attn.to_q"), (a, b), strict=True))
    arrays |= {key: np.ones((3, size), np.float32) for key, size in changes.items()}
    write_safetensors(tmp_path / "lora.safetensors", arrays)
    with pytest.raises(ValueError, match=message):
        merged(tmp_path / "lora.safetensors", params)


@pytest.mark.parametrize(
    ("array", "told", "message"),
    [
        (np.full((3, 6), np.nan, np.float32), {}, "lora_A.weight of .*; it is empty, or holds"),
        (np.ones((0, 6), np.float32), {}, "lora_A.weight of .*; it is empty, or holds"),
        (np.ones((3, 6), np.int8), {}, "it is int8, and adapters are floating numbers"),
        (np.ones((3, 6), np.float32), {"unet.lora_alpha": "x"}, "says of alpha cannot be read"),
        (np.ones((3, 6), np.float32), {"unet.alpha_pattern": [1]}, "says of alpha cannot be read"),
        (np.ones((3, 6), np.float32), {"unet.alpha_pattern": {"(": 1}}, "cannot be read"),
    ],
)
def test_what_no_adapter_can_be_is_refused(array, told, message, tmp_path):
    first, second = peft("row.0.attn.to_q")
    arrays = {first: array, second: np.ones((6, len(array)), np.float32)}
    write_safetensors(tmp_path / "lora.safetensors", arrays, {METADATA: json.dumps(told)})
    with pytest.raises(ValueError, match=f"^lora: received .*{message}"):
        read_lora(tmp_path / "lora.safetensors")
