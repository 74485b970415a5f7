r"""Simulation of an SDE on a fixed grid: one `lax.scan` over any diffrax solver's step.

One solve moves the whole batch. Nothing in it can throw, reverse mode works through a checkpointed
step (`remat`), and the noise is keyed by step and example (`solvers.brownian`). Along the way the
log-density of each transition is recorded when the solver's steps are Gaussian
(`solvers.gaussian_step`).
"""

from typing import Literal, NamedTuple, get_origin

import diffrax
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from ctrl_jax._checks import check_choice, refuse
from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import all_each
from ctrl_jax.processes import ReverseSDE
from ctrl_jax.solvers.brownian import BrownianPath, StepNoise, step_noise
from ctrl_jax.solvers.gaussian_step import GaussianSolver, gaussian_log_prob
from ctrl_jax.solvers.reverse_solver import check_first_time, check_sde_solver, on_grid


class Path(NamedTuple):
    """A simulated batch of trajectories, time-major.

    Fields:
        times: the grid, shape (steps + 1,), for ``save="path"``; its last point for ``"last"``.
        states: (steps + 1, batch, ...), or the last state (batch, ...).
        noise: the standard normal of each step (steps, batch, ...); None for ``"last"``.
        log_probs: log-density of each transition (steps, batch), summed over dimensions; None for
            ``"last"`` and for steps without a Gaussian law.
        ok: whether every state of the example is finite and every step succeeded, shape (batch,).
    """

    times: Float[Array, "..."]
    states: Float[Array, "..."]
    noise: Float[Array, "steps batch ..."] | None
    log_probs: Float[Array, "steps batch"] | None
    ok: Bool[Array, " batch"]


@at_the_door
def simulate(
    key: Array,
    sde: ReverseSDE,
    x_0: Float[Array, "batch ..."],
    grid: Float[Array, " points"] | BrownianPath,
    *,
    solver: diffrax.AbstractSolver,
    save: Literal["last", "path"] = "last",
    remat: bool = True,
) -> Path:
    """Simulate `sde` from x_0 along `grid`.

    Args:
        key: PRNG key; the noise of step i is ``normal(fold_in(key, i), x_0.shape)``, and whatever
            else a solver draws is keyed by (key, step, index) as in `solvers.brownian`.
        sde: anything with ``drift(t, x)`` and ``diffusion(t)``; a `ReverseSDE` for the solvers
            of this library.
        x_0: start states, shape (batch, ...).
        grid: increasing times in the SDE's own time, shape (steps + 1,); or a `BrownianPath`, whose
            grid and increments are taken.
        solver: a solver of this library or of diffrax: for SDEs its Ito, Stratonovich and
            stochastic Runge-Kutta solvers (the noise is additive, so all mean the same), for
            probability flows its ODE solvers. (Implicit ones iterate until the whole batch has
            converged: of all solvers only their samples feel their batch-mates.)
        save: keep the last state or the whole path.
        remat: recompute each step in the backward pass instead of storing its inside.

    Returns:
        The `Path`.

    Raises:
        ValueError: the grid is not a vector of at least two times, x_0 has no batch axis, the
            Brownian path is of another shape, `save` is unknown, or the solver is for ODEs only
            and `sde` is none, or the reverse.
    """
    given = grid if isinstance(grid, BrownianPath) else None
    grid = grid.grid if isinstance(grid, BrownianPath) else grid
    stochastic = getattr(sde, "stochastic", True)
    _check(x_0, grid, given, save)
    _check_times(sde, grid)
    if isinstance(sde, ReverseSDE):
        check_first_time(sde, solver, grid)
    grid = grid.astype(x_0.dtype)
    _check_solver(solver, stochastic)
    solver = on_grid(solver, grid)
    gaussian = stochastic and save == "path" and _has_density(solver)

    def advance(x, solver_state, r_0, r_1, noise):
        terms = _terms(sde, noise)
        x, _, _, solver_state, result = solver.step(terms, r_0, r_1, x, sde, solver_state, False)
        return x, solver_state, result == diffrax.RESULTS.successful

    advance = jax.checkpoint(advance) if remat else advance

    def body(carry, inputs):
        x, solver_state, ok = carry
        step, r_0, r_1, drawn = inputs
        noise = _step_noise(key, step, x, drawn) if stochastic else None
        x, solver_state, success = advance(x, solver_state, r_0, r_1, noise)
        ok = ok & success & all_each(jnp.isfinite(x))
        if save == "last":
            return (x, solver_state, ok), None
        normal = jnp.zeros_like(x) if noise is None else noise.noise
        log_prob = _log_prob(solver, sde, r_0, r_1, normal) if gaussian else None
        return (x, solver_state, ok), (x, normal, log_prob)

    steps = jnp.arange(grid.shape[0] - 1)
    drawn = None if given is None else (given.noise, given.levy_noise)
    first_noise = _step_noise(key, 0, x_0, None) if stochastic else None
    solver_state = solver.init(_terms(sde, first_noise), grid[0], grid[1], x_0, sde)
    start = (x_0, solver_state, jnp.ones(x_0.shape[0], bool))
    (x, _, ok), saved = jax.lax.scan(body, start, (steps, grid[:-1], grid[1:], drawn))
    if saved is None:
        return Path(grid[-1], x, None, None, ok)
    states, noise, log_probs = saved
    return Path(grid, jnp.concatenate([x_0[None], states]), noise, log_probs, ok)


