"""Pictures of prompts from a pipeline of diffusers, a file each and a sheet of all."""

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ctrl_jax._checks import refuse, under_names
from ctrl_jax._records import write_atomic
from ctrl_jax._whole import whole_file
from ctrl_jax.data.prompts import Prompt, read_prompts
from ctrl_jax.pretrained.diffusers.drawing import make_drawing
from ctrl_jax.pretrained.diffusers.pipeline import Pipeline, load_pipeline
from ctrl_jax.runtime import progress
from ctrl_jax.runtime.run.sheets import draw_sheet

LARGEST_SHEET = 64
"""Pictures on the sheet; further ones have their files alone."""


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What is drawn, of `ctrl-jax sample --model`."""

    model: str
    prompts: str | None
    prompt: tuple[str, ...]
    lora: tuple[str, ...]
    number: int
    negative: str | None
    guidance: float
    guidance_interval: tuple[float, float] | None
    solver: str | None
    solver_steps: int
    height: int | None
    width: int | None
    batch: int
    precision: str
    variant: str | None
    seed: int


def draw_of_pipeline(drawing: Drawing, out: Path) -> list[str]:
    """Write a picture for each prompt and number, sheet.png and pictures.jsonl; return their names.

    Args:
        drawing: the options.
        out: folder for the files.
    """
    prompts = tuple(map(Prompt, drawing.prompt))
    if drawing.prompts is not None:
        prompts = read_prompts(drawing.prompts, name="prompts")
    dtype = jnp.dtype(drawing.precision)
    pipeline = load_pipeline(
        drawing.model,
        dtype=dtype,
        param_dtype=dtype,
        variant=drawing.variant,
        solver=drawing.solver,
    )
    for file in drawing.lora:
        with under_names(lora=f"lora {file}"):
            pipeline = pipeline.with_lora(file)
    pictures = draw_prompts(pipeline, prompts, drawing)
    out.mkdir(parents=True, exist_ok=True)
    lines, number = [], drawing.number
    for i, picture in enumerate(pictures):
        name = f"{i // number:04}-{i % number:02}.png"
        with whole_file(out / name) as part:
            Image.fromarray(picture).save(part)
        prompt = prompts[i // number]
        lines.append(
            {"file": name, "prompt": prompt.text, "number": i % number} | {**prompt.fields}
        )
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    write_atomic(out / "pictures.jsonl", text)
    shown = max(LARGEST_SHEET // number, 1)
    rows = [
        (prompt.text, pictures[i * number : (i + 1) * number])
        for i, prompt in enumerate(prompts[:shown])
    ]
    draw_sheet(out / "sheet.png", rows)
    drawn = f"{len(pictures)} picture{'s' * (len(pictures) > 1)}"
    return ["sheet.png", drawn, "pictures.jsonl"]


def draw_prompts(
    pipeline: Pipeline, prompts: Sequence[Prompt], drawing: Drawing
) -> list[np.ndarray]:
    """Return pictures (h, w, 3) in bytes, `number` of each prompt in turn."""
    number, batch = drawing.number, drawing.batch
    height, width = drawing.height, drawing.width
    draw = make_drawing(
        pipeline,
        scale=drawing.guidance,
        interval=drawing.guidance_interval,
        steps=drawing.solver_steps,
        height=height,
        width=width,
    )
    encode = partial(pipeline.encode, height=height, width=width)
    conditions = encode([prompt.text for prompt in prompts])
    absent = [drawing.negative if p.negative is None else p.negative for p in prompts]
    null = encode(absent) if drawing.guidance != 1 else conditions
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(drawing.seed), i))(
        jnp.arange(len(prompts) * number)
    )
    params = pipeline.params[pipeline.kind.denoiser]
    found: list[np.ndarray] = []
    with progress(len(keys), "drawing") as update:
        update(0)
        for start in range(0, len(keys), batch):
            # The last batch is filled up, so that all are one program.
            rows = np.minimum(np.arange(start, start + batch), len(keys) - 1)
            which = rows // number
            latents = draw(
                params,
                keys[rows],
                tuple(array[which] for array in conditions),
                tuple(array[which] for array in null),
            )
            images = np.asarray(pipeline.decode(latents), np.float32)
            if not (np.isfinite(images).all() and np.isfinite(latents).all()):
                raise _no_numbers(pipeline, drawing)
            found += [*np.round(255 * images[: len(keys) - start]).astype(np.uint8)]
            update(len(found))
    return found


def _no_numbers(pipeline: Pipeline, drawing: Drawing) -> ValueError:
    """The error about pictures that are none, which says where they come from."""
    for name, params in pipeline.params.items():
        if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(params)):
            rule = f"its {name} holds weights that are no numbers as {drawing.precision}"
            repair = "convert it again, or take --precision float32"
            return refuse("model", drawing.model, rule, repair)
    rule = "some pictures are no numbers"
    if drawing.precision == "float16":
        return refuse("precision", drawing.precision, rule, "take float32 or bfloat16")
    return refuse("guidance", drawing.guidance, rule, "lower it, or take another --solver")
