"""The sampling benchmark in PyTorch: the same step, noise drawn inside, no gradient recorded."""

import os
import time

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.harness import Runner
from benchmarks.threads import cores

torch.set_num_threads(cores())


def load(params, x_0, grid):
    """Return weights in PyTorch's layout (out, in), the start states, and Python floats (t, dt)."""
    weights = [(_tensor(kernel.T), _tensor(bias)) for kernel, bias in params]
    grid = np.asarray(grid, np.float64)
    return weights, _tensor(x_0), list(zip(1 - grid[:-1], np.diff(grid), strict=True))


def score(weights, t, x):
    """Return the perceptron's score; t a number or a tensor of no axes."""
    time = torch.full((x.shape[0], 1), t) if isinstance(t, float) else t.expand(x.shape[0], 1)
    hidden = torch.cat([x, time], dim=1)
    for i, (weight, bias) in enumerate(weights):
        hidden = F.linear(hidden, weight, bias)
        hidden = F.silu(hidden) if i < 2 else hidden
    return hidden - x


def step(weights, x, t, dt, noise=None):
    """Return the state after one Euler-Maruyama step of the reversal."""
    beta = 0.1 + 19.9 * t
    noise = torch.randn_like(x) if noise is None else noise
    drift = beta * score(weights, t, x) + beta / 2 * x
    return x + drift * dt + (beta * dt) ** 0.5 * noise


def eager(params, x_0, grid, *, gradient: bool) -> Runner:
    """Return the loop, and its gradient in the parameters where asked for."""
    weights, x_0, times = load(params, x_0, grid)
    leaves = [leaf for pair in weights for leaf in pair]

    def sample():
        x = x_0
        for t, dt in times:
            x = step(weights, x, float(t), float(dt))
        return x

    def differentiate():
        for leaf in leaves:
            leaf.requires_grad_()
        return torch.autograd.grad(sample().square().mean(), leaves)

    return Runner(differentiate if gradient else torch.no_grad()(sample))


def compiled(params, x_0, grid) -> Runner:
    """Return the loop over the step compiled by inductor; times are tensors, so it traces once."""
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "0")
    weights, x_0, times = load(params, x_0, grid)
    tensors = [(torch.tensor(t).float(), torch.tensor(dt).float()) for t, dt in times]
    compiled_step = torch.compile(step, fullgraph=True, dynamic=False)

    @torch.no_grad()
    def sample():
        x = x_0
        for t, dt in tensors:
            x = compiled_step(weights, x, t, dt)
        return x

    start = time.perf_counter()
    with torch.no_grad():
        compiled_step(weights, x_0, *tensors[0])
    return Runner(sample, compile_seconds=time.perf_counter() - start)


def _tensor(array):
    return torch.tensor(np.ascontiguousarray(array))
