"""The options that mean the same in every command and study.

A config embeds them so that their flags have no prefix:

    @dataclasses.dataclass(frozen=True)
    class Config:
        learning_rate: float = 1e-3
        run: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions(steps=200)
"""

import dataclasses
import os
from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ctrl_jax._checks import check_choice, check_count, check_seed, refuse
from ctrl_jax.runtime.devices import distributed
from ctrl_jax.runtime.devices.cores import use_cores
from ctrl_jax.runtime.devices.mesh import MeshOptions, make_mesh
from ctrl_jax.runtime.loop.adapters import PACKAGES, Name, check_installed
from ctrl_jax.runtime.loop.compilation import enable_compilation_cache
from ctrl_jax.runtime.run.place import check_place


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Where a run lives, how it starts and on which devices.

    Args:
        out: the run's own folder, created if absent; by default runs/NAME/<time>-<seed>, NAME that
            of the command or study.
        seed: seed of all randomness.
        steps: optimizer updates of the main loop; by default as many as the other options give.
        precision: type of the networks' arithmetic, float32 by default; where it is given, trained
            weights are saved in it too.
        mesh: devices per axis of the mesh.
        distributed: whether to join other processes: where there are any, always, or never.
        coordinator: host:port of process 0, with --processes and --process-id; found out by
            default. It is not authenticated: trusted networks only.
        processes: number of processes, with --coordinator.
        process_id: number of this process from 0, with --coordinator.
        heartbeat_seconds: seconds without a sign of life from one process after which the others
            stop.
        resume: never: a new run; latest: continue from the newest checkpoint where there is one;
            strict: continue only with the same config, versions, mesh and content of what is given
            (data, model, tokenizer, reward).
        keep: newest checkpoints that are kept.
        keep_every: updates between two checkpoints that are kept for good; none by default.
        progress: show progress.
        log: where metrics go besides metrics.jsonl: tensorboard, to the run's folder, and wandb.
        profile: trace a few updates with JAX's profiler, into the folder `profile` of the run.
        compilation_cache: keep compiled programs in ~/.cache/ctrl_jax.
    """

    out: str | None = None
    seed: int = 0
    steps: int | None = None
    precision: Literal["float32", "float64", "bfloat16"] | None = None
    mesh: MeshOptions = dataclasses.field(default_factory=MeshOptions)
    distributed: Literal["auto", "on", "off"] = "auto"
    coordinator: str | None = None
    processes: int | None = None
    process_id: int | None = None
    heartbeat_seconds: int = 100
    resume: Literal["never", "latest", "strict"] = "never"
    keep: int = 3
    keep_every: int | None = None
    progress: bool = True
    log: tuple[Name, ...] = ()
    profile: bool = False
    compilation_cache: bool = True

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        check_seed("seed", self.seed)
        if self.steps is not None:
            check_count("steps", self.steps)
        check_choice("precision", self.arithmetic, ("float32", "float64", "bfloat16"))
        check_choice("resume", self.resume, ("never", "latest", "strict"))
        check_count("heartbeat_seconds", self.heartbeat_seconds)
        check_count("keep", self.keep)
        if self.keep_every is not None:
            check_count("keep_every", self.keep_every)
        if self.out is not None and (not isinstance(self.out, str) or not self.out.strip()):
            raise refuse("out", self.out, "it must name a folder", "give --out DIR or leave it out")
        for name in self.log:
            check_choice("log", name, tuple(PACKAGES))
        check_installed(self.log)
        self.mesh.validate()

    @property
    def arithmetic(self) -> str:
        """The name of the type of the networks' arithmetic."""
        return self.precision or "float32"

    @property
    def dtype(self) -> jnp.dtype:
        """The type of the networks' arithmetic."""
        return jnp.dtype(self.arithmetic)


def check_small_run(options: RunOptions) -> None:
    """Raise ValueError for what an experiment of a few minutes has no use for.

    Args:
        options: of a run in float32, which keeps one checkpoint of each of its stages.
    """
    if (options.keep, options.keep_every) != (RunOptions.keep, RunOptions.keep_every):
        received = (options.keep, options.keep_every)
        rule = "this run keeps the newest checkpoint of each of its stages"
        raise refuse("keep (and every)", received, rule, "leave it out")
    if options.arithmetic != "float32":
        rule = "this run is in float32"
        raise refuse("precision", options.precision, rule, "leave it out")
    if options.profile:
        rule = "this run has no loop of updates to trace"
        raise refuse("profile", options.profile, rule, "leave it out")


def prepare(options: RunOptions, *, side_by_side: int = 1) -> Mesh:
    """Join the other processes, set precision and compilation cache, build the mesh, look at --out.

    Args:
        options: the common options of a run; call before any other use of JAX.
        side_by_side: runs that are the same but for their keys and that devices divide among them.
            Without a word on devices a CPU then has one for each core.

    Returns:
        The mesh.

    Raises:
        ValueError: the options do not fit the machine, or the folder cannot be used.
    """
    distributed.start(
        options.distributed,
        options.coordinator,
        options.processes,
        options.process_id,
        options.heartbeat_seconds,
    )
    jax.config.update("jax_enable_x64", options.arithmetic == "float64")
    alone = options.mesh.model == 1 and not jax.distributed.is_initialized()
    if side_by_side > 1 and options.mesh.fills and alone:
        use_cores(side_by_side)
    if options.compilation_cache and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        enable_compilation_cache()
    mesh = make_mesh(options.mesh)
    check_place(options.out, options.resume)
    return mesh
