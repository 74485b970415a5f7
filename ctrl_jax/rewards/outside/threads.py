"""Work in threads that nothing waits for at the end: a run that stops does so at once."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


def in_background(function: Callable[..., Result], *given: Any) -> Future[Result]:
    """Return the future of a call that begins now, in a thread of its own.

    Args:
        function: whatever it raises is what the future raises.
        *given: its arguments.
    """
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(function(*given))
        except BaseException as error:
            future.set_exception(error)

    # Those of a pool would be waited for when the program ends.
    threading.Thread(target=work, daemon=True).start()
    return future


def each_in_background(
    function: Callable[[Any], Result], items: Iterable[Any], at_once: int
) -> list[Future[Result]]:
    """Return the futures of calls, of which so many run at once; in the order of the items.

    Args:
        function: of an item.
        items: what it is called with.
        at_once: how many threads there are. One that is cancelled before its turn is never called.
    """
    waiting = [(item, Future()) for item in items]
    left = iter(waiting)
    lock = threading.Lock()

    def take() -> tuple[Any, Future] | None:
        with lock:
            return next(left, None)

    def work() -> None:
        while (taken := take()) is not None:
            item, future = taken
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function(item))
            except BaseException as error:
                future.set_exception(error)

    for _ in range(min(at_once, len(waiting))):
        threading.Thread(target=work, daemon=True).start()
    return [future for _, future in waiting]
