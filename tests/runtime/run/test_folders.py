"""The rules of the run folder, one by one."""

import json
import math
import os
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax._whole import HOST
from ctrl_jax.runtime import (
    Checkpoints,
    RunError,
    RunWarning,
    open_run,
    read_json,
    versions,
    write_json_atomic,
    write_results,
)
from ctrl_jax.runtime.run import lock
from ctrl_jax.runtime.run.folders import forget, left_behind, withdraw

CONFIG: dict[str, Any] = {
    "learning_rate": 0.1,
    "run": {"out": None, "resume": "never", "steps": 3, "seed": 0},
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def changed(**values):
    run = {**CONFIG["run"], **{k: v for k, v in values.items() if k in CONFIG["run"]}}
    rest = {k: v for k, v in values.items() if k not in CONFIG["run"]}
    return {**CONFIG, **rest, "run": run}


def start(config=CONFIG, out: str | None = "d", resume: Any = "never", seed=0, **inputs: str):
    return open_run("toy", config, out=out, resume=resume, seed=seed, inputs=inputs)


def save(run):
    with Checkpoints(run.checkpoints) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)})


def test_a_new_run_has_a_folder_of_its_own(tmp_path):
    first, second = start(out=None, seed=7), start(out=None, seed=7)
    assert first.folder != second.folder
    assert first.folder.parent.resolve() == tmp_path / "runs" / "toy"
    assert "-7" in first.folder.name
    assert not first.resumed
    content = read_json(first.folder / "config.json")
    assert content["config"] == CONFIG
    assert content["versions"] == versions()
    assert content["mesh"]["processes"] == 1


def test_never_refuses_a_folder_with_a_config_only(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "notes.txt").write_text("mine")
    start()
    before = (tmp_path / "d" / "config.json").read_bytes()
    with pytest.raises(ValueError, match=r"out: received 'd'; it holds the config\.json"):
        start(changed(learning_rate=0.2))
    assert (tmp_path / "d" / "config.json").read_bytes() == before
    assert (tmp_path / "d" / "notes.txt").read_text() == "mine"


def test_latest_starts_afresh_without_a_checkpoint():
    assert not start(resume="latest").resumed
    assert not start(resume="latest").resumed


def test_a_run_that_goes_on_sweeps_what_a_killed_one_left(tmp_path):
    save(start())
    lock.release()
    dead = f"{HOST}-4194311"
    left = [f"d/{name}" for name in (f".results.{dead}.part.json", f"model/.params.{dead}.part")]
    kept = ["d/.notes.txt", f"d/samples/.sheet.{dead}.part.png"]
    for name in (*left, *kept):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="it holds the config"):
        start()
    assert all((tmp_path / name).exists() for name in left)
    assert start(resume="latest").resumed
    assert not any((tmp_path / name).exists() for name in left)
    assert all((tmp_path / name).exists() for name in kept)
    assert (tmp_path / "d" / lock.WORDS).exists()


def test_latest_continues_from_a_checkpoint_in_any_subfolder():
    run = start()
    with Checkpoints(run.checkpoints / "policy") as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)})
    assert start(changed(resume="latest", out="d"), resume="latest").resumed


def test_another_number_of_updates_is_warned_of():
    """A schedule may depend on it."""
    save(start())
    with pytest.warns(RunWarning, match=r"run.steps: 3 -> 9$"):
        assert start(changed(resume="latest", steps=9), resume="latest").resumed


def test_latest_without_out_takes_the_newest_run():
    old, new = start(out=None), start(out=None)
    os.utime(old.folder / "config.json", (1, 1))
    save(old)
    save(new)
    assert start(out=None, resume="latest").folder == new.folder
    assert (
        open_run("other", CONFIG, out=None, resume="latest", seed=0).folder.parent.name == "other"
    )


def test_latest_lists_what_changed_and_keeps_a_history():
    save(start())
    with pytest.warns(RunWarning, match=r"learning_rate: 0.1 -> 0.2; run.seed: 0 -> 5$"):
        run = start(changed(learning_rate=0.2, seed=5, resume="latest"), resume="latest")
    assert run.resumed
    content = read_json(run.folder / "config.json")
    assert content["config"]["learning_rate"] == 0.2
    assert content["resumed"][0]["changes"]["learning_rate"] == [0.1, 0.2]


def test_latest_lists_versions(tmp_path):
    save(start())
    content = read_json(tmp_path / "d" / "config.json")
    content["versions"]["jax"] = "0.1.0"
    write_json_atomic(tmp_path / "d" / "config.json", content)
    with pytest.warns(RunWarning, match=r"versions.jax: 0.1.0 -> "):
        start(resume="latest")


