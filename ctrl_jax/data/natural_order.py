"""Names in the order in which people count: 2 before 10."""

import re
from pathlib import Path


def natural_order(path: Path) -> list[tuple[str, int]]:
    """Return what a path's name is sorted by, numbers in it by their value."""
    parts = re.findall(r"(\D*)(\d*)", path.name)
    return [(text, int(digits or 0)) for text, digits in parts]
