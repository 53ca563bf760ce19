"""What a poll tells the operator: one line for itself, and one for each distinct failure."""

import logging
from collections import defaultdict

from cc_textfile.errors import PortalError, Refused
from cc_textfile.poll import Snapshot

MOST_FAILURE_LINES = 20
"""Distinct failures that one poll logs; a portal that words each one differently must not fill the journal."""

MOST_CHANNELS_NAMED = 3

log = logging.getLogger(__name__)


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
