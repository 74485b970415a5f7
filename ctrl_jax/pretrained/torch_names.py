"""Key tables of networks whose layers are named as PyTorch's are.

Our networks of pictures bear the names of the files' own modules, so a table is a rule: the path of
a layer is its name in the file, a stack ``0-12`` of blocks is thirteen of them, and only the last
word and the order of axes differ,

    kernel (inputs, outputs)           weight (outputs, inputs),
    kernel (h, w, inputs, outputs)     weight (outputs, inputs, h, w),
    scale, embedding                   weight;   anything else by its own name.
"""

import re
from collections.abc import Sequence
from typing import Any

from ctrl_jax.pretrained.key_table import Source, named_leaves

STACKED = re.compile(r"(\d+)-(\d+)")
KERNEL_AXES = {1: None, 2: (1, 0), 4: (2, 3, 1, 0)}
WEIGHTS = ("kernel", "scale", "embedding")


def torch_table(target: Any, renamed: Sequence[tuple[str, str]] = ()) -> dict[str, Source]:
    """Return the key table of a network.

    Args:
        target: its parameters as nested dictionaries of arrays or abstract ones.
        renamed: (pattern, replacement) of regular expressions, applied in turn to the path of every
            layer where its name in the file is another.
    """
    return {path: _source(path, leaf, renamed) for path, leaf in named_leaves(target).items()}


def _source(path: str, leaf: Any, renamed: Sequence[tuple[str, str]]) -> Source:
    layer, _, last = path.rpartition(".")
    stack = STACKED.search(layer)
    numbers = None
    if stack is not None:
        layer = layer.replace(stack.group(), "{}", 1)
        numbers = tuple(range(int(stack[1]), int(stack[2]) + 1))
    for pattern, replacement in renamed:
        layer = re.sub(pattern, replacement, layer)
    rank = len(leaf.shape) - (numbers is not None)
    axes = KERNEL_AXES[rank] if last == "kernel" else None
    name = "weight" if last in WEIGHTS else last
    return Source(f"{layer}.{name}" if layer else name, axes, numbers=numbers)
