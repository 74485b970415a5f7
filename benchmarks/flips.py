"""One bit of a file is changed, or its end cut off: every file that a run writes, one at a time.

    python -m benchmarks flips                         make small runs and damage their files
    python -m benchmarks flips --runs DIR              keep the runs there, or take those that are
    python -m benchmarks flips --flips 2               flips of a file, and half as many cuts; more
                                                       of one that is alone of its kind
    python -m benchmarks flips --page                  write the table of docs/faults.md

The runs are score_as_action, cifar10, linear_quadratic, `ctrl-jax fine-tune` (with adapters;
besides a model as `--full` writes it), `ctrl-jax prefer` (all weights, and adapters), and
`ctrl-jax sample` of a run and of a pipeline. What reads a file in earnest is called after each
damage, in this process: what a run restores or finds when it goes on, and what loads a model. It
may

1. refuse the file in one line, or say that it was changed: noticed,
2. do without, as an older checkpoint is used and a base model trained again: repaired,
3. return to the bit what it returned before: harmless, as with a time that nobody reads.

Anything else is a file that is used wrong, of which there should be none.
"""

import argparse
import dataclasses
import functools
import importlib
import json
import logging
import re
import shutil
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from benchmarks.faults import SUBJECTS
from ctrl_jax._errors import RunError, RunWarning
from ctrl_jax._records import plain, read_json, read_sealed, write_json_atomic
from ctrl_jax._sums import SUMS, check_sums, file_digest
from ctrl_jax._whole import copy_folder
from ctrl_jax.commands.fine_tuning.overoptimization import Overoptimization
from ctrl_jax.commands.sampling import of_pipeline
from ctrl_jax.commands.sampling.album import LINES as PICTURES
from ctrl_jax.commands.sampling.album import Album
from ctrl_jax.commands.sampling.of_run import SAMPLES
from ctrl_jax.data.prompts import read_prompts
from ctrl_jax.pretrained import load_decoder, load_pipeline
from ctrl_jax.pretrained.diffusers.lora_file import read_lora
from ctrl_jax.runtime import Checkpoints, MetricsLog, open_run, state_digest, versions
from ctrl_jax.runtime.checkpoints.step_folders import step_folders
from ctrl_jax.runtime.run.arrays import keep_arrays, kept_arrays
from ctrl_jax.runtime.run.folders import forget, withdraw
from ctrl_jax.runtime.saved_models import load_model

CLAIM = "no file that a run writes is used wrong once the disk changed a bit of it, or cut it short"
FILE = Path(__file__).parent / "results" / "flips.json"
PAGE = Path(__file__).parent.parent / "docs" / "faults.md"
OUTCOMES = ("noticed", "repaired", "harmless", "used wrong")
FEW = 6
"""Times as many flips of a file that is one of few."""

