"""UNets and autoencoders against diffusers, and what their config.json may say."""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.networks.functional import count_parameters
from ctrl_jax.networks.lora import LoRA
from ctrl_jax.networks.text_to_image.autoencoder import autoencoder, scaled, unscaled
from ctrl_jax.networks.text_to_image.unet import unet
from ctrl_jax.pretrained.diffusers.autoencoder import (
    autoencoder_arrays,
    autoencoder_table,
    read_autoencoder,
)
from ctrl_jax.pretrained.diffusers.unet import read_unet, unet_table
from ctrl_jax.pretrained.key_table import fill, unfill
from tests.oracles import diffusers_networks as theirs
from tests.oracles.named_weights import direction, named_weight

STORED = json.loads(theirs.STORED.read_text())["values"]
ONE, TWO, XL, BARE = (name for name in theirs.RECORDS if name.startswith("unet"))
FIRST, THIRD = (name for name in theirs.RECORDS if name.startswith("autoencoder"))


@cache
def network_of(name, **options):
    """A record's network, its key table and its named weights."""
    if name.startswith("unet"):
        network = unet(read_unet(theirs.RECORDS[name]), **options)
        table = unet_table(network.shapes)
    else:
        network = autoencoder(read_autoencoder(theirs.RECORDS[name]), **options)
        table = autoencoder_table(network.shapes)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.int8), network.shapes)
    arrays = {key: named_weight(key, x.shape) for key, x in unfill(zeros, table).items()}
    return network, table, fill(network.shapes, table, arrays, converted=[np.float32])


def outputs(name, network, params, inputs):
    """What a network returns, by name."""
    if name.startswith("unet"):
        added = [inputs["text_embeds"], jnp.asarray(theirs.ADDED[1])] if name == XL else []
        times = jnp.asarray(theirs.TIMES)
        return {"sample": network.apply(params, inputs["sample"], times, inputs["text"], *added)}
    mean, log_variance = network.apply(params, inputs["pictures"], method="encode")
    decoded = network.apply(params, inputs["latents"], method="decode")
    return {"mean": mean, "log_variance": log_variance, "decoded": decoded}


@cache
def forward(name, **options):
    """Outputs."""
    network, _, params = network_of(name, **options)
    inputs = jax.tree.map(jnp.asarray, theirs.arrays_of(name))
    return jax.jit(lambda params, inputs: outputs(name, network, params, inputs))(params, inputs)


@cache
def computed(name, **options):
    """Outputs, and gradients to inputs and, by their names in files, to parameters."""
    network, table, params = network_of(name, **options)

    @jax.jit
    def both(params, inputs):
        def loss(params, inputs):
            found = outputs(name, network, params, inputs)
            return theirs.loss_of(found, jnp.float32), found

        return jax.grad(loss, (0, 1), has_aux=True)(params, inputs)

    inputs = jax.tree.map(jnp.asarray, theirs.arrays_of(name))
    (slopes, of_inputs), found = both(params, inputs)
    return found, of_inputs, unfill(slopes, table)


def assert_near(found, expected, error, message):
    """Arrays agree up to an error relative to the largest entry, or to one."""
    size = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=error * size, err_msg=message)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (ONE, {}),
        (TWO, {}),
        (XL, {}),
        pytest.param(XL, {"stacked": False}, marks=pytest.mark.slow),
        (THIRD, {}),
    ],
    ids=str,
)
def test_outputs_are_those_of_diffusers(name, options):
    found = forward(name, **options)
    for key, expected in STORED[name]["outputs"].items():
        assert_near(theirs.rows(np.asarray(found[key])), np.asarray(expected), 1e-5, key)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param(TWO, {"remat": True}, marks=pytest.mark.slow),
        pytest.param(XL, {}, marks=pytest.mark.slow),
        (BARE, {"remat": True}),
        (FIRST, {"remat": True}),
    ],
    ids=str,
)
def test_outputs_and_gradients_are_those_of_diffusers(name, options):
    """Computed again in the backward pass or not; of all parameters and inputs."""
    found, of_inputs, slopes = computed(name, **options)
    for part, arrays, error in (("outputs", found, 1e-5), ("inputs", of_inputs, 1e-4)):
        for key, expected in STORED[name][part].items():
            assert_near(theirs.rows(np.asarray(arrays[key])), np.asarray(expected), error, key)
    assert slopes.keys() == STORED[name]["slopes"].keys()
    for key, expected in STORED[name]["slopes"].items():
        found = np.sum(slopes[key] * direction(key, slopes[key].shape))
        size = np.linalg.norm(slopes[key])  # of the projection of an error of that relative size
        error = 1e-4 * float(size) + 1e-6  # keys have a bias in autoencoders, with gradient zero
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=error, err_msg=key)


