"""Weights that follow from their names and shapes, so that both sides of a comparison have them.

Products keep the size of what they multiply; scales lie around one, biases around zero.
"""

import zlib

import numpy as np

SCALES = ("norm", "layrnorm")


def named_weight(name, shape):
    """The array of a name, float32."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        noise = noise / np.sqrt(np.prod(shape[1:]))
    else:
        around = float(name.endswith("weight") or name.endswith("scale"))
        noise = around + 0.3 * noise
    return np.asarray(noise, np.float32)


def direction(name, shape):
    """What a gradient is projected on, so that one number stands for it."""
    return np.random.default_rng(zlib.crc32(name.encode()) + 1).standard_normal(shape)


def load_named(module, prefix=""):
    """Give a module of PyTorch its named weights; buffers stay as they are."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(named_weight(prefix + name, tuple(parameter.shape))))
    return module.eval()


def slopes(module, prefix=""):
    """The projection of every parameter's gradient, by its name."""
    return {
        prefix + name: float(
            (parameter.grad.numpy() * direction(prefix + name, tuple(parameter.shape))).sum()
        )
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }
