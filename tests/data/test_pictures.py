"""Pictures as people have them: turned, of any mode, in folders of any name, and bombs."""

import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from ctrl_jax.data import class_names, compressed, load_folder, pictures
from ctrl_jax.runtime import RunWarning

RAMP = np.arange(0, 240, 12).astype(np.uint8).reshape(4, 5)
COLOR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=-1)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)


def as_bytes(images):
    return np.round((images + 1) * 127.5).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pictures_are_turned_as_viewers_show_them(orientation, suffix, tmp_path):
    """The tag says where the first row and the first column of the stored picture are shown."""
    shown = {
        1: COLOR,
        2: COLOR[:, ::-1],
        3: COLOR[::-1, ::-1],
        4: COLOR[::-1],
        5: COLOR.transpose(1, 0, 2),
        6: COLOR.transpose(1, 0, 2)[:, ::-1],
        7: COLOR.transpose(1, 0, 2)[::-1, ::-1],
        8: COLOR.transpose(1, 0, 2)[::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(tmp_path / f"a.{suffix}", np.repeat(np.repeat(COLOR, 8, 0), 8, 1), exif=exif, quality=95)
    found = as_bytes(load_folder(tmp_path).images[0, 4::8, 4::8])
    assert np.abs(found - shown).max() <= (0 if suffix == "png" else 12)


def palette(colors):
    image = Image.new("P", (2, 2))
    image.putpalette(np.array(colors, np.uint8).reshape(-1).tolist())
    image.putdata([0, 1, 2, 1])
    return image


MODES = {
    "1": (Image.fromarray(RAMP > 100), 255 * (RAMP > 100)),
    "L": (Image.fromarray(RAMP), RAMP),
    "LA": (Image.merge("LA", [Image.fromarray(RAMP)] * 2), RAMP),
    "I;16": (Image.fromarray(RAMP.astype(np.uint16) * 257), RAMP),
    "RGB": (Image.fromarray(COLOR), COLOR),
    "RGBA": (Image.fromarray(np.dstack([COLOR, RAMP])), COLOR),
    "P": (
        palette([[0, 9, 0], [9, 0, 9], [7, 7, 7]]),
        [[[0, 9, 0], [9, 0, 9]], [[7] * 3, [9, 0, 9]]],
    ),
    "gray P": (palette([[1] * 3, [5] * 3, [9] * 3]), [[1, 5], [9, 5]]),
}


@pytest.mark.filterwarnings("ignore:.*have transparency")
@pytest.mark.parametrize("mode", MODES)
def test_pictures_of_any_mode(mode, tmp_path):
    image, expected = MODES[mode]
    expected = np.asarray(expected)
    save(tmp_path / "a.png", image)
    found = as_bytes(load_folder(tmp_path).images)
    gray = expected.ndim == 2
    np.testing.assert_array_equal(found[0], expected[..., None] if gray else expected)
    save(tmp_path / "b.png", np.zeros((*expected.shape[:2], 3), np.uint8) + 7)
    color = as_bytes(load_folder(tmp_path).images)
    assert color.shape[-1] == 3, "beside a color picture all are in color"
    np.testing.assert_array_equal(color[0], np.broadcast_to(found[0], color[0].shape))


def test_sixteen_bits_keep_their_depth(tmp_path):
    save(tmp_path / "a.png", np.array([[0, 1, 32768, 65535]], np.uint16))
    found = load_folder(tmp_path).images.reshape(-1)
    np.testing.assert_allclose(found, [-1, 2 / 65535 - 1, 1 / 65535, 1], atol=1e-7)


def test_cmyk_and_other_files(tmp_path):
    for name, options in (("a.jpg", {"quality": 95}), ("b.tiff", {})):
        save(tmp_path / name, Image.new("CMYK", (4, 5), (255, 0, 0, 0)), **options)
    save(tmp_path / "c.webp", Image.new("RGB", (4, 5), (0, 255, 255)), lossless=True)
    save(tmp_path / "d.bmp", Image.new("RGB", (4, 5), (0, 255, 255)))
    found = as_bytes(load_folder(tmp_path).images)
    assert np.abs(found - [0, 255, 255]).max() <= 3


def test_what_is_dropped_is_said(tmp_path):
    save(tmp_path / "a.png", Image.fromarray(np.dstack([COLOR, RAMP])))
    frames = [Image.fromarray(RAMP + n) for n in range(3)]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(RunWarning) as caught:
        images, _ = load_folder(tmp_path)
    said = " ".join(str(warning.message) for warning in caught)
    assert "1 of 2 images have transparency, which is dropped" in said
    assert "1 of 2 images have several frames, of which the first is read" in said
    np.testing.assert_array_equal(as_bytes(images[1])[..., 0], RAMP)


def test_a_color_that_is_called_a_is_no_transparency(tmp_path):
    save(tmp_path / "a.tiff", Image.new("LAB", (4, 5), (150, 128, 128)))
    with warnings.catch_warnings(action="error"):
        load_folder(tmp_path)


def test_numbered_folders_have_their_numbers_as_labels(tmp_path):
    for n in range(12):
        save(tmp_path / str(n) / "a.png", np.full((2, 2), n, np.uint8))
    images, labels = load_folder(tmp_path)
    np.testing.assert_array_equal(labels, range(12))
    np.testing.assert_array_equal(as_bytes(images)[:, 0, 0, 0], range(12))
    (tmp_path / "3" / "a.png").unlink()
    for name in (".ipynb_checkpoints", "__MACOSX", ".git"):
        save(tmp_path / name / "a.png", np.zeros((9, 9), np.uint8))
    save(tmp_path / "5" / "._a.png", np.zeros((9, 9), np.uint8))
    with pytest.warns(RunWarning, match=r"class folders without images: 3 \(3\)"):
        _, labels = load_folder(tmp_path)
    np.testing.assert_array_equal(labels, [0, 1, 2, *range(4, 12)])


def test_other_folders_are_numbered_in_their_order(tmp_path):
    for name in ("class 10", "class 2", "class 1"):
        save(tmp_path / name / "a.png", np.zeros((2, 2), np.uint8))
    (tmp_path / "class 1" / "a.png").unlink()
    assert class_names(tmp_path) == {0: "class 1", 1: "class 2", 2: "class 10"}
    with pytest.warns(RunWarning, match=r"without images: class 1 \(0\)"):
        np.testing.assert_array_equal(load_folder(tmp_path)[1], [1, 2])
    for names in (("7", "007"), (str(2**31),)):
        for name in names:
            save(tmp_path / "numbers" / name / "a.png", np.zeros((2, 2), np.uint8))
        with pytest.raises(ValueError, match=r"it is a label; .*; rename it"):
            load_folder(tmp_path / "numbers")
        for name in names:
            (tmp_path / "numbers" / name / "a.png").unlink()
            (tmp_path / "numbers" / name).rmdir()


def test_folders_of_splits_are_no_classes(tmp_path):
    for n, name in enumerate(("train/1/a.png", "train/2/a.png", "test/2/a.png", "val/1/a.png")):
        save(tmp_path / name, np.full((2, 2), n, np.uint8))
    np.testing.assert_array_equal(load_folder(tmp_path).labels, [1, 2])
    assert class_names(tmp_path) == {1: "1", 2: "2"}
    assert class_names(tmp_path / "test" / "2") == class_names(tmp_path / "absent") == {}
    held_out = load_folder(tmp_path, "test")
    assert as_bytes(held_out.images)[0, 0, 0, 0] == 2 and held_out.labels == [2]
    with pytest.raises(ValueError, match="its images lie deeper, in folders of test; give the"):
        (tmp_path / "other").mkdir()
        load_folder(tmp_path)


def png(width, height, *chunks):
    """The beginning of a png of a size, and other chunks."""

    def chunk(kind, data):
        head = struct.pack(">I", len(data)) + kind + data
        return head + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*c) for c in ((b"IHDR", header), *chunks, (b"IEND", b""))
    )


