"""The same pairs in every file that people have, and damaged ones in a line."""

import bz2
import gzip
import json
import lzma
import shutil
import sys

import pytest

from ctrl_jax.data import compressed, read_preferences
from ctrl_jax.data.preferences.file import read_files

RECORDS = [
    {"prompt": f"{n} é", "chosen": " a", "rejected": " b", "weight": n, "id": n} for n in range(5)
]
EXPECTED = [(f"{n} é", " a", " b", float(n)) for n in range(5)]
LINES = "\n".join(map(json.dumps, RECORDS)).encode()
PACKED = {
    ".jsonl": LINES,
    ".json": json.dumps(RECORDS, indent=2).encode(),
    "-compact.json": json.dumps(RECORDS).encode(),
    "-windows.json": b"\xef\xbb\xbf\r\n" + json.dumps(RECORDS).encode(),
    ".jsonl.gz": gzip.compress(LINES),
    ".json.gz": gzip.compress(json.dumps(RECORDS).encode()),
    ".jsonl.bz2": bz2.compress(LINES),
    ".jsonl.xz": lzma.compress(LINES),
}


def pairs_of(path, **options):
    return [record[:4] for record in read_preferences(path, **options)]


@pytest.mark.parametrize("suffix", PACKED)
def test_json_compressed_or_not(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACKED[suffix])
    assert pairs_of(path) == EXPECTED
    path = path.rename(tmp_path / "named otherwise")
    assert pairs_of(path) == EXPECTED


def test_a_fault_of_an_array_has_its_place(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([*RECORDS, RECORDS[0] | {"chosen": ""}, 3]))
    expected = r"a.json, record 6: chosen: received ''; .*; as faulty: record 7$"
    with pytest.raises(ValueError, match=expected):
        read_preferences(path)
    path.write_text(json.dumps(RECORDS, indent=2)[:-9])
    with pytest.raises(ValueError, match=r"^path .*a.json: received '\[.*it is no JSON") as caught:
        read_preferences(path)
    assert "\n" not in str(caught.value)


