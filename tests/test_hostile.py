"""What comes from elsewhere is data: none of it is executed, or leads out of its folder.

Bombs and damaged files are tried where their formats are tested: `data/test_image_files`,
`data/test_pictures`, `data/preferences/test_formats`, `rewards/outside/test_server`,
`pretrained/test_safetensors_file`, `test_whole`.
"""

import dataclasses
import json
import pickle

import numpy as np
import pytest

from ctrl_jax._records import read_json, write_sealed
from ctrl_jax.pretrained import read_record, write_safetensors
from ctrl_jax.pretrained.diffusers.clip import read_clip_text
from ctrl_jax.pretrained.diffusers.lora_file import read_lora
from ctrl_jax.pretrained.diffusers.pipeline_index import read_index
from ctrl_jax.pretrained.diffusers.scheduler import read_scheduler
from ctrl_jax.pretrained.diffusers.small_records import PIPELINES
from ctrl_jax.pretrained.safetensors_file import read_safetensors
from ctrl_jax.pretrained.weight_files import read_weights
from ctrl_jax.rewards import clip_score
from ctrl_jax.runtime import command, load_model
from ctrl_jax.runtime.run.arrays import kept_arrays

INDEX = PIPELINES["sd1"][0]
CODE = "__import__('os').system('touch HERE')"


class Touch:
    """Unpickled, it makes a file."""

    def __reduce__(self):
        return open, ("HERE", "w")


def pickled(path):
    path.write_bytes(pickle.dumps({"images": Touch()}))
    return path


def of_index(**changes):
    return lambda folder: read_index(INDEX | changes, ())


def of_weights(places):
    def read(folder):
        write_safetensors(folder / "a.safetensors", {"x": np.ones(1, np.float32)})
        (folder / "in").mkdir()
        index = folder / "in" / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"x": places}}))
        return read_weights(folder / "in")

    return read


def of_lora(key):
    def read(folder):
        write_safetensors(folder / "a.safetensors", {key: np.ones((1, 1), np.float32)})
        return read_lora(folder / "a.safetensors")

    return read


def of_model(**content):
    def read(folder):
        write_sealed(folder / "model.json", {"format": 3, **content})
        return load_model(folder)

    return read


def of_json(text):
    def read(folder):
        (folder / "a.json").write_text(text)
        return read_json(folder / "a.json")

    return read


def of_clip(folder):
    pickled(folder / "pytorch_model.bin")
    (folder / "config.json").write_text('{"model_type": "clip"}')
    return clip_score(folder)


def of_npz(folder):
    np.savez(folder / "a.npz", seal=np.array([Touch()], object))
    return kept_arrays(folder / "a.npz") or refuse()


def refuse():
    raise ValueError("nothing was read")


@pytest.mark.parametrize(
    "read",
    {
        "custom pipeline": of_index(_class_name=["pipeline", "Own"]),
        "module of one's own": of_index(unet=["own", "Own"]),
        "code as a class": of_index(_class_name=CODE),
        "a part outside": of_index(**{"../../unet": ["diffusers", "UNet2DConditionModel"]}),
        "weights outside": of_weights("../a.safetensors"),
        "weights by an absolute path": of_weights("/etc/passwd"),
        "weights in the folder above": of_weights(".."),
        "weights without a name": of_weights(""),
        "weights of no name": of_weights(["a"]),
        "code in a decoder": lambda folder: read_record(
            {"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "own.Own"}}
        ),
        "a decoder of no kind": lambda folder: read_record({"model_type": CODE}),
        "code in a text encoder": lambda folder: read_clip_text(
            {"model_type": "clip_text_model", "hidden_act": CODE}, projected=False
        ),
        "code in a scheduler": lambda folder: read_scheduler({"_class_name": CODE}),
        "pickled weights": lambda folder: read_safetensors(pickled(folder / "a.safetensors")),
        "pickled adapters": lambda folder: read_lora(pickled(folder / "a.bin")),
        "pickled CLIP": lambda folder: clip_score(pickled(folder / "pytorch_model.bin").parent),
        "a pickle in an archive": of_npz,
        "adapters of no layer": of_lora("../../unet.weight"),
        "half an adapter outside": of_lora("../unet.lora_A.weight"),
        "a model of another kind": of_model(kind="os.system", spec={"command": CODE}),
        "a model elsewhere": of_model(kind="DiffusionSpec", spec={}, params="../../other"),
        "an endless list": of_json("[" * 10**5),
        "an endless number": of_json('{"steps": ' + "9" * 10**5 + "}"),
        "YAML that runs": of_json(f"steps: !!python/object/apply:eval [{CODE}]"),
        "no text": of_json('"\ud800"'.encode("utf-16", "surrogatepass").decode("latin-1")),
    }.items(),
    ids=lambda pair: pair[0].replace(" ", "-"),
)
def test_hostile_files_are_refused_in_one_line(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        read[1](tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "HERE").exists()


@pytest.mark.parametrize("value", [CODE, f"!!python/object/apply:eval [{CODE}]", "$(touch HERE)"])
def test_options_are_values(value, tmp_path, monkeypatch, capsys):
    """A number is refused that is none, and what is a text stays one."""
    monkeypatch.chdir(tmp_path)

    @dataclasses.dataclass(frozen=True)
    class Options:
        """What a command may be given."""

        text: str = ""
        numbers: tuple[int, ...] = ()

    assert command(Options, lambda options: options.text, ["--text", value]) == value
    with pytest.raises(SystemExit) as ended:
        command(Options, lambda options: None, ["--numbers", value])
    assert ended.value.code == 2 and "numbers" in capsys.readouterr().err
    assert not (tmp_path / "HERE").exists()
