"""The CIFAR-10 programme as its users run it, on made images."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax._typing import Model
from ctrl_jax.data import load_folder
from ctrl_jax.networks.inception import InceptionOutput
from ctrl_jax.pretrained import Inception, load_inception
from ctrl_jax.processes import VP, ContractiveSubVP
from ctrl_jax.runtime import load, read_metrics
from experiments.cifar10 import __main__ as programme
from experiments.cifar10.__main__ import run_command
from experiments.cifar10.config import TINY, Config
from experiments.cifar10.data import make_batches, make_tiny_set
from experiments.cifar10.evaluation import block_means, measure
from experiments.cifar10.likelihood import mean_bits_per_dim
from experiments.cifar10.sampling import to_floats, to_pixels
from tests.experiments.tiny import TINY_CIFAR10
from tests.pretrained.inception_weights import random_weights, write_safetensors
from tests.runtime.processes import LIMIT, free_port, start_python

ROOT = Path(__file__).parents[2]


def run(folder: Path, *options: str) -> dict:
    found = run_command([*TINY_CIFAR10, "--out", str(folder), *options])
    return json.loads((found / "results.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The first updates are drawn in a few pictures: their number has no part in what follows."""
    folder = tmp_path_factory.mktemp("cifar10") / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programme, "PICTURES", 8)
        return folder, run(folder)


def test_results(finished):
    folder, results = finished
    metrics = results["metrics"]
    assert metrics["traces"] == 1 and metrics["samples"] == 10
    assert np.isfinite(metrics["loss"]) and metrics["frechet/pixels"] > 0
    assert results["expected"] == {"fid": 2.47, "inception_score": 10.18}
    assert [row["step"] for row in read_metrics(folder / "metrics.jsonl")] == [1, 2, 3, 4]
    for picture in ("samples.png", "samples-3.png", "loss.png"):
        assert (folder / picture).stat().st_size > 1000
    samples = np.load(folder / "samples.npz")["images"]
    assert samples.shape == (10, 32, 32, 3) and samples.dtype == np.uint8


def test_the_model_is_handed_to_code(finished):
    process, score_fn = load(finished[0])
    assert isinstance(process, ContractiveSubVP)
    x = jnp.ones((2, 32, 32, 3))
    assert jax.eval_shape(score_fn, jnp.asarray(0.5), x).shape == x.shape


@pytest.mark.slow  # the same loop is killed in runtime/loop
def test_a_run_that_was_cut_short_continues_bitwise(finished, tmp_path):
    """As after a kill: what came after the checkpoint of update 2 is gone."""
    shutil.copytree(finished[0], tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "checkpoints" / "4")
    shutil.rmtree(tmp_path / "a" / "model")
    for name in ("samples.npz", "results.json"):
        (tmp_path / "a" / name).unlink()
    resumed = run(tmp_path / "a", "--resume", "latest")
    assert resumed["digest"] == finished[1]["digest"] and resumed["metrics"]["traces"] == 1
    pairs = [read_metrics(folder / "metrics.jsonl") for folder in (finished[0], tmp_path / "a")]
    assert [row["loss"] for row in pairs[0]] == [row["loss"] for row in pairs[1]]
    samples = [np.load(f / "samples.npz")["images"] for f in (finished[0], tmp_path / "a")]
    np.testing.assert_array_equal(*samples)


@pytest.mark.slow
def test_eight_devices_agree_with_one(finished, tmp_path):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": path}
    command = [sys.executable, "-m", "experiments.cifar10", *TINY_CIFAR10]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "a")],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads((tmp_path / "a" / "config.json").read_text())["mesh"]["devices"] == 8
    one, eight = (read_metrics(f / "metrics.jsonl") for f in (finished[0], tmp_path / "a"))
    for name in ("loss", "gradient_norm"):
        # The same images, times, noise and dropout; sums in another order.
        values = [[row[name] for row in rows] for rows in (one, eight)]
        np.testing.assert_allclose(*values, rtol=1e-4, err_msg=name)
    samples = [np.load(f / "samples.npz")["images"] for f in (finished[0], tmp_path / "a")]
    differences = np.abs(samples[0].astype(int) - samples[1].astype(int))
    assert differences.mean() < 0.5 and (differences > 2).mean() < 0.01


