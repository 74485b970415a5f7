"""Samples of a trained diffusion model, as a picture and as arrays."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._checks import check_choice
from ctrl_jax.models import SteeringSpec
from ctrl_jax.processes import grids
from ctrl_jax.runtime.run.arrays import write_samples
from ctrl_jax.runtime.run.figures import draw_histograms, draw_images
from ctrl_jax.runtime.saved_models import load_model
from ctrl_jax.solvers import EulerMaruyama, ExponentialEuler, sample

SOLVERS = {
    "ancestral": ExponentialEuler(),
    "ddim": ExponentialEuler(eta=0.0),
    "euler_maruyama": EulerMaruyama(),
}


def draw_of_run(
    run: str, out: Path, *, number: int, solver: str, solver_steps: int | None, seed: int
) -> list[str]:
    """Write samples.png and samples.npz, and return their names.

    Args:
        run: folder of a finished run.
        out: folder for the files.
        number: of samples.
        solver: one of `SOLVERS`.
        solver_steps: steps of the sampler; those of training by default.
        seed: of the noise.
    """
    check_choice("solver", solver, tuple(SOLVERS))
    model = load_model(run)
    steps = solver_steps or int(model.notes.get("solver_steps", 50))
    # The analytic environments start from the law of noised nothing at the horizon.
    at_horizon = model.process.marginal(jnp.asarray(model.process.horizon)).std
    start_std = at_horizon if isinstance(model.spec, SteeringSpec) else None
    samples = sample(
        jax.random.key(seed),
        model.process,
        model.score_fn,
        (number, *model.shape),
        grid=grids.quadratic(model.process, steps, end=model.spec.end),
        solver=SOLVERS[solver],
        start_std=start_std,
    )
    out.mkdir(parents=True, exist_ok=True)
    samples = np.asarray(samples, np.float32)
    if len(model.shape) == 3:
        write_samples(out / "samples.npz", images=samples)
        draw_images(out / "samples.png", samples)
    else:
        write_samples(out / "samples.npz", samples=samples)
        draw_histograms(out / "samples.png", {"samples": samples[:, 0]})
    return ["samples.png", "samples.npz"]