def test_strict_continues_the_same_run_only(tmp_path):
    with pytest.raises(ValueError, match="d holds no run"):
        start(resume="strict")
    with pytest.raises(ValueError, match="holds no run"):
        start(resume="strict", out=None)
    run = start()
    with pytest.raises(ValueError, match="holds no checkpoint"):
        start(resume="strict")
    save(run)
    assert start(changed(resume="strict", out="d"), resume="strict").resumed
    for change in ({"learning_rate": 0.2}, {"steps": 4}, {"new_option": 1}):
        with pytest.raises(ValueError, match=next(iter(change))):
            start(changed(**change), resume="strict")
    content = read_json(tmp_path / "d" / "config.json")
    for part, name in (("versions", "numpy"), ("mesh", "devices")):
        other = json.loads(json.dumps(content))
        other[part][name] = "other"
        write_json_atomic(tmp_path / "d" / "config.json", other)
        with pytest.raises(ValueError, match=f"{part}.{name}"):
            start(resume="strict")


def test_other_content_is_another_run_and_another_path_is_not():
    """`data` lies elsewhere and is the same, or in the same place and is another."""
    run = start({**CONFIG, "data": "here"}, data="1" * 64, reward="a")
    save(run)
    assert run.record["inputs"] == {"data": "1" * 64, "reward": "a"}
    moved = {**CONFIG, "data": "there"}
    assert start(moved, resume="strict", data="1" * 64, reward="a").resumed
    rule = "content of data: 111111111111 -> 222222222222.; use what it was started with"
    with pytest.raises(ValueError, match=rule):
        start(moved, resume="strict", data="2" * 64, reward="a")
    with pytest.raises(ValueError, match="content of reward: a -> absent"):
        start(moved, resume="strict", data="1" * 64)
    with pytest.warns(RunWarning, match="content of data: 111111111111 -> 222222222222$"):
        start(moved, resume="latest", data="2" * 64, reward="a")


def test_a_checkpoint_knows_its_content_too():
    """A run that was killed before it saved anything of its new data."""
    save(start(data="1"))
    with pytest.warns(RunWarning, match="content of data"):
        start(resume="latest", data="2").check_restored({"inputs": {"data": "1"}})
    run = start(resume="strict", data="2")
    run.check_restored({"inputs": {"data": "2"}})
    with pytest.raises(ValueError, match=r"the checkpoint was made with others .*data: 1 -> 2"):
        run.check_restored({"inputs": {"data": "1"}})


def test_a_checkpoint_knows_how_it_was_made(recwarn):
    """One that was put there from another run, or made before the config.json that is there."""
    first = start()
    save(first)
    assert {*first.record} == {"inputs", "experiment", "config", "versions", "mesh"}
    run = start(resume="latest")
    run.check_restored(json.loads(json.dumps(first.record)))
    assert not recwarn
    other = start(changed(learning_rate=0.2), resume="latest")  # which says so
    recwarn.clear()
    other.check_restored(first.record)
    assert not recwarn
    with pytest.warns(RunWarning, match=r"made with others \(learning_rate: 0.1 -> 0.2\)"):
        start(changed(learning_rate=0.2), resume="latest").check_restored(first.record)
    with pytest.raises(ValueError, match=r"made with others.*learning_rate"):
        start(changed(learning_rate=0.2), resume="strict").check_restored(first.record)
    with pytest.raises(ValueError, match="a checkpoint in it is of 'other', not of this"):
        run.check_restored({**first.record, "experiment": "other"})


PARTS = ("config", "versions", "mesh", "inputs", "resumed", "others", "started")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [None, 3, "words"], ids=str)
def test_a_config_that_was_edited_is_one_line(tmp_path, part, value):
    save(start())
    content = read_json(tmp_path / "d" / "config.json")
    write_json_atomic(tmp_path / "d" / "config.json", {**content, part: value})
    before = (tmp_path / "d" / "config.json").read_bytes()
    if part == "started" and value == "words":
        assert start(resume="latest").resumed
        return
    with pytest.raises(ValueError, match=f"config.json'; its '{part}' is .*restore it, or give an"):
        start(resume="latest")
    assert (tmp_path / "d" / "config.json").read_bytes() == before


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "3", "", '{"experiment": "toy"', "\xff"])
def test_a_config_that_is_no_record_is_one_line(tmp_path, text):
    save(start())
    (tmp_path / "d" / "config.json").write_bytes(text.encode("latin1"))
    for resume in ("never", "latest", "strict"):
        with pytest.raises(ValueError, match=r"out: received '.*'; it "):
            start(resume=resume)


