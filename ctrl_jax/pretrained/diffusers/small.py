"""Small pipelines to try things on: whole folders of diffusers' layout with random weights."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ctrl_jax._checks import check_choice, refuse
from ctrl_jax.networks.text_to_image.mmdit import place_table
from ctrl_jax.pretrained.diffusers.parts import Part, read_part
from ctrl_jax.pretrained.diffusers.pipeline_index import KINDS
from ctrl_jax.pretrained.diffusers.small_records import PIPELINES, write_records
from ctrl_jax.pretrained.key_table import unfill
from ctrl_jax.pretrained.safetensors_file import write_safetensors

TABLE = "pos_embed.pos_embed"
Weights = Callable[[Part], Mapping[str, np.ndarray]]


def write_small_pipeline(
    folder: str | os.PathLike[str],
    kind: str = "sd1",
    *,
    seed: int = 0,
    weights: Weights | None = None,
    records: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write a pipeline of a published kind, ten thousand times smaller.

    It draws noise of 16 x 16 pixels from prompts of letters, and loads in `load_pipeline` and in
    diffusers alike: for tests, and to try commands on before the real model is there.

    Args:
        folder: created; there must be none yet.
        kind: "sd1", "sd2" (predicts v), "sdxl" or "sd3" (a flow, with T5).
        seed: of the weights.
        weights: ``weights(part)`` returns a part's arrays by the names of its file; random ones by
            default.
        records: by part, entries of its config.json in the place of the small ones, such as
            ``{"unet": {"block_out_channels": [32, 64]}}``.

    Returns:
        The folder.

    Raises:
        ValueError: the folder exists, the kind is unknown, or it has no such part.
    """
    folder = Path(folder)
    check_choice("kind", kind, tuple(PIPELINES))
    records = records or {}
    unknown = sorted({*records} - {*PIPELINES[kind][1]})
    if unknown:
        rule = f"{kind} has {', '.join(PIPELINES[kind][1])}"
        raise refuse("records", unknown[0], rule, "leave it out")
    if folder.exists():
        raise refuse("folder", str(folder), "it exists already", "give another")
    write_records(folder, kind, records)
    for i, (name, entry) in enumerate(PIPELINES[kind][0].items()):
        if isinstance(entry, list) and entry[1] in KINDS:
            part = read_part(folder / name, KINDS[entry[1]])
            rng = np.random.default_rng([seed, i])
            arrays = weights(part) if weights else filled(part, partial(_random, rng))
            write_safetensors(folder / name / f"{part.kind.stem}.safetensors", arrays)
    return folder


def filled(part: Part, draw: Callable[[str, tuple[int, ...]], np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of a part's file, those that nothing trains as they must be.

    Args:
        part: by `read_part`.
        draw: ``draw(name, shape)`` returns an array.
    """
    empty = jax.tree.map(lambda x: np.broadcast_to(np.int8(0), x.shape), part.plain.shapes)
    arrays = {key: draw(key, array.shape) for key, array in unfill(empty, part.table).items()}
    if TABLE in arrays:
        config = part.config
        arrays[TABLE] = np.asarray(place_table(config.places, config.base, config.width)[None])
    return arrays


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Products that keep the size of what they multiply; scales of one, biases of zero."""
    if len(shape) > 1:
        array = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    else:
        array = np.full(shape, float(name.endswith("weight")))
    return array.astype(np.float32)
