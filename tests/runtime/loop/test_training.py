"""The loop: one trace, donation, flags into errors, signals, and resume after a kill."""

import dataclasses
import gc
import os
import re
import signal
import time

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ctrl_jax.algorithms.base import state_metrics
from ctrl_jax.rewards import RewardUnavailable
from ctrl_jax.runtime import (
    Checkpoints,
    CountTraces,
    LoopOptions,
    MetricsLog,
    RunError,
    RunInterrupted,
    RunWarning,
    make_mesh,
    read_metrics,
    state_digest,
    train,
)
from ctrl_jax.runtime.devices.mesh import place
from ctrl_jax.runtime.loop import training
from ctrl_jax.runtime.loop.signals import (
    Stopped,
    StopSignals,
    Terminated,
    ending_at_signals,
    stop_point,
)
from tests.runtime import toy
from tests.runtime.processes import TOY, run_python, start_python

QUIET = LoopOptions(progress=False, fetch_every=3)


def reference(steps: int) -> str:
    state = toy.init(jax.random.key(0))
    update = jax.jit(toy.step)
    for k in range(steps):
        state, _ = update(state, toy.batches(k))
    return state_digest(state)


def test_loop_equals_the_plain_loop_and_traces_once():
    counted = CountTraces(toy.step)
    state = toy.init(jax.random.key(0))
    final = train(counted, state, toy.batches, steps=10, options=QUIET)
    assert counted.traces == 1
    assert state_digest(final) == reference(10)
    assert not state.weights.is_deleted(), "the caller's state stays valid"


def test_a_state_that_a_function_returns_is_held_once(monkeypatch):
    """While it is placed there is one leaf more than the state has, and none afterwards."""
    shape, number, held = (12_345,), 5, []

    def count():
        gc.collect()
        held.append(sum(array.shape == shape for array in jax.live_arrays()))

    def placed(leaf, sharding):
        count()
        return place(leaf, sharding)

    def step(state, batch):
        return jax.tree.map(lambda leaf: leaf + 1, state), {"loss": jnp.zeros(())}

    states = [[jnp.full(shape, float(k)) for k in range(number)]]
    monkeypatch.setattr(training, "place", placed)
    options = dataclasses.replace(QUIET, mesh=make_mesh())
    final = train(step, states.pop, lambda k: count(), steps=2, options=options)
    assert held[:number] == [number] * number and held[number] == number, held
    assert [float(leaf[0]) for leaf in final] == [2 + k for k in range(number)]
    assert train(step, lambda: [1], None, steps=0) == [1]


class Three:
    """A dataset of three batches."""

    def __getitem__(self, k):
        return (3 * [np.ones(4, np.float32)])[k]


def test_a_dataset_of_grain_goes_on_at_its_place(tmp_path):
    """A run of two lives sees every example that one of one life sees, in its order."""
    data = grain.MapDataset.source([*map(np.float32, range(12))]).seed(3).shuffle()
    data = data.repeat().batch(4, drop_remainder=True)

    def step(state, batch):
        return {"seen": jnp.roll(state["seen"], -4).at[-4:].set(batch)}, {"loss": batch.sum()}

    first = {"seen": jnp.zeros(24)}
    whole = train(step, first, data, steps=6, options=QUIET)["seen"]
    assert sorted(whole[:12].tolist()) == sorted(whole[12:].tolist()) == [*range(12)]
    with Checkpoints(tmp_path) as checkpoints:
        train(step, first, data, steps=2, options=QUIET, checkpoints=checkpoints)
        start, state, _ = checkpoints.restore(first)
    again = train(step, state, data, steps=6, start=start, options=QUIET)
    np.testing.assert_array_equal(again["seen"], whole)
    with pytest.raises(ValueError, match=r"3 of them.*last for all 6 updates"):
        train(step, first, Three(), steps=6, options=QUIET)
    with pytest.raises(ValueError, match=r"3 of them.*last for all 6 updates"):
        train(step, first, jnp.ones((3, 4)), steps=6, options=QUIET)


def test_shardings_of_another_tree_are_refused():
    everywhere = NamedSharding(make_mesh(), PartitionSpec())
    state = {"p": {"a": jnp.ones(2), "b": jnp.ones(2)}, "q": jnp.ones(2)}
    others = {"p": everywhere, "r": everywhere}
    options = dataclasses.replace(QUIET, mesh=make_mesh(), shardings=others)
    with pytest.raises(ValueError):
        train(lambda s, b: (s, {}), state, None, steps=1, options=options)
    assert not state["q"].is_deleted()