Outcome = Literal["noticed", "repaired", "harmless", "used wrong"]
_BLOCK = re.compile(r"(<!-- flips -->\n).*?(<!-- /flips -->)", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Kind:
    """Files that are read in one way.

    Args:
        name: of the files, in words.
        files: some that a run wrote.
        read: returns what is got from them, None where they are done without.
        kept: whether `read` writes to the folder of the files, which is put back afterwards.
    """

    name: str
    files: Sequence[Path]
    read: Callable[[], Any]
    kept: Path | None = None


def damages(path: Path, generator: np.random.Generator, flips: int) -> Iterator[bytes]:
    """Yield the content of a file with a bit changed, and with its end cut off."""
    whole = path.read_bytes()
    for bit in generator.integers(8 * len(whole), size=flips if whole else 0):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << (bit % 8)
        yield bytes(changed)
    for size in generator.integers(len(whole), size=-(-flips // 2)) if whole else ():
        yield whole[:size]


def outcome(kind: Kind, expected: Any) -> Outcome:
    """Read damaged files as in earnest, and return what came of it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            found = kind.read()
        except (ValueError, RunError) as error:
            return "used wrong" if "\n" in str(error).strip() else "noticed"
        except Exception:  # a traceback
            return "used wrong"
    told = any(issubclass(warning.category, RunWarning) for warning in said)
    if found == expected:
        return "noticed" if told else "harmless"
    if not told:
        return "used wrong"
    return "repaired" if found is None or isinstance(found, Restored) else "noticed"


def campaign(kinds: Sequence[Kind], *, seed: int = 0, flips: int = 2) -> list[dict[str, Any]]:
    """Damage every file, one at a time, and return for each kind how often what came of it."""
    rows = []
    for kind in kinds:
        row: dict[str, Any] = {"kind": kind.name, "files": 0, "tried": 0, "wrong": []}
        row |= dict.fromkeys(OUTCOMES, 0)
        expected = kind.read()
        for number, path in enumerate(sorted(kind.files)):
            generator = np.random.default_rng([seed, len(rows), number])
            whole = path.read_bytes()
            row["files"] += bool(whole)
            for damaged in damages(path, generator, flips * (FEW if len(kind.files) < 4 else 1)):
                before = _contents(kind.kept)
                path.write_bytes(damaged)
                try:
                    found = outcome(kind, expected)
                finally:
                    _put_back(kind.kept, before)
                    path.write_bytes(whole)
                row["tried"] += 1
                row[found] += 1
                if found == "used wrong":
                    row["wrong"].append(path.name)
        rows.append(row)
        print(f"{kind.name}: {row['tried']} tried, {row['used wrong']} used wrong", flush=True)
    return rows


def _contents(folder: Path | None) -> dict[Path, bytes]:
    if folder is None:
        return {}
    return {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _put_back(folder: Path | None, before: dict[Path, bytes]) -> None:
    """Write files as they were, and take back the name that a damaged folder got."""
    if folder is None:
        return
    for aside in folder.parent.glob(f"{folder.name}.corrupt*"):
        shutil.rmtree(folder, ignore_errors=True)  # what was made again in its place
        aside.rename(folder)
    for path, content in before.items():
        path.write_bytes(content)


@jax.tree_util.register_pytree_with_keys_class
class Leaves:
    """A tree of which only the leaves' names are known, as a checkpoint's description has them."""

    def __init__(self, leaves: dict[str, Any]):
        self.leaves = leaves

    def tree_flatten_with_keys(self):
        """Return leaves with their names, and these once more."""
        return [(_Name(name), leaf) for name, leaf in self.leaves.items()], (*self.leaves,)

    @classmethod
    def tree_unflatten(cls, names, leaves):
        """Return the tree again."""
        return cls(dict(zip(names, leaves, strict=True)))


@dataclasses.dataclass(frozen=True)
class _Name:
    name: str

    def __str__(self) -> str:
        return self.name


class Restored(tuple):
    """Step, digest and record of a checkpoint."""


def read_checkpoint(folder: Path, target: Leaves) -> Restored | None:
    """Return what is restored from a folder; nothing there is set aside."""
    with Checkpoints(folder, read_only=True) as checkpoints:
        try:
            step, state, record = checkpoints.restore(target)
        except ValueError:
            return None  # said step by step: the stage begins again
    return Restored((step, state_digest(state), json.dumps(record, sort_keys=True)))


def target_of(folder: Path) -> Leaves:
    """Return the shapes and types of the newest checkpoint in a folder."""
    newest = max(step_folders(folder), key=lambda path: int(path.name))
    description = json.loads((newest / "description" / "metadata").read_text())
    leaves = description["content"]["leaves"]
    return Leaves({name: _abstract(leaf) for name, leaf in leaves.items()})


def _abstract(leaf: dict[str, Any]) -> jax.ShapeDtypeStruct:
    dtype = jax.random.key(0).dtype if leaf["dtype"].startswith("key<") else leaf["dtype"]
    return jax.ShapeDtypeStruct(tuple(leaf["shape"]), dtype)


def files_in(folder: Path) -> list[Path]:
    """Return all files of a folder and those in it."""
    return [path for path in folder.rglob("*") if path.is_file()]


def checkpoints_of(run: Path) -> Iterator[Kind]:
    """Yield the checkpoints of every stage of a run."""
    places = (*run.iterdir(), *(run / "checkpoints").glob("*"))
    for folder in sorted(path for path in places if path.is_dir() and step_folders(path)):
        newest = max(step_folders(folder), key=lambda path: int(path.name))
        read = functools.partial(read_checkpoint, folder, target_of(folder))
        stage = folder.name.split("-")[0].replace("checkpoints", "main loop")
        stage = stage if folder.parent == run else "piece of a study"
        yield Kind(f"checkpoint ({stage})", files_in(newest), read)


def left_by(run: Path) -> Kind:
    """Return the files that a complete run left, as one that goes on in its folder reads them."""
    described = read_json(run / "config.json")
    kept = PICTURES if (run / PICTURES).exists() else SAMPLES if (run / SAMPLES).exists() else None
    where: dict[str, Any] = {"out": run, "resume": "latest", "seed": 0, "kept": kept}

    def read() -> Any:
        forget()
        given = {"inputs": described["inputs"], **where}
        found = open_run(described["experiment"], described["config"], **given)
        withdraw()
        return found

    names = [line.split("  ")[1] for line in (run / SUMS).read_text().splitlines()]
    own = [run / name for name in (*names, SUMS) if "/" not in name]
    return Kind("what a complete run left", own, read, run)


def kinds_of(runs: Path) -> Iterator[Kind]:
    """Yield every kind of file of the runs in a folder, by `make_runs`."""
    for run in sorted(path for path in runs.iterdir() if (path / "config.json").exists()):
        yield from checkpoints_of(run)
        yield left_by(run)
        yield of_stopped(run)
        if step_folders(run / "checkpoints"):
            yield lines_of(run)
    yield from of_score_as_action(runs)
    yield from of_made(runs)
    yield from of_fine_tuning(runs)
    yield from of_preferences(runs)
    yield from of_samples(runs)


def of_stopped(run: Path) -> Kind:
    """Return the config.json of a run that has not come to its end, which has no digests."""
    read, sums = left_by(run).read, run / SUMS

    def without() -> Any:
        kept = sums.read_bytes()
        sums.unlink()
        try:
            return read()
        finally:
            sums.write_bytes(kept)

    return Kind("config.json of a stopped run", [run / "config.json"], without, run)


def lines_of(run: Path) -> Kind:
    """Return the metrics, as a run reads them that goes on from the newest checkpoint."""
    folder, path = run / "checkpoints", run / "metrics.jsonl"
    newest = max(step_folders(folder), key=lambda step: int(step.name))
    description = json.loads((newest / "description" / "metadata").read_text())
    digest = description["content"]["record"]["lines"]

    def read() -> str | None:
        with MetricsLog(path, start=int(newest.name), digest=digest) as log:
            return log.digest

    return Kind("metrics.jsonl", [path], read, run)


def of_score_as_action(runs: Path) -> Iterator[Kind]:
    """Yield the models of score_as_action and cifar10, and the base model that later runs share."""
    from experiments.score_as_action.pretraining import _found

    def said_of(model: Any) -> Any:
        if model is None:
            return None
        told = plain((model.spec, model.shape, model.precision, model.notes))
        return [*told, state_digest(model.params)]

    for folder in (runs / "score_as_action" / "model", runs / "cifar10" / "model"):
        read = functools.partial(load_model, folder)
        yield Kind("model/ of a run", files_in(folder), lambda read=read: said_of(read()))
    (cache,) = (path for path in (runs / "pretrained").iterdir() if path.is_dir())
    files = files_in(cache)
    yield Kind("base model that runs share", files, lambda: said_of(_found(cache)), cache)


def of_made(runs: Path) -> Iterator[Kind]:
    """Yield the pictures that cifar10 --tiny makes, and a stage of text_to_image."""
    from experiments.cifar10.data import load_images, make_tiny_set
    from experiments.text_to_image.training import keep

    tiny = runs / "made" / "tiny"
    make_tiny_set(tiny)

    def images() -> str:
        return state_digest({"x": load_images(str(make_tiny_set(tiny)), 1, 0).train})

    yield Kind("pictures of cifar10 --tiny", files_in(tiny), images, tiny)
    made: list[str] = []

    def make(folder: Path, name: str) -> dict[str, Any]:
        made.append(name)
        write_decoder(folder / "network")
        return {"accuracy": 0.5}

    def kept() -> str | None:
        before = len(made)
        with tempfile.TemporaryDirectory(dir=runs) as own:
            study: Any = types.SimpleNamespace(folder=Path(own), say=lambda text: None)
            study.alike, study.share = lambda: True, copy_folder
            study.fingerprint = lambda *on, shared=False: "of all that it depends on"
            folder = keep(study, str(runs / "made"), "stage", [], make).folder
            if len(made) == before:
                return state_digest(load_decoder(folder / "network").params)
        return None

    kept()
    (stage,) = (runs / "made").glob("stage-*")
    yield Kind("stage of text_to_image", files_in(stage), kept, stage)


def of_fine_tuning(runs: Path) -> Iterator[Kind]:
    """Yield what `fine-tune` exports and keeps."""
    run = runs / "fine_tune"
    path = run / "pytorch_lora_weights.safetensors"
    yield Kind("adapters of fine-tune", [path], lambda: state_digest(read_lora(path)))
    before = run / "before.npz"
    yield Kind("before.npz", [before], lambda: _digest(kept_arrays(before)))
    evaluations = run / "evaluations.jsonl"
    prompts = np.zeros(4, int)
    yield Kind(
        "evaluations.jsonl",
        [evaluations],
        lambda: Overoptimization(evaluations, 10**6, prompts)._lines,
    )
    chunks = run / "chunks.json"
    how = {"name": "chunks", "repair": "remove it"}
    yield Kind("chunks.json", [chunks], lambda: read_sealed(chunks, **how))
    model = runs / "exported" / "model"
    weights = ("text_encoder",)
    yield Kind(
        "model/ of fine-tune --full",
        files_in(model),
        lambda: state_digest(dict(load_pipeline(model, weights=weights).params)),
    )


def of_preferences(runs: Path) -> Iterator[Kind]:
    """Yield what `prefer` exports and keeps."""
    reference = runs / "prefer" / "reference.npz"
    with np.load(reference) as archive:
        words = str(archive["words"])
    yield Kind("reference.npz", [reference], lambda: _digest(kept_arrays(reference, words)))
    model = runs / "prefer" / "model"
    read = lambda: state_digest(load_decoder(model).params)  # noqa: E731
    yield Kind("model/ of prefer", files_in(model), read)
    adapters = runs / "prefer_adapters" / "model"
    yield Kind("model/ of prefer, adapters", files_in(adapters), lambda: check_sums(adapters) or 1)


def of_samples(runs: Path) -> Iterator[Kind]:
    """Yield what `sample` writes: samples of a run, its batches before, pictures of a pipeline."""
    whole, part = runs / "samples" / SAMPLES, runs / "samples-00000000.npz"
    with np.load(whole) as archive:
        words, images = str(archive["words"]), archive["images"]
    keep_arrays(part, {"images": images[:3]}, words)  # as the command keeps a batch until the end
    for name, file in (("samples.npz", whole), ("samples of a batch", part)):
        read = functools.partial(kept_arrays, file, words)
        yield Kind(name, [file], lambda read=read: _digest(read()))
    folder = runs / "pictures"
    described = read_json(folder / "config.json")
    names = [field.name for field in dataclasses.fields(of_pipeline.Drawing)]
    asked = [(name, described["config"][name]) for name in names]
    given: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in asked}
    drawing = of_pipeline.Drawing(**given)
    prompts = read_prompts(given["prompts"], name="prompts")
    of_each = of_pipeline._records(drawing, prompts, described["inputs"])
    path = folder / PICTURES
    whole, files = path.read_bytes(), [line["file"] for line in of_each[0]]
    digests = {name: file_digest(folder / name) for name in files}

    def there() -> dict[str, str] | None:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            missing = Album(folder, *of_each).missing()
        for warning in said:
            warnings.warn(warning.message, stacklevel=2)
        kept = {n: file_digest(folder / n) for i, n in enumerate(files) if i not in missing}
        if missing and said:
            return None
        # Cut off, it is what a killed run leaves: the pictures without a line are drawn again.
        lines = path.read_bytes()
        cut = lines != whole and whole.startswith(lines) and kept.items() <= digests.items()
        return digests if cut else kept

    yield Kind("pictures of sample", [path, *map(folder.joinpath, files)], there, folder)


def _digest(arrays: dict[str, np.ndarray] | None) -> str | None:
    return None if arrays is None else state_digest(arrays)


FINE_TUNE = """
fine-tune --reward jpeg_size:-1 --algorithm ddpo --solver-steps 2 --steps 2 --batch 4 --group 2
--guidance 1 --evaluation.prompts 2 --evaluation.number 2 --evaluation.every 1 --no-progress
--evaluation.checkpoint-every 1 --minibatches 1
""".split()  # noqa: SIM905
PREFER = """
prefer --loss mallows_theta --steps 2 --optimization.batch 4 --texts.max-length 32
--texts.row-length 32 --texts.held-out 0.2 --evaluation.every 1 --evaluation.checkpoint-every 1
--evaluation.prompts 2 --evaluation.answer-length 4 --no-progress
""".split()  # noqa: SIM905
SAMPLE = """
sample --number 2 --batch 2 --steps 3 --guidance 1 --no-progress
""".split()  # noqa: SIM905
SCORE_AS_ACTION = """
--steps 2 --solver-steps 5 --update.minibatches 5 --optimization.batch 16
--frontier-samples 256 --evaluation-samples 128 --value.epochs 1 --optimization.warmup 1
--pretraining.steps 20 --pretraining.batch 32 --preferences.pairs 50 --preferences.steps 10
--model.width 16 --model.depth 1 --evaluate-every 1 --checkpoint-every 1
""".split()  # noqa: SIM905
STUDIES = {
    "score_as_action": SCORE_AS_ACTION,
    **{name: SUBJECTS[name].line.split()[1:] for name in ("cifar10", "linear_quadratic")},
}


def make_runs(folder: Path) -> None:
    """Run what is damaged; what is there already stays."""
    from ctrl_jax.commands.__main__ import main as command_line
    from ctrl_jax.pretrained import save_pipeline, write_small_pipeline
    from ctrl_jax.runtime import command
    from experiments.score_as_action import pretraining

    given = folder / "given"
    if not given.exists():
        write_small_pipeline(given / "pipeline", "sd3")
        (given / "prompts.txt").write_text("a cat\nred dog\nblue car\n")
        write_decoder(given / "decoder")
        write_pairs(given / "pairs.jsonl")
    pipeline = ["--model", given / "pipeline", "--prompts", given / "prompts.txt"]
    decoder = ["--model", given / "decoder", "--data", given / "pairs.jsonl"]
    for name, line in {
        "fine_tune": [*FINE_TUNE, *pipeline, "--adapters.rank", 2, "--chunks", "auto"],
        "prefer": [*PREFER, *decoder],
        "prefer_adapters": [*PREFER, *decoder, "--adapters.rank", 2, "--adapters.no-merge"],
    }.items():
        if not (folder / name / SUMS).exists():
            status = command_line([*map(str, line), "--out", str(folder / name)])
            assert status == 0, name
    if not (folder / "exported").exists():
        # As `fine-tune --full` writes it.
        tuned = load_pipeline(given / "pipeline")
        other = jax.tree.map(lambda leaf: leaf + 1, tuned.params["transformer"])
        save_pipeline(folder / "exported" / "model", tuned, {"transformer": other}, sums=True)
    pretraining.CACHE = folder / "pretrained"
    for name, line in STUDIES.items():
        if not (folder / name / SUMS).exists():
            study = importlib.import_module(f"experiments.{name}.__main__")
            command(study.Config, study.main, [*line, "--no-progress", "--out", str(folder / name)])
    if not (folder / "samples" / SUMS).exists():
        sampled = ["sample", str(folder / "score_as_action"), "--number", "6", "--batch", "3"]
        sampled += ["--steps", "5", "--no-progress", "--out", str(folder / "samples")]
        assert command_line(sampled) == 0
    if not (folder / "pictures" / SUMS).exists():
        line = [*SAMPLE, "--model", given / "pipeline", "--prompts", given / "prompts.txt"]
        assert command_line([*map(str, line), "--out", str(folder / "pictures")]) == 0


def write_decoder(folder: Path) -> None:
    """Write a small random Llama whose tokens are letters."""
    from ctrl_jax.networks import language_model
    from ctrl_jax.pretrained import read_record, save_decoder

    letters = ["<s>", "</s>", *map(chr, range(32, 127))]
    record = {"model_type": "llama", "vocab_size": len(letters), "hidden_size": 16}
    record |= {"intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
    record |= {"num_key_value_heads": 1, "max_position_embeddings": 64}
    shapes = language_model(read_record(record)).shapes
    generator = np.random.default_rng(0)
    draw = lambda leaf: np.asarray(0.2 * generator.standard_normal(leaf.shape), np.float32)  # noqa: E731
    save_decoder(folder, record, jax.tree.map(draw, shapes))
    split = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
    tokens = {letter: i for i, letter in enumerate(letters)}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": letters[i], "special": True, **special} for i in (0, 1)
        ],
        "pre_tokenizer": split,
        "model": {"type": "WordLevel", "vocab": tokens, "unk_token": " "},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    words = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(words))


def write_pairs(path: Path, number: int = 24) -> None:
    """Write pairs of texts."""
    generator = np.random.default_rng(1)
    word = lambda: "".join(generator.choice(list("abcxyz "), 5))  # noqa: E731
    keys = ("prompt", "chosen", "rejected")
    lines = [json.dumps({key: f"{key[0]}{word()}" for key in keys}) for _ in range(number)]
    path.write_text("\n".join(lines) + "\n")


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table of what came of it, kinds that runs share summed up."""
    kinds: dict[str, dict[str, int]] = {}
    for row in rows:
        found = kinds.setdefault(row["kind"], dict.fromkeys(("files", "tried", *OUTCOMES), 0))
        for name in found:
            found[name] += row[name]
    total = {name: sum(found[name] for found in kinds.values()) for name in ("files", "tried")}
    total |= {name: sum(found[name] for found in kinds.values()) for name in OUTCOMES}
    lines = [f"| file | files | tried | {' | '.join(OUTCOMES)} |", "|---" * 7 + "|"]
    for kind, found in {**kinds, "**all**": total}.items():
        lines.append(f"| {kind} | {' | '.join(str(found[name]) for name in found)} |")
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """Return docs/faults.md with its table of flips written anew."""
    rows = json.loads(FILE.read_text(encoding="utf-8"))["rows"]
    return _BLOCK.sub(lambda match: f"{match[1]}{table(rows)}{match[2]}", text)


def main(arguments: list[str]) -> int:
    """Make runs, damage their files and keep what came of it; the status is 1 for a wrong use."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks flips", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--runs", type=Path, help="folder of the runs")
    parser.add_argument("--flips", type=int, default=2, help="bits changed of every file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args(arguments)
    if options.page:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # what Orbax leaves of a failed read
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        runs = options.runs or Path(place)
        make_runs(runs)
        rows = campaign([*kinds_of(runs)], seed=options.seed, flips=options.flips)
    print(table(rows))
    kept = {"rows": rows, "seed": options.seed, "flips": options.flips, "versions": versions()}
    write_json_atomic(FILE, kept | {"seconds": round(time.monotonic() - began)})
    return int(any(row["used wrong"] for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
