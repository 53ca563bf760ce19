"""What a run tells the operator: what it will ask, how each poll went, and each distinct failure."""

import logging
from collections import defaultdict
from datetime import timedelta

import durationpy

from cc_textfile.answers import Endpoint
from cc_textfile.errors import Overdue, PortalError, Refused
from cc_textfile.poll import Snapshot
from cc_textfile.values import DAY

MOST_FAILURE_LINES = 20
"""Distinct failures that one poll logs; a portal that words each one differently must not fill the journal."""

MOST_CHANNELS_NAMED = 3

log = logging.getLogger(__name__)


def budget(channels: int, interval: float | None) -> None:
    """Log how many requests the portal will see: in a poll, and in a day of polls that are `interval` seconds apart."""
    requests = channels * len(Endpoint)
    daily = f"; {requests * DAY / interval:,.0f} a day, with a poll every {_duration(interval)}" if interval else ""
    log.info(
        "%s requests a poll, %d for each of %d channels%s",
        f"{requests:,}",
        len(Endpoint),
        channels,
        daily,
        extra={"channels": channels, "requests": requests},
    )


def pace(snapshot: Snapshot, *, deadline: float, interval: float | None) -> None:
    """Warn when the portal, as fast as it was in this poll, is too slow for a whole one; both limits in seconds."""
    in_time = snapshot.requests - sum(isinstance(error, Overdue) for error in snapshot.failures.values())
    if not snapshot.answers:
        return  # no portal to speak of, and that is said elsewhere
    whole = snapshot.seconds * snapshot.requests / in_time
    name, limit = ("--interval", interval) if interval and interval < deadline else ("--deadline", deadline)
    if whole > limit:
        log.warning(
            "the portal did %.0f requests a second, at which a whole poll of %s takes %s, and %s is %s: "
            "raise that, or --concurrency, or share the channels out with --shard",
            in_time / snapshot.seconds,
            f"{snapshot.requests:,}",
            _duration(round(whole, 1)),
            name,
            _duration(limit),
            extra={"requests": snapshot.requests, "seconds": round(whole, 3)},
        )


def _duration(seconds: float) -> str:
    return str(durationpy.to_str(timedelta(seconds=seconds)))


def poll(snapshot: Snapshot, series: int, where: str) -> str:
    """Log, and return, the one line of a poll: how many channels, requests and series, how long, and where it went."""
    failed = len(snapshot.failures)
    line = (
        f"polled {len(snapshot.channels)} channels in {snapshot.seconds:.2f} s: "
        f"{len(snapshot.answers)} requests good, {failed} failed; {series} series; {where}"
    )
    log.log(
        logging.INFO if not failed else logging.WARNING if snapshot.answers else logging.ERROR,
        "%s",
        line,
        extra={
            "channels": len(snapshot.channels),
            "requests": snapshot.requests,
            "failed": failed,
            "series": series,
            "seconds": round(snapshot.seconds, 3),
        },
    )
    return line


def failures(snapshot: Snapshot, user: str) -> None:
    """Log each distinct failure once, with the channels that it befell."""
    alike: defaultdict[tuple[str, str, str], list[PortalError]] = defaultdict(list)
    unasked = 0
    for error in snapshot.failures.values():
        if isinstance(error, Refused) and not error.asked:
            unasked += 1
        else:
            alike[error.endpoint, error.reason, str(error)].append(error)
    for (endpoint, reason, message), errors in list(alike.items())[:MOST_FAILURE_LINES]:
        named = ", ".join(error.channel for error in errors[:MOST_CHANNELS_NAMED])
        more = f" and {len(errors) - MOST_CHANNELS_NAMED} more" if len(errors) > MOST_CHANNELS_NAMED else ""
        log.warning(
            "%s of channel %s%s: %s",
            endpoint,
            named,
            more,
            message,
            extra={"channel": errors[0].channel, "endpoint": endpoint, "reason": reason, "failed": len(errors)},
        )
    if len(alike) > MOST_FAILURE_LINES:
        log.warning("%d more distinct failures are not logged", len(alike) - MOST_FAILURE_LINES)
    if snapshot.account_refused:
        log.error(
            "the portal refuses the account of user %s: no request was answered well, and %d more were not made, "
            "so that it does not get locked; check CHINACACHE_USER and the password",
            user,
            unasked,
        )
