r"""Coefficients-preserving sampling (Flow-CPS): a constant share of the noise is renewed.

From forward time t to t' < t (`renoising`),

    x' = a' x_0 + \sqrt{v'} (\cos(\pi \eta / 2) e + \sin(\pi \eta / 2) z),                  (1)

so that data and noise keep their coefficients, as in the DDIM family. There a shorter step renews
less; here every step renews alike, and the chain has no limit that is an SDE. Of many steps the
samples are narrower than the data: of N(m, 1/4) under a rectified flow, whose std is .5, 40 even
steps lose .16 of it at \eta = 1 and .09 at \eta = .7, and 320 steps .15 and .08, where
`ExponentialEuler` of \eta = 1 loses .04 and .005. It is a step for few steps, as in training.

Source: Wang and Yu 2509.05952.
"""

import math

import equinox as eqx

from ctrl_jax._checks import check_fraction
from ctrl_jax.processes import LinearProcess
from ctrl_jax.solvers.renoising import Renoising


class CoefficientsPreserving(Renoising):
    """The step of Flow-CPS with the noise `eta` of its paper, for every process.

    On a `ReverseSDE` of noise level l the step is that of ``eta * l``; so on a probability flow
    every `eta` takes the deterministic step.

    Args:
        eta: 0 for the deterministic step, 1 for one that keeps nothing of the old noise.

    Raises:
        ValueError: eta is outside [0, 1].

    Source: Wang and Yu 2509.05952.
    """

    eta: float = eqx.field(default=0.7, static=True)

    def __check_init__(self):
        check_fraction("CoefficientsPreserving.eta", self.eta)

    def step_std(self, process: LinearProcess, t, t_next, eta: float):
        """Return sin(pi eta / 2) sqrt(v')."""
        return math.sin(math.pi / 2 * eta) * process.marginal(t_next).std
