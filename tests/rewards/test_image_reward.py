"""ImageReward on a small BLIP of named weights, against transformers' towers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.networks.text_to_image.blip import BLIPConfig, image_reward_network
from ctrl_jax.pretrained import write_safetensors
from ctrl_jax.pretrained.key_table import unfill
from ctrl_jax.pretrained.torch_names import torch_table
from ctrl_jax.rewards import image_reward
from ctrl_jax.runtime import RunWarning
from tests.oracles import image_reward as oracle
from tests.oracles.named_weights import named_weight
from tests.oracles.picture_rewards import pictures

STORED = json.loads(oracle.STORED.read_text())["values"]
CONFIG = BLIPConfig(
    image=oracle.IMAGE,
    patch=oracle.PATCH,
    picture_width=oracle.WIDTH,
    picture_depth=oracle.DEPTH,
    picture_heads=2,
    vocabulary=12,
    positions=40,
    width=16,
    depth=2,
    heads=2,
    hidden=24,
)
PICTURES = jnp.asarray(pictures(), jnp.float32) / 255
TOKENS = jnp.asarray(oracle.TOKENS)


def weights():
    shapes = image_reward_network(CONFIG).shapes
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.int8), shapes)
    shapes = unfill(zeros, torch_table(zeros))
    found = {key: named_weight(key, array.shape) for key, array in shapes.items()}
    ids = {"blip.text_encoder.embeddings.position_ids": np.arange(40)[None]}
    return found | ids | {"blip.text_proj.bias": np.zeros(3, np.float32)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = oracle.write_files(tmp_path_factory.mktemp("rewards") / "image_reward")
    write_safetensors(folder / "model.safetensors", weights())
    return folder


@pytest.fixture(scope="module")
def reward(folder):
    return image_reward(folder)


def test_rewards_are_those_of_transformers_and_have_a_gradient(reward):
    @jax.jit
    def both(params, pictures):
        def total(pictures):
            found = reward.apply(params, pictures, TOKENS)
            return jnp.sum(found), found

        return jax.grad(total, has_aux=True)(pictures)

    slope, found = both(reward.params, PICTURES)
    np.testing.assert_allclose(found, STORED, rtol=1e-4, atol=2e-5)
    more = jax.jit(reward.apply)(reward.params, PICTURES + 0.1 * jnp.sign(slope), TOKENS)
    assert (more > found + 0.01).all()


def test_the_full_size_is_the_published_models():
    """Counted on PyTorch's meta device; no memory is taken."""
    towers = image_reward_network(BLIPConfig()).shapes["blip"]
    sizes = {name: sum(x.size for x in jax.tree.leaves(tower)) for name, tower in towers.items()}
    assert sizes == {"visual_encoder": 303_301_632, "text_encoder": 141_977_088}


def test_prompts_are_tokens(reward):
    pytest.importorskip("transformers")
    np.testing.assert_array_equal(reward.encode(oracle.PROMPTS), oracle.TOKENS)
    with pytest.warns(RunWarning, match="1 of 1 prompts are cut to 35 tokens"):
        (row,) = np.asarray(reward.encode(["a " * 40]))
    assert row[0] == 2 and row[-1] == 3 and (row[1:-1] == 5).all()


def test_faulty_folders(folder, tmp_path):
    with pytest.raises(ValueError, match=r"folder: received .*there is no such file; give that of"):
        image_reward(tmp_path)
    write_safetensors(tmp_path / "model.safetensors", {"mlp.layers.0.bias": np.zeros(3)})
    (tmp_path / "med_config.json").write_text(json.dumps(oracle.RECORD))
    with pytest.raises(
        ValueError, match=r"they hold no picture tower of BLIP; convert ImageReward"
    ):
        image_reward(tmp_path)
    (tmp_path / "med_config.json").write_text(json.dumps(oracle.RECORD | {"hidden_act": "relu"}))
    with pytest.raises(ValueError, match=r"med_config\.json: hidden_act: received 'relu'"):
        image_reward(tmp_path)


@pytest.mark.usefixtures("unchecked")
def test_tokens_of_another_shape(reward):
    for tokens in (TOKENS[:1], TOKENS.astype(jnp.float32), TOKENS[0]):
        with pytest.raises(ValueError, match=r"tokens: received .*\(2, 35\); gather what encode"):
            reward(PICTURES, tokens)
