"""Mesh, sharded batches and several processes, on simulated devices."""

import os
import re
import signal
import time

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType

from ctrl_jax.runtime import Checkpoints, MeshOptions, check_batch, make_mesh, start
from tests.runtime import toy
from tests.runtime.processes import TOY, free_port, run_python, start_python

EIGHT = """
import warnings; warnings.simplefilter("error")
import jax, jax.numpy as jnp, numpy as np, sys
from jax.sharding import NamedSharding, PartitionSpec as P
from ctrl_jax.runtime import *
mesh = make_mesh(MeshOptions(model=2))
assert dict(mesh.shape) == {"data": 4, "model": 2}, mesh
batch = shard_batch(mesh, {"x": np.arange(24.0).reshape(8, 3), "n": 3})
assert batch["x"].sharding.spec == P("data") and batch["x"].dtype == jnp.float32
assert {s.data.shape for s in batch["x"].addressable_shards} == {(2, 3)}
from ctrl_jax.algorithms import Batch
table = Batch(np.ones(8), (np.ones((3, 5)), np.ones(3)), rows=np.zeros(8, int))
asked = shard_batch(mesh, {"own": table, "x": np.ones(4)})
assert {leaf.sharding.spec for leaf in jax.tree.leaves(asked["own"].conditions)} == {P()}
for cut in (asked["own"].weights, asked["own"].rows, asked["x"]):
    assert cut.sharding.spec == P("data")
assert asked["own"].prompts is None
for bad in (lambda: shard_batch(mesh, np.ones((6, 2))), lambda: make_mesh(MeshOptions(16))):
    try:
        bad()
        raise SystemExit("accepted")
    except ValueError as error:
        print(error)
from tests.runtime import toy
options = LoopOptions(progress=False, mesh=make_mesh(), fetch_every=2, checkpoint_every=2)
counted = CountTraces(toy.step)
with Checkpoints(sys.argv[1]) as checkpoints:
    state = train(counted, toy.init(jax.random.key(0)), toy.batches, steps=4,
                  checkpoints=checkpoints, options=options)
    assert counted.traces == 1, "Orbax, loaded late, changes the key of the trace"
    assert len(state.weights.sharding.device_set) == 8
    w = NamedSharding(make_mesh(), P("data"))
    target = state._replace(weights=jax.ShapeDtypeStruct((64, 33), jnp.float32, sharding=w))
    restored = checkpoints.restore(target)
    assert restored.state.weights.sharding == w, restored.state.weights.sharding
    assert state_digest(restored.state) == state_digest(state)
    single = train(toy.step, toy.init(jax.random.key(0)), toy.batches, steps=4,
                   options=LoopOptions(progress=False))
    np.testing.assert_allclose(single.weights, state.weights, rtol=1e-5, atol=1e-6)
"""


def test_one_device_mesh():
    mesh = make_mesh()
    assert mesh.axis_names == ("data", "model")
    assert set(mesh.axis_types) == {AxisType.Auto}
    with pytest.raises(ValueError, match="data x model must"):
        make_mesh(MeshOptions(data=jax.device_count() + 1))
    with pytest.raises(ValueError, match=r"mesh.model: received 0"):
        make_mesh(MeshOptions(model=0))


def test_the_batch_must_divide():
    mesh = AbstractMesh((4, 1), ("data", "model"))
    check_batch(mesh, 8, "--batch")
    with pytest.raises(ValueError, match=r"--batch: received 6; .*4 devices.*; give 8"):
        check_batch(mesh, 6, "--batch")


def test_eight_devices(tmp_path):
    status, out, err = run_python("-c", EIGHT, str(tmp_path / "c"), JAX_NUM_CPU_DEVICES="8")
    assert status == 0, err
    assert "batch: received 6; the mesh's data axis has 4 devices" in out
    assert "must not exceed the 8 devices" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("off", "a:1", 2, 0), "do not apply with distributed off"),
        (("auto", "a:1", None, 0), "all three or none"),
        (("on", "nowhere", 2, 0), "it must be host:port"),
        (("on", "a:1", 2, 2), "below processes = 2"),
        (("on", "a:1", 0, 0), "processes: received 0"),
        (("on",), "could not be joined"),
    ],
)
def test_contradictory_distributed_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        start(*arguments)


def test_auto_and_off_stay_alone():
    assert start("off") is False
    assert start("auto") is False