BOMBS = {
    "size": png(12_000, 12_000, (b"IDAT", zlib.compress(bytes(9)))),
    "larger": png(50_000, 50_000, (b"IDAT", zlib.compress(bytes(9)))),
    "text": png(2, 2, (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**27))), (b"IDAT", b"")),
    "no picture": b"\x89PNG\r\n\x1a\n" + bytes(20),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_are_one_line(kind, tmp_path):
    (tmp_path / "a.png").write_bytes(BOMBS[kind])
    with pytest.raises(ValueError, match=r"a.png'; it cannot be read as an image") as caught:
        load_folder(tmp_path)
    assert "\n" not in str(caught.value)


def test_an_archive_that_unpacks_to_very_much(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((2**10, 64, 64), np.uint8))
    assert load_folder(tmp_path / "a.npz").images.shape == (2**10, 64, 64, 1)
    monkeypatch.setattr(compressed, "LARGE", 2**21)
    with pytest.raises(ValueError, match=r"bytes unpack to 4194.* or more; .*give it uncompressed"):
        load_folder(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", images=np.zeros((2**10, 64, 64), np.uint8))
    assert len(load_folder(tmp_path / "a.npz").images) == 2**10, "the repair works"


@pytest.mark.filterwarnings("ignore:.*are left out")
def test_more_than_the_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures.os, "sysconf", lambda name: 8)
    save(tmp_path / "a.png", RAMP)
    np.savez(tmp_path / "b.npz", images=RAMP[None])
    for path in (tmp_path, tmp_path / "b.npz"):
        with pytest.raises(ValueError, match=r"its images \(1, 4, 5, 1\) take .* GiB; give fewer"):
            load_folder(path)
