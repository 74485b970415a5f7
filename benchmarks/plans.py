"""Real jobs compiled for TPU slices that are not there, by `ctrl-jax plan`, and docs/plan.md.

    python -m benchmarks.plans --list               what there is to compile
    python -m benchmarks.plans --cases "digits"     compile some of it, and keep what is found
    python -m benchmarks.plans --page               write tables and pictures of docs/plan.md

With the package libtpu a TPU's compiler runs on any machine. Models are records without weights, of
the shapes of Stable Diffusion 1.5 and 3.5 medium and of Llama 3 with 8 billion parameters.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.pipeline import Settings
from ctrl_jax._records import write_json_atomic
from ctrl_jax.commands.plan import run_command
from ctrl_jax.pretrained.diffusers.small_records import write_records

FILE = Path(__file__).parent / "results" / "plans.json"
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "max_position_embeddings": 77,
    "projection_dim": 768,
}
CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "max_position_embeddings": 77,
    "projection_dim": 1280,
}
T5_XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64}
ENCODERS = {
    "SD 1.5": {"text_encoder": CLIP_L},
    "SD 3.5-M": {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G, "text_encoder_3": T5_XXL},
}
CHIPS = {1: "1x1", 4: "2x2", 16: "4x4", 64: "8x8", 256: "16x16"}
STEPS = ("--solver-steps", "10", "--minibatches", "1", "--guidance", "4.5", "--remat")
PIPELINE = ("--precision", "bfloat16", "--reward", "jax:benchmarks.plans:reddish", *STEPS)
PREFER = ("--data", "-", "--precision", "bfloat16", "--texts.max-length", "1024")
PREFER += ("--optimization.remat", "--optimization.fully-sharded", "--optimization.chunk", "256")


@dataclasses.dataclass(frozen=True)
class Job:
    """One plan.

    Args:
        name: in tables.
        command: that is planned.
        options: of the command.
        chip: of the slice.
        chips: how many.
        batch: examples of an update.
        model: whose folder is given; None for a study.
    """

    name: str
    command: str
    options: tuple[str, ...]
    chip: str
    chips: int
    batch: int
    model: str | None = None

    @property
    def topology(self) -> str:
        """As libtpu names it."""
        return f"{self.chip}:{CHIPS[self.chips]}"

    @property
    def title(self) -> str:
        """What it is called in the file and on the command line."""
        return f"{self.name}, batch {self.batch}, {self.topology}"


class Scaled(NamedTuple):
    """A study over slices of all sizes: a batch for each chip, and one for all of them."""

    name: str
    command: str
    options: tuple[str, ...]
    each: int
    all: int


SCALED = (
    Scaled("digits", "experiments.score_as_action", (), 48, 12288),
    Scaled("NCSN++", "experiments.cifar10", ("--precision", "bfloat16"), 64, 1024),
)


def jobs() -> Iterator[Job]:
    """Yield the jobs, quick ones first."""
    for study in SCALED:
        weak = [(chips, study.each * chips) for chips in CHIPS]
        strong = [(chips, study.all) for chips in CHIPS]
        for chips, batch in dict.fromkeys([*weak, *strong]):
            yield Job(study.name, study.command, study.options, "v5e", chips, batch)
        for chips, batch in weak[1:]:
            yield Job(study.name, study.command, study.options, "v6e", chips, batch)
    for model in ("SD 1.5", "SD 3.5-M"):
        for training, algorithm in (("LoRA", "ppo"), ("LoRA", "grpo"), ("full", "ppo")):
            yield _pipeline(model, training, algorithm)
    options = (*PREFER, "--mesh.model", "4")
    yield Job("Llama 8 B, DPO", "prefer", options, "v5e", 64, 64, model="Llama 8 B")
    yield Job("Llama 8 B, DPO", "prefer", options, "v6e", 64, 64, model="Llama 8 B")


def _pipeline(model: str, training: str, algorithm: str) -> Job:
    options = (*PIPELINE, "--algorithm", algorithm, "--group", "4")
    options += ("--chunks", "10") if algorithm != "grpo" else ("--window", "2", "--chunks", "2")
    options += ("--full", "--fully-sharded") if training == "full" else ()
    name = f"{model}, {training}, {algorithm}"
    return Job(name, "fine-tune", options, "v5e", 16, 32, model=model)


def folder_of(model: str, place: Path) -> Path:
    """Write what a model's folder holds beside its weights, and return it."""
    folder = place / model.replace(" ", "-")
    if folder.exists():
        return folder
    if model == "Llama 8 B":
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(LLAMA))
        return folder
    settings = Settings(model, 1, "step")
    write_records(folder, settings.kind, {**settings.records, **ENCODERS[model]})
    for file in folder.glob("tokenizer*/tokenizer_config.json"):
        record = json.loads(file.read_text())
        file.write_text(json.dumps(record | {"model_max_length": 77}))
    return folder


def reddish(pictures: Array) -> Array:
    """A reward that needs nothing: how much redder than green pictures are."""
    return jnp.mean(pictures[..., 0] - pictures[..., 1], axis=(1, 2))


def batch_flag(job: Job) -> str:
    """Return the option of the batch."""
    return "--batch" if job.command == "fine-tune" else "--optimization.batch"


def planned(job: Job, place: Path) -> dict[str, Any]:
    """Plan a job, and return what is kept of it."""
    typed = [job.command, "--topology", job.topology, batch_flag(job), str(job.batch)]
    typed += job.options
    if job.model is not None:
        typed += ["--model", str(folder_of(job.model, place))]
    told = run_command(typed)
    return {"name": job.name, "options": [*job.options], **told}


def kept() -> list[dict[str, Any]]:
    """Return what was found so far."""
    return json.loads(FILE.read_text())["plans"] if FILE.exists() else []


def keep(row: Mapping[str, Any]) -> None:
    """Write what was found into the file, in the place of what it held of the same job."""
    same = ("name", "topology", "batch")
    others = [old for old in kept() if any(old[key] != row[key] for key in same)]
    FILE.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(FILE, {"plans": [*others, row]})


def main(arguments: list[str]) -> None:
    """Compile, list or write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plans", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--cases", default="", help="only those whose name contains this")
    parser.add_argument("--missing", action="store_true", help="only those not yet compiled")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args(arguments)
    there = {(row["name"], row["topology"], row["batch"]) for row in kept()}
    with tempfile.TemporaryDirectory() as place:
        for job in jobs():
            known = (job.name, job.topology, job.batch) in there
            if options.cases not in job.title or (known and options.missing):
                continue
            print(job.title, flush=True)
            if not options.list:
                keep(planned(job, Path(place)))


if __name__ == "__main__":
    main(sys.argv[1:])
