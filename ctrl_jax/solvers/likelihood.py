r"""Likelihood of data under a diffusion model, by the instantaneous change of variables.

The probability flow in forward time, dx/dt = f(t, x) = b x - 1/2 \sigma^2 s(t, x), carries data to
the prior, and the log-density along it changes by minus the divergence of f:

    log p(x_0) = log \pi(x_T) + \int_0^T div f(t, x_t) dt,                                    (1)
    div f = d b - 1/2 \sigma^2 div s.

The divergence is the trace of the score's Jacobian (`exact`, d Jacobian-vector products), or
Hutchinson's unbiased estimate of it, E z^T (ds/dx) z over random signs z (`hutchinson`), one draw
of which is kept along the whole flow. The linear part is integrated exactly: \int b = log a. A
network that predicts something else has another linear part, whose integral is known too
(`processes.prediction`, (2)), and one that tells of the data up to the horizon is followed up to
it. What is found is the density of the *model*, the law that the flow makes of the prior \pi; it
integrates to one, and it is the density of the data if the score is exact and \pi is the law at the
horizon.
Source: Song et al. 2021, section 4.3 and appendix D.2; Chen et al. 2018, eq. 8.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ctrl_jax._checks import (
    check_all_positive,
    check_choice,
    check_count,
    check_end,
    check_positive,
    refuse,
)
from ctrl_jax._door import at_the_door
from ctrl_jax._typing import ScoreFn
from ctrl_jax.processes import LinearProcess, Prediction
from ctrl_jax.processes.prediction import BLIND, log_growth, read_flow
from ctrl_jax.solvers.adaptive import solve
from ctrl_jax.solvers.gaussian_step import gaussian_log_prob
from ctrl_jax.solvers.jacobian_trace import Field, exact, projected, rademacher


class Settings(NamedTuple):
    """How the flow is solved.

    Fields:
        begin: forward time at which the data are taken to be, as a fraction of the horizon; by
            default a hundredth of `process.end`.
        tolerance: relative and absolute error that a step may make.
        max_steps: attempted steps after which an example is given up (`ok` is false).
        probes: number of random signs that Hutchinson's estimate averages over.
    """

    begin: float | None = None
    tolerance: float = 1e-5
    max_steps: int = 4096
    probes: int = 1


class Likelihood(NamedTuple):
    """What the flow says of each example.

    Fields:
        log_prob: log-density in nats, summed over dimensions, shape (batch,).
        latent: where the flow ends at the horizon, shape (batch, ...).
        steps: attempted steps, shape (batch,).
        ok: whether the solve succeeded, shape (batch,).
    """

    log_prob: Float[Array, " batch"]
    latent: Float[Array, "batch ..."]
    steps: Int[Array, " batch"]
    ok: Bool[Array, " batch"]


@at_the_door
def log_likelihood(
    process: LinearProcess,
    score_fn: ScoreFn,
    x_0: Float[Array, "batch ..."],
    *,
    divergence: Literal["exact", "hutchinson"] = "exact",
    key: Array | None = None,
    prior_log_prob: Callable[[Array], Array] | None = None,
    settings: Settings | None = None,
    prediction: Prediction = "score",
    conditions: tuple[Array, ...] = (),
) -> Likelihood:
    """Return the log-density of each example under the model.

    Args:
        process: the forward process.
        score_fn: ``score_fn(t, x, *conditions)``, t the forward time; it sees batches of one.
        x_0: data, shape (batch, ...).
        divergence: "exact", or "hutchinson" with `key`.
        key: PRNG key of Hutchinson's random signs.
        prior_log_prob: log-density at the horizon, ``prior_log_prob(x)`` of shape (batch,) for x of
            x_0's shape; N(0, prior_std()^2 I) by default.
        settings: of the numerical solution, `Settings()` by default.
        prediction: what `score_fn` returns, "score", "noise", "data", "v" or "flow".
        conditions: arrays with leading axis batch, handed to `score_fn`.

    Returns:
        The `Likelihood`; differentiable in reverse mode.

    Raises:
        ValueError: "hutchinson" comes without a key, or "exact" with one; there are no examples;
            or the score has not x's shape.
    """
    settings = settings or Settings()
    _check(divergence, key, settings)
    if x_0.shape[0] == 0:
        raise refuse("x_0.shape", x_0.shape, "it must hold an example", "drop the empty batch")
    # Data live at a(0), which is one for every process but a scaled `EDM`.
    at_data = process.marginal(jnp.asarray(0.0)).scale
    x_0 = x_0 * at_data.astype(x_0.dtype)
    begin = 1e-2 * process.end if settings.begin is None else settings.begin * process.horizon
    last = process.latest if prediction in BLIND else process.horizon

    def one(x, probes, condition):
        batched = [c[None] for c in condition]
        sde = process.reverse(lambda t, y: score_fn(t, y, *batched), prediction=prediction)

        def field(r, state, args):
            t, (y, _) = begin + r, state
            read = read_flow(process, t, prediction)
            value, trace = _with_divergence(partial(sde.predict, t), y[None], probes)
            return read.state * y + read.action * value[0], read.action * trace[0]

        start = (x, jnp.zeros((), x.dtype))
        return solve(field, start, last - begin, settings.tolerance, None, settings.max_steps)

    probes = None if key is None else _signs(key, settings.probes, x_0)
    (latent, change), steps, ok = jax.vmap(one, in_axes=(0, 1, 0))(x_0, probes, conditions)
    if prior_log_prob is None:
        std = process.prior_std().astype(latent.dtype)
        prior = gaussian_log_prob(latent / std, std)
    else:
        prior = prior_log_prob(latent)
    ends = (log_growth(process, jnp.asarray(t), prediction) for t in (last, begin))
    growth = next(ends) - next(ends) + jnp.log(at_data)
    return Likelihood(prior + change + x_0[0].size * growth, latent, steps, ok)


@at_the_door
def bits_per_dim(
    log_prob: Float[Array, " batch"], dimension: int, *, bin_width: float = 1.0
) -> Float[Array, " batch"]:
    """Return -log2 of the probability of a quantization bin, per dimension.

    Args:
        log_prob: log-density in nats, shape (batch,).
        dimension: number of dimensions of an example.
        bin_width: width of the bins in the data's unit: 2 / 256 for bytes scaled to [-1, 1].

    Raises:
        ValueError: `dimension` or `bin_width` is not positive.
    """
    check_count("bits_per_dim.dimension", dimension)
    check_positive("bits_per_dim.bin_width", bin_width)
    return -log_prob / (dimension * math.log(2)) - math.log2(bin_width)


def _with_divergence(field: Field, y: Array, probes: Array | None) -> tuple[Array, Array]:
    """Return the field and its divergence at a batch of one."""
    if probes is None:
        return exact(field, y)
    estimate = jax.vmap(lambda v: projected(field, y, v[None]), out_axes=(None, 0))
    value, traces = estimate(probes)
    return value, jnp.mean(traces, axis=0)


def _signs(key: Array, probes: int, x: Array) -> Array:
    """Return signs of shape (probes, batch, ...)."""
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(probes))
    return jax.vmap(lambda k: rademacher(k, x))(keys)


def _check(divergence, key, settings):
    check_all_positive("log_likelihood", tolerance=settings.tolerance)
    if settings.begin is not None:
        check_end(settings.begin, 1.0, name="begin", zero=True)
    check_count("probes", settings.probes)
    check_count("max_steps", settings.max_steps)
    check_choice("divergence", divergence, ("exact", "hutchinson"))
    if divergence == "hutchinson" and key is None:
        raise refuse("key", None, 'divergence="hutchinson" draws random signs', "pass a PRNG key")
    if divergence == "exact" and key is not None:
        rule = "the exact divergence draws nothing"
        raise refuse("key", "a key", rule, 'drop it, or take divergence="hutchinson"')
