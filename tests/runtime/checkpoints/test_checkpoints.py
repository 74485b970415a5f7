"""Checkpoints: bit for bit, and what happens when the disk lies."""

import errno
import json
import os
import shutil
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ctrl_jax.runtime import (
    Checkpoints,
    MissingCheckpointError,
    RunError,
    RunWarning,
    state_digest,
)
from ctrl_jax.runtime.checkpoints.damage import proves_damage
from tests.runtime.processes import run_python

# Orbax leaves coroutines behind when it fails to read a damaged array.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class State(NamedTuple):
    """A state with everything that is awkward to store."""

    params: dict
    key: jax.Array
    keys: jax.Array
    count: jax.Array
    empty: jax.Array
    nothing: None = None


def make_state(seed: int = 0) -> State:
    key = jax.random.key(seed)
    params = {
        "a/b": jax.random.normal(key, (7, 5)),
        "half": jax.random.normal(key, (3,), jnp.bfloat16),
        "special": jnp.array([jnp.nan, -0.0, jnp.inf]),
    }
    keys = jax.random.split(jax.random.key(1, impl="rbg"), 3)
    return State(params, key, keys, jnp.int32(seed), jnp.zeros((0, 4)))


def flip_bits(folder) -> int:
    """Flips one bit in the middle of every data file; returns how many files there were."""
    files = [p for p in (folder / "state").rglob("*") if p.parent.name == "d"]
    for path in files:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    return len(files)


def test_round_trip_is_bitwise_with_keys(tmp_path):
    state = make_state()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, {"note": "x", "loss": 0.1})
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(make_state(1))
    assert restored.step == 3
    assert restored.record == {"note": "x", "loss": 0.1}
    assert state_digest(restored.state) == state_digest(state)
    assert isinstance(restored.state, State)
    draw = jax.random.normal(restored.state.key, (4,))
    np.testing.assert_array_equal(draw, jax.random.normal(state.key, (4,)))


def test_arrays_of_the_host_keep_their_bits(tmp_path):
    """JAX has no 64 bits here: what NumPy gave goes back to NumPy."""
    numbers = np.random.default_rng(0).normal(size=(3, 2))
    types = (np.float64, np.float32, jnp.bfloat16, np.int64)
    state = {np.dtype(t).name: numbers.astype(t) for t in types} | {"none": np.empty((0, 2))}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        restored = checkpoints.restore(jax.tree.map(np.empty_like, state)).state
    assert all(isinstance(array, np.ndarray) for array in restored.values())
    assert state_digest(restored) == state_digest(state)


def test_restores_to_an_abstract_target(tmp_path):
    state = make_state()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        restored = checkpoints.restore(jax.eval_shape(lambda: state))
    assert state_digest(restored.state) == state_digest(state)


def test_digest_sees_names_dtypes_shapes_and_bits():
    base = {"a": jnp.zeros(4), "b": jnp.ones(2)}
    others = [
        {"a": jnp.zeros(4), "c": jnp.ones(2)},
        {"a": jnp.zeros(4, jnp.int32), "b": jnp.ones(2)},
        {"a": jnp.zeros((2, 2)), "b": jnp.ones(2)},
        {"a": -jnp.zeros(4), "b": jnp.ones(2)},
    ]
    digests = {state_digest(tree) for tree in [base, *others]}
    assert len(digests) == 5
    assert state_digest(dict(reversed(base.items()))) == state_digest(base)


