"""The real command with a clock that the test sets, and the demo portal with numbers that come late or are corrected.

The clock is libfaketime's: it shows a process the time that is written in a file. Only the wall clock is set, timeouts
are real. The portal's clock is right, that of the host may be wrong.
"""

import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cc_textfile.demo import portal as demo
from cc_textfile.demo.portal import DemoPortal
from cc_textfile.portal.responses import Method
from cc_textfile.portal.window import PORTAL_ZONE, midnight
from tests.conftest import PATIENCE, ROOT, Program, account, command

CHANNELS = demo.CHANNELS[:2]
BEGINNING = datetime(2026, 1, 1, tzinfo=PORTAL_ZONE)
"""Before all simulated time."""

NUMBERS = {"totalFlux": "traffic", "Hit": "hit", "Miss": "miss"}
METHODS = {"traffic": Method.ISP, "hit": Method.HIT_RATE, "miss": Method.HIT_RATE}
Fault = Callable[[Method, str], str | None]
Series = tuple[str, tuple[tuple[str, str], ...]]
respond = demo.response


def library() -> str:
    """Return the path of libfaketime; without it the test is skipped."""
    for lib in (Path("/usr/lib"), ROOT / ".tools/usr/lib"):
        for found in lib.glob("*/faketime/libfaketimeMT.so.1"):
            return str(found)
    pytest.skip("libfaketime is not here, and tests/fetch-tools could not fetch it")


@lru_cache(maxsize=4096)
def _until(channel: str, time: datetime) -> Mapping[str, int]:
    """Return all that was delivered from the beginning to a time, without late data and corrections."""
    last = time + timedelta(days=1)
    period = {"channelIds": channel, "startTime": f"{BEGINNING:%Y%m%d%H%M}", "endTime": f"{last:%Y%m%d%H%M}"}
    days = {"channel_id": channel, "start_time": f"{BEGINNING:%Y%m%d}", "end_time": f"{last:%Y%m%d}"}
    fields = respond(Method.HIT_RATE, period, time) | respond(Method.ISP, period, time)
    rows = respond(Method.HTTP_CODE, days, time)["data"]
    return {name: fields[field] for field, name in NUMBERS.items()} | {
        row["http_code"]: row["request_count"] for row in rows
    }


class Correction(NamedTuple):
    """From `known` on, what was delivered between two times counts twice (`sign` is 1) or not at all (-1)."""

    known: datetime
    start: datetime
    end: datetime
    sign: int


