"""What a newcomer may give `ctrl-jax fine-tune`: one line each, status 2, and no folder left."""

import shlex

import pytest

from ctrl_jax.commands.__main__ import main
from ctrl_jax.pretrained import write_small_pipeline
from tests.pretrained.diffusers.pipelines import FEWEST

BASE = {"--model": "small", "--prompts": "prompts.txt", "--reward": "jpeg_size:-1"}
REWARDS = """
def of_all(pictures): return pictures.mean()
number = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    write_small_pipeline(folder / "small", "sd3", records=FEWEST)
    (folder / "prompts.txt").write_text("a cat\nred dog\n")
    (folder / "blank.txt").write_text("\n \n")
    (folder / "latin.txt").write_bytes("café\n".encode("latin1"))
    (folder / "key.jsonl").write_text('{"text": "a"}\n')
    (folder / "refused_rewards.py").write_text(REWARDS)
    return folder


def refused(folder, capsys, monkeypatch, options):
    """Return the line that is said."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr("ctrl_jax.commands.fine_tune.tune", None)  # nothing is to come so far
    given = shlex.split(options)
    before = [part for key, value in BASE.items() if key not in given for part in (key, value)]
    with pytest.raises(SystemExit) as stop:
        main(["fine-tune", *before, *given, "--out", "out", "--no-progress"])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2 and error.startswith("error: ")
    assert not (folder / "out").exists()
    return error.removeprefix("error: ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model nowhere", "model: received 'nowhere/model_index.json'; there is no such file"),
        ("--prompts nope.txt", "prompts: received 'nope.txt'; it cannot be read"),
        ("--prompts blank.txt", "prompts: received 'blank.txt'; it holds no prompt"),
        ("--prompts latin.txt", "latin.txt:1: received b'caf"),
        ("--prompts key.jsonl", "key.jsonl:1: received 'text'; it must have the field prompt"),
        ("--prompts small", "prompts: received 'small'; its name must end in .txt"),
        ("--validation-prompts nope.txt", "validation_prompts: received 'nope.txt'"),
        ("--algorithm grpo --group 1", "group: received 1; grpo compares the pictures"),
        ("--algorithm ddpo --batch 1", "batch: received 1; ddpo compares the pictures"),
        ("--group 5", "group: received 5; a batch of 32 is of whole groups"),
        ("--batch 0", "batch: received 0"),
        ("--reward jpeg_sise", "reward: received 'jpeg_sise'; it is none of the known forms; perh"),
        ("--reward ''", "reward: received ''; it is none of the known forms"),
        ("--reward jpeg_size:0", "at least one weight must differ from zero"),
        ("--reward no_such_module:f", "there is no module 'no_such_module'"),
        (
            "--reward pick_scor:f",
            "there is no module of this name; perhaps pickscore is meant",
        ),
        ("--reward refused_rewards.py:of_all", "leave .py out: refused_rewards:of_all"),
        ("--reward ./refused_rewards.py:of_all", "perhaps refused_rewards:of_all"),
        ("--reward refused_rewards:number", "not a function"),
        ("--reward jax:refused_rewards:of_all", "it returned shape () for 2 pictures"),
        (
            "--held-out-reward jax:refused_rewards:of_all",
            "held_out_reward: received 'of_all'; it returned shape ()",
        ),
        ("--adapters.targets attn.q", "adapters.targets: received 'attn.q'; the network has no"),
        ("--height 17", "height: received 17; it must be a multiple of 4 pixels; give 16"),
        ("--height 4096", "height: received 4096; the model has places for 32 pixels"),
        ("--guidance 0", "guidance: received 0.0; below 1"),
        ("--solver-steps 1", "solver_steps: received 1; it must be a whole number of at least 2"),
        ("--algorithm grpo --window 11", "window: received 11; "),
        ("--window 2", "window: received 2; ppo needs noise in all steps"),
        ("--algorithm grpo --window 2 --window-range 4 5", "window: received 2; "),
        ("--minibatches 3", "minibatches and chunks: received (3, 1); together they must divide"),
        ("--value.minibatches 12", "value.minibatches: received 12; there are 11 grid points"),
        ("--algorithm ddpo --penalty 1", "penalty: received 1.0; ddpo does not use it"),
        ("--penalty -1", "penalty: received -1.0"),
        ("--full --adapters.rank 3", "adapters.rank: received 3; with --full all weights"),
        ("--kl-budget 0", "kl_budget: received 0.0"),
        ("--kl-budget 5 --evaluation.every 0", "kl_budget: received 5.0; evaluations measure it"),
        ("--overlap", "overlap: received True; all rewards are in JAX"),
        ("--variant fp16", "variant: received 'fp16'; of weights"),
        ("--mesh.data 64", "mesh (data, model): received (64, 1)"),
        ("--lr 1e-4", "perhaps --optimization.learning-rate"),
    ],
)
def test_a_mistake_is_one_line(folder, capsys, monkeypatch, options, message):
    assert message in refused(folder, capsys, monkeypatch, options)
