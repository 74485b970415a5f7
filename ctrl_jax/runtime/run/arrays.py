"""Arrays that a run keeps for itself, in a sealed archive of NumPy's."""

import contextlib
import hashlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ctrl_jax._errors import RunWarning
from ctrl_jax._whole import whole_file
from ctrl_jax.runtime.checkpoints.digests import state_digest
from ctrl_jax.runtime.devices.distributed import worst


def keep_arrays(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], words: str = ""
) -> None:
    """Write arrays to a file, whole or not at all.

    Args:
        path: of the archive, `NAME.npz`.
        arrays: by name.
        words: what they depend on.
    """
    seal = np.array(_seal(words, arrays))
    with whole_file(path) as part:
        named: Any = {f"array/{name}": array for name, array in arrays.items()}
        np.savez_compressed(part, words=np.array(words), seal=seal, **named)


def kept_arrays(path: str | os.PathLike[str], words: str = "") -> dict[str, np.ndarray] | None:
    """Return what `keep_arrays` wrote; None where it is not there whole or depends on other words.

    With several processes all call it, and it is None for all where it is for one: a shared disk
    may show it to some later, and what is computed again needs them all.

    Args:
        path: of the archive.
        words: what the arrays must depend on.

    Warns:
        RunWarning: the file was damaged.
    """
    found = own_kept_arrays(Path(path), words)
    return None if worst(int(found is None)) else found


def own_kept_arrays(path: Path, words: str) -> dict[str, np.ndarray] | None:
    """Return what `kept_arrays` does, by this process alone."""
    if not path.exists():
        return None
    kept = {}
    # A bit on disk may change any part of the archive, of which its reader then says anything.
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with np.load(path, allow_pickle=False) as archive:
            kept = {name: archive[name] for name in archive.files}
    found, seal = (str(kept.pop(name, "")) for name in ("words", "seal"))
    arrays = {name.removeprefix("array/"): array for name, array in kept.items()}
    if seal != _seal(found, arrays):
        text = f"{path}: it was damaged on disk, and is computed again"
        warnings.warn(text, RunWarning, stacklevel=4)
        return None
    return arrays if found == words else None


def write_samples(
    path: str | os.PathLike[str], words: str | None = None, **arrays: np.ndarray
) -> None:
    """Write arrays by name to an archive that NumPy reads, whole or not at all.

    Args:
        path: of the archive, `NAME.npz`.
        words: what they depend on; with them `kept_arrays` reads the archive too.
        **arrays: by name.
    """
    named: Any = dict(arrays)
    if words is not None:
        named |= {"words": np.array(words), "seal": np.array(_seal(words, arrays))}
    with whole_file(path) as part:
        np.savez(part, **named)


def _seal(words: str, arrays: Mapping[str, np.ndarray]) -> str:
    return hashlib.sha256(f"{words} {state_digest(dict(arrays))}".encode()).hexdigest()
