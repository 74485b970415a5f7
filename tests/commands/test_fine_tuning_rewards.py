"""Rewards as the command line names them: every form, every mistake, and how they are scaled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax import rewards
from ctrl_jax.algorithms import Batch, PromptStatistics, Rollout
from ctrl_jax.commands.fine_tuning.reward_scale import Summing, parse_scales
from ctrl_jax.commands.fine_tuning.reward_spec import parse_rewards, reward_digests
from ctrl_jax.commands.fine_tuning.rewarding import Rewarding, Statistics
from ctrl_jax.commands.fine_tuning.rewards import OutsideOptions, check_pictures, read_rewards
from ctrl_jax.runtime import validate

MODULE = """
import jax
import jax.numpy as jnp
import numpy as np
from ctrl_jax import rewards

def bright(images, prompts, records):
    assert images.dtype == np.uint8
    return images.mean(axis=(1, 2, 3)) + [len(text) for text in prompts]

def red(pictures):
    return jnp.mean(pictures[..., 0], axis=(1, 2))

def numpy_inside(pictures):
    return np.mean(np.asarray(pictures), axis=(1, 2, 3))

def too_much(pictures):
    return pictures

def make(folder):
    scale = float(open(folder).read())
    def apply(params, pictures, lengths):
        return params * jnp.mean(pictures, axis=(1, 2, 3)) * lengths
    def encode(texts):
        return jnp.array([float(len(text)) for text in texts])
    return rewards.PictureReward(scale, apply, encode)

def echo(folder):
    return folder

def fails(pictures):
    return pictures.nothing

SIZE = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module of the user's own, in the current folder."""
    name = f"own_rewards_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.mark.parametrize(
    ("text", "name", "kind", "place", "weight"),
    [
        ("jpeg_size", "jpeg_size", "jpeg_size", (), 1.0),
        ("jpeg_size:-1", "jpeg_size", "jpeg_size", (), -1.0),
        ("soft_jpeg_size:-.5e-1", "soft_jpeg_size", "soft_jpeg_size", (), -0.05),
        ("pickscore:a/b:0.7", "pickscore", "pickscore", ("a/b",), 0.7),
        ("pick_score:a/b", "pickscore", "pickscore", ("a/b",), 1.0),
        ("clip_score:C:/models/clip:2", "clip_score", "clip_score", ("C:/models/clip",), 2.0),
        ("hps:./3", "hps", "hps", ("./3",), 1.0),
        ("mine=image_reward:a:0", "mine", "image_reward", ("a",), 0.0),
        ("aesthetic:a:b.safetensors:2", "aesthetic", "aesthetic", ("a", "b.safetensors"), 2.0),
        ("my.module:function:0.3", "function", "python", ("my.module:function",), 0.3),
        ("my.module:A.f", "A.f", "python", ("my.module:A.f",), 1.0),
        ("jax:my.module:f:0.3", "f", "jax", ("my.module:f",), 0.3),
        ("jax:my.module:f:a/b:2", "f", "jax", ("my.module:f", "a/b"), 2.0),
        ("jax:my.module:f:C:/a", "f", "jax", ("my.module:f", "C:/a"), 1.0),
        ("http://h:8000", "server", "server", ("http://h:8000",), 1.0),
        ("http://h:8000#2", "server", "server", ("http://h:8000",), 2.0),
        ("http://h:8000/ocr/#-2", "ocr", "server", ("http://h:8000/ocr/",), -2.0),
        ("https://h/a?b=c", "a", "server", ("https://h/a?b=c",), 1.0),
        ("x=https://[::1]:80/v:3#1", "x", "server", ("https://[::1]:80/v:3",), 1.0),
    ],
)
def test_every_form(text, name, kind, place, weight):
    if not weight:
        parsed = parse_rewards([text, "jpeg_size"])[0]
    else:
        (parsed,) = parse_rewards([text])
    assert parsed == (text, name, kind, place, weight)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["pickscore:0.7"], "its folder is missing; give pickscore:FOLDER:1"),
        (["pickscore"], "its folder is missing"),
        (["aesthetic:a:1"], "the file of its head must follow"),
        (["jpeg_size:a"], "only a weight may follow it; give jpeg_size:-1"),
        (["jpeg_size:nan"], "the weight: received nan; it must be a finite number"),
        (["jax:f:1"], "a module and of a function must follow; give jax:my.module:function:1"),
        (["jax:my-module:f"], "a module and of a function must follow"),
        (["my-module:f"], "none of the known forms"),
        (["localhost:8000/score"], "perhaps http://localhost:8000/score"),
        (["pikscore:a:b:c"], "none of the known forms; perhaps pickscore; give clip_score"),
        (["jpegsize"], "perhaps jpeg_size"),
        ([""], "received ''; it is none of the known forms"),
        (["http://h/:0.3"], r"the weight of an address stands behind #; give http://h/#0.3"),
        (["http://h:8000:2"], "give http://h:8000#2"),
        (["http://h:0.3"], "give http://h#0.3"),
        (["http://h/#"], "behind the # of an address its weight must stand; give http://h/#1"),
        (["http://h/#part"], "its weight must stand"),
        (["http://:0/"], "of http or https"),
        (["http://me:secret@h/#1"], "no password"),
        (["a:f", "b:f:2"], "it has the name 'f' of 'a:f'; give it another: f_2=b:f:2"),
        (["jpeg_size:0"], "at least one weight must differ from zero"),
    ],
)
def test_every_mistake(texts, message):
    with pytest.raises(ValueError, match=message) as raised:
        parse_rewards(texts)
    assert str(raised.value).startswith("reward") and "secret" not in str(raised.value)
    with pytest.raises(ValueError, match="held_out_reward"):
        parse_rewards(texts, option="held_out_reward")


