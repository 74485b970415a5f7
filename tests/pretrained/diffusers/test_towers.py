"""CLIP's towers and T5's encoder against transformers, and what their config.json may say."""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.networks.lora import LoRA
from ctrl_jax.networks.text_to_image.clip import clip, clip_text, clip_vision
from ctrl_jax.networks.text_to_image.t5 import buckets_of, t5
from ctrl_jax.pretrained.diffusers.clip import (
    clip_arrays,
    clip_table,
    read_clip,
    read_clip_text,
    read_clip_vision,
)
from ctrl_jax.pretrained.diffusers.t5 import read_t5, t5_arrays, t5_table
from ctrl_jax.pretrained.key_table import fill, unfill
from tests.oracles import towers
from tests.oracles.named_weights import direction, named_weight

STORED = json.loads(towers.STORED.read_text())["values"]
KINDS = {
    "text": (read_clip_text, clip_text, clip_table),
    "vision": (read_clip_vision, clip_vision, clip_table),
    "both": (read_clip, clip, clip_table),
    "t5": (read_t5, t5, t5_table),
}


@cache
def network_of(name, **options):
    """A record's network, its key table and its named weights."""
    read, build, table_of = KINDS[name.split()[0]]
    network = build(read(towers.RECORDS[name]), **options)
    table = table_of(network.shapes)
    return network, table, params_of(network, table)


def params_of(network, table):
    shapes = unfill(jax.tree.map(lambda x: np.zeros(x.shape, np.int8), network.shapes), table)
    arrays = {key: named_weight(key, array.shape) for key, array in shapes.items()}
    return fill(network.shapes, table, arrays)


def outputs(name, network, params):
    tokens, mask = map(jnp.asarray, towers.tokens_of(name))
    if name == "both":
        return {"logits": network.apply(params, tokens, jnp.asarray(towers.PICTURES))}
    if name.startswith("vision"):
        return network.apply(params, jnp.asarray(towers.PICTURES))._asdict()
    if name.startswith("t5"):
        states = network.apply(params, tokens), network.apply(params, tokens, mask)
        return dict(zip(("hidden", "masked"), states, strict=True))
    masked = network.apply(params, tokens, mask).hidden
    return {"masked": masked} | network.apply(params, tokens)._asdict()


@pytest.mark.parametrize("name", towers.RECORDS)
def test_outputs_and_gradients_are_those_of_transformers(name):
    network, table, params = network_of(name)
    stored = STORED[name]

    @jax.jit
    def both(params):
        def loss(params):
            found = outputs(name, network, params)
            found = {key: found[key] for key in stored["outputs"]}
            return towers.loss_of(found, jnp.float32), found

        return jax.grad(loss, has_aux=True)(params)

    gradient, found = both(params)
    for key, expected in stored["outputs"].items():
        rows = towers.rows(np.asarray(found[key]))
        np.testing.assert_allclose(rows, expected, rtol=1e-5, atol=1e-5, err_msg=key)
    arrays = unfill(gradient, table)
    assert arrays.keys() >= stored["slopes"].keys()
    for key, expected in stored["slopes"].items():
        slope = np.sum(arrays[key] * direction(key, arrays[key].shape))
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-3, err_msg=key)


XXL = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
XXL |= {"feed_forward_proj": "gated-gelu"}
SMALL = towers.RECORDS["text with projection"]


def test_blocks_scanned_computed_again_and_adapted_change_nothing():
    """Adapters draw nothing at first; gradients reach the second factor of each."""
    name = "text with projection"
    network, table, params = network_of(name)
    lora = LoRA(2, targets=("q_proj", "v_proj", "text_projection"))
    plain, plain_table, plain_params = network_of(name, stacked=False, remat=True)
    adapted = clip_text(read_clip_text(SMALL), lora=lora, remat=True)
    tokens = jnp.asarray(towers.TOKENS)

    @jax.jit
    def gradients(params, plain_params, key):
        def loss(network):
            return lambda params: jnp.sum(jnp.sin(network.apply(params, tokens).embedding))

        with_adapters = _with(adapted.init(key), params)
        return (
            jax.value_and_grad(loss(network))(params),
            jax.value_and_grad(loss(plain))(plain_params),
            jax.value_and_grad(loss(adapted))(with_adapters),
        )

    one, other, last = gradients(params, plain_params, jax.random.key(0))
    assert float(one[0]) == pytest.approx(float(other[0]), rel=1e-5)
    assert float(one[0]) == pytest.approx(float(last[0]), rel=1e-5)
    left, right = unfill(one[1], table), unfill(other[1], plain_table)
    assert left.keys() == right.keys()
    for key, value in left.items():
        np.testing.assert_allclose(value, right[key], rtol=1e-4, atol=1e-5, err_msg=key)
    block = last[1]["text_model"]["encoder"]["layers"]["0-1"]["self_attn"]
    assert "lora_a" not in block["k_proj"]
    for layer in (block["q_proj"], block["v_proj"], last[1]["text_projection"]):
        assert not jnp.any(layer["lora_a"]) and float(jnp.abs(layer["lora_b"]).max()) > 1e-4


def _with(adapted, params):
    """The parameters in place of those of the same names."""
    return {
        name: _with(value, params[name]) if isinstance(value, dict) else params.get(name, value)
        for name, value in adapted.items()
        if name in params or name.startswith("lora")
    }


