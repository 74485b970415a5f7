"""The interface of solvers that know what they solve: the reversal of a linear process.

diffrax's solvers see a drift and a diffusion. The solvers of this library see more: the `args` of
the solve are the `ReverseSDE` itself, so they can use the process's marginals and its score. Their
`step` takes reverse times t0 < t1.
"""

import numbers
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array

from ctrl_jax._checks import refuse
from ctrl_jax.processes import ReverseSDE
from ctrl_jax.processes.prediction import BLIND
from ctrl_jax.solvers.brownian import StepNoise

SDE_SOLVERS = (diffrax.AbstractItoSolver, diffrax.AbstractStratonovichSolver, diffrax.AbstractSRK)

_OF_LANGEVIN = (diffrax.ALIGN, diffrax.QUICSORT, diffrax.ShOULD)


class ReverseSolver(diffrax.AbstractItoSolver):
    """A method for a `ReverseSDE`, of one step and first order unless it says otherwise."""

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = diffrax.LocalLinearInterpolation

    def on_grid(self, grid: Array) -> "ReverseSolver":
        """Return the solver as it is for one grid; `simulate` asks once, before the first step."""
        return self

    def order(self, terms):
        """Return 1."""
        return 1

    def strong_order(self, terms):
        """Return 1: the noise is additive."""
        return 1.0

    def init(self, terms, t0, t1, y0, args):
        """Return no state: the method has one step."""
        return None

    def func(self, terms, t0, y0, args):
        """Return the vector field at (t0, y0)."""
        return terms.vf(t0, y0, args)


def check_flow(solver: ReverseSolver, sde: ReverseSDE) -> None:
    """Raise ValueError if a solver of the probability flow would ignore the level of the noise."""
    if sde.noise_level not in (0.0, 1.0):
        rule = f"{type(solver).__name__} solves the probability flow whatever the level"
        repair = "leave it out, or take EulerMaruyama() or ExponentialEuler()"
        raise refuse("noise_level", sde.noise_level, rule, repair)


def check_first_time(sde: ReverseSDE, solver: diffrax.AbstractSolver, grid: Array) -> None:
    """Raise ValueError if a first step is from where nothing of the data is left, and is none.

    Args:
        sde: what is solved.
        solver: by which solver.
        grid: in reverse time.
    """
    process, latest = sde.process, sde.process.latest
    if any(isinstance(value, Tracer) for value in (grid, latest, process.horizon)):
        return
    if not latest < process.horizon:
        return
    with jax.ensure_compile_time_eval():
        start = sde.forward_time(grid[0])
        scale = process.marginal(start).scale
        if isinstance(scale, Tracer) or scale > 0:
            return
        start = float(start)
    where = f"at the forward time {start:g} nothing of the data is left (zero SNR)"
    later = f"start the grid at {float(process.horizon - latest):g} or later"
    if sde.prediction in BLIND:
        rule = f"{where}, and it does not tell of them"
        raise refuse("prediction", sde.prediction, rule, f"predict v, flow or data, or {later}")
    finite = isinstance(solver, ReverseSolver) or getattr(solver, "clamped", False)
    if sde.stochastic and not finite:
        rule = f"{where}, and the SDE has no finite step from there"
        repair = (
            f"take ExponentialEuler(), EulerMaruyama(clamped=True) or the noise level 0, or {later}"
        )
        raise refuse("solver", type(solver).__name__, rule, repair)


def stepped(y0: Array, y1: Array, state: Any = None) -> tuple:
    """Return what diffrax expects of a step that cannot fail."""
    return y1, None, {"y0": y0, "y1": y1}, state, diffrax.RESULTS.successful


def noise_of(terms: Any) -> StepNoise | None:
    """Return the noise of a step from the terms that `simulate` makes; None for an ODE."""
    return terms.terms[1].control if isinstance(terms, diffrax.MultiTerm) else None


def on_grid(solver: diffrax.AbstractSolver, grid: Array) -> diffrax.AbstractSolver:
    """Return the solver as it is for one grid, diffrax's own with what they leave to the caller.

    Milstein's methods are Euler's, since the noise is additive; they would find that out by a
    derivative of the whole batch by the whole batch. Implicit ones solve to the digits of the grid.
    """
    if isinstance(solver, ReverseSolver):
        return solver.on_grid(grid)
    if isinstance(solver, diffrax.ItoMilstein | diffrax.StratonovichMilstein):
        return diffrax.Euler()
    if isinstance(solver, diffrax.AbstractImplicitSolver):
        return _solved_to(float(jnp.finfo(grid.dtype).eps) ** 0.7, solver)
    return solver


def _solved_to(tolerance: float, solver: Any) -> Any:
    """Return an implicit solver with a tolerance where its own is to be an adaptive solve's."""
    finder = solver.root_finder
    if isinstance(getattr(finder, "rtol", 0.0), numbers.Real | Array):
        return solver
    adaptive = diffrax.PIDController(rtol=tolerance, atol=tolerance)
    names = ("rtol", "atol", "norm")
    given, own = ([getattr(each, name) for name in names] for each in (finder, adaptive))
    where = lambda f: [getattr(f, name) for name in names]  # noqa: E731
    finder = eqx.tree_at(where, finder, own, is_leaf=lambda x: any(x is each for each in given))
    return eqx.tree_at(lambda s: s.root_finder, solver, finder)


def check_sde_solver(owner: str, solver: diffrax.AbstractSolver) -> None:
    """Raise ValueError if a solver is for ODEs only, or would misread the noise of a step."""
    if isinstance(solver, _OF_LANGEVIN):
        rule = "it is for underdamped Langevin dynamics"
        raise refuse(owner, type(solver).__name__, rule, "take another, such as diffrax.ShARK()")
    if isinstance(solver, diffrax.HalfSolver):
        rule = "it halves a step, whose noise is one increment"
        raise refuse(
            owner, "HalfSolver", rule, "take the solver inside it, on a grid of more steps"
        )
    if not isinstance(solver, SDE_SOLVERS):
        raise refuse(
            owner,
            type(solver).__name__,
            "it is for ODEs",
            "take a solver for SDEs, or simulate sde.probability_flow() with it",
        )
