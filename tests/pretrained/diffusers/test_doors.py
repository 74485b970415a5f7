"""Folders that are wrong in one place: each is refused by the name of that place."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax._errors import RunWarning
from ctrl_jax.pretrained.diffusers import small_records
from ctrl_jax.pretrained.diffusers.pipeline import Pipeline, load_pipeline
from ctrl_jax.pretrained.diffusers.pipeline_index import KINDS, PIPELINES
from ctrl_jax.pretrained.diffusers.scheduler import read_scheduler
from ctrl_jax.pretrained.diffusers.text_encoding import tokenize
from tests.pretrained.diffusers.letters import Letters

MINE = ["my_unet", "UNet2DConditionModel"]
INDEX = {
    "_class_name: received ['mine', 'Pipe']; it must be": {"_class_name": ["mine", "Pipe"]},
    "unet: received ['diffusers']; it must be a library and a class": {"unet": ["diffusers"]},
    "tokenizer: received ['transformers', None]; it": {"tokenizer": ["transformers", None]},
    "vae: received ['diffusers', ['x']]; it": {"vae": ["diffusers", ["x"]]},
    "unet: received ['my_unet', 'UNet2DConditionModel']; parts of other": {"unet": MINE},
    "scheduler: received ['own', 'PNDMScheduler']": {"scheduler": ["own", "PNDMScheduler"]},
}
PARTS = {
    "unet/config.json: in_channels: received 9; the autoencoder's": ("unet", {"in_channels": 9}),
    "unet/config.json: out_channels: received 8; the": ("unet", {"out_channels": 8}),
    "unet/config.json: layers_per_block: received 1000000000; it must lie between 1 and 100": (
        "unet",
        {"layers_per_block": 10**9},
    ),
    "vae/config.json: shift_factor: received 0.3; diffusers reads": ("vae", {"shift_factor": 0.3}),
    "vae/config.json: act_fn: received 'tanh'": ("vae", {"act_fn": "tanh"}),
    "text_encoder/config.json: hidden_act: received": ("text_encoder", {"hidden_act": "tanh"}),
}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return small_records.write_records(tmp_path_factory.mktemp("records") / "sd1", "sd1")


def refused(records, tmp_path, file, changes, message, **options):
    folder = shutil.copytree(records, tmp_path / "case")
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError) as error:
        load_pipeline(folder, **options)
    assert str(error.value).removeprefix("model_index.json: ").startswith(message)


@pytest.mark.parametrize("message", INDEX)
def test_an_index_that_cannot_be_is_refused(message, records, tmp_path):
    refused(records, tmp_path, "model_index.json", INDEX[message], message)


@pytest.mark.parametrize("message", PARTS)
def test_parts_that_do_not_fit_are_refused(message, records, tmp_path):
    part, changes = PARTS[message]
    refused(records, tmp_path, f"{part}/config.json", changes, message)


@pytest.mark.parametrize("dtype", ["bf16", "int32"])
def test_types_are_of_floating_numbers(dtype, records, tmp_path):
    message = f"dtype: received {dtype!r}; it must be a type of floating numbers"
    refused(records, tmp_path, "model_index.json", {}, message, dtype=dtype)


@pytest.mark.filterwarnings("ignore:.*parts of")
def test_the_index_names_the_scheduler(records, tmp_path):
    """As in diffusers, whatever its file was written by: Euler's takes this for its own."""
    message = "scheduler_config.json: interpolation_type: received 'cubic'; only 'linear'"
    folder = shutil.copytree(records, tmp_path / "of_euler")
    path = folder / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"interpolation_type": "cubic"}))
    changes = {"scheduler": ["diffusers", "EulerDiscreteScheduler"]}
    refused(folder, tmp_path, "model_index.json", changes, message)


def test_the_class_decides_on_the_projection_of_a_text():
    """Not what the record says of its architecture."""
    record = small_records.CLIP_G
    arrays = {"text_projection.weight": np.ones(1), "x": np.ones(1)}
    for name, size in (("CLIPTextModel", None), ("CLIPTextModelWithProjection", 20)):
        for said in ("CLIPTextModel", "CLIPTextModelWithProjection"):
            kind = KINDS[name]
            assert kind.read(record | {"architectures": [said]}).projection == size
            assert ("text_projection.weight" in kind.arrays(arrays)) == (size is not None)


@pytest.mark.parametrize(
    ("index", "zeros"), [({}, True), ({"force_zeros_for_empty_prompt": False}, False)]
)
def test_of_xl_zeros_stand_for_no_prompt_unless_the_index_denies_it(index, zeros):
    """As where model_index.json says nothing of it in diffusers."""
    kind = PIPELINES["StableDiffusionXLPipeline"]
    scheduler = read_scheduler(small_records.FLOW)
    pipeline = Pipeline(Path(), index, kind, {}, {}, scheduler, {})

    class Fixed(Pipeline):
        @property
        def pixels(self):
            return 8

        def shape(self, *_):
            return 2, 2, 4

        def _encoded(self, weights, ids, size):
            return tuple(jnp.ones((2, *rest)) for rest in ((3, 5), (7,), (6,)))

    fields = {f.name: getattr(pipeline, f.name) for f in dataclasses.fields(Pipeline)}
    *texts, numbers = Fixed(**fields).encode([None, "a"])
    for text in texts:
        assert np.asarray(text)[0].any() != zeros and np.asarray(text)[1].all()
    assert np.asarray(numbers).all()


def test_of_a_very_long_prompt_a_line_shows_the_beginning(records):
    with pytest.warns(RunWarning, match="longer than the 16 tokens") as said:
        ids = tokenize(Letters(records / "tokenizer"), ["cat " * 10_000], 16)
    assert ids.shape == (1, 16) and len(str(said[0].message)) < 500
