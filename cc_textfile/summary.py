"""What a poll tells the operator in the log: what it will ask, how it went, and each distinct failure."""

import logging
import sys
from collections import defaultdict
from datetime import timedelta

import durationpy

from cc_textfile.errors import RequestError, RequestTimeout
from cc_textfile.logs import STDERR
from cc_textfile.poll import NOT_MADE, Progress, Snapshot
from cc_textfile.portal.responses import Method
from cc_textfile.portal.window import DAY
from cc_textfile.settings import Settings

MAX_FAILURE_LINES = 20
"""Distinct failures that one poll logs; a portal that words each one differently must not fill the journal."""

MAX_CHANNELS_NAMED = 3

log = logging.getLogger(__name__)


def budget(settings: Settings) -> None:
    """Log how many requests the portal will see: in a poll, and in a day if polls are repeated."""
    channels, methods = len(settings.channels), settings.methods
    gauges = len(methods) if settings.gauges else 0
    # The gauges' request for status codes serves the ledger, too.
    counted = (Method.HIT_RATE, Method.ISP) if settings.gauges else (Method.HIT_RATE, Method.ISP, Method.HTTP_CODE)
    ledger = sum(method in methods for method in counted) if settings.ledger else 0
    requests = channels * (gauges + ledger)
    line = f"{requests:,} requests in a poll of {channels} channels: {gauges} for the gauges of each channel"
    if settings.ledger:
        line += f" and {ledger} for the ledger"
    if settings.interval:
        closes = channels * len(methods) if settings.ledger else 0
        day = requests * (DAY / timedelta(seconds=settings.interval)) + closes
        line += f"; {day:,.0f} a day, with a poll every {_duration(settings.interval)}"
    log.info("%s", line, extra={"channels": channels, "requests": requests})


def pace(snapshot: Snapshot, *, deadline: float, interval: float | None) -> None:
    """Warn when the portal, as fast as it was in this poll, is too slow for a whole one; both limits in seconds."""
    made = len(snapshot.requests)
    requests = made + snapshot.left
    in_time = made - sum(isinstance(error, RequestTimeout) for error in snapshot.failures.values())
    if not snapshot.responses:
        return  # the portal is down, and the failures say so
    whole = snapshot.seconds * requests / in_time
    name, limit = ("--interval", interval) if interval and interval < deadline else ("--deadline", deadline)
    if whole > limit:
        log.warning(
            "the portal answered %.0f requests a second. At this rate a poll of %s requests takes %s, and %s is %s: "
            "raise that, or --concurrency, or divide the channels among hosts with --shard",
            in_time / snapshot.seconds,
            f"{requests:,}",
            _duration(round(whole, 1)),
            name,
            _duration(limit),
            extra={"requests": requests, "seconds": round(whole, 3)},
        )


def _duration(seconds: float) -> str:
    return str(durationpy.to_str(timedelta(seconds=seconds)))


def poll(snapshot: Snapshot, channels: int, series: int, where: str) -> str:
    """Log, and return, the one line of a poll: how many channels, requests and series, how long, and where it went."""
    failed = len(snapshot.failures)
    line = (
        f"polled {channels} channels in {snapshot.seconds:.2f} s: "
        f"{len(snapshot.responses)} requests good, {failed} failed; {series} series; {where}"
    )
    log.log(
        logging.INFO if not failed else logging.WARNING if snapshot.responses else logging.ERROR,
        "%s",
        line,
        extra={
            "channels": channels,
            "requests": len(snapshot.requests),
            "failed": failed,
            "series": series,
            "seconds": round(snapshot.seconds, 3),
        },
    )
    return line


def failures(snapshot: Snapshot, user: str) -> None:
    """Log each distinct failure once, with the channels that it concerns."""
    alike: defaultdict[tuple[str, str, str], dict[str, RequestError]] = defaultdict(dict)
    not_made = snapshot.left
    for error in snapshot.failures.values():
        if str(error) == NOT_MADE:
            not_made += 1
        else:
            alike[error.method, error.reason, str(error)][error.channel] = error
    for (method, reason, message), errors in list(alike.items())[:MAX_FAILURE_LINES]:
        named = list(errors)[:MAX_CHANNELS_NAMED]
        more = f" and {len(errors) - len(named)} more" if len(errors) > len(named) else ""
        log.warning(
            "%s of channel %s%s: %s",
            method,
            ", ".join(named),
            more,
            message,
            extra={"channel": named[0], "method": method, "reason": reason, "failed": len(errors)},
        )
    if len(alike) > MAX_FAILURE_LINES:
        log.warning("%d more distinct failures are not logged", len(alike) - MAX_FAILURE_LINES)
    if snapshot.account_refused:
        log.error(
            "the portal refuses the account of user %s: no request was answered well; check CHINACACHE_USER and the "
            "password (requests not made, so that the account is not locked: %d)",
            user,
            not_made,
        )


def progress_line(label: str, *, after: int) -> Progress | None:
    """Return a callback that shows the progress from its `after`th call on, if there is a terminal for it.

    What is logged next overwrites it.
    """
    if not sys.stderr or not sys.stderr.isatty():
        return None
    calls = 0

    def show(done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= after:
            STDERR.write(f"{label}: {done:,} of {total:,} requests ({done / total:.0%})\r")
        if done == total:  # the next poll begins anew
            calls = 0

    return show
