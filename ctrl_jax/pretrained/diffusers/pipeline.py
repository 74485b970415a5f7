r"""Text-to-image pipelines from the folders of diffusers, as pure functions.

A folder of Stable Diffusion 1, 2, XL, 3 or 3.5 holds ``model_index.json`` and a folder for every
part. What comes of it is a model like any other of this library: a process, a network of the noisy
latents, and conditions::

    pipeline = load_pipeline("stable-diffusion-v1-5")
    conditions = pipeline.encode(["a red apple left of a blue car"])
    latents = solvers.sample(
        jax.random.key(0),
        pipeline.process,
        pipeline.predict_fn(),
        (1, *pipeline.shape()),
        grid=pipeline.scheduler.grid(30),
        prediction=pipeline.prediction,
        conditions=conditions,
    )
    pictures = pipeline.decode(latents)

Latents are (batch, height / 8, width / 8, channels), pictures (batch, height, width, 3) in [0, 1].
Nothing is downloaded, unpickled or executed.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ctrl_jax._checks import check_choice, check_count, check_finite, refuse
from ctrl_jax._records import read_json
from ctrl_jax._sums import check_sums
from ctrl_jax._typing import Model, Params, ScoreFn
from ctrl_jax.data.preferences.tokenizer import load_tokenizer
from ctrl_jax.data.prompts import distinct
from ctrl_jax.networks.lora import LoRA, combine, merge
from ctrl_jax.networks.lora import split as lora_split
from ctrl_jax.networks.text_to_image.autoencoder import scaled, unscaled
from ctrl_jax.pretrained.diffusers import lora_file
from ctrl_jax.pretrained.diffusers.parts import Part, load_part, read_part
from ctrl_jax.pretrained.diffusers.pipeline_index import (
    AUTOENCODER_NAME,
    INDEX,
    KINDS,
    SCHEDULER,
    ZEROS,
    PipelineKind,
    read_index,
)
from ctrl_jax.pretrained.diffusers.scheduler import Scheduler, read_scheduler
from ctrl_jax.pretrained.diffusers.text_encoding import (
    LONGEST_T5,
    Conditions,
    tokenize,
)
from ctrl_jax.processes import LinearProcess, Prediction, parameterization

SCORES = {
    "noise": parameterization.from_noise,
    "data": parameterization.from_data,
    "v": parameterization.from_v,
    "flow": parameterization.from_flow,
}
MAX_SEQUENCE_LENGTH = "_max_sequence_length"
"""Entry of our own in model_index.json, which diffusers reads over: give its call this number."""

ENCODED_TOGETHER = 32
"""Texts: the states of some inside the largest encoders take a few gigabytes."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
    """A text-to-image pipeline; use `load_pipeline`.

    Attributes:
        folder: that it was read from.
        index: the content of model_index.json.
        kind: which networks it has, and how it reads prompts.
        parts: its networks by name: the denoiser, "vae" and the text encoders.
        params: their weights by name.
        scheduler: the process, what the network predicts, and the usual grids and solver.
        tokenizers: by name.
        lora: the adapters that parts have beside their kernels, by name.
        variant: of the weight files that were read, such as fp16.
    """

    folder: Path
    index: Mapping[str, Any]
    kind: PipelineKind
    parts: Mapping[str, Part]
    params: Mapping[str, Params]
    scheduler: Scheduler
    tokenizers: Mapping[str, Any]
    lora: Mapping[str, LoRA] = dataclasses.field(default_factory=dict)
    variant: str | None = None

    @property
    def process(self) -> LinearProcess:
        """The forward process of the latents."""
        return self.scheduler.process

    @property
    def prediction(self) -> Prediction:
        """What the denoiser predicts: "noise", "data", "v" or "flow"."""
        return self.scheduler.prediction

    @property
    def denoiser(self) -> Part:
        """The network of the noisy latents."""
        return self.parts[self.kind.denoiser]

    @property
    def pixels(self) -> int:
        """Side of the square of pixels that one latent stands for."""
        return self.parts[AUTOENCODER_NAME].config.factor

    def shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """Return the shape (h, w, channels) of the latents of one picture.

        Args:
            height: of the picture in pixels; the model's own by default.
            width: of the picture in pixels; the model's own by default.

        Raises:
            ValueError: a size is no multiple of what one latent of the denoiser stands for, or more
                than an MMDiT has places for.
        """
        config = self.denoiser.config
        unit = self.pixels * config.multiple
        for name, size in (("height", height), ("width", width)):
            if size is not None and (check_count(name, size) or size % unit):
                rule = f"it must be a multiple of {unit} pixels"
                raise refuse(name, size, rule, f"give {max(size // unit, 1) * unit}")
            if size is not None and size > (most := getattr(config, "places", size) * unit):
                rule = f"the model has places for {most} pixels"
                raise refuse(name, size, rule, f"give at most {most}")
        rows, columns = (
            config.sample_size if size is None else size // self.pixels for size in (height, width)
        )
        return rows, columns, config.channels

    def model(self) -> Model:
        """Return the denoiser as a `Model`: ``apply(params, t, x, *conditions)`` is its prediction.

        Times are the process's own, conditions those of `encode`.
        """
        network, shown = self.denoiser.network, self.scheduler.shown

        def apply(params: Params, t: Array, x: Array, *conditions: Array) -> Array:
            return network.apply(params, x, shown(t), *conditions).astype(x.dtype)

        return Model(network.init, apply)

    def predict_fn(self, params: Params | None = None) -> Callable[..., Array]:
        """Return ``predict(t, x, *conditions)``, the denoiser's own `prediction`.

        Args:
            params: of the denoiser; the pipeline's by default.
        """
        params = self.params[self.kind.denoiser] if params is None else params
        return functools.partial(self.model().apply, params)

    def score_fn(self, params: Params | None = None) -> ScoreFn:
        """Return ``score_fn(t, x, *conditions)``, the score that the denoiser's prediction means.

        Args:
            params: of the denoiser; the pipeline's by default.
        """
        return SCORES[self.prediction](self.process, self.predict_fn(params))

    def encode(
        self,
        prompts: Sequence[str | None],
        *,
        height: int | None = None,
        width: int | None = None,
        params: Mapping[str, Params] | None = None,
    ) -> Conditions:
        """Return the conditions of prompts, arrays with leading axis prompts.

        Each distinct prompt is encoded once.

        Args:
            prompts: texts; None for the absence of one, which is "" or, of Stable Diffusion XL
                unless model_index.json denies it, zeros.
            height: of the pictures in pixels; the model's own by default.
            width: of the pictures in pixels; the model's own by default.
            params: of the text encoders by name; the pipeline's by default.

        Warns:
            RunWarning: prompts that are cut.

        Raises:
            ValueError: there is no prompt, or one is no text.
        """
        for number, prompt in enumerate(prompts):
            if not isinstance(prompt, str | None):
                raise refuse(f"prompts[{number}]", prompt, "it must be a text", "give one")
        if isinstance(prompts, str) or not len(prompts):
            raise refuse("prompts", prompts, "it must list texts", 'give some, such as ["a cat"]')
        texts, index = distinct(["" if prompt is None else prompt for prompt in prompts])
        rows, columns, _ = self.shape(height, width)
        ids = {
            name: tokenize(self.tokenizers[tokenizer], texts, self._longest(name))
            for name, tokenizer in self.kind.encoding.encoders.items()
            if name in self.parts
        }
        params = self.params if params is None else params
        weights = {name: params[name] for name in ids}
        size = (rows * self.pixels, columns * self.pixels)
        found = [
            self._encoded(weights, {name: rows[some] for name, rows in ids.items()}, size)
            for some in _pieces(len(texts))
        ]
        conditions = tuple(jnp.concatenate(arrays)[index] for arrays in zip(*found, strict=True))
        if not (self.kind.zeros and self.index.get(ZEROS, True)):
            return conditions
        given = np.asarray([prompt is not None for prompt in prompts])
        # What the picture's size says stays: it is no part of the text.
        return tuple(
            jnp.where(given[(...,) + (None,) * (array.ndim - 1)], array, 0) if i < 2 else array
            for i, array in enumerate(conditions)
        )

    def decode(
        self, latents: Float[Array, "batch h w channels"], params: Params | None = None
    ) -> Float[Array, "batch height width 3"]:
        """Return the pictures of latents, in [0, 1].

        Args:
            latents: as the denoiser makes them.
            params: of the autoencoder; the pipeline's by default.
        """
        params = self.params[AUTOENCODER_NAME] if params is None else params
        return self._decoded(params, latents)

    def encode_pictures(
        self, pictures: Float[Array, "batch height width 3"], params: Params | None = None
    ) -> Float[Array, "batch h w channels"]:
        """Return the latents of pictures in [0, 1], the mean of their law.

        Args:
            pictures: height and width multiples of `pixels`.
            params: of the autoencoder; the pipeline's by default.
        """
        params = self.params[AUTOENCODER_NAME] if params is None else params
        return self._latents(params, pictures)

    def adapt(self, key: Array, lora: LoRA, part: str | None = None) -> "Pipeline":
        """Return the pipeline with fresh adapters beside kernels of one network.

        Args:
            key: PRNG key of the adapters.
            lora: rank, scale, and the layers by the ends of their names, such as "to_q".
            part: the network; the denoiser by default.

        Raises:
            ValueError: the network has no such layer, or has adapters already.
        """
        name = part or self.kind.denoiser
        check_choice("part", name, tuple(self.parts))
        if name in self.lora:
            raise _has_adapters("part", name)
        network = self.parts[name].make(lora)
        # Compiled, so that the weights that are not looked at are never drawn.
        adapters = jax.jit(lambda key: lora_split(network.init(key))[0])(key)
        return self._with(name, lora, adapters)

    def with_lora(
        self, file: str | os.PathLike[str], *, merged: bool = True, scale: float = 1.0
    ) -> "Pipeline":
        """Return the pipeline with the adapters of a file of diffusers, PEFT or kohya.

        Args:
            file: safetensors, or a folder with ``pytorch_lora_weights.safetensors``.
            merged: whether they are added to the kernels, beside which there may be adapters
                already; beside them otherwise, to be trained on.
            scale: that they are multiplied by, also negative.

        Raises:
            ValueError: the file is missing, damaged or of another form, or does not fit; or
                adapters are to stand where there are some.
        """
        check_finite("scale", scale)
        pipeline = self
        for part, layers in lora_file.read_lora(file).items():
            name = part or self.kind.denoiser
            if name not in self.parts:
                rule = f"the pipeline has {', '.join(self.parts)}"
                raise refuse("lora", f"adapters of {name}", rule, "give the model that it is of")
            of = self.parts[name]
            if name in self.lora and not merged:
                raise _has_adapters("lora", f"adapters of {name}")
            scaled = {
                k: layer._replace(b=layer.b * np.float32(scale)) for k, layer in layers.items()
            }
            lora, adapters = lora_file.adapters_of(name, scaled, of.plain.shapes, of.table)
            if merged:
                own, base = lora_split(self.params[name])
                whole = combine(own, merge(combine(adapters, base), lora))
                pipeline = dataclasses.replace(pipeline, params={**pipeline.params, name: whole})
            else:
                pipeline = pipeline._with(name, lora, jax.tree.map(jnp.asarray, adapters))
        return pipeline

    def _with(self, name: str, lora: LoRA, adapters: Params) -> "Pipeline":
        part = self.parts[name]._replace(network=self.parts[name].make(lora))
        params = combine(adapters, self.params[name])
        return dataclasses.replace(
            self,
            parts={**self.parts, name: part},
            params={**self.params, name: params},
            lora={**self.lora, name: lora},
        )

    def _longest(self, encoder: str) -> int:
        """How many tokens of a text an encoder is given."""
        if encoder == "text_encoder_3":
            return self._longest_t5
        length = self.tokenizers[self.kind.encoding.encoders[encoder]].model_max_length
        return min(length, self.parts[encoder].config.positions)

    @property
    def _longest_t5(self) -> int:
        """T5's tokens, also of zeros in its place; in diffusers an argument of every call."""
        return self.index.get(MAX_SEQUENCE_LENGTH, LONGEST_T5)

    @functools.cached_property
    def _encoded(self):
        encode, parts, longest = self.kind.encoding.encode, self.parts, self._longest_t5
        return jax.jit(
            lambda params, ids, size: encode(parts, params, ids, size, longest), static_argnums=2
        )

    @functools.cached_property
    def _decoded(self):
        part = self.parts[AUTOENCODER_NAME]

        def decode(params, latents):
            found = part.network.apply(params, unscaled(part.config, latents), method="decode")
            return jnp.clip(found.astype(latents.dtype) / 2 + 0.5, 0, 1)

        return jax.jit(decode)

    @functools.cached_property
    def _latents(self):
        part = self.parts[AUTOENCODER_NAME]

        def encode(params, pictures):
            mean, _ = part.network.apply(params, 2 * pictures - 1, method="encode")
            return scaled(part.config, mean.astype(pictures.dtype))

        return jax.jit(encode)


