"""`ctrl-jax sample` killed, stopped, damaged, in two processes: nothing is lost or used wrong."""

import os
import shutil
import signal

import jax
import numpy as np
import pytest
from PIL import Image

from ctrl_jax._sums import changed_files
from ctrl_jax.commands.__main__ import main
from ctrl_jax.commands.sampling import album, of_run
from ctrl_jax.models import DiffusionSpec
from ctrl_jax.pretrained import write_small_pipeline
from ctrl_jax.runtime import save_model
from tests.pretrained.diffusers.letters import use_letters_without_transformers
from tests.runtime.processes import LIMIT, free_port, run_python, start_python

use_letters_without_transformers()

OPTIONS = "--number 2 --batch 2 --height 16 --width 16 --steps 3 --solver euler_ancestral"
OPTIONS += " --prompt cat dog red --no-progress --no-compilation-cache"
NAMES = [f"{prompt:04}-{number:02}.png" for prompt in range(3) for number in range(2)]
COMMAND = (
    "from tests.pretrained.diffusers.letters import use_letters_without_transformers\n"
    "use_letters_without_transformers()\n"
    "from ctrl_jax.commands.__main__ import main\n"
    "import sys\n"
)
KILLED = """
import os, signal
from ctrl_jax.commands.sampling import album
written, write = [], album.whole_file
def killing(path):
    written.append(path)
    if len(written) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(path)
album.whole_file = killing
"""


def line(model, out, *options):
    return ["sample", "--model", str(model), "--out", str(out), *OPTIONS.split(), *options]


def files(out):
    """What a run leaves, but what tells of itself: its config.json names times and folders."""
    told = ("config.json", "files.sha256")
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name not in told}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_small_pipeline(tmp_path_factory.mktemp("resume") / "model", "sd1")


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("resume") / "whole"
    assert main(line(model, out)) == 0
    assert {*files(out)} == {*NAMES, "pictures.jsonl", "sheet.png"}
    return out


@pytest.fixture
def copied(whole, tmp_path):
    """A complete run that was never sealed, as one that is killed in its last moment leaves it."""
    shutil.copytree(whole, tmp_path / "out")
    (tmp_path / "out/files.sha256").unlink()
    return tmp_path / "out"


def test_killed_between_two_pictures_of_a_batch_it_ends_with_the_same_bytes(model, whole, tmp_path):
    out = tmp_path / "out"
    given = repr(line(model, out))
    status, _, err = run_python("-c", f"{COMMAND}{KILLED}sys.exit(main({given}))")
    assert status == -signal.SIGKILL, err[-2000:]
    there = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert there == {"config.json", "pictures.jsonl", *NAMES[:3]}
    assert (out / "pictures.jsonl").read_text().count("\n") == 2  # whole batches have lines
    kept = (out / NAMES[0]).stat().st_ino
    assert main(line(model, out, "--resume", "latest")) == 0
    assert files(out) == files(whole) and (out / NAMES[0]).stat().st_ino == kept
    assert changed_files(out) == {} and (out / "files.sha256").exists()
    assert not [path for path in out.iterdir() if path.name.startswith(".lock")]


def test_what_the_disk_changed_is_drawn_again_and_nothing_else(model, whole, copied, capsys):
    flipped = bytearray((copied / NAMES[1]).read_bytes())
    flipped[-20] ^= 1
    (copied / NAMES[1]).write_bytes(flipped)
    lines = (copied / "pictures.jsonl").read_text().split("\n")
    lines[4] = lines[4].replace("red", "reb")
    (copied / "pictures.jsonl").write_text("\n".join(lines[:6]))  # and a line cut off
    before = {name: (copied / name).stat().st_ino for name in NAMES}
    assert main(line(model, copied, "--resume", "latest")) == 0
    assert "2 of 5 pictures were damaged" in capsys.readouterr().err
    assert files(copied) == files(whole)
    again = [name for name, inode in before.items() if (copied / name).stat().st_ino != inode]
    assert again == [NAMES[1], NAMES[4], NAMES[5]]


def nothing(*_):
    raise AssertionError("there was nothing to be drawn")


def test_a_complete_run_draws_nothing_and_says_what_is_damaged(
    model, whole, tmp_path, capsys, monkeypatch
):
    shutil.copytree(whole, tmp_path / "out")
    monkeypatch.setattr(album.Album, "add", nothing)
    (tmp_path / "out/sheet.png").write_bytes(b"")
    assert main(line(model, tmp_path / "out", "--resume", "latest")) == 0
    assert "sheet.png: its bits are not those that were written" in capsys.readouterr().err
    assert files(tmp_path / "out") == files(whole)


