"""CIFAR-10's and MNIST's files: read as written by hand, and mistakes named in one line."""

import gzip
import pickle
import struct

import numpy as np
import pytest

from ctrl_jax.data import compressed, load_folder
from ctrl_jax.data.image_files import CIFAR_RECORD, write_cifar10

GENERATOR = np.random.default_rng(0)
IMAGES = GENERATOR.integers(0, 256, (5, 32, 32, 3)).astype(np.uint8)
LABELS = np.array([0, 9, 3, 3, 1])


def record(image, label):
    """One record, byte by byte: label, then the red, the green and the blue plane."""
    planes = [bytes(image[i, j, c] for i in range(32) for j in range(32)) for c in range(3)]
    return bytes([label]) + b"".join(planes)


def as_floats(pixels):
    return pixels.astype(np.float32) / np.float32(127.5) - 1


def test_cifar_is_read_in_order_and_by_halves(tmp_path):
    rows = [record(image, label) for image, label in zip(IMAGES, LABELS, strict=True)]
    (tmp_path / "data_batch_1.bin").write_bytes(rows[0] + rows[1])
    (tmp_path / "data_batch_2.bin").write_bytes(rows[2])
    (tmp_path / "test_batch.bin").write_bytes(rows[3] + rows[4])
    (tmp_path / "batches.meta.txt").write_text("airplane\n")
    images, labels = load_folder(tmp_path)
    np.testing.assert_array_equal(images, as_floats(IMAGES[:3]))
    np.testing.assert_array_equal(labels, LABELS[:3])
    held_out = load_folder(tmp_path, "test")
    np.testing.assert_array_equal(held_out.images, as_floats(IMAGES[3:]))
    assert images.dtype == np.float32 and labels is not None and labels.dtype == np.int32


def test_what_is_written_is_the_published_format(tmp_path):
    write_cifar10(tmp_path / "a.bin", IMAGES, LABELS)
    rows = [record(image, label) for image, label in zip(IMAGES, LABELS, strict=True)]
    assert (tmp_path / "a.bin").read_bytes() == b"".join(rows)


def mnist(folder, images, labels, prefix="train", suffix="", write=None):
    write = write or (lambda path, content: path.write_bytes(content))
    head = struct.pack(">4i", 0x803, *images.shape)
    write(folder / f"{prefix}-images-idx3-ubyte{suffix}", head + images.tobytes())
    head = struct.pack(">2i", 0x801, len(labels))
    write(folder / f"{prefix}-labels-idx1-ubyte{suffix}", head + labels.astype(np.uint8).tobytes())


def zipped(path, content):
    path.write_bytes(gzip.compress(content))


def test_mnist_is_read_plain_and_zipped(tmp_path):
    gray = IMAGES[:, :6, :5, 0]
    mnist(tmp_path, gray, LABELS)
    mnist(tmp_path, gray[:2], LABELS[:2], "t10k", ".gz", zipped)
    images, labels = load_folder(tmp_path)
    np.testing.assert_array_equal(images, as_floats(gray)[..., None])
    np.testing.assert_array_equal(labels, LABELS)
    held_out = load_folder(tmp_path, "test")
    np.testing.assert_array_equal(held_out.images, as_floats(gray[:2])[..., None])


GRAY = IMAGES[:, :4, :4, 0]


def truncated_cifar(folder):
    (folder / "data_batch_1.bin").write_bytes(b"\0" * (CIFAR_RECORD - 1))


def empty_cifar(folder):
    (folder / "data_batch_1.bin").write_bytes(b"")


def wrong_label(folder):
    (folder / "data_batch_1.bin").write_bytes(b"\x0a" * CIFAR_RECORD)


def only_test(folder):
    (folder / "test_batch.bin").write_bytes(b"\0" * CIFAR_RECORD)


def python_cifar(folder):
    (folder / "data_batch_1").write_bytes(pickle.dumps({"data": 1}))


def truncated_mnist(folder):
    mnist(folder, GRAY, LABELS, write=lambda path, content: path.write_bytes(content[:-1]))


def wrong_magic(folder):
    mnist(folder, GRAY, LABELS, write=lambda path, content: path.write_bytes(b"\x89PNG" + content))


def empty_mnist(folder):
    mnist(folder, GRAY, LABELS, write=lambda path, content: path.write_bytes(b""))


