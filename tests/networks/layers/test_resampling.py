"""Filtered resampling against SciPy, and its laws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import signal

from ctrl_jax.networks.layers.resampling import TAPS, FilteredConvolution, downsample, upsample
from tests.oracles.upfirdn import upfirdn2d

OTHER = (1.0, 2.0, 2.0, 1.0)


def images(height=6, width=8, channels=3):
    shape = (2, height, width, channels)
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


@partial(jax.jit, static_argnums=1)
def both(x, taps=TAPS):
    return downsample(x, taps), upsample(x, taps)


@pytest.mark.parametrize("taps", [TAPS, OTHER])
def test_both_agree_with_upfirdn(taps):
    x = images()
    expected = upfirdn2d(np.asarray(x, np.float64), taps, up=1, down=2, before=1, after=1)
    down, up = both(x, taps)
    np.testing.assert_allclose(down, expected, rtol=0, atol=1e-6)
    expected = upfirdn2d(np.asarray(x, np.float64), taps, up=2, down=1, before=2, after=1)
    np.testing.assert_allclose(up, expected, rtol=0, atol=1e-6)


def test_constants_stay_away_from_the_border():
    x = jnp.full((1, 8, 8, 2), 3.0)
    down, up = map(np.asarray, both(x))
    assert down.shape == (1, 4, 4, 2) and up.shape == (1, 16, 16, 2)
    np.testing.assert_allclose(down[:, 1:-1, 1:-1], 3.0, rtol=1e-6)
    np.testing.assert_allclose(up[:, 1:-1, 1:-1], 3.0, rtol=1e-6)
    assert down[0, 0, 0, 0] < 3.0  # zeros beyond the border


@pytest.mark.parametrize("taps", [TAPS, OTHER])
def test_up_is_four_times_the_transpose_of_down(taps):
    x, small = images(), images(3, 4)
    transpose = jax.linear_transpose(lambda x: downsample(x, taps), x)
    (transposed,) = jax.jit(lambda small: transpose(small))(small)
    up = jax.jit(lambda small: upsample(small, taps))(small)
    np.testing.assert_allclose(up, 4 * transposed, rtol=0, atol=1e-5)


def test_the_filtered_convolution_is_a_filter_and_a_convolution():
    layer = FilteredConvolution(3, 2, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.asarray([0.5, -1.0])
    x = images()
    smooth = upfirdn2d(np.asarray(x, np.float64), TAPS, up=1, down=1, before=2, after=2)
    kernel = np.asarray(layer.kernel[...], np.float64)
    expected = np.zeros((2, 3, 4, 2))
    for i in range(2):
        for o in range(2):
            for c in range(3):
                whole = signal.correlate2d(smooth[i, ..., c], kernel[..., c, o], "valid")
                expected[i, ..., o] += whole[::2, ::2]
    expected += np.array([0.5, -1.0])
    np.testing.assert_allclose(nnx.jit(layer)(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("taps", [(1.0, 3.0, 3.0), (1.0, 2.0, 3.0, 1.0), (-1.0, -1.0, -1.0, -1.0)])
def test_taps_are_checked(taps):
    with pytest.raises(ValueError, match="four symmetric numbers"):
        upsample(images(), taps)


def test_odd_images_are_refused():
    with pytest.raises(
        ValueError, match=r"downsample.x: received \(.*5, 8.*\); height and width must be even"
    ):
        downsample(images(5))
