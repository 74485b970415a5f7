r"""Predictor-corrector: after each step, Langevin dynamics at the new time.

A corrector step at forward time t moves

    x <- x + e s(t, x) + \sqrt{2 e} z,   e = 2 (snr |z| / |s|)^2,

with norms over one example, so that a sample never depends on its batch-mates. The rule is
unbounded where s vanishes, and in a few dimensions s often nearly does. The noise prediction obeys
E |\sqrt{v} s|^2 <= d whatever the data, with equality for pure noise, so |s| is taken to be at
least half of what pure noise would have, |z| / (2 \sqrt{v}); nor is e ever above v(t), since minus
the Hessian of the log-density is at most 1/v. Neither acts on data near a manifold of few
dimensions.

Since e depends on x and z, the law is kept only up to O(snr^2): Gaussian noise in d dimensions gets
the variance 1 - 4 snr^2 + (4 snr^2 + 4 snr^4) (d + 2) / (d - 2) times its own in one step, which
is about 1 + 16 snr^2 / d + 4 snr^4.

Source: Song et al. 2021, algorithms 4 and 5 (there with batch means of the norms).
"""

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from ctrl_jax._checks import check_all_positive, check_count, refuse
from ctrl_jax._numerics import expand, sum_each
from ctrl_jax.processes import LinearProcess
from ctrl_jax.solvers.exponential_euler import ExponentialEuler
from ctrl_jax.solvers.reverse_solver import ReverseSolver, check_sde_solver, noise_of, on_grid


class PredictorCorrector(ReverseSolver):
    """A solver followed by Langevin steps; works for every process.

    Args:
        predictor: a diffrax solver, the ancestral `ExponentialEuler` by default.
        corrector_steps: Langevin steps after each predictor step; each is one evaluation of the
            score.
        snr: the signal-to-noise ratio that sets their length.

    Raises:
        ValueError: corrector_steps is less than 1, snr is not positive, the predictor is for ODEs
            only, or the solve is of a probability flow, which has no noise (simulate the reverse
            SDE with the predictor ``ExponentialEuler(eta=0.0)`` instead).
    """

    predictor: diffrax.AbstractSolver = eqx.field(default_factory=ExponentialEuler)
    corrector_steps: int = eqx.field(default=1, static=True)
    snr: float = 0.16

    def __check_init__(self):
        check_all_positive("PredictorCorrector", snr=self.snr)
        check_sde_solver("PredictorCorrector.predictor", self.predictor)
        check_count("PredictorCorrector.corrector_steps", self.corrector_steps)

    def on_grid(self, grid):
        """Return the solver with its predictor set on the grid."""
        return PredictorCorrector(on_grid(self.predictor, grid), self.corrector_steps, self.snr)

    def order(self, terms):
        """Return the predictor's order: correction at a fixed time does not raise it."""
        return self.predictor.order(terms)

    def init(self, terms, t0, t1, y0, args):
        """Return the predictor's state."""
        return self.predictor.init(terms, t0, t1, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Take the predictor's step and correct it."""
        noise, process = noise_of(terms), args.process
        if noise is None:
            raise refuse(
                "PredictorCorrector: noise_level",
                args.noise_level,
                "a probability flow has no noise to correct with",
                "simulate the reverse SDE with predictor=ExponentialEuler(eta=0.0)",
            )
        # The state was moved since the predictor's last step: it must not reuse what it saw there.
        y1, _, _, state, result = self.predictor.step(terms, t0, t1, y0, args, solver_state, True)
        t = process.forward_time(t1)
        # Where no noise is left there is nothing to correct, and the score may be singular.
        noisy = process.marginal(t).std > 0
        t = jnp.where(noisy, t, process.forward_time(t0))
        for index in range(self.corrector_steps):
            z, score = noise.normal(2 + index), args.score_fn(t, y1)
            size = expand(self._size(process, t, z, score), y1)
            y1 = y1 + jnp.where(noisy, size * score + jnp.sqrt(2 * size) * z, 0.0)
        return y1, None, {"y0": y0, "y1": y1}, state, result

    def _size(self, process: LinearProcess, t: Array, z: Array, score: Array) -> Array:
        noise = sum_each(jnp.square(z))
        push = 2 * self.snr**2 * noise
        least = jnp.maximum(noise / 4, push) / process.marginal(t).std ** 2
        return push / jnp.maximum(sum_each(jnp.square(score)), least)