TWO = """
import os, signal, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from ctrl_jax.runtime import *
from ctrl_jax.runtime.devices.distributed import on_the_first
port, rank, folder = sys.argv[1:]
assert start("on", f"127.0.0.1:{port}", 2, int(rank), heartbeat_seconds=10)
mesh = make_mesh()
assert mesh.shape["data"] == 2 and jax.process_count() == 2
os.chdir(folder)
run = open_run("toy", {}, out=None, resume="never", seed=0)
from tests.runtime import toy
halves = lambda k: np.asarray(toy.batches(k))[4 * int(rank) : 4 * int(rank) + 4]
def batches(k):
    if k == 3 and rank == "1":
        os.kill(os.getpid(), signal.SIGTERM)
    return halves(k)
options = LoopOptions(progress=False, mesh=mesh, fetch_every=1, checkpoint_every=2)
checkpoints = Checkpoints(run.checkpoints)
state = toy.init(jax.random.key(0))
# The signal comes in the last update of a stage, and the next one hears of it.
train(toy.step, state, batches, steps=4, options=LoopOptions(progress=False, mesh=mesh))
try:
    train(toy.step, state, halves, steps=2000, log=MetricsLog(run.metrics),
          checkpoints=checkpoints, options=options)
except RunInterrupted as error:
    print("stopped", error)
from ctrl_jax.algorithms import Batch
asked = Batch(jnp.ones(4), (np.arange(3.0),), rows=np.asarray([0, 2, 1, 1]))
own = own_part(mesh, asked)
assert own.rows.shape == own.weights.shape == (2,) and own.conditions[0].shape == (3,)
found = jax.jit(lambda b: b.gathered()[0], out_shardings=NamedSharding(mesh, P()))(
    shard_batch(mesh, own))
assert found.tolist() == [0, 2, 1, 1], found
everywhere = NamedSharding(mesh, P())
restored = checkpoints.restore(state, shardings=everywhere)
assert restored.state.key.sharding == restored.state.weights.sharding == everywhere
read = checkpoints._reader.restore
def fails(*_, **__):
    raise MemoryError("no room")
if rank == "1":
    checkpoints._reader.restore = fails
try:
    checkpoints._together(1, lambda: checkpoints._read_description(restored.step))
    raise SystemExit("it goes on without the other process")
except RunError as error:
    assert ("by another process" in str(error)) == (rank == "0"), error
checkpoints._reader.restore = read
seen = checkpoints.steps
if rank == "1":
    checkpoints.steps = lambda: []  # a disk that shows this host later what is there
for does in (
    lambda: checkpoints.save(restored.step, state),
    lambda: train(toy.step, state, halves, steps=9, checkpoints=checkpoints, options=options),
):
    try:
        does()
        raise SystemExit("it goes on with what is there")
    except ValueError as error:
        assert "holds" in str(error), error
checkpoints.steps = seen
from ctrl_jax.runtime.run.arrays import keep_arrays, kept_arrays
if rank == "0":
    keep_arrays("kept.npz", {"x": np.ones(2)})
assert kept_arrays("kept.npz" if rank == "0" else "later.npz") is None
def full():
    raise OSError(28, "full")
try:
    on_the_first(full)
    raise SystemExit("it goes on without the first")
except (OSError if rank == "0" else ValueError) as error:
    assert "full" in str(error)
of_one_process = Checkpoints("one").restore(state, shardings=everywhere)
assert state_digest(of_one_process.state) == state_digest(state)
again = train(toy.step, restored.state, halves, steps=restored.step + 2, start=restored.step,
              options=LoopOptions(progress=False, mesh=mesh))
from ctrl_jax.rewards import RewardError
from tests.runtime import outside_toy
def ask(k, shown):
    assert shown.shape == (4, 16, 5)
    if k == 1 and rank == "1":
        raise RewardError("no font")
    return outside_toy.ask(k, shown)
step = OutsideStep(outside_toy.collect, ask, outside_toy.learn)
part = lambda k: outside_toy.batches(k)[4 * int(rank) : 4 * int(rank) + 4]
first = in_flight(outside_toy.init(jax.random.key(0)))
outside = train_outside(step, first, part, steps=4, overlap=True,
                        options=LoopOptions(progress=False, mesh=mesh)).state
assert int(outside.skips.total) == 1 and int(outside.policy.optimizer) == 3
print(run.folder.name, restored.step, state_digest(again), state_digest(outside))
checkpoints.close()
"""


