"""Whole pipelines against diffusers: from prompts to pictures, and back to a folder."""

import dataclasses
import json
import shutil
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.pretrained.diffusers.pipeline import load_pipeline
from ctrl_jax.pretrained.diffusers.scheduler import read_scheduler
from ctrl_jax.solvers import BrownianPath, ExponentialEuler, guidance, simulate
from tests.oracles import pipelines as oracle
from tests.pretrained.diffusers.letters import Letters
from tests.pretrained.diffusers.pipelines import write_pipeline
from tests.runtime.processes import run_python

STORED = json.loads(oracle.STORED.read_text())["values"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    return cache(lambda kind: write_pipeline(root / kind, kind))


@pytest.fixture(scope="module")
def loaded(folders):
    """Pipelines of a kind, whose encoders and decoder are compiled once for all its cases."""
    return cache(lambda kind, *without: load_pipeline(folders(kind), without=without))


@pytest.fixture(scope="module")
def encoded(loaded):
    """The conditions of the prompts, and of what they are guided away from: one batch."""

    @cache
    def conditions(kind, negative, *without):
        found = loaded(kind, *without).encode([*oracle.PROMPTS, negative], height=16, width=16)
        return tuple(x[:2] for x in found), tuple(jnp.repeat(x[2:], 2, axis=0) for x in found)

    return conditions


def scheduler_of(name, folder):
    _, scheduler, changes, eta = oracle.CASES[name]
    record = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    read = read_scheduler(record | changes, solver=oracle.SOLVERS[scheduler])
    return dataclasses.replace(read, solver=ExponentialEuler(eta)) if eta else read


# Quickly: Euler's steps are those of "sdxl euler", and "sd2 zero ratio" reads the same networks.
SLOW = {"sd1 euler", "sd2 ddim"}


@pytest.mark.filterwarnings("ignore:.*longer than the 16 tokens")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in oracle.CASES]
)
def test_latents_and_pictures_are_those_of_diffusers(name, folders, loaded, encoded):
    kind, scheduler, _, eta = oracle.CASES[name]
    without = ("text_encoder_3",) if "without" in name else ()
    pipeline = whole = loaded(kind, *without)
    if scheduler is not None:
        pipeline = dataclasses.replace(whole, scheduler=scheduler_of(name, folders(kind)))
    conditions, null = encoded(kind, oracle.negative_of(name), *without)
    grid = pipeline.scheduler.grid(oracle.STEPS)

    @jax.jit
    def draw(params, start, noise):
        predict = guidance.classifier_free(pipeline.predict_fn(params), oracle.GUIDANCE, null)
        sde = pipeline.process.reverse(
            lambda t, x: predict(t, x, *conditions),
            noise_level=float(eta > 0),
            prediction=pipeline.prediction,
        )
        path = BrownianPath(grid, noise, noise) if eta else grid
        return simulate(
            jax.random.key(0), sde, start, path, solver=pipeline.scheduler.solver
        ).states

    start = pipeline.scheduler.start_std * jnp.asarray(oracle.LATENTS)
    latents = draw(pipeline.params[pipeline.kind.denoiser], start, jnp.asarray(oracle.NOISE))
    stored = STORED[name]
    scale = np.abs(stored["latents"]).max()
    np.testing.assert_allclose(latents.reshape(-1), stored["latents"], rtol=0, atol=1e-4 * scale)
    pixels = np.asarray(whole.decode(latents))[:, ::5, ::5].reshape(-1)
    np.testing.assert_allclose(pixels, stored["pixels"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", [pytest.param("sd1", marks=pytest.mark.slow), "sd3"])
def test_four_devices_agree_with_one(kind):
    script = "tests.pretrained.diffusers.sharded_pipeline"
    status, out, err = run_python("-m", script, kind, JAX_NUM_CPU_DEVICES="4")
    assert status == 0, err[-4000:]
    assert out.strip().endswith("agreed")


@pytest.mark.parametrize("kind", ["sd2", "sd3"])
def test_tokenizers_by_hand_are_those_of_transformers(kind, folders):
    transformers = pytest.importorskip("transformers")
    texts = ["", "a cat", "red dog on a mat with a hat", "caca dodo x"]
    for folder in sorted(folders(kind).glob("tokenizer*")):
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        ours = Letters(folder)
        assert ours.pad_token_id == theirs.pad_token_id
        for options in ({}, {"padding": "max_length", "max_length": 8, "truncation": True}):
            assert ours(texts, **options)["input_ids"] == theirs(texts, **options)["input_ids"]


@pytest.mark.parametrize("without", [(), pytest.param(("text_encoder_3",), marks=pytest.mark.slow)])
def test_the_index_may_say_how_many_tokens_t5_reads(without, folders, loaded, tmp_path):
    folder = shutil.copytree(folders("sd3"), tmp_path / "few")
    index = json.loads((folder / "model_index.json").read_text())

    def conditions(length):
        (folder / "model_index.json").write_text(
            json.dumps(index | {"_max_sequence_length": length})
        )
        return load_pipeline(folder, without=without).encode(["a cat"])

    hidden, pooled = conditions(3)
    clips = loaded("sd3", *without).encode(["a cat"])
    assert hidden.shape[1] == 16 + 3 and clips[0].shape[1] == 16 + 256
    np.testing.assert_array_equal(hidden[:, :16], clips[0][:, :16])
    np.testing.assert_array_equal(pooled, clips[1])
    with pytest.raises(ValueError, match=r"model_index\.json: _max_sequence_length: received 0"):
        conditions(0)
