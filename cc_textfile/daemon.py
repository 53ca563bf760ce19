"""One poll from settings to output, and the loop that repeats it."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from time import monotonic

import schedule

from cc_textfile import summary
from cc_textfile.errors import CcTextfileError, LedgerError, OutputError, SettingsError
from cc_textfile.ledger import Ledger, Totals
from cc_textfile.logs import Redactor
from cc_textfile.metrics import Results, registry
from cc_textfile.output import Output
from cc_textfile.poll import Progress, gauge_requests, poll
from cc_textfile.portal.client import PortalClient
from cc_textfile.portal.responses import Request
from cc_textfile.portal.transport import Transport
from cc_textfile.portal.window import Window
from cc_textfile.remedies import user
from cc_textfile.settings import Settings, called
from cc_textfile.signals import Signals
from cc_textfile.systemd import READY, RELOADING, STOPPING, WATCHDOG, is_notified, notify, status, watchdog_interval

log = logging.getLogger(__name__)


class Poller:
    """Polls by the settings, as often as it is told. Raises `SettingsError` when proxy or CA bundle cannot be used."""

    def __init__(self, settings: Settings, redactor: Redactor, progress: Progress | None = None) -> None:
        self.settings = settings
        self.output = Output(settings, redactor)
        self._redactor = redactor
        self._progress = progress
        self._transport = Transport(settings.portal_url, redactor, ca_file=settings.ca_file)

    def poll(self, busy: threading.Lock) -> bool:
        """Poll once and deliver; return whether something was answered well, and the ledger, if there is one, kept.

        Raises `OutputError` when nothing was delivered.
        """
        settings = self.settings
        now = datetime.now(UTC)
        window = Window.ending(now, settings.querytime) if settings.gauges else None
        required = gauge_requests(settings.channels, settings.methods, window) if window else []
        with ExitStack() as stack:
            ledger, counted = self._plan(stack, now)
            client = PortalClient(self._transport, settings, self._redactor)
            snapshot = poll(
                client.fetch,
                required,
                counted,
                concurrency=settings.concurrency,
                deadline=settings.deadline,
                now=now,
                progress=self._progress,
                close=self._transport.close,
            )
            summary.failures(snapshot, settings.user)
            summary.pace(snapshot, deadline=settings.deadline, interval=settings.interval)
            with busy:
                totals: Totals | None = None
                if ledger:
                    with _logged():
                        totals = ledger.record(snapshot.responses, now)
                metrics, collector = registry(Results(settings, snapshot, window, totals))
                try:
                    where = self.output.deliver(metrics)
                except OutputError:
                    if ledger and totals:
                        with _logged():
                            ledger.not_delivered()
                    raise
                line = summary.poll(snapshot, len(settings.channels), collector.series, where)
        notify(status(line))
        kept = totals is not None or not settings.ledger
        return kept and snapshot.success

    def _plan(self, stack: ExitStack, now: datetime) -> tuple[Ledger | None, list[Request]]:
        if self.settings.ledger:
            with _logged():
                ledger = stack.enter_context(Ledger(self.settings.ledger, self.settings))
                return ledger, ledger.plan(now)
        return None, []


@contextmanager
def _logged() -> Iterator[None]:
    """Log what is wrong with the ledger: it costs the counters of a poll, and nothing else."""
    try:
        yield
    except LedgerError as error:
        log.error("%s", error)  # noqa: TRY400 # the message is complete; a traceback is for bugs


def once(settings: Settings, redactor: Redactor, signals: Signals, progress: Progress | None = None) -> bool:
    """Poll once; return whether that was a success. Raises `OutputError` when nothing was delivered."""
    poller = Poller(settings, redactor, progress)
    with poller.output.locked():
        summary.budget(settings)
        return poller.poll(signals.busy)


def loop(
    settings: Settings,
    redactor: Redactor,
    signals: Signals,
    *,
    reload: Callable[[], Settings],
    progress: Progress | None = None,
) -> None:
    """Poll at once, and then at each interval, for ever; SIGHUP reads the files of the settings again, and polls.

    Raises `SettingsError` when systemd started it without a folder to write to: the mounts of a unit are made when it
    starts, and a folder that is created later stays read-only in it.
    """
    textfile, interval = settings.textfile, settings.interval or 0.0
    # Not `Path.is_dir`: behind a closed folder that raises.
    if is_notified() and textfile and not settings.pushgateway and not os.path.isdir(textfile.parent):  # noqa: PTH112
        folder = f"create the folder {textfile.parent} first, where user {user()} can reach it"
        raise SettingsError(f"{called('textfile')} names {textfile}; {folder}")
    watchdog = watchdog_interval()

    def alive(done: int, total: int) -> None:
        if watchdog:
            notify(WATCHDOG)
        if progress:
            progress(done, total)

    poller = Poller(settings, redactor, alive)

    def run() -> None:
        try:
            poller.poll(signals.busy)
        except CcTextfileError as error:
            log.error("%s", error)  # noqa: TRY400 # the message is complete; a traceback is for bugs
            notify(status(str(error)))
        notify(READY)

    scheduler = schedule.Scheduler()
    job = scheduler.every(interval).seconds.do(run)  # type: ignore[arg-type] # any number will do for timedelta
    with poller.output.locked():
        summary.budget(settings)
        due = monotonic()
        while True:
            if signals.hangup.is_set():
                signals.hangup.clear()
                poller.settings = _read_again(poller.settings, redactor, reload)
                due = monotonic()
            # `schedule` counts in local time, which jumps. The monotonic clock does not, and says when the job is due.
            job.next_run = datetime.now() + timedelta(seconds=due - monotonic())  # noqa: DTZ005
            if job.should_run:
                scheduler.run_pending()
                due = max(due + interval, monotonic())  # a poll that was missed is not made up for
            notify(WATCHDOG)
            signals.hangup.wait(max(min(due - monotonic(), watchdog or threading.TIMEOUT_MAX), 0.0))


def _read_again(settings: Settings, redactor: Redactor, reload: Callable[[], Settings]) -> Settings:
    notify(RELOADING)
    try:
        read = reload()
    except CcTextfileError as error:
        log.error("SIGHUP: the settings stay as they were: %s", str(error).replace("\n", "; "))  # noqa: TRY400
        return settings
    redactor.add(read.password)
    log.info("SIGHUP: read the files of the settings again: %d channels", len(read.channels))
    return read


def stopped_loop(name: str) -> int:
    """Tell systemd and the log that a loop was stopped by a signal, and return its exit status."""
    notify(STOPPING)
    log.info("%s: stopped", name)
    return 0
