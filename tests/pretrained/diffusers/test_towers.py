"""CLIP's towers and T5's encoder against transformers, and what their config.json may say."""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.networks.lora import LoRA, combine, split
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


# Quickly: "both" is in rewards/test_clip.py, and the others differ from what follows by stacking.
SLOW = {"both", "vision", "t5 gated"}
CASES = [
    pytest.param(name, {}, marks=pytest.mark.slow if name in SLOW else ())
    for name in towers.RECORDS
]
CASES += [(kind, {"stacked": False, "remat": True}) for kind in ("vision", "t5 gated")]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_outputs_and_gradients_are_those_of_transformers(name, options):
    network, table, params = network_of(name, **options)
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


def test_adapters_change_nothing_at_first_and_gradients_reach_them():
    """At first the second factor is zero, so that the first one has no gradient."""
    name = "text with projection"
    lora = LoRA(2, targets=("q_proj", "v_proj", "text_projection"))
    adapted = clip_text(read_clip_text(SMALL), lora=lora)
    _, _, params = network_of(name)

    @jax.jit
    def slopes(adapters):
        def loss(adapters):
            found = adapted.apply(combine(adapters, params), jnp.asarray(towers.TOKENS))
            return jnp.sum(jnp.sin(found.embedding)), found.embedding

        return jax.grad(loss, has_aux=True)(adapters)

    adapters = jax.jit(lambda key: split(adapted.init(key))[0])(jax.random.key(0))
    gradient, embedding = slopes(adapters)
    expected = STORED[name]["outputs"]["embedding"]
    np.testing.assert_allclose(towers.rows(embedding), expected, rtol=1e-5, atol=1e-5)
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    assert len(leaves) == 2 * (2 * 2 + 1)  # two in the stack and in the last block
    for path, slope in leaves:
        assert (float(jnp.abs(slope).max()) > 1e-5) == (path[-1].key == "lora_b"), path


@pytest.mark.parametrize("name", ["text with projection", "t5 gated"])
def test_bfloat16_is_near_float32(name):
    """Seven bits after the point: over three blocks a hundredth or two of what is near one."""
    network, _, params = network_of(name, dtype=jnp.bfloat16)
    tokens = jnp.asarray(towers.tokens_of(name)[0])
    out = jax.tree.leaves(jax.jit(network.apply)(params, tokens))[0]
    assert out.dtype == jnp.bfloat16
    expected = np.array(STORED[name]["outputs"]["hidden"])
    difference = towers.rows(np.asarray(out, float)) - expected
    assert np.sqrt(np.mean(np.square(difference))) < 0.03 * np.std(expected)


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
        (read_t5, towers.T5 | {"dense_act_fn": "silu"}, "dense_act_fn: received 'silu'"),
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


def test_what_overrules_an_entry_in_transformers_does_here():
    """Asked of transformers 5.24: the later entries stand, and old dictionaries replace towers."""
    found = read_t5(towers.T5 | {"feed_forward_proj": "gated-gelu", "dense_act_fn": "relu"})
    assert found.gated and found.activation == "relu"
    assert not read_t5(towers.T5 | {"feed_forward_proj": "gated-relu", "is_gated_act": False}).gated
    old = {"text_config_dict": {"hidden_size": 32, "num_attention_heads": 2}}
    text = read_clip_text(towers.RECORDS["both"] | old)
    assert (text.width, text.heads, text.hidden, text.vocabulary) == (32, 2, 2048, 49408)


def test_buckets_of_distances():
    """By hand from 32 buckets up to 128: 0 to 7 alone, then 8 ln(d / 8) / ln 16 more, rounded."""
    distances = np.array([0, -1, 1, -7, 7, -8, -11, -12, 16, -127, -128, 500])
    expected = [0, 1, 17, 7, 23, 8, 8, 9, 26, 15, 15, 31]
    assert buckets_of(distances, buckets=32, longest=128).tolist() == expected
