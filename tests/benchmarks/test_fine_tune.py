"""The benchmark of an update by a reward runs, and its peer must come to what it comes to."""

import dataclasses
import os

import numpy as np
import pytest

from benchmarks import fine_tune, harness, pipeline

PEER = "BENCHMARKS_DIFFUSERS_PYTHON"
SETTINGS = pipeline.Settings("SD 1.5", 0, "update", 2)


@pytest.fixture
def seen(monkeypatch):
    """What one side of two updates of two pictures came to."""
    rng = np.random.default_rng(0)
    shapes = {"latents": (2, 2, 4, 4, 3), "rewards": (2, 2), "gradient": (2,)}
    parts = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    found = fine_tune.Outcome(np.zeros((2, 2)), np.zeros((2, 2)), parts)
    monkeypatch.setattr(fine_tune, "SEEN", {SETTINGS: found})
    return found


def told(parts):
    """What the peer writes of the same."""
    rows = np.moveaxis(parts["latents"], -1, -3), parts["rewards"], parts["gradient"]
    return np.concatenate([row.reshape(2, -1) for row in rows], axis=1)


def test_each_part_of_the_outcome_is_compared_by_itself(seen):
    fine_tune.compare(SETTINGS, told(seen.parts))
    for name, part in seen.parts.items():
        wrong = told(seen.parts | {name: 1.01 * part})
        with pytest.raises(harness.Disagreement, match=f"of the {name}"):
            fine_tune.compare(SETTINGS, wrong)


def test_all_steps_have_noise_and_start_where_the_scheduler_does():
    for model in ("SD 1.5", "SD 3.5-M"):
        loaded = pipeline.loaded(dataclasses.replace(SETTINGS, model=model))
        numbers = fine_tune.sampler(loaded)
        assert len(numbers["std"]) == fine_tune.STEPS and min(numbers["std"]) > 0
        assert len(numbers["shown"]) == fine_tune.STEPS and np.diff(numbers["shown"]).max() < 0
        assert numbers["start_std"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("case", list(fine_tune.cases(quick=True)), ids=lambda case: case.name)
def test_the_loop_in_pytorch_comes_to_the_same(case, monkeypatch):
    monkeypatch.setattr(fine_tune, "SEEN", {})
    mine = case.contenders[0].build(**case.contenders[0].arguments)
    assert mine.facts["pictures"] == 2 and mine.facts["flops"] > 1e6
    if PEER not in os.environ:
        pytest.skip(f"{PEER} names no interpreter")
    case.contenders[1].build(**case.contenders[1].arguments).close()  # raises where they differ
