"""Training a model of one's own from preferences, as its users run it."""

import contextlib
import dataclasses
import io
import itertools
import json
import os
import re
import shutil
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.algorithms import AnswerScores, named_loss
from ctrl_jax.commands.prefer import Config, main
from ctrl_jax.commands.preference import model as models
from ctrl_jax.commands.preference import reference
from ctrl_jax.commands.preference.config import (
    OPTIONS,
    Evaluation,
    Objective,
    Optimization,
    Texts,
)
from ctrl_jax.commands.preference.data import load_data
from ctrl_jax.commands.preference.divergence import make_divergence, pad_prompts
from ctrl_jax.commands.preference.held_out import hold_out
from ctrl_jax.commands.preference.packing import batch_of
from ctrl_jax.commands.preference.reference import Referred, estimate_dispersion, refer
from ctrl_jax.commands.preference.training import make_optimizer
from ctrl_jax.data.preferences.record import PreferenceRecord
from ctrl_jax.data.preferences.rows import TokenPair, pack_pairs
from ctrl_jax.losses.preference import NAMED
from ctrl_jax.networks import DecoderConfig, Rotary, language_model
from ctrl_jax.pretrained import load_decoder, save_decoder
from ctrl_jax.runtime import MeshOptions, RunWarning, command, make_mesh, state_digest
from tests.commands.byte_model import Bytes, write_data, write_model
from tests.experiments.killed import check_killed_run
from tests.oracles import mallows
from tests.runtime.processes import run_in_two, run_python

pytestmark = pytest.mark.usefixtures("bytes_for_all")
TINY = """
--no-progress --steps 6 --optimization.batch 4 --optimization.learning-rate 0.02
--optimization.warmup 0 --texts.max-length 32 --texts.row-length 32 --texts.held-out 0.2
--evaluation.every 3 --evaluation.checkpoint-every 2 --evaluation.prompts 3
--evaluation.answer-length 4
""".split()  # noqa: SIM905