def test_results_of_a_folder_that_vanished_are_an_error(tmp_path):
    run = start()
    (tmp_path / "d").rename(tmp_path / "e")
    words = {"experiment": "toy", "claim": "", "source": "", "digest": "", "seconds": 0.0}
    with pytest.raises(RunError, match="d is no longer there: it was moved or removed"):
        write_results(run, **words, metrics={}, expected={}, config={})


def test_what_lay_in_the_folder_before_is_not_the_runs(tmp_path, recwarn):
    """Its change is told to nobody: not where the run began, nor where it goes on."""
    theirs = tmp_path / "d" / "theirs"
    theirs.mkdir(parents=True)
    for path in (theirs / "a", tmp_path / "d" / "b"):
        path.touch()
    save(start())
    for _ in range(2):
        forget()
        start(resume="latest").seal()
        lines = (tmp_path / "d" / "files.sha256").read_text().splitlines()
        assert [line.split("  ")[1] for line in lines] == ["config.json"]
        (theirs / "a").write_text("changed")
    assert not recwarn


def test_what_a_complete_run_left_is_known_again(tmp_path, recwarn):
    run = start()
    save(run)
    (run.folder / "metrics.jsonl").write_text('{"step": 1}')
    (run.folder / "model" / "params" / "1").mkdir(parents=True)
    (run.folder / "model" / "model.json").write_text("{}")
    run.seal()
    sums = (run.folder / "files.sha256").read_text()
    names = [line.split("  ")[1] for line in sums.splitlines()]
    assert names == ["config.json", "metrics.jsonl", "model/model.json"]
    # One that goes on makes it all anew; what is refused leaves it as it was.
    forget()
    start(resume="latest")
    assert not recwarn and not (run.folder / "files.sha256").exists()
    withdraw()
    assert (run.folder / "files.sha256").read_text() == sums
    (run.folder / "metrics.jsonl").write_text('{"step": 3}')
    (run.folder / "model" / "model.json").unlink()
    with pytest.warns(RunWarning, match=r"metrics.jsonl: its bits are not those that were") as said:
        start(resume="latest")
    assert len(said) == 1


def test_other_files_may_stand_for_checkpoints(tmp_path):
    def begin(resume, seed=0):
        config = changed(seed=seed)
        return open_run("toy", config, out="d", resume=resume, seed=seed, kept="part-*.txt")

    assert not begin("latest").resumed and left_behind() == "; nothing is saved yet in d"
    with pytest.raises(ValueError, match=r"d holds no part-\*.txt"):
        begin("strict")
    (tmp_path / "d/part-1.txt").write_text("1")
    assert "--out d --resume latest" in left_behind()
    withdraw()
    assert begin("strict").resumed  # what was written since has kept it
    forget()
    before = (tmp_path / "d/config.json").read_bytes()
    with pytest.warns(RunWarning, match=r"run.seed: 0 -> 1"):
        assert begin("latest", seed=1).resumed
    withdraw()
    assert (tmp_path / "d/config.json").read_bytes() == before


def test_another_experiment_or_a_file_is_refused(tmp_path):
    start()
    with pytest.raises(ValueError, match="a run of 'toy', not of 'other'"):
        open_run("other", CONFIG, out="d", resume="latest", seed=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="it must be a folder"):
        start(out="file")
    (tmp_path / "d" / "config.json").write_text("{half")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        start(resume="latest")


def test_results_are_whole_and_without_nan(tmp_path):
    run = start()
    path = write_results(
        run,
        experiment="toy",
        claim="it runs",
        source="here",
        metrics={"a": float("nan"), "b": jnp.float32(0.5), "c": np.arange(2)},
        expected={"a": math.inf},
        config=CONFIG,
        digest="0" * 64,
        seconds=1.5,
    )
    content = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["metrics"] == {"a": None, "b": 0.5, "c": [0, 1]}
    assert content["expected"] == {"a": None}
    assert set(content) == {
        "experiment",
        "claim",
        "source",
        "metrics",
        "expected",
        "config",
        "versions",
        "digest",
        "seconds",
    }


def test_a_value_json_cannot_hold_leaves_the_old_file(tmp_path):
    write_json_atomic(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="must be a nest of plain"):
        write_json_atomic(tmp_path / "x.json", {"a": object()})
    assert read_json(tmp_path / "x.json") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
