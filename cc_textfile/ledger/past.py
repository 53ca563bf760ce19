"""The days before a ledger's first poll: which requests they need, what was answered, and how the ledger goes on.

A ledger that has counted already takes no past. Until all is answered, its file has the schema version 0 and two tables
of its own: `past` with what was answered, `backfill` with what was decided at the first start. In the end they give way
to the tables of a ledger, in one transaction.

What was answered is found again by channel, method and window. So a backfill that is started again, even with another
`first`, `step` or list of channels, requests only what it does not have yet, and uses only what it wants.
"""

import math
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from cc_textfile.errors import LedgerError
from cc_textfile.ledger.file import (
    APPLICATION_ID,
    create,
    decoding,
    explained,
    has_ledger,
    opened_for_poll,
    text,
    whole,
)
from cc_textfile.ledger.values import (
    DAY,
    FIGURES,
    STEP,
    as_json,
    count_of,
    counts_of,
    figures_of,
    midnight_of,
    sums_of,
    window_of,
)
from cc_textfile.portal.responses import HttpCode, Method, Request, Response
from cc_textfile.settings import Settings

MARGIN = 3 * 3600
"""Seconds; the history ends longer ago. Prometheus drops live samples that are older than the end of a block."""

_TABLES = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    "CREATE TABLE backfill (began INTEGER NOT NULL, end INTEGER NOT NULL, output TEXT NOT NULL)",
    # `figures` is {"traffic": 9120}, {"hits": 11, "misses": 1}, or requests by status code: {"200": 12}.
    """CREATE TABLE past (
        channel TEXT, method TEXT, start INTEGER, end INTEGER, figures TEXT NOT NULL,
        PRIMARY KEY (channel, method, start, end)) WITHOUT ROWID""",
)

Figures = Mapping[str, int]