def test_a_held_out_reward_has_no_weight():
    with pytest.raises(ValueError, match=r"held_out_reward: .*shown by itself; leave its weight"):
        parse_rewards(["jpeg_size:-1"], option="held_out_reward")


def test_the_repair_of_a_name_works():
    parse_rewards(["a:f", "f_2=b:f:2"])


def test_what_is_read_can_be_asked(module):
    texts = ["jpeg_size:-1", f"jax:{module}:red:2", f"b={module}:bright:0.5", "http://h:1/x"]
    found = read_rewards(texts)
    assert found.names == ("jpeg_size", "red", "b", "x")
    assert found.weights == {"jpeg_size": -1.0, "red": 2.0, "b": 0.5, "x": 1.0}
    assert found.on_device.keys() == {"jpeg_size", "red"} and found.outside.keys() == {"b", "x"}
    pictures = jnp.full((2, 8, 8, 3), 0.5)
    check_pictures(found, 8, 8)
    assert found.encode(["a"]) == {}
    values = jax.jit(found.score)(found.params, pictures, {})
    np.testing.assert_allclose(values["red"], 0.5)
    np.testing.assert_array_equal(values["jpeg_size"], jax.jit(rewards.jpeg_size)(pictures))
    np.testing.assert_allclose(found.outside["b"](pictures, ["ab", "abc"]), [130.0, 131.0])
    assert reward_digests(texts).keys() == {"reward: red", "reward: b"}


def test_a_reward_of_ones_own_reads_prompts_in_jax(module, tmp_path):
    (tmp_path / "scale").write_text("3")
    text = f"jax:{module}:make:{tmp_path / 'scale'}"
    found = read_rewards([text])
    encoded = found.encode(["ab", "abc"])
    values = found.score(found.params, jnp.ones((2, 8, 8, 3)), encoded)
    np.testing.assert_allclose(values["make"], [6.0, 9.0])
    before = reward_digests([text])
    assert before.keys() == {"reward: make", "reward: make folder"}
    (tmp_path / "scale").write_text("4")
    assert reward_digests([text]) != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jax:MODULE:red:nowhere", "calling it on this folder fails .*leave the folder out"),
        ("jax:MODULE:echo:nowhere", "must return a PictureReward, not str; leave the folder out"),
        ("MODULE:nothing", "reward 'MODULE:nothing': received 'MODULE:nothing'; MODULE has no"),
        ("no_module:f", "there is no module 'no_module'"),
        ("MODULE:SIZE", "not a function"),
        ("clip_score:nowhere", "reward 'clip_score:nowhere': received 'nowhere.config.json'"),
    ],
)
def test_what_cannot_be_loaded(module, text, message):
    with pytest.raises(ValueError, match=message.replace("MODULE", module)):
        read_rewards([text.replace("MODULE", module)])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("numpy_inside", "written in jax.numpy.*leave jax: away"),
        ("too_much", r"it returned shape \(2, 8, 8, 3\) for 2 pictures"),
        ("fails", "fails .AttributeError.*repair the function"),
    ],
)
def test_functions_that_do_not_compile(module, name, message):
    found = read_rewards([f"jax:{module}:{name}"])
    with pytest.raises(ValueError, match=f"reward: received '{name}'; .*{message}"):
        check_pictures(found, 8, 8)


