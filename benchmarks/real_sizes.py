"""Real sizes without a real device: the steps of `ctrl-jax fine-tune`, compiled for shapes alone.

    python -m benchmarks.real_sizes --list               what there is to compile
    python -m benchmarks.real_sizes --cases "SD 1.5"     compile some of it, and keep what is found
    python -m benchmarks.real_sizes --page               write the tables of docs/memory.md

With the package libtpu a TPU's compiler runs on any machine: the program is the one that a TPU
would run, its memory the compiler's own account, and no array is ever made. Models have the shapes
of Stable Diffusion 1.5 (859 million parameters) and 3.5 medium (2.2 billion) in bfloat16, the
latents of 512 x 512 and 1024 x 1024 pixels, prompts of 77 and of 333 tokens. A step is a whole
update: rollout in ten guided steps, pictures, a reward of them, gradient and optimizer.
"""

import argparse
import dataclasses
import json
import os
import re
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks.pipeline import Settings
from ctrl_jax._records import write_json_atomic
from ctrl_jax.algorithms import Batch
from ctrl_jax.commands.fine_tuning.algorithms import make_algorithm
from ctrl_jax.commands.fine_tuning.config import Config
from ctrl_jax.commands.fine_tuning.inputs import Inputs
from ctrl_jax.commands.fine_tuning.method import Algorithm, Method
from ctrl_jax.commands.fine_tuning.of_pipeline import subject_of
from ctrl_jax.commands.fine_tuning.sampler import Sampler
from ctrl_jax.commands.fine_tuning.value import Unit
from ctrl_jax.networks.sharding import partition_specs
from ctrl_jax.pretrained.diffusers.parts import read_part
from ctrl_jax.pretrained.diffusers.pipeline import Pipeline
from ctrl_jax.pretrained.diffusers.pipeline_index import AUTOENCODER_NAME, KINDS, read_index
from ctrl_jax.pretrained.diffusers.scheduler import read_scheduler
from ctrl_jax.pretrained.diffusers.small_records import PIPELINES, write_records
from ctrl_jax.runtime import versions

FILE = Path(__file__).parent / "results" / "real_sizes.json"
UPDATES = FILE.parent / "cpu-2-cores" / "fine_tune.json"
PAGE = Path(__file__).parent.parent / "docs" / "memory.md"
MODELS, STEPS, WINDOW = ("SD 1.5", "SD 3.5-M"), 10, 2
SIZES = (16, 24, 80, 140)
USABLE = 0.95
SINGLE, SLICE = "v5p:2x2x1", "v5e:4x4"
_BLOCK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- /\2 -->)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One step to compile.

    Args:
        model: "SD 1.5" or "SD 3.5-M".
        training: "LoRA", or "full" for all weights.
        algorithm: by its name in `ctrl-jax fine-tune`.
        batch: pictures per update.
        topology: of a TPU, as libtpu names it.
        data: devices that the batch is divided over.
        parts: devices that large weights are divided over.
        divisor: of the model's widths; 0 for the tests' own.
    """

    model: str
    training: str
    algorithm: Algorithm
    batch: int
    topology: str = SINGLE
    data: int = 1
    parts: int = 1
    divisor: int = 1

    @property
    def name(self) -> str:
        """What it is called in the file and on the command line."""
        where = f"{self.topology} {self.data}x{self.parts}"
        return f"{self.model}, {self.training}, {self.algorithm}, batch {self.batch}, {where}"


def cases() -> Iterator[Compiled]:
    """Yield adapters and all weights on one device, and two algorithms on a slice."""
    for model in MODELS:
        for training in ("LoRA", "full"):
            yield Compiled(model, training, "ddpo", 2)
    for model in MODELS:
        for algorithm in ("ppo", "grpo"):
            yield Compiled(model, "LoRA", algorithm, 32, SLICE, 4, 4)


def config_of(case: Compiled) -> Config:
    """Return the options of the command."""
    window = WINDOW if case.algorithm == "grpo" else None
    sampler = Sampler(solver_steps=STEPS, window=window)
    chunks = sampler.trained_steps
    return Config(
        model="-",
        prompts="-",
        reward=("-",),
        method=Method(case.algorithm, minibatches=1, chunks=chunks),
        sampler=sampler,
        batch=case.batch,
        full=case.training == "full",
        remat=True,
        fully_sharded=case.data > 1,
    )


def compiled(case: Compiled) -> dict[str, Any]:
    """Compile a step, and return what the compiler says of it."""
    config, mesh = config_of(case), mesh_of(case)
    step, arguments = program(case, config, mesh)
    began = time.perf_counter()
    traced = jax.jit(step, donate_argnums=0).trace(*arguments)
    lowered = traced.lower(lowering_platforms=("tpu",))
    middle = time.perf_counter()
    found = lowered.compile()
    seconds = {"lower": middle - began, "compile": time.perf_counter() - middle}
    memory, text = found.memory_analysis(), found.as_text() or ""
    assert memory is not None
    return dataclasses.asdict(case) | {
        "device": mesh.devices.flat[0].device_kind,
        "arguments": memory.argument_size_in_bytes,
        "results": memory.output_size_in_bytes,
        "donated": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "seconds": seconds,
        "collectives": collectives(text),
        "versions": {name: versions()[name] for name in ("jax", "flax")},
    }


def mesh_of(case: Compiled) -> Mesh:
    """Return the devices of a TPU that need not be there."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    from jax.experimental import topologies

    found = topologies.get_topology_desc(platform="tpu", topology_name=case.topology)
    if case.data * case.parts == 1:
        import numpy as np

        return Mesh(np.asarray(found.devices[:1]).reshape(1, 1), ("data", "model"))
    return topologies.make_mesh(found, (case.data, case.parts), ("data", "model"))


