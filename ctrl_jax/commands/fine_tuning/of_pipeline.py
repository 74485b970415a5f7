"""A text-to-image pipeline of diffusers as what is fine-tuned: adapters of its denoiser, or all."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ctrl_jax._checks import under_names
from ctrl_jax._typing import Params
from ctrl_jax.commands.fine_tuning.config import Config
from ctrl_jax.commands.fine_tuning.pieces import in_pieces
from ctrl_jax.commands.fine_tuning.subject import Subject, Tables
from ctrl_jax.networks.lora import combine, split
from ctrl_jax.pretrained.diffusers.parts import load_part
from ctrl_jax.pretrained.diffusers.pipeline import Pipeline, load_pipeline
from ctrl_jax.pretrained.diffusers.pipeline_index import AUTOENCODER_NAME
from ctrl_jax.pretrained.diffusers.saving import save_lora, save_pipeline
from ctrl_jax.runtime import replicate

LORA_FILE, MODEL = "pytorch_lora_weights.safetensors", "model"


def load_of_pipeline(
    config: Config, mesh: Mesh, texts: Sequence[str | None]
) -> tuple[Subject, Tables]:
    """Return the pipeline of a folder, and the conditions of texts.

    Args:
        config: the options.
        mesh: devices that the weights are divided over.
        texts: what is encoded, None for the absence of a prompt. The text encoders then go.

    Raises:
        ValueError: the folder cannot be used, or the adapters' targets are none of its layers.
    """
    dtype = config.run.dtype
    # Small steps would be lost in the digits of bfloat16.
    kept: dict[str, Any] = {
        "param_dtype": jnp.promote_types(dtype, jnp.float32) if config.full else dtype
    }
    kept |= {"variant": config.variant}
    kept |= {"mesh": mesh, "fully": config.fully_sharded}
    pipeline = load_pipeline(config.model, dtype=dtype, remat=config.remat, weights=(), **kept)

    def read(names: Iterable[str]) -> dict[str, Params]:
        parts = {name: pipeline.parts[name] for name in names}
        return {name: load_part(pipeline.folder / name, p, **kept) for name, p in parts.items()}

    size: dict[str, Any] = {"height": config.height, "width": config.width}
    shape = pipeline.shape(**size)
    held = (pipeline.kind.denoiser, AUTOENCODER_NAME)
    # In memory while they are asked, and before anything else is.
    encoders = (name for name in pipeline.parts if name not in held)
    encoded = pipeline.encode(texts, params=read(encoders), **size)
    tables = tuple(np.asarray(array) for array in replicate(mesh, encoded))
    pipeline = dataclasses.replace(pipeline, params=read(held))
    widths = tuple(table.shape[-1] for table in tables)
    return subject_of(config, pipeline, shape, widths, mesh.shape["data"]), tables


def subject_of(
    config: Config,
    pipeline: Pipeline,
    shape: tuple[int, ...],
    widths: tuple[int, ...],
    devices: int = 1,
) -> Subject:
    """Return a pipeline as what is fine-tuned."""
    name, lora = pipeline.kind.denoiser, None if config.full else config.adapters.lora
    reference, trained = pipeline.model().apply, pipeline
    scheduler = pipeline.scheduler
    if config.sampler.solver != "euler_maruyama":  # whose last step has noise wherever it begins
        scheduler = scheduler.without_least()
    frozen = {"denoiser": pipeline.params[name], "decoder": pipeline.params[AUTOENCODER_NAME]}
    if lora is None:
        params = frozen["denoiser"]
    else:
        with under_names(**{"LoRA.targets": "adapters.targets"}):
            trained = pipeline.adapt(jax.random.key(config.run.seed), lora)
        params = in_full(split(trained.params[name])[0])
    network = trained.model().apply

    def predict(frozen, params, t, x, *conditions):
        whole = params if lora is None else combine(params, frozen["denoiser"])
        return network(whole, t, x, *conditions)

    def decode(frozen, x):
        return in_pieces(lambda some: pipeline.decode(some, frozen["decoder"]), x, devices)

    def save(folder: Path, params: Params) -> list[str]:
        if lora is not None:
            save_lora(folder / LORA_FILE, trained, {name: params})
            return [LORA_FILE]
        own = dataclasses.replace(
            pipeline, parts={name: pipeline.parts[name]}, params={name: params}
        )
        save_pipeline(folder / MODEL, own, replace=True, sums=True)
        return [MODEL]

    return Subject(
        process=pipeline.process,
        prediction=pipeline.prediction,
        shape=shape,
        grid=scheduler.grid,
        start_std=pipeline.scheduler.start_std,
        frozen=frozen,
        params=params,
        predict=predict,
        refer=lambda frozen, t, x, *conditions: reference(frozen["denoiser"], t, x, *conditions),
        decode=decode,
        widths=widths,
        learning_rate=1e-5 if lora is None else 3e-4,
        rules=pipeline.denoiser.kind.rules,
        save=save,
    )


def in_full(params: Params) -> Params:
    """Return parameters in float32 at least: small steps would be lost in fewer digits."""
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)), params
    )
