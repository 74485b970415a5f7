"""Rewards by a Python function: what it is given, what it may return, and how it may fail."""

import contextlib
import threading
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.data import Prompt
from ctrl_jax.rewards import RewardError, RewardUnavailable, gathered, python_reward
from ctrl_jax.runtime import RunError

IMAGES = np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3)
TEXTS = ["a cat", "two cats"]


class Tensor:
    """Of a library that NumPy does not know, on a device that it cannot read."""

    def __init__(self, values):
        self.values = values

    def tolist(self):
        return self.values


def in_turn(*answers):
    """A function that returns the answers one after the other, or raises them."""
    left = iter(answers)

    def function(images, prompts, records):
        answer = next(left)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    return function


def test_what_a_function_is_given():
    seen = []

    def function(images, prompts, records):
        seen.append((images.copy(), list(prompts), [dict(r) for r in records]))
        images[:], prompts[0], records[0]["tag"] = 0, "", "changed"
        if len(seen) == 1:
            raise KeyError("once")
        return images.mean(axis=(1, 2, 3))

    prompts = [Prompt("a cat", fields={"tag": "single"}), "two cats"]
    floats = jnp.asarray(IMAGES, jnp.float32) / 255.0
    values = python_reward(function, pause=0.0)(floats, prompts)
    assert values.dtype == np.float32 and values.tolist() == [0.0, 0.0]
    assert prompts[0].fields == {"tag": "single"}
    assert len(seen) == 2, "it is asked again, the same"
    for images, texts, records in seen:
        assert images.dtype == np.uint8
        np.testing.assert_array_equal(images, IMAGES)
        assert texts == TEXTS and records == [{"tag": "single"}, {}]


def test_floats_are_cut_and_rounded_as_a_file_holds_them():
    levels = np.array([-0.1, 0.0, 0.0019, 0.002, 0.5, 1.2], np.float32)
    seen = []
    reward = python_reward(lambda images, *_: seen.append(images) or [0.0])
    reward(levels.reshape(1, 2, 1, 3), ["x"])
    assert seen[0].ravel().tolist() == [0, 0, 0, 1, 128, 255]


@pytest.mark.parametrize(
    "answer",
    [
        [0.5, 2],
        (0.5, 2.0),
        np.array([0.5, 2.0], np.float16),
        jnp.array([0.5, 2.0]),
        Tensor([0.5, 2.0]),
        [Tensor(0.5), np.float64(2)],
        [Fraction(1, 2), 2],
    ],
)
def test_what_it_may_return(answer):
    np.testing.assert_array_equal(python_reward(in_turn(answer))(IMAGES, TEXTS), [0.5, 2.0])


def test_true_counts_one():
    reward = python_reward(in_turn(np.array([True, False])))
    np.testing.assert_array_equal(reward(IMAGES, TEXTS), [1.0, 0.0])


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (ValueError("no\nfont"), "failed", "f: ValueError: no font, asked 2 times"),
        (SystemExit(3), "failed", "f: SystemExit: 3, asked 2 times"),
        (None, "failed", "it returned None in place of a list or an array of 2 numbers"),
        (0.5, "failed", "it returned a float in place of"),
        ([[0.5], [1.0]], "failed", "value 0 is a list, not a number"),
        ([0.5, None], "failed", "value 1 is None, not a number"),
        ([0.5, "1"], "failed", "value 1 is '1', not a number"),
        ([0.5, 1j], "failed", "value 1 is a complex, not a number"),
        ([0.5], "wrong_number", "it returned 1 values for 2 pictures"),
        ([0.5, float("nan")], "not_finite", "value 1 of 2 is nan"),
        ([10**400, 0.5], "not_finite", "value 0 of 2 is inf"),
        ([0.5, 1e300], "not_finite", "value 1 of 2 is inf"),
    ],
)
def test_faults(answer, kind, message):
    reward = python_reward(in_turn(answer, answer, [1, 2]), name="f", retries=1, pause=0.0)
    with pytest.raises(RewardError) as raised:
        reward(IMAGES, TEXTS)
    assert raised.value.kind == kind
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert reward(IMAGES, TEXTS).tolist() == [1, 2]


