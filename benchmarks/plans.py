"""Real jobs compiled for TPU slices that are not there, by `ctrl-jax plan`, and two pages of them.

    python -m benchmarks.plans --list               what there is to compile
    python -m benchmarks.plans --cases digits       compile some of it, and keep what is found
    python -m benchmarks.plans --missing            compile what was not compiled yet
    python -m benchmarks.plans --page               write tables and picture of the pages

With the package libtpu a TPU's compiler runs on any machine. Models are records without weights,
of the shapes of Stable Diffusion 1.5 and 3.5 medium and of Llama 3 with 8 billion parameters. The
pages are docs/plan.md and docs/memory.md.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from benchmarks.pipeline import Settings
from ctrl_jax._records import write_json_atomic
from ctrl_jax.commands.plan import run_command
from ctrl_jax.pretrained.diffusers.small_records import write_records
from ctrl_jax.runtime.devices.chips import CHIPS as CHIP_TABLE

FILE = Path(__file__).parent / "results" / "plans.json"
UPDATES = FILE.parent / "cpu-2-cores" / "fine_tune.json"
DOCS, PAGES = Path(__file__).parent.parent / "docs", ("plan.md", "memory.md")
Rows = Sequence[Mapping[str, Any]]
_BLOCK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)
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
MODELS, SINGLE = ("SD 1.5", "SD 3.5-M"), "v5p:2x2x1"
SIZES, USABLE = (16, 24, 80, 140), 0.95
CHIPS = {1: "1x1", 4: "2x2", 16: "4x4", 64: "8x8", 256: "16x16"}
STEPS = ("--solver-steps", "10", "--minibatches", "1", "--guidance", "4.5", "--remat")
PIPELINE = ("--precision", "bfloat16", "--reward", "jax:benchmarks.plans:reddish", *STEPS)
PREFER = ("--data", "-", "--precision", "bfloat16", "--texts.max-length", "1024")
PREFER += (
    "--optimization.remat",
    "--optimization.fully-sharded",
    "--optimization.chunk",
    "256",
    "--mesh.model",
    "4",
)


@dataclasses.dataclass(frozen=True)
class Job:
    """One plan.

    Args:
        name: in tables.
        command: that is planned.
        options: of the command.
        topology: as libtpu names it.
        batch: examples of an update.
        model: whose folder is given; None for a study.
    """

    name: str
    command: str
    options: tuple[str, ...]
    topology: str
    batch: int
    model: str | None = None

    @property
    def title(self) -> str:
        """What it is called in the file and on the command line."""
        return title_of(dataclasses.asdict(self))


class Scaled(NamedTuple):
    """A study over slices of all sizes: a batch for each chip, and one for all of them."""

    name: str
    command: str
    options: tuple[str, ...]
    each: int
    all: int


SCALED = (
    Scaled("digits", "experiments.score_as_action", (), 48, 12288),
    Scaled("NCSN++", "experiments.cifar10", ("--data", "-", "--precision", "bfloat16"), 64, 1024),
)


def jobs() -> Iterator[Job]:
    """Yield the jobs, quick ones first."""
    for study in SCALED:
        weak = [(chips, study.each * chips) for chips in CHIPS]
        strong = [(chips, study.all) for chips in CHIPS]
        for chips, batch in dict.fromkeys([*weak, *strong]):
            yield _study(study, "v5e", chips, batch)
        for chips, batch in weak[1:]:
            yield _study(study, "v6e", chips, batch)
    digits = SCALED[0]
    yield Job(
        f"{digits.name}, largest batch", digits.command, ("--largest-batch",), "v5e:1x1", digits.all
    )
    for model in MODELS:
        for training, algorithm in (("LoRA", "ppo"), ("LoRA", "grpo"), ("full", "ppo")):
            yield _pipeline(model, training, algorithm, "v5e:4x4", 32)
        for training in ("LoRA", "full"):
            yield _pipeline(model, training, "ddpo", SINGLE, 2)
    for chip in ("v5e", "v6e"):
        yield Job("Llama 8 B, DPO", "prefer", PREFER, f"{chip}:8x8", 64, "Llama 8 B")


def _study(study: Scaled, chip: str, chips: int, batch: int) -> Job:
    topology = f"{chip}:{CHIPS[chips]}"
    return Job(study.name, study.command, study.options, topology, batch)


def _pipeline(model: str, training: str, algorithm: str, topology: str, batch: int) -> Job:
    options = (*PIPELINE, "--algorithm", algorithm, "--group", str(min(4, batch)))
    options += ("--chunks", "10") if algorithm != "grpo" else ("--window", "2", "--chunks", "2")
    options += ("--mesh.data", "1") if topology == SINGLE else ()
    if training == "full":
        options += ("--full",) if topology == SINGLE else ("--full", "--fully-sharded")
    return Job(f"{model}, {training}, {algorithm}", "fine-tune", options, topology, batch, model)


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
    """Plan a job, and return what is kept of it: where it is refused for want of memory, why."""
    typed = [job.command, "--topology", job.topology, batch_flag(job), str(job.batch)]
    typed += job.options
    if job.model is not None:
        typed += ["--model", str(folder_of(job.model, place))]
    own = {"name": job.name, "options": [*job.options], "topology": job.topology}
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            told = run_command(typed)
    except SystemExit:
        print(said.getvalue(), end="", file=sys.stderr, flush=True)
        needs = re.search(r"^error: memory: received '([\d.]+ GB)", said.getvalue(), re.MULTILINE)
        if needs is None:
            raise
        return {**own, "batch": job.batch, "refused": needs[1]}
    # Where the largest batch was found the plan is of that.
    return {**own, **told, "batch": job.batch}


def kept() -> list[dict[str, Any]]:
    """Return what was found so far."""
    return json.loads(FILE.read_text())["plans"] if FILE.exists() else []


def title_of(row: Mapping[str, Any]) -> str:
    """Return the title of the job that a row is of."""
    return f"{row['name']}, batch {row['batch']}, {row['topology']}"


def compiled(rows: Rows) -> set[str]:
    """Return the titles of the jobs whose rows hold all that the page shows."""
    return {title_of(row) for row in rows if "floors" in row or "refused" in row}


def keep(row: Mapping[str, Any]) -> None:
    """Write what was found into the file, in the place of what it held of the same job."""
    others = [old for old in kept() if title_of(old) != title_of(row)]
    FILE.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(FILE, {"plans": [*others, row]})


def of_chips(rows: Rows) -> str:
    """Return the table of the chips."""
    lines = [
        "| chip | memory (GiB) | bfloat16 (TFLOP/s) | memory (GB/s) | links, out (GB/s) | source |",
        "|---|---|---|---|---|---|",
    ]
    for chip in CHIP_TABLE.values():
        numbers = (chip.flops / 1e12, chip.bandwidth / 1e9, chip.interconnect / 1e9)
        cells = [chip.name, f"{chip.memory / 2**30:.4g}", *(f"{n:.0f}" for n in numbers)]
        lines.append(f"| {' | '.join(cells)} | <{chip.source}> |")
    return table(dict.fromkeys(lines))


def of_jobs(rows: Rows) -> str:
    """Return the table of what was compiled, and the names of what was not."""
    lines = [
        "| update | slice | batch | GB per chip: weights, optimizer, temporaries, all "
        "| TFLOP per chip | floors (ms): arithmetic, memory, links | examples per second, at most "
        "| lowered, compiled in (s) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if "floors" not in row or row.get(
            "largest_batch"
        ):  # of before they were counted; see below
            continue
        memory, seconds = row["memory"], row["seconds"]
        parts = (memory[name] for name in ("parameters", "optimizer", "temporaries", "total"))
        floors = (row["floors"][name] for name in ("arithmetic", "memory", "interconnect"))
        sizes = " x ".join(f"{name} {size}" for name, size in row["mesh"].items())
        cells = [
            row["name"],
            f"{row['topology']}, {sizes}",
            f"{row['batch']}",
            ", ".join(f"{part / 1e9:.3g}" for part in parts),
            f"{row['flops'] / 1e12:.3g}",
            ", ".join(f"{1e3 * floor:.3g}" for floor in floors),
            f"{row['per_second']:.3g} {row['unit']}"
            + (f", {row['tokens_per_second']:.3g} tokens" if row.get("tokens") else ""),
            f"{seconds['lower']:.0f}, {seconds['compile']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    there = compiled(rows)
    missing = [f"- {job.title}" for job in jobs() if job.title not in there]
    refused = [f"- {title_of(row)}: {row['refused']}" for row in rows if "refused" in row]
    said = {"Refused by the compiler, of a chip": refused, "Not compiled yet": missing}
    parts = ("\n".join([f"\n{what}:\n", *some, ""]) for what, some in said.items() if some)
    return table(lines) + "".join(parts)


def of_largest(rows: Rows) -> str:
    """Return the table of largest batches, and of the programs that were compiled to find them."""
    lines = [
        "| update | slice | largest batch | the next one | compiled, with GB |",
        "|---" * 5 + "|",
    ]
    for row in rows:
        if best := row.get("largest_batch"):
            sizes = {n: f"{t / 1e9:.4g}" if t else "refused" for n, t in row["totals"].items()}
            totals = ", ".join(f"{number}: {size}" for number, size in sizes.items())
            following = "does not fit" if best["next_fits_not"] else "is not known"
            name = row["name"].removesuffix(", largest batch")
            lines.append(
                f"| {name} | {row['topology']} | {best['batch']} | {following} | {totals} |"
            )
    return table(lines)


def of_one_device(rows: Rows) -> str:
    """Return the table of what fits into one device."""
    lines = [
        "| model | trained | always in use (GB) | per picture (GB) | "
        + " | ".join(f"{size} GB" for size in SIZES)
        + " |",
        "|---" * (4 + len(SIZES)) + "|",
    ]
    single = {r["name"]: r for r in rows if r["topology"] == SINGLE and "memory" in r}
    for model in MODELS:
        adapters = single.get(f"{model}, LoRA, ddpo")
        for training in ("LoRA", "full"):
            row = single.get(f"{model}, {training}, ddpo")
            if row is None or adapters is None:
                continue
            slope = adapters["memory"]["temporaries"] / adapters["batch"]
            base = row["memory"]["total"] - slope * row["batch"]
            fits = [int((USABLE * size * 1e9 - base) // slope) for size in SIZES]
            cells = [model, training, f"{base / 1e9:.1f}", f"{slope / 1e9:.2f}"]
            cells += [str(number) if number > 0 else "–" for number in fits]
            lines.append(f"| {' | '.join(cells)} |")
    return table(lines)


def of_updates(rows: Rows) -> str:
    """Return the table of updates that were run, by `benchmarks.fine_tune`."""
    lines = [
        "| update of two pictures | seconds | compiled for (GB) | process at its peak (GB) |",
        "|---|---|---|---|",
    ]
    for case in json.loads(UPDATES.read_text())["cases"] if UPDATES.exists() else ():
        row = case["rows"][0]
        sizes = (f"{row[name] / 1e9:.2f}" for name in ("memory_bytes", "resident_bytes"))
        name = case["name"].removesuffix(", update by a reward")
        lines.append(f"| {name} | {row['seconds']:.1f} | {' | '.join(sizes)} |")
    return table(lines)


def curves(rows: Rows) -> Iterator[tuple[str, str, str, list[Mapping[str, Any]]]]:
    """Yield study, chip, "weak" or "strong", and the rows of a curve by chips."""
    for study in SCALED:
        for chip in ("v5e", "v6e"):
            found = (row for row in rows if row["name"] == study.name and "floors" in row)
            own = [row for row in found if row["topology"].startswith(chip)]
            own.sort(key=lambda row: row["mesh"]["data"])
            weak = [row for row in own if row["batch"] == study.each * row["mesh"]["data"]]
            strong = [row for row in own if row["batch"] == study.all]
            yield from (
                (study.name, chip, kind, found)
                for kind, found in (("weak", weak), ("strong", strong))
                if len(found) > 1
            )


def of_scaling(rows: Rows) -> str:
    """Return the table of weak and strong scaling."""
    lines = [
        "| update | scaling | chips | batch | floor (ms) | set by | sent per chip (MB) "
        "| examples per second, at most | of so many times the first |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, chip, kind, found in curves(rows):
        first = found[0]
        for row in found:
            chips = row["mesh"]["data"]
            ideal = first["per_second"] * chips / first["mesh"]["data"]
            by = max(row["floors"], key=row["floors"].get)
            cells = [
                name,
                f"{kind}, {chip}",
                f"{chips}",
                f"{row['batch']}",
                f"{1e3 * row['floor']:.3g}",
                by,
                f"{row['sent'] / 1e6:.3g}",
                f"{row['per_second']:.3g}",
                f"{row['per_second'] / ideal:.0%}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return table(lines)


def table(lines: Iterable[str]) -> str:
    """Return lines as a block of a page."""
    found = list(lines)
    return "\n".join(found) + "\n" if len(found) > 2 else "Not compiled yet.\n"


def page(text: str, rows: Rows) -> str:
    """Return a page with its tables written anew."""
    tables = {"chips": of_chips, "jobs": of_jobs, "scaling": of_scaling}
    tables |= {"device": of_one_device, "updates": of_updates, "largest": of_largest}
    return _BLOCK.sub(lambda m: f"{m[1]}{tables[m[2]](rows)}{m[3]}", text)


def draw(path: Path, rows: Rows) -> None:
    """Draw examples per second over chips, of the studies that have some."""
    from matplotlib.figure import Figure

    found = [*curves(rows)]
    names = [*dict.fromkeys(name for name, *_ in found)]
    if not names:
        return
    figure = Figure(figsize=(4.5 * len(names), 3.5), layout="constrained")
    axes = dict(zip(names, figure.subplots(1, len(names), squeeze=False)[0], strict=True))
    for name, chip, kind, points in found:
        chips = [row["mesh"]["data"] for row in points]
        speeds = [row["per_second"] for row in points]
        style = "o-" if kind == "weak" else "s--"
        axes[name].loglog(chips, speeds, style, base=2, label=f"{kind}, {chip}")
    for name, place in axes.items():
        place.set(title=name, xlabel="chips", ylabel="images per second, at most")
        place.legend()
    figure.savefig(path, dpi=120)


def main(arguments: list[str]) -> None:
    """Compile, list or write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plans", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--cases", nargs="*", default=[""], help="those whose names contain these")
    parser.add_argument("--missing", action="store_true", help="only those not yet compiled")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args(arguments)
    if options.page:
        for name in PAGES:
            text = (DOCS / name).read_text(encoding="utf-8")
            (DOCS / name).write_text(page(text, kept()), encoding="utf-8")
        draw(DOCS / "_static" / "scaling.png", kept())
        return
    with tempfile.TemporaryDirectory() as place:
        for job in [job for words in options.cases for job in jobs() if words in job.title]:
            if options.missing and job.title in compiled(kept()):
                continue
            print(job.title, flush=True)
            if options.list:
                continue
            try:
                keep(planned(job, Path(place)))
            except SystemExit as ended:
                if ended.code != 2:  # a signal
                    raise


if __name__ == "__main__":
    main(sys.argv[1:])
