"""Runs: one poll from settings to output, or one after the other until a signal says stop."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from time import monotonic

from cc_textfile import report
from cc_textfile.client import PortalClient
from cc_textfile.collector import SnapshotCollector, registry
from cc_textfile.errors import CcTextfileError, SettingsError
from cc_textfile.notify import READY, RELOADING, WATCHDOG, is_notified, notify, status, watchdog_interval
from cc_textfile.output import output_of
from cc_textfile.poll import Poller, Watch
from cc_textfile.redaction import Redactor
from cc_textfile.settings import Settings, called
from cc_textfile.signals import woken_by_hangup
from cc_textfile.transport import Transport
from cc_textfile.values import MOST_SECONDS
from cc_textfile.window import Window

log = logging.getLogger(__name__)


class Runner:
    """Polls by the settings; `reload` reads them anew, and `watch` is told how a poll gets on."""

    def __init__(
        self,
        settings: Settings,
        redact: Redactor,
        *,
        reload: Callable[[], Settings] | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._settings = settings
        self._redact = redact
        self._reload = reload or (lambda: settings)
        self._watch = watch
        self._watchdog = watchdog_interval()
        self._poller = Poller(settings.concurrency)
        self._output = output_of(settings, redact)
        self._transport = Transport(settings.portal_url, connections=settings.concurrency, ca_file=settings.ca_file)

    def once(self) -> bool:
        """Poll once and deliver; return whether at least one request was answered well.

        Raises `OutputError` when nothing was delivered.
        """
        with self._output.held():
            report.budget(len(self._settings.channels), None)
            return self._poll(self._watch)

    def loop(self, interval: float) -> None:
        """Poll at once, and then every `interval` seconds, until a signal says stop; SIGHUP reads the files again.

        `schedule` reckons in local time and from the end of a run. Held to the monotonic clock here, it keeps its
        rhythm when a run takes long, when the host's clock is set, and when its zone changes; a poll that was missed
        is not made up for.

        Raises `SettingsError` when systemd started it without a folder to write to: the mounts of a unit are laid when
        it starts, and a folder that is made later stays read-only in it, so that it would poll on for nothing.
        """
        textfile = self._settings.textfile
        if is_notified() and textfile and not self._settings.pushgateway and not textfile.parent.is_dir():
            raise SettingsError((f"{called('textfile')} names {textfile}; create the folder {textfile.parent} first",))
        import schedule  # noqa: PLC0415 # a single poll does without it

        scheduler = schedule.Scheduler()
        job = scheduler.every(interval).seconds.do(self._poll_and_live_on)  # type: ignore[arg-type] # any number, says timedelta
        with woken_by_hangup() as (sleep, hung_up), self._output.held():
            report.budget(len(self._settings.channels), interval)
            due = monotonic()
            scheduler.run_all()
            notify(READY)
            while True:
                due = max(due + interval, monotonic())
                while True:
                    notify(WATCHDOG)
                    if hung_up():
                        self._read_again()
                    job.next_run = _local_time_in(due - monotonic())
                    if job.should_run:
                        break
                    sleep(min(scheduler.idle_seconds or 0, self._watchdog or MOST_SECONDS))
                scheduler.run_pending()

    def _poll_and_live_on(self) -> None:
        try:
            self._poll(_fed(self._watch, self._watchdog))
        except CcTextfileError as error:
            log.error("%s", error)  # noqa: TRY400 # the message says it all; a traceback is for bugs
            notify(status(str(error)))

    def _poll(self, watch: Watch | None) -> bool:
        settings = self._settings
        now = datetime.now(UTC)
        client = PortalClient.of(settings, self._transport, self._redact)
        try:
            snapshot = self._poller.poll(
                client,
                settings.channels,
                Window.ending(now, settings.querytime),
                now=now,
                deadline=settings.deadline,
                watch=watch,
            )
        finally:
            # Far firewalls forget idle connections, and a request on a forgotten one is lost: none is kept
            # between polls.
            self._transport.close()
        report.failures(snapshot, settings.user)
        report.pace(snapshot, deadline=settings.deadline, interval=settings.interval)
        collector = SnapshotCollector(snapshot)
        where = self._output.deliver(registry(collector))
        notify(status(report.poll(snapshot, collector.series, where)))
        return bool(snapshot.answers)

    def _read_again(self) -> None:
        notify(RELOADING)
        try:
            self._settings = self._reload()
        except CcTextfileError as error:
            log.error("SIGHUP: the settings stay as they were: %s", error)  # noqa: TRY400
        else:
            self._redact.add(self._settings.password)
            log.info("SIGHUP: read the settings' files again: %d channels", len(self._settings.channels))
        notify(READY)


def _fed(watch: Watch | None, watchdog: float | None) -> Watch | None:
    """Return a watch that feeds systemd's watchdog, every so many seconds, beside what the given one does."""
    if watchdog is None:
        return watch

    def tick(done: int, total: int) -> None:
        notify(WATCHDOG)
        if watch:
            watch.tick(done, total)

    return Watch(min(watchdog, watch.seconds) if watch else watchdog, tick)


def _local_time_in(seconds: float) -> datetime:
    return datetime.now() + timedelta(seconds=seconds)  # noqa: DTZ005 # what `schedule` compares with
