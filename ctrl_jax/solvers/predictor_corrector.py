r"""Predictor-corrector: after each step, Langevin dynamics at the new time.

A corrector step at forward time t, with fresh noise z ~ N(0, I), moves

    x' = x + e s(t, x + \sqrt{2 e} z / 4) + \sqrt{2 e} z,   e = 2 snr^2 v(t).             (1)

The published rule has e = 2 (snr |z| / |s|)^2, the norms being means over a batch. Here e is what
that is in the mean for pure noise, where E |s|^2 = d / v, and depends on nothing that is drawn: a
step whose length goes by the noise that it multiplies, or by the state, keeps no law (in one
dimension it made a variance four times too large), and one that goes by the batch makes samples
depend on their batch-mates. Since minus the Hessian of the log-density is at most 1 / v, the steps
are stable for snr < 1.

The score is asked a quarter of the noise ahead. Where the law is N(m, V) that gives

    var x' = (1 - e/V)^2 V + 2 e (1 - e / (4 V))^2 = V + e^3 / (8 V^2):                  (2)

many steps end at the variance V (1 + (e / 4V)^2 / (1 - e / 2V)), which for V >= v and snr = .16 is
1.0002 V; asked at x it would be V / (1 - e / 2V), up to 1.026 V. Of other laws the error of second
order keeps its term in the third derivative of log p only, with an eighth of its size.

Source: Song et al. 2021, algorithms 4 and 5; (2) by the expansion of Vilmart 2015, section 2.
"""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

from ctrl_jax._checks import check_all_positive, check_count, refuse
from ctrl_jax.solvers.exponential_euler import ExponentialEuler
from ctrl_jax.solvers.reverse_solver import ReverseSolver, check_sde_solver, noise_of, on_grid


class PredictorCorrector(ReverseSolver):
    """A solver followed by Langevin steps; works for every process.

    Args:
        predictor: a diffrax solver, the ancestral `ExponentialEuler` by default.
        corrector_steps: Langevin steps after each predictor step; each is one evaluation of the
            score.
        snr: the signal-to-noise ratio that sets their length, e = 2 snr^2 v(t); below 1.

    Raises:
        ValueError: corrector_steps is less than 1, snr is not in (0, 1), the predictor is for ODEs
            only, or the solve is of a probability flow, which has no noise (simulate the reverse
            SDE with the predictor ``ExponentialEuler(eta=0.0)`` instead).
    """

    predictor: diffrax.AbstractSolver = eqx.field(default_factory=ExponentialEuler)
    corrector_steps: int = eqx.field(default=1, static=True)
    snr: float = 0.16

    def __check_init__(self):
        if check_all_positive("PredictorCorrector", snr=self.snr) and self.snr >= 1:
            rule = "it must be below 1, or Langevin steps overshoot the law"
            raise refuse("PredictorCorrector.snr", self.snr, rule, "give one such as 0.16")
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
        e = 2 * self.snr**2 * process.marginal(t).std ** 2

        def correct(index, y):
            moved = jnp.sqrt(2 * e) * noise.normal(2 + index)
            push = e * args.score_fn(t, y + moved / 4)
            return y + jnp.where(noisy, push + moved, 0.0)

        y1 = jax.lax.fori_loop(0, self.corrector_steps, correct, y1)
        return y1, None, {"y0": y0, "y1": y1}, state, result