class Past:
    """The past of a new ledger, a context manager that keeps the ledger locked. Its methods raise `LedgerError`.

    Of the settings it needs channels, methods, and delays. `first` is a midnight in UTC+8. `end` is where the history
    ends and the first poll goes on, in seconds since the epoch; it stays the same for a day after the first start.
    `output` identifies the file that an earlier process may have completed before it was stopped, else it is "".
    """

    def __init__(self, path: Path, settings: Settings, first: datetime, step: timedelta, now: datetime) -> None:
        self.channels = settings.channels
        self.methods = settings.methods
        self.first = int(first.timestamp())
        self._path = path
        self._day_settle = settings.day_settle
        self._is_made = not os.path.lexists(path)
        latest = math.floor((now.timestamp() - max(settings.settle, MARGIN + 1)) / STEP) * STEP
        with ExitStack() as stack:
            stack.enter_context(explained(path))
            self._db = stack.enter_context(opened_for_poll(path))
            stack.callback(self._remove_unused)  # not before: the file may be that of a process that was faster
            self._began, self.end, self.output = self._opened(int(now.timestamp()), latest)
            self._cleanup = stack.pop_all()
        days = range(self.first, self.end, DAY)
        length = int(step.total_seconds())
        steps = [
            (start, min(start + length, day + DAY, self.end))
            for day in days
            for start in range(day, min(day + DAY, self.end), length)
        ]
        whole_days = [(day, day + DAY) for day in days if day + DAY <= self.end]
        self._periods = {Method.HIT_RATE: steps, Method.ISP: steps, Method.HTTP_CODE: whole_days}
        self._steps = steps
        self._order = sorted((*period, method) for method in self._periods for period in self._wanted(method))

    def _opened(self, now: int, latest: int) -> tuple[int, int, str]:
        if has_ledger(self._db, self._path, unfinished=True):
            raise LedgerError(
                f"the ledger {self._path} has a past already, from polls or from a backfill. A backfill comes before "
                "the first poll. Give --ledger the path of a new file"
            )
        if self._path.stat().st_size:
            with decoding():
                row = self._db.execute("SELECT * FROM backfill").fetchone()
                (began, end), output = map(whole, row[:2]), text(row[2])
            now, latest = min(began, now), end if latest - DAY < end <= latest else latest
            self._db.execute("UPDATE backfill SET began = ?, end = ?", (now, latest))
            return now, latest, output
        for statement in _TABLES:
            self._db.execute(statement)
        self._db.execute("INSERT INTO backfill VALUES (?, ?, '')", (now, latest))
        return now, latest, ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._cleanup.close()

    def _remove_unused(self) -> None:
        if self._is_made:
            self._path.unlink(missing_ok=True)

    @property
    def total(self) -> int:
        """How many requests the past needs in all."""
        return len(self.channels) * len(self._order)

    def missing(self) -> Iterator[Request]:
        """Return the requests that have no response yet: channel by channel, the oldest first."""
        for channel in self.channels:
            with explained(self._path):
                known = set(self._db.execute("SELECT start, end, method FROM past WHERE channel = ?", (channel,)))
            for start, end, method in self._order:
                if (start, end, method) not in known:
                    yield Request(channel, method, window_of(start, end))

    def keep(self, responses: Mapping[Request, Response]) -> list[Request]:
        """Keep what was answered, and commit; return the requests whose responses have a number that is no count."""
        found = {request: _readable(response) for request, response in responses.items()}
        rows = [
            (channel, method, int(start.timestamp()), int(end.timestamp()), as_json(figures))
            for (channel, method, (start, end)), figures in found.items()
            if figures is not None
        ]
        if rows:
            with explained(self._path):
                self._db.executemany("REPLACE INTO past VALUES (?, ?, ?, ?, ?)", rows)
                self._commit()
        return [request for request, figures in found.items() if figures is None]

    def series(self, channel: str, method: Method) -> list[tuple[int, Figures]]:
        """Return the end of each period of a method, and its figures, in order of time."""
        query = "SELECT start, end, figures FROM past WHERE (channel, method) = (?, ?)"
        with explained(self._path), decoding():
            known = {(start, end): figures for start, end, figures in self._db.execute(query, (channel, method))}
            return [(period[1], counts_of(known[period])) for period in self._wanted(method)]

    def seconds(self) -> Iterator[tuple[int, Figures]]:
        """Return the end and the length of each step."""
        for start, end in self._steps:
            yield end, {"seconds": end - start}

    def _wanted(self, method: Method) -> list[tuple[int, int]]:
        return self._periods[method] if method in self.methods else []

    def finish(self, output: str, publish: Callable[[], None]) -> None:
        """Make a ledger of the file, which goes on where the history ends, and publish the history just before that.

        A process that is stopped in between leaves `output` to the next one.
        """
        with explained(self._path):
            self._db.execute("UPDATE backfill SET output = ?", (output,))
            self._commit()
            create(self._db, self._began)
            for channel in self.channels:
                self._count(channel)
            self._db.execute("DROP TABLE past")
            self._db.execute("DROP TABLE backfill")
            publish()
            self._db.execute("COMMIT")
        with suppress(sqlite3.Error):  # all is done, and what was kept only leaves its space
            self._db.execute("VACUUM")

    def _commit(self) -> None:
        self._db.execute("COMMIT")
        self._is_made = False
        self._db.execute("BEGIN IMMEDIATE")

    def _count(self, channel: str) -> None:
        """Write what a ledger would have written if it had counted all this time."""
        days: dict[int, dict[str, int]] = {day: {} for day in range(self.first, self.end, DAY)}
        codes: dict[int, Figures] = {}
        sums: dict[str, int] = {}
        sums_by_code: dict[str, int] = {}
        for method in (Method.HIT_RATE, Method.ISP):
            for end, figures in self.series(channel, method):
                of_day = days[midnight_of(end - 1)]
                for figure, value in figures.items():
                    of_day[figure] = of_day.get(figure, 0) + value
                    sums[figure] = sums.get(figure, 0) + value
        for end, figures in self.series(channel, Method.HTTP_CODE):
            codes[end - DAY] = figures
            for code, value in figures.items():
                sums_by_code[code] = sums_by_code.get(code, 0) + value
        # All of it is in Prometheus, so the sums are shown already: no series begins with 0 again.
        shown = {figure: (sums.get(figure, 0), sums.get(figure)) for figure in FIGURES}
        shown_by_code = {code: (value, value) for code, value in sums_by_code.items()}
        times = (self.first, self.first, self.end, self.end - self.first, 0)
        self._db.execute(
            "INSERT INTO channels VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (channel, *times, as_json(shown), as_json(shown_by_code)),
        )
        for day, of_day in days.items():
            end = min(day + DAY, self.end)
            is_whole = end == day + DAY
            is_closed = is_whole and end + self._day_settle <= self._began
            # The baseline is empty, not missing: what a day had before the first poll counts.
            numbers = [of_day.get(figure) for figure in FIGURES]
            self._db.execute(
                "INSERT INTO days VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (day, channel, end - day, *numbers, as_json(codes.get(day, {})), "{}", is_closed),
            )
            if is_whole and not is_closed:
                closes = [(day, channel, method) for method in self.methods]
                self._db.executemany("INSERT INTO closes VALUES (?, ?, ?)", closes)


def _readable(response: Response) -> Figures | None:
    """Return what a response counts; None if that cannot be read. A status code that cannot be read is left out."""
    if not isinstance(response, HttpCode):
        return figures_of(response)
    counts = sums_of((row.code, row.requests) for row in response.codes)
    return {code: count for code, value in counts.items() if (count := count_of(value)) is not None}