@pytest.fixture(scope="module")
def bytes_for_all():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_tokenizer", lambda folder: Bytes())
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model and data, as options."""
    folder = tmp_path_factory.mktemp("files")
    write_model(folder / "model")
    write_data(folder / "pairs.jsonl", weight=[1.0, 0.5], dispersion=[0.2, 0.9, 1.0])
    return ["--model", str(folder / "model"), "--data", str(folder / "pairs.jsonl")]


def run(files, out, *options):
    command(Config, main, [*files, *TINY, *options, "--out", str(out)])
    return json.loads((out / "results.json").read_text())


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory):
    """The folder, the results, and what was said meanwhile."""
    out, said = tmp_path_factory.mktemp("run") / "a", io.StringIO()
    with contextlib.redirect_stderr(said):
        results = run(files, out, "--loss", "mallows_theta")
    return out, results, said.getvalue()


def test_what_a_run_leaves(finished):
    folder, results, _ = finished
    metrics = results["metrics"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(7))
    assert abs(rows[0]["evaluation/loss"] - np.log(2)) < 1e-6
    assert abs(rows[1]["loss"] - np.log(2)) < 1e-6 and rows[1]["rewards/margins"] == 0
    for name in ("chosen", "rejected", "margins", "accuracies"):
        assert f"rewards/{name}" in rows[1] and f"evaluation/rewards/{name}" in rows[3]
    assert {"logps/chosen", "logps/rejected", "dispersion/mean", "weights/mean"} <= {*rows[1]}
    assert metrics["kl/before"] == 0 < metrics["kl/after"]
    assert metrics["rewards/margins/after"] > 0 and metrics["traces"] == 1
    assert metrics["pairs/train"] + metrics["pairs/evaluation"] == 24
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 3 and all({*some} == {"prompt", "before", "after"} for some in samples)
    assert all(some["prompt"].startswith("p") for some in samples)
    assert any(some["before"] != some["after"] for some in samples)
    for picture in ("curves.png", "dispersion.png"):
        assert (folder / picture).stat().st_size > 1000


def change_data(folder):
    lines = (folder / "pairs.jsonl").read_text().splitlines()
    (folder / "pairs.jsonl").write_text("\n".join([*lines[1:], lines[0]]))


def change_model(folder):
    params = load_decoder(folder / "model")
    (folder / "model" / "model.safetensors").unlink()
    (folder / "model" / "config.json").unlink()
    params.params["tokens"] += 1
    save_decoder(folder / "model", params.record, params.params)


CHANGES = {
    "content of data": change_data,
    "content of model": change_model,
    "content of tokenizer": lambda folder: (folder / "model" / "tokenizer.json").write_text("[]"),
}


@pytest.mark.parametrize("said", CHANGES)
def test_a_run_goes_on_with_what_it_was_given(files, finished, tmp_path, said, capsys):
    """Strictly or not at all: other content is refused by its name, before anything is trained."""
    shutil.copytree(finished[0], tmp_path / "a")
    for path in files[1::2]:
        copy = shutil.copytree if os.path.isdir(path) else shutil.copy
        copy(path, tmp_path / os.path.basename(path))
    moved = ["--model", str(tmp_path / "model"), "--data", str(tmp_path / "pairs.jsonl")]
    CHANGES[said](tmp_path)
    before = (tmp_path / "a" / "config.json").read_bytes()
    with pytest.raises(SystemExit):
        run(moved, tmp_path / "a", "--loss", "mallows_theta", "--resume", "strict")
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"{said}: " in error and "config." not in error
    assert ("the texts as tokens" in error) == (said == "content of data")
    assert sum(line in error for line in CHANGES) == 1
    assert (tmp_path / "a" / "config.json").read_bytes() == before


def test_the_saved_model_is_the_trained_one(finished):
    folder, results, _ = finished
    params = load_decoder(folder / "model").params
    assert state_digest(params) == results["digest"]
    assert (folder / "model" / "tokenizer.json").exists()


def test_a_run_that_goes_on_ends_with_the_same_bits(files, finished, tmp_path):
    """From the update before the last, as after a kill: those are in runtime/loop."""
    out = tmp_path / "a"
    shutil.copytree(finished[0], out)
    shutil.rmtree(out / "checkpoints" / "6")
    shutil.rmtree(out / "model")
    (out / "results.json").unlink()
    results = run(files, out, "--loss", "mallows_theta", "--resume", "latest")
    assert results["digest"] == finished[1]["digest"]
    assert results["metrics"] == finished[1]["metrics"]
    assert (out / "metrics.jsonl").read_text() == (finished[0] / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_killed_run_continues_bitwise(files, finished, tmp_path):
    out = tmp_path / "killed"
    line = [sys.executable, "-m", "tests.commands.byte_model", *files, *TINY]
    line += ["--loss", "mallows_theta", "--out", str(out)]
    check_killed_run(line, out, 2, finished[0])


def refer_rows(file, model, params, rows):
    mesh = make_mesh(MeshOptions())
    return refer(file, model, params, {"train": rows}, mesh, at_a_time=2, chunk=None, show=False)


def test_a_reference_is_of_its_model_and_whole(tmp_path, monkeypatch):
    """What another model left, or half a file, is not taken for what this model says."""
    config = DecoderConfig(3, 8, 1, 2, 2, 4, 8, Rotary(base=10.0))
    model, file = language_model(config), tmp_path / "reference.npz"
    compiled = reference._compiled(model, make_mesh(MeshOptions()), None)
    monkeypatch.setattr(reference, "_compiled", lambda *_: compiled)  # once for all files
    one, other = (jax.jit(model.init)(jax.random.key(n)) for n in range(2))
    rows = pack_pairs([TokenPair([0], [1, 2], [n, 0]) for n in range(3)], pairs_per_row=1)

    def log_probs(params):
        return np.asarray(refer_rows(file, model, params, rows)["train"].rows.reference)

    first = log_probs(one)
    assert np.abs(log_probs(other) - first).max() > 1e-3
    np.testing.assert_array_equal(log_probs(one), first)
    whole = file.read_bytes()
    flipped = np.random.default_rng(0).integers(8 * len(whole), size=20).tolist()
    for damaged in (whole[: len(whole) // 2], b"", whole[:-40] + bytes(40), *flipped):
        if isinstance(damaged, int):  # a bit of it; one that no reader looks at is harmless
            damaged, bit = bytearray(whole), damaged
            damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            np.testing.assert_array_equal(log_probs(one), first)
        assert file.read_bytes() in (whole, bytes(damaged))
        ours = [str(w.message) for w in said if issubclass(w.category, RunWarning)]
        assert all("damaged on disk, and is computed again" in text for text in ours)
    file.write_bytes(b"")
    with pytest.warns(RunWarning, match="damaged on disk"):
        log_probs(one)


def test_a_weight_of_two_is_two_pairs_in_the_scale():
    index = np.array([[0.3], [0.7]], np.float32)
    rows = pack_pairs([TokenPair([0], [1], [2], w) for w in (2.0, 1.0)], pairs_per_row=1)
    parts, scale = estimate_dispersion({"train": Referred(rows, index)})
    assert scale == pytest.approx(1.5 / -np.log(0.3 * 0.3 * 0.7))
    weights = -2 * np.log(np.asarray(parts["train"].rows.dispersion)[:, 0])
    assert np.average(weights, weights=[2, 1]) == pytest.approx(1.0)


@pytest.mark.slow
def test_a_run_that_goes_on_leaves_its_last_model(files, tmp_path):
    out, options = tmp_path / "a", ["--evaluation.prompts", "0"]
    run(files, out, *options, "--steps", "2")
    (out / "reference.npz").write_bytes(b"PK")
    results = run(files, out, *options, "--steps", "4", "--resume", "latest")
    assert state_digest(load_decoder(out / "model").params) == results["digest"]
    assert sorted(p.name for p in out.glob("model*")) == ["model"]


def test_a_model_that_is_not_of_the_run_is_never_replaced(files, tmp_path, capsys):
    (tmp_path / "a" / "model").mkdir(parents=True)
    with pytest.raises(SystemExit) as stop:
        run(files, tmp_path / "a")
    assert stop.value.code == 2 and "where the trained model would go" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["model"]


def test_a_dispersion_that_is_not_used_is_said(finished):
    assert "--dispersion data uses it" in finished[2]


def test_four_devices_agree_with_one(files, finished, tmp_path):
    """Rows over two of them, weights and optimizer over two by two: sums differ by rounding."""
    options = ["--mesh.data", "2", "--mesh.model", "2", "--optimization.fully-sharded"]
    out = tmp_path / "a"
    line = ["-m", "tests.commands.byte_model", *files, *TINY, "--loss", "mallows_theta"]
    status, _, err = run_python(*line, *options, "--out", str(out), JAX_NUM_CPU_DEVICES="4")
    assert status == 0, err[-2000:]
    metrics = json.loads((out / "results.json").read_text())["metrics"]
    expected = finished[1]["metrics"]
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


@pytest.mark.slow
def test_two_processes_agree_with_one(files, finished, tmp_path):
    out = tmp_path / "a"
    line = ["-m", "tests.commands.byte_model", *files, *TINY, "--loss", "mallows_theta"]
    run_in_two(*line, "--out", str(out), devices=1)
    metrics = json.loads((out / "results.json").read_text())["metrics"]
    for name, value in finished[1]["metrics"].items():
        assert metrics[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name


def test_adapters_average_and_parts(files, tmp_path):
    options = ["--adapters.rank", "2", "--optimization.accumulate", "2", "--texts.no-packing"]
    options += ["--optimization.average-decay", "0.5", "--optimization.remat"]
    results = run(files, tmp_path / "a", "--loss", "mallows_phi", "--dispersion", "data", *options)
    before, after = (load_decoder(f).params for f in (files[1], tmp_path / "a" / "model"))
    assert jax.tree.structure(before) == jax.tree.structure(after)
    assert state_digest(after) != state_digest(before)
    np.testing.assert_array_equal(before["tokens"], after["tokens"])
    metrics = results["metrics"]
    assert metrics["rows/train"] == metrics["pairs/train"] and "dispersion/scale" not in metrics


def loss_of(name, **options):
    """The loss of a name with those of the options that it takes."""
    taken = {key: value for key, value in options.items() if key in NAMED[name].options}
    return named_loss(name, beta=0.1, **taken)


@pytest.fixture(scope="module")
def at_equal_answers():
    """Every loss and its gradients where answers of several lengths are equal: one program."""

    @jax.jit
    def slopes():
        tokens, phi = (jnp.array([3.0, 5.0]), jnp.array([4.0, 2.0])), jnp.array([0.3, 0.8])

        def losses(both, name):
            log_probs = tuple(-10.0 + part for part in both)
            ratios = None if "probs" in NAMED[name].inputs else both
            told = phi if NAMED[name].dispersed else None
            loss_fn = loss_of(name, label_smoothing=0.2)
            return jnp.sum(loss_fn(AnswerScores(log_probs, tokens, ratios, told)))

        both = jnp.zeros(2), jnp.zeros(2)
        return {name: jax.value_and_grad(losses)(both, name) for name in NAMED}

    return jax.tree.map(np.asarray, slopes())


# DiscoPOP is not monotone, and rises around equal answers.
@pytest.mark.parametrize("name", [name for name in NAMED if name != "discopop"])
def test_every_loss_pulls_the_answers_apart(name, at_equal_answers):
    """At equal answers, of every length, its gradient raises the chosen one's share."""
    value, (chosen, rejected) = at_equal_answers[name]
    assert np.isfinite(value) and (chosen < rejected).all()