def test_keeps_the_newest(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(step, {"x": jnp.full(3, step)})
        checkpoints.wait()
        assert checkpoints.steps() == [3, 4]
        assert checkpoints.restore({"x": jnp.zeros(3, jnp.int32)}, step=3).state["x"][0] == 3
        with pytest.raises(MissingCheckpointError, match=r"received 1; .* holds \[3, 4\]"):
            checkpoints.restore({"x": jnp.zeros(3, jnp.int32)}, step=1)


def test_keeps_every_so_many(tmp_path):
    """Beside the newest, and through a restart."""
    for steps in ((1, 2, 3), (4, 5, 6, 7)):
        with Checkpoints(tmp_path, keep=1, keep_every=2) as checkpoints:
            for step in steps:
                checkpoints.save(step, {"x": jnp.full(3, step)})
    assert Checkpoints(tmp_path).steps() == [2, 4, 6, 7]
    with pytest.raises(ValueError, match="keep_every: received 0"):
        Checkpoints(tmp_path, keep_every=0)


def test_save_does_not_see_later_donation(tmp_path):
    double = jax.jit(lambda x: 2 * x + 1, donate_argnums=0)
    x = jnp.arange(200_000.0)
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3):
            expected = state_digest(x)
            checkpoints.save(step, x)
            x = double(x)
            assert state_digest(checkpoints.restore(x, step=step).state) == expected


def test_a_single_flipped_bit_in_array_data_is_noticed(tmp_path):
    """The bit lies in numbers that were stored raw, so that nothing but the digest sees it."""
    good = {"x": jax.random.bits(jax.random.key(0), (1000,))}
    later = {"x": jax.random.bits(jax.random.key(1), (1000,))}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, good)
        checkpoints.save(2, later)
    raw = np.asarray(later["x"]).tobytes()
    (path,) = [p for p in (tmp_path / "2").rglob("*") if p.is_file() and raw in p.read_bytes()]
    data = bytearray(path.read_bytes())
    data[data.index(raw) + 1234] ^= 1
    path.write_bytes(bytes(data))
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=r"the bits of \['x'\] are not those that were saved"):
            checkpoints.restore(good, step=2)
        with pytest.warns(RunWarning, match=r"the bits of .* kept as 2\.corrupt"):
            restored = checkpoints.restore(good)
    assert restored.step == 1
    assert state_digest(restored.state) == state_digest(good)


def test_flipped_bits_are_noticed_and_the_previous_step_is_used(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"x": jax.random.normal(jax.random.key(step), (1000,))})
    assert flip_bits(tmp_path / "2") > 0
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.warns(RunWarning, match=r"kept as 2\.corrupt"),
    ):
        restored = checkpoints.restore({"x": jnp.zeros(1000)})
    assert restored.step == 1
    np.testing.assert_array_equal(
        restored.state["x"], jax.random.normal(jax.random.key(1), (1000,))
    )
    assert (tmp_path / "2.corrupt").is_dir()
    assert not (tmp_path / "2").exists()


def test_every_single_bit_flip_in_the_data_is_noticed_or_harmless(tmp_path):
    x = {"x": jax.random.normal(jax.random.key(0), (50,))}
    with Checkpoints(tmp_path / "saved") as checkpoints:
        checkpoints.save(1, x)
    reader = Checkpoints(tmp_path / "saved", read_only=True)
    files = [p for p in (tmp_path / "saved" / "1").rglob("*") if p.is_file()]
    random = np.random.RandomState(0)
    noticed = 0
    for _ in range(30):
        path = files[random.randint(len(files))]
        good = path.read_bytes()
        data = bytearray(good)
        data[random.randint(len(data))] ^= 1 << random.randint(8)
        path.write_bytes(bytes(data))
        try:
            restored = reader.restore(x, step=1)
            assert state_digest(restored.state) == state_digest(x)
        except ValueError:
            noticed += 1
        path.write_bytes(good)
    assert noticed > 5


def edit_description(step_folder, edit) -> None:
    """Changes what a step says of itself, as JSON that stays well-formed."""
    (path,) = [p for p in (step_folder / "description").iterdir() if b'"seal"' in p.read_bytes()]
    sealed = json.loads(path.read_text())
    edit(sealed["content"])
    path.write_text(json.dumps(sealed))


