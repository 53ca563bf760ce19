"""The ledger: which time has been counted for each channel, and what it came to; kept in an SQLite file.

`plan` says what to request next, `record` counts the responses. Times are whole seconds since the epoch here, on a grid
of 5-minute steps; a day is a day of UTC+8, named by its first second. What always holds:

- One poll is one transaction. `plan` begins it and takes the lock, `record` ends it: what is written follows from what
  was read, nobody writes in between, and a crash leaves the state before the poll or the state after it.
- The time before `settled_end` was counted once, or is in `lost_seconds`. `settled_end` moves only in the transaction
  that counts the time it passes, and one move does not cross midnight.
- A sum changes only together with the figure of a day, and by as much. So a sum is always what all days hold, those
  that are no longer kept included, and to count a day again replaces its figure instead of adding to it.
- What is shown of a sum is 0 at first, and from the next poll on the largest value that the sum had. It never falls.
- "Now" is the host's clock or the portal's, whichever is earlier. Without a response no channel begins, no time is
  skipped, and nothing is deleted.

A day is closed method by method, so that a method that fails holds up no other. The table `closes` lists what is still
to be requested; of each channel and method a poll requests the oldest day only.
"""

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime
from pathlib import Path

from cc_textfile.ledger.file import Day, create, days, decoding, explained, has_ledger, moment, opened_for_poll, whole
from cc_textfile.ledger.values import (
    DAY,
    STEP,
    Channel,
    ChannelTotals,
    Close,
    ClosedDay,
    Counter,
    DayRecord,
    Responses,
    Stretch,
    Totals,
    as_json,
    channel_of,
    closed_day_of,
    count_of,
    day_of,
    figures_of,
    midnight_of,
    replace_figure,
    sums_of,
    window_of,
)
from cc_textfile.portal.responses import HttpCode, Isp, Method, Region, Request, Response
from cc_textfile.settings import Settings

__all__ = ["ChannelTotals", "ClosedDay", "Day", "Ledger", "Totals", "days"]

DAYS_KEPT = 92
_TIMES = ("started", "first_code_day", "settled_end", "settled_seconds", "lost_seconds")

log = logging.getLogger(__name__)