@pytest.mark.parametrize("name", theirs.RECORDS)
def test_every_entry_is_that_of_diffusers(name):
    """Where it is installed: all of the arrays, of which a few rows are stored.

    Of config.json every entry that it writes, defaults too.
    """
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    read, record = (
        (read_unet if name.startswith("unet") else read_autoencoder),
        theirs.RECORDS[name],
    )
    assert read(json.loads(theirs.make(name).to_json_string())) == read(record)
    expected, (found, of_inputs, _) = theirs.computed(name), computed(name)
    for key, array in expected["outputs"].items():
        assert_near(found[key], array, 1e-5, key)
    for key, array in expected["inputs"].items():
        assert_near(of_inputs[key], array, 1e-4, key)


def test_blocks_alike_are_stacked():
    middle = network_of(XL)[0].shapes["mid_block"]["attentions"][0]["transformer_blocks"]
    assert {*middle} == {"0-1"} and middle["0-1"]["attn1"]["to_q"]["kernel"].shape == (2, 12, 12)


def test_adapters_change_nothing_at_first_and_are_reached_by_gradients():
    targets = ("to_q", "to_out.0", "ff.net.2", "proj_in", "conv1")
    adapted = unet(read_unet(theirs.RECORDS[BARE]), lora=LoRA(2, targets=targets))
    params = network_of(BARE)[2]
    inputs = jax.tree.map(jnp.asarray, theirs.arrays_of(BARE))

    @jax.jit
    def both(params, key):
        def loss(params):
            found = outputs(BARE, adapted, params, inputs)
            return theirs.loss_of(found, jnp.float32), found["sample"]

        whole = _with(adapted.init(key), params)
        return jax.grad(loss, has_aux=True)(whole)

    slopes, found = both(params, jax.random.key(0))
    assert_near(found, np.asarray(forward(BARE)["sample"]), 1e-6, "sample")
    block = slopes["down_blocks"][0]
    transformer = block["attentions"][0]["transformer_blocks"]["0"]
    assert "lora_a" not in transformer["attn1"]["to_k"]
    for layer in (
        transformer["attn1"]["to_q"],
        transformer["attn2"]["to_out"][0],
        transformer["ff"]["net"][2],
        block["attentions"][0]["proj_in"],
        block["resnets"][0]["conv1"],
    ):
        assert not jnp.any(layer["lora_a"]) and float(jnp.abs(layer["lora_b"]).max()) > 1e-4


def _with(adapted, params):
    """The parameters in place of those of the same names."""
    return {
        name: _with(value, params[name]) if isinstance(value, dict) else params.get(name, value)
        for name, value in adapted.items()
        if name in params or str(name).startswith("lora")
    }


def test_bfloat16_is_near_float32():
    """Eight bits of mantissa: every rounding errs by 2^-9 of a state of size one."""
    found = forward(BARE, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)["sample"]
    assert found.dtype == jnp.bfloat16
    assert_near(np.float32(found), np.asarray(forward(BARE)["sample"]), 0.05, "sample")


def test_one_time_for_all_and_forward_mode():
    """A scalar time is that of every picture; what log-likelihoods need is there."""
    network, _, params = network_of(BARE)
    inputs = jax.tree.map(jnp.asarray, theirs.arrays_of(BARE))
    sample, text = inputs["sample"], inputs["text"]

    @jax.jit
    def both(sample):
        def predict(x, times):
            return network.apply(params, x, times, text)

        one, push = jax.jvp(lambda x: predict(x, 3), (sample,), (jnp.ones_like(sample),))
        several, pull = jax.vjp(lambda x: predict(x, jnp.full(2, 3.0)), sample)
        (back,) = pull(jnp.ones_like(one))
        return one, several, jnp.sum(push), jnp.sum(back)

    one, several, forward, backward = both(sample)
    np.testing.assert_allclose(one, several, rtol=0, atol=1e-6)
    np.testing.assert_allclose(forward, backward, rtol=1e-4)


