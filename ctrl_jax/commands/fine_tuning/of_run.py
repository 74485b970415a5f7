"""A run of this library as what is fine-tuned: all of its network, without prompts."""

from pathlib import Path

import jax.numpy as jnp

from ctrl_jax._checks import refuse
from ctrl_jax._typing import Params
from ctrl_jax.commands.fine_tuning.config import Config
from ctrl_jax.commands.fine_tuning.subject import Subject
from ctrl_jax.models.spec import score_model
from ctrl_jax.networks.sharding import SCORE
from ctrl_jax.processes import grids
from ctrl_jax.runtime.saved_models import load_model, save_model

MODEL = "model"


def is_run(folder: str) -> bool:
    """Return whether a folder is one of a run of this library, or of its model."""
    return any((Path(folder) / name).exists() for name in ("model.json", "model/model.json"))


def load_of_run(config: Config) -> Subject:
    """Return the model of a run.

    Raises:
        ValueError: there is none, or it is none of pictures.
    """
    found = load_model(config.model)
    if len(found.shape) != 3 or found.shape[-1] not in (1, 3):
        rule = f"its examples have the shape {found.shape}, and rewards look at pictures"
        raise refuse("model", config.model, rule, "give a run of digits or of cifar10")
    network = score_model(found.spec, found.shape, config.run.dtype).apply
    process, spec = found.process, found.spec

    def save(folder: Path, params: Params) -> list[str]:
        notes = {"experiment": "fine-tune", "solver_steps": config.sampler.solver_steps}
        place = folder / MODEL
        save_model(place, spec, found.shape, params, notes, precision=config.run.arithmetic)
        return [MODEL]

    return Subject(
        process=process,
        prediction="score",
        shape=found.shape,
        grid=lambda steps: grids.quadratic(process, steps, end=spec.end),
        start_std=None,
        frozen={"denoiser": found.params},
        params=found.params,
        predict=lambda frozen, params, t, x: network(params, t, x),
        refer=lambda frozen, t, x: network(frozen["denoiser"], t, x),
        decode=lambda frozen, x: pictures_of(x),
        widths=(),
        learning_rate=2e-4,
        rules=SCORE,
        save=save,
    )


def pictures_of(x):
    """Return what a network of [-1, 1] makes as pictures in [0, 1], gray ones in three colors."""
    pictures = jnp.clip(x / 2 + 0.5, 0, 1)
    return jnp.broadcast_to(pictures, (*pictures.shape[:-1], 3))
