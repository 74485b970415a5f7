"""What a pipeline may be made of, and what its model_index.json says of that."""

import functools
import typing
import warnings
from collections.abc import Collection, Mapping
from typing import Any

from ctrl_jax._checks import refuse
from ctrl_jax._errors import RunWarning
from ctrl_jax.networks.sharding import AUTOENCODER, CLIP, MMDIT, T5, UNET
from ctrl_jax.networks.text_to_image.autoencoder import autoencoder
from ctrl_jax.networks.text_to_image.clip import clip_text
from ctrl_jax.networks.text_to_image.mmdit import mmdit
from ctrl_jax.networks.text_to_image.t5 import t5
from ctrl_jax.networks.text_to_image.unet import unet
from ctrl_jax.pretrained.diffusers.autoencoder import (
    autoencoder_arrays,
    autoencoder_table,
    read_autoencoder,
)
from ctrl_jax.pretrained.diffusers.clip import clip_arrays, clip_table, read_clip_text
from ctrl_jax.pretrained.diffusers.mmdit import mmdit_table, read_mmdit
from ctrl_jax.pretrained.diffusers.parts import DIFFUSERS, MODEL, Kind
from ctrl_jax.pretrained.diffusers.t5 import read_t5, t5_arrays, t5_table
from ctrl_jax.pretrained.diffusers.text_encoding import (
    STABLE_DIFFUSION,
    THREE,
    XL,
    TextEncoding,
)
from ctrl_jax.pretrained.diffusers.unet import read_unet, unet_table

INDEX = "model_index.json"
AUTOENCODER_NAME, SCHEDULER = "vae", "scheduler"
LIBRARIES = ("diffusers", "transformers")
PROJECTION = "text_projection.weight"
CLIP_PROJECTED = Kind(
    functools.partial(read_clip_text, projected=True),
    clip_text,
    clip_table,
    lambda found: clip_arrays(found, "text"),
    MODEL,
    CLIP,
)
# Of files with a projection it reads the rest, whatever their record says of their class.
CLIP_TEXT = CLIP_PROJECTED._replace(
    read=functools.partial(read_clip_text, projected=False),
    arrays=lambda found: {k: v for k, v in clip_arrays(found, "text").items() if k != PROJECTION},
)
KINDS = {
    "UNet2DConditionModel": Kind(read_unet, unet, unet_table, dict, DIFFUSERS, UNET),
    "SD3Transformer2DModel": Kind(read_mmdit, mmdit, mmdit_table, dict, DIFFUSERS, MMDIT),
    "AutoencoderKL": Kind(
        read_autoencoder,
        autoencoder,
        autoencoder_table,
        autoencoder_arrays,
        DIFFUSERS,
        AUTOENCODER,
    ),
    "CLIPTextModel": CLIP_TEXT,
    "CLIPTextModelWithProjection": CLIP_PROJECTED,
    "T5EncoderModel": Kind(read_t5, t5, t5_table, t5_arrays, MODEL, T5),
}


class PipelineKind(typing.NamedTuple):
    """A class of pipelines: its network of the noisy latents, how it reads prompts, its parts.

    Fields:
        denoiser: name of the network that makes the pictures.
        encoding: of prompts.
        optional: text encoders that may be absent.
        zeros: whether zeros stand for the absence of a prompt, unless model_index.json denies it.
        shifted: whether the shift of the autoencoder's latents is heeded.
    """

    denoiser: str
    encoding: TextEncoding
    optional: tuple[str, ...] = ()
    zeros: bool = False
    shifted: bool = False


PIPELINES = {
    "StableDiffusionPipeline": PipelineKind("unet", STABLE_DIFFUSION),
    "StableDiffusionXLPipeline": PipelineKind("unet", XL, zeros=True),
    "StableDiffusion3Pipeline": PipelineKind(
        "transformer", THREE, ("text_encoder_3",), shifted=True
    ),
}
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
ZEROS = "force_zeros_for_empty_prompt"
OPTIONS = {"requires_safety_checker", ZEROS, "add_watermarker"}


def read_index(
    index: Mapping[str, Any], without: Collection[str]
) -> tuple[PipelineKind, dict[str, str], list[str]]:
    """The kind of a pipeline, its networks with their classes, and its tokenizers."""
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in PIPELINES:
        rule, repair = f"it must be {', '.join(PIPELINES)}", "give a folder of one of these"
        raise refuse(f"{INDEX}: _class_name", name, rule, repair)
    kind = PIPELINES[name]
    unknown = sorted({*without} - {*kind.optional})
    if unknown:
        rule = f"{name} can do without {', '.join(kind.optional) or 'none'}"
        raise refuse("without", unknown[0], rule, "leave it out")
    given = {k: v for k, v in index.items() if isinstance(v, list)}
    for part, entry in given.items():
        if len(entry) != 2 or {*map(type, entry)} not in ({str}, {type(None)}):
            rule = "it must be a library and a class, both null for a part that is absent"
            raise refuse(f"{INDEX}: {part}", entry, rule, "give the folder as diffusers saved it")
    absent = {k for k, v in given.items() if not any(v)} | {*without}
    needed = {kind.denoiser, AUTOENCODER_NAME, SCHEDULER}
    needed |= {*kind.encoding.encoders} - {*kind.optional}
    missing = sorted(k for k in needed if k in absent or k not in given)
    if missing:
        rule = f"{name} needs {', '.join(missing)}"
        raise refuse(INDEX, sorted(given), rule, "give the folder of the whole pipeline")
    encoders = {k: v for k, v in kind.encoding.encoders.items() if k in given and k not in absent}
    known = needed | {*encoders, *kind.encoding.encoders.values()}
    over = sorted(set(given) - absent - known)
    for part in over:
        if part not in LEFT_OUT:
            rule = "this part is not understood here, and may change the pictures"
            raise refuse(f"{INDEX}: {part}", given[part], rule, "give a pipeline without it")
    if over:
        text = f"{INDEX}: {', '.join(over)} left out; pictures are not checked or filtered here"
        warnings.warn(text, RunWarning, stacklevel=3)
    for key in sorted(index.keys() - given.keys() - OPTIONS):
        if not key.startswith("_") and index[key] is not None:
            rule = "this entry is not understood here, and may change the pictures"
            raise refuse(f"{INDEX}: {key}", index[key], rule, "take it out if it does not")
    for part in (*needed, *encoders):
        if given[part][0] not in LIBRARIES:
            rule = f"parts of other libraries than {' and '.join(LIBRARIES)} are code of their own"
            raise refuse(f"{INDEX}: {part}", given[part], rule, "give a pipeline without such")
    networks = {part: given[part][1] for part in (kind.denoiser, AUTOENCODER_NAME, *encoders)}
    for part, class_name in networks.items():
        if class_name not in KINDS:
            rule = f"it must be one of {', '.join(KINDS)}"
            raise refuse(f"{INDEX}: {part}", class_name, rule, "give another pipeline")
    return kind, networks, [*encoders.values()]
