"""`ctrl-jax sample`: draw samples from a trained diffusion model, as a picture and as arrays."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from ctrl_jax._checks import check_seed
from ctrl_jax.models import SteeringSpec
from ctrl_jax.processes import grids
from ctrl_jax.runtime import check_count, command, refuse
from ctrl_jax.runtime.run.figures import draw_histograms, draw_images
from ctrl_jax.runtime.saved_models import load_model
from ctrl_jax.solvers import EulerMaruyama, ExponentialEuler, sample


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw samples from a run and write samples.png and samples.npz into it.

    Args:
        run: folder of a finished run of score_as_action or cifar10.
        number: samples to draw.
        solver: ancestral and euler_maruyama are stochastic; ddim is the probability flow.
        solver_steps: steps of the sampler; those of training by default.
        seed: seed of the noise.
        out: folder for the files; RUN/samples by default.
    """

    run: Annotated[str, tyro.conf.Positional]
    number: int = 64
    solver: Literal["ancestral", "ddim", "euler_maruyama"] = "ancestral"
    solver_steps: int | None = None
    seed: int = 0
    out: str | None = None

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_count("number", self.number)
        check_seed("seed", self.seed)
        if self.solver_steps is not None:
            check_count("solver_steps", self.solver_steps, least=2)


def main(config: Config) -> Path:
    """Draw the samples and return the folder they were written to."""
    began = time.monotonic()
    model = load_model(config.run)
    steps = config.solver_steps or int(model.notes.get("solver_steps", 50))
    out = Path(config.out) if config.out else Path(config.run) / "samples"
    if out.exists() and not out.is_dir():
        raise refuse("out", config.out, "it must be a folder", "give another --out")
    solvers = {
        "ancestral": ExponentialEuler(),
        "ddim": ExponentialEuler(eta=0.0),
        "euler_maruyama": EulerMaruyama(),
    }
    # The analytic environments start from the law of noised nothing at the horizon.
    at_horizon = model.process.marginal(jnp.asarray(model.process.horizon)).std
    start_std = at_horizon if isinstance(model.spec, SteeringSpec) else None
    samples = sample(
        jax.random.key(config.seed),
        model.process,
        model.score_fn,
        (config.number, *model.shape),
        grid=grids.quadratic(model.process, steps, end=model.spec.end),
        solver=solvers[config.solver],
        start_std=start_std,
    )
    out.mkdir(parents=True, exist_ok=True)
    samples = np.asarray(samples, np.float32)
    if len(model.shape) == 3:
        np.savez(out / "samples.npz", images=samples)
        draw_images(out / "samples.png", samples)
    else:
        np.savez(out / "samples.npz", samples=samples)
        draw_histograms(out / "samples.png", {"samples": samples[:, 0]})
    seconds = time.monotonic() - began
    print(f"{config.number} samples in {seconds:.1f} s: {out / 'samples.png'}, samples.npz")
    return out


if __name__ == "__main__":
    command(Config, main)
