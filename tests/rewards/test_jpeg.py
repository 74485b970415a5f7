"""Sizes of JPEG files against Pillow's, and their estimate."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ctrl_jax.rewards import jpeg_size, soft_jpeg_size
from tests.rewards.real_pictures import china, flower

SIZE = jax.jit(jpeg_size, static_argnums=1)
SOFT = jax.jit(soft_jpeg_size, static_argnums=1)


def pillows(levels, quality):
    """Kilobytes of a file, but for the bytes 0 that follow 255."""
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality)
    data = file.getvalue()
    stuffed = data[data.rindex(b"\xff\xda") :].count(b"\xff\x00")
    return len(data) / 1000, (len(data) - stuffed) / 1000


def scaled(levels):
    return jnp.asarray(levels, jnp.float32) / 255


def sizes(pictures, quality):
    """Ours and Pillow's, with the bytes 0 and without."""
    found = np.asarray(SIZE(scaled(np.stack(pictures)), quality))
    whole, plain = np.array([pillows(picture, quality) for picture in pictures]).T
    # What is stuffed is an estimate; all else is exact up to the rounding of coefficients.
    return found / whole, (0.625 + (found - 0.625) / 1.004) / plain


SIZES, QUALITIES = ((64, 96), (41, 71), (9, 24), (1, 1)), (10, 50, 95, 100)
# Quickly: every size at one quality, and every quality at one size.
CASES = [
    pytest.param(s, q, marks=() if s == (41, 71) or q == 50 else pytest.mark.slow)
    for s in SIZES
    for q in QUALITIES
]


@pytest.mark.parametrize(("size", "quality"), CASES)
def test_sizes_of_photographs_are_pillows(size, quality):
    part = slice(90, 90 + size[0]), slice(200, 200 + size[1])
    whole, plain = sizes([china()[part], flower()[part]], quality)
    np.testing.assert_allclose(whole, 1, atol=0.01)
    np.testing.assert_allclose(plain, 1, atol=0.003)


def test_many_zeros_before_a_number_are_written_as_pillow_does():
    waves = np.cos((np.arange(64) + 0.5) * 7 * np.pi / 8)[None, :, None] * np.ones((64, 1, 3))
    turned = np.swapaxes(waves, 0, 1)
    plain = sizes([(127 + 100 * w).astype(np.uint8) for w in (waves, turned)], 50)[1]
    np.testing.assert_allclose(plain, 1, atol=0.001)


def test_a_photograph_and_its_copies():
    pictures = np.stack([china(), flower(), china()])
    found = np.asarray(SIZE(scaled(pictures), 95))
    expected = [pillows(picture, 95)[0] for picture in pictures]
    np.testing.assert_allclose(found, expected, rtol=0.005)
    assert found[0] == found[2]


def test_a_picture_that_is_no_number_has_no_size():
    pictures = scaled(np.stack([china(), flower()])[:, :16, :16]).at[0, 3, 4, 1].set(jnp.nan)
    for size in (SIZE(pictures, 95), SOFT(pictures, 95)):
        np.testing.assert_array_equal(jnp.isnan(size), [True, False])


def noisy():
    crops = [image[i : i + 48, j : j + 48] for image in (china(), flower()) for i, j in PLACES]
    noise = np.random.default_rng(0).normal(size=(len(crops), 48, 48, 3))
    strength = np.linspace(0, 40, len(crops)).reshape(-1, 1, 1, 1)
    return scaled(np.clip(np.stack(crops) + strength * noise, 0, 255).round())


PLACES = [(i, j) for i in (0, 130, 260) for j in (50, 250, 450)]


@pytest.mark.parametrize("quality", [10, 50, 95])
def test_the_estimate_follows_the_size(quality):
    pictures = noisy()
    exact, soft = (np.asarray(f(pictures, quality)) - 0.625 for f in (SIZE, SOFT))
    assert np.sqrt(np.mean((soft / exact - 1) ** 2)) < 0.2
    assert np.corrcoef(np.log(soft), np.log(exact))[0, 1] > 0.97


def test_following_the_derivative_makes_files_smaller_or_larger():
    pictures = noisy()[::3]
    slope = jax.jit(jax.grad(lambda x: jnp.sum(soft_jpeg_size(x, 75))))
    less = more = pictures
    for _ in range(6):
        less -= 0.5 / 255 * jnp.sign(slope(less))
        more += 0.5 / 255 * jnp.sign(slope(more))
    before, less, more = (np.asarray(SIZE(x, 75)) for x in (pictures, less, more))
    assert (less < before).all() and (less / before).mean() < 0.97
    assert (more > 1.02 * before).all()
    assert not jax.grad(lambda x: jnp.sum(SIZE(x, 75)))(pictures).any()


@pytest.mark.parametrize(
    ("pictures", "quality", "message"),
    [
        (np.zeros((1, 8, 8, 3), np.uint8), 95, r"pictures: received .*divide bytes by 255\.0"),
        (np.zeros((8, 8, 3), np.float32), 95, r"pictures: .*\(batch, height, width, 3\)"),
        (np.zeros((1, 8, 8, 1), np.float32), 95, r"pictures: .*\(batch, height, width, 3\)"),
        (np.zeros((1, 8, 8, 3), np.float32), 0, r"quality: received 0; .*at least 1"),
        (np.zeros((1, 8, 8, 3), np.float32), 101, r"quality: received 101; .*at most 100"),
        (np.zeros((1, 8, 8, 3), np.float32), 0.9, r"quality: received 0\.9; .*whole number"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_mistakes(pictures, quality, message):
    with pytest.raises(ValueError, match=message):
        jpeg_size(pictures, quality)
    with pytest.raises(ValueError, match=message):
        soft_jpeg_size(pictures, quality)
