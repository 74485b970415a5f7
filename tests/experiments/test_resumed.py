"""Studies that keep each stage: one is cut off after some of them, goes on, and loses nothing."""

import importlib
import json
import shutil
import time

import numpy as np
import pytest

from ctrl_jax.runtime import Checkpoints, Run, RunOptions, command, make_mesh
from ctrl_jax.runtime.checkpoints.step_folders import finished_steps
from experiments.mallows_bandit.__main__ import STUDY, Config
from experiments.study import Conduct
from tests.experiments.on_meshes import OPTIONS
from tests.experiments.test_contraction import LINE
from tests.experiments.test_contraction import TINY as CONTRACTION
from tests.runtime.processes import LIMIT, free_port, start_python

SMALLEST = {
    "contraction": [*CONTRACTION, *LINE],
    "diffusion_preference": [*OPTIONS["diffusion_preference"], "--methods", "dpo"],
    "mallows_bandit": OPTIONS["mallows_bandit"],
    "reward_directed": [*OPTIONS["reward_directed"], "--methods", "dpok", "--seeds", "2"],
    "score_matching": [*OPTIONS["score_matching"], "--seeds", "1"],
}
QUICK = ("mallows_bandit",)


class Saves:
    """Counts what is saved, and copies the folder as a kill would leave it after each."""

    def __init__(self, monkeypatch):
        self.number, self.copy = 0, lambda number: None
        save = Checkpoints.save

        def counted(checkpoints, *args):
            save(checkpoints, *args)
            checkpoints.wait()
            self.number += 1
            self.copy(self.number)

        monkeypatch.setattr(Checkpoints, "save", counted)


def left(folder):
    """The digest, the metrics without the clock's, and the lines and tables of a run."""
    results = json.loads((folder / "results.json").read_text())
    metrics = {name: v for name, v in results["metrics"].items() if "time_ratio" not in name}
    files = (*folder.glob("*.jsonl"), *folder.glob("*.csv"))
    return results["digest"], metrics, {file.name: file.read_bytes() for file in files}


def test_a_stage_is_named_by_what_it_depends_on(tmp_path):
    """Not by where the run is, nor how it is watched."""

    def name(config):
        return Conduct(STUDY, config, Run(tmp_path, False), make_mesh(), None, 0.0).named("a, b")

    alike = RunOptions(out="b", resume="latest", progress=False)
    runs = (RunOptions(seed=1), RunOptions(steps=1))
    others = (Config(learning_rate=0.1), *(Config(run=run) for run in runs))
    assert name(Config(run=alike)) == name(Config()) and name(Config()).startswith("a-b-")
    assert len({name(config) for config in (Config(), *others)}) == 1 + len(others)


def test_what_is_kept_in_a_folder_without_its_config_is_found(tmp_path):
    made = []

    def make():
        made.append(1)
        return np.arange(3.0)

    for _ in range(2):
        study = Conduct(STUDY, Config(), Run(tmp_path, False), make_mesh(), None, 0.0)
        np.testing.assert_array_equal(study.once("a", make, like=np.zeros(3)), [0, 1, 2])
    assert made == [1]
    with pytest.raises(ValueError, match="two pieces of the run are called"):
        study.once("a", make, like=np.zeros(3))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in SMALLEST]
)
def test_what_is_done_is_not_done_again(name, tmp_path, monkeypatch):
    module = importlib.import_module(f"experiments.{name}.__main__")
    saves = Saves(monkeypatch)

    def run(folder, *options):
        line = [*SMALLEST[name], *options, "--out", str(folder)]
        command(module.Config, module.main, line)

    saves.copy = lambda number: shutil.copytree(tmp_path / "whole", tmp_path / f"after {number}")
    run(tmp_path / "whole")
    total = saves.number
    saves.copy = lambda number: None
    assert total > 1
    for missing in (0, 1):
        cut, saves.number = tmp_path / f"after {total - missing}", 0
        assert not (cut / "results.json").exists()
        run(cut, "--resume", "latest")
        assert saves.number == missing
        assert left(cut) == left(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_two_processes_that_are_killed_go_on(name, tmp_path):
    """SIGKILL to both once a stage is kept; one that nobody killed ends with the same bits."""

    def start(folder, *options):
        line = ["-m", f"experiments.{name}", *SMALLEST[name], *options, "--out", str(folder)]
        line += ["--distributed", "on", "--processes", "2"]
        line += ["--coordinator", f"127.0.0.1:{free_port()}", "--process-id"]
        return [start_python(*line, str(rank)) for rank in range(2)]

    def finish(processes):
        for process in processes:
            _, err = process.communicate(timeout=LIMIT)
            assert process.returncode == 0, err[-4000:]

    cut, whole = tmp_path / "cut", tmp_path / "whole"
    processes = start(cut)
    while not finished_steps(cut / "checkpoints"):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
    for process in processes:
        process.kill()
        process.communicate()
    assert not (cut / "results.json").exists()
    finish(start(cut, "--resume", "latest"))
    assert len(json.loads((cut / "config.json").read_text())["resumed"]) == 1
    finish(start(whole))
    assert left(cut) == left(whole)