def test_bfloat16_is_near_float32():
    """Eight bits of mantissa: every rounding errs by 2^-9 of a state of size one."""
    found = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        network, _, params = network_of("both", dtype=dtype)
        tokens, pictures = jnp.asarray(towers.TOKENS), jnp.asarray(towers.PICTURES)
        found[dtype] = jax.jit(network.apply)(params, tokens, pictures)
    assert found[jnp.bfloat16].dtype == jnp.float32  # the cosine's own
    np.testing.assert_allclose(found[jnp.bfloat16], found[jnp.float32], atol=0.05)
    assert np.ptp(found[jnp.float32]) > 0.2


def test_full_sizes_are_those_of_the_published_models():
    """Counted on PyTorch's meta device; no memory is taken."""
    l14 = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    h14 = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16}
    g14 = h14 | {"num_attention_heads": 20, "hidden_act": "gelu", "num_hidden_layers": 32}
    h14 |= {"num_hidden_layers": 32, "patch_size": 14, "hidden_act": "gelu"}
    for network, count in (
        (clip_text(read_clip_text(l14 | {"num_hidden_layers": 12})), 123_060_480),
        (clip_text(read_clip_text(g14 | {"projection_dim": 1280}, projected=True)), 694_659_840),
        (
            clip_vision(read_clip_vision(h14 | {"projection_dim": 1024}, projected=True)),
            632_076_800,
        ),
        (t5(read_t5(XXL)), 4_762_310_656),
    ):
        assert sum(leaf.size for leaf in jax.tree.leaves(network.shapes)) == count


def test_old_and_new_names_of_files_are_read():
    _, table, _ = network_of("both")
    arrays = {key: np.zeros(1) for source in table.values() for key in source.keys}
    ids = {"text_model.embeddings.position_ids": 0, "vision_model.embeddings.position_ids": 0}
    assert clip_arrays(arrays | ids).keys() == arrays.keys()
    for part, projection in (("text", "text_projection"), ("vision", "visual_projection")):
        tower = clip_arrays(arrays | ids, part)
        assert tower.keys() == {
            key for key in arrays if key.startswith((f"{part}_model.", f"{projection}."))
        }
        short = {key.removeprefix(f"{part}_model."): array for key, array in tower.items()}
        assert clip_arrays(short | {"embeddings.position_ids": 0}, part).keys() == tower.keys()


@pytest.mark.parametrize(
    ("read", "record", "message"),
    [
        (read_clip_text, SMALL | {"hidden_act": "silu"}, "hidden_act: received 'silu'"),
        (read_clip_text, SMALL | {"num_attention_heads": 3}, "num_attention_heads: received 3"),
        (read_clip_text, SMALL | {"use_attention_mask": True}, "use_attention_mask: received True"),
        (read_clip_text, SMALL | {"model_type": "bert"}, "model_type: received 'bert'"),
        (read_clip_vision, towers.VISION | {"image_size": [12, 12]}, "image_size: received"),
        (read_clip_vision, towers.VISION | {"image_size": 13}, "patch: received 4"),
        (read_t5, towers.T5 | {"feed_forward_proj": "gated-silu"}, "feed_forward_proj: received"),
        (read_t5, towers.T5 | {"relative_attention_num_buckets": 6}, "num_buckets: received 6"),
        (read_t5, towers.T5 | {"relative_attention_max_distance": 2}, "max_distance: received 2"),
        (read_t5, towers.T5 | {"model_type": "umt5"}, "model_type: received 'umt5'"),
        (
            read_clip,
            towers.RECORDS["both"] | {"text_config": SMALL | {"rope_theta": 2}},
            r"config\.json: text_config: rope_theta: received 2",
        ),
    ],
)
def test_an_entry_that_could_change_a_result_is_refused_by_name(read, record, message):
    with pytest.raises(ValueError, match=message):
        read(record)


def test_inputs_of_other_shapes_are_refused():
    text, _, params = network_of("text of one block")
    vision, _, vision_params = network_of("vision")
    tokens = jnp.zeros((1, 10), int)
    with pytest.raises(ValueError, match=r"tokens: received .*; the model has 9 positions"):
        text.apply(params, tokens)
    with pytest.raises(ValueError, match=r"mask: received .*; it must be booleans \(1, 5\)"):
        text.apply(params, tokens[:, :5], tokens[:, :4] == 0)
    with pytest.raises(ValueError, match=r"pictures: received .*\(batch, 12, 12, 3\)"):
        vision.apply(vision_params, jnp.zeros((1, 12, 8, 3)))


def test_names_of_t5_are_read_once_or_twice_but_not_two_tables():
    table = np.arange(6.0).reshape(3, 2)
    for names in (("shared",), ("encoder.embed_tokens",), ("shared", "encoder.embed_tokens")):
        arrays = {f"{name}.weight": table.copy() for name in names}
        found = t5_arrays(arrays | {"decoder.x": table, "lm_head.weight": table})
        assert found.keys() == {"shared.weight"}
    with pytest.raises(ValueError, match="it is another table of tokens than shared"):
        t5_arrays(arrays | {"shared.weight": table + 1})


def test_buckets_of_distances():
    """By hand from 32 buckets up to 128: 0 to 7 alone, then 8 ln(d / 8) / ln 16 more, rounded."""
    distances = np.array([0, -1, 1, -7, 7, -8, -11, -12, 16, -127, -128, 500])
    expected = [0, 1, 17, 7, 23, 8, 8, 9, 26, 15, 15, 31]
    assert buckets_of(distances, buckets=32, longest=128).tolist() == expected
