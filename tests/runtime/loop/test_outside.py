"""The loop around rewards from outside: exact, in one trace each, and ended at any moment."""

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import jax
import pytest

from ctrl_jax.rewards import RewardError, RewardUnavailable
from ctrl_jax.runtime import (
    Checkpoints,
    CountTraces,
    LoopOptions,
    MetricsLog,
    OutsideStep,
    RunError,
    RunInterrupted,
    RunWarning,
    in_flight,
    make_mesh,
    read_metrics,
    state_digest,
    train_outside,
)
from tests.runtime import outside_toy as toy
from tests.runtime.loop.test_training import wait_for_step
from tests.runtime.processes import run_python, start_python

QUIET = LoopOptions(progress=False, fetch_every=3)
PROGRAM = os.fspath(Path(toy.__file__))
BOTH = pytest.mark.parametrize("overlap", [False, True])


def begun(overlap: bool):
    state = toy.init(jax.random.key(0))
    return in_flight(state) if overlap else state


def ended(state, overlap: bool):
    return state_digest(state.state if overlap else state)


def train(step=toy.STEP, *, overlap=False, steps=10, **more):
    options = {"options": QUIET, **more}
    return train_outside(step, begun(overlap), toy.batches, steps=steps, overlap=overlap, **options)


@BOTH
@pytest.mark.parametrize("mesh", [False, True])
def test_equals_the_plain_loop_and_traces_once(overlap, mesh):
    made, learned = CountTraces(toy.collect), CountTraces(toy.learn)
    options = dataclasses.replace(QUIET, mesh=make_mesh() if mesh else None)
    final = train(OutsideStep(made, toy.ask, learned), overlap=overlap, options=options)
    assert (made.traces, learned.traces) == (1, 1)
    assert ended(final, overlap) == state_digest(toy.by_hand(10, overlap=overlap))
    assert not overlap or ended(final, True) != state_digest(toy.by_hand(10))


def test_with_overlap_the_next_rollout_is_there_before_the_answer():
    """Each answer is given only when the pictures of the next update were seen."""
    made = []

    def collect(state, batch):
        jax.debug.callback(lambda: made.append(1))
        return toy.collect(state, batch)

    def ask(k, shown):
        deadline = time.monotonic() + 60
        while len(made) < min(k + 2, 4):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return toy.ask(k, shown)

    train(OutsideStep(collect, ask, toy.learn), overlap=True, steps=4)


@BOTH
def test_lines_say_what_took_how_long(overlap, tmp_path):
    def ask(k, shown):
        time.sleep(0.02)
        return toy.ask(k, shown)

    seen = []

    def evaluate(k, state):
        seen.append((k, int(state.update)))
        return {"gold": 1.0}

    options = dataclasses.replace(QUIET, evaluate_every=4, evaluate=evaluate)
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        step = dataclasses.replace(toy.STEP, ask=ask)
        train(step, overlap=overlap, steps=5, log=log, options=options)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5] and seen == [(4, 4), (5, 5)]
    assert not any("seconds" in name for row in rows for name in row)
    first, *rows = read_metrics(log.speed_path)
    assert first["seconds/first"] > 0 and rows[-1]["step"] == 5
    assert all(row["seconds/reward"] >= 0.02 for row in (first, *rows))
    assert all(row["seconds/rollout"] > 0 and row["seconds/update"] > 0 for row in (first, *rows))
    assert overlap or all(row["seconds/step"] >= 0.02 for row in rows)
    assert all(row["examples_per_second"] == 8 / row["seconds/step"] for row in rows)


@BOTH
def test_an_update_without_rewards_is_skipped_said_and_counted(overlap, tmp_path):
    asked = []

    def ask(k, shown):
        asked.append(k)
        if k in (2, 5):
            raise RewardError("ocr: no answer within 1 s", "late")
        return toy.ask(k, shown)

    step = dataclasses.replace(toy.STEP, ask=ask)
    with (
        MetricsLog(tmp_path / "metrics.jsonl") as log,
        pytest.warns(RunWarning, match=r"update \d is skipped: ocr: no answer within 1 s") as said,
    ):
        final = train(step, overlap=overlap, steps=8, log=log)
    assert [str(each.message)[:8] for each in said] == ["update 3", "update 6"]
    assert asked == [*range(8)]
    state = final.state if overlap else final
    assert int(state.skips.total) == 2 and int(state.policy.optimizer) == 6
    rows = {row["step"]: row for row in read_metrics(tmp_path / "metrics.jsonl")}
    assert [k for k, row in rows.items() if row.get("reward/fault") == "late"] == [3, 6]
    assert [row["update/finite"] for row in rows.values()].count(False) == 2