SD1 = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
SD2 = SD1 | {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "dual_cross_attention": False,
    "only_cross_attention": False,
    "sample_size": 96,
    "use_linear_projection": True,
    "upcast_attention": True,
}
BASE = SD2 | {
    "addition_embed_type": "text_time",
    "addition_embed_type_num_heads": 64,
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
    "mid_block_only_cross_attention": None,
    "num_attention_heads": None,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "upcast_attention": None,
    "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
}
KL = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "layers_per_block": 2,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
KL3 = KL | {
    "latent_channels": 16,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
}


@pytest.mark.parametrize(
    ("record", "count", "tensors"),
    [
        (SD1, 859_520_964, 686),
        pytest.param(SD2, 865_910_724, 686, marks=pytest.mark.slow),
        (BASE, 2_567_463_684, 1680),
    ],
    ids=["1", "2", "XL"],
)
def test_full_sizes_are_those_of_the_published_models(record, count, tensors):
    """Those of the sheet that PyTorch's meta device gave; no memory is taken."""
    shapes = unet(read_unet(record)).shapes
    table = unet_table(shapes)
    assert count_parameters(shapes) == count
    assert sum(len(source.keys) for source in table.values()) == tensors


def test_full_sizes_of_autoencoders_are_those_of_the_published_ones():
    for record, count, tensors in ((KL, 83_653_863, 248), (KL3, 83_819_683, 244)):
        shapes = autoencoder(read_autoencoder(record)).shapes
        assert count_parameters(shapes) == count
        assert len(autoencoder_table(shapes)) == tensors