def test_which_values_a_loss_takes():
    """Sums over the tokens of an answer, or means, of log-ratios or of log-probabilities."""
    beta, gamma, phi = 0.1, 0.5, 0.3
    m, mean_m, mean_p = 0.5, 1.5 / 4 - 1.0 / 2, -8 / 4 - (-6 / 2)
    c, chosen, rejected = -2 * np.log(phi), np.exp(-8 / 4), np.exp(-6 / 2)
    odds = chosen / (1 - chosen) / (rejected / (1 - rejected))

    def minus_log_sigmoid(s):
        return np.log1p(np.exp(-s))

    both = [minus_log_sigmoid(sign * beta * m) for sign in (1, -1)]
    expected = {
        "dpo": both[0],
        "dpo_smoothed": 0.8 * both[0] + 0.2 * both[1],
        "robust": (0.8 * both[0] - 0.2 * both[1]) / 0.6,
        "hinge": 1 - beta * m,
        "ipo": (mean_m - 1 / (2 * beta)) ** 2,
        "sigmoid_norm": minus_log_sigmoid(beta * mean_m),
        "aot": both[0],
        "aot_unpaired": both[0],
        "kto": (1 / (1 + np.exp(beta * (1.5 - 1))) + 1 / (1 + np.exp(beta * (1.5 - 1)))) / 2,
        "sft": 8 / 4,
        "cpo": 8 + minus_log_sigmoid(beta * -2.0),
        "cpo_hinge": 1 - beta * -2.0,
        "cpo_ipo": (mean_p - 1 / (2 * beta)) ** 2,
        "simpo": minus_log_sigmoid(beta * mean_p - gamma),
        "orpo": 8 / 4 + beta * minus_log_sigmoid(np.log(odds)),
        "mallows_theta": minus_log_sigmoid(c * beta * m),
        "mallows_phi": -mallows.log_link(beta * m, phi),
        "mallows_phi_sigmoid": minus_log_sigmoid(c / 2 * beta * m),
        "mallows_ipo": (c * mean_m - 1 / (2 * beta)) ** 2,
        "mallows_simpo": minus_log_sigmoid(c * beta * mean_p - gamma),
    }
    smoothing = {key: {"label_smoothing": 0.2} for key in ("dpo_smoothed", "robust")}

    @jax.jit
    def all_losses():
        sizes, phis = (jnp.array([4.0]), jnp.array([2.0])), jnp.array([phi])
        log_probs = jnp.array([-8.0]), jnp.array([-6.0])
        ratios = jnp.array([1.5]), jnp.array([1.0])
        scores = AnswerScores(log_probs, sizes, ratios, phis)
        named = {n: loss_of(n, gamma=gamma, **smoothing.get(n, {})) for n in NAMED}
        return {name: loss_fn(scores)[0] for name, loss_fn in named.items()}

    found = all_losses()
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value, rel=1e-5), name
    links = [float(found[f"mallows_phi{link}"]) for link in ("", "_sigmoid", "_cubic")]
    assert links[1] > links[2] > links[0]  # inside its width the cubic rises from 1/2


