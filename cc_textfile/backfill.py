"""`cc-textfile backfill`: the days before the first poll, for Prometheus and for a new ledger.

What was answered is kept in the ledger (`ledger.past`), batch by batch. Once all is there, the history is written, and
the ledger goes on where it ends: in this order, so that a process that was stopped anywhere can be started again.
"""

import errno
import logging
import os
import shlex
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from time import monotonic

from cc_textfile.errors import CcTextfileError, Malformed, OutputError, RequestError, SettingsError
from cc_textfile.ledger.past import MARGIN, Past
from cc_textfile.ledger.values import DAY
from cc_textfile.logs import Redactor
from cc_textfile.poll import PROBES, Close, Fetch, Snapshot, is_refusal, no_stray, poll
from cc_textfile.portal.client import PortalClient
from cc_textfile.portal.responses import Method, Request
from cc_textfile.portal.transport import Transport
from cc_textfile.portal.window import PORTAL_ZONE
from cc_textfile.remedies import user
from cc_textfile.settings import Settings
from cc_textfile.summary import progress_line

BATCH = 1000
"""Requests that are made again, at most, after the process was killed. The first batch is the smallest that shows
whether the portal has the past."""

LOG_SECONDS = 60.0
"""How often a line tells the progress where there is no terminal."""

FAMILIES: tuple[tuple[str, Method | None, str, Mapping[str, str]], ...] = (
    ("chinacache_traffic_bytes", Method.ISP, "", {"traffic": ""}),
    ("chinacache_requests", Method.HIT_RATE, "result", {"hits": "hit", "misses": "miss"}),
    ("chinacache_settled_seconds", None, "", {"seconds": ""}),
    ("chinacache_responses", Method.HTTP_CODE, "code", {}),
)
"""Of each counter its name, the method behind it, its own label, and the value of that where it is not the figure's
name."""

