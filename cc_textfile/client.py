"""The portal as Python sees it: one method an endpoint, each for one channel and one window.

The statistics methods and the REST method differ in the names of their parameters and in the form of
their times, and in nothing else: each method here names its own, and `_ask` does the rest.
"""

import random
from collections.abc import Callable, Mapping
from time import monotonic, sleep
from typing import Self, TypeVar
from urllib.parse import quote

from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from cc_textfile import __version__, answers
from cc_textfile.answers import Answer, Endpoint, HitRateAnswer, HttpCodeAnswer, IspAnswer, RegionAnswer
from cc_textfile.errors import BadStatus, Overdue, PortalError, Unreachable
from cc_textfile.redaction import Redactor
from cc_textfile.settings import Settings
from cc_textfile.sockets import SHORTEST_TIMEOUT
from cc_textfile.transport import Reply, Transport
from cc_textfile.window import Window

RETRIES = 2
RETRIED_STATUSES = frozenset({429, 502, 503, 504})
BACKOFF = 0.1
"""Seconds before the first retry, twice that before the second. As much again may come on top, by chance, so that
requests that failed together don't come back together."""

TOO_LATE = "not answered by the deadline of the poll"

HEADERS = {"User-Agent": f"cc_textfile/{__version__}", "Accept": "application/json", "Accept-Encoding": "gzip"}

A = TypeVar("A", bound=Answer)


class PortalClient:
    """Asks the portal in one account's name; safe to use from several threads.

    `timeout` is for one try of one request, in seconds. Errors are `PortalError`s that carry channel and endpoint.
    """

    def __init__(
        self, transport: Transport, url: str, user: str, password: str, *, timeout: float, redact: Redactor
    ) -> None:
        self._transport = transport
        self._timeout = timeout
        self._redact = redact
        self._url = url
        self._statistics_account = _query(userName=user, apiPasswd=password)
        self._rest_account = _query(api_user=user, api_key=password)

    @classmethod
    def of(cls, settings: Settings, transport: Transport, redact: Redactor) -> Self:
        """Return a client for the account of the settings."""
        return cls(
            transport,
            settings.portal_url,
            settings.user,
            settings.password,
            timeout=settings.timeout,
            redact=redact,
        )

    @property
    def methods(self) -> Mapping[Endpoint, Callable[[str, Window, float], Answer]]:
        """The methods below, by their endpoints."""
        return {
            Endpoint.HIT_RATE: self.hit_rate,
            Endpoint.ISP: self.isp,
            Endpoint.REGION: self.region,
            Endpoint.HTTP_CODE: self.http_code,
        }

    def hit_rate(self, channel: str, window: Window, deadline: float) -> HitRateAnswer:
        """Return the channel's hits and misses in the window; `deadline`, here and below, is on the monotonic clock."""
        return self._ask(
            Endpoint.HIT_RATE, channel, self._statistics("getHitRate", channel, window), answers.hit_rate, deadline
        )

    def isp(self, channel: str, window: Window, deadline: float) -> IspAnswer:
        """Return the channel's traffic in the window, and each carrier's share of it."""
        return self._ask(Endpoint.ISP, channel, self._statistics("getIsp", channel, window), answers.isp, deadline)

    def region(self, channel: str, window: Window, deadline: float) -> RegionAnswer:
        """Return the channel's traffic in the window, and each province's share of it."""
        return self._ask(
            Endpoint.REGION, channel, self._statistics("getRegion", channel, window), answers.region, deadline
        )

    def http_code(self, channel: str, window: Window, deadline: float) -> HttpCodeAnswer:
        """Return the channel's requests by HTTP status, over the whole days on which the window starts and ends."""
        start, end = window.days
        place = f"{self._url}/rest-api/public/statistics/http_code?{self._rest_account}"
        url = place + _query(start_time=start, end_time=end, channel_id=channel)
        return self._ask(Endpoint.HTTP_CODE, channel, url, answers.http_code, deadline)

    def _statistics(self, method: str, channel: str, window: Window) -> str:
        start, end = window.minutes
        place = f"{self._url}/api/public/statistics/{method}.do?{self._statistics_account}"
        return place + _query(channelIds=channel, startTime=start, endTime=end)

    def _ask(self, endpoint: Endpoint, channel: str, url: str, decode: Callable[[int, bytes], A], deadline: float) -> A:
        try:
            return self._try(url + "timeZone=GMT%2B8", decode, deadline)
        except PortalError as error:
            # The portal's own words may repeat the query.
            error.args = (self._redact.quote(str(error)),)
            error.channel, error.endpoint = channel, endpoint
            raise

    def _try(self, url: str, decode: Callable[[int, bytes], A], deadline: float) -> A:
        """Return the good answer to a GET, after as many tries as the retries and the deadline allow.

        Not by `Retry` mounted on the session: it sleeps past any deadline, does not see a body that breaks off or a
        refusal that comes with a status, and logs the URL, which holds the password.
        """
        attempt = 0
        while True:
            asked_to_wait = 0.0
            left = deadline - monotonic()
            timeout = max(min(self._timeout, left), SHORTEST_TIMEOUT)
            try:
                reply = self._transport.exchange("GET", url, timeout=timeout, headers=HEADERS)
                asked_to_wait = _retry_after(reply)
                return decode(reply.status, reply.body)
            except Overdue:
                if left < self._timeout:
                    raise Overdue(TOO_LATE) from None
                raise
            except (Unreachable, BadStatus) as error:
                backoff = BACKOFF * 2**attempt * (1 + random.random())  # noqa: S311 # spreads load, hides nothing
                wait = max(asked_to_wait, backoff)
                if not _may_pass(error) or attempt == RETRIES or monotonic() + wait >= deadline:
                    raise
            sleep(wait)
            attempt += 1


def _may_pass(error: Unreachable | BadStatus) -> bool:
    return error.transient if isinstance(error, Unreachable) else error.status in RETRIED_STATUSES


def _query(**parameters: str) -> str:
    """Return `name=value&` for each: percent-encoded, not plus-encoded, and ready for the next."""
    return "".join(f"{name}={quote(value, safe='')}&" for name, value in parameters.items())


def _retry_after(reply: Reply) -> float:
    """Return the seconds that the portal asks to wait, 0 where it does not, or in no way that can be understood."""
    said = reply.headers.get("Retry-After")
    try:
        return Retry().parse_retry_after(said) if said else 0.0
    except (InvalidHeader, ValueError, OverflowError):
        return 0.0