@pytest.mark.parametrize(
    ("name", "value"),
    [("timeout", 0.0), ("retries", -1), ("pause", -1.0), ("max_failed", 0), ("batch", 0)],
)
def test_outside_options_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"outside.{name}: received {value}"):
        OutsideOptions(**{name: value}).validate()  # pyright: ignore[reportArgumentType]


def test_a_token_that_is_not_there(monkeypatch):
    monkeypatch.delenv("MY_TOKEN", raising=False)
    options = OutsideOptions(token_variable="MY_TOKEN")
    with pytest.raises(ValueError, match=r"outside.token_variable: received 'MY_TOKEN'; .*export"):
        read_rewards(["https://h/"], options)
    assert options.of_servers.timeout == 60.0


def test_scales_as_they_are_written():
    names = ("a", "b.c")
    assert parse_scales((), names) == (None, {"a": "none", "b.c": "none"})
    found = parse_scales(("batch", "b.c=group"), names)
    assert found == ("batch", {"a": "none", "b.c": "group"})


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["groups"], "received 'groups'; .*give group|batch|none"),
        (["a="], "received ''; .*give group|batch|none"),
        (["c=group"], "received 'c=group'; there is no reward of this name, only a, b"),
        (["a=group", "a=none"], "a has a scale already"),
        (["group", "none"], "the sum has a scale already"),
    ],
)
def test_scales_that_are_none(texts, message):
    with pytest.raises(ValueError, match=f"reward_scale: .*{message}"):
        parse_scales(texts, ("a", "b"))


class Learning:
    """An algorithm that tells what it was given to learn from."""

    def learn(self, state, rollout, rewards):
        return rewards, {"reward/mean": jnp.zeros(()), "objective": jnp.zeros(())}


def rollout_of(batch) -> Any:
    nothing: dict[str, Any] = dict.fromkeys(Rollout._fields)
    return Rollout(**nothing | {"batch": batch})


def learned(summing, rollout, parts) -> tuple[Any, Any]:
    """The rewards that an algorithm is given, and the metrics."""
    algorithm: Any = Learning()
    return summing.learn(algorithm, None, rollout, parts)


@pytest.mark.usefixtures("unchecked")
def test_rewards_are_scaled_once_and_told_as_they_were():
    """Two prompts of two pictures; the second prompt has no spread in the first reward."""
    batch = Batch(jnp.ones(4), prompts=jnp.asarray([7, 7, 9, 9]))
    a, b = jnp.asarray([1.0, 3.0, 5.0, 5.0]), jnp.asarray([0.0, 100.0, 0.0, 300.0])
    summing = Summing({"a": 2.0, "b": -1.0}, {"a": "group", "b": "none"}, "none", 150.0)
    rewards, metrics = learned(summing, rollout_of(batch), [{"a": a, "b": b}])
    # 2 (a - mean) / std - b, cut at 150.
    np.testing.assert_allclose(rewards.values, [-2.0, -98.0, 0.0, -150.0], rtol=1e-6)
    np.testing.assert_array_equal(rewards.parts["b"], b)
    assert float(metrics["reward/a/zero_spread"]) == 1 and "objective" not in metrics
    np.testing.assert_allclose(metrics["reward/mean"], jnp.mean(2 * a - b))
    np.testing.assert_allclose(metrics["reward/std"], jnp.std(2 * a - b), rtol=1e-6)