def load_pipeline(
    folder: str | os.PathLike[str],
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
    variant: str | None = None,
    without: Collection[str] = (),
    weights: Collection[str] | None = None,
    solver: str | None = None,
    remat: bool = False,
    mesh: Mesh | None = None,
    fully: bool = False,
) -> Pipeline:
    """Return the pipeline of a folder of diffusers.

    Args:
        folder: of Stable Diffusion 1.x, 2.x, XL, 3 or 3.5.
        dtype: type of the arithmetic; normalizations and softmaxes are in float32 at least.
        param_dtype: type of the weights; those of the files are converted to it.
        variant: of the weight files, such as fp16.
        without: text encoders to leave out: ``text_encoder_3`` of Stable Diffusion 3, whose states
            are then zeros.
        weights: parts whose weights are read, such as ``("text_encoder",)``, so that not all need
            be in memory at once; all by default.
        solver: "ddim", "ddpm" or "ancestral", "euler", "euler_ancestral" or "dpmpp": as if the
            folder's scheduler were exchanged for that of diffusers; its own by default.
        remat: whether the denoiser's blocks are computed again in the backward pass.
        mesh: with axes ``data`` and ``model``, over which the weights are divided as they are read;
            None for the default device.
        fully: whether they are divided over ``data`` too.

    Warns:
        RunWarning: parts and entries that are read over, such as a safety checker.

    Raises:
        ValueError: a file is missing, truncated or damaged, the pipeline is of another kind, a
            record says what is not understood, or weights do not fit it.
    """
    folder = Path(folder)
    repair = "give the folder that diffusers' save_pretrained wrote"
    for name, given in (("dtype", dtype), ("param_dtype", param_dtype)):
        _check_float(name, given)
    check_sums(folder)
    index = read_json(folder / INDEX, name="model", repair=repair)
    without = [without] if isinstance(without, str) else without
    kind, networks, tokenizers = read_index(index, without)
    check_count(f"{INDEX}: {MAX_SEQUENCE_LENGTH}", index.get(MAX_SEQUENCE_LENGTH, 1), most=512)
    options = {"dtype": dtype, "param_dtype": param_dtype}
    parts, params = {}, {}
    for name, class_name in networks.items():
        more = {"remat": remat} if name == kind.denoiser else {}
        parts[name] = read_part(folder / name, KINDS[class_name], **options, **more)
    _check_parts(kind, parts)
    record = read_json(folder / SCHEDULER / "scheduler_config.json", name="model", repair=repair)
    # The index decides on the class, as in diffusers, whatever the file was written by.
    named = record | {"_class_name": index[SCHEDULER][1]}
    scheduler = read_scheduler(named, solver=solver)
    found = {name: load_tokenizer(folder / name) for name in tokenizers}
    for name, part in parts.items():
        if weights is not None and name not in weights:
            continue
        params[name] = load_part(
            folder / name, part, param_dtype=param_dtype, variant=variant, mesh=mesh, fully=fully
        )
    return Pipeline(folder, index, kind, parts, params, scheduler, found, variant=variant)


