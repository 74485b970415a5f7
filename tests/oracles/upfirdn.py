"""Upsample, filter, downsample in two dimensions, by SciPy's full convolution.

The published resampling: zeros between pixels (up), a two-dimensional filter, every second pixel
(down), with padding chosen so that sizes are exactly halved or doubled.
"""

import numpy as np
from scipy import signal


def upfirdn2d(x, taps, up, down, before, after):
    """Images (batch, h, w, c) in float64; `before` and `after` pad rows and columns."""
    kernel = np.outer(taps, taps) / np.sum(taps) ** 2 * up**2
    batch, rows, columns, channels = x.shape
    spread = np.zeros((batch, rows * up, columns * up, channels))
    spread[:, ::up, ::up] = x
    padded = np.pad(spread, ((0, 0), (before, after), (before, after), (0, 0)))
    filtered = [
        [signal.convolve2d(image[..., c], kernel, mode="valid") for c in range(channels)]
        for image in padded
    ]
    return np.moveaxis(np.array(filtered), 1, -1)[:, ::down, ::down]