@pytest.mark.parametrize(
    "edit",
    [
        lambda content: content["record"].update(loss=0.2),
        lambda content: content["versions"].update(jax="0.0.1"),
        lambda content: content.update(step=7),
    ],
)
def test_a_description_that_was_edited_is_noticed(tmp_path, edit):
    """The arrays are whole and nothing but the seal tells."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"x": jnp.full(3, step)}, {"loss": 0.1})
    edit_description(tmp_path / "2", edit)
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.warns(RunWarning, match=r"its description was changed on disk; .* 2\.corrupt"),
    ):
        restored = checkpoints.restore({"x": jnp.zeros(3, jnp.int32)})
    assert restored.step == 1 and restored.record == {"loss": 0.1}


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        PermissionError(errno.EACCES, "not yours"),
        OSError(errno.EIO, "no answer"),
        OSError(errno.ESTALE, "stale"),
        TimeoutError("the disk is slow"),
        ValueError("RESOURCE_EXHAUSTED: no room for 8 GiB"),
        ValueError("reading x: Input/output error"),
        RuntimeError("INTERNAL: the device says no"),
        caused(ValueError("it fails"), MemoryError("no room")),
        caused(KeyError("a"), OSError(errno.EMFILE, "too many")),
        ExceptionGroup("several", [ValueError("x"), MemoryError("no room")]),
    ],
    ids=repr,
)
def test_an_error_that_proves_no_damage_leaves_the_step(tmp_path, monkeypatch, error):
    """Want of memory or of a right says nothing of the step: it stays, and so does the error."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(3)})
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore({"x": jnp.zeros(3)})  # makes the reader

        def fails(*_, **__):
            raise error

        monkeypatch.setattr(checkpoints._reader, "restore", fails)
        for step in (None, 1):
            with pytest.raises(
                RunError, match=f"1 cannot be read now .{type(error).__name__}"
            ) as at:
                checkpoints.restore({"x": jnp.zeros(3)}, step=step)
            assert at.value.__cause__ is error
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_a_file_that_the_disk_does_not_give_is_no_damage(tmp_path, monkeypatch):
    """Whatever the reader makes of it: the bytes themselves cannot be had."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(3)})
    opened = type(tmp_path).open

    def refuses(path, *args, **kwargs):
        if "state" in path.parts:
            raise OSError(errno.EIO, "no answer")
        return opened(path, *args, **kwargs)

    assert proves_damage(ValueError("odd"), tmp_path / "1")
    assert proves_damage(FileNotFoundError(errno.ENOENT, "gone"), tmp_path / "1")
    monkeypatch.setattr(type(tmp_path), "open", refuses)
    assert not proves_damage(ValueError("odd"), tmp_path / "1")


def test_a_folder_that_vanishes_is_an_error(tmp_path):
    with Checkpoints(tmp_path / "a") as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(3)})
        checkpoints.wait()
        shutil.rmtree(tmp_path / "a")
        with pytest.raises(RunError, match="a is no longer there: it was moved or removed"):
            checkpoints.save(2, {"x": jnp.ones(3)})
    assert not (tmp_path / "a").exists()


def test_a_damaged_step_that_was_named_is_refused(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.arange(1000.0)})
    flip_bits(tmp_path / "1")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(ValueError, match=r"step: received .*/1'; "),
    ):
        checkpoints.restore({"x": jnp.zeros(1000)}, step=1)
    assert (tmp_path / "1").exists()


@pytest.mark.parametrize("name", ["²", "0007", "1.5"])
def test_a_folder_of_another_name_is_no_step(tmp_path, name):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(3)})
    shutil.copytree(tmp_path / "1", tmp_path / name)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        assert checkpoints.restore({"x": jnp.zeros(3)}).step == 1
        checkpoints.save(2, {"x": jnp.ones(3)})
    assert (tmp_path / name).is_dir() and (tmp_path / "2").is_dir()


def test_empty_and_half_written_steps_are_set_aside(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(3)})
    (tmp_path / "7").mkdir()
    (tmp_path / "8" / "state").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        with pytest.warns(RunWarning, match="not written to the end"):
            assert checkpoints.restore({"x": jnp.zeros(3)}).step == 1
        checkpoints.save(7, {"x": jnp.ones(3)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["1", "7", "7.corrupt", "8.corrupt"]


def test_read_only_leaves_everything_in_place(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(3)})
    (tmp_path / "7").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader = Checkpoints(tmp_path, read_only=True)
        assert reader.restore({"x": jnp.zeros(3)}).step == 1
    assert (tmp_path / "7").is_dir()
    with pytest.raises(ValueError, match="read_only"):
        reader.save(2, {"x": jnp.ones(3)})


def test_read_only_skips_a_damaged_step_and_leaves_it(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"x": jnp.full(1000, step)})
    flip_bits(tmp_path / "2")
    reader = Checkpoints(tmp_path, read_only=True)
    with pytest.warns(RunWarning, match="it is skipped, and the newest good one is used"):
        assert reader.restore({"x": jnp.zeros(1000, jnp.int32)}).step == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_nothing_to_restore(tmp_path):
    with Checkpoints(tmp_path / "absent") as checkpoints:
        assert checkpoints.steps() == []
        with pytest.raises(MissingCheckpointError, match="holds no checkpoint"):
            checkpoints.restore({"x": jnp.zeros(3)})


@pytest.mark.parametrize(
    ("target", "difference"),
    [
        ({"x": jnp.zeros(4), "y": jnp.zeros(())}, r"\['x'\]: saved float32\[3\], expected float32"),
        ({"x": jnp.zeros(3, jnp.bfloat16), "y": jnp.zeros(())}, r"expected bfloat16\[3\]"),
        ({"x": jnp.zeros(3)}, r"\['y'\]: saved float32\[\], expected nothing"),
        ({"x": jnp.zeros(3), "z": jnp.zeros(())}, r"\['z'\]: saved nothing, expected float32\[\]"),
        ([jnp.zeros(3), jnp.zeros(())], r"\[0\]: saved nothing"),
        ({"x": jax.random.key(0), "y": jnp.zeros(())}, r"expected key<fry>\[\]"),
    ],
)
def test_another_tree_is_refused_with_the_difference(tmp_path, target, difference):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(3), "y": jnp.ones(())})
        with pytest.raises(ValueError, match=difference):
            checkpoints.restore(target)
        assert checkpoints.steps() == [1]


def test_a_step_is_never_overwritten(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(3)})
        checkpoints.wait()
        with pytest.raises(ValueError, match="received 1"):
            checkpoints.save(1, {"x": jnp.zeros(3)})


FULL_DISK = """
import resource, sys
import jax.numpy as jnp, jax
from ctrl_jax.runtime import Checkpoints, RunError
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, {"x": jnp.ones(10)})
checkpoints.wait()
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    checkpoints.save(2, {"x": jax.random.normal(jax.random.key(0), (1_000_000,))})
    checkpoints.wait()
except RunError as error:
    print("clear:", error)
print(checkpoints.steps(), checkpoints.restore({"x": jnp.zeros(10)}).step)
"""


def test_a_failed_write_is_reported_and_the_previous_step_stays(tmp_path):
    status, out, err = run_python("-c", FULL_DISK, os.fspath(tmp_path))
    assert status == 0, err
    assert "clear: " in out and "could not be written" in out and "good steps on disk: [1]" in out
    assert out.endswith("[1] 1\n") and "Traceback" not in err, err


def test_the_record_must_be_plain(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match="plain"):
            checkpoints.save(1, {"x": jnp.ones(3)}, {"f": object()})
        checkpoints.save(1, {"x": jnp.ones(3)}, {"nan": float("nan"), "x": np.float32(0.5)})
        record = checkpoints.restore({"x": jnp.ones(3)}).record
    assert json.dumps(record) == '{"nan": null, "x": 0.5}'
