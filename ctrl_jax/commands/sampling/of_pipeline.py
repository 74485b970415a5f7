"""Pictures of prompts from a pipeline of diffusers, a file each and a sheet of all."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ctrl_jax._checks import refuse, under_names
from ctrl_jax.commands.sampling.album import LINES, Album
from ctrl_jax.commands.sampling.batches import draw_missing
from ctrl_jax.data.prompts import Prompt, read_prompts
from ctrl_jax.pretrained.diffusers.drawing import make_drawing
from ctrl_jax.pretrained.diffusers.pipeline import Pipeline, load_pipeline
from ctrl_jax.pretrained.diffusers.pipeline_index import AUTOENCODER_NAME
from ctrl_jax.rewards.pictures import whole
from ctrl_jax.runtime import Run, content_digest, digests_of, on_mesh, own_part, replicate
from ctrl_jax.runtime.devices.distributed import on_the_first
from ctrl_jax.runtime.devices.mesh import shard_batch
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

    def inputs(self, own: Path) -> dict[str, str]:
        """Return the digests of what is read, without the folder of the pictures."""
        model, own = Path(self.model).resolve(), own.resolve()
        inside = f"{own.relative_to(model)}/" if own.is_relative_to(model) else "\0"
        read = content_digest(self.model, lambda name: not name.startswith(inside))
        found = {"model": read, **digests_of({"prompts": self.prompts})}
        if self.lora:
            digests = " ".join(map(content_digest, self.lora))
            found["lora"] = hashlib.sha256(digests.encode()).hexdigest()
        return found


class Ready(NamedTuple):
    """What is needed to draw.

    Fields:
        prompts: in their order.
        draw: ``draw(numbers)``, pictures (batch, h, w, 3) in bytes.
        together: pictures drawn at a time.
    """

    prompts: tuple[Prompt, ...]
    draw: Callable[[np.ndarray], np.ndarray]
    together: int


def load_of_pipeline(drawing: Drawing, mesh: Mesh) -> Ready:
    """Read prompts and pipeline.

    Args:
        drawing: the options.
        mesh: devices that a batch, and large weights, are divided over.

    Raises:
        ValueError: a file or an option that does not fit the others.
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
        mesh=mesh,
    )
    for file in drawing.lora:
        with under_names(lora=f"lora {file}"):
            pipeline = pipeline.with_lora(file)
    data = mesh.shape["data"]
    together = -(-drawing.batch // data) * data
    return Ready(prompts, make_draw(pipeline, prompts, drawing, mesh), together)


def draw_of_pipeline(drawing: Drawing, ready: Ready, run: Run, *, show: bool) -> list[str]:
    """Write a picture for each prompt and number, sheet.png and pictures.jsonl; return their names.

    Args:
        drawing: the options.
        ready: by `load_of_pipeline`.
        run: the folder for the files; those of before are kept.
        show: whether to show progress.
    """
    number, total = drawing.number, len(ready.prompts) * drawing.number
    album = Album(run.folder, *_records(drawing, ready.prompts, run.inputs))
    first = jax.process_index() == 0
    missing = on_the_first(album.missing)
    draw_missing(total, ready.together, missing, ready.draw, album.add, run, show=show)
    if first:
        album.write_lines()
        rows = [
            (prompt.text, [album.picture(i * number + j) for j in range(number)])
            for i, prompt in enumerate(ready.prompts[: max(LARGEST_SHEET // number, 1)])
        ]
        draw_sheet(run.folder / "sheet.png", rows)
    return ["sheet.png", f"{total} picture{'s' * (total > 1)}", LINES]


def make_draw(
    pipeline: Pipeline, prompts: tuple[Prompt, ...], drawing: Drawing, mesh: Mesh
) -> Callable[[np.ndarray], np.ndarray]:
    """Return ``draw(numbers)``, pictures in bytes, `drawing.number` of each prompt in turn."""
    size: dict[str, Any] = {"height": drawing.height, "width": drawing.width}
    latents_of = make_drawing(
        pipeline,
        scale=drawing.guidance,
        interval=drawing.guidance_interval,
        steps=drawing.solver_steps,
        **size,
    )
    encode = partial(pipeline.encode, **size)
    absent = [drawing.negative if p.negative is None else p.negative for p in prompts]
    tables = [encode([prompt.text for prompt in prompts])]
    tables += [encode(absent)] if drawing.guidance != 1 else tables
    tables = jax.tree.map(np.asarray, replicate(mesh, tables))
    held = {name: pipeline.params[name] for name in (pipeline.kind.denoiser, AUTOENCODER_NAME)}

    # Replicated results, which every process can read.
    @partial(jax.jit, out_shardings=NamedSharding(mesh, PartitionSpec()))
    @partial(on_mesh, mesh)
    def pictures_of(key, params, batch):
        numbers, conditions, null = batch
        keys = jax.vmap(partial(jax.random.fold_in, key))(numbers)
        latents = latents_of(params[pipeline.kind.denoiser], keys, conditions, null)
        images = pipeline.decode(latents, params[AUTOENCODER_NAME]).astype(jnp.float32)
        finite = jnp.isfinite(images).all() & jnp.isfinite(latents).all()
        return whole(255.0 * jnp.nan_to_num(images)).astype(jnp.uint8), finite

    key = replicate(mesh, jax.random.key(drawing.seed))

    def draw(numbers: np.ndarray) -> np.ndarray:
        rows = jax.tree.map(lambda table: table[numbers // drawing.number], tables)
        batch = shard_batch(mesh, own_part(mesh, (numbers, *rows)))
        pictures, finite = jax.device_get(pictures_of(key, held, batch))
        if not finite:
            raise _no_numbers(pipeline, drawing)
        return pictures

    return draw


def _records(
    drawing: Drawing, prompts: tuple[Prompt, ...], inputs: Mapping[str, str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what every picture shows, and what it depends on besides: its noise for instance."""
    others = ("prompts", "prompt", "negative", "number", "batch")
    options = {name: value for name, value in vars(drawing).items() if name not in others}
    options |= {name: inputs.get(name) for name in ("model", "lora")}  # wherever they lie
    of_all = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()
    shown, made_of = [], []
    for i, prompt in enumerate(prompts):
        negative = drawing.negative if prompt.negative is None else prompt.negative
        for j in range(drawing.number):
            file, place = f"{i:04}-{j:02}.png", i * drawing.number + j
            known = {"file": file, "prompt": prompt.text, "number": j}
            shown.append({**known, **prompt.fields, "file": file})
            made_of.append({"negative": negative, "place": place, "options": of_all})
    return shown, made_of


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
