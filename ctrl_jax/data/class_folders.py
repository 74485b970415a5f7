"""Which folders in a folder are classes, and which label each is.

Folders whose names are whole numbers have these numbers as labels; others are numbered from 0 on in
the order of their names, numbers in them by value. An empty one is a class all the same. Hidden
ones and those of the system are none. Folders named train, test and the like are splits.
"""

import os
import warnings
from pathlib import Path

from ctrl_jax._checks import check_path, refuse
from ctrl_jax._errors import RunWarning
from ctrl_jax.data.natural_order import natural_order
from ctrl_jax.data.splits import Split, split_named

SYSTEM = frozenset({"@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"})
PICTURES = frozenset(
    (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm")
)
MOST = 2**31 - 1  # of a label


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures in a folder, by name; hidden files are none, others are told of."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "."]
    pictures = [file for file in files if file.suffix.lower() in PICTURES]
    if pictures and len(pictures) < len(files):
        count = len(files) - len(pictures)
        text = f"{folder}: {count} files that are not png or jpg or other images are left out"
        warnings.warn(text, RunWarning, stacklevel=4)
    return sorted(pictures)


def class_folders(path: str | os.PathLike[str]) -> dict[int, Path]:
    """Return the class folders of a folder of pictures, by their labels.

    Args:
        path: the folder.

    Raises:
        ValueError: two folders are one number, or a number is too large.
    """
    folders = sorted(inner_folders(Path(path)), key=natural_order)
    if not folders or not all(f.name.isascii() and f.name.isdigit() for f in folders):
        return dict(enumerate(folders))
    found: dict[int, Path] = {}
    for folder in sorted(folders, key=lambda folder: int(folder.name)):
        label = int(folder.name)
        if label in found or label > MOST:
            rule = f"{found[label].name} is the same" if label in found else f"{MOST} is the most"
            raise refuse("class folder", str(folder), f"it is a label; {rule}", "rename it")
        found[label] = folder
    return found


def class_names(path: str | os.PathLike[str]) -> dict[int, str]:
    """Return what the labels of a folder of class folders mean; nothing where it holds none.

    Args:
        path: the folder, or another kind of images, which has no names.

    Raises:
        ValueError: two folders are one number, or a number is too large.
    """
    check_path("path", path)
    path = Path(path)
    if not path.is_dir():
        return {}
    path = split_folder(path, "train") or path
    folders = class_folders(path)
    holding = any(holds_pictures(folder) for folder in folders.values())
    return {label: folder.name for label, folder in folders.items()} if holding else {}


def holds_pictures(path: Path) -> bool:
    """Return whether a path is a folder in which pictures lie."""
    return path.is_dir() and any(
        file.suffix.lower() in PICTURES and file.name[0] != "." for file in path.iterdir()
    )


def split_folder(path: Path, split: Split) -> Path | None:
    """Return the folder of a split, where all the folders in a folder are splits.

    Raises:
        ValueError: there are splits, and not the one that is asked for.
    """
    folders = sorted(inner_folders(path))
    if not folders or not all(split_named(folder.name) for folder in folders):
        return None
    fitting = [folder for folder in folders if split_named(folder.name) == split]
    exact = [folder for folder in fitting if folder.name.lower() == split]
    if len(exact or fitting) != 1:
        names = ", ".join(folder.name for folder in folders)
        rule = f"it holds the splits {names}, of which {split} was asked for"
        raise refuse("path", str(path), rule, "give the folder of one split")
    return (exact or fitting)[0]


def inner_folders(path: Path) -> list[Path]:
    """Return the folders in a folder that a user has made."""
    hidden = (".", "__")
    return [
        folder
        for folder in path.iterdir()
        if folder.is_dir() and not folder.name.startswith(hidden) and folder.name not in SYSTEM
    ]
