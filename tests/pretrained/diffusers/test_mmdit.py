"""The transformer of Stable Diffusion 3 against diffusers, and what its config.json may say."""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ctrl_jax.networks.layers.making import Layers
from ctrl_jax.networks.lora import LoRA, combine, split
from ctrl_jax.networks.text_to_image.mmdit import TimeTextEmbedding, mmdit, place_table
from ctrl_jax.pretrained.diffusers.mmdit import mmdit_table, read_mmdit
from ctrl_jax.pretrained.key_table import fill, unfill
from tests.oracles import sd3_transformer as oracle
from tests.oracles.named_weights import direction, named_weight

STORED = json.loads(oracle.STORED.read_text())["values"]
INPUTS = {name: jnp.asarray(array) for name, array in oracle.INPUTS.items()}
ORDER = ("latents", "times", "text", "pooled")


@cache
def network_of(name, **options):
    """A record's network, its key table and its named weights; the table of places is its own."""
    network = mmdit(read_mmdit(oracle.RECORDS[name]), **options)
    table = mmdit_table(network.shapes)
    whole = unfill(jax.tree.map(lambda x: np.zeros(x.shape, np.int8), network.shapes), table)
    arrays = {key: named_weight(key, array.shape) for key, array in whole.items()}
    params = fill(network.shapes, table, arrays)
    config = read_mmdit(oracle.RECORDS[name])
    params["pos_embed"]["pos_embed"] = place_table(config.places, config.base, config.width)[None]
    return network, table, params


def predict(network, params, inputs):
    return network.apply(params, *(inputs[name] for name in ORDER))


def value_and_slopes(network, params):
    """The output and the gradients of the loss, with respect to parameters and inputs."""

    def loss(params, inputs):
        out = predict(network, params, inputs)
        return jnp.sum(out * direction("out", out.shape).astype(out.dtype)), out

    return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, INPUTS)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("sd3", {}, marks=pytest.mark.slow),
        ("sd3", {"stacked": False, "remat": True}),
        ("sd3.5", {"remat": True}),
        ("dual to the end", {}),
    ],
)
def test_output_and_gradients_are_those_of_diffusers(name, options):
    network, table, params = network_of(name, **options)
    blocks = {"sd3": {"0-1", "2"} if not options else {"0", "1", "2"}, "sd3.5": {"0-1", "2", "3"}}
    assert params["transformer_blocks"].keys() == blocks.get(name, {"0", "1"})
    (gradient, of_inputs), out = jax.jit(lambda p: value_and_slopes(network, p))(params)
    stored = STORED[name]
    np.testing.assert_allclose(np.ravel(out[:, ::2]), stored["out"], rtol=1e-5, atol=1e-5)
    arrays = unfill(gradient, table)
    np.testing.assert_array_equal(arrays.pop("pos_embed.pos_embed"), 0)
    arrays |= {name: np.asarray(array) for name, array in of_inputs.items()}
    assert arrays.keys() == stored["slopes"].keys()
    for key, expected in stored["slopes"].items():
        slope = np.sum(arrays[key] * direction(key, arrays[key].shape))
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=2e-3, err_msg=key)
    places = params["pos_embed"]["pos_embed"][0, ::9]
    np.testing.assert_allclose(places, stored["places"], rtol=0, atol=2e-6)


def test_adapters_change_nothing_at_first_and_gradients_reach_them():
    """At first the second factor is zero, so that the first one has no gradient."""
    _, _, params = network_of("sd3")
    lora = LoRA(2, targets=("to_q", "to_out.0", "add_k_proj", "to_add_out", "net.0.proj"))
    adapted = mmdit(read_mmdit(oracle.SD3), lora=lora)
    adapters = jax.jit(lambda key: split(adapted.init(key))[0])(jax.random.key(0))

    @jax.jit
    def slopes(adapters):
        def loss(adapters):
            out = predict(adapted, combine(adapters, params), INPUTS)
            return jnp.sum(jnp.sin(out)), out

        return jax.grad(loss, has_aux=True)(adapters)

    gradient, out = slopes(adapters)
    np.testing.assert_allclose(np.ravel(out[:, ::2]), STORED["sd3"]["out"], rtol=1e-5, atol=1e-5)
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    assert len(leaves) == 2 * (2 * 6 - 2)  # in the stack six layers, two of them not in the last
    for path, slope in leaves:
        assert (float(jnp.abs(slope).max()) > 1e-4) == (path[-1].key == "lora_b"), path


