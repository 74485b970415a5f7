"""One update of a text-to-image model by its reward: rollout, reward, gradient of a LoRA.

Widths are those of Stable Diffusion 1.5 and 3.5 medium, or a quarter of them, with random weights,
as in `benchmarks.pipeline`. An update draws a batch of pictures in a few guided steps with noise,
decodes them, rewards red, standardizes the rewards, and takes one step of AdamW on adapters by the
clipped ratio of every transition, which is DDPO (2305.13301).

The peer is the loop that one writes in PyTorch, without a pass that nobody needs: one guided
forward pass for every step of the rollout, one forward and one backward pass for every step that is
trained on, gradients added up from step to step, the old log-probabilities those of the rollout, no
reference. In the first two updates it is given our noise, and must come to our latents, rewards and
gradient, or the run stops.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import peak_memory
from benchmarks import pipeline as pipelines
from benchmarks.harness import Case, Contender, Disagreement, Runner, compile_jax
from benchmarks.pipeline import GUIDANCE, STEPS, Settings
from ctrl_jax._typing import Model
from ctrl_jax.algorithms import Batch, Control, DiffusionControl, PolicyUpdate, make_ddpo
from ctrl_jax.networks import lora
from ctrl_jax.pretrained.diffusers.pipeline import Pipeline
from ctrl_jax.solvers import guidance

CLAIM = "An update by a reward is faster than the lean loop in PyTorch."
BUDGET = 120.0
BATCH = {0: 2, 4: 2, 1: 4}
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 1e-2
CLIP = 0.2  # wide beside what the rounding of the rollout leaves in a ratio


def cases(quick: bool = False) -> Iterator[Case]:
    """Yield both models at a quarter of their widths, and on a GPU at their own too."""
    gpu = jax.default_backend() == "gpu"
    for divisor in (0,) if quick else (4, 1) if gpu else (4,):
        for model in ("SD 1.5", "SD 3.5-M"):
            given = {"model": model, "divisor": divisor, "work": "update", "batch": BATCH[divisor]}
            size = {0: "tiny", 1: "own widths", 4: "a quarter of its widths"}[divisor]
            yield Case(f"{model}, {size}, update by a reward", list(_contenders(given, gpu)))


def _contenders(arguments: dict[str, Any], gpu: bool) -> Iterator[Contender]:
    yield Contender("ctrl_jax, one program", ours, arguments)
    eager, compiled = (1.5, 1.2) if gpu else (1.0, None)
    given = arguments | {"compiled": False}
    yield Contender("diffusers, eager, lean loop", diffusers, given, eager)
    if gpu:  # on a CPU it compiles for minutes and gains little, see `pipeline`
        yield Contender(
            "diffusers, torch.compile, lean loop", diffusers, given | {"compiled": True}, compiled
        )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What both sides come to in the first two updates.

    Args:
        x_0: where the trajectories start, (updates, batch, ...).
        noise: of their steps, (updates, steps, batch, ...).
        parts: latents, rewards and the norm of the gradient, by name.
    """

    x_0: np.ndarray
    noise: np.ndarray
    parts: dict[str, np.ndarray]


SEEN: dict[Settings, Outcome] = {}


def ours(**options: Any) -> Runner:
    """Build our update, compiled once, its state donated."""
    settings = Settings(**options)
    pipeline = pipelines.adapted(settings, pipelines.loaded(settings))
    frozen, adapters = weights(settings, pipeline)
    state = algorithm(settings, pipeline, frozen, adapters).init(jax.random.key(0))
    batch = Batch(jnp.ones(settings.batch), pipelines.given_texts(settings, "text"))

    def update(state, frozen, batch):
        made = algorithm(settings, pipeline, frozen, adapters)
        rollout = made.collect(state, batch)
        rewards = redness(pipeline, frozen, rollout.states[-1])
        state, metrics = made.learn(state, rollout, rewards)
        found = {"latents": rollout.states[-1], "rewards": rewards}
        found["gradient"] = metrics["policy/gradient_norm"]
        return state, (rollout.states[0], rollout.noise, found)

    program, seconds, memory = compile_jax(update, state, frozen, batch, donate=(0,))

    def run():
        nonlocal state
        state, found = program(state, frozen, batch)
        return jax.block_until_ready((state, found))[1]

    first = jax.tree.map(lambda *both: np.stack(both), *(jax.device_get(run()) for _ in range(2)))
    SEEN[settings] = Outcome(*first)
    status = peak_memory.STATUS.exists()
    held = {"resident_bytes": peak_memory.resident("VmHWM")} if status else {}
    return Runner(run, seconds, memory, facts=facts(settings) | held)


def weights(settings: Settings, pipeline: Pipeline) -> tuple[dict[str, Any], Any]:
    """Return what stays as it is, states of the absent text among it, and the adapters."""
    adapters, base = lora.split(pipeline.params[pipeline.kind.denoiser])
    adapters = jax.tree.map(lambda a: jnp.array(a, jnp.float32), adapters)
    null = pipelines.given_texts(settings, "null")
    return {"base": base, "vae": pipeline.params["vae"], "null": null}, adapters


