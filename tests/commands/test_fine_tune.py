"""`ctrl-jax fine-tune`: a small pipeline towards small files, and back."""

import contextlib
import io
import json
import shutil
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from PIL import Image

from ctrl_jax._records import write_sealed
from ctrl_jax.commands.__main__ import main
from ctrl_jax.commands.fine_tuning.chunks import fitted
from ctrl_jax.commands.fine_tuning.config import Config
from ctrl_jax.commands.fine_tuning.method import Method
from ctrl_jax.pretrained import load_pipeline, write_small_pipeline
from tests.pretrained.diffusers.pipelines import FEWEST

SMALL = "--solver-steps 2 --steps 3 --batch 4 --group 2 --adapters.rank 2 --guidance 1"
SMALL += " --evaluation.prompts 2 --evaluation.number 2 --evaluation.every 2 --no-progress"
SMALL += " --evaluation.checkpoint-every 1 --no-compilation-cache"
REWARD = ("--reward", "jpeg_size:-1")
DDPO = ("--algorithm", "ddpo", "--chunks", "auto")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fine_tune")
    write_small_pipeline(folder / "model", "sd3", records=FEWEST)
    (folder / "prompts.txt").write_text("a cat\nred dog\nblue car\n")
    return folder


def fine_tune(folder, out, *options, reward=REWARD):
    paths = ("--model", str(folder / "model"), "--prompts", str(folder / "prompts.txt"))
    return main(["fine-tune", *paths, *reward, *SMALL.split(), "--out", str(out), *options])


@pytest.fixture(scope="module")
def told(folder):
    """A finished run, and what it printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        assert fine_tune(folder, folder / "out", *DDPO) == 0
    return folder / "out", said.getvalue()


@pytest.fixture(scope="module")
def finished(told):
    return told[0]


def results_of(out):
    return json.loads((out / "results.json").read_text())


def test_a_lora_comes_out_with_pictures_and_numbers(folder, finished):
    names = ("config.json", "metrics.jsonl", "curves.png", "checkpoints/3")
    assert all((finished / name).exists() for name in names)
    found = results_of(finished)
    assert found["experiment"] == "fine-tune" and found["metrics"]["traces"] == 1
    assert found["metrics"]["reward_queries"] == 12 and found["metrics"]["epochs"] == 2
    assert found["metrics"]["kl/path/before"] < 1e-6 < found["metrics"]["kl/path/after"]
    assert found["metrics"]["reward/mean/after"] == -found["metrics"]["reward/jpeg_size/mean/after"]
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").open()]
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert [line["step"] for line in lines if "evaluation/diversity" in line] == [0, 2, 3]
    sheet = Image.open(finished / "sheet.png")
    assert sheet.width > 2 * 96 and sheet.height > 4 * 96
    # What was saved is what was measured.
    tuned = load_pipeline(folder / "model").with_lora(finished)
    plain = load_pipeline(folder / "model")
    t, x = jnp.asarray(0.5), jnp.ones((1, *plain.shape()))
    before, after = (jax.jit(p.predict_fn())(t, x, *p.encode(["a cat"])) for p in (plain, tuned))
    assert jnp.abs(after - before).max() > 1e-6


def test_a_run_that_goes_on_ends_with_the_same_bits(folder, finished, tmp_path):
    out = tmp_path / "stopped"
    shutil.copytree(finished, out)
    for step in ("2", "3"):
        shutil.rmtree(out / "checkpoints" / step)
    (out / "results.json").unlink()
    assert fine_tune(folder, out, *DDPO, "--resume", "latest") == 0
    before, after = map(results_of, (finished, out))
    assert after["digest"] == before["digest"]
    assert after["metrics"] == before["metrics"]
    names = ("metrics.jsonl", "pytorch_lora_weights.safetensors", "sheet.png")
    assert all((out / n).read_bytes() == (finished / n).read_bytes() for n in names)


def test_chunks_are_found_and_kept(told, tmp_path, unchecked):
    out, said = told
    found = json.loads((out / "chunks.json").read_text())
    assert found["chunks"] == 1 and found["temporaries"] > 0
    assert "chunks: 1, for which an update needs" in said
    # A run that goes on takes what it began with, and compiles nothing to find it.
    write_sealed(tmp_path / "chunks.json", {"chunks": 2})
    config = Config("model", method=Method(chunks="auto"))
    run: Any = SimpleNamespace(resumed=True, folder=tmp_path)
    nothing: Any = None
    again = fitted(config, nothing, run, *[nothing] * 4)
    assert again.method == Method(chunks=2)