def test_pictures_of_other_options_are_not_kept(model, whole, copied, capsys):
    with pytest.raises(SystemExit):
        main(line(model, copied, "--seed", "1"))
    assert "it holds the config.json of a run" in capsys.readouterr().err
    assert files(copied) == files(whole)
    with pytest.raises(SystemExit):
        main(line(model, copied, "--seed", "1", "--resume", "strict"))
    assert "seed: 0 -> 1" in capsys.readouterr().err
    assert files(copied) == files(whole)
    assert main(line(model, copied, "--seed", "1", "--resume", "latest")) == 0
    said = capsys.readouterr().err
    assert "seed: 0 -> 1" in said and "6 of 6 pictures were damaged on disk, or are of" in said
    now, before = files(copied), files(whole)
    assert all(now[name] != before[name] for name in NAMES)


@pytest.mark.parametrize(
    ("sent", "status"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_ends_it_after_the_batch(
    sent, status, model, whole, tmp_path, capsys, monkeypatch
):
    out, add = tmp_path / "out", album.Album.add

    def asked(*given):
        os.kill(os.getpid(), sent)
        add(*given)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(album.Album, "add", asked)
        main(line(model, out))
    said = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == status
    assert said == (
        f"stopped by {sent.name}; 2 of 6 are written; continue with the same command and --out "
        f"{out} --resume latest"
    )
    assert main(line(model, out, "--resume", "latest")) == 0 and files(out) == files(whole)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder, spec = tmp_path_factory.mktemp("resume") / "run", DiffusionSpec(width=16, depth=1)
    params = spec.make_network((2,)).init(jax.random.key(0))
    save_model(folder / "model", spec, (2,), params, {"solver_steps": 3})
    return ["sample", str(folder), "--number", "10", "--no-compilation-cache"]


def test_samples_of_a_run_go_on_after_the_batches_that_are_there(
    trained, tmp_path, capsys, monkeypatch
):
    def draw(out, *options):
        return main([*trained, "--batch", "4", "--out", str(tmp_path / out), *options])

    assert draw("whole") == 0
    keep = of_run.keep_arrays

    def asked(path, *rest):
        keep(path, *rest)
        if path.name == "samples-00000004.npz":
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(of_run, "keep_arrays", asked)
        draw("out")
    assert stop.value.code == 143 and "8 of 10 are written" in capsys.readouterr().err
    # Parts of batches of another size are not put together with these.
    shutil.copytree(tmp_path / "out", tmp_path / "fives")
    assert main([*trained, "--batch", "5", "--out", str(tmp_path / "other")]) == 0
    given = [*trained, "--batch", "5", "--out", str(tmp_path / "fives"), "--resume", "latest"]
    assert main(given) == 0 and "batch: 4 -> 5" in capsys.readouterr().err
    assert files(tmp_path / "fives") == files(tmp_path / "other")
    (tmp_path / "out/samples-00000000.npz").write_bytes(b"PK")
    assert draw("out", "--resume", "latest") == 0
    assert "samples-00000000.npz: it was damaged on disk" in capsys.readouterr().err
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert {*files(tmp_path / "out")} == {"samples.npz", "samples.png"}
    with monkeypatch.context() as patch:
        patch.setattr(of_run, "keep_arrays", nothing)
        assert draw("out", "--resume", "latest") == 0  # of a complete run nothing is drawn
    found = [np.load(tmp_path / name / "samples.npz")["samples"] for name in ("whole", "other")]
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-5)
    # Without its record a folder of samples is nobody's, and is not written over.
    (tmp_path / "whole" / "config.json").unlink()
    with pytest.raises(SystemExit):
        draw("whole")
    assert "it holds samples.npz of before; give another --out" in capsys.readouterr().err


def in_two_processes(line):
    both = [*line, "--distributed", "on", "--processes", "2"]
    both += ["--coordinator", f"127.0.0.1:{free_port()}", "--process-id"]
    started = [
        start_python("-c", f"{COMMAND}sys.exit(main({[*both, str(n)]!r}))") for n in range(2)
    ]
    for process in started:
        _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 0, err[-2000:]


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(model, whole, tmp_path):
    """The bits of one process with two devices, and within one level of 255 those of one device."""
    in_two_processes(line(model, tmp_path / "both"))
    alone = f"{COMMAND}sys.exit(main({line(model, tmp_path / 'alone')!r}))"
    status, _, err = run_python("-c", alone, JAX_NUM_CPU_DEVICES="2")
    assert status == 0, err[-2000:]
    assert files(tmp_path / "both") == files(tmp_path / "alone")
    for name in NAMES:
        one, two = (np.asarray(Image.open(out / name), int) for out in (whole, tmp_path / "both"))
        assert np.abs(one - two).max() <= 1, name


@pytest.mark.slow
def test_two_processes_draw_the_samples_of_a_run(trained, tmp_path):
    in_two_processes([*trained, "--out", str(tmp_path / "both")])
    (tmp_path / "both" / "samples.npz").unlink()
    in_two_processes([*trained, "--out", str(tmp_path / "both"), "--resume", "latest"])
    assert main([*trained, "--out", str(tmp_path / "alone")]) == 0
    found = [np.load(tmp_path / name / "samples.npz")["samples"] for name in ("both", "alone")]
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-5)