ACROSS = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from ctrl_jax.runtime import *
from ctrl_jax.runtime.checkpoints.digests import host_array
from ctrl_jax.runtime.devices.mesh import agreed_rows, own_rows
port, rank = sys.argv[1], int(sys.argv[2])
start("on", f"127.0.0.1:{port}", 2, rank, heartbeat_seconds=10)
whole = {"x": np.arange(24.0).reshape(8, 3), "n": 3}
for model in (1, 2, 4):
    mesh = make_mesh(MeshOptions(model=model))
    batch = shard_batch(mesh, {"x": own_part(mesh, whole["x"]), "n": 3})
    assert batch["x"].shape == (8, 3)
    found = jax.jit(lambda b: b["x"] * 1.0, out_shardings=NamedSharding(mesh, P()))(batch)
    assert np.array_equal(found, whole["x"]), (model, found)
    doubled = jax.jit(lambda b: 2 * b["x"])(batch)
    mine = own_rows(doubled)
    assert np.array_equal(mine, 2 * own_part(mesh, whole["x"])), (model, mine)
    # What two processes find of rows that both hold may differ: one of them decides.
    told = shard_batch(mesh, agreed_rows(mesh, mine + rank))
    seen = host_array(told)
    shared = model == 4
    assert np.array_equal(seen[:4], 2 * whole["x"][:4])
    assert np.array_equal(seen[4:], 2 * whole["x"][4:] + (0 if shared else 1)), (model, seen)
    weights = jax.device_put(np.arange(32.0).reshape(4, 8), NamedSharding(mesh, P("data", "model")))
    assert np.array_equal(host_array(weights), np.arange(32.0).reshape(4, 8))
    if model < 4:
        try:
            own_part(mesh, np.ones(7))
            raise SystemExit("seven rows are taken")
        except ValueError as error:
            assert "received 7" in str(error)
print("agreed")
"""


def test_rows_where_an_axis_spans_processes():
    """A batch over two processes of two devices is the batch, whichever axis is cut by them."""
    port = str(free_port())
    pair = [start_python("-c", ACROSS, port, str(rank), JAX_NUM_CPU_DEVICES="2") for rank in (0, 1)]
    try:
        results = [process.communicate(timeout=100) for process in pair]
    finally:
        for process in pair:
            process.kill()
    assert [out.splitlines()[-1:] for out, _ in results] == [["agreed"]] * 2, results


@pytest.mark.slow
def test_two_processes_agree_on_the_folder_the_stop_and_the_state(tmp_path):
    state = toy.init(jax.random.key(0))
    with Checkpoints(tmp_path / "one") as checkpoints:
        checkpoints.save(1, state)
    port = str(free_port())
    pair = [start_python("-c", TWO, port, str(rank), str(tmp_path)) for rank in (0, 1)]
    try:
        results = [process.communicate(timeout=100) for process in pair]
    finally:
        for process in pair:
            process.kill()
    assert [process.returncode for process in pair] == [0, 0], results[0][1] + results[1][1]
    assert results[0][0].splitlines()[-1] == results[1][0].splitlines()[-1]
    assert "stopped by SIGTERM" in results[0][0]
    # One process goes on from what two have saved.
    (saved,) = (tmp_path / "runs" / "toy").glob("*/checkpoints")
    restored = Checkpoints(saved).restore(state)
    sharding = restored.state.weights.sharding
    assert sharding == state.weights.sharding and restored.step >= 1
    assert not jnp.array_equal(restored.state.weights, state.weights)


def pair_of(folder, pause):
    """Two processes of one toy run."""
    at = f"127.0.0.1:{free_port()}"
    given = ["--folder", os.fspath(folder), "--pause", str(pause), "--coordinator", at, "--rank"]
    return [start_python(os.fspath(TOY), *given, rank) for rank in "01"]


@pytest.mark.parametrize("kills", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_are_killed_and_end_as_if_nobody_had(kills, tmp_path):
    """One of them first, whose fellow ends by itself; then both; lines are there once."""
    kept = tmp_path / "killed" / "checkpoints"
    said, running = {}, []
    try:
        for killed, beyond in ((1, 5), (2, 15))[:kills]:
            running = pair_of(tmp_path / "killed", 0.05)
            while not (kept / f"{beyond}").exists():
                assert all(process.poll() is None for process in running), running[0].communicate()
                time.sleep(0.01)
            for process in running[2 - killed :]:
                process.kill()
            statuses = [process.wait(60) for process in running]
            assert 0 not in statuses and statuses[1] == -signal.SIGKILL, statuses
            assert killed == 1 or statuses[0] == -signal.SIGKILL
        for name in ("whole", "killed"):
            running = pair_of(tmp_path / name, 0.0)
            found = [process.communicate(timeout=100) for process in running]
            assert [process.returncode for process in running] == [0, 0], found
            each = [re.findall("^(?:start|digest) .*", out, re.MULTILINE) for out, _ in found]
            assert each[0] == each[1]
            said[name] = each[0]
    finally:
        for process in running:
            process.kill()
    start, digest = said["killed"]
    assert int(start.split()[1]) >= (5, 15)[kills - 1] and said["whole"] == ["start 0", digest]
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in said]
    assert lines[0] == lines[1] and len(lines[0].splitlines()) == 40