def algorithm(settings: Settings, pipeline: Pipeline, frozen: Any, adapters: Any) -> Control:
    """Return DDPO of a guided pipeline; made inside a compiled function, its weights are handed in.

    Args:
        settings: what all sides are given.
        pipeline: with adapters.
        frozen: by `weights`.
        adapters: where they start.
    """
    model = pipeline.model()

    def apply(adapters, t, x, *text):
        params = lora.combine(adapters, frozen["base"])
        guided = guidance.classifier_free(
            functools.partial(model.apply, params), GUIDANCE, frozen["null"]
        )
        return guided(t, x, *text)

    policy = Model(lambda key: jax.tree.map(jnp.copy, adapters), apply)
    adam = optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    update = PolicyUpdate(minibatches=1, chunks=STEPS, old="rollout")
    return make_ddpo(problem(pipeline, policy), policy, adam, clip=CLIP, update=update)


def problem(pipeline: Pipeline, reference: Model) -> DiffusionControl:
    """Return the sampler with noise in all of its steps, rewards from outside."""
    return DiffusionControl(
        pipeline.process,
        reference,
        None,
        pipeline.shape(),
        pipeline.scheduler.grid(STEPS + 1)[:-1],
        0.0,
        start_std=pipeline.scheduler.start_std,
        prediction=pipeline.prediction,
    )


def sampler(pipeline: Pipeline) -> dict[str, Any]:
    """Return the coefficients of every step, the times that the network is shown, as numbers."""
    of = problem(pipeline, Model(lambda key: (), lambda params, t, x: x))
    found: dict[str, Any] = of.kernel()._asdict()
    found |= {"shown": pipeline.scheduler.shown(of.forward_times()[:-1])}
    numbers = {name: np.asarray(values).tolist() for name, values in found.items()}
    return numbers | {"start_std": float(pipeline.scheduler.start_std)}


def redness(pipeline: Pipeline, frozen: Any, latents: jax.Array) -> jax.Array:
    """Return how much redder than green and blue the pictures are, (batch,)."""
    pictures = pipeline.decode(latents, frozen["vae"]).astype(jnp.float32)
    red, green, blue = (pictures[..., i].mean(axis=(1, 2)) for i in range(3))
    return red - (green + blue) / 2


def diffusers(compiled: bool, **options: Any) -> Runner:
    """Start diffusers in the interpreter that ``--diffusers-python`` names, or in this one."""
    from benchmarks.peers import diffusers_fine_tune

    python, settings = pipelines.interpreter(), Settings(**options)
    given = pipelines.handed_over(settings, compiled)
    given |= {"draws": str(pipelines.folder(settings) / "draws.npz"), "clip": CLIP}
    given |= {"learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY}
    given |= sampler(pipelines.loaded(settings))
    seen = SEEN[settings]
    x_0, noise = (np.moveaxis(array, -1, -3) for array in (seen.x_0, seen.noise))
    np.savez(given["draws"], x_0=x_0, noise=noise)
    run, found, close = diffusers_fine_tune.start(python, given)
    compare(settings, np.load(given["outcome"]))
    more = facts(settings) | {"versions": found["versions"]}
    return Runner(run, found["compile_seconds"], found["memory"], close, more)


def compare(settings: Settings, outcome: np.ndarray) -> None:
    """Compare a peer's outcome with ours.

    Args:
        settings: what all sides are given.
        outcome: latents with channels first, rewards, norm of the gradient, in one row (updates,).

    Raises:
        Disagreement: they are not the same.
    """
    seen = SEEN[settings]
    latents = np.moveaxis(seen.parts["latents"], -1, -3)
    theirs = np.split(outcome, [latents[0].size, outcome.shape[1] - 1], axis=1)
    parts = {"latents": latents, "rewards": seen.parts["rewards"]}
    parts["gradient"] = seen.parts["gradient"]
    for (name, part), other in zip(parts.items(), theirs, strict=True):
        mine = part.reshape(len(outcome), -1)
        error = np.sqrt(np.mean((mine - other) ** 2) / np.mean(mine**2))
        if not error < TOLERANCE[settings.dtype]:
            raise Disagreement(f"{settings}: relative difference {error:.2g} of the {name}")


TOLERANCE = {"float32": 2e-3, "bfloat16": 1e-1}
"""Of the root mean square of a difference, over that of the outcome."""


@functools.cache
def facts(settings: Settings) -> dict[str, Any]:
    """Return pictures and operations of one update, and what the device can do per second."""
    drawn = dataclasses.replace(settings, work="picture")
    trained = dataclasses.replace(settings, work="lora", batch=2 * settings.batch)
    flops = pipelines.operations(drawn) + STEPS * pipelines.operations(trained)
    return pipelines.facts(drawn) | {"flops": flops, "pictures": settings.batch}
