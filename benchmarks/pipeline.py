"""Text-to-image pipelines: a guided step, a whole picture, and a gradient step of a LoRA.

Widths are those of Stable Diffusion 1.5 and 3.5 medium, or a quarter of them, which is what a CPU
is given; weights are random, and handed over as a folder that diffusers loads. Latents, states of
texts and adapters are the same on all sides, and what comes out must be the same, or the run stops.
Text encoders take no part: their states are drawn.

A step is one step of the sampler with guidance, both predictions in one pass; a picture is four
such steps and the decoder; the gradient step is AdamW on adapters of rank 8 beside the projections
of attention, by the squared error of the prediction.
"""

import atexit
import dataclasses
import functools
import importlib.util
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness import Case, Contender, Disagreement, Runner, compile_jax
from ctrl_jax.networks import lora
from ctrl_jax.pretrained import load_pipeline, make_drawing, save_lora, write_small_pipeline
from ctrl_jax.pretrained.diffusers.parts import Part
from ctrl_jax.pretrained.diffusers.pipeline import Pipeline
from ctrl_jax.pretrained.diffusers.small import filled
from ctrl_jax.solvers import guidance, simulate

CLAIM = "A pipeline of diffusers draws and trains as fast as in PyTorch, or faster on a GPU."
BUDGET = 60.0
STEPS, GUIDANCE, RANK = 4, 5.0, 8
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-2
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Of the root mean square of a difference, over that of the outcome."""

PEAKS = {"h100": 989e12, "h200": 989e12, "b200": 2250e12, "a100": 312e12, "l40s": 362e12}
PEAKS |= {"rtx-4090": 165e12, "v5-lite": 197e12, "v5p": 459e12, "v6-lite": 918e12}
"""Operations per second in bfloat16, dense, by a part of the device's name."""

