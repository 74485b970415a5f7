"""``python -m benchmarks.peak_memory MODULE:FUNCTION JSON`` prints bytes of resident memory.

The number is by how much one run of the function's runner raises this process's peak above what it
held before. Linux only: elsewhere the peak cannot be set back, and the exit status is 1.
"""

import ctypes
import gc
import importlib
import json
import sys
from pathlib import Path

STATUS, FORGET_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident(field: str) -> int:
    """Return VmRSS (now) or VmHWM (the peak), in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def start() -> int:
    """Forget the peak so far and return the resident memory, free blocks given back, in bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or what a run reuses would not count as its own
    FORGET_PEAK.write_text("5")
    return resident("VmRSS")


def main(target: str, arguments: str) -> None:
    """Print the rise of the peak for one run of the target's runner."""
    module, _, function = target.partition(":")
    runner = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    before = start()
    runner.run()
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
