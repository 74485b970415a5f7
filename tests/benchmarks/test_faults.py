"""The campaign that kills runs: what counts as lost, its table, and one of each kind for real."""

import contextlib
import json
import os
import time
from pathlib import Path

import pytest

from benchmarks import faults, full_disk
from ctrl_jax.runtime.checkpoints.step_folders import is_finished

ROOT = Path(__file__).parents[2]


def write(out, digest="a", loss=1.0, rate=3.0):
    out.mkdir(exist_ok=True)
    (out / "results.json").write_text(
        json.dumps({"digest": digest, "metrics": {"loss": loss, "traces": 1}})
    )
    (out / "metrics.jsonl").write_text(json.dumps({"step": 1, "images_per_second": rate}) + "\n")
    return out


def test_what_counts_as_lost(tmp_path):
    wanted = faults.ended(write(tmp_path / "a"), 1.0)
    faults.compare(wanted, faults.ended(write(tmp_path / "b", rate=4.0), 2.0))
    for other in (("b", 1.0), ("a", 1.1)):
        with pytest.raises(faults.Lost, match="differ"):
            faults.compare(wanted, faults.ended(write(tmp_path / "c", *other), 1.0))
    (tmp_path / "c-0.txt").write_text("one\nerror: no\n")
    (tmp_path / "c" / "results.json").unlink()
    with pytest.raises(faults.Lost, match="error: no"):
        faults.ended(tmp_path / "c", 1.0)


def test_a_row_takes_the_place_of_the_one_it_measures_again(tmp_path):
    row = {"place": "1 device", "tried": 2, "runs": 1, "too late": 0, "phases": {"training": 2}}
    for name, kind, lost in (
        ("prefer", "kill", ["x"]),
        ("score_as_action", "stop", []),
        ("prefer", "kill", []),
    ):
        given = {**row, "command": name, "signal": kind, "lost": lost}
        result = faults.added(tmp_path / "faults.json", given)
    assert [r["command"] for r in result["rows"]] == ["score_as_action", "prefer"]
    more = given | {"tried": 3, "phases": {"training": 1, "start": 2}}
    summed = faults.added(tmp_path / "faults.json", more, summed=True)["rows"]
    assert summed[0] == result["rows"][0]
    assert (summed[1]["tried"], summed[1]["phases"]) == (5, {"training": 3, "start": 2})
    page = faults.with_table(f"a\n{faults.BEGIN}\nold\n{faults.END}\nb\n", result)
    assert "old" not in page and page.startswith("a\n") and page.endswith("b\n")
    assert "| prefer | 1 device | kill | 2 | training 2 | 0 | 1 of 1 runs | 0 |" in page
    assert "In all 4 faults, 0 runs lost." in page


def test_the_page_says_what_is_committed():
    page, result = faults.PAGE.read_text(), json.loads(faults.RESULTS.read_text())
    assert faults.with_table(page, result) == page
    assert not any(row["lost"] for row in result["rows"])
    kills = {
        (r["command"], r["place"]): r["tried"] for r in result["rows"] if r["signal"] == "kill"
    }
    long = [name for name in faults.SUBJECTS if name != "sample"]
    assert all(kills[name, place] >= 20 for name in long for place in faults.PLACES), kills


@pytest.mark.slow
@pytest.mark.parametrize("place", faults.PLACES)
@pytest.mark.parametrize("name", faults.SUBJECTS)
def test_nothing_is_lost(tmp_path, name, place):
    """A kill, one of two processes, and a signal in each phase: `benchmarks.faults`, shortly."""
    page = tmp_path / "page.md"
    page.write_text("")
    line = ["--kills", "1", "--only", name, "--places", place]
    assert faults.main([*line, "--out", str(tmp_path / "a.json"), "--page", str(page)]) == 0


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root's rights")
@pytest.mark.parametrize("name", faults.SUBJECTS)
def test_a_full_disk_loses_nothing(tmp_path, name):
    page = tmp_path / "page.md"
    page.write_text("")
    line = ["--tries", "2", "--only", name]
    assert full_disk.main([*line, "--out", str(tmp_path / "a.json"), "--page", str(page)]) == 0


def finished(out):
    """Return the steps of all trainings of a run that are whole on disk, or lines of pictures."""
    if (out / "pictures.jsonl").exists():
        return (out / "pictures.jsonl").read_text().splitlines()
    with contextlib.suppress(FileNotFoundError):  # a folder takes its own name meanwhile
        return [p for p in out.glob("checkpoints/**/[0-9]*") if p.name.isdigit() and is_finished(p)]
    return []


def numbers(row):
    return {k: v for k, v in row.items() if isinstance(v, int | float)}


@pytest.mark.slow
@pytest.mark.parametrize("name", faults.SUBJECTS)
def test_a_run_goes_on_on_other_devices(tmp_path, name):
    """Two processes are killed, then one, and four devices end as one that nobody disturbed.

    Sums in another order differ in the last digits, which six updates hardly enlarge.
    """
    faults.write_inputs(tmp_path)
    assert faults.finish(faults.start(tmp_path, name, "1 device", tmp_path / "a")) == [0]
    wanted, out = faults.ended(tmp_path / "a", 0.0), tmp_path / "b"
    for place, steps in (("2 processes", 1), ("1 device", 2), ("4 devices", None)):
        processes = faults.start(tmp_path, name, place, out)
        if steps is not None:
            while len(finished(out)) < steps:
                assert any(process.poll() is None for process in processes), faults.said_of(out)
                time.sleep(0.01)
            for process in processes:
                process.kill()
        statuses = faults.finish(processes)
        assert {*statuses} == {0 if steps is None else -9}, faults.said_of(out)
    found = faults.ended(out, 0.0)
    pairs = [(wanted.metrics, found.metrics), *zip(wanted.lines, found.lines, strict=True)]
    for one, other in pairs:
        assert numbers(other) == pytest.approx(numbers(one), rel=1e-4, abs=1e-4)
    said = json.loads((out / "config.json").read_text())
    assert said["mesh"] == {"devices": 4, "processes": 1}