@pytest.mark.usefixtures("unchecked")
def test_the_sum_of_two_rollouts_is_scaled_over_both():
    batch = Batch(jnp.ones(2), prompts=jnp.asarray([7, 9]))
    first, second = {"a": jnp.asarray([1.0, 2.0])}, {"a": jnp.asarray([3.0, 2.0])}
    pair = (rollout_of(batch), rollout_of(batch))
    summing = Summing({"a": 10.0}, {"a": "none"}, "group")
    (one, two), metrics = learned(summing, pair, [first, second])
    np.testing.assert_allclose(one.values, [-1.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(two.values, [1.0, 0.0], rtol=1e-6)
    np.testing.assert_array_equal(two.parts["a"], [3.0, 2.0])
    assert float(metrics["reward/zero_spread"]) == 1
    np.testing.assert_allclose(metrics["reward/mean"], 20.0)


@pytest.mark.usefixtures("unchecked")
def test_nothing_is_changed_that_needs_no_scale():
    rollout = rollout_of(Batch(jnp.ones(4)))
    parts = {"a": jnp.arange(4.0), "b": jnp.ones(4)}
    summing = Summing({"a": 0.5, "b": 1.0}, {"a": "none", "b": "none"})
    rewards, metrics = learned(summing, rollout, [parts])
    np.testing.assert_array_equal(rewards.values, 0.5 * parts["a"] + 1)
    assert metrics.keys() == {"reward/mean", "objective"}


def checked(*, algorithm="ppo", rewards=("jpeg_size",), held_out=(), **options):
    found = Rewarding(**options)
    validate(found)
    found.check(tuple(rewards), tuple(held_out), algorithm)
    return found


def test_who_scales_the_sum():
    """An algorithm that does it itself is handed the scale, and the sum is left alone."""
    weights, scale = {"a": 1.0}, {"reward_scale": ("batch", "a=group"), "reward_clamp": 3.0}
    plain = Summing(weights, {"a": "group"})
    assert Rewarding(**scale).summing(weights, "grpo") == plain
    assert (
        Rewarding(**scale).own_scale(weights) == "batch" and Rewarding().own_scale("a") == "group"
    )
    assert Rewarding(**scale).summing(weights, "ppo") == (weights, {"a": "group"}, "batch", 3.0)
    assert Rewarding().summing(weights, "ppo").plain
    assert Rewarding().statistics(5) is None
    of_prompts = checked(algorithm="ddpo", reward_statistics=Statistics(32, 4)).statistics(5)
    assert of_prompts == PromptStatistics(5, 32, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward_scale": ("b=group",)}, "reward_scale: .*no reward of this name"),
        (
            {"algorithm": "ddpo", "reward_scale": ("batch",)},
            "reward_scale: received 'batch'; ddpo divides by .*take grpo",
        ),
        ({"reward_clamp": -1.0}, "reward_clamp: received -1.0"),
        ({"reward_clamp": 5.0}, "reward_clamp: .*give --reward-scale group"),
        ({"algorithm": "grpo", "reward_scale": ("none",), "reward_clamp": 5.0}, "reward_clamp"),
        (
            {"algorithm": "grpo", "reward_statistics": Statistics(16)},
            "reward_statistics.buffer: received 16; grpo does not use it",
        ),
        ({"reward_statistics": Statistics(8)}, "reward_statistics.buffer: received 8; .*16 are"),
        ({"reward_statistics": Statistics(0, 4)}, "reward_statistics.least: .*give a buffer"),
        ({"overlap": True}, "overlap: .*all rewards are in JAX"),
        ({"outside": OutsideOptions(retries=1)}, "outside: .*no reward is asked"),
        ({"held_out": ("x",)}, "held_out_reward: received 'x'"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        checked(**options)


def test_the_repairs_work():
    checked(reward_clamp=5.0, reward_scale=("group",))
    checked(algorithm="ddpo", reward_clamp=5.0)
    checked(rewards=("m:f",), overlap=True, outside=OutsideOptions(retries=1))
    checked(held_out=("m:f",), outside=OutsideOptions(retries=1))