@pytest.mark.slow
def test_two_processes_do_what_one_does(finished, tmp_path, monkeypatch):
    """A pod's hosts run the same command: the same made set, batches, samples and numbers."""
    monkeypatch.chdir(tmp_path)
    line = [
        "-m",
        "experiments.cifar10",
        *TINY_CIFAR10,
        "--out",
        "two",
        "--distributed",
        "on",
    ]
    line += ["--processes", "2", "--coordinator", f"127.0.0.1:{free_port()}", "--process-id"]
    processes = [start_python(*line, str(rank)) for rank in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, err
    one, two = (read_metrics(f / "metrics.jsonl") for f in (finished[0], tmp_path / "two"))
    losses = [[row["loss"] for row in rows] for rows in (one, two)]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    results = json.loads((tmp_path / "two" / "results.json").read_text())
    expected = finished[1]["metrics"]["frechet/pixels"]
    assert results["metrics"]["frechet/pixels"] == pytest.approx(expected, rel=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("process", ["ve", "vp", "sub_vp"])
def test_other_processes(tmp_path, process):
    options = ["--process", process, "--solver", "predictor_corrector"]
    metrics = run(tmp_path / "a", *options)["metrics"]
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["frechet/pixels"])


@pytest.mark.slow
def test_fid_and_inception_score_from_a_file(tmp_path, monkeypatch):
    write_safetensors(tmp_path / "inception.safetensors", random_weights())
    inception = load_inception(tmp_path / "inception.safetensors")
    monkeypatch.setattr("experiments.cifar10.evaluation.FEATURE_BATCH", 4)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
    same = measure(images, to_floats(images), inception, show=False)
    # Rounding of the moments: the trace of 2048 variances is near 1e2, times 1e-6.
    assert same["fid"] < 1e-2 and 1 <= same["inception_score"] <= 4


def test_the_likelihood_of_bytes_under_a_known_law():
    """Images of independent bytes under VP and the exact score of N(0, s^2) data."""
    process, spread = VP(0.1, 20.0), 0.3
    model = Model(lambda key: (), lambda params, t, x: gaussian_score(process, spread, t, x))
    generator = np.random.default_rng(0)
    values = np.clip(spread * generator.normal(size=(6, 4, 4, 3)), -1, 1)
    images = to_floats(to_pixels(values))
    key, options = jax.random.key(0), {"batch": 4, "show": False}
    found = mean_bits_per_dim(key, process, model, (), images, **options)
    density = -(images**2) / (2 * spread**2) - np.log(spread * np.sqrt(2 * np.pi))
    expected = float(np.mean(-density / np.log(2)) - np.log2(2 / 256))
    assert found["bits_per_dim/failed"] == 0
    # A byte moves by its bin's noise, std 0.0023: x^2 / 2 s^2 by 0.008 / sqrt(288) nats or so.
    assert found["bits_per_dim"] == pytest.approx(expected, abs=0.01)


def gaussian_score(process, spread, t, x):
    scale, std = process.marginal(t)
    return -x / (scale**2 * spread**2 + std**2)


MISTAKES = {
    "no data": ([], "data: received None; a folder of images is needed"),
    "data and tiny": (["--tiny", "--data", "x"], "--tiny makes its own data"),
    "data that are not there": (["--data", "nowhere"], "it must be a folder"),
    "inception": (
        ["--tiny", "--evaluation.inception", "nowhere.safetensors"],
        "nowhere.safetensors'; there is no such file",
    ),
    "snr": (["--tiny", "--solver", "ancestral", "--snr", "0.1"], "only predictor_corrector has"),
    "large snr": (["--tiny", "--snr", "1.5"], "snr: received 1.5; it must be below 1"),
    "steps": (["--tiny", "--steps", "0"], "steps: received 0"),
    "end": (["--tiny", "--sampling-end", "1.5"], "sampling_end: received 1.5; it must lie in"),
    "width": (["--tiny", "--network.width", "7"], "width: received 7; it must be even"),
    "dropout": (["--tiny", "--network.dropout", "1"], "dropout: received 1.0; it must lie in"),
    "learning rate": (["--tiny", "--optimization.learning-rate", "nan"], "received nan"),
    "levels": (["--tiny", "--network.multipliers", *"1" * 8], "8 resolutions need"),
    "process": (["--tiny", "--process", "edm"], "edm"),
    "likelihood": (["--tiny", "--evaluation.likelihood", "65"], "makes 64 test images"),
    "batch": (["--tiny", "--optimization.batch", "257"], "makes 256 images"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_clear_line(mistake, tmp_path, capsys):
    options, expected = MISTAKES[mistake]
    with pytest.raises(SystemExit) as stopped:
        run_command([*options, "--no-progress", "--out", str(tmp_path / "a")])
    printed = capsys.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2
    assert len(printed) == 1 and printed[0].startswith("error: ") and expected in printed[0]
    assert not (tmp_path / "a" / "config.json").exists()


def test_the_defaults_are_those_of_the_paper_and_tiny_changes_them():
    paper = Config(data="x")
    options = paper.optimization
    assert (options.batch, options.learning_rate, options.warmup) == (128, 2e-4, 5000)
    assert (options.average_decay, options.gradient_clip, options.start) == (0.999, 10.0, 1e-5)
    assert paper.updates() == 1_300_000 and paper.solver_steps == 1000
    assert paper.evaluation.samples == 50_000 and paper.network.dropout == 0.1
    assert TINY.tiny and TINY.updates() < 1000 and TINY.process == paper.process


def test_every_epoch_shows_every_image_once_and_half_of_them_mirrored(tmp_path):
    images = load_folder(make_tiny_set(tmp_path / "tiny")).images
    assert images.shape == (256, 32, 32, 3) and len(np.unique(images[:, 3, 4, 0])) > 50
    batches = make_batches(images, 64, 5, flips=True)
    epochs = [np.concatenate([batches(4 * e + i).x_0 for i in range(4)]) for e in range(2)]
    plain = {image.tobytes() for image in images}
    mirrored = {image[:, ::-1].tobytes() for image in images}
    for epoch in epochs:
        found = [image.tobytes() for image in epoch]
        assert len(set(found)) == 256 and set(found) <= plain | mirrored
        # 256 fair coins have std 8; five of them, false alarm 6e-7.
        assert abs(sum(f in mirrored for f in found) - 128) < 40
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(batches(5).x_0, make_batches(images, 64, 5, flips=True)(5).x_0)
    still = np.concatenate([make_batches(images, 64, 5, flips=False)(i).x_0 for i in range(4)])
    assert {image.tobytes() for image in still} == plain


def test_pixels_round_trip_and_samples_that_are_not_finite_are_refused():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(to_pixels(to_floats(pixels)), pixels)
    broken = to_floats(pixels)
    broken[0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="1 of 1 that are not finite'; the network has diverged"):
        to_pixels(broken)


def test_block_means_by_hand():
    image = np.arange(64.0).reshape(1, 8, 8, 1)
    features = block_means(image)
    assert features.shape == (1, 16)
    np.testing.assert_allclose(features[0, 0], np.mean([0, 1, 8, 9]))
    np.testing.assert_allclose(features[0, -1], np.mean([54, 55, 62, 63]))


def test_inception_is_fed_in_batches_and_measured():
    """With a network whose features are the mean color, against moments by hand."""
    generator = np.random.default_rng(0)
    real = generator.integers(0, 256, (300, 8, 8, 3)).astype(np.uint8)
    fake = (real // 2)[:270]

    def apply(params, images):
        color = images.mean(axis=(1, 2))
        return InceptionOutput(params * color, 30 * color)

    inception = Inception(jnp.asarray(10.0), apply)
    metrics = measure(fake, to_floats(real), inception, show=False)
    means = [10 * to_floats(x).mean((1, 2)) for x in (fake, real)]
    assert metrics["fid"] >= np.sum((means[0].mean(0) - means[1].mean(0)) ** 2) * 0.999
    assert measure(real, to_floats(real), inception, show=False)["fid"] < 1e-6
    assert 1.0 <= metrics["inception_score"] <= 3.0
