"""The campaign that kills runs: what counts as lost, its table, and one of each kind for real."""

import json
import os
from pathlib import Path

import pytest

from benchmarks import faults, full_disk

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