class Ledger(AbstractContextManager["Ledger"]):
    """The ledger in one poll, a context manager: `plan`, then `record`. Closed without `record` it changes nothing."""

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self._names = settings.channels
        self._methods = frozenset(settings.methods)
        self._of_stretches = [method for method in (Method.HIT_RATE, Method.ISP) if method in self._methods]
        self._settle, self._day_settle = int(settings.settle), int(settings.day_settle)
        self._catch_up = int(settings.catch_up)
        self._cleanup = ExitStack()
        self._is_new = False
        self._created = self._clock_ahead = 0
        self._channels: dict[str, Channel] = {}
        self._days: dict[tuple[int, str], DayRecord] = {}
        self._stretches: dict[str, Stretch] = {}
        self._code_requests: dict[str, Request] = {}
        self._closes: list[Close] = []

    def __exit__(self, *exc_info: object) -> None:
        self._cleanup.close()

    def plan(self, now: datetime) -> list[Request]:
        """Lock the ledger and return the requests that it wants, in order of importance; raises `LedgerError`.

        The channel that is furthest behind comes first, so that it is not always the same one that gets no time.
        """
        with explained(self._path):
            self._open(now)
            time = now.timestamp() - self._clock_ahead
            if Method.HTTP_CODE in self._methods:
                today = window_of(midnight_of(time), midnight_of(time) + DAY)
                self._code_requests = {name: Request(name, Method.HTTP_CODE, today) for name in self._names}
            if not self._is_new:
                self._load()
                self._plan_stretches(time)
                self._plan_closes(time)
        wanted: dict[Request, None] = {}
        for name in dict.fromkeys((*self._stretches, *self._names)):
            requests = self._stretches[name].requests if name in self._stretches else ()
            codes = self._code_requests.get(name)
            wanted.update(dict.fromkeys((*requests, codes) if codes else requests))
        return [*wanted, *(close.request for close in self._closes)]

    def record(self, responses: Mapping[Request, Response], now: datetime) -> Totals:
        """Count what was answered, commit, and return what is to be exported; raises `LedgerError`."""
        poll = Responses(responses, now)
        with explained(self._path):
            if responses or not (self._stretches or self._code_requests or self._closes):
                self._begin_channels(poll.now)
            if responses:
                self._skip(poll)
            finished = self._count_stretches(poll)
            ratios = self._count_codes(poll)
            closed = self._close_days(poll)
            # With a clock that is ahead every poll would ask too early: the next one asks by the portal's clock.
            self._clock_ahead = poll.clock_ahead if poll.asked_too_early else min(self._clock_ahead, poll.clock_ahead)
            if self._is_new:
                create(self._db, self._created)
            self._write_days(finished, closed)
            if responses:
                self._delete_old(poll.now)
            totals = self._totals(ratios)
            self._write_channels()
            self._db.execute("COMMIT")
            self._db.close()
        self._cleanup.pop_all()
        return totals

    def not_delivered(self) -> None:
        """Let what `record` showed as 0 for the first time be shown as 0 again; raises `LedgerError`."""
        changes = []
        for name, channel in self._channels.items():
            if new := [counter for counter in channel.counters if counter.is_new]:
                recorded = as_json(channel.figures), as_json(channel.codes)
                for counter in new:
                    counter.shown = None
                changes.append((as_json(channel.figures), as_json(channel.codes), name, *recorded))
        query = "UPDATE channels SET (figures, codes) = (?, ?) WHERE (channel, figures, codes) = (?, ?, ?)"
        with explained(self._path), opened_for_poll(self._path) as db:
            db.executemany(query, changes)
            db.execute("COMMIT")

    def _open(self, now: datetime) -> None:
        existed = os.path.lexists(self._path)
        self._db = self._cleanup.enter_context(opened_for_poll(self._path))
        self._is_new = not has_ledger(self._db, self._path)
        if not self._is_new:
            with decoding():
                row = self._db.execute("SELECT created, clock_ahead FROM ledger").fetchone()
                self._created, self._clock_ahead = map(whole, row)
                moment(self._created)
            return
        self._created = int(now.timestamp())
        if not existed:
            self._cleanup.callback(self._path.unlink, missing_ok=True)

    def _load(self) -> None:
        names = frozenset(self._names)
        for name, *row in self._db.execute("SELECT * FROM channels"):
            if name in names:
                self._channels[name] = channel_of(*row)

    def _plan_stretches(self, time: float) -> None:
        latest, limit = self._latest_settled(time), self._limit(time)
        for name, channel in sorted(self._channels.items(), key=lambda item: item[1].settled_end):
            start = max(channel.settled_end, limit)
            end = min(latest, midnight_of(start) + DAY)
            if end <= start:
                continue
            requests = tuple(Request(name, method, window_of(start, end)) for method in self._of_stretches)
            codes = self._code_requests.get(name)  # the position follows what is asked
            self._stretches[name] = Stretch(start, end, requests or ((codes,) if codes else ()))

    @decoding()
    def _plan_closes(self, time: float) -> None:
        oldest: dict[tuple[str, str], int] = {}
        for day, name, method in self._db.execute("SELECT day, channel, method FROM closes ORDER BY day"):
            if name in self._channels and method in self._methods and day + DAY + self._day_settle <= time:
                oldest.setdefault((name, method), day)
        for (name, method), day in oldest.items():
            # Status codes have whole days only.
            start = day if method == Method.HTTP_CODE else max(day, self._channels[name].started)
            self._closes.append(Close(day, Request(name, Method(method), window_of(start, day + DAY))))

    def _latest_settled(self, time: float) -> int:
        return int(time - self._settle) // STEP * STEP

    def _limit(self, time: float) -> int:
        return math.ceil((time - self._catch_up) / STEP) * STEP

    def _begin_channels(self, now: float) -> None:
        start = self._latest_settled(now)
        for name in self._names:
            self._channels.setdefault(name, Channel(start, midnight_of(now), start))

    def _skip(self, poll: Responses) -> None:
        """Move the positions that are older than the limit."""
        skipped: dict[str, int] = {}
        for name, stretch in self._stretches.items():
            channel = self._channels[name]
            if channel.settled_end == stretch.start:
                continue
            if stretch.start > self._limit(poll.now):  # by the portal's clock they are not yet
                poll.asked_too_early = True
            else:
                skipped[name] = stretch.start - channel.settled_end
                channel.lost_seconds += skipped[name]
                channel.settled_end = stretch.start
        if skipped:
            what = "%d seconds of %d channels (%s first) are older than --catch-up: they are skipped"
            log.warning(what, sum(skipped.values()), len(skipped), next(iter(skipped)))

    def _count_stretches(self, poll: Responses) -> list[tuple[int, str, Method]]:
        """Count the stretches that were answered; return day, channel and method of the day closes that follow."""
        finished: list[tuple[int, str, Method]] = []
        for name, (start, end, requests) in self._stretches.items():
            channel = self._channels[name]
            found = [figures_of(poll.get(request, since=end + self._settle)) for request in requests]
            if start != channel.settled_end or None in found or poll.now < end + self._settle:
                continue
            day = self._day(midnight_of(start), name)
            for figure, value in (item for figures in found if figures for item in figures.items()):
                replace_figure(channel, day, figure, (day.figures[figure] or 0) + value)
            day.seconds += end - start
            channel.settled_seconds += end - start
            channel.settled_end = end
            if end == midnight_of(end):
                finished += self._day_closes(end - DAY, name, channel)
        return finished

    def _day_closes(self, day: int, name: str, channel: Channel) -> Iterator[tuple[int, str, Method]]:
        for method in self._methods | self._day(day, name).methods:  # those, too, that are no longer asked
            # A first day has no rows, and nothing but rows is of use in a response of `region`.
            first = {Method.REGION: channel.started, Method.HTTP_CODE: channel.first_code_day}.get(method, day)
            if first <= day:
                yield day, name, method

    def _count_codes(self, poll: Responses) -> dict[str, dict[str, float]]:
        """Record the day's counts so far; return each code's share of the traffic, by channel."""
        ratios = {}
        for name, request in self._code_requests.items():
            day = int(request.window.start.timestamp())
            response = poll.get(request, since=day)
            if not isinstance(response, HttpCode):
                continue
            percents = sums_of((row.code, row.flux_percent) for row in response.codes).items()
            ratios[name] = {code: percent / 100 for code, percent in percents if percent is not None}
            channel = self._channels[name]
            # A clock that is behind asks for a day that is counted to its end, or for one before the first.
            if channel.first_code_day <= day and channel.settled_end < day + DAY:
                self._replace_codes(channel, day, name, response)
        return ratios

    def _replace_codes(self, channel: Channel, day: int, name: str, response: HttpCode) -> None:
        recorded = self._day(day, name)
        counts = sums_of((row.code, row.requests) for row in response.codes)
        if day == channel.first_code_day and recorded.baseline is None:
            recorded.baseline = {code: count_of(count) for code, count in counts.items()}
            if not response.is_whole:
                recorded.baseline[""] = None  # it stands for each code that is not named
        baseline = recorded.baseline or {}
        for code in dict.fromkeys((*counts, *recorded.codes)):
            count = count_of(counts.get(code, 0.0 if response.is_whole else None))
            if count is None:
                continue  # It cannot be read: what was recorded stays.
            before = baseline.get(code, baseline.get("", 0))
            if before is None:  # It could not be read when the channel was new.
                before = baseline[code] = count
            new = max(0, count - before)
            channel.codes.setdefault(code, Counter()).sum += new - recorded.codes.get(code, 0)
            recorded.codes[code] = new

    def _close_days(self, poll: Responses) -> list[tuple[Close, Response]]:
        """Replace the figures of days with the portal's for the whole days; return the closes that are done."""
        closed = []
        for close in self._closes:
            (day, (name, _, window)), channel = close, self._channels[close.request.channel]
            response = poll.get(close.request, since=day + DAY + self._day_settle)
            figures = figures_of(response)
            if response is None or figures is None:
                continue
            recorded = self._day(day, name)
            for figure, value in figures.items():
                replace_figure(channel, recorded, figure, value)
            # Where the position has skipped a part of this day, the part is counted after all.
            if figures and (missing := int((window.end - window.start).total_seconds()) - recorded.seconds):
                recorded.seconds += missing
                channel.settled_seconds += missing
            if isinstance(response, HttpCode):
                self._replace_codes(channel, day, name, response)
            closed.append((close, response))
        return closed

    def _day(self, day: int, name: str) -> DayRecord:
        """Return what is recorded of a day, to be changed; it is written with the rest."""
        if (day, name) not in self._days:
            query = "SELECT seconds, traffic, hits, misses, codes, baseline FROM days WHERE (day, channel) = (?, ?)"
            row = None if self._is_new else self._db.execute(query, (day, name)).fetchone()
            self._days[day, name] = day_of(*row) if row else DayRecord()
        return self._days[day, name]

    def _write_days(self, finished: list[tuple[int, str, Method]], closed: list[tuple[Close, Response]]) -> None:
        self._db.executemany(
            "REPLACE INTO days VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (
                (*key, day.seconds, *day.figures.values(), as_json(day.codes), as_json(day.baseline))
                for key, day in self._days.items()
            ),
        )
        self._db.executemany("INSERT INTO closes VALUES (?, ?, ?)", finished)
        keys = [(day, request.channel, request.method) for (day, request), _ in closed]
        self._db.executemany("DELETE FROM closes WHERE (day, channel, method) = (?, ?, ?)", keys)
        self._db.executemany(
            """UPDATE days SET closed = 1 WHERE (day, channel) = (?, ?)
               AND NOT EXISTS (SELECT 1 FROM closes WHERE (closes.day, closes.channel) = (days.day, days.channel))""",
            [key[:2] for key in keys],
        )
        self._db.executemany(
            "REPLACE INTO closed VALUES (?, ?, ?, ?, ?)",
            (self._closed_row(close, response) for close, response in closed),
        )

    def _closed_row(self, close: Close, response: Response) -> tuple[object, ...]:
        day, request = close
        traffic, rows = None, []
        if isinstance(response, Isp):
            traffic, rows = count_of(response.total_bytes), [response.isps]
        elif isinstance(response, Region):
            rows = [response.provinces, response.countries]
        is_first = self._channels[request.channel].started > day
        return request.channel, request.method, day, traffic, as_json([() if is_first else shares for shares in rows])

    def _write_channels(self) -> None:
        self._db.executemany(
            "REPLACE INTO channels VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (name, *(getattr(each, column) for column in _TIMES), *map(as_json, (each.figures, each.codes)))
                for name, each in self._channels.items()
            ),
        )
        self._db.execute("UPDATE ledger SET clock_ahead = ?", (self._clock_ahead,))

    def _delete_old(self, now: float) -> None:
        oldest = now - self._catch_up - self._day_settle - DAY
        if given_up := self._db.execute("DELETE FROM closes WHERE day < ?", (oldest,)).rowcount:
            log.warning("%d day closes had no response within --catch-up: they are given up", given_up)
        # The day of a position is kept: when the channel comes back, its counting goes on in that day.
        position = "SELECT settled_end FROM channels WHERE channel = days.channel"
        delete = f"DELETE FROM days WHERE day < ? AND day + {DAY} <= ({position})"  # noqa: S608 # nothing foreign in it
        self._db.execute(delete, (min(now - DAYS_KEPT * DAY, oldest) - DAY,))

    def _totals(self, ratios: Mapping[str, Mapping[str, float]]) -> Totals:
        closed_days = self._closed_days()
        totals = {}
        for name in self._names:
            if (channel := self._channels.get(name)) is None:
                continue
            traffic, hits, misses = channel.figures.values()
            is_new = self._of_stretches and all(counter.shown is None for counter in channel.counters)
            results = {"hit": hits, "miss": misses} if Method.HIT_RATE in self._methods else {}
            codes = channel.codes if Method.HTTP_CODE in self._methods else {}
            has_traffic = Method.ISP in self._methods
            totals[name] = ChannelTotals(
                settled_end=moment(channel.settled_end),
                settled_seconds=0 if is_new else channel.settled_seconds,
                lost_seconds=0 if is_new else channel.lost_seconds,
                traffic_bytes=traffic.show() if has_traffic else None,
                overcounted_bytes=max(0, (traffic.shown or 0) - traffic.sum) if has_traffic else None,
                requests={result: counter.show() for result, counter in results.items()},
                responses={code: counter.show() for code, counter in codes.items()},
                code_traffic_ratio=ratios.get(name, {}),
                day=closed_days.get(name),
            )
        return Totals(moment(self._created), totals)

    def _closed_days(self) -> dict[str, ClosedDay]:
        query = """
            SELECT last.channel, last.day, isp.traffic, isp.rows, region.rows
            FROM (SELECT channel, MAX(day) AS day FROM closed GROUP BY channel) AS last
            LEFT JOIN closed AS isp ON (isp.channel, isp.day, isp.method) = (last.channel, last.day, 'isp')
            LEFT JOIN closed AS region
                ON (region.channel, region.day, region.method) = (last.channel, last.day, 'region')
        """
        found = {}
        for name, day, traffic, isp, region in self._db.execute(query):
            if name in self._channels:
                found[name] = closed_day_of(day, traffic, isp, region)
        return found
