"""``python -m benchmarks.peak_memory MODULE:FUNCTION JSON`` prints bytes of resident memory.

The number is by how much the peak of this process rises while the function's runner is built and
run once, with the imports made beforehand.
"""

import importlib
import json
import resource
import sys


def peak() -> int:
    """Return the largest resident size so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main(target: str, arguments: str) -> None:
    """Print the rise of the peak for one run of the target's runner."""
    module, _, function = target.partition(":")
    build = getattr(importlib.import_module(module), function)
    before = peak()
    build(**json.loads(arguments)).run()
    print(peak() - before)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