_NEXT_STEPS = """\
The history of {channels} channels from {first} to {end} (UTC+8) is in {output}. The ledger goes on from there.

On the host of Prometheus, with its own --storage.tsdb.path instead of Debian's:

  promtool tsdb create-blocks-from openmetrics {file} chinacache-blocks
  sudo chown -R --reference=/var/lib/prometheus/metrics2 chinacache-blocks
  sudo cp -a chinacache-blocks/* /var/lib/prometheus/metrics2/

Prometheus loads the blocks within some minutes, without a restart. Mind that:

- It deletes blocks that are older than its retention, which is 15 days by default. This history needs
  --storage.tsdb.retention.time={days}d or more, set before the copy.
- Import the history once. A second one over the same time is mixed with the first, and no number is right then.
- The history ends {hours} hours ago, for a reason: Prometheus drops live samples that are older than the end of a
  block. The first poll counts the time since then. Let it run soon, within --catch-up at the latest."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class History:
    """What is wanted: the days from `first` (a midnight in UTC+8) on, in steps of whole 5 minutes, and where.

    `job` and `instance` are the labels of the live series; an empty one is a label that they do not have. `output` is
    None for standard output.
    """

    first: datetime
    step: timedelta
    job: str
    instance: str
    output: Path | None


def temporary(settings: Settings, history: History) -> Path | None:
    """Return where the file is written before it gets its name; the same at each start, so that no other is left."""
    output, of_ledger = history.output, zlib.crc32(bytes(settings.ledger or Path()))  # others may have the same output
    return output and output.with_name(f".{output.name}.{of_ledger:08x}.cc-textfile")


def remove_unfinished(settings: Settings, history: History) -> None:
    """Remove a file that did not get its name: it may have filled a disk."""
    if unfinished := temporary(settings, history):
        with suppress(OSError):  # there is none, as a rule
            unfinished.unlink()


def run(settings: Settings, redactor: Redactor, history: History) -> str:
    """Fill a new ledger and write the history; return what to do next, in words. Raises `CcTextfileError`."""
    transport = Transport(settings.portal_url, redactor, ca_file=settings.ca_file)
    client = PortalClient(transport, settings, redactor)
    return backfill(settings, history, client.fetch, datetime.now(UTC), transport.close)


def backfill(settings: Settings, history: History, fetch: Fetch, now: datetime, close: Close = no_stray) -> str:
    """Do what `run` does, at the time `now` and with the responses that `fetch` returns."""
    assert settings.ledger  # noqa: S101 # the command requires it
    with Past(settings.ledger, settings, history.first, history.step, now) as past:
        _check(history, past)
        _make_requests(settings, past, partial(poll, fetch, close=close), _Progress(past))
        written, before = temporary(settings, history), past.output
        try:
            _write(written, _openmetrics(past, settings.account, history))
            past.finish(_identity(written), lambda: _publish(written, history.output, before))
        finally:
            remove_unfinished(settings, history)
        return _next_steps(history, past, now)


def _check(history: History, past: Past) -> None:
    output = history.output
    if past.end <= past.first:
        raise SettingsError(
            f"--from: the history ends with the last settled step that is more than {MARGIN // 3600} hours old, at "
            f"{_time(past.end)} (UTC+8), and that is not after its beginning; give an earlier day"
        )
    if output and _identity(output) not in ("", past.output):
        raise SettingsError(f"--output: {output} exists, and is not overwritten; give another file")
    if output and not os.access(output.parent, os.R_OK | os.W_OK | os.X_OK):
        raise SettingsError(f"--output: {output.parent} is not a folder that user {user()} may read and write in")


class _Progress:
    """How many requests are done: always to be seen on a terminal, logged once a minute elsewhere."""

    def __init__(self, past: Past) -> None:
        self.done = past.total - sum(1 for _ in past.missing())
        self.total = past.total
        self._show = progress_line("requesting", after=1)
        self._due = monotonic()
        self.tick(0, 0)

    def tick(self, made: int, _of_batch: int) -> None:
        """Show that so many more are made than are done."""
        if self._show:
            self._show(self.done + made, self.total)
        elif monotonic() >= self._due:
            self._due = monotonic() + LOG_SECONDS
            log.info("%s of %s requests are made", f"{self.done + made:,}", f"{self.total:,}")


def _make_requests(settings: Settings, past: Past, poll: Callable[..., Snapshot], progress: _Progress) -> None:
    """Make the requests that are missing, and those that fail again, for as long as each batch brings something."""
    size = PROBES
    while progress.done < progress.total:
        failed: Counter[str] = Counter()
        missing = past.missing()
        while batch := list(islice(missing, size)):
            size = BATCH
            snapshot = poll(
                (),
                batch,
                concurrency=settings.concurrency,
                deadline=settings.deadline,
                now=datetime.now(UTC),
                progress=progress.tick,
            )
            for request, response in snapshot.responses.items():
                if response.date and response.date < request.window.end + timedelta(seconds=settings.settle):
                    raise CcTextfileError(
                        f"the portal's clock is at {_time(response.date.timestamp())} (UTC+8), which is too early for "
                        f"the numbers until {_time(request.window.end.timestamp())}: the clock of this host is ahead. "
                        "Set it, and start again"
                    )
            unreadable = past.keep(snapshot.responses)
            failures: dict[Request, RequestError] = dict(snapshot.failures)
            failures |= dict.fromkeys(unreadable, Malformed("a number of the response cannot be read"))
            failed.update(error.reason for error in failures.values())
            progress.done += len(snapshot.responses) - len(unreadable)
            progress.tick(0, 0)
            refusals = {request: error for request, error in failures.items() if is_refusal(error)}
            if refusals or len(snapshot.responses) == len(unreadable):
                raise _failure(refusals or failures, progress)
        if failed:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in failed.items())
            log.warning("%s requests failed (%s): they are made again", f"{failed.total():,}", reasons)


def _failure(failures: Mapping[Request, RequestError], progress: _Progress) -> CcTextfileError:
    message = "no response by the deadline of a batch (--deadline)"
    for (channel, method, (start, end)), error in islice(failures.items(), 1):
        message = f"{method} of channel {channel}, {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} (UTC+8): {error}"
        if is_refusal(error):
            message += ". If the portal does not have that time any more, give a later --from"
    message += (
        f". {progress.total - progress.done:,} of {progress.total:,} requests have no response, and no file is made"
    )
    if progress.done:
        message += ". The other responses are kept: the same command goes on from there"
    return CcTextfileError(message)


def _openmetrics(past: Past, account: str, history: History) -> Iterator[bytes]:
    target = {"job": history.job, "instance": history.instance}
    for name, method, label, values in FAMILIES:
        yield f"# TYPE {name} counter\n".encode()
        for channel in past.channels:
            rows = list(past.series(channel, method) if method else past.seconds())
            for figure in dict.fromkeys(figure for _, figures in rows for figure in figures):
                labels = {"account": account, "channel": channel, label: values.get(figure, figure), **target}
                series = f"{name}_total{{{_pairs(labels)}}}"
                total = 0
                yield f"{series} 0 {past.first}\n".encode()
                for end, figures in rows:
                    total += figures.get(figure, 0)
                    yield f"{series} {total} {end}\n".encode()
    yield b"# EOF\n"


def _pairs(labels: Mapping[str, str]) -> str:
    escapes = {ord("\\"): r"\\", ord('"'): r"\"", ord("\n"): r"\n"}
    return ",".join(f'{name}="{value.translate(escapes)}"' for name, value in labels.items() if name and value)


def _write(path: Path | None, lines: Iterator[bytes]) -> None:
    try:
        if path:
            path.unlink(missing_ok=True)
        with path.open("xb") if path else open(1, "wb", closefd=False) as file:  # standard output
            file.writelines(lines)
            file.flush()
            if path:
                os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"{path or 'standard output'} cannot be written: {error.strerror}") from None


def _identity(file: Path | None) -> str:
    """Return inode, size and time, which a file keeps when it is renamed; "" where there is none."""
    if file:
        with suppress(OSError):
            status = file.lstat()
            return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"
    return ""


def _publish(written: Path | None, output: Path | None, before: str) -> None:
    """Give the file its name, for good, before the ledger forgets what is in it; replace only what was `before`."""
    if written and output:
        try:
            if _identity(output) not in ("", before):  # of another backfill, meanwhile
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            written.rename(output)
            folder = os.open(output.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except OSError as error:
            raise OutputError(f"{output} cannot be written: {error.strerror}") from None


def _next_steps(history: History, past: Past, now: datetime) -> str:
    file = shlex.quote(history.output.name if history.output else "FILE")
    return _NEXT_STEPS.format(
        channels=len(past.channels),
        first=_time(past.first),
        end=_time(past.end),
        output=history.output or "standard output",
        file=file,
        days=int(now.timestamp() - past.first) // DAY + 2,
        hours=int(now.timestamp() - past.end) // 3600,
    )


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, PORTAL_ZONE):%Y-%m-%d %H:%M}"
