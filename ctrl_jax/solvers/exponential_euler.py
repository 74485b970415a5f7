r"""Exponential Euler: the DDIM family, exact in the linear part of every process.

Freeze the noise prediction e = -\sqrt{v} s over the step from forward time t to t' < t. With the
denoised state x_0 = (x + v s) / a, both read of whatever is predicted (`processes.prediction`),

    x' = a' x_0 + \sqrt{v' - \varsigma^2} e + \varsigma z,
    \varsigma^2 = \eta^2 (v' / v) (v - (a / a')^2 v').

eta = 0 is the exponential Euler step of the probability-flow ODE (DDIM); eta = 1 is the ancestral
step, whose variance is that of x_{t'} given x_t and x_0. Where a = 0 the step is finite for all
predictions but score and noise. Source: Song, Meng and Ermon 2021, eq. 12,
written for every (a, v).
"""

import equinox as eqx
import jax.numpy as jnp

from ctrl_jax._checks import check_fraction, refuse
from ctrl_jax._numerics import square_root
from ctrl_jax.processes import LinearProcess, Prediction
from ctrl_jax.processes.prediction import read_data, read_noise
from ctrl_jax.solvers.gaussian_step import GaussianSolver, Kernel
from ctrl_jax.solvers.reverse_solver import ReverseSolver, noise_of, stepped


class ExponentialEuler(GaussianSolver, ReverseSolver):
    """The DDIM step with stochasticity `eta`.

    On a `ReverseSDE` of noise level l the step is that of ``eta * l``; so on a probability flow
    every `eta` takes the deterministic step.

    Args:
        eta: 0 for the deterministic step, 1 for the ancestral one.

    Raises:
        ValueError: eta is outside [0, 1].
    """

    eta: float = eqx.field(default=1.0, static=True)

    def __check_init__(self):
        check_fraction("ExponentialEuler.eta", self.eta)

    def kernel(
        self,
        process: LinearProcess,
        r_0,
        r_1,
        *,
        noise_level: float = 1.0,
        prediction: Prediction = "score",
    ) -> Kernel:
        """Return the coefficients of the step from reverse time r_0 to r_1.

        Args:
            process: the forward process.
            r_0: reverse times of the starts, shape () or (steps,).
            r_1: reverse times of the ends.
            noise_level: l of the `ReverseSDE` that is stepped, which multiplies eta.
            prediction: what the action is, "score", "noise", "data", "v" or "flow".

        Raises:
            ValueError: eta times the noise level exceeds 1.
        """
        eta = self.eta * noise_level
        if eta > 1:
            rule = f"times eta = {self.eta!r} it must not exceed 1"
            raise refuse("noise_level", noise_level, rule, "lower one, or take EulerMaruyama()")
        t, t_next = (process.forward_time(r, prediction) for r in (r_0, r_1))
        scale_next, std_next = process.marginal(t_next)
        step_std = eta * std_next * (process.transition(t_next, t).std / process.marginal(t).std)
        data, noise = read_data(process, t, prediction), read_noise(process, t, prediction)
        of_data = scale_next / data.over
        of_noise = square_root(jnp.maximum(std_next**2 - step_std**2, 0.0)) / noise.over
        return Kernel(
            of_data * data.state + of_noise * noise.state,
            of_data * data.action + of_noise * noise.action,
            step_std,
        )

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Take one step."""
        noise, r_0, r_1 = noise_of(terms), jnp.asarray(t0), jnp.asarray(t1)
        kernel = self.kernel(
            args.process, r_0, r_1, noise_level=args.noise_level, prediction=args.prediction
        )
        y1 = kernel.mean(y0, args.predict(args.forward_time(r_0), y0))
        if noise is not None and self.eta > 0:
            y1 = y1 + kernel.std * noise.noise
        return stepped(y0, y1)


def Ancestral() -> ExponentialEuler:
    """Return ``ExponentialEuler(eta=1.0)``, the ancestral step of DDPM."""
    return ExponentialEuler(eta=1.0)