FOUR_DOWN = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
FOUR_UP = ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all sides are given.

    Args:
        model: "SD 1.5" or "SD 3.5-M".
        divisor: of its widths: 1, or 4; 0 for the tests' own.
        work: "step", "picture" or "lora"; "update" in `benchmarks.fine_tune`.
        batch: pictures at once.
    """

    model: str
    divisor: int
    work: str
    batch: int = 1

    @property
    def kind(self) -> str:
        """Of `write_small_pipeline`."""
        return "sd1" if self.model == "SD 1.5" else "sd3"

    @property
    def device(self) -> str:
        """PyTorch's name of it."""
        return "cuda" if jax.default_backend() == "gpu" else "cpu"

    @property
    def dtype(self) -> str:
        """Of weights and arithmetic; adapters and their moments are in float32."""
        return "bfloat16" if self.divisor == 1 and self.device == "cuda" else "float32"

    @property
    def tokens(self) -> int:
        """Of a prompt."""
        return {"sd1": 77, "sd3": 77 + 256}[self.kind] if self.divisor == 1 else 77

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """Of the network and the autoencoder, in the place of the small ones."""
        if not self.divisor:
            return {}
        part = self.divisor
        decoder = {
            "block_out_channels": [128 // part, 256 // part, 512 // part, 512 // part],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "layers_per_block": 2,
            "norm_num_groups": 32 // part,
            "latent_channels": 4 if self.kind == "sd1" else 16,
        }
        if self.kind == "sd1":
            network = {
                "block_out_channels": [320 // part, 640 // part, 1280 // part, 1280 // part],
                "down_block_types": FOUR_DOWN,
                "up_block_types": FOUR_UP,
                "layers_per_block": 2,
                "norm_num_groups": 32 if part == 1 else 16,
                "attention_head_dim": 8 // part,
                "cross_attention_dim": 768 // part,
                "sample_size": 64 if part == 1 else 32,
            }
            return {"unet": network, "vae": decoder}
        network = {
            "attention_head_dim": 64,
            "caption_projection_dim": 1536 // part,
            "dual_attention_layers": [*range(13)],
            "in_channels": 16,
            "joint_attention_dim": 4096 // part,
            "num_attention_heads": 24 // part,
            "num_layers": 24,
            "out_channels": 16,
            "pooled_projection_dim": 2048 // part,
            "pos_embed_max_size": 384 // part,
            "sample_size": 128 if part == 1 else 32,
        }
        return {"transformer": network, "vae": decoder}


def cases(quick: bool = False) -> Iterator[Case]:
    """Yield both models at a quarter of their widths, and on a GPU at their own too."""
    gpu = jax.default_backend() == "gpu"
    for divisor in (0,) if quick else (4, 1) if gpu else (4,):
        for model in ("SD 1.5", "SD 3.5-M"):
            for work, name in WORK.items():
                arguments = {"model": model, "divisor": divisor, "work": work}
                size = {0: "tiny", 1: "own widths", 4: "a quarter of its widths"}[divisor]
                yield Case(f"{model}, {size}, {name}", list(_contenders(arguments, gpu)))


WORK = {"step": "guided step", "picture": f"picture in {STEPS} steps", "lora": "gradient of a LoRA"}


def _contenders(arguments: dict[str, Any], gpu: bool) -> Iterator[Contender]:
    yield Contender("ctrl_jax", ours, arguments)
    eager, compiled = (1.5, 1.2) if gpu else (None, None)
    yield Contender("diffusers, eager", diffusers, arguments | {"compiled": False}, eager)
    yield Contender("diffusers, torch.compile", diffusers, arguments | {"compiled": True}, compiled)


def ours(**options: Any) -> Runner:
    """Build our program, compiled once."""
    settings = Settings(**options)
    pipeline = loaded(settings)
    make = {"step": _step, "picture": _picture, "lora": _lora}[settings.work]
    function, arguments, donated = make(settings, pipeline)
    program, seconds, memory = compile_jax(function, *arguments, donate=donated)
    state = arguments[0]

    def run():
        nonlocal state
        outcome, state = program(state, *arguments[1:])
        return jax.block_until_ready((outcome, state))[0]

    _compare(settings, np.stack([np.asarray(run(), np.float32) for _ in range(2)]))
    return Runner(run, seconds, memory, facts=facts(settings))


def diffusers(compiled: bool, **options: Any) -> Runner:
    """Start diffusers in the interpreter that ``--diffusers-python`` names, or in this one."""
    python = interpreter()
    from benchmarks.peers import diffusers_pipeline

    settings = Settings(**options)
    given = handed_over(settings, compiled)
    run, found, close = diffusers_pipeline.start(python, given)
    theirs = np.load(given["outcome"])
    _compare(settings, theirs if settings.work == "lora" else np.moveaxis(theirs, 2, -1))
    more = facts(settings) | {"versions": found["versions"]}
    return Runner(run, found["compile_seconds"], found["memory"], close, more)


def interpreter() -> str:
    """Return the peer's interpreter.

    Raises:
        RuntimeError: none is named, and this one has no diffusers.
    """
    python = os.environ.get("BENCHMARKS_DIFFUSERS_PYTHON", sys.executable)
    if python == sys.executable and importlib.util.find_spec("diffusers") is None:
        raise RuntimeError("needs torch, diffusers and peft; name theirs with --diffusers-python")
    return python


def handed_over(settings: Settings, compiled: bool) -> dict[str, Any]:
    """Write what a peer needs, and return where it lies and what is to be done with it."""
    place = folder(settings)
    adapted(settings, loaded(settings))
    _write_arrays(settings, place / "arrays.npz")
    return dataclasses.asdict(settings) | {
        "arrays": str(place / "arrays.npz"),
        "compiled": compiled,
        "device": settings.device,
        "dtype": settings.dtype,
        "folder": str(place / "model"),
        "guidance": GUIDANCE,
        "learning_rate": LEARNING_RATE,
        "lora": str(place / "lora.safetensors"),
        "outcome": str(place / "outcome.npy"),
        "steps": STEPS,
        "timestep": 500,
        "weight_decay": WEIGHT_DECAY,
    }


@functools.cache
def folder(settings: Settings) -> Path:
    """Return a folder with ``model``, fresh weights in it; it goes when this process ends."""
    if settings.work != "step":  # one folder for all work of a model
        return folder(dataclasses.replace(settings, work="step"))
    place = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    rng = np.random.default_rng(0)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) < 2:
            array = np.full(shape, float(name.endswith("weight")), np.float32)
        else:
            array = rng.standard_normal(shape, np.float32) / math.sqrt(math.prod(shape[1:]))
        return array.astype(jnp.dtype(settings.dtype))

    def weights(part: Part) -> dict[str, np.ndarray]:
        return filled(part, draw)

    write_small_pipeline(place / "model", settings.kind, weights=weights, records=settings.records)
    return place


@functools.lru_cache(1)
def _loaded(place: Path, dtype: str, solver: str | None) -> Pipeline:
    return load_pipeline(place / "model", dtype=dtype, param_dtype=dtype, solver=solver)


def loaded(settings: Settings) -> Pipeline:
    """Return the pipeline, with diffusers' steps of DDIM or of a flow."""
    solver = "ddim" if settings.kind == "sd1" else None
    return _loaded(folder(settings), settings.dtype, solver)


@functools.cache
def arrays(settings: Settings) -> dict[str, np.ndarray]:
    """Return latents, states of texts, and the noisy latents and targets of training."""
    pipeline = loaded(settings)
    rng, config = np.random.default_rng(1), pipeline.denoiser.config

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal((settings.batch, *shape), np.float32)

    flow = pipeline.prediction == "flow"
    shapes = [(settings.tokens, config.text_width if flow else config.context)]
    shapes += [(config.pooled_width,)] if flow else []
    texts = {f"{key}_{i}": draw(*s) for key in ("text", "null") for i, s in enumerate(shapes)}
    key = jax.random.key(0)
    start = jax.random.normal(jax.random.split(key)[0], pipeline.shape())  # as `make_drawing`
    x_0, noise = draw(*pipeline.shape()), draw(*pipeline.shape())
    scale, std = (float(part) for part in pipeline.process.marginal(jnp.asarray(_time(pipeline))))
    return texts | {
        "x": np.broadcast_to(np.asarray(start), (settings.batch, *start.shape)),
        "x_t": scale * x_0 + std * noise,
        "target": noise - x_0 if flow else noise,
    }


def _time(pipeline: Pipeline) -> float:
    """The process's time that the network is shown as 500."""
    return 0.5 if pipeline.prediction == "flow" else 501.0


def _write_arrays(settings: Settings, file: Path) -> None:
    """Channels first, and nothing missing: a peer may look for a second state of the texts."""
    found = {
        name: np.moveaxis(array, -1, 1) if array.ndim == 4 else array
        for name, array in arrays(settings).items()
    }
    empty = {f"{key}_1": np.zeros((settings.batch, 1), np.float32) for key in ("text", "null")}
    named: dict[str, Any] = {**empty, **found}
    np.savez(file, **named)


def given_texts(settings: Settings, prefix: str) -> tuple[jax.Array, ...]:
    found = arrays(settings)
    names = sorted(name for name in found if name.startswith(f"{prefix}_"))
    return tuple(jnp.asarray(found[name], settings.dtype) for name in names)


def _step(settings: Settings, pipeline: Pipeline):
    """One step of the sampler; the state is that of every contender's first step."""
    model, grid = pipeline.model(), pipeline.scheduler.grid(STEPS)[:2]
    text, null = given_texts(settings, "text"), given_texts(settings, "null")

    def step(x, params, text, null):
        def predict(t, x, *conditions):
            return model.apply(params, t, x, *conditions)

        guided = guidance.classifier_free(predict, GUIDANCE, null)
        sde = pipeline.process.reverse(
            lambda t, x: guided(t, x, *text), noise_level=0.0, prediction=pipeline.prediction
        )
        found = simulate(jax.random.key(0), sde, x, grid, solver=pipeline.scheduler.solver)
        return found.states, x

    x = jnp.asarray(arrays(settings)["x"], settings.dtype)
    return step, (x, pipeline.params[pipeline.kind.denoiser], text, null), ()


def _picture(settings: Settings, pipeline: Pipeline):
    draw = make_drawing(pipeline, scale=GUIDANCE, steps=STEPS)

    def picture(keys, params, decoder, text, null):
        return pipeline.decode(draw(params, keys, text, null), decoder), keys

    keys = jnp.stack([jax.random.key(0)] * settings.batch)
    params = pipeline.params[pipeline.kind.denoiser], pipeline.params["vae"]
    texts = given_texts(settings, "text"), given_texts(settings, "null")
    return picture, (keys, *params, *texts), ()


def _lora(settings: Settings, pipeline: Pipeline):
    model = adapted(settings, pipeline).model()
    adapters, base = lora.split(adapted(settings, pipeline).params[pipeline.kind.denoiser])
    adapters = jax.tree.map(lambda a: jnp.array(a, jnp.float32), adapters)
    adam = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    found = arrays(settings)
    x_t, target = (jnp.asarray(found[name], settings.dtype) for name in ("x_t", "target"))
    t = jnp.asarray(_time(pipeline))

    def step(state, base, x_t, target, text):
        def loss_fn(adapters):
            predicted = model.apply(lora.combine(adapters, base), t, x_t, *text)
            return jnp.mean(jnp.square((predicted - target).astype(jnp.float32)))

        adapters, moments = state
        loss, gradient = jax.value_and_grad(loss_fn)(adapters)
        updates, moments = adam.update(gradient, moments, adapters)
        return loss, (optax.apply_updates(adapters, updates), moments)

    state = adapters, adam.init(adapters)
    return step, (state, base, x_t, target, given_texts(settings, "text")), (0,)


@functools.lru_cache(1)
def adapted(settings: Settings, pipeline: Pipeline) -> Pipeline:
    """Return the pipeline with fresh adapters, which a file beside its folder holds too."""
    of = lora.LoRA(rank=RANK, alpha=float(RANK), targets=TARGETS)
    found = pipeline.adapt(jax.random.key(3), of)
    save_lora(folder(settings) / "lora.safetensors", found)
    return found


SEEN: dict[Settings, np.ndarray] = {}
"""What our side came to."""


def _compare(settings: Settings, outcome: np.ndarray) -> None:
    """Keep our outcome, or compare a peer's with it.

    Raises:
        Disagreement: they are not the same.
    """
    mine = SEEN.setdefault(settings, outcome)
    if outcome.shape != mine.shape:
        raise Disagreement(f"{settings}: outcomes of shape {mine.shape} and {outcome.shape}")
    error = np.sqrt(np.mean((mine - outcome) ** 2) / np.mean(mine**2))
    if not error < TOLERANCE[settings.dtype]:
        raise Disagreement(f"{settings}: relative difference {error:.2g} of the outcomes")


def facts(settings: Settings) -> dict[str, Any]:
    """Return the pictures and operations of one run, and what the device can do per second."""
    name = jax.devices()[0].device_kind.lower().replace(" ", "-")
    peak = next((peak for part, peak in PEAKS.items() if part in name), None)
    made = settings.batch if settings.work == "picture" else 0
    return {
        "flops": operations(settings),
        "peak_flops": peak if settings.dtype == "bfloat16" else None,
        "pictures": made,
    }


@functools.cache
def operations(settings: Settings) -> float:
    """Return the floating-point operations by XLA's count, blocks in a row rather than in a loop.

    XLA counts a loop's body once, and nothing of a fused attention: so it is given the network in
    float32, without loops.
    """
    pipeline = loaded(settings)
    part, decoder = pipeline.denoiser, pipeline.parts["vae"]
    training = settings.work == "lora"
    of = lora.LoRA(rank=RANK, alpha=float(RANK), targets=TARGETS) if training else None
    network = part.kind.make(part.config, stacked=False, lora=of)
    rows = settings.batch * (1 if training else 2)

    def abstract(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    x = abstract(rows, *pipeline.shape())
    text = [abstract(rows, *c.shape[1:]) for c in given_texts(settings, "text")]
    if training:
        adapters, base = lora.split(network.shapes)

        def gradient(adapters, base, x, text):
            return jax.grad(
                lambda a: jnp.sum(network.apply(lora.combine(a, base), x, 500.0, *text))
            )(adapters)

        return _count(gradient, adapters, base, x, text)
    once = _count(
        lambda params, x, text: network.apply(params, x, 500.0, *text), network.shapes, x, text
    )
    if settings.work == "step":
        return once
    plain = decoder.kind.make(decoder.config)
    latents = abstract(settings.batch, *pipeline.shape())
    decoded = _count(lambda p, x: plain.apply(p, x, method="decode"), plain.shapes, latents)
    return STEPS * once + decoded


def _count(function: Callable, *arguments: Any) -> float:
    """XLA's count of operations, before anything is compiled."""
    return float((jax.jit(function).lower(*arguments).cost_analysis() or {}).get("flops", 0))
