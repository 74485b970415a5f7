"""`ctrl-jax sample`: draw samples from a run, or pictures of prompts from a diffusers folder."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ctrl_jax._checks import check_choice, check_finite, check_seed, check_unused
from ctrl_jax.commands.sampling.of_pipeline import Drawing, draw_of_pipeline
from ctrl_jax.commands.sampling.of_run import SOLVERS, draw_of_run
from ctrl_jax.runtime import check_count, command, refuse

OF_PIPELINE = (
    "prompts",
    "prompt",
    "lora",
    "negative",
    "guidance",
    "guidance_interval",
    "height",
    "width",
    "batch",
    "precision",
    "variant",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Draw samples from a run, or pictures of prompts from a text-to-image model.

    Of a run: ctrl-jax sample RUN, samples.png and samples.npz. Of a folder that diffusers saves of
    Stable Diffusion 1.x, 2.x, XL, 3 or 3.5: ctrl-jax sample --model FOLDER --prompts prompts.txt, a
    PNG for each prompt and number, a sheet of them, and pictures.jsonl that says which is which.

    Args:
        run: folder of a finished run of score_as_action or cifar10.
        model: folder of a text-to-image pipeline.
        prompts: .txt, a prompt on each line, or .jsonl with prompt and, where wanted,
            negative_prompt.
        prompt: prompts themselves, in place of a file.
        lora: files of adapters (diffusers, PEFT, kohya), added to the weights one after the other.
        number: samples of a run, 64 by default; pictures of each prompt, 1 by default.
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
        batch: pictures drawn at a time.
        precision: of weights and arithmetic.
        variant: of the weight files, such as fp16; the plain ones, or the only ones, by default.
        seed: of the noise; a picture depends on the seed and its place alone.
        out: folder for the files; RUN/samples or pictures by default.
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
    batch: int = 4
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    variant: str | None = None
    seed: int = 0
    out: str | None = None

    def validate(self) -> None:
        """Raise ValueError for an option out of range."""
        if (self.run is None) == (self.model is None):
            given = "neither" if self.run is None else "both"
            repair = "ctrl-jax sample RUN, or ctrl-jax sample --model FOLDER --prompts FILE"
            raise refuse("RUN and --model", given, "one of them is drawn from", repair)
        for name in ("number", "height", "width", "batch"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_seed("seed", self.seed)
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
                check_choice("solver", self.solver, tuple(SOLVERS))
        elif (self.prompts is None) != bool(self.prompt):
            given = "both" if self.prompt else "neither"
            rule, repair = "pictures are of one of them", "give --prompts FILE or --prompt TEXT"
            raise refuse("--prompts and --prompt", given, rule, repair)


def main(config: Config) -> Path:
    """Draw the samples and return the folder they were written to."""
    began = time.monotonic()
    beside = "pictures" if config.run is None else f"{config.run}/samples"
    out = Path(config.out or beside)
    there = next(path for path in (out, *out.absolute().parents) if os.path.lexists(path))
    if not (there.is_dir() and os.access(there, os.W_OK)):
        rule = f"{there} is no folder that can be written to"
        raise refuse("out", str(out), rule, "give another --out")
    if config.run is not None:
        files = draw_of_run(
            config.run,
            out,
            number=config.number or 64,
            solver=config.solver or "ancestral",
            solver_steps=config.solver_steps,
            seed=config.seed,
        )
    else:
        names = {field.name for field in dataclasses.fields(Drawing)}
        options = {name: value for name, value in vars(config).items() if name in names}
        options |= {"number": config.number or 1, "solver_steps": config.solver_steps or 30}
        files = draw_of_pipeline(Drawing(**options), out)
    print(f"{', '.join(files)} in {time.monotonic() - began:.1f} s: {out}")
    return out


if __name__ == "__main__":
    command(Config, main)
