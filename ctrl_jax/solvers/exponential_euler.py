r"""Exponential Euler: the DDIM family, exact in the linear part of every process.

Freeze the noise prediction e = -\sqrt{v} s over the step from forward time t to t' < t, and renew
a part of it (`renoising`),

    x' = a' x_0 + \sqrt{v' - \varsigma^2} e + \varsigma z,
    \varsigma^2 = \eta^2 (v' / v) (v - (a / a')^2 v').

eta = 0 is the exponential Euler step of the probability-flow ODE (DDIM); eta = 1 is the ancestral
step, whose variance is that of x_{t'} given x_t and x_0. Source: Song, Meng and Ermon 2021, eq. 12,
written for every (a, v).
"""

import equinox as eqx

from ctrl_jax._checks import check_fraction
from ctrl_jax.processes import LinearProcess
from ctrl_jax.solvers.renoising import Renoising


class ExponentialEuler(Renoising):
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

    def step_std(self, process: LinearProcess, t, t_next, eta: float):
        """Return eta times the standard deviation of x_{t'} given x_t and x_0."""
        std, std_next = process.marginal(t).std, process.marginal(t_next).std
        return eta * std_next * (process.transition(t_next, t).std / std)


def Ancestral() -> ExponentialEuler:
    """Return ``ExponentialEuler(eta=1.0)``, the ancestral step of DDPM."""
    return ExponentialEuler(eta=1.0)
