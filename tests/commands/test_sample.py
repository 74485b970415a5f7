"""`ctrl-jax sample --model`: pictures of prompts from a small pipeline."""

import json

import numpy as np
import pytest
from PIL import Image

from ctrl_jax._sums import file_digest
from ctrl_jax.commands.__main__ import main
from ctrl_jax.pretrained import write_small_pipeline
from tests.pretrained.diffusers.letters import use_letters_without_transformers

use_letters_without_transformers()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_small_pipeline(tmp_path_factory.mktemp("sample") / "model", "sd1")


def sample(model, prompts, out, *options):
    size = ("--height", "16", "--width", "16", "--steps", "4", "--no-compilation-cache")
    paths = ("--model", str(model), "--prompts", str(prompts), "--out", str(out))
    return main(["sample", *paths, *size, *options])


def test_pictures_depend_on_the_seed_and_their_place_alone(model, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    records = [{"prompt": "a cat", "tag": 1}, {"prompt": "red dog", "negative_prompt": "cat"}]
    prompts.write_text("\n".join(map(json.dumps, records)))
    options = ("--solver", "euler_ancestral", "--guidance-interval", "0", "500")
    assert sample(model, prompts, tmp_path / "a", "--number", "2", "--batch", "3", *options) == 0
    lines = [json.loads(line) for line in (tmp_path / "a/pictures.jsonl").open()]
    assert [line["file"] for line in lines] == [
        f"{prompt:04}-{number:02}.png" for prompt in range(2) for number in range(2)
    ]
    assert lines[1].pop("sha256") == file_digest(tmp_path / "a/0000-01.png") and lines[1].pop(
        "seal"
    )
    assert lines[1] == {"file": "0000-01.png", "prompt": "a cat", "number": 1, "tag": 1}
    pictures = {
        line["file"]: np.asarray(Image.open(tmp_path / "a" / line["file"])) for line in lines
    }
    assert {p.shape for p in pictures.values()} == {(16, 16, 3)}
    assert np.ptp(np.stack([*pictures.values()]), axis=0).max() > 20  # they differ
    assert Image.open(tmp_path / "a/sheet.png").width > 2 * 96

    assert sample(model, prompts, tmp_path / "b", "--number", "2", "--batch", "4", *options) == 0
    for name, picture in pictures.items():
        again = np.asarray(Image.open(tmp_path / "b" / name), int)
        assert np.abs(again - picture).max() <= 1, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--height", "21"), "height: received 21; it must be a multiple of 2"),
        (("--solver", "heun"), "solver: received 'heun'; "),
        (("--lora", "none.safetensors"), "there is no such file"),
        (("--variant", "fp16"), "variant: received 'fp16'; of weights"),
        (("--guidance", "nan"), "guidance: received nan"),
        (("--guidance", "0"), "guidance: received 0.0; below 1"),
        (("--out", "/dev/null/pictures"), "out: received '/dev/null/pictures'; /dev/null is no"),
    ],
)
def test_what_is_refused_leaves_no_folder(options, message, model, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a cat\n")
    with pytest.raises(SystemExit) as stop:
        sample(model, tmp_path / "prompts.txt", tmp_path / "out", *options)
    error = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2 and error.startswith("error: ") and message in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "RUN and --model: received 'neither'"),
        (["run", "--model", "m"], "RUN and --model: received 'both'"),
        (["--model", "m"], "--prompts and --prompt: received 'neither'"),
        (["--model", "m", "--prompts", "p", "--prompt", "a"], "received 'both'"),
        (["--model", "m", "--guidance-scale", "3"], "perhaps --guidance"),
        (["--model", "m", "--guidance-interval", "5", "1"], "guidance_interval: received (5.0"),
        (["run", "--guidance", "3"], "a run has no use for it"),
        (["run", "--solver", "dpmpp"], "solver: received 'dpmpp'"),
        (["--model", "nowhere", "--prompts", "p.txt"], "prompts: received 'p.txt'; it cannot be"),
    ],
)
def test_options_that_mean_nothing_are_refused(args, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["sample", *args])
    assert stop.value.code == 2 and message in capsys.readouterr().err
