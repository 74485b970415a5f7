"""Let the disk run full under short runs, make room, resume them, and compare what they end with.

The folder of a run lies on a file system in memory of its own, smaller than what the run writes: a
size drawn evenly up to that. The command must end with status 2 and one line that asks for space;
with room again, or with a little more first, `--resume latest` must end with what the undisturbed
run ended with, bit for bit. Mounting such a file system takes root's rights.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import faults

CLAIM = "a run whose disk is full says so, and goes on where it was once there is room"
PLACE = "1 device"


def main(arguments: Sequence[str]) -> int:
    """Run campaigns, add their rows and return the exit status: 1 where something was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks full_disk", description=__doc__)
    parser.add_argument("--tries", type=int, default=20, help="full disks of each command")
    parser.add_argument("--seed", type=int, default=0, help="of the sizes")
    parser.add_argument("--only", nargs="*", default=[*faults.SUBJECTS], help="which commands")
    parser.add_argument("--out", type=Path, default=faults.RESULTS, help="file that gets rows")
    parser.add_argument("--page", type=Path, default=faults.PAGE, help="page that holds the table")
    options = parser.parse_args(arguments)
    if os.geteuid():
        print("benchmarks: mounting a small file system takes root's rights", file=sys.stderr)
        return 2
    lost = 0
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        faults.write_inputs(work)
        for name in options.only:
            row = campaign(work, name, options.tries, options.seed)
            print(json.dumps(row), flush=True)
            result = faults.added(options.out, row)
            options.page.write_text(faults.with_table(options.page.read_text(), result))
            lost += len(row["lost"])
    return int(lost > 0)


def campaign(work: Path, name: str, tries: int, seed: int) -> dict[str, Any]:
    """Fill the disk of a command so often, and return its row of the table."""
    wanted, size = _undisturbed(work, name)
    generator = random.Random(f"{seed} {name}")
    row: dict[str, Any] = {"command": name, "place": PLACE, "signal": "full disk", "tried": 0}
    row |= {"runs": 0, "too late": 0, "lost": []}
    phases: dict[str, int] = {}
    while row["tried"] < tries:
        row["runs"] += 1
        with _disk(work / "filled") as out:
            kibibytes = 0
            try:
                while row["tried"] < tries and kibibytes < size:
                    kibibytes = max(generator.randint(kibibytes, size), 16)
                    _resize(out, kibibytes)
                    fits = not _fills(work, name, out)
                    row["tried"], row["too late"] = row["tried"] + 1, row["too late"] + fits
                    phase = faults.phase_of(name, out)
                    phases[phase] = phases.get(phase, 0) + 1
                    if fits or generator.random() < 0.5:
                        break
                _resize(out, 4 * size)
                if statuses := _statuses(work, name, out):
                    raise faults.Lost(f"with room it ends with {statuses}: {faults.said_of(out)}")
                faults.compare(wanted, faults.ended(out, 0.0))
            except faults.Lost as lost:
                row["lost"].append(str(lost))
    return row | {"phases": phases}


def _undisturbed(work: Path, name: str) -> tuple[faults.Ended, int]:
    """Return what a command ends with and the kibibytes that it writes."""
    out = work / "undisturbed"
    shutil.rmtree(out, ignore_errors=True)
    if statuses := _statuses(work, name, out):
        raise RuntimeError(f"{name} fails undisturbed, with {statuses}: {faults.said_of(out)}")
    used = sum(path.stat().st_blocks * 512 for path in out.rglob("*"))
    return faults.ended(out, 0.0), used // 1024


def _fills(work: Path, name: str, out: Path) -> bool:
    """Run a command whose disk is small; return whether it was full, and said so."""
    if not (statuses := _statuses(work, name, out)):
        return False
    said = (out.parent / f"{out.name}-0.txt").read_text(errors="replace")
    asks = [line for line in said.splitlines() if "error: " in line and "free some space" in line]
    if statuses != [2] or len(asks) != 1 or "Traceback" in said:
        raise faults.Lost(f"on a full disk it ends with {statuses}: {said[-300:]}")
    return True


def _statuses(work: Path, name: str, out: Path) -> list[int]:
    """Run a command to its end and return its statuses, or nothing where all of them are 0."""
    statuses = faults.finish(faults.start(work, name, PLACE, out))
    return statuses if any(statuses) else []


@contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def _resize(folder: Path, kibibytes: int) -> None:
    line = ["mount", "-o", f"remount,size={kibibytes}k", os.fspath(folder)]
    subprocess.run(line, check=True)