def test_one_trace_with_weak_types_and_a_mesh():
    def step(state, batch):
        return {"x": state["x"] + batch.mean(), "n": state["n"] + 1}, {"x": state["x"].sum()}

    options = LoopOptions(progress=False, mesh=make_mesh())
    counted = CountTraces(step)
    batch = np.ones((8, 2), np.float32)
    final = train(counted, {"x": jnp.zeros(3), "n": 0}, [batch] * 5, steps=5, options=options)
    assert counted.traces == 1
    assert int(final["n"]) == 5
    np.testing.assert_allclose(final["x"], 5)


def test_the_state_is_donated():
    pointers = []
    jitted = jax.jit(lambda s, b: (s + 1, {}), donate_argnums=0)

    def step(state, batch):
        before = state
        after = jitted(state, batch)
        pointers.append(before.is_deleted())
        return after

    step.lower = None  # a function that is jitted already is used as it is
    train(step, jnp.zeros(1000), None, steps=3, options=QUIET)
    assert pointers == [True, True, True]
    compiled = jitted.lower(jnp.zeros(1000), None).as_text()
    assert "jax.buffer_donor" in compiled or "tf.aliasing_output" in compiled


def test_what_is_fixed_is_an_argument_of_the_program_and_in_no_state():
    frozen = jnp.arange(1000.0)

    def step(state, batch, frozen):
        return state + frozen[1] * batch.mean(), {}

    counted = CountTraces(step)
    options = LoopOptions(progress=False, fixed=frozen)
    final = train(counted, jnp.float32(0.0), [jnp.ones(2)] * 3, steps=3, options=options)
    assert float(final) == 3.0 and counted.traces == 1 and not frozen.is_deleted()


def test_an_evaluation_without_rewards_ends_the_run_resumably(tmp_path):
    def evaluate(k, state):
        if k == 4:
            raise RewardUnavailable("nobody answers")
        return {"gold": 1.0}

    options = LoopOptions(progress=False, fetch_every=3, evaluate_every=2, evaluate=evaluate)
    with (
        Checkpoints(tmp_path / "c") as checkpoints,
        MetricsLog(tmp_path / "metrics.jsonl") as log,
        pytest.raises(RewardUnavailable, match=r"nobody answers; update 4 of 9 is saved: --out"),
    ):
        train(
            toy.step,
            toy.init(jax.random.key(0)),
            toy.batches,
            steps=9,
            log=log,
            checkpoints=checkpoints,
            options=options,
        )
    assert checkpoints.steps() == [4]
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and "gold" not in rows[-1]


def test_a_second_trace_is_reported():
    batches = [jnp.ones((8, 3)), jnp.ones((4, 3))]
    with pytest.warns(RunWarning, match="traced a second time"):
        train(toy.step, toy.init(jax.random.key(0)), batches, steps=2, options=QUIET)


def test_every_update_has_one_line_and_evaluations_join_them(tmp_path):
    options = LoopOptions(
        progress=False, fetch_every=4, evaluate_every=5, evaluate=lambda k, s: {"gold": k / 10}
    )
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        train(toy.step, toy.init(jax.random.key(0)), None, steps=12, log=log, options=options)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert {row["step"]: row["gold"] for row in rows if "gold" in row} == {5: 0.5, 10: 1.0, 12: 1.2}
    assert all(row["update/finite"] is True and row["loss"] > 0 for row in rows)


def test_too_many_skipped_updates_stop_the_run_and_name_the_last_good_step(tmp_path):
    def batches(k):
        return toy.batches(k) * (jnp.nan if k >= 7 else 1)

    options = LoopOptions(progress=False, fetch_every=2, checkpoint_every=3, max_skipped=4)
    with (
        Checkpoints(tmp_path / "c") as checkpoints,
        MetricsLog(tmp_path / "metrics.jsonl") as log,
        pytest.raises(RunError, match="last good step is 7, the newest checkpoint is step 9"),
    ):
        train(
            toy.step,
            toy.init(jax.random.key(0)),
            batches,
            steps=50,
            log=log,
            checkpoints=checkpoints,
            options=options,
        )
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["update/finite"] for row in rows] == [True] * 7 + [False] * 3


