"""Resizing and preprocessing of pictures against Pillow and transformers, and faulty files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ctrl_jax.rewards import read_preprocessing, resize
from tests.rewards.real_pictures import china, flower

CLIP = {
    "crop_size": {"height": 24, "width": 20},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": {"shortest_edge": 27},
}


def scaled(levels):
    return jnp.asarray(levels[None].astype(np.float32) / 255)


# The width shrinks at least as much as the height: there all versions of Pillow go the same way.
@pytest.mark.parametrize("size", [(28, 42), (9, 11), (97, 110), (130, 20), (64, 96)])
@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
def test_resize_is_pillows(size, kernel):
    picture = china()[40:104, 60:156].copy()
    picture[:8, :8] = np.indices((8, 8)).sum(0)[..., None] % 2 * 255  # overshoots are cut
    expected = Image.fromarray(picture).resize(size[::-1], Image.Resampling[kernel.upper()])
    resized = jax.jit(lambda x: resize(x, *size, kernel=kernel))(scaled(picture))
    found = np.asarray(resized)[0] * 255
    np.testing.assert_allclose(found, found.round(), atol=1e-4)
    differ = np.abs(found - np.asarray(expected, np.float32))
    assert differ.max() < 1.01 and (differ > 0.5).mean() < 0.01


def test_derivatives_of_resize_are_those_of_the_linear_map():
    picture = 0.25 + 0.5 * china()[None, :16, :24].astype(np.float32) / 255
    weights = np.random.default_rng(0).standard_normal((1, 8, 9, 3), np.float32)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(weights * resize(x, 8, 9))))(picture)

    def linear(x):
        return jnp.sum(weights * jax.image.resize(x, (1, 8, 9, 3), "cubic", antialias=True))

    np.testing.assert_allclose(gradient, jax.jit(jax.grad(linear))(picture), atol=1e-5)


def write(folder, **changed):
    record = {key: value for key, value in (CLIP | changed).items() if value != "absent"}
    (folder / "preprocessor_config.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"size": 30, "crop_size": 21, "resample": 2},
        {"size": {"height": 33, "width": 20}, "crop_size": "absent", "do_center_crop": False},
        {"size": {"height": 24, "width": 20}, "rescale_factor": 1 / 255},
    ],
)
def test_preprocessing_is_transformers(tmp_path, changed):
    clip = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    processor = clip.CLIPImageProcessorPil.from_pretrained(write(tmp_path, **changed))
    preprocess = jax.jit(read_preprocessing(tmp_path).__call__)
    for picture in (china()[:65, :92], np.swapaxes(flower(), 0, 1)[:80, 100:150]):
        expected = processor(picture, return_tensors="np")["pixel_values"]
        found = np.moveaxis(np.asarray(preprocess(scaled(picture))), -1, 1)
        assert found.shape == expected.shape
        differ = np.abs(found - expected) * 255 * np.reshape(CLIP["image_std"], (1, 3, 1, 1))
        assert differ.max() < 1.01 and (differ > 0.5).mean() < 0.01


def test_nested_preprocessing_goes_first(tmp_path):
    write(tmp_path)
    nested = {"image_processor": CLIP | {"crop_size": 9}, "processor_class": "CLIPProcessor"}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert read_preprocessing(tmp_path).height == 9
    (tmp_path / "processor_config.json").write_text("{}")
    assert read_preprocessing(tmp_path).height == 24


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"do_resize": False}, "do_resize: received False; only True is implemented"),
        ({"resample": 1}, "resample: received 1; only 2, bilinear, and 3"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor: .*only 1/255"),
        ({"image_mean": "absent"}, "image_mean: received None; it must be given"),
        ({"image_std": [0.5, 0.0, 0.5]}, "image_std: .*above zero"),
        ({"image_mean": [0.5]}, "image_mean: .*three numbers"),
        ({"crop_size": 28}, "crop_size: .*at most the shorter side, 27"),
        ({"do_center_crop": False}, "do_center_crop: .*must be cut out"),
        ({"size": {"height": 30, "width": 30}}, "crop_size: .*must be all of it"),
        ({"size": {"longest_edge": 30}}, "size: .*it must say shortest_edge, or"),
        ({"size": {"shortest_edge": 0}}, "size: .*whole numbers above zero"),
        ({"do_pad": True}, "do_pad: received True; this entry is not understood"),
    ],
)
def test_faulty_preprocessing(tmp_path, changed, message):
    with pytest.raises(ValueError, match=r"preprocessor_config\.json: " + message):
        read_preprocessing(write(tmp_path, **changed))


def test_a_folder_without(tmp_path):
    with pytest.raises(ValueError, match="there is no such file; save the image processor"):
        read_preprocessing(tmp_path)
    with pytest.raises(ValueError, match=r"height: received 0; .*at least 1"):
        resize(jnp.zeros((1, 4, 4, 3)), 0, 4)


@pytest.mark.usefixtures("unchecked")
def test_bytes_are_no_pictures():
    with pytest.raises(ValueError, match=r"pictures: received uint8\[1, 4, 4, 1\]; .*divide bytes"):
        resize(np.zeros((1, 4, 4, 1), np.uint8), 2, 2)  # pyright: ignore[reportArgumentType]
