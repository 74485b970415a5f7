"""A reward that a Python function computes: torch, OCR, whatever there is."""

import copy
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from ctrl_jax._checks import check_count, check_non_negative, check_positive, refuse
from ctrl_jax._errors import RewardUnavailable
from ctrl_jax.rewards.outside.faults import Fault, retried, shown
from ctrl_jax.rewards.outside.reward import OutsideReward, Question
from ctrl_jax.rewards.outside.values import read_values


def python_reward(
    function: Callable[[np.ndarray, list[str], list[dict[str, Any]]], Any],
    *,
    name: str | None = None,
    timeout: float | None = None,
    retries: int = 2,
    pause: float = 1.0,
    max_failed: int = 3,
) -> OutsideReward:
    """Return the reward that a function of pictures, prompts and records computes on the host.

    Args:
        function: ``values = f(images, prompts, records)`` with images (batch, h, w, 3) of uint8,
            a list of texts and a list of dictionaries, its own to change; a list, an array or a
            tensor of batch finite numbers. It may raise `RewardUnavailable` to stop the run; after
            any other error it is called again.
        name: what errors call it; its own name by default.
        timeout: seconds that it may take, after which the batch has no rewards. It then runs in a
            thread of its own, which nothing can stop: until it returns every other batch is late.
            By default it may take as long as it likes, in the caller's thread.
        retries: how often it is called again for a batch after an error, or after another number
            of values or NaN.
        pause: seconds before the first of these, twice as many before each next one.
        max_failed: batches in a row without rewards after which it counts as unavailable.

    Raises:
        ValueError: there is no function, or a number is out of range.
    """
    if not callable(function):
        rule = "it must be a function of images, prompts and records"
        raise refuse("function", function, rule, "give one")
    if timeout is not None:
        check_positive("timeout", timeout)
    check_count("retries", retries, least=0)
    check_non_negative("pause", pause)
    known = getattr(function, "__qualname__", type(function).__qualname__)
    call = function if timeout is None else _Timed(function, timeout)

    def ask(question: Question) -> np.ndarray:
        return retried(lambda: _answer(call, question), retries, pause)

    return OutsideReward(ask, name=name or known, max_failed=max_failed)


def _answer(function: Callable[..., Any], question: Question) -> np.ndarray:
    own = (question.images.copy(), list(question.prompts), copy.deepcopy(question.records))
    try:
        # Tensors that are still being computed fail only when they are read.
        return read_values(function(*own), len(question.images))
    except (Fault, RewardUnavailable):
        raise
    except (Exception, SystemExit) as error:  # the latter would end the run in silence
        raise Fault(shown(f"{type(error).__name__}: {error}")) from error


class _Timed:
    """A function that is waited for so many seconds, and never called twice at once."""

    def __init__(self, function: Callable[..., Any], timeout: float):
        self._function, self._timeout = function, timeout
        self._running: threading.Thread | None = None

    def __call__(self, *given: Any) -> Any:
        if self._running is not None:
            self._running.join(self._timeout)
            if self._running.is_alive():
                raise Fault(f"it still works after {self._timeout:g} s more", "late", again=False)
        answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def work() -> None:
            try:
                answers.put((self._function(*given), None))
            except BaseException as error:
                answers.put((None, error))

        # A daemon, so that one that hangs does not keep the program from ending.
        self._running = threading.Thread(target=work, daemon=True)
        self._running.start()
        try:
            answer, error = answers.get(timeout=self._timeout)
        except queue.Empty:
            said = f"no answer within {self._timeout:g} s"
            raise Fault(said, "late", again=False) from None
        self._running = None
        if error is not None:
            raise error
        return answer