def test_a_step_that_reports_nothing_is_watched_by_its_loss():
    def step(state, batch):
        return state + 1, {"loss": jnp.where(state < 6, 0.5, jnp.nan)}

    options = LoopOptions(progress=False, fetch_every=4, max_skipped=3)
    said = "3 updates in a row up to update 9 were not finite; the last good step is 6, nothing"
    with pytest.raises(RunError, match=said):
        train(step, jnp.int32(0), None, steps=20, options=options)


def test_a_reward_that_is_no_number_stops_the_run():
    def step(state, batch):
        return state + 1, {"reward/finite": state < 6}

    said = "returned NaN or inf at update 7; the last good step is 6"
    with pytest.raises(RunError, match=said):
        train(step, jnp.int32(0), None, steps=20, options=QUIET)


@pytest.mark.parametrize("every", [0, 2, 6])
def test_diverged_states_name_the_place_and_a_repair_that_works(tmp_path, every):
    """They are the fault of the weights before: a checkpoint of these would end the same way."""

    def step(weights, batch):
        grown = weights * 1e6
        return grown, state_metrics(jnp.where(jnp.isfinite(grown), -1, jnp.array([9, 4])))

    options = dataclasses.replace(QUIET, checkpoint_every=every)
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(RunError) as caught:
        train(step, jnp.float32(1), None, steps=20, checkpoints=checkpoints, options=options)
    said = str(caught.value)
    assert (
        "overflowed at update 7 (2 examples of its batch, first at the sampler's step 4), " in said
    )
    assert "with the weights of step 6; the last good step is 5" in said
    newest = {0: "nothing was saved", 2: "step 6", 6: "step 6"}[every]
    assert newest in said
    removed = f"remove {tmp_path / 'c' / '6'} and continue with --resume latest"
    assert said.endswith({0: "start again", 2: removed, 6: "start again"}[every])


def test_checkpoints_of_a_later_update_are_never_run_into(tmp_path):
    state = toy.init(jax.random.key(0))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state)
        checkpoints.wait()
        with pytest.raises(ValueError, match=r"holds steps \[5\] beyond start = 2"):
            train(toy.step, state, None, steps=9, start=2, checkpoints=checkpoints, options=QUIET)


def test_batches_that_end_early_are_refused():
    with pytest.raises(
        ValueError, match="batches: received '2 of them'; they must last for all 9 updates"
    ):
        train(toy.step, toy.init(jax.random.key(0)), [jnp.ones((2, 3))] * 2, steps=9, options=QUIET)


def test_nothing_to_do_returns_the_state():
    state = toy.init(jax.random.key(0))
    assert train(toy.step, state, None, steps=4, start=4, options=QUIET) is state


def test_first_signal_saves_and_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    def batches(k):
        if k == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return toy.batches(k)

    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        with pytest.raises(
            RunInterrupted, match=r"update 6 of 50 is saved; .*--resume latest"
        ) as e:
            train(
                toy.step,
                toy.init(jax.random.key(0)),
                batches,
                steps=50,
                checkpoints=checkpoints,
                options=QUIET,
            )
        assert checkpoints.steps() == [6]
        restored = checkpoints.restore(toy.init(jax.random.key(1)))
    assert e.value.signum == signal.SIGTERM
    assert state_digest(restored.state) == reference(6)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("moment", ["update", "evaluation", "save"])
def test_a_signal_at_the_end_of_a_stage_is_honored(tmp_path, moment):
    """Not the next stage: what came in the last update, its evaluation or its save is heard."""

    def arrives(now):
        if now == moment:
            os.kill(os.getpid(), signal.SIGTERM)

    def batches(k):
        arrives("update" if k == 3 else "")
        return toy.batches(k)

    def evaluate(k, state):
        arrives("evaluation")

    class Saving(Checkpoints):
        def save(self, *arguments):
            arrives("save")
            super().save(*arguments)

    options = dataclasses.replace(QUIET, evaluate=evaluate)
    with (
        Saving(tmp_path / "checkpoints") as checkpoints,
        pytest.raises(RunInterrupted, match="stopped by SIGTERM; update 4 of 4 is saved"),
    ):
        state = toy.init(jax.random.key(0))
        train(toy.step, state, batches, steps=4, checkpoints=checkpoints, options=options)
    assert Checkpoints(tmp_path / "checkpoints").steps() == [4]


