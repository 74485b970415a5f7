"""The folders of checkpoints, looked at without Orbax.

Orbax writes a step under a temporary name and renames it when it is whole; a folder named by a
number without Orbax's mark inside was damaged later. `<step>.corrupt` is what we make of those.
"""

import os
import re
from pathlib import Path

import jax


def finished_steps(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the folders of all steps in a folder and one down that were written to the end.

    Args:
        folder: a checkpoint folder, or one that holds several.

    Returns:
        Their paths.
    """
    places = [Path(folder), *_folders(Path(folder))]
    return [step for place in places for step in step_folders(place) if is_finished(step)]


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def step_folders(folder: Path) -> list[Path]:
    """Return the folders in `folder` that are named by a step, whole or not."""
    # As they are written: "0007" is not step 7, and "²" is a digit but no number.
    return [path for path in _folders(folder) if re.fullmatch(r"0|[1-9][0-9]*", path.name)]


def is_finished(step_folder: Path) -> bool:
    """Return whether a step was written to the end."""
    return (step_folder / "_CHECKPOINT_METADATA").exists()


def set_aside(folder: Path, step: int) -> Path:
    """Rename a damaged step, so that it is neither used nor lost; process 0 does it.

    Args:
        folder: the checkpoint folder.
        step: the damaged step.

    Returns:
        Its new path.
    """
    target = folder / f"{step}.corrupt"
    number = 1
    while target.exists():
        number += 1
        target = folder / f"{step}.corrupt-{number}"
    if jax.process_index() == 0:
        (folder / str(step)).rename(target)
    return target