def test_bfloat16_is_near_float32():
    """Seven bits after the point: over three blocks a hundredth or two of what is near one."""
    network, _, params = network_of("sd3", dtype=jnp.bfloat16)
    out = jax.jit(lambda p: predict(network, p, INPUTS))(params)
    assert out.dtype == jnp.bfloat16
    expected = np.array(STORED["sd3"]["out"])
    difference = np.ravel(out[:, ::2]).astype(float) - expected
    assert np.sqrt(np.mean(np.square(difference))) < 0.03 * np.std(expected)


def test_one_time_for_all_is_each_ones_time():
    layers = Layers(jnp.dtype(jnp.float32), jnp.dtype(jnp.float32), nnx.Rngs(0))
    embed = TimeTextEmbedding(read_mmdit(oracle.SD3), layers)
    found = embed(jnp.array(500.0), INPUTS["pooled"])
    np.testing.assert_array_equal(found, embed(jnp.full(2, 500.0), INPUTS["pooled"]))
    assert not np.allclose(found, embed(jnp.full(2, 501.0), INPUTS["pooled"]), atol=1e-3)
    network, _, _ = network_of("sd3")
    call = lambda params: network.apply(  # noqa: E731
        params, INPUTS["latents"], 500.0, INPUTS["text"], INPUTS["pooled"]
    )
    assert jax.eval_shape(call, network.shapes).shape == INPUTS["latents"].shape  # a plain number


def test_full_size_is_that_of_stable_diffusion_3_5_medium():
    record = {
        "num_layers": 24,
        "num_attention_heads": 24,
        "caption_projection_dim": 1536,
        "pos_embed_max_size": 384,
        "dual_attention_layers": list(range(13)),
        "qk_norm": "rms_norm",
    }
    shapes = mmdit(read_mmdit(record)).shapes
    assert shapes["transformer_blocks"].keys() == {"0-12", "13-22", "23"}
    table = shapes["pos_embed"]["pos_embed"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) - table.size == 2_243_171_520
    assert table.shape == (1, 384 * 384, 1536)
    keys = {key for source in mmdit_table(shapes).values() for key in source.keys}
    assert len(keys) == 909


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"qk_norm": "layer_norm"}, "qk_norm: received 'layer_norm'"),
        ({"caption_projection_dim": 8}, "caption_projection_dim: received 8"),
        ({"pos_embed_max_size": None}, "pos_embed_max_size: received None"),
        ({"dual_attention_layers": ["0"]}, "dual_attention_layers: received"),
        ({"attention_head_dim": 3, "num_attention_heads": 2}, "attention_head_dim: received 3"),
        ({"sample_size": 1}, "sample_size: received 1"),
        ({"guidance_embeds": True}, "guidance_embeds: received True"),
        ({"_class_name": "FluxTransformer2DModel"}, "_class_name: received 'Flux"),
    ],
)
def test_an_entry_that_could_change_a_result_is_refused_by_name(changed, message):
    with pytest.raises(ValueError, match=rf"config\.json: {message}"):
        read_mmdit(oracle.SD3 | changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"latents": jnp.zeros((2, 5, 4, 4))}, "hidden: received .*multiples of 2"),
        ({"latents": jnp.zeros((2, 16, 4, 4))}, "hidden: received .*14 pixels in a row"),
        ({"text": jnp.zeros((2, 5, 11))}, r"encoder_hidden_states: received .*\(2, 5, 12\)"),
        ({"pooled": jnp.zeros((2, 9))}, r"pooled_projections: received .*\(2, 10\)"),
        ({"times": jnp.zeros(3)}, r"timestep: received .*\(2,\)"),
    ],
)
def test_inputs_of_other_shapes_are_refused(changed, message):
    network, _, params = network_of("sd3")
    with pytest.raises(ValueError, match=message):
        predict(network, params, INPUTS | changed)
