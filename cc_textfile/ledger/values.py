"""What the ledger counts with: totals to export, the state of a channel and of a day, and the responses of a poll."""

import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from cc_textfile.ledger.file import decoding, moment, number, whole
from cc_textfile.portal import window
from cc_textfile.portal.responses import HitRate, Isp, Method, Request, Response, Share
from cc_textfile.portal.window import Window

STEP, DAY = (int(length.total_seconds()) for length in (window.STEP, window.DAY))
"""Seconds: the grid on which time is counted."""

UTC_OFFSET = 28_800
MAX_EXACT = 2.0**53
FIGURES = ("traffic", "hits", "misses")


@dataclass(frozen=True, slots=True)
class ClosedDay:
    """The last day that was closed; what the portal has not answered for this day is None or empty."""

    end: datetime
    traffic_bytes: int | None
    isps: tuple[Share, ...]
    provinces: tuple[Share, ...]
    countries: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class ChannelTotals:
    """What is exported of one channel after a poll; what is None or missing has no series."""

    settled_end: datetime
    settled_seconds: int
    lost_seconds: int
    traffic_bytes: int | None
    overcounted_bytes: int | None
    requests: Mapping[str, int]
    responses: Mapping[str, int]
    code_traffic_ratio: Mapping[str, float]
    day: ClosedDay | None


@dataclass(frozen=True, slots=True)
class Totals:
    """What is exported after a poll; a channel that has not begun is missing."""

    created: datetime
    channels: Mapping[str, ChannelTotals]


@dataclass(slots=True)
class Counter:
    """A sum, and the largest value of it that was exported, None until it was; `is_new` when that was now."""

    sum: int = 0
    shown: int | None = None
    is_new: bool = False

    def show(self) -> int:
        """Return the value to export: 0 the first time, so that `increase()` sees the first step."""
        self.is_new = self.shown is None
        self.shown = 0 if self.shown is None else max(self.shown, self.sum)
        return self.shown

    def pair(self) -> tuple[int, int | None]:
        """Return what is written of it."""
        return self.sum, self.shown


@dataclass(slots=True)
class Channel:
    """The state of a channel; times in seconds since the epoch."""

    started: int
    first_code_day: int
    settled_end: int
    settled_seconds: int = 0
    lost_seconds: int = 0
    figures: dict[str, Counter] = field(default_factory=lambda: {figure: Counter() for figure in FIGURES})
    codes: dict[str, Counter] = field(default_factory=dict)

    @property
    def counters(self) -> tuple[Counter, ...]:
        """Those of all figures and codes."""
        return (*self.figures.values(), *self.codes.values())


@dataclass(slots=True)
class DayRecord:
    """What is recorded of a day; `baseline` is what the portal had counted before the channel was new."""

    seconds: int = 0
    figures: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(FIGURES))
    codes: dict[str, int] = field(default_factory=dict)
    baseline: dict[str, int | None] | None = None

    @property
    def methods(self) -> set[Method]:
        """The methods of which numbers are recorded."""
        traffic, hits, _ = self.figures.values()
        found = {Method.ISP: traffic, Method.HIT_RATE: hits, Method.HTTP_CODE: self.codes or None}
        return {method for method, value in found.items() if value is not None}


class Stretch(NamedTuple):
    """Time that is to be counted, and the requests that all have to be answered for it."""

    start: int
    end: int
    requests: tuple[Request, ...]


class Close(NamedTuple):
    """A day that is to be closed by one request; `day` is its first second."""

    day: int
    request: Request


class Responses:
    """The responses of a poll, and what time it was."""

    def __init__(self, responses: Mapping[Request, Response], now: datetime) -> None:
        self.all = responses
        self._host = now.timestamp()
        dates = [response.date for response in responses.values() if response.date]
        self.now = min(self._host, max(dates).timestamp()) if dates else self._host
        self.clock_ahead = math.ceil(self._host - self.now)
        self.asked_too_early = False

    def get(self, request: Request, *, since: int) -> Response | None:
        """Return the response to a request, or None if there is none or it was given before the time `since`."""
        response = self.all.get(request)
        if response is None:
            return None
        if min(self._host, response.date.timestamp() if response.date else self._host) >= since:
            return response
        self.asked_too_early = True
        return None


