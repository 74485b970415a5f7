r"""Conditioning without training: classifier-free guidance of a score, replacement in a sampler.

Classifier-free guidance samples with

    s_w = s(t, x) + w (s(t, x, c) - s(t, x)),                                                (1)

w = 0 the unconditional score, w = 1 the conditional one (Ho and Salimans 2022, with w - 1 their
weight). For w not 0 or 1 it is not the score of any noised law, not even for Gaussian data. What a
network predicts is affine in the score, so (1) of its predictions is the prediction that s_w stands
for, whichever it makes. It is most of use at medium noise: outside an interval of times w = 1
(Kynkaanniemi et al. 2024, arXiv 2404.07724).

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
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
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
    score_fn: ScoreFn,
    scale: Float[Array, "*b"] | float,
    null: tuple[Array, ...] | None,
    *,
    passes: int = 1,
    interval: tuple[float, float] | None = None,
) -> ScoreFn:
    """Return the guided score function s_w = s(t, x) + w (s(t, x, c) - s(t, x)).

    It asks `score_fn` with the conditions c and with what stands for their absence: w = 0 is the
    unconditional score, w = 1 the conditional one. It is a score function like any other: given to
    `sample` and to the models of a `DiffusionControl`, the rollout, the ratio and the divergence
    are all of guided scores.

    Args:
        score_fn: ``score_fn(t, x, *conditions)``: a score or any other prediction.
        scale: w, shape () or (batch,). Control lays rows out anew: there it is one number.
        null: for each condition what stands for its absence: one value of the condition's shape
            without the batch, or one per example (negative prompts). With None the guided function
            takes the conditions twice, ``guided(t, x, *conditions, *without)``, so that negative
            prompts go with their rows, as control needs.
        passes: 1 to ask for both at once, in a batch twice as large; 2 to ask one after the other,
            which needs less memory. On a CPU the first is as fast or faster where batches are
            small, by up to a quarter with the gradient.
        interval: first and last forward time at which there is guidance; before and after, the
            conditional prediction alone, and where t is one time of the whole batch nothing else is
            computed. Always by default.

    Raises:
        ValueError: `null` or the scale is empty, the scale is not finite, the interval is none, or
            passes is not 1 or 2; when called, there is not one condition for each value of `null`.

    Source: Ho and Salimans 2022, with w - 1 their weight; Kynkaanniemi et al. 2024
    (arXiv 2404.07724) for `interval`.
    """
    if null is not None and not null:
        raise refuse("classifier_free.null", null, "it must hold a value", "give one per condition")
    if np.size(scale) == 0:
        raise refuse(
            "classifier_free.scale", scale, "it must hold a number", "give one such as 2.0"
        )
    if passes not in (1, 2):
        raise refuse("classifier_free.passes", passes, "it must be 1 or 2", "leave it out")
    if jnp.ndim(scale) == 0:
        check_finite("classifier_free.scale", scale)
    _check_interval(interval)

    def guided(t, x, *conditions):
        given, absent = _absent(null, conditions)

        def both():
            if passes == 2:
                return score_fn(t, x, *absent), score_fn(t, x, *given)
            # Row beside row, so that no row leaves its device.
            at = _doubled(t, t) if jnp.ndim(t) else t
            found = score_fn(at, _doubled(x, x), *map(_doubled, absent, given))
            pairs = found.reshape(-1, 2, *found.shape[1:])
            return pairs[:, 0], pairs[:, 1]

        def extrapolated():
            without, with_them = both()
            return without + expand(jnp.asarray(scale), x) * (with_them - without)

        if interval is None:
            return extrapolated()
        within = (interval[0] <= t) & (t <= interval[1])
        if jnp.ndim(t) == 0:
            return jax.lax.cond(within, extrapolated, lambda: score_fn(t, x, *given))
        without, with_them = both()
        moved = expand(jnp.asarray(scale), x) * (with_them - without)
        on = expand(within.astype(x.dtype), x) > 0
        return jnp.where(on, without + moved, with_them)

    return guided


def _absent(null, conditions):
    """Return the conditions, and what stands for their absence, in their shapes."""
    if null is None:
        half, odd = divmod(len(conditions), 2)
        if odd or not half:
            rule = "with null=None they come twice, those wanted and those that are not"
            raise refuse("number of conditions", len(conditions), rule, "give an even number")
        return conditions[:half], conditions[half:]
    if len(conditions) != len(null):
        rule = f"null has {len(null)} values"
        raise refuse("number of conditions", len(conditions), rule, "give one for each")
    shaped = [jnp.broadcast_to(n, c.shape) for n, c in zip(null, conditions, strict=True)]
    return conditions, shaped


def _doubled(one: Array, other: Array) -> Array:
    """Return rows of two arrays in turn."""
    return jnp.stack([one, other], axis=1).reshape(-1, *one.shape[1:])


def _check_interval(interval) -> None:
    if interval is None:
        return
    name = "classifier_free.interval"
    if not isinstance(interval, tuple) or len(interval) != 2:
        raise refuse(name, interval, "it must be two forward times", "give (first, last)")
    for time in interval:
        check_finite(name, time)
    if not any(isinstance(time, Tracer) for time in interval) and interval[0] > interval[1]:
        raise refuse(name, interval, "the first must not exceed the last", "exchange them")


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
