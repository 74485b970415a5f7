"""The library's networks in PyTorch, on the same weights: ``network(params, t, x)``, t a vector.

Weights come as the nested dictionaries of `ctrl_jax.networks` and are stored as PyTorch likes them:
(out, in) for linear layers, (out, in, 3, 3) in channels-last memory for convolutions.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.threads import cores

torch.set_num_threads(cores())


def load(params):
    """Return the tree of arrays as leaf tensors."""
    if isinstance(params, dict):
        return {key: load(value) for key, value in params.items()}
    array = np.array(params)
    if array.ndim == 2:
        return torch.from_numpy(np.ascontiguousarray(array.T)).requires_grad_()
    if array.ndim == 4:
        tensor = torch.from_numpy(np.ascontiguousarray(array.transpose(3, 2, 0, 1)))
        return tensor.contiguous(memory_format=torch.channels_last).requires_grad_()
    return torch.from_numpy(array).requires_grad_()


def leaves(params) -> list[torch.Tensor]:
    """Return the tensors of a tree, sorted by name as JAX sorts them."""
    if isinstance(params, dict):
        return [leaf for key in sorted(params) for leaf in leaves(params[key])]
    return [params]


def perceptron(params, t, x):
    """The perceptron of `rollout_update`."""
    layers = params["layers"]
    hidden = torch.cat([x, t.reshape(-1, 1).expand(x.shape[0], 1)], dim=1)
    hidden = F.silu(_linear(layers[0], hidden))
    return _linear(layers[2], F.silu(_linear(layers[1], hidden)))


def mlp(params, t, x):
    """`ctrl_jax.networks.MLP`."""
    condition = _conditioning(params["condition"], t)
    hidden = _linear(params["enter"], x.reshape(x.shape[0], -1))
    for _, block in sorted(params["blocks"].items()):
        shift, scale, gate = _linear(block["modulation"], condition).chunk(3, dim=-1)
        inner = F.silu(_linear(block["hidden"], _normalize(hidden) * (1 + scale) + shift))
        hidden = hidden + (1 + gate) * _linear(block["out"], inner)
    return _linear(params["leave"], _normalize(hidden))


def dit(params, t, x, *, patch: int = 2, heads: int = 4):
    """`ctrl_jax.networks.DiT`."""
    condition = _conditioning(params["condition"], t)
    batch, rows, columns, channels = x.shape
    split = x.reshape(batch, rows // patch, patch, columns // patch, patch, channels)
    patches = split.transpose(2, 3).reshape(batch, -1, patch * patch * channels)
    positions = params["positions"].T  # stored like a kernel
    tokens = _linear(params["enter"], patches) + positions
    for _, block in sorted(params["blocks"].items()):
        parts = _linear(block["modulation"], condition)[:, None].chunk(6, dim=-1)
        shift, scale, gate, shift_2, scale_2, gate_2 = parts
        inner = _attention(block["attention"], _normalize(tokens) * (1 + scale) + shift, heads)
        tokens = tokens + gate * inner
        inner = _linear(block["hidden"], _normalize(tokens) * (1 + scale_2) + shift_2)
        inner = F.gelu(inner, approximate="tanh")
        tokens = tokens + gate_2 * _linear(block["out"], inner)
    shift, scale = _linear(params["modulation"], condition)[:, None].chunk(2, dim=-1)
    result = _linear(params["leave"], _normalize(tokens) * (1 + scale) + shift)
    result = result.reshape(batch, rows // patch, columns // patch, patch, patch, channels)
    return result.transpose(2, 3).reshape(x.shape)


def unet(params, t, x):
    """`ctrl_jax.networks.UNet`; a view with channels second of the same memory."""
    condition = _conditioning(params["condition"], t)
    hidden, across = _convolution(params["enter"], x.permute(0, 3, 1, 2)), []
    for level, block in sorted(params["down"].items()):
        hidden = _residual(block, F.avg_pool2d(hidden, 2) if level else hidden, condition)
        across.append(hidden)
    hidden = _residual(params["middle"], hidden, condition)
    for level, block in sorted(params["up"].items()):
        hidden = F.interpolate(hidden, scale_factor=2, mode="nearest") if level else hidden
        hidden = _residual(block, torch.cat([hidden, across.pop()], dim=1), condition)
    hidden = F.silu(_normalize(hidden.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    return _convolution(params["leave"], hidden).permute(0, 2, 3, 1)


def _residual(params, x, condition):
    shift, scale = _linear(params["modulation"], condition)[:, None, None].chunk(2, dim=-1)
    hidden = _convolution(params["first"], F.silu(x)).permute(0, 2, 3, 1)
    hidden = F.silu(_normalize(hidden) * (1 + scale) + shift).permute(0, 3, 1, 2)
    if "skip" in params:
        weight = params["skip"]["kernel"][:, :, None, None]
        x = F.conv2d(x, weight, params["skip"]["bias"])
    return x + _convolution(params["second"], hidden)


def _convolution(params, x):
    return F.conv2d(x, params["kernel"], params["bias"], padding=1)


def _attention(params, x, heads):
    batch, tokens, width = x.shape
    split = _linear(params["project"], x).reshape(batch, tokens, 3, heads, width // heads)
    query, key, value = split.permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    return _linear(params["out"], mixed.reshape(batch, tokens, width))


def _conditioning(params, t):
    frequencies = params["hidden"]["kernel"].shape[1] // 2
    rates = torch.exp(torch.linspace(0.0, math.log(1000.0), frequencies))
    angles = t.reshape(-1, 1) * rates
    features = torch.cat([angles.sin(), angles.cos()], dim=1)
    return F.silu(_linear(params["out"], F.silu(_linear(params["hidden"], features))))


def _linear(params, x):
    return F.linear(x, params["kernel"], params["bias"])


def _normalize(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)
