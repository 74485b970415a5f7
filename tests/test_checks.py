"""Checks of several fields of a config at once."""

import dataclasses
import re
from typing import Any

import jax
import numpy as np
import pytest

from ctrl_jax._checks import (
    check_count,
    check_decay,
    check_distinct,
    check_divides,
    check_fields,
    check_numbers,
    check_positive,
    check_seed,
    check_whole,
)
from ctrl_jax.losses.advantage import standardized
from ctrl_jax.losses.token_log_prob import token_log_probs
from ctrl_jax.networks import DecoderConfig, Rotary, language_model
from ctrl_jax.processes.ratio_score import DataPoints


@dataclasses.dataclass(frozen=True)
class Config:
    steps: int = 3
    rates: tuple[float, ...] = (0.1, 0.2)


def test_every_field_is_checked_under_its_own_name():
    check_fields(Config(), check_count, "steps", least=3)
    check_fields(Config(), check_positive, "steps", "rates")
    with pytest.raises(ValueError, match=r"training\.steps: received 3; .* at least 4"):
        check_fields(Config(), check_count, "steps", group="training", least=4)
    with pytest.raises(ValueError, match="rates: received -1; it must be above zero"):
        check_fields(Config(rates=(0.1, -1)), check_positive, "steps", "rates")


def test_blocks_are_not_built_until_the_memory_ends():
    check_count("model.depth", 10_000)
    with pytest.raises(ValueError, match=r"model\.depth: received 10001; it must be at most 10000"):
        check_count("model.depth", 10_001)


def test_numbers_are_counts_where_they_are_whole():
    numbers = dataclasses.make_dataclass("Numbers", [("steps", int), ("rate", float | None)])
    check_numbers(numbers(1, None), "training")
    for wrong, message in ((numbers(0, 0.1), "steps: received 0"), (numbers(1, 0.0), "above zero")):
        with pytest.raises(ValueError, match=message):
            check_numbers(wrong, "training")


@pytest.mark.parametrize("values", [(), ("dpo", "dpo")])
def test_values_that_repeat_and_none_at_all_are_refused(values):
    check_distinct("methods", ("dpo", "ipo"))
    with pytest.raises(ValueError, match="one or more, each once"):
        check_distinct("methods", values)


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_a_decay_lies_below_one(decay):
    check_decay("average_decay", 0.0)
    with pytest.raises(ValueError, match="average_decay: received"):
        check_decay("average_decay", decay)


def test_a_count_fits_the_devices():
    check_count("steps", 2**31 - 1)
    check_seed("seed", 2**32 - 1)
    for check, value in ((check_count, 2**31), (check_count, 10**23), (check_seed, 2**32)):
        with pytest.raises(ValueError, match=r"it must be at most .*; give a smaller one"):
            check("steps", value)
    with pytest.raises(ValueError, match="it must be a finite number"):
        check_positive("rate", 10**400)


@pytest.mark.parametrize("part", [0.1, 0.03, 0.003, 1e-5, 1 / 3, 2.0])
def test_what_goes_in_up_to_rounding_goes_in(part):
    number = check_divides("dt", part, "horizon", 6.0)
    assert number == round(6 / part)
    assert check_divides("dt", 6.0 / 7, "horizon", 6.0) == 7


@pytest.mark.parametrize(("part", "whole"), [(0.3, 1.0), (0.7, 6.0), (5.0, 1.0), (0.0301, 6.0)])
def test_what_does_not_is_refused_and_either_repair_goes_in(part, whole):
    with pytest.raises(ValueError, match=f"dt: received {part}; it must go into horizon") as error:
        check_divides("dt", part, "horizon", whole)
    shorter, longer = re.findall(r"[\d.]+", str(error.value).rsplit(";", 1)[1])
    check_divides("dt", float(shorter), "horizon", whole)
    check_divides("dt", part, "horizon", float(longer))


def test_steps_that_no_run_ends():
    with pytest.raises(ValueError, match=r"2\*\*24 of it; give one such as 0.001"):
        check_divides("dt", 1e-9, "horizon", 1.0)


@pytest.mark.parametrize("wrong", [2**32 + 5, 2**40, -(2**31) - 1])
def test_whole_numbers_that_jax_would_wrap_are_refused(wrong, unchecked):
    ids: Any = np.array([0, wrong])
    model = language_model(DecoderConfig(9, 8, 1, 2, 2, 4, 8, Rotary(base=10.0)))
    ones: Any = np.ones((2, 9), np.float32)
    for call in (
        lambda: check_whole("ids", ids),
        lambda: token_log_probs(ones, ones.T @ ones, ids),
        lambda: standardized(ones[:, 0], groups=ids),
        lambda: model.apply(model.shapes, ids[None]),
        lambda: DataPoints(ones, ids),
    ):
        with pytest.raises(ValueError, match=f"received .*{wrong}"):
            call()
    check_whole("ids", np.array([0, 2**31 - 1, -(2**31)]))
    check_whole("ids", np.array([2**32 - 1], np.uint64))
    with jax.enable_x64(True):
        check_whole("ids", ids)
