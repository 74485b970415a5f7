"""Which files a path means: one, or those of a folder that are one data set.

A folder is what `datasets` saves (`state.json` lists its files, `dataset_dict.json` its splits) or
holds files of one set, as collections are published: `train-00000-of-00002.parquet`, …, beside the
files of other splits (`pairs_train.jsonl`, `pairs_test.jsonl` too), maybe in a folder `data`, or in
a folder for each split. Of several splits the one that is asked for is read; which others there are
is said.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

from ctrl_jax._checks import refuse
from ctrl_jax.data.compressed import SUFFIXES
from ctrl_jax.data.natural_order import natural_order
from ctrl_jax.data.splits import Split, split_in, split_named

KINDS = (".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".feather")
NOT_DATA = re.compile(r"(dataset_infos?|dataset_dict|state|metadata|config)\.json|cache-.*\.arrow")
SHARD = re.compile(r"([-_.]\d+(-of-\d+)?(-[0-9a-f]{8,})?)?$")
# Parts of ultrafeedback_binarized that hold no preferences of their own.
OTHER_USES = re.compile(r"_(sft|gen)$")


class Shards(NamedTuple):
    """Files of one data set, and the names of what lies beside them and is not read."""

    files: list[Path]
    others: list[str]


def find_shards(path: Path, name: str, split: Split = "train") -> Shards:
    """Return the files that a path means.

    Args:
        path: a file, or a folder of one data set.
        name: what errors call it.
        split: which of several splits.

    Raises:
        ValueError: a folder without data, or whose files are several sets of which none is meant.
    """
    if not path.is_dir():
        return Shards([path], [])
    for splits in _splits_of(path):
        return _of_split(path, splits, name, split)
    if (path / "state.json").exists():
        return Shards(_saved_files(path, name), [])
    files = [file for file in sorted(path.iterdir(), key=natural_order) if _is_data(file)]
    if not files:
        folders = [p for p in path.iterdir() if p.is_dir() and p.name[0] not in "._"]
        inner = [folder for folder in folders if any(map(_is_data, folder.iterdir()))]
        if len(inner) == 1:
            return find_shards(inner[0], name, split)
        names = sorted(folder.name for folder in inner)
        if names and all(map(split_named, names)):
            return _of_split(path, names, name, split)
        found = f"it holds no {'|'.join(KINDS)}"
        if inner:
            found += f" itself, but its folders {', '.join(sorted(p.name for p in inner))} do"
        raise refuse(name, str(path), found, "give a file, or a folder of files of one kind")
    kinds = sorted({Path(_plain(file)).suffix for file in files})
    if len(kinds) > 1:
        rule = f"it holds files of several kinds, {', '.join(kinds)}"
        raise refuse(name, str(path), rule, "give one of them, or a folder of files of one kind")
    plain = [_plain(file) for file in files]
    twice = [file.name for file, own in zip(files, plain, strict=True) if plain.count(own) > 1]
    if twice:
        rule = f"it holds {', '.join(twice[:3])}: the same, packed and not"
        raise refuse(name, str(path), rule, "remove one of them, or give one")
    groups: dict[str, list[Path]] = {}
    for file in files:
        groups.setdefault(_stem(file), []).append(file)
    if not any(map(split_in, groups)):
        return Shards(files, [])
    chosen = _choose(list(groups), split, path, name)
    return Shards(groups[chosen], [group for group in groups if group != chosen])


def _of_split(path: Path, names: list[str], name: str, split: Split) -> Shards:
    """The files of the folder of a split, of those that are named, and the other names."""
    chosen = _choose(names, split, path, name)
    others = [other for other in names if other != chosen]
    return Shards(find_shards(path / chosen, name, split).files, others)


def _splits_of(path: Path) -> list[list[str]]:
    """The splits that `datasets` has saved there; none where it has not."""
    try:
        splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
        return [[Path(str(split)).name for split in splits]] if splits else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _saved_files(path: Path, name: str) -> list[Path]:
    try:
        listed = json.loads((path / "state.json").read_text())["_data_files"]
        files = [path / Path(item["filename"]).name for item in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        rule = f"its state.json is none of a data set ({type(error).__name__}: {error})"
        raise refuse(name, str(path), rule, "save it again") from error
    missing = [file.name for file in files if not file.exists()]
    if missing or not files:
        rule = f"state.json lists {', '.join(missing) or 'no file'}"
        raise refuse(name, str(path), f"{rule}, which is missing", "save it again")
    return files


def _choose(names: list[str], split: Split, path: Path, name: str) -> str:
    """The split that is meant: the only one, or the only one of its kind with preferences."""
    if len(names) == 1:
        return names[0]
    fitting = [n for n in names if split_in(n) == split]
    with_pairs = [n for n in fitting if not OTHER_USES.search(n)]
    exact = [n for n in with_pairs if n.lower() == split]
    for some in (exact, with_pairs, fitting):
        if len(some) == 1:
            return some[0]
    rule = f"it holds {', '.join(sorted(names))}, which are several sets"
    raise refuse(name, str(path), rule, "give one of them")


def _is_data(path: Path) -> bool:
    known = any(_plain(path).endswith(kind) for kind in KINDS)
    return known and path.is_file() and path.name[0] not in "._" and not NOT_DATA.match(path.name)


def _plain(path: Path) -> str:
    """The name without the suffix of a compression."""
    name = path.name.lower()
    return next((name.removesuffix(s) for s in SUFFIXES if name.endswith(s)), name)


def _stem(path: Path) -> str:
    return SHARD.sub("", _plain(path).rpartition(".")[0])
