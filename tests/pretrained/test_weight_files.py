"""Weights by the names that transformers and diffusers give their files."""

import json

import numpy as np
import pytest

from ctrl_jax._errors import RunWarning
from ctrl_jax.pretrained.safetensors_file import write_safetensors
from ctrl_jax.pretrained.weight_files import read_weights

A, B = {"a": np.arange(3.0)}, {"b": np.ones((2, 2), np.float16)}
STEM = "diffusion_pytorch_model"


def write_index(folder, name, **places):
    text = json.dumps({"metadata": {}, "weight_map": places})
    (folder / name).write_text(text, encoding="utf-8")


def names(arrays):
    return {key: array.dtype.name for key, array in arrays.items()}


def test_the_stem_and_the_variant_choose_the_files(tmp_path):
    write_safetensors(tmp_path / f"{STEM}.safetensors", A)
    write_safetensors(tmp_path / f"{STEM}.fp16.safetensors", B)
    write_safetensors(tmp_path / "model.safetensors", A | B)
    assert names(read_weights(tmp_path, stem=STEM)) == {"a": "float64"}
    assert names(read_weights(tmp_path, stem=STEM, variant="fp16")) == {"b": "float16"}
    assert names(read_weights(tmp_path)) == {"a": "float64", "b": "float16"}


@pytest.mark.parametrize(
    ("first", "second", "index"),
    [
        ("{}-00001-of-00002.safetensors", "{}-00002-of-00002.safetensors", "{}.index.json"),
        (
            "{}.fp16-00001-of-00002.safetensors",
            "{}.fp16-00002-of-00002.safetensors",
            "{}.index.fp16.json",
        ),
        (
            "{}-00001-of-00002.fp16.safetensors",
            "{}-00002-of-00002.fp16.safetensors",
            "{}.index.fp16.json",
        ),
    ],
)
def test_shards_are_read_with_and_without_their_index(tmp_path, first, second, index):
    first, second = first.format(STEM), second.format(STEM)
    variant = "fp16" if "fp16" in first else None
    write_safetensors(tmp_path / first, A)
    write_safetensors(tmp_path / second, B)
    write_index(tmp_path, index.format(f"{STEM}.safetensors"), a=first, b=second)
    assert names(read_weights(tmp_path, stem=STEM, variant=variant)).keys() == {"a", "b"}
    (tmp_path / index.format(f"{STEM}.safetensors")).unlink()
    with pytest.warns(RunWarning, match="are read without"):
        assert read_weights(tmp_path, stem=STEM, variant=variant).keys() == {"a", "b"}


def test_the_only_variant_is_taken_and_said(tmp_path):
    write_safetensors(tmp_path / f"{STEM}.fp16.safetensors", B)
    with pytest.warns(RunWarning, match="the variant fp16, the only one"):
        assert names(read_weights(tmp_path, stem=STEM)) == {"b": "float16"}
    write_safetensors(tmp_path / f"{STEM}.bf16.safetensors", A)
    with pytest.raises(ValueError, match=r"bf16.safetensors.*fp16.safetensors only"):
        read_weights(tmp_path, stem=STEM)
    with pytest.raises(ValueError, match=r"variant: received 'int8'; .*bf16.safetensors"):
        read_weights(tmp_path, stem=STEM, variant="int8")


def test_a_link_to_nothing_is_told_from_an_unknown_format(tmp_path):
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "blob")
    with pytest.raises(ValueError, match=r"model.safetensors there is no file, or a link to none"):
        read_weights(tmp_path)
