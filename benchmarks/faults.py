"""Kill short runs at random moments, resume them, and compare what they end with, bit for bit.

Every run is a real command in processes of its own. A campaign first lets the command run to its
end, which gives the digest of the final parameters, the lines of metrics and the time that is taken
from the first file on. Then it starts the same command in a new folder and, at a moment drawn from
that time, sends a signal:

- ``kill``: SIGKILL to all its processes;
- ``kill one``: SIGKILL to one of two, of which the other must end by itself;
- ``stop``: SIGTERM to one of them in a phase that is named: the command must end with status 143;

and goes on with ``--resume latest`` until the run ends; half of the time the next signal meets it
on the way. It has lost something unless its digest and its lines are those of the undisturbed run.
Of pictures that are drawn the digest is of all files, the lines are those that say which is which.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import report

CLAIM = "a run that is killed or stopped at any moment loses nothing"
ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "faults.json"
PAGE = ROOT / "docs" / "faults.md"
LIMIT = 1800
"""Seconds that a command may take before it counts as hanging."""
OF_THE_CLOCK = ("seconds", "per_second", "throughput", "utilization", "traces")
"""Metrics with these in their names depend on the machine's moment."""


class Subject(NamedTuple):
    """A command that is disturbed.

    Fields:
        line: module and options; {inputs} is the folder of what it is given.
        phases: names of its phases to what stands in its folder once they have begun.
    """

    line: str
    phases: dict[str, str]


_LOOP = {"training": "checkpoints/*", "evaluation": "checkpoints/{last}/_CHECKPOINT_METADATA"}
SUBJECTS = {
    "score_as_action": Subject(
        "experiments.score_as_action --steps 6 --solver-steps 5 --update.minibatches 5 "
        "--optimization.batch 16 --frontier-samples 256 --evaluation-samples 128 --value.epochs 1 "
        "--optimization.warmup 1 --pretraining.steps 20 --pretraining.batch 32 "
        "--pretraining.no-reuse --preferences.pairs 50 --preferences.steps 10 --model.width 16 "
        "--model.depth 1 --evaluate-every 2 --checkpoint-every 1",
        {"pre-training": "pretraining-*", "reward learning": "reward-*", **_LOOP},
    ),
    "fine-tune": Subject(
        "ctrl_jax.commands fine-tune --model {inputs}/pipeline --prompts {inputs}/prompts.txt "
        "--reward jpeg_size:-1 --algorithm ddpo --solver-steps 2 --steps 6 --batch 4 --group 2 "
        "--adapters.rank 2 --guidance 1 --evaluation.prompts 2 --evaluation.number 2 "
        "--evaluation.every 2 --evaluation.checkpoint-every 1",
        {"evaluation before": "config.json", **_LOOP},
    ),
    "prefer": Subject(
        "tests.commands.byte_model --model {inputs}/decoder --data {inputs}/pairs.jsonl --steps 6 "
        "--optimization.batch 4 --optimization.learning-rate 0.02 --optimization.warmup 0 "
        "--texts.max-length 32 --texts.row-length 32 --texts.held-out 0.2 --evaluation.every 3 "
        "--evaluation.checkpoint-every 1 --evaluation.prompts 3 --evaluation.answer-length 4",
        {"reference": "config.json", **_LOOP},
    ),
    "cifar10": Subject(
        "experiments.cifar10 --tiny --steps 6 --optimization.batch 8 --optimization.warmup 1 "
        "--network.width 8 --network.multipliers 1 --network.blocks 1 --network.attention "
        "--solver ancestral --solver-steps 3 --evaluation.samples 64 --evaluation.batch 8 "
        "--fetch-every 1 --checkpoint-every 1 --snapshot-every 2",
        {**_LOOP, "sampling": "model/model.json"},
    ),
    "linear_quadratic": Subject(
        "experiments.linear_quadratic --steps 4 --seeds 2 --methods cpg pg cppo_clipped "
        "--time-steps 0.1 --training.horizon 1 --training.batch 4 --training.draws 2 "
        "--training.epochs 2 --training.value-epochs 2",
        {"training": "checkpoints/*", "evaluation": "checkpoints/cppo_clipped*/1"},
    ),
    "sample": Subject(
        "ctrl_jax.commands sample --model {inputs}/pipeline --prompts {inputs}/prompts.txt "
        "--number 60 --batch 2 --guidance 1 --steps 3",
        {"drawing": "pictures.jsonl"},
    ),
}
PLACES = {"1 device": (1, 1), "4 devices": (1, 4), "2 processes": (2, 1)}
"""Processes, and devices of each."""
SIGNALS = ("kill", "kill one", "stop", "full disk")
"""What rows are of; the last one comes from `full_disk`."""
QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"


