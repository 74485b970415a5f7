"""The warning about a held-out reward: how often it is wrong, and that it sees a fall."""

import json

import numpy as np
import pytest

from ctrl_jax.commands.fine_tuning.overoptimization import Overoptimization, find_fall
from ctrl_jax.runtime import RunWarning

PROMPTS = np.repeat(np.arange(16), 2)
FOUR = np.repeat(np.arange(4), 8)


def evaluations(rng, held_out, prompts=PROMPTS, *, spread=0.3, rise=1.0):
    """A run whose held-out reward has these means; the trained one rises at every evaluation."""
    base = rng.normal(size=prompts.max() + 1)[prompts] + 0.5 * rng.normal(size=prompts.size)

    def noise():
        own = rng.normal(size=prompts.max() + 1)[prompts] if prompts.max() > 7 else 0.0
        return base + spread * (own + rng.normal(size=prompts.size))

    return [
        {"step": k, "trained": noise() + rise * k, "held_out": {"a": noise() + mean, "b": noise()}}
        for k, mean in enumerate(held_out)
    ]


def falls(lines, prompts=PROMPTS):
    found = (find_fall(lines[:e], lines[e], prompts) for e in range(1, len(lines)))
    return [fall for fall in found if fall is not None]


@pytest.mark.parametrize("prompts", [PROMPTS, FOUR])
def test_a_run_without_a_fall_rarely_warns(prompts):
    """At most 5 percent of runs; more than 20 of 200 have a probability of 1.2e-3."""
    rng = np.random.default_rng(0)
    runs = (evaluations(rng, np.zeros(8), prompts) for _ in range(200))
    assert sum(bool(falls(lines, prompts)) for lines in runs) <= 20


def test_a_fall_after_a_rise_is_seen_and_told():
    """It falls by four deviations of a picture: each of 20 runs sees it."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        found = falls(evaluations(rng, [0.0, 1.0, 1.0, 0.0]))
        assert found and found[-1].name == "a" and found[-1].since in (1, 2)


def test_a_fall_of_both_is_no_exploit():
    rng = np.random.default_rng(2)
    assert not falls(evaluations(rng, [0.0, 1.0, 1.0, 0.0], rise=-1.0))


def test_what_is_not_known_is_no_fall():
    lines = evaluations(np.random.default_rng(3), [1.0, 1.0, 0.0])
    lines[-1]["held_out"]["a"][3] = np.nan
    assert not falls(lines)
    assert not falls([{**line, "held_out": {}} for line in lines])
    equal = [{"step": k, "trained": np.ones(32) * k, "held_out": {}} for k in range(3)]
    assert not falls(equal)


def test_it_warns_once_and_goes_on_where_it_was(tmp_path):
    lines = evaluations(np.random.default_rng(1), [0.0, 1.0, 1.0, 0.0, 0.0])

    def look(watch, k):
        return watch.look(k, lines[k]["trained"], lines[k]["held_out"])

    first = Overoptimization(tmp_path / "evaluations.jsonl", 0, PROMPTS)
    assert all(look(first, k) is None for k in range(3))
    with pytest.warns(RunWarning, match=r"held_out_reward a: it fell from .* at update [12] to"):
        assert look(first, 3) is not None
    assert look(first, 4) is not None, "and warns no more"
    # Later lines go; what was before is as it was.
    again = Overoptimization(tmp_path / "evaluations.jsonl", 2, PROMPTS)
    with pytest.warns(RunWarning, match="16 prompts"):
        found = look(again, 3)
    assert found is not None and found.name == "a"
    text = (tmp_path / "evaluations.jsonl").read_text()
    assert json.loads(text.splitlines()[1])["held_out"].keys() == lines[1]["held_out"].keys()
    for damaged in (
        text[: text.rindex("\n", 0, -1) + 1],
        text.replace('"step": 1', '"step": 0'),
        "",
    ):
        (tmp_path / "evaluations.jsonl").write_text(damaged)
        with pytest.warns(RunWarning, match="it was damaged on disk; .* of it are used"):
            Overoptimization(tmp_path / "evaluations.jsonl", 4, PROMPTS)
    fresh = Overoptimization(tmp_path / "evaluations.jsonl", 0, PROMPTS)
    assert look(fresh, 3) is None
