"""What signals do: SIGTERM and SIGINT stop whatever is under way, SIGHUP wakes a loop from its sleep."""

import select
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType


def _let_pass(_number: int, _frame: FrameType | None) -> None:
    """Do nothing, where `SIG_IGN` would have Python complain of a signal that is on its way already."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Make SIGTERM do what SIGINT does: raise KeyboardInterrupt in the main thread, wherever it is; once.

    After that neither does anything more: the process is on its way out.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in list(before):
            signal.signal(each, _let_pass)
        before.clear()
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def woken_by_hangup() -> Iterator[tuple[Callable[[float], None], Callable[[], bool]]]:
    """Return a sleep (seconds) that SIGHUP cuts short, and whether there was one since last asked.

    Through a socket: an Event that a handler sets can deadlock with the thread that it interrupts, which waits for it.
    """
    reader, writer = socket.socketpair()
    reader.setblocking(False)  # noqa: FBT003 # as the standard library has it
    writer.setblocking(False)  # noqa: FBT003 # as the standard library has it

    def sleep(seconds: float) -> None:
        select.select([reader], [], [], max(seconds, 0))

    def hung_up() -> bool:
        try:
            return bool(reader.recv(4096))
        except BlockingIOError:
            return False

    def wake(_number: int, _frame: FrameType | None) -> None:
        with suppress(BlockingIOError):
            writer.send(b"\0")

    before = signal.signal(signal.SIGHUP, wake)
    try:
        with reader, writer:
            yield sleep, hung_up
    finally:
        signal.signal(signal.SIGHUP, before)
