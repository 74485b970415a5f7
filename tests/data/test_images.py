"""Digits and a user's images, and the mistakes in them."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from ctrl_jax.data import load_digits, load_folder
from ctrl_jax.runtime import RunWarning


def test_digits_are_split_in_halves_class_by_class():
    digits = load_digits()
    assert digits.train_images.shape[1:] == (8, 8, 1)
    assert digits.train_images.dtype == np.float32
    images = np.concatenate([digits.train_images, digits.held_out_images])
    assert len(images) == 1797 and images.min() == -1 and images.max() == 1
    train = np.bincount(digits.train_labels, minlength=10)
    held_out = np.bincount(digits.held_out_labels, minlength=10)
    assert np.abs(train - held_out).max() <= 1
    order = hashlib.sha256(digits.train_labels.tobytes() + digits.train_images.tobytes())
    assert (
        order.hexdigest()
        == hashlib.sha256(
            load_digits().train_labels.tobytes() + load_digits().train_images.tobytes()
        ).hexdigest()
    )


def picture(path, size=(4, 5), mode="L", value=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    color = value if mode in ("L", "I;16") else (value,) * len(mode)
    Image.new(mode, size, color).save(path)


def test_a_folder_of_gray_images(tmp_path):
    picture(tmp_path / "a.png", value=0)
    picture(tmp_path / "b.png", value=255)
    images, labels = load_folder(tmp_path)
    assert images.shape == (2, 5, 4, 1) and labels is None
    assert images[0].max() == -1 and images[1].min() == 1


@pytest.mark.filterwarnings("ignore:.*have transparency")
def test_class_folders_give_labels_and_one_color_image_makes_all_color(tmp_path):
    picture(tmp_path / "cat" / "a.png")
    picture(tmp_path / "cat" / "b.png", mode="RGBA")
    picture(tmp_path / "dog" / "a.jpg", mode="RGB")
    images, labels = load_folder(tmp_path)
    assert images.shape == (3, 5, 4, 3)
    np.testing.assert_array_equal(labels, [0, 0, 1])


def test_mistakes_in_folders(tmp_path):
    with pytest.raises(ValueError, match=r"must be a folder or an \.npz"):
        load_folder(tmp_path / "absent")
    with pytest.raises(ValueError, match="holds no png or jpg"):
        load_folder(tmp_path)
    picture(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.warns(RunWarning, match="1 files that are not png or jpg"):
        load_folder(tmp_path)
    (tmp_path / "notes.txt").unlink()
    picture(tmp_path / "b.png", size=(3, 3))
    with pytest.raises(ValueError, match=r"b.png.*it is 3 x 3, but a.png is 4 x 5"):
        load_folder(tmp_path)
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"b.png.*cannot be read as an image"):
        load_folder(tmp_path)
    Image.new("F", (4, 5)).save(tmp_path / "b.tiff")
    (tmp_path / "b.png").unlink()
    with pytest.raises(ValueError, match=r"b.tiff.*floating numbers of unknown range"):
        load_folder(tmp_path)
    picture(tmp_path / "cat" / "a.png")
    with pytest.raises(ValueError, match="beside and inside"):
        load_folder(tmp_path)


def test_npz_of_bytes_and_of_floats(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.full((2, 3, 3), 255, np.uint8), labels=[0, 1])
    images, labels = load_folder(tmp_path / "a.npz")
    assert images.shape == (2, 3, 3, 1) and images.dtype == np.float32 and images.min() == 1
    assert labels is not None and labels.dtype == np.int32
    values = np.linspace(-1, 1, 18).reshape(2, 3, 3, 1)
    np.savez(tmp_path / "b.npz", images=values)
    images, labels = load_folder(tmp_path / "b.npz")
    np.testing.assert_array_equal(images, values.astype(np.float32))
    assert labels is None


GOOD = np.zeros((2, 3, 3), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": GOOD, "extra": GOOD}, r"\['extra', 'images'\]; its keys must be"),
        ({"pictures": GOOD}, r"\['pictures'\]"),
        ({"images": np.zeros((2, 3))}, r"images: received \(2, 3\)"),
        ({"images": np.zeros((2, 3, 9, 8))}, r"the channels there, by np.moveaxis\(images, 1, -1"),
        ({"images": np.zeros((0, 3, 3))}, r"images: received \(0, 3, 3, 1\)"),
        ({"images": np.zeros((2, 3, 3), np.int64)}, "received 'int64'; it must be uint8"),
        ({"images": np.full((2, 3, 3), np.nan)}, "received '18 NaN or inf'"),
        ({"images": np.full((2, 3, 3), 255.0)}, r"floats must lie in \[-1, 1\]"),
        ({"images": GOOD, "labels": np.zeros(3, int)}, r"labels: received \(3,\)"),
        ({"images": GOOD, "labels": np.zeros(2)}, "labels: received 'float64'"),
        ({"images": GOOD, "labels": np.array([-1, 0])}, "labels: received -1"),
        ({"images": GOOD, "labels": np.array([0, 2**40])}, "labels: received 1099511627776"),
        ({"images": GOOD, "labels": np.array([0, 2**63 + 1], np.uint64)}, "labels: received 92"),
        ({"images": np.array([{}, {}])}, "plain arrays"),
    ],
)
def test_mistakes_in_npz(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_folder(tmp_path / "a.npz")


def test_floats_from_zero_to_one_are_pointed_out(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.full((2, 3, 3), 0.5))
    with pytest.warns(RunWarning, match="0 being mid-gray"):
        load_folder(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"PK half")
    with pytest.raises(ValueError, match="cannot be read"):
        load_folder(tmp_path / "b.npz")
    with pytest.raises(ValueError, match="no such file"):
        load_folder(tmp_path / "c.npz")