def test_latents_are_scaled_and_back():
    config = read_autoencoder(KL3)
    assert config.factor == 8
    latents = jnp.asarray([0.0609, 1.0609])
    np.testing.assert_allclose(scaled(config, latents), [0, 1.5305], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(unscaled(config, scaled(config, latents)), latents, rtol=1e-6)


def test_half_precision_that_would_overflow_is_float32_where_a_file_says_so():
    latents = jnp.ones((1, 2, 2, 3))
    for upcast, dtype in ((True, jnp.float32), (False, jnp.float16)):
        config = read_autoencoder(theirs.RECORDS[FIRST] | {"force_upcast": upcast})
        network = autoencoder(config, dtype=jnp.float16)
        decode = jax.eval_shape(
            lambda params, net=network: net.apply(params, latents, method="decode"), network.shapes
        )
        assert decode.dtype == dtype


def test_old_names_of_an_autoencoder_are_read():
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    keys = [key for source in network_of(FIRST)[1].values() for key in source.keys]
    arrays = {}
    for key in keys:
        name = key
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        arrays[name] = np.zeros(1)
    assert len(arrays.keys() - {*keys}) == 16
    assert autoencoder_arrays(arrays).keys() == {*keys}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "UNet3DConditionModel"}, "_class_name: received 'UNet3D"),
        ({"down_block_types": ["AttnDownBlock2D"] * 4}, "down_block_types: .* must list one of"),
        ({"up_block_types": ["UpBlock2D"]}, "up_block_types: .* for each of 4 resolutions"),
        ({"mid_block_type": "UNetMidBlock2D"}, "mid_block_type: received 'UNetMidBlock2D'; only"),
        ({"layers_per_block": [1, 2]}, "layers_per_block: received .*or list 4 of them"),
        (
            {"transformer_layers_per_block": [[1], [1], [1], [1]]},
            "transformer_layers_per_block: received",
        ),
        ({"attention_head_dim": [8, 7, 8, 8]}, "heads: received 7; they must divide the widths"),
        ({"num_attention_heads": 8}, "num_attention_heads: received 8; diffusers takes"),
        ({"cross_attention_dim": [4, 4, 4, 8]}, r"cross_attention_dim: received \[4, 8\]"),
        ({"only_cross_attention": [True]}, "only_cross_attention: received"),
        ({"act_fn": "elu"}, "act_fn: received 'elu'; it must be one of silu"),
        ({"norm_num_groups": None}, "norm_num_groups: received None"),
        ({"norm_num_groups": 7}, "groups: received 7; they must divide"),
        ({"conv_in_kernel": 2}, "in_size: received 2; it must be odd"),
        ({"downsample_padding": 0}, "downsample_padding: received 0; only 1"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift: received"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type: received 'fourier'"),
        ({"addition_embed_type": "text"}, "addition_embed_type: received 'text'"),
        ({"class_embed_type": "timestep"}, "class_embed_type: .* not understood"),
        ({"num_class_embeds": 3}, "num_class_embeds: .* not understood"),
        ({"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type: .* not understood"),
        ({"time_cond_proj_dim": 256}, "time_cond_proj_dim: .* not understood"),
        ({"timestep_post_act": "silu"}, "timestep_post_act: .* not understood"),
        ({"dual_cross_attention": True}, "dual_cross_attention: received True"),
        ({"quantization_config": {"bits": 4}}, "quantization_config: .* not understood"),
        ({"sample_size": [64, 32]}, "sample_size: .* must be the same"),
        ({"in_channels": 0}, "in_channels: received 0"),
    ],
)
def test_a_unet_that_is_not_understood_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        read_unet(SD1 | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "AutoencoderTiny"}, "_class_name: received"),
        ({"up_block_types": ["AttnUpDecoderBlock2D"] * 4}, "up_block_types: received"),
        ({"down_block_types": ["DownEncoderBlock2D"]}, "down_block_types: received"),
        ({"latents_mean": [0.0]}, "latents_mean: .* not understood"),
        ({"scaling_factor": 0}, "scaling_factor: received 0.0; it must be above zero"),
        ({"norm_num_groups": 48}, "groups: received 48; they must divide"),
        ({"mid_block_add_attention": 1}, "mid_block_add_attention: received 1; it must be bool"),
    ],
)
def test_an_autoencoder_that_is_not_understood_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        read_autoencoder(KL | change)


def test_notes_and_settings_of_averages_are_read_over():
    notes = {"_name_or_path": "x", "decay": 0.9999, "use_ema_warmup": False, "dropout": 0.1}
    assert read_unet(SD1 | notes) == read_unet(SD1)
    assert read_autoencoder(KL | notes | {"act_fn": "SiLU"}) == read_autoencoder(KL)


def test_inputs_that_do_not_fit_are_refused():
    network, _, params = network_of(XL)
    sample, text = jnp.zeros((2, 4, 4, 4)), jnp.zeros((2, 3, 6))
    vector, numbers = jnp.zeros((2, 5)), jnp.zeros((2, 6))
    for arguments, message in (
        ((sample[:, :, :, :3], 1, text, vector, numbers), r"sample: .*\(batch, h, w, 4\)"),
        ((sample, 1, text[:1], vector, numbers), r"encoder_hidden_states: .*\(2, tokens, 6\)"),
        ((sample, 1, text), "text_embeds: received None; it must be given"),
        ((sample, 1, text, vector, numbers[:, 1:]), "text_embeds: .* has 25 entries, .* embeds 29"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(network.apply, params, *arguments)
    network, _, params = network_of(ONE)
    with pytest.raises(ValueError, match=r"text_embeds: .* embeds no such thing; leave it out"):
        jax.eval_shape(network.apply, params, sample, 1, text, vector)
    network, _, params = network_of(FIRST)
    for method, array, message in (
        ("encode", jnp.zeros((1, 7, 8, 3)), "pictures: .* must be multiples of 2"),
        ("encode", jnp.zeros((1, 8, 8, 1)), r"pictures: .*\(batch, h, w, 3\)"),
        ("decode", jnp.zeros((1, 8, 8, 4)), r"latents: .*\(batch, h, w, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda p, x, m=method: network.apply(p, x, method=m), params, array)
