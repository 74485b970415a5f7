"""The peers of `benchmarks.preference_lm` take our step on our tokens and weights."""

import dataclasses
import os
from typing import Any

import numpy as np
import pytest

from benchmarks import harness, preference_lm

QUICK: dict[str, Any] = preference_lm.QUICK | {"vocabulary": 32, "completion": 5}
FAMILIES = sorted(preference_lm.RECORDS)


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No losses seen yet."""
    monkeypatch.setattr(preference_lm, "SEEN", {})


def steps(runner, number=preference_lm.STEPS):
    """The losses of some steps; `Disagreement` where they are not those of the side before."""
    for _ in range(number):
        runner.run()
    return runner.facts["losses"]


def test_a_quick_run_counts_tokens_and_keeps_losses(tmp_path, capsys):
    case, *_ = preference_lm.cases(quick=True)
    alone = harness.Case(case.name, case.contenders[:1])
    out = harness.run("preference_lm", preference_lm.CLAIM, [alone], quick=True, out=tmp_path)
    row = out["cases"][0]["rows"][0]
    assert row["tokens"] == 2 * 2 * (4 + 4)
    np.testing.assert_allclose(row["losses"][0], np.log(2), rtol=1e-6)
    assert min(row["losses"]) < np.log(2) - 1e-4  # it learns
    assert "tokens/s" in capsys.readouterr().out


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loop_takes_our_steps(family):
    pytest.importorskip("torch")
    options: dict[str, Any] = QUICK | {"family": family, "learning_rate": 1e-2}
    first = steps(preference_lm.ours(**options))
    second = steps(preference_lm.torch_loop(**options))
    assert min(first) < np.log(2) - 0.01
    np.testing.assert_allclose(second, first, rtol=0, atol=preference_lm.TOLERANCE)


def test_another_loss_stops_the_run():
    settings = preference_lm.Settings(family="GPT-2", **QUICK)
    losses = iter([np.log(2), 0.6, np.log(2), 0.6002, 0.7])

    def side():
        return preference_lm._checked(settings, lambda: next(losses))

    steps(side(), 2)
    with pytest.raises(harness.Disagreement, match=r"0\.6002"):
        steps(side(), 2)
    with pytest.raises(harness.Disagreement):  # does not begin at log 2
        steps(side(), 1)


def test_a_disagreement_is_not_a_note_in_the_table():
    def build():
        raise harness.Disagreement("losses differ")

    fine = harness.Contender("ours", lambda: harness.Runner(lambda: None), {})
    case = harness.Case("case", [fine, harness.Contender("peer", build, {})])
    with pytest.raises(harness.Disagreement):
        harness.measure(case, rounds=3, budget=0.01, advance=lambda text: None)


def test_all_sides_are_given_the_same_tokens():
    settings = preference_lm.Settings(family="GPT-2", **QUICK)
    for batch, rows in zip(
        preference_lm.pairs(settings), preference_lm.packed(settings), strict=True
    ):
        np.testing.assert_array_equal(rows.tokens, np.concatenate(batch, axis=1))
        assert (batch[1][:, -1] == 31).all() and (batch[2][:, -1] == 31).all()
        assert max(part[:, :-1].max() for part in batch) < 31


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_trl_takes_our_steps(family):
    if "BENCHMARKS_TRL_DPO_PYTHON" not in os.environ:
        pytest.skip("BENCHMARKS_TRL_DPO_PYTHON names no interpreter")
    options: dict[str, Any] = QUICK | {"family": family, "learning_rate": 1e-2}
    first = steps(preference_lm.ours(**options))
    runner = preference_lm.trl(**options)
    try:
        np.testing.assert_allclose(steps(runner), first, rtol=0, atol=preference_lm.TOLERANCE)
    finally:
        runner.close()
    assert dataclasses.asdict(preference_lm.Settings(**options))["batches"] == 2  # several epochs
