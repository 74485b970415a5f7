"""What an error that came up while a step was read says of the step.

Only what is proved damaged is set aside. Want of memory, a disk that gives no answer and a missing
right say nothing of the bits: the same step may be read in a minute.
"""

import errno
from collections.abc import Iterator
from pathlib import Path

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)
# How readers in C++ name the machine's troubles, in ValueErrors and RuntimeErrors alike.
_MACHINE = (
    *("RESOURCE_EXHAUSTED", "UNAVAILABLE", "PERMISSION_DENIED", "DEADLINE_EXCEEDED", "CANCELLED"),
    *("Out of memory", "out of memory", "bad_alloc", "Cannot allocate memory"),
    *("Input/output error", "Permission denied", "Too many open files", "Stale file handle"),
    *("No space left", "Resource temporarily unavailable", "Interrupted system call"),
)


def proves_damage(error: BaseException, folder: Path) -> bool:
    """Return whether an error proves that a step is damaged.

    Args:
        error: as it was raised, with the errors behind it.
        folder: the step, whose files are read once more, byte by byte: where the disk refuses
            that, the error is the disk's.
    """
    for found in _chain(error):
        absent = isinstance(found, OSError) and found.errno in _ABSENT
        if isinstance(found, MemoryError) or (isinstance(found, OSError) and not absent):
            return False
        if any(word in str(found) for word in _MACHINE):
            return False
    # The runtimes of devices raise plain RuntimeErrors, of their own troubles.
    device = isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError)
    return not device and _readable(folder)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                yield from _chain(inner)
        error = error.__cause__ or error.__context__


def _readable(folder: Path) -> bool:
    try:
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    while file.read(1 << 20):
                        pass
    except (OSError, MemoryError):
        return False
    return True
