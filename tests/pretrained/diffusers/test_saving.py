"""What comes out: a folder whose untrained parts are the same bytes, a file of adapters."""

import json
import os
import shutil
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax._errors import RunWarning
from ctrl_jax.networks.lora import LoRA, split
from ctrl_jax.pretrained.diffusers.pipeline import load_pipeline
from ctrl_jax.pretrained.diffusers.saving import save_lora, save_pipeline
from ctrl_jax.pretrained.diffusers.small import write_small_pipeline
from ctrl_jax.pretrained.safetensors_file import read_safetensors, write_safetensors
from tests.pretrained.diffusers.pipelines import FEWEST, write_pipeline

pytestmark = pytest.mark.filterwarnings("ignore:.*PNDM")
TARGETS = {"sd1": ("to_q", "to_out.0", "conv1"), "sd3": ("to_k", "add_q_proj", "proj")}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipelines")
    records = {"sd3": FEWEST}
    return cache(lambda kind: write_pipeline(root / kind, kind, records=records.get(kind)))


@pytest.fixture(scope="module")
def loaded(folders):
    """Pipelines of a kind, which no test changes."""
    return cache(lambda kind: load_pipeline(folders(kind)))


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def moved(params):
    return jax.tree.map(lambda x: np.asarray(x) + np.float32(0.01), params)


@pytest.mark.parametrize("kind", [pytest.param("sd1", marks=pytest.mark.slow), "sd3"])
def test_what_was_not_trained_is_the_same_bytes(kind, folders, tmp_path):
    source = shutil.copytree(folders(kind), tmp_path / "source")
    (source / "README.md").write_text("whose it is")
    (source / "whole.ckpt").write_bytes(b"a pickle of all parts")
    pipeline = load_pipeline(source)
    save_pipeline(tmp_path / "same", pipeline)
    before = files(source)
    assert before.pop("whole.ckpt") and files(tmp_path / "same") == before

    name = pipeline.kind.denoiser
    trained = moved(pipeline.params[name])
    save_pipeline(tmp_path / "tuned", pipeline, {name: trained})
    after = files(tmp_path / "tuned")
    assert after.keys() == before.keys()
    changed = {path for path in after if after[path] != before[path]}
    assert changed == {f"{name}/diffusion_pytorch_model.safetensors"}
    again = load_pipeline(tmp_path / "tuned")
    assert jax.tree.all(jax.tree.map(np.array_equal, again.params[name], trained))


def write_variants(folder):
    """Beside the weights of each part, the same as a variant."""
    for path in folder.glob("*/*model.safetensors"):
        variant = path.with_name(path.name.replace(".safetensors", ".fp16.safetensors"))
        if path.parent.name != "unet":
            shutil.copyfile(path, variant)


