"""The contraction experiment at its smallest, as its users run it."""

import csv
import json
import os

import numpy as np
import pytest

from ctrl_jax.metrics.frechet import frechet
from ctrl_jax.runtime import command
from experiments.contraction import data, one_dimension, plots
from experiments.contraction.__main__ import main
from experiments.contraction.config import Config
from experiments.contraction.measurement import SAMPLERS

TINY = ["--no-progress", "--samples", "64"]
LINE = ["--experiment", "one_dimension", "--solver-steps", "12", "--seeds", "2"]
LEARNED = """
--experiment images --learned-solver-steps 4 --learned-seeds 2 --steps 5
--network.width 8 --network.depth 1 --network.batch 16
""".split()  # noqa: SIM905


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(folder, *options):
    found = command(Config, main, [*TINY, "--out", str(folder), *options])
    return json.loads((found / "results.json").read_text())


@pytest.mark.parametrize(
    "samplers", [("euler",), pytest.param(SAMPLERS, marks=pytest.mark.slow)], ids=len
)
def test_one_dimension(samplers, tmp_path, monkeypatch):
    for module in (one_dimension, plots):
        monkeypatch.setattr(module, "SAMPLERS", samplers)
    results = run(tmp_path / "a", *LINE)
    metrics = results["metrics"]
    names = ("forgets_score_errors/exact", "bound_holds", "prior_floor", "point_mass")
    assert {*names} <= {claim["name"] for claim in metrics["claims"]}
    # The floor is the prior's, whatever the sampler: 1/3 and .2 for the exact SDE; 12 steps of 64
    # samples on two seeds leave some .1.
    assert 0.15 < metrics["one_dimension/contractive ou/none/prior/mean"] < 0.5
    with (tmp_path / "a" / "measurements.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 * len(samplers) * 7 * 2 + 2 * 3 * 2
    assert all(np.isfinite(float(row["mean"])) for row in rows)
    for picture in ("errors.png", "steps.png"):
        assert (tmp_path / "a" / picture).stat().st_size > 1000


@pytest.mark.slow
def test_learned_scores(tmp_path):
    """Images of one's own; their transported samples differ by Euler alone."""
    images = np.random.default_rng(0).uniform(-1, 1, (240, 4, 4, 1)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", images=images)
    results = run(tmp_path / "a", *LEARNED, "--data", "mine.npz")
    metrics = results["metrics"]
    verdicts = {claim["name"]: claim["holds"] for claim in metrics["claims"]}
    assert verdicts["images/coordinates"] == "yes"
    assert metrics["images/contractive sub-vp/own/prior/mean"] > 0
    assert (tmp_path / "a" / "images.png").stat().st_size > 1000
    assert len(results["digest"]) == 64 and os.path.getsize(tmp_path / "a" / "config.json") > 100


def test_the_distance_of_images_is_frechets(tmp_path, monkeypatch):
    """The root of the held-out covariance is taken once: of color images it takes seconds."""
    images = np.random.default_rng(0).uniform(-1, 1, (240, 4, 4, 1)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", images=images)
    task = data.images(str(tmp_path / "mine.npz"), samples=64)
    order = np.random.default_rng(0).permutation(240)
    held_out, samples = images[order[120:]] - task.center, np.asarray(task.train[:30]) + 0.1
    expected = frechet(samples, held_out)
    monkeypatch.setattr(np.linalg, "eigh", None)
    np.testing.assert_allclose(task.distance(samples), expected, rtol=1e-6)
    assert task.distance(np.full((30, 4, 4, 1), np.nan)) > 1e6


MISTAKES = {
    "steps": (["--solver-steps", "1"], "solver_steps: received 1"),
    "size": (["--error-size", "nan"], "error_size: received nan"),
    "twice": (["--experiment", "images", "images"], "each once"),
    "data alone": (["--data", "x"], "add --experiment images"),
    "decay": (["--network.average-decay", "1"], "would never move"),
    "nothing to train": (
        ["--experiment", "one_dimension", "--steps", "5"],
        "steps: received 5; one_dimension has exact scores",
    ),
    "errors without exact scores": (
        ["--experiment", "swiss_roll", "--error-size", "0.3"],
        "error_size: received 0.3; it applies to one_dimension only",
    ),
    "steps of another experiment": (
        ["--experiment", "images", "--solver-steps", "12"],
        "solver_steps: received (12,); it applies to one_dimension only",
    ),
    "seeds of another experiment": (
        ["--experiment", "images", "--seeds", "9"],
        "seeds: received 9; it applies to one_dimension only",
    ),
    "patches without a transformer": (
        ["--experiment", "images", "--network.patch", "4"],
        "network.patch: received 4; an mlp has no patches",
    ),
    "no such data": (["--experiment", "images", "--data", "nowhere"], "data: received"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_clear_line(mistake, tmp_path, capsys):
    options, expected = MISTAKES[mistake]
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path / "a", *options)
    printed = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2
    assert len(printed) == 1 and printed[0].startswith("error: ") and expected in printed[0]