class World:
    """What really was delivered, what the portal knows of it, and what time it is.

    `stalls` are times between which the portal learns nothing new: the data of that time comes at its end. `new_codes`
    are status codes that first occur on a day, named by its midnight.
    """

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.stalls: list[tuple[datetime, datetime]] = []
        self.corrections: list[Correction] = []
        self.new_codes: dict[str, datetime] = {}
        self.fault: Fault = lambda *_: None
        self.requests: list[tuple[Method, Mapping[str, str]]] = []

    def truth(self, channel: str, start: datetime, end: datetime) -> dict[str, int]:
        """Return what the portal knows of a time in the end."""
        return self._between(channel, start, end, end + timedelta(days=1))

    def known(self, channel: str, start: datetime, end: datetime) -> dict[str, int]:
        """Return what the portal knows of a time now."""
        latest = self._latest()
        return self._between(channel, min(start, latest), min(end, latest), self.now)

    def _latest(self) -> datetime:
        return min([self.now, *(start for start, end in self.stalls if start <= self.now < end)])

    def response(self, method: Method, query: Mapping[str, str], now: datetime) -> dict[str, Any]:
        """Return what the portal responds now."""
        self.requests.append((method, query))
        latest = self._latest()
        fields = respond(method, query, latest)
        if method is Method.HTTP_CODE:
            channel, (start, end) = query["channel_id"], (_time(query[name]) for name in ("start_time", "end_time"))
            known = self._corrected(channel, start, min(end + timedelta(days=1), latest), now)
            for row in fields["data"]:
                row["request_count"] += known.get(row["http_code"], 0)
            new = {code for code, first in self.new_codes.items() if end < first}
            fields["data"] = [row for row in fields["data"] if row["request_count"] and row["http_code"] not in new]
        else:
            channel, (start, end) = query["channelIds"], (_time(query[name]) for name in ("startTime", "endTime"))
            known = self._corrected(channel, start, min(end, latest), now)
            for field in fields.keys() & NUMBERS.keys():
                fields[field] += known.get(NUMBERS[field], 0)
        return fields

    def _fault(self, method: Method, channel: str) -> str | None:
        return self.fault(method, channel)

    def _between(self, channel: str, start: datetime, end: datetime, now: datetime) -> dict[str, int]:
        corrected = self._corrected(channel, start, end, now)
        return {
            name: number + corrected.get(name, 0) for name, number in self._uncorrected(channel, start, end).items()
        }

    def _corrected(self, channel: str, start: datetime, end: datetime, now: datetime) -> dict[str, int]:
        corrected: dict[str, int] = {}
        for correction in self.corrections:
            first, last = max(start, correction.start), min(end, correction.end)
            if correction.known <= now and first < last:
                for name, number in self._uncorrected(channel, first, last).items():
                    corrected[name] = corrected.get(name, 0) + correction.sign * number
        return corrected

    def _uncorrected(self, channel: str, start: datetime, end: datetime) -> dict[str, int]:
        numbers = {}
        for name, number in _until(channel, end).items():
            first = max(start, self.new_codes.get(name, start))
            numbers[name] = number - _until(channel, first)[name] if first < end else 0
        return numbers

    @contextmanager
    def serving(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[DemoPortal]:
        """Serve as the demo portal does."""
        monkeypatch.setattr(demo, "response", self.response)
        portal = DemoPortal(fault=self._fault, clock=lambda: self.now)
        with portal.serving():
            yield portal


def _time(text: str) -> datetime:
    return datetime.strptime(text, "%Y%m%d%H%M" if len(text) > 8 else "%Y%m%d").replace(tzinfo=PORTAL_ZONE)


class Exported(NamedTuple):
    """What is in a text file."""

    counters: dict[Series, float]
    gauges: dict[Series, float]

    def value(self, name: str, channel: str, **labels: str) -> float:
        """Return the value of a series of a channel."""
        wanted = {"account": demo.USER, "channel": channel, **labels}
        return (self.counters | self.gauges)[name, tuple(sorted(wanted.items()))]


def exported(textfile: Path) -> Exported:
    """Read a text file."""
    found = Exported({}, {})
    for family in text_string_to_metric_families(textfile.read_text()):
        kind = found.counters if family.type == "counter" else found.gauges
        for sample in family.samples:
            kind[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


class Host:
    """A host on which the command runs, as a loop that SIGHUP makes poll, or once at a time.

    `wrong` is by how much its clock is ahead.
    """

    def __init__(self, world: World, portal: DemoPortal, folder: Path, *flags: str) -> None:
        self.world = world
        self.wrong = timedelta(0)
        self.textfile, self.ledger = folder / "textfile" / "a.prom", folder / "ledger" / "ledger.sqlite"
        for file in (self.textfile, self.ledger):
            file.parent.mkdir()
        self.flags = flags
        self._time = folder / "time"
        env = account(
            portal,
            CHINACACHE_CHANNEL_IDS=",".join(CHANNELS),
            CC_TEXTFILE_PATH=str(self.textfile),
            CC_TEXTFILE_LEDGER=str(self.ledger),
            LD_PRELOAD=library(),
            FAKETIME_TIMESTAMP_FILE=str(self._time),
            FAKETIME_FMT="%s",
            FAKETIME_NO_CACHE="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1",
            FAKETIME_FORCE_MONOTONIC_FIX="0",  # with it, no wait for a lock would end in time
            NO_FAKE_STAT="1",  # Python compares the times of its files
            TZ="America/New_York",
        )
        # Coverage follows every process, and these would spend most of their time being followed.
        self.env = {name: value for name, value in env.items() if not name.startswith("COV")}
        self.loop: Program | None = None

    def set_clock(self) -> None:
        """Let the host's clock show the time of the world, as wrong as it is."""
        new = self._time.with_suffix(".new")
        new.write_text(f"{(self.world.now + self.wrong).timestamp():.0f}\n")
        new.rename(self._time)

    def poll(self) -> str:
        """Let the loop poll, started if need be, and return the line of the log that ends the poll."""
        self.begin_poll()
        assert self.loop
        return self.loop.line("polled|cannot be written").string

    def begin_poll(self) -> None:
        """Let the loop begin to poll."""
        self.set_clock()
        if self.loop is None:
            self.loop = Program(*command("run", "--interval", "1h", *self.flags), env=self.env)
        else:
            self.loop.process.send_signal(signal.SIGHUP)

    def wait(self) -> None:
        """Wait for the end of a poll of the loop, or of the loop."""
        assert self.loop
        try:
            self.loop.line("polled")
        except pytest.fail.Exception:
            self._ended()

    def _ended(self) -> None:
        assert self.loop
        assert self.loop.process.stderr
        self.loop.process.wait()
        self.loop.process.stderr.close()
        _sweep(self.loop.process.pid)
        self.loop = None

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command to its end, by default for one poll; a loop is stopped first."""
        self.stop()
        self.set_clock()
        words = command(*(arguments or ("run", *self.flags)))
        with subprocess.Popen(
            words, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            out, err = process.communicate(timeout=PATIENCE)
        _sweep(process.pid)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def stop(self) -> None:
        """Kill the loop, if there is one, and wait for its end."""
        if self.loop:
            self.loop.end(signal.SIGKILL)
            self._ended()

    def kill(self) -> None:
        """Kill the loop, and do not wait for its end."""
        if self.loop:
            self.loop.process.kill()


def _sweep(process: int) -> None:
    """Remove what libfaketime leaves behind of a process that was killed."""
    for file in Path("/dev/shm").glob(f"*faketime_s*_{process}"):  # noqa: S108
        file.unlink(missing_ok=True)


def settled(time: datetime) -> datetime:
    """Return the latest step that is settled by default."""
    step = timedelta(minutes=5)
    return midnight(time) + (time - timedelta(minutes=15) - midnight(time)) // step * step