def test_every_option_of_the_table_is_a_flag(capsys):
    """With the losses that take it in its help, and refused by any other."""
    with pytest.raises(SystemExit):
        command(Config, main, ["--help"])
    printed = capsys.readouterr().out
    for key, (option, losses) in OPTIONS.items():
        assert f"--{key.replace('_', '-')} FLOAT" in printed and key in str(Objective.__doc__)
        value = option.default + 0.25
        for name in NAMED:
            asked = dataclasses.replace(Objective(loss=(name,)), **{key: value})
            if name in losses:
                asked.validate()
                assert asked.options[key] == value
            else:
                with pytest.raises(ValueError, match=f"{key}: received .* has no use for it"):
                    asked.validate()


def test_a_name_or_an_option_that_is_not_in_the_table_is_refused():
    with pytest.raises(ValueError, match=r"name: received 'dpp'; .* give dpo\|"):
        named_loss("dpp", beta=0.1)
    with pytest.raises(ValueError, match=r"loss: received 'sigmoid'; .* TRL's name .*; give dpo"):
        Objective(loss=("sigmoid",)).validate()
    with pytest.raises(ValueError, match=r"loss_weights: .* one for each of 2 losses"):
        Objective(loss=("dpo", "sft"), loss_weights=(0.5,)).validate()
    with pytest.raises(ValueError, match=r"loss: .* each once"):
        Objective(loss=("dpo", "dpo")).validate()
    with pytest.raises(ValueError, match="options: received 'gamma'; dpo has no such option; it"):
        named_loss("dpo", beta=0.1, gamma=0.5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [1 / 3, 2 / 3, 1, 3 / 4, 1 / 2, 1 / 4]),
        ("constant", [1 / 3, 2 / 3, 1, 1, 1, 1]),
        ("cosine", [1 / 3, 2 / 3, *(0.5 + 0.5 * np.cos(np.pi * n / 4) for n in range(4))]),
    ],
)
def test_the_course_of_the_step_size(schedule, expected):
    """Of a constant gradient every update of Adam's is the step size, but for 1 - 0.999^n, whose
    rounding in float32 is up to 6e-5 of it."""
    options = Optimization(learning_rate=0.5, warmup=1 / 3, schedule=schedule, gradient_clip=9.0)
    optimizer = make_optimizer(options, 6)
    gradient = {"w": np.full(2, 0.1, np.float32)}

    def step(state, _):
        update, state = optimizer.update(gradient, state, gradient)
        return state, -jax.tree.leaves(update)[0][0]

    _, found = jax.jit(lambda: jax.lax.scan(step, optimizer.init(gradient), length=6))()
    np.testing.assert_allclose(found, 0.5 * np.array(expected), rtol=1e-4)


