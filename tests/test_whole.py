"""Files and folders are whole or not there, and a bit that changes in a sealed one is noticed."""

import errno
import os
import subprocess
import warnings

import numpy as np
import pytest

from ctrl_jax._records import read_sealed, write_sealed
from ctrl_jax._sums import SUMS, changed_files, check_sums, write_sums
from ctrl_jax._whole import HOST, set_aside, sweep, whole_file, whole_folder
from ctrl_jax.runtime import RunWarning
from ctrl_jax.runtime.run.arrays import keep_arrays, kept_arrays


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), whole_file(path) as part:
        part.write_text("n")
        assert part.suffix == ".png" and path.read_text() == "old"
        raise OSError("full")
    assert names(tmp_path) == ["a.png"] and path.read_text() == "old"
    with whole_file(path) as part:
        part.write_text("new")
    assert names(tmp_path) == ["a.png"] and path.read_text() == "new"


def test_a_full_disk_names_the_file(tmp_path):
    """What writes knows no name: `OSError(ENOSPC)` of a file that is open says nothing of where."""
    for whole, path in ((whole_file, tmp_path / "a.json"), (whole_folder, tmp_path / "f")):
        with pytest.raises(OSError, match=f"No space left.*{path.name}") as said, whole(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert said.value.filename == str(path) and names(tmp_path) == []
        with pytest.raises(OSError) as said, whole(path):
            raise OSError(errno.ENOENT, "none", "another")
        assert said.value.filename == "another"


@pytest.mark.parametrize("error", ["open", "write"])
def test_an_error_names_the_file_and_not_its_part(tmp_path, monkeypatch, error):
    def refuses(part, *_, **__):
        raise OSError(errno.EROFS, "read-only", *([str(part)] if error == "open" else []))

    path = tmp_path / "a.json"
    monkeypatch.setattr(type(path), "write_text", refuses)
    with pytest.raises(OSError, match="read-only") as said, whole_file(path) as part:
        part.write_text("x")
    assert said.value.filename == str(path)


def test_of_an_error_with_two_names_the_files_alone_is_printed(tmp_path):
    """Of the last renaming, which here meets a folder."""
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError) as said, whole_file(tmp_path / "a.json") as part:
        part.write_text("x")
    assert str(said.value).endswith(f": '{tmp_path / 'a.json'}'")


def test_the_name_is_on_the_disk_too(tmp_path, monkeypatch):
    """What a power cut leaves of a rename is what of its folder is on the disk."""
    synced: list[tuple[str, bool]] = []
    sync = os.fsync

    def fsync(file):
        place = os.readlink(f"/proc/self/fd/{file}")
        synced.append((os.path.relpath(place, tmp_path), (tmp_path / "a" / "b.txt").exists()))
        sync(file)

    monkeypatch.setattr(os, "fsync", fsync)
    with whole_folder(tmp_path / "a") as unfinished:
        (unfinished / "c").mkdir()
        (unfinished / "c" / "d").touch()
    assert {name for name, _ in synced[:-1]} == {f"a.unfinished{n}" for n in ("", "/c", "/c/d")}
    assert synced.pop() == (".", False)
    with whole_file(tmp_path / "a" / "b.txt") as part:
        part.write_text("x")
    assert synced[-2:] == [(f"a/{part.name}", False), ("a", True)]

    def none(file):
        if os.path.isdir(f"/proc/self/fd/{file}"):
            raise OSError(errno.EINVAL, "folders are not synced here")

    monkeypatch.setattr(os, "fsync", none)
    with whole_file(tmp_path / "e") as part:
        part.write_text("x")
    assert (tmp_path / "e").exists()


