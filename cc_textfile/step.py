"""One step of `cc-textfile check`: how it stands with one thing that a poll needs, and what would mend it."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, TypeVar

from cc_textfile.errors import Overdue

SLACK = 0.5
"""Seconds that a request's own timeout, whose words are better, gets to come first."""

T = TypeVar("T")
Clock = Callable[[], datetime]
"""Says what time it is (aware)."""


class State(StrEnum):
    """How it stands with a step: only what `FAILED` keeps a poll from succeeding."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


class Step(NamedTuple):
    """What was looked at, how it stands, what was seen, and the command or setting that mends it, if it needs that."""

    step: str
    state: State
    detail: str
    remedy: str = ""


def within(seconds: float, act: Callable[[], T]) -> T:
    """Return what `act` returns; raises `Overdue` if it takes longer, even in a look-up of a name.

    That knows no timeout and lets no signal through, so it all happens in a daemon thread, which is then left behind.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(act())
        except Exception as error:  # noqa: BLE001 # raised again where it is waited for
            future.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    if not wait([future], seconds + SLACK).done:
        message = f"nothing came back within {seconds:.3g} s"
        raise Overdue(message)
    return future.result()
