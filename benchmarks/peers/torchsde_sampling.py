"""The sampling benchmark in torchsde, as its README would have it."""

import torch
import torchsde

from benchmarks.harness import Runner
from benchmarks.peers.torch_sampling import load, score


class Reversal:
    """The reversal of VP with diagonal noise."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, weights):
        self.weights = weights

    def f(self, r, x):
        """Return the drift at reverse time r."""
        beta = 0.1 + 19.9 * (1 - r)
        return beta * (score(self.weights, 1 - r, x) + x / 2)

    def g(self, r, x):
        """Return the diffusion at reverse time r."""
        return torch.sqrt(0.1 + 19.9 * (1 - r)).expand_as(x)


def euler(params, x_0, grid) -> Runner:
    """Return Euler's method on the same grid."""
    weights, x_0, times = load(params, x_0, grid)
    span = torch.tensor([0.0, sum(dt for _, dt in times)], dtype=torch.float32)
    sde = Reversal(weights)

    @torch.no_grad()
    def sample():
        return torchsde.sdeint(sde, x_0, span, dt=float(times[0][1]), method="euler")[-1]

    return Runner(sample)
