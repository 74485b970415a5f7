"""`ctrl-jax sample`: draw samples from a run, or pictures of prompts from a diffusers folder."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from ctrl_jax._checks import check_choice, check_finite, check_unused
from ctrl_jax.commands.sampling import of_pipeline, of_run
from ctrl_jax.commands.sampling.album import LINES
from ctrl_jax.runtime import (
    MeshOptions,
    RunOptions,
    check_count,
    command,
    open_run,
    prepare,
    refuse,
)

NAME = "sample"

OF_PIPELINE = (
    "prompts",
    "prompt",
    "lora",
    "negative",
    "guidance",
    "guidance_interval",
    "height",
    "width",
    "precision",
    "variant",
)
COMMON = (
    "out",
    "seed",
    "mesh",
    "distributed",
    "coordinator",
    "processes",
    "process_id",
    "heartbeat_seconds",
    "resume",
    "progress",
    "compilation_cache",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw samples from a run, or pictures of prompts from a text-to-image model.

    Of a run: ctrl-jax sample RUN, samples.png and samples.npz. Of a folder that diffusers saves of
    Stable Diffusion 1.x, 2.x, XL, 3 or 3.5: ctrl-jax sample --model FOLDER --prompts prompts.txt, a
    PNG for each prompt and number, a sheet of them, and pictures.jsonl that says which is which.

    They are written as they are drawn: a command that was killed goes on with the same options and
    --out FOLDER --resume latest, and leaves the bits that it would have left.

    Args:
        run: folder of a finished run of score_as_action or cifar10.
        model: folder of a text-to-image pipeline.
        prompts: .txt, a prompt on each line, or .jsonl with prompt and, where wanted,
            negative_prompt.
        prompt: prompts themselves, in place of a file.
        lora: files of adapters (diffusers, PEFT, kohya), added to the weights one after the other.
        number: samples of a run, 64 by default; pictures of each prompt, 1 by default; at most a
            million.
        negative: what pictures are guided away from where the prompt says nothing else.
        guidance: scale of classifier-free guidance, at least 1, which is none.
        guidance_interval: first and last of the forward times that are guided, in the process's
            unit; all by default.
        solver: of a run: ancestral (the default) and euler_maruyama are stochastic, ddim is the
            probability flow. Of a pipeline, by default as its scheduler says: ddim, euler (the
            same, with its last step to the data), dpmpp (DPM-Solver++ 2M), ancestral and
            euler_ancestral (stochastic).
        solver_steps: steps of the sampler; those of training, or 30 of a pipeline, by default.
        height: of the pictures, in pixels; the model's own by default.
        width: of the pictures, in pixels; the model's own by default.
        batch: pictures drawn at a time, 4 by default, or samples of a run, 64; on several devices
            as many more as make it even.
        precision: of weights and arithmetic.
        variant: of the weight files, such as fp16; the plain ones, or the only ones, by default.
        seed: of the noise; a picture depends on the seed and its place alone.
        out: folder for the files; RUN/samples or pictures by default.
        mesh: devices per axis of the mesh; a batch is divided over data, a pipeline's large weights
            over model.
        distributed: whether to join other processes: where there are any, always, or never.
        coordinator: host:port of process 0, with --processes and --process-id; found out by
            default. It is not authenticated: trusted networks only.
        processes: number of processes, with --coordinator.
        process_id: number of this process from 0, with --coordinator.
        heartbeat_seconds: seconds without a sign of life from one process after which the others
            stop.
        resume: never: a folder without pictures; latest: keep those that the same options made, and
            draw all others, in the place of what is there; strict: refuse other options, versions,
            mesh and content of what is given (run, model, prompts, lora).
        progress: show progress.
        compilation_cache: keep compiled programs in ~/.cache/ctrl_jax.
    """

    run: Annotated[str | None, tyro.conf.Positional] = None
    model: str | None = None
    prompts: str | None = None
    prompt: tuple[str, ...] = ()
    lora: tuple[str, ...] = ()
    number: int | None = None
    negative: str | None = None
    guidance: float = 5.0
    guidance_interval: tuple[float, float] | None = None
    solver: str | None = None
    solver_steps: Annotated[int | None, tyro.conf.arg(aliases=["--steps"])] = None
    height: int | None = None
    width: int | None = None
    batch: int | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    variant: str | None = None
    seed: int = 0
    out: str | None = None
    mesh: MeshOptions = dataclasses.field(default_factory=MeshOptions)
    distributed: Literal["auto", "on", "off"] = "auto"
    coordinator: str | None = None
    processes: int | None = None
    process_id: int | None = None
    heartbeat_seconds: int = 100
    resume: Literal["never", "latest", "strict"] = "never"
    progress: bool = True
    compilation_cache: bool = True

    @property
    def common(self) -> RunOptions:
        """The options that mean the same in every command."""
        given: dict[str, Any] = {name: getattr(self, name) for name in COMMON}
        given["out"] = self.folder
        # JAX's own switch decides what is drawn of a run of float64.
        return RunOptions(
            **given, precision="float64" if jax.config.read("jax_enable_x64") else None
        )

    @property
    def folder(self) -> str:
        """The folder for the files."""
        return self.out or ("pictures" if self.run is None else f"{self.run}/samples")

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        if (self.run is None) == (self.model is None):
            given = "neither" if self.run is None else "both"
            repair = "ctrl-jax sample RUN, or ctrl-jax sample --model FOLDER --prompts FILE"
            raise refuse("RUN and --model", given, "one of them is drawn from", repair)
        # The number of samples is what the host lists one by one.
        for name, most in {"number": 10**6, "height": None, "width": None, "batch": None}.items():
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name), most=most)
        self.common.validate()
        check_finite("guidance", self.guidance)
        if self.guidance < 1:
            rule = "below 1 a prompt counts for less, or against itself; elsewhere 0 means none"
            raise refuse("guidance", self.guidance, rule, "give 1 for none")
        if self.guidance_interval is not None:
            first, last = self.guidance_interval
            if not first <= last:
                rule = "the first time must not exceed the last"
                raise refuse("guidance_interval", (first, last), rule, "exchange them")
        if self.solver_steps is not None:
            check_count("solver_steps", self.solver_steps, least=2)
        if self.run is not None:
            check_unused(
                self, OF_PIPELINE, "a run has no use for it", "give --model, or leave it out"
            )
            if self.solver is not None:
                check_choice("solver", self.solver, tuple(of_run.SOLVERS))
        elif (self.prompts is None) != bool(self.prompt):
            given = "both" if self.prompt else "neither"
            rule, repair = "pictures are of one of them", "give --prompts FILE or --prompt TEXT"
            raise refuse("--prompts and --prompt", given, rule, repair)


