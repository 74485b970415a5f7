"""Rewards of published models, on a small CLIP of named weights, against transformers."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.networks.text_to_image.clip import clip
from ctrl_jax.pretrained import write_safetensors
from ctrl_jax.pretrained.diffusers.clip import clip_table, read_clip
from ctrl_jax.pretrained.key_table import unfill
from ctrl_jax.rewards import aesthetic, clip_score, hps, pick_score, weighted
from ctrl_jax.runtime import RunWarning
from tests.oracles import picture_rewards as oracle
from tests.oracles.named_weights import named_weight

STORED = json.loads(oracle.STORED.read_text())["values"]
PICTURES = jnp.asarray(oracle.pictures(), jnp.float32) / 255
TEXTS = jnp.asarray(STORED["texts"])


def weights():
    shapes = clip(read_clip(oracle.RECORD)).shapes
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, np.int8), shapes)
    shapes = unfill(zeros, clip_table(zeros))
    return {key: named_weight(key, array.shape) for key, array in shapes.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = oracle.write_files(tmp_path_factory.mktemp("rewards") / "clip")
    write_safetensors(folder / "model.safetensors", weights())
    write_safetensors(folder / "head.safetensors", oracle.head())
    return folder


@pytest.fixture(scope="module")
def rewards(folder):
    return {
        "cosine": clip_score(folder, scale=1.0),
        "pick": pick_score(folder),
        "hps": hps(folder),
        "aesthetic": aesthetic(folder, folder / "head.safetensors"),
    }


def test_rewards_are_those_of_transformers(rewards):
    """With parameters as arguments, and held fixed. For HPS one byte is rounded otherwise."""

    @jax.jit
    def all_of(params, pictures, texts):
        rest = {name: () if name == "aesthetic" else (texts,) for name in rewards}
        return {name: r.apply(params[name], pictures, *rest[name]) for name, r in rewards.items()}

    found = all_of({name: r.params for name, r in rewards.items()}, PICTURES, TEXTS)
    for name, values in found.items():
        expected = np.maximum(STORED[name], 0) if name == "cosine" else STORED[name]
        close = 2e-4 if name == "hps" else 1e-5
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=close, err_msg=name)
    fixed = jax.jit(lambda x, *conditions: rewards["aesthetic"](x, *conditions))
    np.testing.assert_allclose(fixed(PICTURES, TEXTS), STORED["aesthetic"], rtol=1e-5, atol=1e-5)


def test_a_sum_of_them_follows_its_gradient(folder, rewards):
    """With the blocks computed again it is the same."""
    pick, marks = rewards["pick"], rewards["aesthetic"]
    reward = weighted({"pick": (pick, 1.0), "aesthetic": (marks, 2.0)})
    again = pick_score(folder, remat=True)
    other = weighted({"pick": (again, 1.0), "aesthetic": (marks, 2.0)})

    def slope_of(reward):
        return jax.grad(lambda x: jnp.sum(reward(x, TEXTS)))

    values, slope, same = jax.jit(
        lambda x: (reward(x, TEXTS), slope_of(reward)(x), slope_of(other)(x))
    )(PICTURES)
    expected = np.asarray(STORED["pick"]) + 2 * np.asarray(STORED["aesthetic"])
    np.testing.assert_allclose(values, expected, rtol=1e-4)
    np.testing.assert_allclose(slope, same, rtol=1e-4, atol=1e-5)
    moved = jax.jit(reward)(PICTURES + 0.1 * jnp.sign(slope), TEXTS)
    assert (moved > values + 0.01).all()


def test_prompts_are_encoded_as_by_transformers(rewards):
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=r"texts: received 'a cat'; it must be a list"):
        rewards["pick"].encode("a cat")
    encode = rewards["pick"].encode
    np.testing.assert_allclose(encode(oracle.PROMPTS), TEXTS, rtol=1e-5, atol=1e-5)
    many = encode([oracle.PROMPTS[i % 2] for i in range(67)])
    np.testing.assert_allclose(many, TEXTS[np.arange(67) % 2], rtol=1e-5, atol=1e-5)
    with pytest.warns(RunWarning, match=r"1 of 2 prompts are cut to 12 tokens: a b c d e f g"):
        cut, short = encode(["a b c d e f g h i j k l", "a b c d e f g h i j"])
    np.testing.assert_allclose(cut, short, rtol=1e-5)
    assert encode([]).shape == (0, 10) and rewards["aesthetic"].encode is None


@pytest.mark.mixed_dtypes  # JAX's attention mixes them
def test_half_precision_is_near(folder, rewards):
    half = clip_score(folder, dtype=jnp.bfloat16)
    found = jax.jit(half.apply)(half.params, PICTURES.astype(jnp.bfloat16), TEXTS)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, 100 * np.maximum(STORED["cosine"], 0), atol=3)


def changed(folder, tmp_path, arrays=None, **files):
    """A copy of the folder, other weights or other entries in it."""
    write_safetensors(tmp_path / "model.safetensors", weights() if arrays is None else arrays)
    for name in ("config", "preprocessor_config"):
        record = json.loads((folder / f"{name}.json").read_text()) | files.get(name, {})
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    return tmp_path


def test_faulty_folders(folder, tmp_path):
    with pytest.raises(
        ValueError, match=r"folder: received .*there is no such file; give the fold"
    ):
        clip_score(tmp_path)
    other = {"vision_model.other": np.zeros(1, np.float32)}
    with pytest.raises(ValueError, match=r"vision_model\.other is used by no parameter"):
        clip_score(changed(folder, tmp_path, weights() | other))
    small = {"crop_size": 9}
    with pytest.raises(ValueError, match=r"received \(9, 9\); the tower takes pictures of 12 by"):
        hps(changed(folder, tmp_path, preprocessor_config=small))
    arrays = {key: array for key, array in weights().items() if key.startswith("vis")}
    alone = {"architectures": ["CLIPVisionModelWithProjection"], "projection_dim": 10}
    changed(folder, tmp_path, arrays)
    (tmp_path / "config.json").write_text(json.dumps(oracle.VISION | alone))
    with pytest.raises(ValueError, match="its weights hold no logit_scale"):
        pick_score(tmp_path)
    alone = {"architectures": ["CLIPVisionModel"]}
    (tmp_path / "config.json").write_text(json.dumps(oracle.VISION | alone))
    with pytest.raises(ValueError, match="its pictures have no projection"):
        aesthetic(tmp_path, folder / "head.safetensors")
    with pytest.raises(ValueError, match=r"clip_score.scale: received 0.0; it must be above zero"):
        clip_score(folder, scale=0.0)


def test_faulty_heads(folder, tmp_path):
    with pytest.raises(ValueError, match=r"head: received .*can run code, .*convert it where"):
        aesthetic(folder, tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    path = tmp_path / "head.safetensors"
    for arrays, message in (
        ({"other.bias": np.zeros(1, np.float32)}, r"it must hold layers\.0\.weight"),
        (
            {"layers.4.weight": np.zeros((5, 7), np.float32)},
            r"head: layers\.4: .* must be \(5, 6\)",
        ),
    ):
        write_safetensors(path, oracle.head() | arrays)
        with pytest.raises(ValueError, match=message):
            aesthetic(folder, path)


@pytest.mark.usefixtures("unchecked")
def test_faulty_arguments(rewards):
    reward = rewards["pick"]
    with pytest.raises(ValueError, match=r"embeddings: received .*shape \(2, 10\); gather"):
        reward(PICTURES, TEXTS[:1])
    with pytest.raises(ValueError, match=r"pictures: received uint8.*divide bytes by 255"):
        reward(oracle.pictures(), TEXTS)