def truncated_zip(folder):
    mnist(
        folder, GRAY, LABELS, suffix=".gz", write=lambda p, c: p.write_bytes(gzip.compress(c)[:-9])
    )


def no_zip(folder):
    mnist(folder, GRAY, LABELS, suffix=".gz")


def no_labels(folder):
    mnist(folder, GRAY, LABELS)
    (folder / "train-labels-idx1-ubyte").unlink()


def unequal(folder):
    mnist(folder, GRAY, LABELS[:-1])


MISTAKES = {
    truncated_cifar: r"data_batch_1.bin.*3072 bytes are no whole number of records of 3073",
    empty_cifar: r"data_batch_1.bin.*its 0 bytes",
    wrong_label: r"label 10; CIFAR-10 has 0 to 9",
    only_test: r"it holds no data_batch_\*.bin",
    python_cifar: r"data_batch_1'; it is a Python pickle.*fetch the binary version",
    truncated_mnist: r"79 bytes of pixels or labels where \(5, 4, 4\) is announced",
    wrong_magic: r"it begins with 89504e47, not with 00000803",
    empty_mnist: r"it begins with nothing",
    truncated_zip: r"images-idx3-ubyte.gz.*cannot be unzipped",
    no_zip: r"images-idx3-ubyte.gz.*cannot be unzipped",
    no_labels: r"holds neither train-labels-idx1-ubyte nor train-labels-idx1-ubyte.gz",
    unequal: r"5 images and 4 labels of train",
}


@pytest.mark.parametrize("make", MISTAKES, ids=lambda make: make.__name__)
def test_mistakes_are_one_clear_line(make, tmp_path):
    make(tmp_path)
    with pytest.raises(ValueError, match=MISTAKES[make]) as raised:
        load_folder(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_pickle_is_never_opened(tmp_path):
    """Its payload would leave a file behind."""

    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    (tmp_path / "test_batch").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ValueError, match="to read a pickle is to execute"):
        load_folder(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_folders_are_read_as_they_unpack(tmp_path):
    inner = tmp_path / "cifar" / "cifar-10-batches-bin"
    inner.mkdir(parents=True)
    write_cifar10(inner / "data_batch_1.bin", IMAGES, LABELS)
    np.testing.assert_array_equal(load_folder(tmp_path / "cifar").labels, LABELS)
    for place, dot, around in (("MNIST/raw", False, False), ("a", True, False), ("b", True, True)):
        folder = tmp_path / place
        folder.mkdir(parents=True)
        mnist(folder, GRAY, LABELS)
        for file in sorted(folder.iterdir()):
            dotted = file.name.replace("-idx", ".idx") if dot else file.name
            if around:
                (folder / dotted).mkdir()
                file.rename(folder / dotted / dotted)
            else:
                file.rename(folder / dotted)
        place = tmp_path if place == "MNIST/raw" else folder
        np.testing.assert_array_equal(load_folder(place).labels, LABELS)


def test_cifar_100_has_the_finer_labels(tmp_path):
    rows = [bytes([7]) + record(image, 10 * n) for n, image in enumerate(IMAGES)]
    (tmp_path / "train.bin").write_bytes(b"".join(rows))
    images, labels = load_folder(tmp_path)
    np.testing.assert_array_equal(labels, [0, 10, 20, 30, 40])
    np.testing.assert_array_equal(images, as_floats(IMAGES))
    (tmp_path / "train.bin").write_bytes(bytes([7]) + record(IMAGES[0], 100))
    with pytest.raises(ValueError, match="it has a label 100; CIFAR-100 has 0 to 99"):
        load_folder(tmp_path)


@pytest.mark.parametrize("name", ["cifar-10-batches-py/data_batch_1", "train", "a.pkl"])
def test_every_pickle_is_known_by_how_it_begins(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(pickle.dumps({"data": 1}))
    with pytest.raises(ValueError, match="it is a Python pickle"):
        load_folder(tmp_path)


def test_a_bomb_of_zeros_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "LARGE", 2**20)
    mnist(tmp_path, np.zeros((2**10, 64, 64), np.uint8), LABELS, suffix=".gz", write=zipped)
    with pytest.raises(ValueError, match=r"bytes unpack to .* or more"):
        load_folder(tmp_path)


def test_other_kinds_have_no_halves(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES)
    with pytest.raises(ValueError, match="not divided into halves"):
        load_folder(tmp_path / "a.npz", "test")