def test_what_killed_programs_left_is_swept(tmp_path):
    # Above what the kernel gives.
    dead, living, mine = (f"{HOST}-{n}" for n in (2**22 + 7, os.getppid(), os.getpid()))
    left = [f".a.{dead}.part.json", f".b.{mine}.part", f"in/.c.d.{dead}.part.png"]
    kept = [f".a.{living}.part.json", f".lock.{dead}.part.json", "samples/.a.9.part.png"]
    kept += [f"notes.{dead}.part.txt", ".a.part.json", "model.unfinished", "a.json"]
    kept += [f".a.{2**22 + 7}.part.json", f".a.0a0a0a-{2**22 + 7}.part.json"]
    kept += [f"7/.a.{dead}.part.json", f"b.{living}.unfinished/x"]
    for name in (*left, *kept, f"b.{dead}.unfinished/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    removed = sweep(tmp_path, but=("samples", "lock.json"))
    assert {path.relative_to(tmp_path).as_posix() for path in removed} == {
        *left,
        f"b.{dead}.unfinished",
    }
    assert all((tmp_path / name).exists() for name in kept)
    assert not any(path.exists() for path in removed)


@pytest.mark.parametrize("shared", [False, True])
def test_a_folder_is_whole_or_not_there(tmp_path, shared):
    folder = tmp_path / "deep" / "a"
    with pytest.raises(OSError, match="full"), whole_folder(folder, shared=shared) as unfinished:
        (unfinished / "x").write_text("1")
        raise OSError("full")
    assert names(tmp_path / "deep") == []
    for text in ("1", "2"):
        with whole_folder(folder, replace=not shared, shared=shared) as unfinished:
            (unfinished / "x").write_text(text)
    # Of what several programs make, the first stays.
    assert (folder / "x").read_text() == ("1" if shared else "2")
    assert names(tmp_path / "deep") == ["a"]


def test_what_is_set_aside_keeps_what_was_before(tmp_path):
    for text in "ab":
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / text).touch()
        set_aside(tmp_path / "x")
    assert names(tmp_path) == ["x.corrupt", "x.corrupt-2"]
    assert names(tmp_path / "x.corrupt-2") == ["b"]


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "config.json").write_text('{"a": 1}')
    (folder / "unet" / "weights").write_bytes(bytes(range(40)))
    (folder / ".hidden").touch()
    write_sums(folder)
    return folder


def test_flips_in_a_folder_with_digests_is_noticed(sealed):
    assert changed_files(sealed) == {}
    check_sums(sealed)
    for path in (sealed / "config.json", sealed / "unet" / "weights", sealed / SUMS):
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole), 9):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            assert changed_files(sealed), (path.name, bit)
        path.write_bytes(whole)


def test_what_is_wrong_of_a_folder_is_said_and_can_be_repaired(sealed):
    (sealed / "unet" / "weights").unlink()
    (sealed / "config.json").write_text('{"a": 2}')
    with pytest.raises(ValueError, match=r"^model: received .*config.json.; its bits .*; write it"):
        check_sums(sealed)
    assert changed_files(sealed)["unet/weights"] == "it is not there"
    (sealed / SUMS).unlink()
    check_sums(sealed)


@pytest.mark.parametrize("line", ["x", "0" * 64 + "  ../a", "0" * 64 + "  /etc/passwd", ""])
def test_digests_lead_nowhere_else(sealed, line):
    (sealed / SUMS).write_text(f"{line}\n")
    assert [*changed_files(sealed)] == [SUMS]


def test_digests_are_those_of_sha256sum(sealed):
    subprocess.run(["sha256sum", "--quiet", "-c", SUMS], cwd=sealed, check=True)


def test_sealed_records(tmp_path):
    write_sealed(tmp_path / "a.json", {"chunks": 2, "x": [1.5, "b"]})
    how = {"name": "a.json", "repair": "remove it"}
    assert read_sealed(tmp_path / "a.json", **how) == {"chunks": 2, "x": [1.5, "b"]}
    text = (tmp_path / "a.json").read_text()
    (tmp_path / "a.json").write_text(text.replace('"chunks": 2', '"chunks": 3'))
    with pytest.raises(ValueError, match=r"a\.json: received .* it is not what was written"):
        read_sealed(tmp_path / "a.json", **how)


def test_kept_arrays_are_the_same_or_none(tmp_path):
    path = tmp_path / "a.npz"
    arrays = {"rewards/a": np.arange(3.0), "pictures": np.zeros((2, 1), np.uint8)}
    assert kept_arrays(path) is None
    keep_arrays(path, arrays, "of this model")
    assert kept_arrays(path, "of another") is None
    found = kept_arrays(path, "of this model")
    assert found is not None and found.keys() == arrays.keys()
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 61):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        with warnings.catch_warnings(category=RunWarning, action="ignore"):
            same = kept_arrays(path, "of this model")
        # A bit that the archive's readers pass over, such as of a time, changes nothing.
        assert same is None or all(np.array_equal(same[n], arrays[n]) for n in arrays)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(RunWarning, match="it was damaged on disk, and is computed again"):
        assert kept_arrays(path) is None
    assert os.listdir(tmp_path) == ["a.npz"]
