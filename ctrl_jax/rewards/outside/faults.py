"""What is wrong with one answer from outside, and asking again."""

import random
import threading
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

LONGEST_PAUSE = 30.0
SHOWN = 200
"""Characters of somebody else's text that a message shows."""


class Fault(Exception):
    """What is wrong with one answer.

    Args:
        said: what, in one line.
        kind: as of `RewardError`.
        again: whether the same question may get another answer.
        gone: whether the next batch would fare no better.
    """

    def __init__(self, said: str, kind: str = "failed", *, again: bool = True, gone: bool = False):
        super().__init__(said)
        self.kind, self.again, self.gone = kind, again, gone


def retried(
    ask: Callable[[], Answer],
    retries: int,
    pause: float,
    stop: threading.Event | None = None,
) -> Answer:
    """Return what `ask` returns, asked again after its faults.

    Args:
        ask: raises `Fault`.
        retries: how often it is asked again.
        pause: seconds before the first of these, twice as many before each next one; between half
            of it and all, by chance, so that requests that failed together do not return together.
        stop: ends the asking when it is set.

    Raises:
        Fault: the last one, which says how often it was asked.
    """
    stop = threading.Event() if stop is None else stop
    for asked in range(1, retries + 2):
        try:
            return ask()
        except Fault as fault:
            wait = min(pause * 2.0 ** (asked - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)
            if not fault.again or asked > retries or stop.wait(wait):
                said = f"{fault}, asked {asked} times" if asked > 1 else str(fault)
                raise Fault(said, fault.kind, again=False, gone=fault.gone) from fault
    raise AssertionError("the last fault is raised")


def shown(text: object) -> str:
    """Return somebody else's text in one line, cut short.

    Args:
        text: an error or a string.
    """
    line = "".join(c if c.isprintable() else " " for c in str(text))
    line = " ".join(line.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"
