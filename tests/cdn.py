"""A CDN with a known number in every minute, and a portal that learns of some of it late.

`python -m tests.cdn LEDGER TIME` makes one poll of it into a ledger, for tests that kill the process: it says that it
is ready, waits for a line, records, and ends.
"""

import itertools
import sys
import zlib
from collections.abc import Container, Iterable
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path

from cc_textfile.ledger import Ledger, Totals
from cc_textfile.portal.responses import (
    HitRate,
    HttpCode,
    Isp,
    Method,
    Region,
    Request,
    Response,
    Share,
    StatusCode,
)
from cc_textfile.portal.window import PORTAL_ZONE, midnight
from cc_textfile.settings import Settings

STEP = timedelta(minutes=5)
CODES = ("200", "404", "503")
SETTLE = timedelta(minutes=15)
DAY_SETTLE = timedelta(hours=2)
CATCH_UP = timedelta(days=7)
MINUTES = 1440
MAX_DELAY = 100
"""Minutes after which the portal knows all of a minute."""


def at(text: str) -> datetime:
    """Return a time of December 2026 in UTC+8, such as `03 14:05`."""
    return datetime.fromisoformat(f"2026-12-{text}").replace(tzinfo=PORTAL_ZONE)


def _minute(time: datetime) -> int:
    return int(time.timestamp()) // 60


def _day(minute: int) -> int:
    """Return the first minute of a day; in UTC+8 a day begins 8 hours earlier."""
    return (minute + 480) // MINUTES * MINUTES - 480


@cache
def _numbers(channel: str, kind: str, day: int) -> tuple[int, ...]:
    """Return the number of each minute of a day, which is named by its first minute."""
    size = {"traffic": 1 << 31, "hits": 1000, "misses": 300, "200": 900, "404": 50, "503": 3}[kind]
    seed = zlib.crc32(f"{channel} {kind}".encode())
    mixed = [minute * 2654435761 ^ seed for minute in range(day, day + MINUTES)]
    return tuple([0 if kind == "503" and number % 7 else (number >> 5) % size for number in mixed])


@cache
def _sums(channel: str, kind: str, day: int) -> tuple[int, ...]:
    return tuple(itertools.accumulate(_numbers(channel, kind, day), initial=0))


class Cdn:
    """What was delivered, and what the portal knows of it at the time `now`."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self._corrections: list[tuple[datetime, int, str, str, int]] = []

    def correct(self, channel: str, kind: str, time: datetime, by: int) -> None:
        """Let the portal find out that the number of a minute was another."""
        self._corrections.append((self.now, _minute(time), channel, kind, by))

    def truth(self, channel: str, kind: str, start: datetime, end: datetime) -> int:
        """Return what the portal will know in the end."""
        total = self._sum(channel, kind, _minute(start), _minute(end))
        return max(0, total + self._corrected(channel, kind, start, end))

    def known(self, channel: str, kind: str, start: datetime, end: datetime) -> int:
        """Return what the portal knows now: nothing of the future, and a third of some minutes only later."""
        now = _minute(self.now)
        first, last = _minute(start), min(_minute(end), now)
        if last <= first:
            return 0
        late = 0
        for minute in range(max(first, now - MAX_DELAY), last):
            if minute + 1 + (3, 14, 40, MAX_DELAY - 2)[minute % 4] > now:
                day = _day(minute)
                late += _numbers(channel, kind, day)[minute - day] // 3
        corrected = self._corrected(channel, kind, start, end)
        return max(0, self._sum(channel, kind, first, last) - late + corrected)

    def answer(self, request: Request) -> Response:
        """Return what the portal answers now."""
        channel, method, (start, end) = request
        date = self.now.replace(microsecond=0)
        rows = self.rows(channel, start) if midnight(start) != midnight(end) else ()
        match method:
            case Method.HIT_RATE:
                hits, misses = (float(self.known(channel, kind, start, end)) for kind in ("hits", "misses"))
                return HitRate(hits=hits, misses=misses, date=date)
            case Method.ISP:
                return Isp(total_bytes=float(self.known(channel, "traffic", start, end)), isps=rows, date=date)
            case Method.REGION:
                return Region(total_bytes=1.0, provinces=rows, countries=rows[:1], date=date)
        counts = {code: self.known(channel, code, start, end) for code in CODES}
        codes = tuple(StatusCode(code, float(count), 50.0, 25.0) for code, count in counts.items() if count)
        return HttpCode(codes=codes, date=date)

    def rows(self, channel: str, day: datetime) -> tuple[Share, ...]:
        """Return the rows that the portal has for a day."""
        return tuple(Share(f"{channel}-{n}", 0.5, float(_minute(midnight(day)) + n), 0.25) for n in range(2))

    def _sum(self, channel: str, kind: str, first: int, last: int) -> int:
        total = 0
        while first < last:
            day = _day(first)
            until = min(last, day + MINUTES)
            sums = _sums(channel, kind, day)
            total += sums[until - day] - sums[first - day]
            first = until
        return total

    def _corrected(self, channel: str, kind: str, start: datetime, end: datetime) -> int:
        return sum(
            by
            for since, minute, *whose, by in self._corrections
            if since <= self.now and whose == [channel, kind] and _minute(start) <= minute < _minute(end)
        )


def ledger(
    path: Path, channels: Iterable[str] = ("1001",), methods: Iterable[Method] = Method, catch_up: timedelta = CATCH_UP
) -> Ledger:
    """Return a ledger with the default delays."""
    settings = Settings(
        user="me",
        password="",
        account="me",
        channels=tuple(channels),
        methods=tuple(methods),
        settle=SETTLE.total_seconds(),
        day_settle=DAY_SETTLE.total_seconds(),
        catch_up=catch_up.total_seconds(),
    )
    return Ledger(path, settings)


def poll(
    cdn: Cdn,
    kept: Ledger,
    *,
    failing: Container[Method] = (),
    clock: timedelta = timedelta(0),
    answered: float = 1.0,
) -> Totals:
    """Make one poll; the clock may be wrong, methods may fail, and the deadline may cut off the last requests."""
    with kept as open_ledger:
        wanted = open_ledger.plan(cdn.now + clock)
        assert len(wanted) == len(set(wanted))
        return open_ledger.record(answers(cdn, wanted[: round(len(wanted) * answered)], failing), cdn.now + clock)


def answers(cdn: Cdn, wanted: Iterable[Request], failing: Container[Method] = ()) -> dict[Request, Response]:
    """Return the good responses to some requests."""
    return {request: cdn.answer(request) for request in wanted if request.method not in failing}


def polls(
    cdn: Cdn, kept: Path, until: datetime, *, every: timedelta = timedelta(minutes=5), **options: object
) -> Totals:
    """Poll now, and again and again until some time, which is the time of the last poll."""
    while cdn.now < until:
        poll(cdn, ledger(kept, **options))  # type: ignore[arg-type]
        cdn.now = min(cdn.now + every, until)
    return poll(cdn, ledger(kept, **options))  # type: ignore[arg-type]


def main() -> None:
    """Make one poll when told."""
    cdn = Cdn(datetime.fromisoformat(sys.argv[2]))
    with ledger(Path(sys.argv[1])) as kept:
        responses = answers(cdn, kept.plan(cdn.now))
        sys.stderr.write("ready\n")
        sys.stderr.flush()
        sys.stdin.readline()
        kept.record(responses, cdn.now)


if __name__ == "__main__":
    main()
