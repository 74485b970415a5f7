"""Damage to what runs write: the bookkeeping of the campaign, a few flips, and all of it."""

import json
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import flips
from ctrl_jax._errors import RunWarning
from ctrl_jax._records import read_sealed, write_sealed
from ctrl_jax.runtime import Checkpoints, open_run
from ctrl_jax.runtime.run.arrays import keep_arrays, kept_arrays


def tell():
    warnings.warn("it was changed", RunWarning, stacklevel=2)


def answer(value, told=False, error=None):
    def read():
        if error is not None:
            raise error
        if told:
            tell()
        return value

    return flips.Kind("a", [], read)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (answer(1), "harmless"),
        (answer(2), "used wrong"),
        (answer(None), "used wrong"),
        (answer(1, told=True), "noticed"),
        (answer(2, told=True), "noticed"),
        (answer(None, told=True), "repaired"),
        (answer(flips.Restored((1,)), told=True), "repaired"),
        (answer(1, error=ValueError("one line")), "noticed"),
        (answer(1, error=ValueError("two\nlines")), "used wrong"),
        (answer(1, error=KeyError("a traceback")), "used wrong"),
    ],
)
def test_what_came_of_it(kind, expected):
    assert flips.outcome(kind, 1) == expected


def test_a_file_that_is_used_wrong_is_counted_and_put_back(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    (row,) = flips.campaign([flips.Kind("bare", [path], path.read_bytes)], flips=1)
    assert (row["tried"], row["used wrong"]) == (9, 9) and path.read_bytes() == b"abc"
    assert "| bare | 1 | 9 | 0 | 0 | 0 | 9 |" in flips.table([row])


def test_a_few_flips_of_each_form(tmp_path):
    """Checkpoints, arrays and records that are sealed, and what a complete run left."""
    run = open_run("toy", {"run": {"seed": 0}}, out=tmp_path / "run", resume="never", seed=0)
    with Checkpoints(run.checkpoints) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"x": jnp.arange(3.0) + step}, {"lines": None})
    (run.folder / "curves.png").write_bytes(bytes(100))
    run.seal()
    keep_arrays(tmp_path / "a.npz", {"x": np.arange(3)})
    write_sealed(tmp_path / "a.json", {"chunks": 2})
    how = {"name": "a", "repair": "remove it"}
    kinds = [
        *flips.checkpoints_of(run.folder),
        flips.left_by(run.folder),
        flips.Kind("npz", [tmp_path / "a.npz"], lambda: str(kept_arrays(tmp_path / "a.npz"))),
        flips.Kind("json", [tmp_path / "a.json"], lambda: read_sealed(tmp_path / "a.json", **how)),
    ]
    rows = flips.campaign(kinds, flips=1)
    assert not any(row["wrong"] for row in rows)
    assert all(row["noticed"] + row["repaired"] for row in rows)


def test_the_kept_campaign_has_no_file_used_wrong():
    rows = json.loads(flips.FILE.read_text())["rows"]
    assert sum(row["tried"] for row in rows) >= 200
    assert not [row["wrong"] for row in rows if row["wrong"]]
    assert all(row["noticed"] + row["repaired"] for row in rows)
    text = flips.PAGE.read_text()
    assert flips.page(text) == text


@pytest.mark.slow  # makes eight runs
def test_no_file_of_any_run_is_used_wrong(tmp_path):
    flips.make_runs(tmp_path)
    rows = flips.campaign([*flips.kinds_of(tmp_path)], seed=1, flips=1)
    assert sum(row["tried"] for row in rows) > 200
    assert not {row["kind"]: row["wrong"] for row in rows if row["wrong"]}
    assert all(row["noticed"] + row["repaired"] for row in rows)