def test_old_weights_in_other_forms_do_not_stay(folders, tmp_path):
    """Read in half precision from shards, trained, written as one file in float32."""
    source = shutil.copytree(folders("sd1"), tmp_path / "source")
    (whole,) = (source / "unet").glob("*.safetensors")
    arrays = {k: np.asarray(v, np.float16) for k, v in read_safetensors(whole).items()}
    whole.unlink()
    names = sorted(arrays)
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for file, inside in parts.items():
        write_safetensors(source / "unet" / file, {k: arrays[k] for k in inside})
    places = {k: file for file, inside in parts.items() for k in inside}
    index = source / "unet/diffusion_pytorch_model.safetensors.index.fp16.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    with pytest.warns(RunWarning, match="variant fp16"):
        pipeline = load_pipeline(source)
    with pytest.warns(RunWarning, match="variant fp16"):
        save_pipeline(tmp_path / "same", pipeline)
    assert files(tmp_path / "same") == files(source)
    # Beside others, the variant that was asked for is the one that is compared.
    write_safetensors(source / "unet/diffusion_pytorch_model.safetensors", {})
    write_variants(source)
    save_pipeline(tmp_path / "both", load_pipeline(source, variant="fp16"))
    assert files(tmp_path / "both") == files(source)
    (source / "unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.warns(RunWarning, match="variant fp16"):
        save_pipeline(tmp_path / "tuned", pipeline, {"unet": moved(pipeline.params["unet"])})
    assert sorted(p.name for p in (tmp_path / "tuned/unet").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]


@pytest.mark.parametrize("kind", [pytest.param("sd1", marks=pytest.mark.slow), "sd3"])
def test_adapters_go_out_and_in(kind, loaded, tmp_path):
    """Beside the kernels, in a file, merged from it, and in a folder: one network."""
    plain = loaded(kind)
    name = plain.kind.denoiser
    pipeline = plain.adapt(jax.random.key(0), LoRA(2, 3.0, TARGETS[kind]))
    adapters, base = split(pipeline.params[name])
    assert jax.tree.all(jax.tree.map(lambda x, y: x is y, base, plain.params[name]))
    conditions = plain.encode(["a cat"])
    x = jax.random.normal(jax.random.key(1), (1, 4, 4, 4))
    t = plain.process.horizon / 2

    def value(pipeline, params):
        return jax.jit(pipeline.model().apply)(params, jnp.asarray(t), x, *conditions)

    start = value(plain, plain.params[name])
    fresh = value(pipeline, pipeline.params[name])
    np.testing.assert_allclose(fresh, start, rtol=0, atol=1e-5)
    trained = {name: jax.tree.map(np.add, pipeline.params[name], _lift(adapters, base))}
    wanted = value(pipeline, trained[name])
    assert np.abs(wanted - start).max() > 0.01

    save_lora(tmp_path / "lora.safetensors", pipeline, trained)
    save_pipeline(tmp_path / "tuned", pipeline, trained)
    for other in (
        plain.with_lora(tmp_path / "lora.safetensors"),
        plain.with_lora(tmp_path / "lora.safetensors", merged=False),
        load_pipeline(tmp_path / "tuned"),
    ):
        np.testing.assert_allclose(value(other, other.params[name]), wanted, rtol=0, atol=1e-4)

    # Beside adapters that are there already, which stay, and taken off again.
    both = pipeline.with_lora(tmp_path / "lora.safetensors")
    kept, moved_base = split(both.params[name])
    assert jax.tree.all(jax.tree.map(lambda x, y: x is y, kept, adapters))
    assert not jax.tree.all(jax.tree.map(np.array_equal, moved_base, base))
    again = both.with_lora(tmp_path / "lora.safetensors", scale=-1.0).params[name]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), split(again)[1], base)
    with pytest.raises(ValueError, match=r"lora: received .*; there are adapters already"):
        pipeline.with_lora(tmp_path / "lora.safetensors", merged=False)


def _lift(adapters, base):
    """A tree of the network's that is 0.05 at adapters and zero at all else."""
    from ctrl_jax.networks.lora import combine

    return combine(
        jax.tree.map(lambda x: np.full(x.shape, 0.05, x.dtype), adapters),
        jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), base),
    )


def test_what_cannot_be_written_is_refused(loaded, tmp_path):
    pipeline = loaded("sd1")
    (tmp_path / "there").mkdir()
    cases = [
        (lambda: save_pipeline(tmp_path / "there", pipeline), "it exists already"),
        (lambda: save_pipeline(tmp_path / "x", pipeline, {"net": {}}), "params: received 'net'"),
        (lambda: save_lora(tmp_path / "x.safetensors", pipeline), "no adapter to write"),
        (lambda: pipeline.adapt(jax.random.key(0), LoRA(2, 2.0, ("q",))), "no such layer"),
        (lambda: pipeline.adapt(jax.random.key(0), LoRA(), "clip"), "part: received 'clip'"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there"]


def test_a_small_pipeline_may_have_other_sizes(tmp_path):
    wider = {"unet": {"block_out_channels": [8, 24]}}
    folder = write_small_pipeline(tmp_path / "wider", "sd1", records=wider)
    assert load_pipeline(folder).denoiser.config.widths == (8, 24)
    with pytest.raises(ValueError, match=r"records: received 'transformer'; sd1 has unet"):
        write_small_pipeline(tmp_path / "none", "sd1", records={"transformer": {}})
    assert not (tmp_path / "none").exists()


def test_what_fails_halfway_leaves_nothing(loaded, tmp_path, monkeypatch):
    """As where there is no room: in a copied file, and in one of weights."""
    pipeline = loaded("sd1")

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_safetensors(tmp_path / "lora.safetensors", {"a": np.ones(3)})
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="no space"):
        save_pipeline(tmp_path / "new", pipeline)
    assert not [*tmp_path.iterdir()]