def _step_noise(key, step, x, drawn):
    noise, levy_noise = (step_noise(key, step, x), None) if drawn is None else drawn
    return StepNoise(noise, jax.random.fold_in(key, step), levy_noise)


def _terms(sde, noise):
    def diagonal(t, x, args):
        return lx.DiagonalLinearOperator(jnp.broadcast_to(sde.diffusion(t), x.shape))

    drift = diffrax.ODETerm(lambda t, x, args: sde.drift(t, x))
    if noise is None:
        return drift
    return diffrax.MultiTerm(drift, diffrax.ControlTerm(diagonal, noise))


def _has_density(solver) -> bool:
    return isinstance(solver, GaussianSolver) and getattr(solver, "eta", 1.0) > 0


def _log_prob(solver, sde, r_0, r_1, noise):
    kernel = solver.kernel(
        sde.process, r_0, r_1, noise_level=sde.noise_level, prediction=sde.prediction
    )
    return gaussian_log_prob(noise, kernel.std)


def _check(x_0, grid, given, save):
    check_choice("save", save, ("last", "path"))
    if grid.ndim != 1 or grid.shape[0] < 2:
        rule = "it must be a vector of at least two times"
        raise refuse("grid.shape", grid.shape, rule, "give one axis")
    if x_0.ndim < 1 or x_0.shape[0] == 0:
        rule = "it must have a leading batch axis and an example"
        raise refuse("x_0.shape", x_0.shape, rule, "give one row per example")
    if x_0.dtype not in (jnp.float32, jnp.float64):
        raise refuse(
            "x_0.dtype",
            str(x_0.dtype),
            "it must be float32 or float64, as sums of small steps lose their digits in less",
            "cast it, and let the network compute in bfloat16",
        )
    expected = (grid.shape[0] - 1, *x_0.shape)
    if given is not None and given.noise.shape != expected:
        rule = f"a BrownianPath for this x_0 and grid has noise of shape {expected}"
        raise refuse("grid.noise.shape", given.noise.shape, rule, "draw it with like=x_0")


def _check_times(sde, grid):
    if isinstance(grid, Tracer):
        return
    times = np.asarray(grid)
    if not (np.diff(times) > 0).all():
        raise refuse("grid", times, "it must increase", "sort it, in reverse time")
    if isinstance(sde, ReverseSDE) and not isinstance(sde.process.horizon, Tracer):
        horizon = float(sde.process.horizon)
        if times[0] < 0 or times[-1] > horizon * (1 + 1e-6):
            ends = float(times[0]), float(times[-1])
            rule = f"in reverse time it must lie in [0, horizon] = [0, {horizon}]"
            raise refuse("ends of grid", ends, rule, "take it from processes.grids")


def _check_solver(solver, stochastic):
    if stochastic:
        check_sde_solver("solver", solver)
    repair = "on a probability flow take an ODE solver such as diffrax.Heun()"
    if not stochastic and isinstance(solver, diffrax.AbstractSRK):
        raise refuse("solver", type(solver).__name__, "it is for SDEs only", repair)
    structure = getattr(solver, "term_structure", diffrax.AbstractTerm)
    if not stochastic and (isinstance(structure, tuple) or get_origin(structure)):
        rule = "it is for equations of several parts, and a flow has one"
        raise refuse("solver", type(solver).__name__, rule, repair)
