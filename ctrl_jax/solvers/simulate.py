r"""Simulation of an SDE on a fixed grid: one `lax.scan` over any diffrax solver's step.

One solve moves the whole batch. Nothing in it can throw, reverse mode works through a checkpointed
step (`remat`), and the noise is keyed by step and example (`paths`). Along the way the log-density
of each transition is recorded when the solver's steps are Gaussian (`kernels`).
"""

from typing import Literal, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float

from ctrl_jax._typing import ScoreFn
from ctrl_jax.processes import LinearProcess, ReverseSDE, grids
from ctrl_jax.solvers.exponential_euler import ExponentialEuler
from ctrl_jax.solvers.kernels import GaussianSolver, gaussian_log_prob
from ctrl_jax.solvers.paths import StepNoise, step_noise


class Path(NamedTuple):
    """A simulated batch of trajectories, time-major.

    Fields:
        times: the grid, shape (steps + 1,), for ``save="path"``; its last point for ``"last"``.
        states: (steps + 1, batch, ...), or the last state (batch, ...).
        noise: the standard normal of each step (steps, batch, ...); None for ``"last"``.
        log_probs: log-density of each transition (steps, batch), summed over dimensions; None for
            ``"last"`` and for steps without a Gaussian law.
        ok: whether every state of the example is finite, shape (batch,).
    """

    times: Float[Array, "..."]
    states: Float[Array, "..."]
    noise: Float[Array, "steps batch ..."] | None
    log_probs: Float[Array, "steps batch"] | None
    ok: Bool[Array, " batch"]


def simulate(
    key: Array,
    sde: ReverseSDE,
    x_0: Float[Array, "batch ..."],
    grid: Float[Array, " points"],
    *,
    solver: diffrax.AbstractSolver,
    save: Literal["last", "path"] = "last",
    remat: bool = True,
) -> Path:
    """Simulate `sde` from x_0 along `grid`.

    Args:
        key: PRNG key; the noise of step i is ``normal(fold_in(key, i), x_0.shape)``.
        sde: anything with ``drift(t, x)`` and ``diffusion(t)``; a `ReverseSDE` for the solvers
            of this library.
        x_0: start states, shape (batch, ...).
        grid: increasing times in the SDE's own time, shape (steps + 1,).
        solver: a diffrax solver.
        save: keep the last state or the whole path.
        remat: recompute each step in the backward pass instead of storing its inside.

    Returns:
        The `Path`.

    Raises:
        ValueError: the grid is not a vector of at least two times, x_0 has no batch axis, or
            `save` is unknown.
    """
    _check(x_0, grid, save)
    stochastic = getattr(sde, "stochastic", True)
    gaussian = stochastic and save == "path" and _has_density(solver)
    levy = getattr(solver, "minimal_levy_area", None) is diffrax.AbstractSpaceTimeLevyArea

    def advance(x, solver_state, r_0, r_1, noise, levy_noise):
        terms = _terms(sde, noise, levy_noise)
        x, _, _, solver_state, _ = solver.step(terms, r_0, r_1, x, sde, solver_state, False)
        return x, solver_state

    advance = jax.checkpoint(advance) if remat else advance

    def body(carry, inputs):
        x, solver_state, ok = carry
        step, r_0, r_1 = inputs
        noise = step_noise(key, step, x) if stochastic else jnp.zeros_like(x)
        levy_noise = step_noise(jax.random.fold_in(key, step), 1, x) if levy else None
        x, solver_state = advance(x, solver_state, r_0, r_1, noise, levy_noise)
        ok = ok & jnp.isfinite(x).reshape(x.shape[0], -1).all(axis=1)
        log_prob = _log_prob(solver, sde, r_0, r_1, noise) if gaussian else None
        return (x, solver_state, ok), (x, noise, log_prob) if save == "path" else None

    start_terms = _terms(sde, x_0, x_0 if levy else None)
    solver_state = solver.init(start_terms, grid[0], grid[1], x_0, sde)
    steps = jnp.arange(grid.shape[0] - 1)
    start = (x_0, solver_state, jnp.ones(x_0.shape[0], bool))
    (x, _, ok), saved = jax.lax.scan(body, start, (steps, grid[:-1], grid[1:]))
    if saved is None:
        return Path(grid[-1], x, None, None, ok)
    states, noise, log_probs = saved
    return Path(grid, jnp.concatenate([x_0[None], states]), noise, log_probs, ok)


def sample(
    key: Array,
    process: LinearProcess,
    score_fn: ScoreFn,
    shape: tuple[int, ...],
    *,
    steps: int = 50,
    grid: Float[Array, " points"] | None = None,
    solver: diffrax.AbstractSolver | None = None,
    conditions: tuple[Array, ...] = (),
) -> Float[Array, "batch ..."]:
    """Draw samples by simulating the reversal of `process` from its prior.

    Args:
        key: PRNG key.
        process: the forward process.
        score_fn: ``score_fn(t, x, *conditions)``, t the forward time.
        shape: shape of the result, the batch first.
        steps: number of steps of the default grid, `grids.log_snr`.
        grid: reverse times (`processes.grids`), in place of `steps`.
        solver: a diffrax solver; the ancestral `ExponentialEuler` by default.
        conditions: arrays with leading axis batch, handed to `score_fn`.

    Returns:
        Samples of the given shape, float32.
    """
    grid = grids.log_snr(process, steps) if grid is None else grid
    start_key, path_key = jax.random.split(key)
    sde = process.reverse(lambda t, x: score_fn(t, x, *conditions))
    x_0 = process.prior_std() * jax.random.normal(start_key, shape)
    return simulate(path_key, sde, x_0, grid, solver=solver or ExponentialEuler()).states


def _terms(sde, noise, levy_noise):
    def diagonal(t, x, args):
        return lx.DiagonalLinearOperator(jnp.broadcast_to(sde.diffusion(t), x.shape))

    drift = diffrax.ODETerm(lambda t, x, args: sde.drift(t, x))
    if not getattr(sde, "stochastic", True):
        return drift
    return diffrax.MultiTerm(drift, diffrax.ControlTerm(diagonal, StepNoise(noise, levy_noise)))


def _has_density(solver) -> bool:
    return isinstance(solver, GaussianSolver) and getattr(solver, "eta", 1.0) > 0


def _log_prob(solver, sde, r_0, r_1, noise):
    return gaussian_log_prob(noise, solver.kernel(sde.process, r_0, r_1).std)


def _check(x_0, grid, save):
    if save not in ("last", "path"):
        raise ValueError(f'save must be "last" or "path", got {save!r}.')
    if grid.ndim != 1 or grid.shape[0] < 2:
        raise ValueError(f"grid must be a vector of at least two times, got shape {grid.shape}.")
    if x_0.ndim < 1:
        raise ValueError("x_0 must have a leading batch axis, got a scalar.")