class Ended(NamedTuple):
    """What a run left.

    Fields:
        digest: of the final parameters.
        metrics: of results.json, without the clock's.
        lines: of metrics.jsonl, without the clock's.
        seconds: from its first file to its end.
    """

    digest: str
    metrics: dict[str, Any]
    lines: list[dict[str, Any]]
    seconds: float


class Lost(Exception):
    """A run that was disturbed did not end as it should."""


def main(arguments: Sequence[str]) -> int:
    """Run campaigns, write the table and return the exit status: 1 where something was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs of each row")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", nargs="*", default=[*SUBJECTS], help="which commands")
    parser.add_argument("--places", nargs="*", default=[*PLACES], help="on how many devices")
    parser.add_argument("--signals", nargs="*", default=[*SIGNALS[:-1]])
    parser.add_argument("--out", type=Path, default=RESULTS, help="file that rows are added to")
    parser.add_argument(
        "--add",
        action="store_true",
        help="add to the numbers of the rows that are there; give another --seed",
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="page that holds the table")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        write_inputs(work)
        for place in options.places:
            for name in options.only:
                for row in campaign(work, name, place, options):
                    result = added(options.out, row, summed=options.add)
                    print(json.dumps(row), flush=True)
                    options.page.write_text(with_table(options.page.read_text(), result))
    return int(any(row["lost"] for row in result["rows"]))


def write_inputs(work: Path) -> None:
    """Write a small pipeline, a small decoder and what they learn from, in a process of its own."""
    code = (
        "import sys; from pathlib import Path; from ctrl_jax.pretrained import "
        "write_small_pipeline; from tests.commands.byte_model import write_data, write_model; "
        "f = Path(sys.argv[1]); write_small_pipeline(f / 'pipeline', 'sd3'); "
        "write_model(f / 'decoder'); write_data(f / 'pairs.jsonl'); "
        "(f / 'prompts.txt').write_text('a cat\\nred dog\\nblue car\\n')"
    )
    line = [sys.executable, "-c", code, os.fspath(work)]
    subprocess.run(line, env=_environment(work, 1), check=True, cwd=work, capture_output=True)


def campaign(work: Path, name: str, place: str, options: argparse.Namespace) -> Iterator[dict]:
    """Disturb a command on so many devices, and yield a row for each kind of signal."""
    undisturbed = work / "undisturbed"
    shutil.rmtree(undisturbed, ignore_errors=True)
    began = start(work, name, place, undisturbed)
    while not (undisturbed / "config.json").exists() and any(p.poll() is None for p in began):
        time.sleep(0.01)
    clock = time.monotonic()
    statuses = finish(began)
    if any(statuses):
        said = said_of(undisturbed)
        raise RuntimeError(f"{name} on {place} fails undisturbed, with {statuses}: {said}")
    wanted = ended(undisturbed, time.monotonic() - clock)
    generator, longest = random.Random(f"{options.seed} {name} {place}"), [wanted.seconds]
    for kind in options.signals:
        if kind == "kill one" and PLACES[place][0] == 1:
            continue
        moments = _moments(name, kind, longest, options.kills, generator)
        yield disturb(work, name, place, kind, moments, wanted, generator, longest)


Moment = Callable[[Path], bool]
"""Whether it has come, by the folder of a run."""


def _moments(name, kind, longest, kills, generator) -> list[tuple[str, Callable[[], Moment]]]:
    """Return what draws the moment of each signal, with the phase where that is given."""
    if kind == "stop":
        phases = SUBJECTS[name].phases
        return [(phase, functools.partial(_begun, name, phase, generator)) for phase in phases]
    number = kills if kind == "kill" else max(kills // 5, 1)
    return [("", lambda: _after(generator.uniform(0, longest[0])))] * number


def _after(seconds: float) -> Moment:
    """So many seconds after the first file of this life."""
    since, born = [], time.time()

    def due(out: Path) -> bool:
        if not since and _is_locked(out, born):
            since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] >= seconds

    return due


def _begun(name: str, phase: str, generator) -> Moment:
    """A little after a phase has begun."""
    pattern = SUBJECTS[name].phases[phase].format(last=_last(name))
    wait, since, born = generator.uniform(0, 0.5), [], time.time()

    def due(out: Path) -> bool:
        if not since and _is_locked(out, born) and any(out.glob(pattern)):
            since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] >= wait

    return due


def _is_locked(out: Path, since: float) -> bool:
    """Return whether a run has written its first file, after a time of the clock."""
    with contextlib.suppress(FileNotFoundError):
        return (out / ".lock.json").stat().st_mtime >= since
    return False


def _last(name: str) -> str:
    words = SUBJECTS[name].line.split()
    return words[words.index("--steps") + 1]


def disturb(work, name, place, kind, moments, wanted: Ended, generator, longest) -> dict[str, Any]:
    """Send the signals to one run after another, resume, and return the row of the table."""
    row = {"command": name, "place": place, "signal": kind, "tried": 0, "runs": 0}
    row |= {"too late": 0, "lost": []}
    phases: dict[str, int] = {}
    waiting, out = list(moments), work / "disturbed"
    while waiting:
        shutil.rmtree(out, ignore_errors=True)
        row["runs"] += 1
        try:
            goes_on, fresh = True, True
            while True:
                processes, began, sent = start(work, name, place, out), time.monotonic(), False
                if waiting and goes_on:
                    sent = _send(processes, out, waiting[0][1](), kind, generator)
                statuses = finish(processes)
                if not sent:
                    if fresh:  # compiled before, it is over sooner than the undisturbed one
                        longest[0] = min(longest[0], time.monotonic() - began)
                    if any(statuses):
                        raise Lost(f"resumed, it ends with {statuses}: {said_of(out)}")
                    break
                word = waiting.pop(0)[0] or phase_of(name, out)
                phases[word] = phases.get(word, 0) + 1
                row["tried"] += 1
                row["too late"] += int(kind == "stop" and not any(statuses))
                _check(kind, statuses, out)
                # Some are hit again while they go on; all phases of a stop are met in turn.
                goes_on, fresh = kind == "stop" or generator.random() < 0.5, False
            compare(wanted, ended(out, 0.0))
        except Lost as lost:
            row["lost"].append(str(lost))
        if waiting and not sent and kind == "stop":
            waiting.pop(0)  # the phase is over before it can be met
    return row | {"phases": phases}


def _send(processes, out: Path, due: Moment, kind: str, generator) -> bool:
    """Wait for the moment and send the signal; False where the run ended before."""
    while not due(out):
        if all(process.poll() is not None for process in processes):
            return False
        time.sleep(0.005)
    aimed = processes if kind == "kill" else [generator.choice(processes)]
    if any(process.poll() is not None for process in processes):
        return False
    for process in aimed:
        process.send_signal(signal.SIGTERM if kind == "stop" else signal.SIGKILL)
    return True


def _check(kind: str, statuses: list[int], out: Path) -> None:
    complete = any((out / name).exists() for name in ("results.json", "files.sha256"))
    done = not any(statuses) and complete  # before it was heard
    if kind == "stop" and {*statuses} != {128 + signal.SIGTERM} and not done:
        raise Lost(f"stopped, it ends with {statuses}: {said_of(out)}")
    if kind == "kill one" and 0 in statuses:
        raise Lost(f"one process was killed, and the statuses are {statuses}")


def phase_of(name: str, out: Path) -> str:
    """Return the last phase of a command that has begun, by what its folder holds."""
    phases = SUBJECTS[name].phases.items()
    begun = [word for word, pattern in phases if any(out.glob(pattern.format(last=_last(name))))]
    return begun[-1] if begun else "start"


def start(work: Path, name: str, place: str, out: Path) -> list[subprocess.Popen]:
    """Start a command in its processes, going on where there is something to go on from."""
    number, devices = PLACES[place]
    module, *rest = SUBJECTS[name].line.format(inputs=work).split()
    line = [sys.executable, "-m", module, *rest, "--no-progress", "--out", os.fspath(out)]
    line += ["--resume", "latest"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = []
    for i in range(number):
        several = f"--distributed on --coordinator 127.0.0.1:{port} --processes {number}"
        several += f" --process-id {i} --heartbeat-seconds 10"
        with (work / f"{out.name}-{i}.txt").open("w") as said:
            found.append(
                subprocess.Popen(
                    [*line, *(several.split() if number > 1 else [])],
                    cwd=work,
                    env=_environment(work, devices),
                    stdout=said,
                    stderr=subprocess.STDOUT,
                )
            )
    return found


def finish(processes: list[subprocess.Popen]) -> list[int]:
    """Wait for the end and return the exit statuses; what hangs is killed, and said."""
    try:
        return [process.wait(timeout=LIMIT) for process in processes]
    except subprocess.TimeoutExpired as error:
        for process in processes:
            process.kill()
        raise Lost(f"it hangs for {LIMIT} s") from error


def said_of(out: Path) -> str:
    """Return the last line that the first process said."""
    lines = (out.parent / f"{out.name}-0.txt").read_text(errors="replace").splitlines()
    return lines[-1][:300] if lines else "nothing"


def ended(out: Path, seconds: float) -> Ended:
    """Read what a run left.

    Raises:
        Lost: it is not complete.
    """
    try:
        if (out / "pictures.jsonl").exists():
            return _drawn(out, seconds)
        results = json.loads((out / "results.json").read_text())
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise Lost(f"what it leaves cannot be read ({error}): {said_of(out)}") from error
    metrics, rows = _timeless(results["metrics"]), [*map(_timeless, lines)]
    return Ended(results["digest"], metrics, rows, seconds)


def _drawn(out: Path, seconds: float) -> Ended:
    """Read what a run of pictures left."""
    sums = (out / "files.sha256").read_text().splitlines(keepends=True)
    told = "".join(line for line in sums if not line.endswith("config.json\n"))
    lines = [json.loads(line) for line in (out / "pictures.jsonl").read_text().splitlines()]
    return Ended(hashlib.sha256(told.encode()).hexdigest(), {}, lines, seconds)


def compare(wanted: Ended, found: Ended) -> None:
    """Raise Lost unless a run left what the undisturbed one left."""
    for what in ("digest", "lines", "metrics"):
        if getattr(wanted, what) != getattr(found, what):
            raise Lost(f"its {what} differ: {getattr(found, what)!r:.200}")


def _timeless(row: dict[str, Any]) -> dict[str, Any]:
    return {k: value for k, value in row.items() if not any(word in k for word in OF_THE_CLOCK)}


def _environment(work: Path, devices: int) -> dict[str, str]:
    path = os.pathsep.join([os.fspath(ROOT), os.environ.get("PYTHONPATH", "")])
    mine = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", f"{work}/cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": path,
    }
    if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1":
        mine["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}"
    return {**os.environ, **mine}


def added(path: Path, row: dict[str, Any], *, summed: bool = False) -> dict[str, Any]:
    """Put a row into the file of results, in the place of the one that it measures again.

    Args:
        path: of the file.
        row: as from `disturb`.
        summed: whether the numbers of the one that is there are added to it.
    """
    found: dict[str, Any] = {"claim": CLAIM, "rows": []}
    if path.exists():
        found = json.loads(path.read_text())
    key = ("command", "place", "signal")
    same = [old for old in found["rows"] if all(old[name] == row[name] for name in key)]
    for old in same if summed else []:
        counts = {n: old[n] + row[n] for n in ("tried", "runs", "too late", "lost")}
        met = [*old["phases"].items(), *row["phases"].items()]
        phases = {p: sum(n for q, n in met if q == p) for p, _ in met}
        row = row | counts | {"phases": phases}
    rows = [old for old in found["rows"] if any(old[name] != row[name] for name in key)]
    order = [(n, p, s) for n in SUBJECTS for p in PLACES for s in SIGNALS]
    row = row | {"versions": report.versions()["jax"]}
    rows = sorted([*rows, row], key=lambda r: order.index(tuple(r[name] for name in key)))
    found["rows"] = rows
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    return found


BEGIN, END = "<!-- kills: begin -->", "<!-- kills: end -->"


def with_table(page: str, result: dict[str, Any]) -> str:
    """Return a page with the table of a result between its marks."""
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{table(result)}\n{END}{after}"


def table(result: dict[str, Any]) -> str:
    """Return the rows as Markdown."""
    names = ("command", "on", "signal", "sent", "met", "too late", "resumed equal", "lost")
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for row in result["rows"]:
        met = ", ".join(f"{phase} {n}" for phase, n in row["phases"].items())
        equal = row["runs"] - len(row["lost"])
        cells = [row["command"], row["place"], row["signal"], row["tried"], met, row["too late"]]
        cells += [f"{equal} of {row['runs']} runs", len(row["lost"])]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    total = sum(row["tried"] for row in result["rows"])
    lost = sum(len(row["lost"]) for row in result["rows"])
    return "\n".join([*lines, "", f"In all {total} faults, {lost} runs lost."])
