"""Daemon threads: the one way to bound what has no timeout of its own, such as the look-up of a name."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import TypeVar

from cc_textfile.errors import CcTextfileError, RequestTimeout
from cc_textfile.signals import NO_THREAD

GRACE_SECONDS = 0.5
"""What has a timeout of its own ends by that, and tells more than that it did not end."""

T = TypeVar("T")


class Workers:
    """Threads that run one function each, and are waited for so long and no longer.

    A thread that hangs does not hold up the end of the process. Raises `CcTextfileError` when no thread can be started.
    """

    def __init__(self, work: Callable[[], None], threads: int = 1) -> None:
        self._threads: list[threading.Thread] = []
        for _ in range(threads):
            thread = threading.Thread(target=work, daemon=True)
            try:
                thread.start()
            except RuntimeError:
                break
            self._threads.append(thread)
        if not self._threads:
            raise CcTextfileError(NO_THREAD)

    def wait(self, seconds: float) -> bool:
        """Wait for all threads, at most so many seconds, and return whether all have ended."""
        end = monotonic() + seconds
        for thread in self._threads:
            thread.join(max(end - monotonic(), 0))
        return not any(thread.is_alive() for thread in self._threads)


def within(seconds: float, act: Callable[[], T]) -> T:
    """Return what `act` returns; raises `RequestTimeout` if it takes so many seconds and half a second more."""
    outcome: list[Future[T]] = [Future()]

    def work() -> None:
        try:
            outcome[0].set_result(act())
        except BaseException as error:  # noqa: BLE001 # raised again in the thread that waits
            outcome[0].set_exception(error)

    if not Workers(work).wait(seconds + GRACE_SECONDS):
        raise RequestTimeout(f"no result within {seconds:.3g} s")
    # `pop`: else it and the traceback of its exception keep each other, and what was sent, in memory.
    return outcome.pop().result()