def program(
    case: Compiled, config: Config, mesh: Mesh
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Return the step of the command, and the shapes of its arguments with their shardings."""
    pipeline = abstract(case, config)
    texts = texts_of(case, pipeline)
    subject = subject_of(config, pipeline, pipeline.shape(), tuple(t[-1] for t in texts))

    def made(frozen, params):
        # What an algorithm is made of, and no more of the inputs of a run.
        named: dict[str, Any] = dict.fromkeys(Inputs._fields)
        named |= {"subject": subject._replace(params=params), "scale": config.sampler.scale}
        named |= {"rewards": types.SimpleNamespace(names=("red",))}
        named |= {"given": types.SimpleNamespace(train=range(case.batch))}
        return make_algorithm(config, Inputs(**named), frozen, Unit(0.0, 1.0))

    def step(state, batch, frozen):
        algorithm = made(frozen, state.policy.params)
        rollout = algorithm.collect(state, batch)
        pictures = subject.decode(frozen, rollout.states[-1]).astype(jnp.float32)
        rewards = jnp.mean(pictures[..., 0] - pictures[..., 1], axis=(1, 2))
        return algorithm.learn(state, rollout, rewards)

    def specs(tree):
        found = partition_specs(tree, mesh, fully=config.fully_sharded, rules=subject.rules)
        return jax.tree.map(lambda leaf, spec: placed(leaf.shape, leaf.dtype, spec), tree, found)

    def placed(shape, dtype, spec=PartitionSpec()) -> Any:  # noqa: B008
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    frozen, params = abstractly(subject.frozen), abstractly(subject.params)
    state = jax.eval_shape(
        lambda frozen, params: made(frozen, params).init(jax.random.key(0)), frozen, params
    )
    over = PartitionSpec("data")
    prompts = max(case.batch // 4, 1)
    conditions = tuple(placed((prompts, *shape), jnp.bfloat16) for shape in 2 * texts)
    ids = placed((case.batch,), jnp.int32, over)
    batch = Batch(placed((case.batch,), jnp.float32, over), conditions, ids, ids)
    return step, (specs(state), batch, specs(frozen))


def abstract(case: Compiled, config: Config) -> Pipeline:
    """Return a pipeline whose weights are shapes."""
    settings = Settings(case.model, case.divisor, "step")
    with tempfile.TemporaryDirectory() as place:
        folder = write_records(Path(place) / "model", settings.kind, settings.records)
        index, records = PIPELINES[settings.kind]
        kind, networks, _ = read_index(index, ())
        parts = {}
        for name in (kind.denoiser, AUTOENCODER_NAME):
            whole = config.full and name == kind.denoiser
            options: dict[str, Any] = {"remat": True} if name == kind.denoiser else {}
            parts[name] = read_part(
                folder / name,
                KINDS[networks[name]],
                dtype=jnp.bfloat16,
                param_dtype=jnp.float32 if whole else jnp.bfloat16,
                **options,
            )
    params = {name: abstractly(part.plain.shapes) for name, part in parts.items()}
    scheduler = read_scheduler(records["scheduler"])
    return Pipeline(Path("-"), index, kind, parts, params, scheduler, {})


def abstractly(tree: Any) -> Any:
    """Return a tree of shapes and types."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def texts_of(case: Compiled, pipeline: Pipeline) -> list[tuple[int, ...]]:
    """Return the shapes of what the network is told of one prompt."""
    config, tokens = pipeline.denoiser.config, Settings(case.model, case.divisor, "step").tokens
    if pipeline.prediction == "flow":
        return [(tokens, config.text_width), (config.pooled_width,)]
    return [(tokens, config.context)]


def collectives(text: str) -> dict[str, int]:
    """Return how often devices speak to each other in a compiled program, by kind."""
    kinds = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
    return {kind: len(re.findall(rf" {kind}(?:-start)?\(", text)) for kind in kinds}


def kept() -> list[dict[str, Any]]:
    """Return what was found so far."""
    return json.loads(FILE.read_text())["steps"] if FILE.exists() else []


def keep(row: dict[str, Any]) -> None:
    """Write what was found into the file, in the place of what it held of the same step."""
    fields = [field.name for field in dataclasses.fields(Compiled)]
    others = [old for old in kept() if any(old[name] != row[name] for name in fields)]
    FILE.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(FILE, {"steps": [*others, row]})


def total(row: Mapping[str, Any]) -> int:
    """Return the bytes of one device that a step needs."""
    return row["arguments"] + row["results"] - row["donated"] + row["temporaries"]


def per_picture(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return the temporaries of a picture in a step of adapters, what there is of none included."""
    (row,) = (row for row in rows if row["training"] == "LoRA")
    return row["temporaries"] / row["batch"]


def of_one_device(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of what fits."""
    lines = [
        "| model | trained | always in use (GB) | per picture (GB) | "
        + " | ".join(f"{size} GB" for size in SIZES)
        + " |",
        "|---" * (4 + len(SIZES)) + "|",
    ]
    single = [row for row in rows if row["data"] * row["parts"] == 1 and row["divisor"] == 1]
    for model in MODELS:
        for training in ("LoRA", "full"):
            of = [row for row in single if row["model"] == model]
            found = [row for row in of if row["training"] == training]
            if not found:
                continue
            slope = per_picture(of)
            base = total(found[0]) - slope * found[0]["batch"]
            fits = [int((USABLE * size * 1e9 - base) // slope) for size in SIZES]
            cells = [model, training, f"{base / 1e9:.1f}", f"{slope / 1e9:.2f}"]
            cells += [str(number) if number > 0 else "–" for number in fits]
            lines.append(f"| {' | '.join(cells)} |")
    return _table(lines)


def of_a_slice(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of steps compiled for a slice."""
    lines = [
        "| step | slice | GB per chip | lowered, compiled (s) | gathers, reductions, others |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        if row["data"] * row["parts"] == 1:
            continue
        spoken = row["collectives"]
        sums = spoken["all-reduce"] + spoken["reduce-scatter"]
        others = spoken["all-to-all"] + spoken["collective-permute"]
        cells = [
            f"{row['model']}, {row['training']}, {row['algorithm']}, batch {row['batch']}",
            f"{row['device']}, data {row['data']} x model {row['parts']}",
            f"{total(row) / 1e9:.1f}",
            f"{row['seconds']['lower']:.0f}, {row['seconds']['compile']:.0f}",
            f"{spoken['all-gather']}, {sums}, {others}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return _table(lines)


def of_updates(result: Mapping[str, Any]) -> str:
    """Return the table of updates that were run, by `benchmarks.fine_tune`."""
    lines = [
        "| update of two pictures | seconds | compiled for (GB) | process at its peak (GB) |",
        "|---|---|---|---|",
    ]
    for case in result["cases"]:
        row = case["rows"][0]
        sizes = (f"{row[name] / 1e9:.2f}" for name in ("memory_bytes", "resident_bytes"))
        name = case["name"].removesuffix(", update by a reward")
        lines.append(f"| {name} | {row['seconds']:.1f} | {' | '.join(sizes)} |")
    return _table(lines)


def _table(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n" if len(lines) > 2 else "Not measured yet.\n"


def page(text: str) -> str:
    """Return docs/memory.md with its tables written anew."""
    tables = {"device": of_one_device(kept()), "slice": of_a_slice(kept())}
    updates = json.loads(UPDATES.read_text()) if UPDATES.exists() else {"cases": []}
    tables["updates"] = of_updates(updates)
    return _BLOCK.sub(lambda m: f"{m[1]}{tables[m[2]]}{m[3]}" if m[2] in tables else m[0], text)


def main(arguments: list[str]) -> None:
    """Compile, list or write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_sizes", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--cases", default="", help="only those whose name contains this")
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args(arguments)
    if options.page:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return
    for case in cases():
        if options.cases not in case.name:
            continue
        print(case.name, flush=True)
        if not options.list:
            keep(row := compiled(case))
            print(f"  {total(row) / 1e9:.2f} GB, {row['seconds']}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