def test_too_many_in_a_row_stop_the_run():
    def ask(k, shown):
        raise RewardError("broken")

    options = dataclasses.replace(QUIET, max_skipped=2)
    with (
        pytest.raises(
            RunError, match=r"2 updates in a row up to update 2 had no rewards .* mend the reward"
        ),
        pytest.warns(RunWarning, match="broken"),
    ):
        train(dataclasses.replace(toy.STEP, ask=ask), options=options)


def test_a_mistake_in_asking_is_told():
    def ask(k, shown):
        raise ValueError("prompts: received 7")

    with pytest.raises(ValueError, match="prompts: received 7"):
        train(dataclasses.replace(toy.STEP, ask=ask))


@BOTH
def test_a_reward_that_is_gone_stops_the_run_and_it_goes_on_bitwise(overlap, tmp_path):
    def ask(k, shown):
        if k == 4:
            raise RewardUnavailable("nobody answers")
        return toy.ask(k, shown)

    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(RewardUnavailable, match=r"update 4 of 10 is saved: --out .*latest"):
            step = dataclasses.replace(toy.STEP, ask=ask)
            train(step, overlap=overlap, checkpoints=checkpoints)
        start, state, _ = checkpoints.restore(begun(overlap))
        assert start == 4
        # It is still gone: what was saved is not saved again.
        with pytest.raises(RewardUnavailable, match="update 4 of 10 is saved"):
            train_outside(
                dataclasses.replace(toy.STEP, ask=ask),
                state,
                toy.batches,
                steps=10,
                start=4,
                options=QUIET,
                checkpoints=checkpoints,
                overlap=overlap,
            )
        final = train_outside(
            toy.STEP, state, toy.batches, steps=10, start=4, options=QUIET, overlap=overlap
        )
    assert ended(final, overlap) == state_digest(toy.by_hand(10, overlap=overlap))


def test_a_signal_ends_the_waiting_at_once(tmp_path):
    """An answer would take an hour; the update before it is saved."""
    release = threading.Event()

    def ask(k, shown):
        if k == 3:
            os.kill(os.getpid(), signal.SIGINT)
            release.wait(3600)
        return toy.ask(k, shown)

    before = signal.getsignal(signal.SIGINT)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(RunInterrupted, match="update 3 of 10 is saved") as raised:
            train(dataclasses.replace(toy.STEP, ask=ask), checkpoints=checkpoints)
        release.set()
        assert raised.value.signum == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) is before
        start, state, _ = checkpoints.restore(begun(False))
    final = train_outside(toy.STEP, state, toy.batches, steps=10, start=start, options=QUIET)
    assert ended(final, False) == state_digest(toy.by_hand(10))


@pytest.mark.slow  # stopped and continued above, killed in test_training.py
def test_killed_stopped_and_continued_is_bitwise(tmp_path):
    """First kill -9, then SIGTERM while an answer is awaited, which would take an hour."""
    folder = ("--folder", os.fspath(tmp_path), "--overlap")
    process = start_python(PROGRAM, *folder, "--pause", "0.05")
    wait_for_step(tmp_path, 10)
    process.kill()
    process.communicate()
    process = start_python(PROGRAM, *folder, "--pause", "3600")
    assert process.stdout is not None
    start = int(process.stdout.readline().split()[1])
    assert 10 <= start < 20
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert process.returncode == 128 + signal.SIGTERM, err
    assert f"update {start} of 20 is saved; continue with the same command" in err.splitlines()[-1]
    status, out, err = run_python(PROGRAM, *folder)
    assert status == 0, err
    assert out.split()[-1] == state_digest(toy.by_hand(20, overlap=True))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [*range(1, 21)]