def _pieces(texts: int) -> list[np.ndarray]:
    """Which texts are encoded together, the last piece filled up: all are of one program."""
    together = min(texts, ENCODED_TOGETHER)
    starts = range(0, texts, together)
    return [np.minimum(np.arange(start, start + together), texts - 1) for start in starts]


def _check_float(name: str, dtype: DTypeLike) -> None:
    try:
        known = jnp.issubdtype(dtype, jnp.floating)
    except TypeError:
        known = False
    if not known:
        repair = "give float32, bfloat16 or float16"
        raise refuse(name, dtype, "it must be a type of floating numbers", repair)


def _check_parts(kind: PipelineKind, parts: Mapping[str, Part]) -> None:
    """Refuse networks that are each understood, but not together."""
    denoiser, vae = parts[kind.denoiser].config, parts[AUTOENCODER_NAME].config
    for key, number in (("in", denoiser.channels), ("out", denoiser.out_channels)):
        if number != vae.latent_channels:
            rule = f"the autoencoder's latents have {vae.latent_channels}"
            repair = "give a pipeline that reads nothing but a prompt"
            raise refuse(f"{kind.denoiser}/config.json: {key}_channels", number, rule, repair)
    if vae.shift_factor and not kind.shifted:
        rule = "diffusers reads it over in a pipeline of this class, and others would not"
        name = f"{AUTOENCODER_NAME}/config.json: shift_factor"
        raise refuse(name, vae.shift_factor, rule, "set it to null for the same pictures")


def _has_adapters(name: str, value: str) -> ValueError:
    repair = "save_pipeline adds them to the weights: load that folder, or train those"
    return refuse(name, value, "there are adapters already", repair)
