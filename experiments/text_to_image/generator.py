"""The generator: a pipeline of the published shape, trained on scenes and their captions.

By default it is that of Stable Diffusion 3 without T5: an MMDiT fitted by flow matching to the
latents, with captions read by the tower of texts, which stands for both encoders; or that of Stable
Diffusion 1, a UNet that predicts noise. A share of the captions is left out, for guidance.
"""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ctrl_jax._checks import check_count, check_fraction, refuse
from ctrl_jax._records import read_json
from ctrl_jax._typing import Params
from ctrl_jax.pretrained import load_pipeline
from ctrl_jax.pretrained.diffusers.clip import clip_arrays
from ctrl_jax.pretrained.diffusers.parts import read_part
from ctrl_jax.pretrained.diffusers.pipeline import Pipeline
from ctrl_jax.pretrained.diffusers.pipeline_index import KINDS
from ctrl_jax.pretrained.diffusers.small import filled
from ctrl_jax.pretrained.diffusers.small_records import FLOW, MMDIT, PIPELINES, SCHEDULER, UNET
from ctrl_jax.pretrained.key_table import unfill
from ctrl_jax.pretrained.safetensors_file import read_safetensors, write_safetensors
from experiments.study import Conduct
from experiments.text_to_image import tokenizer
from experiments.text_to_image.autoencoder import Autoencoder
from experiments.text_to_image.scenes import SIDE, Request, draw, draw_requests
from experiments.text_to_image.things import Things
from experiments.text_to_image.towers import Towers, longest, text_record
from experiments.text_to_image.training import Training, fit

HEAD = 32
Shape = Literal["mmdit", "unet"]
ENCODED = 256  # pictures encoded at once


@dataclasses.dataclass(frozen=True)
class Generator:
    """Size and training of the generator.

    Args:
        shape: mmdit, a flow as in Stable Diffusion 3; unet, which predicts noise as in 1.
        width: size of a hidden state, a multiple of 32; channels of the UNet's finest resolution.
        depth: blocks of the MMDiT.
        pictures: drawn once, of the captions that are not set apart.
        dropout: share of captions that are left out.
        training: of the generator.
    """

    shape: Shape = "mmdit"
    width: int = 96
    depth: int = 4
    pictures: int = 16384
    dropout: float = 0.1
    training: Training = dataclasses.field(
        default_factory=lambda: Training(
            steps=8000, batch=64, learning_rate=1.5e-3, average_decay=0.998
        )
    )

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        for name in ("width", "depth", "pictures"):
            check_count(f"generator.{name}", getattr(self, name))
        check_fraction("generator.dropout", self.dropout)
        if self.width % HEAD:
            rule = f"it must be a multiple of {HEAD}"
            raise refuse("generator.width", self.width, rule, "give 96")
        self.training.check("generator.training")


def train(
    study: Conduct,
    folder: Path,
    stage: str,
    options: Generator,
    towers: tuple[Towers, Path],
    autoencoder: tuple[Autoencoder, Path],
    found: tuple[Request, ...],
    known: Things,
) -> dict[str, Any]:
    """Fit the generator and write the pipeline to a folder; return its size.

    Args:
        study: the run.
        folder: written to.
        stage: of the checkpoints.
        options: of size and training.
        towers: their options and the folder that holds them.
        autoencoder: its options and the folder that holds it.
        found: every request; it is trained on those that are seen.
        known: what there is to draw.
    """
    assemble(folder, options, towers, autoencoder, [request.caption for request in found])
    pipeline = load_pipeline(folder)
    seen, seed = [request for request in found if request.seen], study.config.run.seed
    generator = np.random.default_rng([seed, 8])
    rows = np.asarray(draw_requests(generator, seen, options.pictures))
    latents = encoded(pipeline, draw(generator, [seen[i] for i in rows], known)[0])
    conditions = pipeline.encode([*(request.caption for request in seen), None])
    loss_fn = denoising_loss(pipeline, conditions)

    def batch(k: int) -> tuple[np.ndarray, np.ndarray]:
        own = np.random.default_rng([seed, 9, k])
        chosen = own.integers(len(rows), size=options.training.batch)
        absent = own.random(len(chosen)) < options.dropout
        return latents[chosen], np.where(absent, len(seen), rows[chosen])

    part = pipeline.denoiser
    init = _with_zeros(part.plain.init) if options.shape == "mmdit" else part.plain.init
    params = fit(study, stage, options.training, init, loss_fn, batch)
    write_weights(folder / pipeline.kind.denoiser, params, part)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return {"generator/parameters": count}


def denoising_loss(pipeline: Pipeline, conditions: tuple[Array, ...]) -> Callable[..., Array]:
    """Return the loss of the pipeline's own prediction, of latents and numbers of captions.

    Times of a flow are sigmoids of normal numbers (2403.03206, section 3.1), others uniform.
    """
    process, model = pipeline.process, pipeline.model()
    of_flow = pipeline.prediction == "flow"

    def loss_fn(params: Params, key: Array, batch: tuple[Array, Array]) -> Float[Array, ""]:
        x_0, rows = batch
        time_key, noise_key = jax.random.split(key)
        if of_flow:
            t = jax.nn.sigmoid(jax.random.normal(time_key, x_0.shape[:1]))
        else:
            t = jax.random.uniform(time_key, x_0.shape[:1], minval=1.0, maxval=process.horizon)
        x_t, noise = process.sample_marginal(noise_key, x_0, t)
        found = model.apply(params, t, x_t, *(array[rows] for array in conditions))
        return jnp.mean(jnp.square(found - (noise - x_0 if of_flow else noise)))

    return loss_fn


