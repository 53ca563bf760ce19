"""`cc-textfile report`: what the ledger has recorded, by day and channel, for people and for programs."""

import csv
import io
import json
import textwrap
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from cc_textfile.ledger import Day
from cc_textfile.ledger import days as recorded

COLUMNS = ("day", "channel", "traffic", "requests", "hit ratio", "5xx", "closed")
NOT_CLOSED = "* not closed: late numbers and corrections of the portal may be missing"
UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def render(path: Path, form: str, *, days: int, channel: str | None, now: datetime, width: int | None) -> str:
    """Return the last days of a ledger, with today (`now` is in UTC+8), as `json`, `csv` or `table`.

    Raises `LedgerError`. `width` is as for `as_table`.
    """
    since = (now - timedelta(days=days - 1)).date()
    found = [day for day in recorded(path, since=since) if channel in (None, day.channel)]
    if form == "table":
        return as_table(found, width=width) if found else "nothing is recorded for these days"
    return as_json(found) if form == "json" else as_csv(found)


def as_json(days: Iterable[Day]) -> str:
    """Return a list of objects, one for each day and channel. What was not asked of the portal is null."""
    return json.dumps(
        [
            {
                "day": day.day.isoformat(),
                "channel": day.channel,
                "traffic_bytes": day.traffic_bytes,
                "hits": day.hits,
                "misses": day.misses,
                "responses": dict(day.responses),
                "closed": day.closed,
            }
            for day in days
        ],
        indent=2,
        ensure_ascii=False,
    )


def as_csv(days: Sequence[Day]) -> str:
    """Return a row for each day and channel, with a column for each status code; what is not known is empty."""
    codes = sorted({code for day in days for code in day.responses})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["day", "channel", "traffic_bytes", "hits", "misses", *(f"responses_{c}" for c in codes), "closed"])
    for day in days:
        counts = [day.responses.get(code, "") for code in codes]
        closed = "true" if day.closed else "false"
        writer.writerow([day.day, day.channel, day.traffic_bytes, day.hits, day.misses, *counts, closed])
    return text.getvalue().rstrip("\n")


def as_table(days: Sequence[Day], *, width: int | None = None) -> str:
    """Return a table with a total for each day, cut to `width` characters a line if that is given."""
    rows: list[Sequence[str]] = [COLUMNS]
    for date in dict.fromkeys(day.day for day in days):
        of_day = [day for day in days if day.day == date]
        rows += [_row(day.channel, [day]) for day in of_day]
        if len(of_day) > 1:
            rows.append(_row("all channels", of_day))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    if width is not None:
        lines = [line if len(line) <= width else line[: width - 1] + "…" for line in lines]
    if any(not day.closed for day in days):
        lines += ["", textwrap.fill(NOT_CLOSED, width) if width is not None else NOT_CLOSED]
    return "\n".join(lines)


def _row(name: str, days: Sequence[Day]) -> Sequence[str]:
    traffic, hits, misses = (_sum([getattr(day, each) for day in days]) for each in ("traffic_bytes", "hits", "misses"))
    requests = None if hits is None or misses is None else hits + misses
    responses = sum(sum(day.responses.values()) for day in days)
    errors = sum(count for day in days for code, count in day.responses.items() if code.startswith("5"))
    return (
        days[0].day.isoformat(),
        name,
        "-" if traffic is None else _size(traffic),
        "-" if requests is None else f"{requests:,}",
        f"{(hits or 0) / requests:.1%}" if requests else "-",
        f"{errors / responses:.2%}" if responses else "-",
        "yes" if all(day.closed for day in days) else "no *",
    )


def _sum(values: Sequence[int | None]) -> int | None:
    """Return the sum, None if a part is not known: it would pass for the whole."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    names = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
    return names + [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]


def _size(count: float) -> str:
    """Return bytes in the largest decimal unit that leaves a number of 1 or more."""
    power = min(max((len(str(int(count))) - 1) // 3, 0), len(UNITS) - 1)
    return f"{count / 1000**power:,.1f} {UNITS[power]}" if power else f"{count:,.0f} B"
