"""How many cores a process may use: both sides of a comparison get as many threads.

Nothing else is imported: some peers live in environments without JAX.
"""

import os


def cores() -> int:
    """Return the number of cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
