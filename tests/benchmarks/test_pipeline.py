"""The benchmark of pipelines runs, and its peers must come to what we come to."""

import os

import numpy as np
import pytest

from benchmarks import harness, pipeline

PEER = "BENCHMARKS_DIFFUSERS_PYTHON"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Nothing seen yet."""
    monkeypatch.setattr(pipeline, "SEEN", {})


def test_a_quick_run_counts_operations(tmp_path, capsys):
    case = next(iter(pipeline.cases(quick=True)))
    alone = harness.Case(case.name, case.contenders[:1])
    out = harness.run("pipeline", pipeline.CLAIM, [alone], quick=True, out=tmp_path)
    (row,) = out["cases"][0]["rows"]
    assert row["flops"] > 1e6 and row["compile_seconds"] > 0 and row["memory_bytes"] > 0
    first, second = next(iter(pipeline.SEEN.values()))
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(first).all() and first.std() > 0
    assert "GFLOP/s" in capsys.readouterr().out


def test_the_widths_are_those_of_the_published_models():
    own = pipeline.Settings("SD 1.5", 1, "step").records["unet"]
    quarter = pipeline.Settings("SD 1.5", 4, "step").records["unet"]
    assert own["block_out_channels"] == [320, 640, 1280, 1280] and own["attention_head_dim"] == 8
    for width, part in zip(own["block_out_channels"], quarter["block_out_channels"], strict=True):
        assert width == 4 * part and part % quarter["norm_num_groups"] == 0
        assert width // own["attention_head_dim"] == part // quarter["attention_head_dim"]
    medium = pipeline.Settings("SD 3.5-M", 1, "step").records["transformer"]
    assert medium["num_attention_heads"] * medium["attention_head_dim"] == 1536


def test_another_outcome_stops_the_run():
    settings = pipeline.Settings("SD 1.5", 0, "step")
    pipeline._compare(settings, np.ones((2, 3)))
    pipeline._compare(settings, np.ones((2, 3)) + 1e-5)
    for wrong in (np.ones((2, 3)) + 0.01, np.full((2, 3), np.nan), np.ones((1, 3))):
        with pytest.raises(harness.Disagreement):
            pipeline._compare(settings, wrong)


def test_without_a_peer_the_row_says_how_to_name_one(monkeypatch):
    monkeypatch.setattr(pipeline.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv(PEER, raising=False)
    with pytest.raises(RuntimeError, match="--diffusers-python"):
        pipeline.diffusers(compiled=False, model="SD 1.5", divisor=0, work="step")


@pytest.mark.slow
@pytest.mark.parametrize("case", list(pipeline.cases(quick=True)), ids=lambda case: case.name)
def test_diffusers_comes_to_the_same(case):
    if PEER not in os.environ:
        pytest.skip(f"{PEER} names no interpreter")
    for contender in case.contenders[:2]:  # `_compare` raises where they differ
        contender.build(**contender.arguments).close()
    if "LoRA" in case.name:
        first, second = next(iter(pipeline.SEEN.values()))
        assert second < first  # it learns
