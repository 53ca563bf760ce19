"""Signals: the main thread waits for them from the first moment, and another thread does the work.

Whatever the work hangs in, it cannot delay the end. Nothing is raised from a handler: Python discards what is raised
at the wrong moment, and the signal is lost.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future

STOP_SECONDS = 1.0
"""How long the start of a command, or a delivery that has begun, may take after a signal to stop."""

STOP = {signal.SIGTERM, signal.SIGINT}
WAKE = signal.SIGUSR1
"""Sent to the main thread, by the thread that works."""

NO_THREAD = "no thread could be started: see TasksMax= of the unit, or the limit of processes (ulimit -u)"


class Signals:
    """How the main thread, which has called `wait`, and the thread that works affect each other.

    `hangup` is set at SIGHUP. The working thread has `busy` while it records and delivers.
    """

    def __init__(self) -> None:
        self.hangup = threading.Event()
        self.busy = threading.Lock()
        self._main: int
        self._started = threading.Event()
        self._reloads = False
        self._on_stop: Callable[[str], int] = _die

    def wait(self, command: Callable[[], object]) -> None:
        """Run the command in a thread, and wait for its end or a signal. To be called once, by the main thread.

        The signals have been blocked, in all threads, and are taken one by one here. SIGHUP is left until the command
        tells what it does about it.
        """
        self._main = threading.get_ident()
        outcome: Future[object] = Future()

        def work() -> None:
            try:
                outcome.set_result(command())
            except BaseException as error:  # noqa: BLE001 # raised again in the main thread
                outcome.set_exception(error)
            self._start()

        try:
            threading.Thread(target=work, daemon=True).start()
        except RuntimeError:
            sys.exit(f"cc-textfile: {NO_THREAD}")
        while not outcome.done():
            hangup = {signal.SIGHUP} if self._started.is_set() else set()
            number = signal.sigwait(STOP | {WAKE} | hangup)
            if number == signal.SIGHUP and self._reloads:
                self.hangup.set()
            elif number != WAKE:
                self._stop(signal.Signals(number).name)
        outcome.result()

    def handle(self, on_stop: Callable[[str], int], *, reloads: bool = False) -> None:
        """End the process with `on_stop`'s status at SIGTERM and SIGINT from now on, and at SIGHUP unless `reloads`."""
        self._on_stop, self._reloads = on_stop, reloads
        self._start()

    def _start(self) -> None:
        self._started.set()
        signal.pthread_kill(self._main, WAKE)

    def _stop(self, name: str) -> None:
        self._started.wait(STOP_SECONDS)
        self.busy.acquire(timeout=STOP_SECONDS)
        # Without this, a thread that hangs in a write would make Python's own end wait for it, or abort.
        os._exit(self._on_stop(name))


def _die(name: str) -> int:  # pragma: no cover # what was covered is lost with the process
    """End by the signal itself: for systemd an exit status would be a failure."""
    number = signal.Signals[name]
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    return 128 + number  # only process 1 of a container gets here: no signal of its own ends it


SIGNALS = Signals()
"""Those of this process."""