def test_a_signal_after_the_last_look_is_heard_outside():
    """Given on to whoever listens there: a command, or the system's own way."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as stopped, ending_at_signals():
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.received == signal.SIGTERM
        pytest.fail("it was swallowed")
    assert stopped.value.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before and not StopSignals.listening


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_ignores_is_heard_later():
    """What a handler raises while garbage is collected goes to nobody; JAX has a callback there."""

    def collected(*_):
        if not sent:
            sent.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    sent: list[int] = []
    with ending_at_signals():
        gc.callbacks.append(collected)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(collected)
        with pytest.raises(Stopped), StopSignals() as signals:
            signals.check()
        with pytest.raises(Terminated):
            stop_point()
    stop_point()


def test_a_trace_of_a_few_updates(tmp_path):
    state = toy.init(jax.random.key(0))
    options = LoopOptions(progress=False, profile=tmp_path / "profile")
    final = train(toy.step, state, toy.batches, steps=4, options=options)
    assert state_digest(final) == reference(4)
    assert [*(tmp_path / "profile").rglob("*.xplane.pb")]


@pytest.mark.parametrize("name", ["start_trace", "stop_trace"])
def test_a_profiler_never_stops_a_run(tmp_path, monkeypatch, name):
    def fails(*args):
        raise RuntimeError("another trace runs")

    monkeypatch.setattr(jax.profiler, "start_trace", lambda *args: None)
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda *args: None)
    monkeypatch.setattr(jax.profiler, name, fails)
    options = LoopOptions(progress=False, profile=tmp_path)
    with pytest.warns(
        RunWarning, match="--profile: there is no trace .RuntimeError: another trace"
    ):
        final = train(toy.step, toy.init(jax.random.key(0)), toy.batches, steps=10, options=options)
    assert state_digest(final) == reference(10)


def test_a_folder_that_vanishes_ends_the_run(tmp_path):
    """Moved away in the middle: an error at once, and nothing is made where it was."""
    folder = tmp_path / "a"

    def batches(k):
        if k == 5:
            checkpoints.wait()
            folder.rename(tmp_path / "b")
        return toy.batches(k)

    with (
        pytest.raises(RunError, match="is no longer there"),
        Checkpoints(folder / "checkpoints") as checkpoints,
        MetricsLog(folder / "metrics.jsonl") as log,
    ):
        options = LoopOptions(progress=False, fetch_every=1, checkpoint_every=2)
        state = toy.init(jax.random.key(0))
        train(toy.step, state, batches, steps=50, log=log, checkpoints=checkpoints, options=options)
    assert not folder.exists()
    assert len(read_metrics(tmp_path / "b" / "metrics.jsonl")) == 6


def wait_for_step(folder, step: int) -> None:
    deadline = time.monotonic() + 60
    while not (folder / "checkpoints" / str(step) / "_CHECKPOINT_METADATA").exists():
        assert time.monotonic() < deadline, "no checkpoint within a minute"
        time.sleep(0.01)


def test_kill_9_and_resume_is_bitwise(tmp_path):
    folder = os.fspath(tmp_path)
    process = start_python(os.fspath(TOY), "--folder", folder, "--pause", "0.05")
    wait_for_step(tmp_path, 10)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    status, out, err = run_python(os.fspath(TOY), "--folder", folder)
    assert status == 0, err
    start = int(re.findall(r"start (\d+)", out)[0])
    assert 10 <= start < 40
    assert out.split()[-1] == reference(40)
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 41))


def test_sigterm_of_a_process_saves_and_says_how_to_continue(tmp_path):
    process = start_python(os.fspath(TOY), "--folder", os.fspath(tmp_path), "--pause", "0.05")
    wait_for_step(tmp_path, 5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    last = err.strip().splitlines()[-1]
    saved = int(re.findall(r"stopped by SIGTERM; update (\d+) of 40 is saved", last)[0])
    assert f"--out {tmp_path} --resume latest" in last
    assert Checkpoints(tmp_path / "checkpoints").steps()[-1] == saved
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, saved + 1))


def test_a_second_signal_ends_the_process_at_once(tmp_path):
    process = start_python(os.fspath(TOY), "--folder", os.fspath(tmp_path), "--pause", "4")
    assert process.stdout is not None
    assert process.stdout.readline() == "start 0\n"
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=3)
    assert process.returncode == -signal.SIGTERM
