"""What the halves of a data set are called: the one that is trained on, and what it is tried on."""

import re
from typing import Literal

Split = Literal["train", "test"]
_NAMES: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(
        ("test", "testing", "validation", "valid", "val", "evaluation", "eval", "dev"), "test"
    ),
}
_WORD = re.compile(rf"(?<![a-z])({'|'.join(_NAMES)})(?![a-z])", re.IGNORECASE)


def split_named(name: str) -> Split | None:
    """Return the split that a whole name means, None where it means none."""
    return _NAMES.get(name.lower())


def split_in(name: str) -> Split | None:
    """Return the split that the first such word in a name means, None where there is no such word.

    Args:
        name: for instance ``pairs-train-00000-of-00002``.
    """
    found = _WORD.search(name)
    return None if found is None else split_named(found[1])
