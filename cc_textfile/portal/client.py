"""The portal as Python sees it: makes the URL of a request, tries it again if need be, and decodes the response.

The statistics methods and the REST method differ in the names of their parameters and in the form of their times.
"""

import random
import re
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache, partial
from time import monotonic, sleep
from typing import Final
from urllib.parse import quote

from cc_textfile import __version__
from cc_textfile.errors import BadStatus, RequestError, RequestTimeout
from cc_textfile.logs import Redactor
from cc_textfile.portal.responses import Method, Request, Response, decode
from cc_textfile.portal.transport import Reply, Transport
from cc_textfile.portal.window import DAY
from cc_textfile.settings import Settings

MAX_RETRIES = 2
RETRIED_STATUSES = frozenset({429, 502, 503, 504})
BACKOFF = 0.1
"""Seconds before the first retry, twice that before the second. Up to as much again is added by chance, so that
requests that failed together do not come back together."""

DEADLINE_PASSED = "no response by the deadline of the poll (--deadline)"

HEADERS = {"User-Agent": f"cc_textfile/{__version__}", "Accept": "application/json", "Accept-Encoding": "gzip"}

PATHS: Final = {
    Method.HIT_RATE: "/api/public/statistics/getHitRate.do",
    Method.ISP: "/api/public/statistics/getIsp.do",
    Method.REGION: "/api/public/statistics/getRegion.do",
    Method.HTTP_CODE: "/rest-api/public/statistics/http_code",
}
# The names of user, password, channel, start and end in a query, and the form of its times.
STATISTICS: Final = ("userName", "apiPasswd", "channelIds", "startTime", "endTime", "%Y%m%d%H%M")
REST: Final = ("api_user", "api_key", "channel_id", "start_time", "end_time", "%Y%m%d")


class PortalClient:
    """Makes requests in the name of the settings' account; safe to use from several threads."""

    def __init__(self, transport: Transport, settings: Settings, redactor: Redactor) -> None:
        self._transport = transport
        self._settings = settings
        self._quote = redactor.quote

    def fetch(self, request: Request, deadline: float) -> Response:
        """Return the response by `deadline` (monotonic clock), after retries if need be. Raises `RequestError`."""
        # Not by urllib3's `Retry`: that sleeps past any deadline, does not see a body that breaks off or a refusal that
        # comes with a status, and logs the URL, which holds the password.
        url, decoder, attempt = self._url(request), partial(self._decode, request.method), 0
        while True:
            left = deadline - monotonic()
            timeout = min(self._settings.timeout, left)
            try:
                return self._transport.exchange("GET", url, decoder, timeout=timeout, headers=HEADERS)
            except RequestError as error:
                if isinstance(error, RequestTimeout) and left < self._settings.timeout:
                    raise RequestTimeout(DEADLINE_PASSED) from None
                if error.retry_after is None or attempt == MAX_RETRIES:
                    raise
                backoff = BACKOFF * 2**attempt * (1 + random.random())  # noqa: S311 # spreads load, hides nothing
                wait = max(error.retry_after, backoff)
                if monotonic() + wait >= deadline:
                    raise
            sleep(wait)
            attempt += 1

    def _url(self, request: Request) -> str:
        settings = self._settings
        start, end = request.window
        *names, form = STATISTICS
        if request.method is Method.HTTP_CODE:
            *names, form = REST
            end -= DAY  # the last day is included
        values = (settings.user, settings.password, request.channel, f"{start:{form}}", f"{end:{form}}")
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in zip(names, values, strict=True))
        return f"{settings.portal_url}{PATHS[request.method]}?{query}&timeZone=GMT%2B8"

    def _decode(self, method: Method, reply: Reply) -> Response:
        try:
            response = decode(method, reply.status, reply.body, self._quote)
        except BadStatus as error:
            if error.status in RETRIED_STATUSES:
                error.retry_after = _retry_after(reply.headers.get("Retry-After", ""))
            raise
        return replace(response, date=_date(reply.headers.get("Date", "")))


@lru_cache(maxsize=64)  # responses of one second have one date
def _date(value: str) -> datetime | None:
    """Return the time of an HTTP date, None where it cannot be read."""
    with suppress(Exception):  # whatever the parser makes of foreign text
        date = parsedate_to_datetime(value)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).astimezone(UTC)
    return None


def _retry_after(value: str) -> float:
    """Return the seconds that the portal asks to wait; 0 where it does not ask, or cannot be understood."""
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    date = _date(value)
    return (date - datetime.now(UTC)).total_seconds() if date else 0.0