def test_several_in_a_row_are_the_end():
    answers = [[1], [1], [1, 2], [1], [1], [1]]
    reward = python_reward(in_turn(*answers), retries=0, max_failed=3)
    for _ in range(2):
        with pytest.raises(RewardError):
            reward(IMAGES, TEXTS)
    reward(IMAGES, TEXTS)
    for _ in range(2):
        with pytest.raises(RewardError):
            reward(IMAGES, TEXTS)
    with pytest.raises(RewardUnavailable, match=r"3 batches in a row .*--resume latest"):
        reward(IMAGES, TEXTS)


def test_a_function_may_stop_the_run():
    with pytest.raises(RewardUnavailable, match="no licence"):
        python_reward(in_turn(RewardUnavailable("no licence")))(IMAGES, TEXTS)


def test_one_that_is_late_is_not_called_twice_at_once():
    release, calls, at_once, most = threading.Event(), [], [0], [0]

    def function(images, prompts, records):
        calls.append(1)
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        release.wait(60)
        at_once[0] -= 1
        return [1, 2]

    reward = python_reward(function, timeout=0.05, max_failed=10**6)
    for _ in range(2):
        with pytest.raises(RewardError) as raised:
            reward(IMAGES, TEXTS)
        assert raised.value.kind == "late" and "0.05 s" in str(raised.value)
    assert len(calls) == 1
    release.set()
    found = None
    while found is None:  # a machine that is busy may need a while
        with contextlib.suppress(RewardError):
            found = reward(IMAGES, TEXTS)
    assert found.tolist() == [1, 2] and most == [1]


def test_an_error_within_its_time_is_told():
    reward = python_reward(in_turn(SystemError("x"), [1, 2]), timeout=30.0, pause=0.0)
    assert reward(IMAGES, TEXTS).tolist() == [1, 2]


def test_several_at_once():
    barrier = threading.Barrier(2)

    def meet(images, prompts, records):
        barrier.wait(30)
        return [len(each) for each in prompts]

    both = {"a": python_reward(meet), "b": python_reward(meet)}
    found = gathered(both, IMAGES, TEXTS)
    assert {name: values.tolist() for name, values in found.items()} == {"a": [5, 8], "b": [5, 8]}
    assert gathered({}, IMAGES, TEXTS) == {}


def test_of_several_that_fail_the_end_is_told():
    rewards = {
        "a": python_reward(in_turn([1]), retries=0),
        "b": python_reward(in_turn([1]), retries=0, max_failed=1),
    }
    with pytest.raises(RewardUnavailable):
        gathered(rewards, IMAGES, TEXTS)


@pytest.mark.parametrize(
    ("images", "prompts", "records", "message"),
    [
        (IMAGES[0], TEXTS, None, r"images: received uint8\[2, 2, 3\]; its shape must be"),
        (IMAGES[..., :1], TEXTS, None, "images: .*shape must be"),
        (IMAGES.astype(int), TEXTS, None, "images: .*floating numbers"),
        (IMAGES, TEXTS[:1], None, r"len\(prompts\): received 1; .* each of the 2 pictures"),
        (IMAGES, "ab", None, "prompts: received 'ab'; it must be a list of texts"),
        (IMAGES, TEXTS, [{}], r"len\(records\): received 1"),
        (IMAGES, TEXTS, ["a", "b"], "records: .*list of dictionaries"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_mistakes(images, prompts, records, message):
    with pytest.raises(ValueError, match=message):
        python_reward(in_turn([1, 2]))(images, prompts, records)


def test_a_picture_that_is_none_ends_the_run():
    images = jnp.full((2, 2, 2, 3), 0.5).at[1, 0, 0, 0].set(jnp.nan)
    with pytest.raises(RunError, match=r"picture 1 holds NaN: the sampler's states overflowed"):
        python_reward(in_turn([1, 2]))(images, TEXTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0.0}, "timeout: received 0.0"),
        ({"retries": -1}, "retries: received -1"),
        ({"pause": -1.0}, "pause: received -1.0"),
        ({"max_failed": 0}, "max_failed: received 0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        python_reward(in_turn(), **options)
