"""The base model of the image task: trained once, and found again by what it depends on."""

import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ctrl_jax._typing import Params
from ctrl_jax._whole import copy_folder, set_aside
from ctrl_jax.algorithms import DataBatch, make_score_pretraining, uniform_times
from ctrl_jax.algorithms.training.optimizer import adam, make_schedule
from ctrl_jax.runtime import RunWarning, own_part, state_digest
from ctrl_jax.runtime.devices.distributed import barrier, on_the_first
from ctrl_jax.runtime.saved_models import FORMAT, SavedModel, load_model, save_model
from experiments.score_as_action.config import Config
from experiments.study import Conduct

CACHE = Path("runs/pretrained")


def pretrain(config: Config, images: np.ndarray, study: Conduct) -> Params:
    """Train the base model, or take it from the run's folder or from an equal earlier run.

    On the host in every case: where arrays lie is part of what is compiled, and a run that goes on
    would compile its step again, perhaps to other bits.
    """
    name = fingerprint(config, images, study)
    here = study.folder / f"pretrained-{name}"
    cached = CACHE / fingerprint(config, images, study, shared=True)
    if (model := _found(here)) is not None:
        return jax.device_get(model.params)
    if config.pretraining.reuse and (model := _found(cached)) is not None:
        if jax.process_index() == 0:
            copy_folder(cached, here)
        return jax.device_get(model.params)
    stage = f"pretraining-{name}"
    alike = study.alike()
    params = _train_score(config, images, stage, study)
    save_model(here, config.model, images.shape[1:], params, precision=config.run.arithmetic)
    if alike and config.pretraining.reuse:
        study.share(here, cached)
    return params


def _train_score(config: Config, images: np.ndarray, stage: str, study: Conduct) -> Params:
    options, process = config.pretraining, config.model.process()
    warmup = min(100, options.steps // 2)
    rate = make_schedule(options.learning_rate, options.steps, options.schedule, warmup=warmup)
    algorithm = make_score_pretraining(
        process,
        config.model.model(images.shape[1:], config.run.dtype),
        adam(rate, clip=options.gradient_clip),
        sample_times=uniform_times(process, config.model.end),
        weighting=lambda t: 1 / process.marginal(t).scale ** 2,
        average_decay=options.average_decay,
    )

    def batch(k):
        rows = np.random.default_rng([config.run.seed, k]).integers(len(images), size=options.batch)
        return own_part(study.mesh, DataBatch(jnp.asarray(images[rows])))

    state = algorithm.init(jax.random.key(config.run.seed))
    watched = {"fetch_every": 100, "checkpoint_every": 1000, "description": "pre-training"}
    state = study.train(
        algorithm.step, state, batch, options.steps, stage=stage, log=None, **watched
    )
    return jax.device_get(state.params)


def fingerprint(config: Config, images: np.ndarray, study: Conduct, *, shared: bool = False) -> str:
    """What the base model depends on, in one name, which is another for what runs share."""
    digest = state_digest({"images": images})
    return study.fingerprint(config.model, config.pretraining, FORMAT, digest, shared=shared)


def _found(folder: Path) -> SavedModel | None:
    """Return the model of a folder; one that is damaged is said, set aside and made again.

    Every process reads it, or none: process 0 decides whether it is there.
    """
    if not on_the_first(folder.exists):
        return None
    try:
        return load_model(folder)
    except ValueError as error:
        if jax.process_index() == 0:
            text = f"{folder}: the base model is damaged and is made again ({error}); it is kept as"
            warnings.warn(f"{text} {set_aside(folder).name}", RunWarning, stacklevel=3)
        barrier("a damaged base model")
        return None
