r"""Adaptive solution of the probability flow, one step size per example.

The flow dx/dr of an example is solved by diffrax's `diffeqsolve` with a PID controller, vmapped
over the batch: every example chooses its own steps, so none depends on its batch-mates. Nothing
throws; a solve that runs out of steps, or meets what is not finite, is reported in `ok`.
"""

from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ctrl_jax._checks import check_all_positive, check_count, check_end, check_shape
from ctrl_jax._door import at_the_door
from ctrl_jax._typing import ScoreFn
from ctrl_jax.processes import LinearProcess, Prediction


class AdaptiveSamples(NamedTuple):
    """Where the flow ended.

    Fields:
        states: shape (batch, ...).
        steps: attempted steps of each example, shape (batch,).
        ok: whether the solve of the example succeeded, shape (batch,).
    """

    states: Float[Array, "batch ..."]
    steps: Int[Array, " batch"]
    ok: Bool[Array, " batch"]


@at_the_door
def sample_adaptive(
    key: Array,
    process: LinearProcess,
    score_fn: ScoreFn,
    shape: tuple[int, ...],
    *,
    end: float | None = None,
    tolerance: float = 1e-5,
    prediction: Prediction = "score",
    conditions: tuple[Array, ...] = (),
) -> AdaptiveSamples:
    """Draw samples by the probability flow from the process's prior, with adaptive steps.

    Args:
        key: PRNG key of the start states, which are those of `sample` with this key.
        process: the forward process.
        score_fn: ``score_fn(t, x, *conditions)``, t the forward time; it sees batches of one.
        shape: shape of the result, the batch first.
        end: forward time at which the flow ends, in the process's unit, in [0, horizon); by
            default `process.end`.
        tolerance: relative and absolute error that a step may make.
        prediction: what `score_fn` returns, "score", "noise", "data", "v" or "flow".
        conditions: arrays with leading axis batch, handed to `score_fn`.

    Returns:
        The `AdaptiveSamples`, float32, in units of the data.

    Raises:
        ValueError: `tolerance` is not positive, or `end` is outside [0, horizon).
    """
    check_shape(shape)
    start_key, _ = jax.random.split(key)
    x_0 = process.prior_std() * jax.random.normal(start_key, shape)
    found = flow(
        process,
        score_fn,
        x_0,
        end=end,
        tolerance=tolerance,
        prediction=prediction,
        conditions=conditions,
    )
    return found._replace(states=process.unscale(found.states))


def flow(
    process: LinearProcess,
    score_fn: ScoreFn,
    x_0: Float[Array, "batch ..."],
    *,
    end: float | None = None,
    tolerance: float = 1e-5,
    solver: diffrax.AbstractSolver | None = None,
    max_steps: int = 4096,
    prediction: Prediction = "score",
    conditions: tuple[Array, ...] = (),
) -> AdaptiveSamples:
    """Carry states at the horizon down the probability flow to forward time `end`.

    Args:
        process: the forward process.
        score_fn: ``score_fn(t, x, *conditions)``, t the forward time; it sees batches of one.
        x_0: states at the horizon, shape (batch, ...).
        end: forward time at which the flow ends, as in `sample_adaptive`.
        tolerance: relative and absolute error that a step may make.
        solver: a diffrax ODE solver with an error estimate; `Tsit5` by default.
        max_steps: attempted steps after which an example is given up (`ok` is false).
        prediction: what `score_fn` returns, as in `sample_adaptive`.
        conditions: arrays with leading axis batch, handed to `score_fn`.

    Raises:
        ValueError: `tolerance` or `max_steps` is not positive, or `end` is outside [0, horizon).
    """
    check_all_positive("flow", tolerance=tolerance)
    check_count("max_steps", max_steps)
    last = process.end if end is None else end
    check_end(last, process.horizon, zero=True, latest=process.latest, usual=process.end)

    def one(x, *condition):
        batched = [c[None] for c in condition]
        sde = process.reverse(
            lambda t, y: score_fn(t, y, *batched), noise_level=0.0, prediction=prediction
        )

        def field(r, y, args):
            return sde.drift(r, y[None])[0]

        return solve(field, x, process.horizon - last, tolerance, solver, max_steps)

    return AdaptiveSamples(*jax.vmap(one)(x_0, *conditions))


def solve(field, y_0, length, tolerance, solver=None, max_steps=4096):
    """Solve dy/dr = field(r, y, None) over [0, length]; return the end, the steps and a flag."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        solver or diffrax.Tsit5(),
        0.0,
        length,
        None,
        y_0,
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        max_steps=max_steps,
        throw=False,
    )
    assert solution.ys is not None
    end = jax.tree.map(lambda y: y[0], solution.ys)
    finite = jnp.asarray([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(end)]).all()
    ok = (solution.result == diffrax.RESULTS.successful) & finite
    return end, solution.stats["num_steps"], ok
