"""Safetensors files: what is written is read, what is damaged is named."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.pretrained import load_inception, read_safetensors, safetensors_file
from tests.pretrained.inception_weights import write_safetensors

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array(3, np.int64),
    "c.d": np.zeros((0, 4), np.float64),
    "e": np.linspace(0, 1, 5).astype(np.float16),
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "w.safetensors"
    write_safetensors(path, ARRAYS)
    return path


def test_what_is_written_is_read(file):
    found = read_safetensors(file)
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with pytest.raises(ValueError, match="read-only"):
        found["a"][0, 0] = 1


def parts_of(file):
    """The header and the bytes of the arrays."""
    whole = file.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    return json.loads(whole[8:start]), whole[start:]


def test_the_library_writes_the_same_bytes(file, tmp_path):
    """And a digest beside them."""
    written = tmp_path / "again.safetensors"
    safetensors_file.write_safetensors(written, ARRAYS)
    (header, data), expected = parts_of(written), parts_of(file)
    assert len(header["__metadata__"].pop("sha256")) == 64 and (header, data) == expected
    narrow = {"f": np.arange(3).astype(jnp.bfloat16), "g": np.arange(4).reshape(2, 2).T}
    safetensors_file.write_safetensors(written, narrow)
    found = read_safetensors(written)
    for name, array in narrow.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_one_bit_of_a_written_file_is_noticed(tmp_path):
    """Every eleventh: other weights are never read, what changes nothing may be."""
    path = tmp_path / "w.safetensors"
    safetensors_file.write_safetensors(path, ARRAYS)
    whole, noticed = path.read_bytes(), 0
    bits = range(0, 8 * len(whole), 11)
    for bit in bits:
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read_safetensors(path)
        except ValueError:
            noticed += 1
        else:
            assert {n: (a.dtype, a.tobytes()) for n, a in found.items()} == {
                n: (a.dtype, a.tobytes()) for n, a in ARRAYS.items()
            }
    assert noticed > 0.8 * len(bits)


def test_what_the_format_cannot_hold_leaves_the_file_as_it_was(file):
    before = file.read_bytes()
    with pytest.raises(
        ValueError, match="weights: b: received 'complex128'; no safetensors file holds"
    ):
        safetensors_file.write_safetensors(file, {"a": np.zeros(3), "b": np.zeros(2, complex)})
    assert file.read_bytes() == before and [*file.parent.iterdir()] == [file]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.safetensors'; there is no such file"):
        load_inception(tmp_path / "nowhere.safetensors")


def test_every_truncation_is_refused(file):
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match="no whole safetensors file"):
            read_safetensors(file)


def test_bytes_after_the_last_array_are_refused(file):
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="1 bytes follow the last array"):
        read_safetensors(file)


def header(file, text):
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 8)


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "its header is no JSON"),
        ([1], "its header is no table"),
        ({"a": {**GOOD, "dtype": "F7"}}, "its header describes a by"),
        ({"a": {**GOOD, "shape": [3]}}, r"a has 8 bytes where shape \(3,\) needs 12"),
        ({"a": {**GOOD, "shape": [-2]}}, "a has 8 bytes"),
        ({"a": {**GOOD, "data_offsets": [4, 12]}}, "do not follow those before"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "says nothing of the place of a"),
        ({"a": GOOD, "b": GOOD}, "the bytes of b do not follow"),
        (b"[" * 10**5, "its header is no JSON"),
        ({"a": {**GOOD, "shape": [2**70]}}, "a has 8 bytes"),
        ({"a": {**GOOD, "shape": [2**32, 2**32], "data_offsets": [0, 0]}}, "a has 0 bytes"),
        ({"a": {**GOOD, "shape": [1] * 65 + [2]}}, "its header describes a by 66 axes"),
        ({"a": {**GOOD, "shape": [math.inf]}}, "its header describes a by"),
        ({"a": {**GOOD, "data_offsets": [math.inf, 8]}}, "says nothing of the place of a"),
    ],
)
def test_damaged_headers_are_refused(file, content, message):
    header(file, content)
    with pytest.raises(ValueError, match=message):
        read_safetensors(file)


def test_an_array_without_bytes_is_read_wherever_it_is_named(file):
    header(file, {"a": GOOD, "b": {**GOOD, "shape": [0], "data_offsets": [0, 0]}})
    assert {k: v.shape for k, v in read_safetensors(file).items()} == {"a": (2,), "b": (0,)}


def test_a_pointer_in_place_of_the_file_is_named(file):
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ValueError, match="pointer of Git LFS, not the file itself; fetch it with"):
        read_safetensors(file)


@pytest.mark.parametrize("head", [b"PK\x03\x04", b"\x80\x02\x8a\n"])
def test_pytorch_files_are_told_apart(file, head):
    file.write_bytes(head + b"\xff" * 100)
    with pytest.raises(ValueError, match="PyTorch pickle, which executes code; convert it"):
        read_safetensors(file)
