"""Inception-v3 of FID in NumPy, channels first, from a dictionary of named arrays.

Written layer by layer from the published architecture; it shares nothing with the library but the
names of the weights. Convolutions are products over windows in float64.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def convolve(x, weight, stride=1, padding=(0, 0)):
    """x (batch, inputs, h, w), weight (outputs, inputs, i, j)."""
    (up, left), (_, _, i, j) = padding, weight.shape
    padded = np.pad(x, ((0, 0), (0, 0), (up, up), (left, left)))
    windows = sliding_window_view(padded, (i, j), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", windows, weight, optimize=True)


def pooled(x, reduce, stride=1, padding=0):
    """Reduce 3 x 3 windows; padding is NaN, for the NaN-ignoring reductions."""
    widths = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    windows = sliding_window_view(np.pad(x, widths, constant_values=np.nan), (3, 3), axis=(2, 3))
    return reduce(windows[:, :, ::stride, ::stride], axis=(-2, -1))


class Inception:
    """`weights` maps published names to arrays."""

    def __init__(self, weights):
        self.weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}

    def layer(self, x, name, stride=1, padding=(0, 0)):
        w = self.weights
        y = convolve(x, w[f"{name}.conv.weight"], stride, padding)

        def per_channel(part):
            return w[f"{name}.bn.{part}"][:, None, None]

        spread = np.sqrt(per_channel("running_var") + 0.001)
        y = (y - per_channel("running_mean")) / spread * per_channel("weight") + per_channel("bias")
        return np.maximum(y, 0)

    def block_a(self, x, n):
        one = self.layer(x, f"{n}.branch1x1")
        five = self.layer(self.layer(x, f"{n}.branch5x5_1"), f"{n}.branch5x5_2", padding=(2, 2))
        three = self.layer(x, f"{n}.branch3x3dbl_1")
        three = self.layer(three, f"{n}.branch3x3dbl_2", padding=(1, 1))
        three = self.layer(three, f"{n}.branch3x3dbl_3", padding=(1, 1))
        pool = self.layer(pooled(x, np.nanmean, padding=1), f"{n}.branch_pool")
        return np.concatenate([one, five, three, pool], 1)

    def block_b(self, x, n):
        three = self.layer(x, f"{n}.branch3x3", 2)
        double = self.layer(x, f"{n}.branch3x3dbl_1")
        double = self.layer(double, f"{n}.branch3x3dbl_2", padding=(1, 1))
        double = self.layer(double, f"{n}.branch3x3dbl_3", 2)
        return np.concatenate([three, double, pooled(x, np.max, 2)], 1)

    def block_c(self, x, n):
        one = self.layer(x, f"{n}.branch1x1")
        seven = self.layer(x, f"{n}.branch7x7_1")
        seven = self.layer(seven, f"{n}.branch7x7_2", padding=(0, 3))
        seven = self.layer(seven, f"{n}.branch7x7_3", padding=(3, 0))
        double = self.layer(x, f"{n}.branch7x7dbl_1")
        for part, padding in enumerate([(3, 0), (0, 3), (3, 0), (0, 3)], 2):
            double = self.layer(double, f"{n}.branch7x7dbl_{part}", padding=padding)
        pool = self.layer(pooled(x, np.nanmean, padding=1), f"{n}.branch_pool")
        return np.concatenate([one, seven, double, pool], 1)

    def block_d(self, x, n):
        three = self.layer(self.layer(x, f"{n}.branch3x3_1"), f"{n}.branch3x3_2", 2)
        seven = self.layer(x, f"{n}.branch7x7x3_1")
        seven = self.layer(seven, f"{n}.branch7x7x3_2", padding=(0, 3))
        seven = self.layer(seven, f"{n}.branch7x7x3_3", padding=(3, 0))
        seven = self.layer(seven, f"{n}.branch7x7x3_4", 2)
        return np.concatenate([three, seven, pooled(x, np.max, 2)], 1)

    def block_e(self, x, n, reduce):
        one = self.layer(x, f"{n}.branch1x1")
        three = self.layer(x, f"{n}.branch3x3_1")
        wide = self.layer(three, f"{n}.branch3x3_2a", padding=(0, 1))
        tall = self.layer(three, f"{n}.branch3x3_2b", padding=(1, 0))
        double = self.layer(x, f"{n}.branch3x3dbl_1")
        double = self.layer(double, f"{n}.branch3x3dbl_2", padding=(1, 1))
        wide_2 = self.layer(double, f"{n}.branch3x3dbl_3a", padding=(0, 1))
        tall_2 = self.layer(double, f"{n}.branch3x3dbl_3b", padding=(1, 0))
        pool = self.layer(pooled(x, reduce, padding=1), f"{n}.branch_pool")
        return np.concatenate([one, wide, tall, wide_2, tall_2, pool], 1)

    def __call__(self, images):
        """Features and logits of images (batch, h, w, 3) that are not resized."""
        x = np.moveaxis(np.asarray(images, np.float64), -1, 1)
        x = self.layer(self.layer(x, "Conv2d_1a_3x3", 2), "Conv2d_2a_3x3")
        x = pooled(self.layer(x, "Conv2d_2b_3x3", padding=(1, 1)), np.max, 2)
        x = self.layer(self.layer(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3")
        x = pooled(x, np.max, 2)
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self.block_a(x, name)
        x = self.block_b(x, "Mixed_6a")
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x = self.block_c(x, name)
        x = self.block_d(x, "Mixed_7a")
        x = self.block_e(x, "Mixed_7b", np.nanmean)
        x = self.block_e(x, "Mixed_7c", np.nanmax)
        features = x.mean((2, 3))
        return features, features @ self.weights["fc.weight"].T + self.weights["fc.bias"]
