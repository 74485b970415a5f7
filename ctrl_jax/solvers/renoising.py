r"""Steps through the data and the noise that a prediction stands for, the noise partly renewed.

From forward time t to t' < t, with data x_0 and noise e read of the prediction
(`processes.prediction`) and z a new standard normal,

    x' = a' x_0 + \sqrt{v' - \varsigma^2} e + \varsigma z.                                (1)

Whatever \varsigma <= \sqrt{v'} is, x_0 and noise have the coefficients a' and \sqrt{v'}. So for
data that are one point the noised laws stay exactly; for others x_0 is a mean, and they stay as the
steps go to zero where \varsigma^2 does so as fast. A solver is its \varsigma; at 0 all are the
exponential Euler step of the probability flow (DDIM). Where a = 0 the step is finite for all
predictions but score and noise.

Source: Song, Meng and Ermon 2021, eq. 12, written for every (a, v).
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import refuse
from ctrl_jax._numerics import square_root
from ctrl_jax.processes import LinearProcess, Prediction
from ctrl_jax.processes.prediction import read_data, read_noise
from ctrl_jax.solvers.gaussian_step import GaussianSolver, Kernel
from ctrl_jax.solvers.reverse_solver import ReverseSolver, noise_of, stepped


class Renoising(GaussianSolver, ReverseSolver):
    """Interface of the solvers that renew noise partly, in steps from forward time t to t' < t:

        x' = a' x_0 + sqrt(v' - varsigma^2) e + varsigma z.

    x_0 and e are the data and the noise that the prediction stands for, a' and v' the scale and the
    variance of the process at t', and z is a new standard normal. varsigma is `step_std`, of which
    `eta` in [0, 1] is the share.
    """

    eta: eqx.AbstractVar[float]

    @abc.abstractmethod
    def step_std(
        self, process: LinearProcess, t: Float[Array, "*t"], t_next: Float[Array, "*t"], eta: float
    ) -> Float[Array, "*t"]:
        """Return the standard deviation varsigma of the step's new noise.

        Args:
            process: the forward process.
            t: forward times of the starts.
            t_next: forward times of the ends.
            eta: the share, times the noise level of what is stepped.
        """

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
        step_std = self.step_std(process, t, t_next, eta)
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
