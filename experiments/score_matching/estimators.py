"""Gradient estimates of the score-matching objectives on one set of draws."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ctrl_jax._numerics import expand
from ctrl_jax._typing import Model
from ctrl_jax.environments.mixture import Mixture
from ctrl_jax.losses import score_matching, time_weighting
from ctrl_jax.networks import MLP, as_model
from ctrl_jax.processes import LinearProcess
from ctrl_jax.processes.consistency_function import score_from_normalized_v
from ctrl_jax.solvers import jacobian_trace

OBJECTIVES = ("explicit", "implicit", "sliced", "sliced, plain", "denoising")


class Draws(NamedTuple):
    """Everything random in one batch, shared by all objectives."""

    t: Float[Array, " batch"]
    x_t: Float[Array, "batch d"]
    noise: Float[Array, "batch d"]
    target: Float[Array, "batch d"]
    signs: Float[Array, "batch d"]
    normals: Float[Array, "batch d"]


def make_mixture(dimension: int) -> Mixture:
    """Return three Gaussians of unequal weight and spread, near unit variance in any dimension."""
    generator = np.random.default_rng(dimension)
    means = generator.normal(size=(3, dimension))
    means = 1.2 * means / np.linalg.norm(means, axis=1, keepdims=True) * dimension**0.5
    variances = np.asarray([0.05, 0.1, 0.2])[:, None] * np.ones((1, dimension))
    arrays = (np.asarray([0.5, 0.3, 0.2]), means, variances)
    return Mixture(*(jnp.asarray(a, jnp.float32) for a in arrays))


def make_model(process: LinearProcess, dimension: int, width: int) -> Model:
    """Return a small score network."""
    network = as_model(
        lambda rngs: MLP((dimension,), width=width, depth=1, horizon=process.horizon, rngs=rngs)
    )

    def apply(params, t, x, *conditions):
        return score_from_normalized_v(process, lambda t, x: network.apply(params, t, x))(t, x)

    return Model(network.init, apply)


def draw(
    key: Array, process: LinearProcess, law: Mixture, number: int, times: tuple[float, float]
) -> Draws:
    """Draw a batch with times stratified uniformly over an interval."""
    keys = jax.random.split(key, 5)
    low, high = times
    t = low + (high - low) * (jnp.arange(number) + jax.random.uniform(keys[0], (number,))) / number
    x_0 = law.sample(keys[1], number)
    x_t, noise = process.sample_marginal(keys[2], x_0, t)
    scale, std = process.marginal(t)
    target = jax.vmap(lambda x, a, s: law.noised(a, s).score(x))(x_t, scale, std)
    signs, normals = jacobian_trace.rademacher(keys[3], x_t), jacobian_trace.gaussian(keys[4], x_t)
    return Draws(t, x_t, noise, target, signs, normals)


def make_losses(
    process: LinearProcess, model: Model
) -> dict[str, Callable[[Any, Draws], Float[Array, ""]]]:
    """Return the mean loss of each objective, all with lambda = v."""
    weighting = time_weighting.noise(process)

    def explicit(params, draws):
        score = model.apply(params, draws.t, draws.x_t)
        return score_matching.explicit(score, draws.target, weights=weighting(draws.t))

    def implicit(params, draws):
        score, div = jacobian_trace.exact(lambda x: model.apply(params, draws.t, x), draws.x_t)
        return score_matching.implicit(score, div, weights=weighting(draws.t))

    def sliced(params, draws):
        score, curvature = jacobian_trace.projected(
            lambda x: model.apply(params, draws.t, x), draws.x_t, draws.signs
        )
        return score_matching.sliced(score, curvature, weights=weighting(draws.t))

    def sliced_plain(params, draws):
        v = draws.normals
        score, curvature = jacobian_trace.projected(
            lambda x: model.apply(params, draws.t, x), draws.x_t, v
        )
        return score_matching.sliced(score, curvature, direction=v, weights=weighting(draws.t))

    def denoising(params, draws):
        score = model.apply(params, draws.t, draws.x_t)
        return score_matching.denoising(score, draws.noise, process.marginal(draws.t).std)

    functions = (explicit, implicit, sliced, sliced_plain, denoising)

    def mean(loss):
        return lambda params, draws: jnp.mean(loss(params, draws))

    return {name: mean(loss) for name, loss in zip(OBJECTIVES, functions, strict=True)}


def score_error(process: LinearProcess, model: Model, params: Any, draws: Draws) -> Array:
    """Return the mean of v |s - true score|^2 / d."""
    gap = model.apply(params, draws.t, draws.x_t) - draws.target
    return jnp.mean(jnp.square(expand(process.marginal(draws.t).std, gap) * gap))


def gradients(
    losses, params: Any, draws_of_key, keys: Array
) -> dict[str, Float[Array, "batches parameters"]]:
    """Return one flat gradient per key of each loss, all of the same draws."""

    def one(key):
        draws = draws_of_key(key)
        return {n: ravel_pytree(jax.grad(loss)(params, draws))[0] for n, loss in losses.items()}

    return jax.lax.map(one, keys)


class Agreement(NamedTuple):
    """How gradient estimates of one objective compare with those of the explicit one.

    Fields:
        variance: trace of the covariance of one batch's gradient, over its squared mean.
        slope: component of the mean gradient along the explicit one, over its length: 1 if they
            agree. Batches are paired, so that only what the objectives do not share scatters.
        slope_error: standard error of the slope.
        largest_z: largest deviation of the mean difference along fixed directions, in standard
            errors.
    """

    variance: float
    slope: float
    slope_error: float
    largest_z: float


def compare(found: np.ndarray, reference: np.ndarray, *, directions: int = 16) -> Agreement:
    """Return the agreement of paired gradients (batches, parameters) with those of reference."""
    truth = reference.mean(axis=0)
    size = np.linalg.norm(truth)
    variance = found.var(axis=0, ddof=1).sum() / size**2
    # Signs weigh all parameters alike; the true gradient itself is the direction that matters.
    signs = np.random.default_rng(0).choice([-1.0, 1.0], size=(directions - 1, truth.size))
    along = (found - reference) @ np.vstack([truth / size, signs]).T
    spread = along.std(axis=0, ddof=1) / np.sqrt(len(along))
    shift = along.mean(axis=0)
    z = np.abs(shift) / np.where(spread > 0, spread, 1.0)
    slope, error = 1 + shift[0] / size, spread[0] / size
    return Agreement(float(variance), float(slope), float(error), float(z.max()))