def encoded(pipeline: Pipeline, pictures: np.ndarray) -> np.ndarray:
    """Return the latents of pictures in bytes."""
    filled_up = np.concatenate([pictures, pictures[:1].repeat(-len(pictures) % ENCODED, axis=0)])
    parts = np.split(filled_up, len(filled_up) // ENCODED)
    found = [pipeline.encode_pictures(jnp.asarray(part, jnp.float32) / 255) for part in parts]
    return np.concatenate([np.asarray(part) for part in found])[: len(pictures)]


def assemble(
    folder: Path,
    options: Generator,
    towers: tuple[Towers, Path],
    autoencoder: tuple[Autoencoder, Path],
    texts: list[str],
) -> None:
    """Write the folder of the pipeline, its denoiser random."""
    of_flow = options.shape == "mmdit"
    kind, name = ("sd3", "transformer") if of_flow else ("sd1", "unet")
    index = dict(PIPELINES[kind][0])
    encoders = ["text_encoder", "text_encoder_2"] if of_flow else ["text_encoder"]
    if of_flow:
        index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
        index["_max_sequence_length"] = 1  # tokens of zeros in the place of T5's
    else:
        index["scheduler"] = ["diffusers", "DDIMScheduler"]
    _write(folder / "model_index.json", index)
    for encoder in encoders:
        (folder / encoder).mkdir()
        _write(folder / encoder / "config.json", text_record(towers[0], texts))
        arrays = clip_arrays(read_safetensors(towers[1] / "model.safetensors"), "text")
        write_safetensors(folder / encoder / "model.safetensors", arrays)
        words = encoder.replace("text_encoder", "tokenizer")
        tokenizer.write(folder / words, texts, longest(texts))
    (folder / "vae").mkdir()
    record = read_json(autoencoder[1] / "config.json")
    if not of_flow:  # pipelines of this kind know no shift
        spread = math.hypot(1 / record["scaling_factor"], record["shift_factor"])
        record |= {"scaling_factor": 1 / spread, "shift_factor": None}
    _write(folder / "vae" / "config.json", record)
    weights = "diffusion_pytorch_model.safetensors"
    shutil.copyfile(autoencoder[1] / weights, folder / "vae" / weights)
    (folder / "scheduler").mkdir()
    _write(folder / "scheduler" / "scheduler_config.json", _scheduler(of_flow))
    (folder / name).mkdir()
    side = SIDE // 2 ** (len(autoencoder[0].widths) - 1)
    make = _transformer if of_flow else _unet
    record = make(options, side, autoencoder[0].channels, towers[0].width)
    _write(folder / name / "config.json", record)
    part = read_part(folder / name, KINDS[index[name][1]])
    arrays = filled(part, lambda name, shape: np.zeros(shape, np.float32))
    write_safetensors(folder / name / f"{part.kind.stem}.safetensors", arrays)


def write_weights(folder: Path, params: Params, part: Any) -> None:
    """Write the weights of a part in the place of those that are there."""
    write_safetensors(folder / f"{part.kind.stem}.safetensors", unfill(params, part.table))


def _transformer(options: Generator, side: int, channels: int, text: int) -> dict[str, Any]:
    return MMDIT | {
        "attention_head_dim": HEAD,
        "caption_projection_dim": options.width,
        "dual_attention_layers": [],
        "in_channels": channels,
        "joint_attention_dim": 2 * text,
        "num_attention_heads": options.width // HEAD,
        "num_layers": options.depth,
        "out_channels": channels,
        "patch_size": max(side // 4, 1),
        "pooled_projection_dim": 2 * text,
        "pos_embed_max_size": 4,
        "sample_size": side,
    }


def _unet(options: Generator, side: int, channels: int, text: int) -> dict[str, Any]:
    return UNET | {
        "block_out_channels": [options.width, 2 * options.width],
        "cross_attention_dim": text,
        "down_block_types": ["CrossAttnDownBlock2D"] * 2,
        "up_block_types": ["CrossAttnUpBlock2D"] * 2,
        "in_channels": channels,
        "out_channels": channels,
        "sample_size": side,
    }


def _scheduler(of_flow: bool) -> dict[str, Any]:
    if of_flow:
        return FLOW | {"shift": 1.0}
    return SCHEDULER | {"_class_name": "DDIMScheduler"}


def _with_zeros(init: Callable[[Array], Params]) -> Callable[[Array], Params]:
    """Begin with blocks that add nothing, and a prediction of zeros (2212.09748, section 3.2)."""

    def begin(key: Array) -> Params:
        def zeroed(path: Any, leaf: Array) -> Array:
            names = [str(part.key) for part in path]
            off = "proj_out" in names or ("linear" in names and any("norm" in n for n in names))
            return jnp.zeros_like(leaf) if off else leaf

        return jax.tree_util.tree_map_with_path(zeroed, init(key))

    return begin


def _write(path: Path, record: object) -> None:
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
