r"""Conditioning without training: classifier-free guidance of a score, replacement in a sampler.

Classifier-free guidance samples with

    s_w = s(t, x) + w (s(t, x, c) - s(t, x)),                                                (1)

w = 0 the unconditional score, w = 1 the conditional one (Ho and Salimans 2022, with w - 1 their
weight). For w not 0 or 1 it is not the score of any noised law, not even for Gaussian data.

Inpainting by replacement keeps known coordinates y: after every step to forward time t they are
overwritten by a(t) y + \sqrt{v(t)} z, their law at that time, fresh z each time. One such pass
ignores what the known coordinates at t say about the others, so alone it is right only where the
two are independent. Passing again over a step (noise the result from t' back up to t by the
forward kernel

    x_t = (a / a') x_{t'} + \sqrt{v - (a / a')^2 v'} z                                        (2)

and step down once more, `passes` times) lets the others adapt: as the passes grow and the steps
shrink the law at the end tends to the conditional one. Source: Lugmayr et al. 2022, algorithm 1.
"""

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ctrl_jax._checks import check_count, check_finite, refuse
from ctrl_jax._door import at_the_door
from ctrl_jax._numerics import expand
from ctrl_jax._typing import ScoreFn
from ctrl_jax.solvers.brownian import StepNoise
from ctrl_jax.solvers.consistency_sampling import renoise
from ctrl_jax.solvers.reverse_solver import ReverseSolver, check_sde_solver, noise_of, on_grid


@at_the_door
def classifier_free(
    score_fn: ScoreFn, scale: Float[Array, "*b"] | float, null: tuple[Array, ...]
) -> ScoreFn:
    """Return the guided score function (1), which evaluates `score_fn` twice.

    Args:
        score_fn: ``score_fn(t, x, *conditions)``.
        scale: w in (1), shape () or (batch,).
        null: for each condition the value that stands for its absence, of the condition's shape
            without the batch.

    Raises:
        ValueError: `null` is empty; when called, there is not one condition for each of its values.
    """
    if not null:
        raise refuse("classifier_free.null", null, "it must hold a value", "give one per condition")

    if jnp.ndim(scale) == 0:
        check_finite("classifier_free.scale", scale)

    def guided(t, x, *conditions):
        if len(conditions) != len(null):
            rule = f"null has {len(null)} values"
            raise refuse("number of conditions", len(conditions), rule, "give one for each")
        absent = [jnp.broadcast_to(n, c.shape) for n, c in zip(null, conditions, strict=True)]
        without = score_fn(t, x, *absent)
        return without + expand(jnp.asarray(scale), x) * (score_fn(t, x, *conditions) - without)

    return guided


class Inpainting(ReverseSolver):
    """A solver that keeps known coordinates at their law; simulate the reverse SDE with it.

    Args:
        solver: the solver that takes the steps.
        known: values of the known coordinates, shape (batch, ...); elsewhere ignored.
        mask: True where `known` holds, shape (batch, ...).
        passes: times that every step is taken; each costs what a step of `solver` costs.

    Raises:
        ValueError: `passes` is less than 1, known and mask differ in shape, the solver is for ODEs
            only, or the solve is of a probability flow, which has no noise (take the solver
            ``ExponentialEuler(eta=0.0)`` on the reverse SDE).
    """

    solver: diffrax.AbstractSolver
    known: Float[Array, "batch ..."]
    mask: Bool[Array, "batch ..."]
    passes: int = eqx.field(default=1, static=True)

    def __check_init__(self):
        check_sde_solver("Inpainting.solver", self.solver)
        check_count("Inpainting.passes", self.passes, most=1000)  # each is compiled
        if not jnp.issubdtype(getattr(self.known, "dtype", object), jnp.floating):
            rule = "it must be an array of floating numbers"
            raise refuse("Inpainting.known", self.known, rule, "convert it with jnp.asarray")
        if not jnp.issubdtype(getattr(self.mask, "dtype", object), jnp.bool_):
            rule = "it must be an array of true and false"
            raise refuse("Inpainting.mask", self.mask, rule, "compare it first, such as x > 0")
        if self.known.shape != self.mask.shape:
            rule = f"it must be that of known, {self.known.shape}"
            raise refuse("Inpainting.mask.shape", self.mask.shape, rule, "broadcast one of them")

    def on_grid(self, grid):
        """Return the solver with its inner solver set on the grid."""
        return Inpainting(on_grid(self.solver, grid), self.known, self.mask, self.passes)

    def init(self, terms, t0, t1, y0, args):
        """Return the inner solver's state."""
        return self.solver.init(terms, t0, t1, y0, args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """Take the step `passes` times, replacing after each and noising up between them."""
        noise = noise_of(terms)
        if noise is None:
            raise refuse(
                "Inpainting: noise_level",
                args.noise_level,
                "a probability flow has no noise to replace with",
                "simulate the reverse SDE with the solver ExponentialEuler(eta=0.0)",
            )
        times = args.forward_time(t0), args.forward_time(t1)
        y = y0
        for number in range(self.passes):
            own = noise.substep(self.passes + number)
            again = terms if number == 0 else _with_noise(terms, noise.substep(number))
            # A state that was moved from outside: methods must not reuse what they saw before.
            y1, _, _, state, result = self.solver.step(again, t0, t1, y, args, solver_state, True)
            scale, std = args.process.marginal(times[1])
            y1 = jnp.where(self.mask, scale * self.known + std * own.noise, y1)
            y = renoise(args.process, y1, own.normal(2), end=times[1], t=times[0])
        return y1, None, {"y0": y0, "y1": y1}, state, result


def _with_noise(terms: diffrax.MultiTerm, noise: StepNoise) -> diffrax.MultiTerm:
    return eqx.tree_at(lambda t: t.terms[1].control, terms, noise)
