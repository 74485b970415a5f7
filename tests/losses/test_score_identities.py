"""ESM = ISM + const = DSM + const with one lambda(t), exactly: quadrature on a Gaussian mixture.

The integrands are smooth and decay like Gaussians, so that the trapezoidal rule converges faster
than any power of its step: 160 points per axis leave only rounding in float64.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax.environments.mixture import Mixture
from ctrl_jax.losses import score_matching, time_weighting
from ctrl_jax.solvers import jacobian_trace
from tests.processes.one_of_each import PROCESSES, few_by_name

WEIGHTINGS = ("noise", "data", "v", "flow", "likelihood", "min_snr")
FRACTIONS = (0.1, 0.5, 0.9)  # of the horizon


class Losses(NamedTuple):
    """Expected losses at one time, all with the same lambda, and what (5) says of them."""

    explicit: Any
    implicit: Any
    sliced: Any
    denoising: Any
    score_square: Any
    kernel_square: Any


def network(params, x, norm):
    """A score model with a hidden layer of three, for states of standard deviation `norm`."""
    hidden = jnp.tanh(x / norm * params["w"][None] + params["b"][None])
    return (hidden @ params["v"][:, None] - params["k"] * x / norm) / norm


def start():
    return {
        "w": jnp.asarray([0.7, -0.4, 0.3]),
        "b": jnp.asarray([0.1, 0.5, -0.6]),
        "v": jnp.asarray([0.5, -1.0, 0.8]),
        "k": jnp.asarray(0.6),
    }


def trapezoid(law: Mixture, points: int):
    """Points and weights for expectations under a one-dimensional mixture."""
    spread = 11 * jnp.sqrt(jnp.max(law.variances))
    grid = jnp.linspace(jnp.min(law.means) - spread, jnp.max(law.means) + spread, points)
    log_density = jax.vmap(lambda x: jax.nn.logsumexp(law.component_log_probs(x)))
    return grid, jnp.exp(log_density(grid[:, None])) * (grid[1] - grid[0])


def expected_losses(params, process, t, weight, relative) -> Losses:
    """The losses at time t under lambda(t) = `weight` and lambda / v = `relative`."""
    data = Mixture(
        jnp.asarray([0.3, 0.7]), jnp.asarray([[-1.5], [1.0]]), jnp.asarray([[0.3], [0.5]])
    )
    scale, std = process.marginal(t)
    norm = jnp.sqrt(scale**2 + std**2)
    law = data.noised(scale, std)
    grid, mass = trapezoid(law, 600)
    x, weights = grid[:, None], jnp.broadcast_to(weight, mass.shape)
    target = jax.vmap(law.score)(x)
    value, div = jacobian_trace.exact(lambda x: network(params, x, norm), x)
    _, curvature = jacobian_trace.projected(
        lambda x: network(params, x, norm), x, -jnp.ones_like(x)
    )

    x_grid, x_mass = trapezoid(data, 160)
    normal = Mixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.ones((1, 1)))
    noise_grid, noise_mass = trapezoid(normal, 160)
    x_0, noise = (g.reshape(-1, 1) for g in jnp.meshgrid(x_grid, noise_grid, indexing="ij"))
    joint = jnp.outer(x_mass, noise_mass).ravel()
    denoising = score_matching.denoising(
        network(params, scale * x_0 + std * noise, norm),
        noise,
        jnp.broadcast_to(std, joint.shape),
        weights=jnp.broadcast_to(relative, joint.shape),
    )
    return Losses(
        mass @ score_matching.explicit(value, target, weights=weights),
        mass @ score_matching.implicit(value, div, weights=weights),
        mass @ score_matching.sliced(value, curvature, weights=weights),
        joint @ denoising,
        mass @ (weights * target[:, 0] ** 2),
        weight / std**2,
    )


@few_by_name
def test_one_loss_and_one_gradient(name):
    process = PROCESSES[name]
    with jax.enable_x64(True):

        @jax.jit
        def evaluate(params, t, weight, relative):
            def losses(params):
                found = expected_losses(params, process, t, weight, relative)
                return jnp.stack(found[:4]), found

            return jax.jacrev(losses, has_aux=True)(params)

        for fraction, weighting in itertools.product(FRACTIONS, WEIGHTINGS):
            t = jnp.asarray(fraction * process.horizon)
            weight = getattr(time_weighting, weighting)(process)
            relative = time_weighting.relative(process, weight)(t)
            gradients, found = evaluate(start(), t, weight(t), relative)
            check(found, gradients)


def check(found: Losses, gradients) -> None:
    size = abs(float(found.kernel_square)) + abs(float(found.explicit))
    for other in (
        found.implicit + found.score_square,
        found.sliced + found.score_square,
        found.denoising - found.kernel_square + found.score_square,
    ):
        np.testing.assert_allclose(other, found.explicit, atol=1e-9 * size)
    for leaf in jax.tree.leaves(gradients):
        for other in leaf[1:]:
            np.testing.assert_allclose(other, leaf[0], atol=1e-9 * float(jnp.max(jnp.abs(leaf))))
    # The model is not the score, so that the law above is not 0 = 0.
    assert float(found.explicit) > 1e-3 * float(found.score_square)
