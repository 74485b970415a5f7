r"""DPM-Solver++(2M): two steps, data prediction, log-SNR time.

With \lambda = log(a / \sqrt v) and the data prediction D = (x + v s) / a, read of whatever is
predicted (`processes.prediction`), the probability flow of every linear process is, exactly,

    x' = (\sqrt{v'} / \sqrt v) x + \sqrt{v'} \int_\lambda^{\lambda'} e^l D_l dl.             (1)

With D frozen the integral gives the exponential Euler step; D extrapolated to the midpoint from
the step before, of length h_-, gives second order, with h = \lambda' - \lambda:

    x' = (\sqrt{v'} / \sqrt v) x - a' (e^{-h} - 1) [D + (h / 2 h_-) (D - D_-)].              (2)

The first step has no D_-, and the last, whose h is unbounded as t -> 0, does without it: both are
first order, which costs no order over the whole. So is the second from a = 0, where \lambda has no
bound. Source: Lu et al. 2022 (DPM-Solver++), alg. 2.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ctrl_jax.processes import ReverseSDE
from ctrl_jax.solvers.reverse_solver import ReverseSolver, check_flow, stepped


class Previous(NamedTuple):
    """What a step leaves to the next one."""

    data: Float[Array, "batch ..."]
    log_snr: Float[Array, ""]
    exists: Bool[Array, ""]


class DPMSolverPP2M(ReverseSolver):
    """Second order at one evaluation of the score per step; deterministic, also on an SDE.

    Args:
        end: reverse time at which the solve ends; `simulate` fills it in from its grid. A step
            that ends there is of first order.
    """

    end: Float[Array, ""] | None = None

    def on_grid(self, grid):
        """Return the solver with the grid's end."""
        return DPMSolverPP2M(grid[-1])

    def order(self, terms):
        """Return 2, of the probability flow."""
        return 2

    def init(self, terms, t0, t1, y0, args):
        """Return a state that says there was no step before."""
        return Previous(jnp.zeros_like(y0), _log_snr(args, jnp.asarray(t0)), jnp.asarray(False))

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Take one step; its state is the `Previous` of the next one."""
        check_flow(self, args)
        t, t_next = args.forward_time(t0), args.forward_time(t1)
        (scale, std), (scale_next, std_next) = (args.process.marginal(s) for s in (t, t_next))
        data = args.data(t, y0)
        log_snr = _log_snr(args, jnp.asarray(t0))
        # e^{-h} by the ratio itself: h is infinite where no noise is left.
        shrink = (std_next / scale_next) / (std / scale)
        weight = self._weight(solver_state, log_snr, shrink, t1)
        predicted = data + weight * (data - solver_state.data)
        y1 = (std_next / std) * y0 + scale_next * (1 - shrink) * predicted
        return stepped(y0, y1, Previous(data, log_snr, jnp.asarray(True)))

    def _weight(self, state, log_snr, shrink, r_1):
        # The ratio of a contractive process flattens: a step may not be told from none in float32.
        usable = state.exists & (shrink > 0) & (log_snr > state.log_snr)
        if self.end is not None:
            usable = usable & (r_1 < self.end)
        step = -jnp.log(jnp.where(usable, shrink, 1.0))
        before = jnp.where(usable, log_snr - state.log_snr, 1.0)
        return jnp.where(usable, step / (2 * before), 0.0)


def _log_snr(sde: ReverseSDE, r: Array) -> Array:
    scale, std = sde.process.marginal(sde.forward_time(r))
    return jnp.log(scale / std)
