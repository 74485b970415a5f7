"""Pictures in a folder, written as they are drawn, and the lines that say which is which.

A line of pictures.jsonl holds the digest of its picture and a seal, the digest of all that the
picture depends on. A run that goes on writes the line that it expects of each file that is there: a
picture is kept where just that line is in the file, and drawn again where the disk changed either,
or other options made it.
"""

import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ctrl_jax._errors import RunWarning
from ctrl_jax._records import seal_of, write_atomic
from ctrl_jax._sums import file_digest
from ctrl_jax._whole import naming, whole_file

LINES = "pictures.jsonl"


class Album:
    """The pictures of a folder; of process 0.

    Args:
        folder: that they are written to; it exists.
        shown: what each picture shows, with the name of its "file".
        made_of: what each depends on besides.
    """

    def __init__(
        self,
        folder: Path,
        shown: Sequence[Mapping[str, Any]],
        made_of: Sequence[Mapping[str, Any]],
    ):
        self._folder, self._shown, self._made_of = folder, shown, made_of
        self._lines: dict[int, str] = {}
        self._others = False

    def missing(self) -> list[int]:
        """Return the numbers of the pictures that are not there as they were written.

        Warns:
            RunWarning: there are others, which are not kept.
        """
        path = self._folder / LINES
        there = set(_lines_of(path))
        for i, shown in enumerate(self._shown if there else ()):
            picture = self._folder / shown["file"]
            if picture.is_file() and (line := self._line(i, picture)) in there:
                self._lines[i] = line
        if lost := len(there) - len(self._lines):
            text = f"{lost} of {len(there)} pictures were damaged on disk, or are of other options"
            warnings.warn(f"{path}: {text}; they are not kept", RunWarning, stacklevel=2)
        self._others = (self._folder / LINES).exists()
        return [i for i in range(len(self._shown)) if i not in self._lines]

    def add(self, numbers: Iterable[int], pictures: Iterable[np.ndarray]) -> None:
        """Write pictures, each whole or not at all, and then their lines.

        Args:
            numbers: of the pictures; one that is there is left as it is.
            pictures: (h, w, 3) in bytes.
        """
        text = ""
        for i, picture in zip(numbers, pictures, strict=True):
            if i in self._lines:
                continue
            path = self._folder / self._shown[i]["file"]
            with whole_file(path) as part:
                Image.fromarray(picture).save(part)
            self._lines[i] = self._line(i, path)
            text += f"{self._lines[i]}\n"
        # After the pictures: one without a line is drawn again, a line without its picture lies.
        if self._others:  # only now: should no picture be drawn, theirs are as they were
            self.write_lines()
            self._others = False
            return
        with naming(path := self._folder / LINES), path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def picture(self, i: int) -> np.ndarray:
        """Return a picture that is there."""
        with Image.open(self._folder / self._shown[i]["file"]) as image:
            return np.asarray(image.convert("RGB"))

    def write_lines(self) -> None:
        """Write the lines in the order of the pictures, each once."""
        text = "".join(f"{self._lines[i]}\n" for i in sorted(self._lines))
        write_atomic(self._folder / LINES, text)

    def _line(self, i: int, picture: Path) -> str:
        line = {**self._shown[i], "sha256": file_digest(picture)}
        seal = seal_of({**line, "made_of": self._made_of[i]})
        return json.dumps({**line, "seal": seal}, ensure_ascii=False)


def _lines_of(path: Path) -> list[str]:
    """Return the lines of a file; a last one that was cut off is none."""
    if not path.is_file():
        return []
    return path.read_bytes().decode("utf-8", errors="replace").split("\n")[:-1]