def test_a_loss_without_reference(files, tmp_path):
    options = ["--loss", "simpo", "--steps", "1", "--evaluation.prompts", "0"]
    results = run(files, tmp_path / "a", *options)
    rows = [
        json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()
    ]
    assert rows[1]["update/finite"] == 1 and "kl/after" not in results["metrics"]
    # Before training too, its rewards are beta times the mean log-probabilities.
    before = rows[0]
    assert -10 < before["evaluation/rewards/chosen"] < -0.01
    assert before["evaluation/rewards/accuracies"] not in (0.0, 1.0)


def test_several_losses_with_weights(files, tmp_path):
    """DPO with the likelihood of the chosen answers, and the ranks of the batch."""
    options = ["--loss", "dpo", "sft", "aot", "--loss-weights", "0.8", "1", "0.5", "--steps", "1"]
    results = run(files, tmp_path / "a", *options, "--evaluation.prompts", "0")
    assert results["claim"].startswith("dpo + sft + aot on ")
    before = json.loads((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()[0])
    # At the reference DPO and AOT are log 2, a pair is a tie, and the rest is the likelihood.
    assert before["evaluation/loss"] > 1.3 * np.log(2) + 0.1
    assert before["evaluation/rewards/accuracies"] == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--loss", "dpo", "--gamma", "1"],
            "--loss dpo has no use for it; leave it out, or take simpo|",
        ),
        (["--loss", "dpo", "--dispersion", "data"], "has no use for it"),
        (["--beta", "0"], "beta: received 0"),
        (["--optimization.accumulate", "3"], "it must divide the batch of 4 pairs"),
        (["--optimization.batch", "64"], "pairs to train on; give"),
        (["--texts.row-length", "20"], "texts.row_length: received 20; a pair takes"),
        (["--adapters.alpha", "2"], "there are no adapters"),
        (["--adapters.rank", "2", "--adapters.targets", "gates"], "the network has no such layer"),
        (["--world.questions", "9"], "--world.questions"),
        (["--texts.max-length", "5"], "no pair is left"),
        (["--texts.evaluation-data", "x", "--texts.held-out", "0.3"], "nothing is held out"),
        (["--optimization.optimizer", "rmsprop", "--optimization.weight-decay", "1"], "adamw"),
    ],
)
def test_what_is_refused(files, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        run(files, tmp_path / "a", *options)
    *warnings, error = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and error.startswith("error: ") and message in error
    assert all(line.startswith("warning: ") for line in warnings)
    assert not (tmp_path / "a").exists()


def test_files_that_do_not_fit_are_refused(tmp_path, capsys):
    write_model(tmp_path / "small", vocab_size=200)
    write_model(tmp_path / "model")
    write_data(tmp_path / "pairs.jsonl")
    write_data(tmp_path / "one.jsonl", prompt=["p"])
    write_data(tmp_path / "light.jsonl", weight=[0.0])
    light = ["--texts.evaluation-data", str(tmp_path / "light.jsonl"), "--texts.held-out", "0.1"]
    cases = [
        ("small", "pairs.jsonl", [], "below the model's vocabulary of 200"),
        ("nowhere", "pairs.jsonl", [], "nowhere"),
        ("model", "nothing.jsonl", [], "nothing.jsonl"),
        ("model", "one.jsonl", [], "the data has one prompt"),
        ("model", "light.jsonl", [], "no training pair would count"),
        ("model", "pairs.jsonl", light, "no evaluation pair would count"),
        ("model", "pairs.jsonl", ["--loss", "mallows_phi", "--dispersion", "data"], "no key"),
    ]
    for model, data, options, message in cases:
        with pytest.raises(SystemExit) as stop:
            files = ["--model", str(tmp_path / model), "--data", str(tmp_path / data)]
            run(files, tmp_path / "a", *options)
        assert stop.value.code == 2 and message in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        command(Config, main, ["--model", str(tmp_path / "model")])
    assert stop.value.code == 2 and "--data" in capsys.readouterr().err


def test_texts_beyond_what_the_model_was_made_for_are_said(files):
    """In a line; the network reads them all the same."""
    said = []
    for longest in (None, 32, 10):
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            data_of(files, longest_text=longest)
        said.append([str(note.message) for note in notes if "position" in str(note.message)])
    assert said[:2] == [[], []] and len(said[2]) == 1
    assert re.match(r"texts.max_length: the longest text has 1\d tokens, .* is 10: ", said[2][0])


def test_batches_are_epochs_of_all_rows():
    rows = pack_pairs([TokenPair([n], [n], [n + 1]) for n in range(10)], pairs_per_row=1)
    seen = np.concatenate([batch_of(rows, k, 4, seed=3).numbers[:, 0] for k in range(5)])
    for epoch in range(2):
        assert sorted(seen[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert (seen[:10] != seen[10:]).any()


@pytest.mark.parametrize("options", [(1, 1), (2, 1), (1, 4), (2, 2)])
def test_a_batch_is_as_many_pairs_as_it_says_on_any_mesh(options, files):
    """Whatever rows they lie in: the same pairs, all of an epoch once."""
    parts, devices = options
    data = data_of(files, parts=parts, devices=devices)
    assert data.packing.part % devices == 0 and data.packing.batch == parts * data.packing.part
    batches = [
        batch_of(data.train, k, data.packing.batch, 0, group=data.packing.group) for k in range(5)
    ]
    found = [sorted(rows.numbers[rows.numbers >= 0].tolist()) for rows in batches]
    assert [len(numbers) for numbers in found] == [4] * 5
    assert sorted(itertools.chain(*found)) == [*range(20)]
    alone = data_of(files, parts=1, devices=1)
    assert alone.train.numbers.shape == (10, 2), "packed"
    first = batch_of(alone.train, 0, alone.packing.batch, 0, group=alone.packing.group).numbers
    assert sorted(first.reshape(-1).tolist()) == found[0]


def data_of(files, longest_text=None, **options):
    network = DecoderConfig(258, 8, 1, 2, 2, 4, 8, Rotary(base=10.0), longest_text=longest_text)
    texts, measured = Texts(max_length=32, held_out=4 / 24), Evaluation(prompts=0)
    options = {"batch": 4, "seed": 0, "show": False, "parts": 1, "devices": 1} | options
    return load_data(files[3], Bytes(), network, texts, measured, **options)


def test_no_held_out_prompt_is_trained_on():
    records = [PreferenceRecord(f"p{n % 7}", f" a{n}", " b") for n in range(40)]
    train, held = hold_out(records, 0.3, seed=0)
    assert len(train) + len(held) == 40
    trained, out = ({str(r.prompt) for r in some} for some in (train, held))
    assert not trained & out and len(out) == 2
    assert hold_out(records, 0.3, seed=0) == (train, held)


def test_the_divergence_of_answers_is_that_of_their_law():
    """Against the sum over all answers, of three tokens or ended before.

    The mean of 2048 estimates is within 4.5 standard errors but with a chance of 1e-5.
    """
    config = DecoderConfig(3, 8, 1, 2, 2, 4, 8, Rotary(base=10.0), logit_cap=2.0)
    model, length, end = language_model(config), 3, 2
    policy, base = (jax.jit(model.init)(jax.random.key(n)) for n in range(2))
    policy, base = (jax.tree.map(lambda leaf: 8.0 * leaf, p) for p in (policy, base))
    full = np.array(list(itertools.product(range(3), repeat=length)))

    def logits_of(params, prompt):
        rows = np.concatenate([np.tile(prompt, (27, 1)), full], axis=1)
        hidden = jax.jit(model.apply)(params, jnp.asarray(rows))[:, len(prompt) - 1 : -1]
        return 2 * np.tanh(np.asarray(hidden @ model.head(params), np.float64) / 2)

    def log_law(params, prompt):
        """Log-probability of every answer, which ends with the end token or is full."""
        logits = logits_of(params, prompt)
        log_p = logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)
        found = {}
        for answer, steps in zip(full.tolist(), log_p, strict=True):
            size = answer.index(end) + 1 if end in answer else length
            found[tuple(answer[:size])] = sum(steps[t, answer[t]] for t in range(size))
        return found

    divergence = jax.jit(make_divergence(model, length=length, end=end))
    prompts = [[0, 1]] * 2048 + [[1, 0, 0, 1]] * 2048
    rows, lengths = map(jnp.asarray, pad_prompts(prompts, length))
    values, answered = divergence(jax.random.key(5), policy, base, rows, lengths)
    for prompt, which in ((prompts[0], slice(2048)), (prompts[-1], slice(2048, None))):
        ours, theirs = (log_law(params, prompt) for params in (policy, base))
        assert sum(map(np.exp, ours.values())) == pytest.approx(1.0)
        expected = sum(np.exp(ours[y]) * (ours[y] - theirs[y]) for y in ours)
        own = np.asarray(values[which], np.float64)
        assert abs(own.mean() - expected) < 4.5 * own.std() / 2048**0.5
        assert (own >= -1e-6).all() and expected > 0.01
        assert (answered[which, : len(prompt)] == np.array(prompt)[None]).all()