def figures_of(response: Response | None) -> dict[str, int] | None:
    """Return what a response has for the figures of a day; None if there is no response or a part is not readable."""
    match response:
        case None:
            return None
        case Isp(total_bytes=total_bytes):
            found = {"traffic": count_of(total_bytes)}
        case HitRate(hits=hits, misses=misses):
            found = {"hits": count_of(hits), "misses": count_of(misses)}
        case _:
            found = {}
    figures = {figure: value for figure, value in found.items() if value is not None}
    return figures if len(figures) == len(found) else None


def replace_figure(channel: Channel, day: DayRecord, figure: str, value: int) -> None:
    """Put a figure in the place of what was recorded for the day, and change the sum by as much."""
    channel.figures[figure].sum += value - (day.figures[figure] or 0)
    day.figures[figure] = value


def count_of(value: float | None) -> int | None:
    """Return a count as an integer; a float that does not hold it exactly is no count."""
    return None if value is None or value >= MAX_EXACT else round(value)


def sums_of(pairs: Iterable[tuple[str, float | None]]) -> dict[str, float | None]:
    """Add up the values of each code; the sum is None if one of them is, or if it is too large to be a number."""
    sums: dict[str, float | None] = {}
    for code, value in pairs:
        before = sums.get(code, 0.0)
        sums[code] = None if value is None or before is None else before + value
    return {code: None if value == math.inf else value for code, value in sums.items()}


as_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=Counter.pair).encode


def channel_of(*row: Any) -> Channel:
    """Return the channel of a row of `channels` without its name."""
    with decoding():
        *times, figures, codes = row
        channel = Channel(*times, *map(_counters, (figures, codes)))
        moment(max(map(whole, times)))  # each is a number, and none is beyond all times
        if tuple(channel.figures) != FIGURES:
            raise ValueError("a figure of a channel is missing")
        return channel


def day_of(*row: Any) -> DayRecord:
    """Return what is recorded of a day, from a row of `days` without its key and `closed`."""
    with decoding():
        seconds, *figures, codes, baseline = row
        by_name = dict(zip(FIGURES, map(number, figures), strict=True))
        before = json.loads(baseline)
        known = None if before is None else {code: number(count) for code, count in before.items()}
        return DayRecord(whole(seconds), by_name, counts_of(codes), known)


def closed_day_of(day: int, traffic: object, isp: str | None, region: str | None) -> ClosedDay:
    """Return the day of two rows of `closed`, of traffic and breakdowns; one that is missing is None."""
    with decoding():
        (isps,), (provinces, countries) = _shares(isp or "[[]]"), _shares(region or "[[], []]")
        return ClosedDay(moment(day + DAY), number(traffic), isps, provinces, countries)


def counts_of(written: str) -> dict[str, int]:
    """Return the counts that `as_json` wrote."""
    return {name: whole(count) for name, count in json.loads(written).items()}


def _counters(written: str) -> dict[str, Counter]:
    found = json.loads(written).items()
    return {sys.intern(name): Counter(whole(total), number(shown)) for name, (total, shown) in found}


def _shares(written: str) -> list[tuple[Share, ...]]:
    return [tuple(_share(*row) for row in rows) for rows in json.loads(written)]


def _share(name: str, *numbers: float | None) -> Share:
    if not all(isinstance(value, float | int | None) for value in numbers):
        raise TypeError("a number is something else")
    return Share(sys.intern(name), *numbers)


def midnight_of(time: float) -> int:
    """Return the start of the day (UTC+8) in which a time lies, both in seconds since the epoch."""
    return int(time + UTC_OFFSET) // DAY * DAY - UTC_OFFSET


@lru_cache(maxsize=256)
def window_of(start: int, end: int) -> Window:
    """Return a window, the same object for all channels: that saves memory, and makes requests quick to compare."""
    return Window(moment(start), moment(end))