def test_what_is_compressed_and_damaged_or_a_bomb(tmp_path, monkeypatch):
    path = tmp_path / "a.gz"
    for damaged in (PACKED[".jsonl.gz"][:-9], PACKED[".jsonl.gz"][:30] + bytes(40)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^path: received .*a.gz'; it cannot be unpacked"):
            read_preferences(path)
    monkeypatch.setattr(compressed, "LARGE", 2**20)
    for pack in (gzip.compress, bz2.compress, lzma.compress):
        path.write_bytes(pack(bytes(2**21)))
        with pytest.raises(ValueError, match=r"bytes unpack to .* or more; .* uncompressed"):
            read_preferences(path)


def saved(table, folder, parts=1, splits=None):
    """As `datasets` saves a data set: arrow streams, and a list of them."""
    pa = pytest.importorskip("pyarrow")
    folder.mkdir(parents=True)
    names = [f"data-{n:05}-of-{parts:05}.arrow" for n in range(parts)]
    size = -(-len(table) // parts)
    for n, name in enumerate(names):
        with (
            pa.OSFile(str(folder / name), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as f,
        ):
            f.write_table(table.slice(n * size, size))
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": name} for name in names], "_split": splits})
    )
    (folder / "dataset_info.json").write_text("{}")
    (folder / "cache-1a2b.arrow").write_bytes(b"")


@pytest.fixture(scope="module")
def table():
    pa = pytest.importorskip("pyarrow")
    return pa.Table.from_pylist([r | {"dispersion": None, "note": None} for r in RECORDS])


def test_tables(table, tmp_path):
    from pyarrow import feather, ipc, parquet

    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    feather.write_feather(table, tmp_path / "a.feather")
    with ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table, 2)
    for path in sorted(tmp_path.iterdir()):
        assert pairs_of(path) == EXPECTED, path
        assert read_preferences(path, ignore=["weight"])[3].weight == 1
        found = read_files(path, name="data")
        assert found.unread == ["id"] and found.records[1].place == f"{path}, record 2"


def test_a_nested_table_has_messages(tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    ask = {"role": "user", "content": "Is it?", "name": None}
    yes, no = ({"role": "assistant", "content": c, "name": None} for c in ("Yes", "No"))
    rows = [{"prompt": "Is it?", "chosen": [ask, yes], "rejected": [ask, no]}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "a")
    (found,) = read_preferences(tmp_path / "a")
    plain = [{k: m[k] for k in ("role", "content")} for m in (ask, yes, no)]
    assert found[:3] == (plain[:1], plain[1:2], plain[2:])


def test_folders_that_datasets_has_saved(table, tmp_path):
    saved(table, tmp_path / "one", parts=3)
    assert pairs_of(tmp_path / "one") == EXPECTED
    saved(table, tmp_path / "two" / "train")
    saved(table.slice(3), tmp_path / "two" / "test")
    (tmp_path / "two" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert pairs_of(tmp_path / "two") == EXPECTED
    assert pairs_of(tmp_path / "two", split="test") == EXPECTED[3:]
    assert read_files(tmp_path / "two", name="data").others == ["test"]
    (tmp_path / "one" / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(
        ValueError, match=r"state.json lists data-00001-of-00003.arrow, which is mis"
    ):
        read_preferences(tmp_path / "one")


def test_folders_of_files(tmp_path):
    for name, part in (("2", RECORDS[2:3]), ("10", RECORDS[3:]), ("1", RECORDS[:2])):
        (tmp_path / f"part-{name}.jsonl").write_text("\n".join(map(json.dumps, part)))
    (tmp_path / "README.md").write_text("a")
    (tmp_path / ".part-0.jsonl.swp").write_text("a")
    assert pairs_of(tmp_path) == EXPECTED, "2 before 10"
    (tmp_path / "part-2.jsonl").write_text("{}")
    with pytest.raises(
        ValueError, match=r"part-2.jsonl:1: received \[\]; chosen and rejected must"
    ):
        read_preferences(tmp_path)


def lay(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(json.dumps(RECORDS[0] | {"prompt": name}))
    return folder


def test_of_several_splits_the_one_that_is_meant_is_read(tmp_path):
    names = [f"{kind}_{use}-00000-of-00001-0a1b2c3d4e5f.json" for kind in ("train", "test")
             for use in ("prefs", "sft", "gen")]  # fmt: skip
    folder = lay(tmp_path / "hub" / "data", *names).parent
    assert [r.prompt for r in read_preferences(folder)] == [names[0]]
    assert [r.prompt for r in read_preferences(folder, split="test")] == [names[3]]
    assert len(read_files(folder, name="data").others) == 5
    plain = lay(tmp_path / "plain", "train.jsonl", "validation.jsonl", "test.jsonl")
    assert [r.prompt for r in read_preferences(plain)] == ["train.jsonl"]
    assert [r.prompt for r in read_preferences(plain, split="test")] == ["test.jsonl"]
    lay(tmp_path / "ends" / "data", "pairs-training.jsonl", "pairs-testing.jsonl", "contest.jsonl")
    found = read_files(tmp_path / "ends", name="data")
    assert [r.prompt for r in found.records] == ["pairs-training.jsonl"]
    assert found.others == ["contest", "pairs-testing"]
    lay(tmp_path / "folders" / "train", "a.jsonl")
    lay(tmp_path / "folders" / "test", "b.jsonl")
    assert [r.prompt for r in read_preferences(tmp_path / "folders", split="test")] == ["b.jsonl"]
    assert read_files(tmp_path / "folders", name="data").others == ["test"]
    lay(tmp_path / "packed", "a.jsonl", "a.jsonl.gz")
    with pytest.raises(ValueError, match=r"it holds a.jsonl, a.jsonl.gz: the same, packed and not"):
        read_preferences(tmp_path / "packed")
    shutil.rmtree(tmp_path / "packed")
    several = lay(tmp_path / "several", "train_a.jsonl", "train_b.jsonl")
    with pytest.raises(ValueError, match="it holds train_a, train_b, which are several sets; give"):
        read_preferences(several)
    lay(tmp_path / "mixed", "a.jsonl", "b.json.gz")
    with pytest.raises(ValueError, match=r"files of several kinds, .json, .jsonl; give one"):
        read_preferences(tmp_path / "mixed")
    with pytest.raises(ValueError, match="but its folders mixed, plain, several do; give a file"):
        (tmp_path / "hub" / "data").rename(tmp_path / "hub" / "_data")
        read_preferences(tmp_path)


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for start, reason in ((b"PAR1", "tables need"), (b"\x28\xb5\x2f\xfd", "zstandard needs")):
        (tmp_path / "a").write_bytes(start + bytes(9))
        with pytest.raises(ValueError, match=rf"{reason} pyarrow.*; .*'ctrl_jax\[data\]'"):
            read_preferences(tmp_path / "a")


def test_zstandard_and_damaged_tables(table, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    with pa.CompressedOutputStream(tmp_path / "a.jsonl.zst", "zstd") as file:
        file.write(LINES)
    assert pairs_of(tmp_path / "a.jsonl.zst") == EXPECTED
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path)
    whole = path.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        whole[:4] + bytes(len(whole) - 4),
        whole[:4],
        b"FEA1",
    ):
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"^path: received .*cannot be read as a table"
        ) as error:
            read_preferences(path)
        assert "\n" not in str(error.value)


def test_a_table_that_unpacks_to_too_much(tmp_path, monkeypatch):
    import pyarrow as pa
    from pyarrow import parquet

    words = {"prompt": "p" * 10**6, "chosen": "a", "rejected": "b"}
    table = pa.Table.from_pylist([words] * 4)
    parquet.write_table(table, tmp_path / "a.parquet", compression="zstd")
    monkeypatch.setattr("ctrl_jax.data.compressed.LARGE", 2**20)
    with pytest.raises(ValueError, match=r"bytes unpack to \d+ or more; if it is meant so"):
        read_preferences(tmp_path / "a.parquet")


def test_a_pointer_in_the_place_of_a_file_is_named(tmp_path):
    path = tmp_path / "train.parquet"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=r"^path: received .*a pointer of Git LFS.*git lfs pull"):
        read_preferences(path)