def main(config: Config) -> Path:
    """Draw the samples and return the folder they were written to."""
    began = time.monotonic()
    out = Path(config.folder)
    mesh = prepare(config.common)
    where: dict[str, Any] = {"out": out, "resume": config.resume, "seed": config.seed}
    plain, show = dataclasses.asdict(config), {"show": config.progress}
    if config.run is not None:
        drawing = of_run.Drawing(
            config.run,
            number=config.number or 64,
            solver=config.solver or "ancestral",
            solver_steps=config.solver_steps,
            batch=config.batch or 64,
            seed=config.seed,
        )
        ready = of_run.load_of_run(drawing, mesh)
        run = open_run(NAME, plain, **where, inputs=ready.inputs, kept="samples*.npz")
        files = of_run.draw_of_run(drawing, ready, run, **show)
    else:
        names = {field.name for field in dataclasses.fields(of_pipeline.Drawing)}
        options = {name: value for name, value in vars(config).items() if name in names}
        options |= {"number": config.number or 1, "solver_steps": config.solver_steps or 30}
        options |= {"batch": config.batch or 4}
        drawing = of_pipeline.Drawing(**options)
        ready = of_pipeline.load_of_pipeline(drawing, mesh)
        run = open_run(NAME, plain, **where, inputs=drawing.inputs(out), kept=LINES)
        files = of_pipeline.draw_of_pipeline(drawing, ready, run, **show)
    run.seal()
    if jax.process_index() == 0:
        print(f"{', '.join(files)} in {time.monotonic() - began:.1f} s: {out}")
    return out


if __name__ == "__main__":
    command(Config, main)
