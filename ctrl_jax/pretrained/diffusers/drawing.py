"""Pictures of prompts: a pipeline's process simulated from noise, and the latents decoded.

The noise of a picture depends on its key alone, so that a picture is the same whatever is drawn
beside it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ctrl_jax._checks import check_count, check_finite
from ctrl_jax._typing import Params
from ctrl_jax.pretrained.diffusers.pipeline import Pipeline
from ctrl_jax.pretrained.diffusers.text_encoding import Conditions
from ctrl_jax.solvers import BrownianPath, guidance, simulate

Draw = Callable[..., Float[Array, "batch h w channels"]]


def make_drawing(
    pipeline: Pipeline,
    *,
    scale: float = 5.0,
    interval: tuple[float, float] | None = None,
    passes: int = 1,
    steps: int = 30,
    height: int | None = None,
    width: int | None = None,
) -> Draw:
    """Return ``draw(params, keys, conditions, null) -> latents``, one compiled program.

    Its arguments: the denoiser's parameters, a PRNG key for each picture (batch,), and the
    conditions by `Pipeline.encode` of the prompts and of what is guided away from; `null` is not
    read where the scale is 1.

    Args:
        pipeline: by `load_pipeline`.
        scale: of classifier-free guidance: 1 for none (`guidance.classifier_free`).
        interval: the forward times (first, last) between which there is guidance; None for all.
        passes: of the network per guided step: one of twice the batch, or two.
        steps: of the scheduler's solver.
        height: of the pictures in pixels; the model's own by default.
        width: of the pictures in pixels; the model's own by default.

    Raises:
        ValueError: an option is out of range.
    """
    check_finite("scale", scale)
    check_count("steps", steps)
    scheduler, shape = pipeline.scheduler, pipeline.shape(height, width)
    solver = scheduler.solver
    grid, model = scheduler.grid(steps), pipeline.model()
    noise_level = 1.0 if getattr(solver, "eta", 0.0) > 0 else 0.0

    def draw(params: Params, keys: Array, conditions: Conditions, null: Conditions) -> Array:
        def predict(t, x, *conditions):
            return model.apply(params, t, x, *conditions)

        if scale != 1:
            predict = guidance.classifier_free(
                predict, scale, null, interval=interval, passes=passes
            )
        starts, paths = jax.vmap(jax.random.split, out_axes=1)(keys)
        x_0 = scheduler.start_std * jax.vmap(lambda key: jax.random.normal(key, shape))(starts)
        sde = pipeline.process.reverse(
            lambda t, x: predict(t, x, *conditions),
            noise_level=noise_level,
            prediction=pipeline.prediction,
        )
        path = _noise_of(paths, grid, x_0) if noise_level else grid
        return simulate(keys[0], sde, x_0, path, solver=solver).states

    return jax.jit(draw)


def _noise_of(keys: Array, grid: Array, x_0: Array) -> BrownianPath:
    """The noise of the steps, each picture's by its own key."""
    drawn = jax.vmap(lambda key, x: BrownianPath.draw(key, grid, x))(keys, x_0)
    noise, levy = (jnp.swapaxes(part, 0, 1) for part in (drawn.noise, drawn.levy_noise))
    return BrownianPath(grid, noise, levy)
