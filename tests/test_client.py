"""What the portal is sent, and how often it is tried."""

import itertools
import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from time import monotonic
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_textfile import __version__
from cc_textfile.errors import BadStatus, Malformed, Refused, RequestError, RequestTimeout, Unreachable
from cc_textfile.logs import Redactor
from cc_textfile.portal.client import DEADLINE_PASSED, PortalClient
from cc_textfile.portal.responses import Isp, Method, Request, Response
from cc_textfile.portal.transport import Reply, Transport
from cc_textfile.portal.window import Window
from cc_textfile.settings import Settings
from tests.certificates import loopback
from tests.conftest import PATIENCE
from tests.server import REFUSAL, Peer, Script, Server, good, good_response, response, sending, then

WINDOW = Window.ending(datetime(2024, 2, 29, 16, 2, tzinfo=UTC), 5)
T = TypeVar("T")
BACKOFF = 0.1
"""Seconds before the first retry, and as much again by chance; twice that before the second."""

RETRIED_STATUSES = (429, 502, 503, 504)
PASSWORD = "a&b=c+d%e/f g?#中"


def fetch(
    url: str,
    method: Method = Method.ISP,
    *,
    timeout: float = PATIENCE,
    deadline: float = PATIENCE,
    ca_file: Path | None = None,
) -> Response:
    """Make one request to the portal there."""
    transport = Transport(url, Redactor(), ca_file=ca_file)
    settings = Settings(
        user="me too", password=PASSWORD, account="a", channels=("47",), portal_url=url, timeout=timeout
    )
    client = PortalClient(transport, settings, Redactor(PASSWORD))
    window = WINDOW.days if method is Method.HTTP_CODE else WINDOW
    try:
        return client.fetch(Request("47", method, window), monotonic() + deadline)
    finally:
        transport.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note the waits before retries instead of waiting."""
    noted: list[float] = []
    monkeypatch.setattr("cc_textfile.portal.client.sleep", noted.append)
    return noted


# --- Requests --------------------------------------------------------------------------------------------------------

STATISTICS = {"userName": "me too", "apiPasswd": PASSWORD, "channelIds": "47", "timeZone": "GMT+8"}
PATHS = {
    Method.HIT_RATE: "/api/public/statistics/getHitRate.do",
    Method.ISP: "/api/public/statistics/getIsp.do",
    Method.REGION: "/api/public/statistics/getRegion.do",
    Method.HTTP_CODE: "/rest-api/public/statistics/http_code",
}


@pytest.mark.parametrize("method", Method)
def test_what_is_sent(method: Method) -> None:
    """Path and parameters are the portal's, times are those of UTC+8, and every value arrives as it is."""
    queries = []

    def script(peer: Peer) -> None:
        queries.append(peer.query)
        good(peer)

    with Server(script) as portal:
        fetch(portal.url, method)
        (target,) = portal.targets
    expected = STATISTICS | {"startTime": "202402292357", "endTime": "202403010002"}
    if method is Method.HTTP_CODE:
        # The window is from 00:00 to 24:00; the portal is given its first day and its last.
        expected = {"api_user": "me too", "api_key": PASSWORD, "channel_id": "47", "timeZone": "GMT+8"}
        expected |= {"start_time": "20240229", "end_time": "20240301"}
    assert target.partition("?")[0] == PATHS[method]
    assert queries == [expected]
    assert "GMT%2B8" in target


def test_what_a_request_says_beside_its_url() -> None:
    """Which program asks, and that it takes JSON, packed: a response is a tenth as long then."""
    heads = []

    def script(peer: Peer) -> None:
        heads.append(peer.head.decode())
        good(peer)

    with Server(script) as portal:
        fetch(portal.url)
    (lines,) = (head.splitlines() for head in heads)
    assert {f"User-Agent: cc_textfile/{__version__}", "Accept: application/json", "Accept-Encoding: gzip"} <= {*lines}


DATES = {
    "Fri, 01 Mar 2024 00:02:03 GMT": datetime(2024, 3, 1, 0, 2, 3, tzinfo=UTC),
    "Fri, 01 Mar 2024 00:02:03 -0000": datetime(2024, 3, 1, 0, 2, 3, tzinfo=UTC),
    "Fri, 01 Mar 2024 08:02:03 +0800": datetime(2024, 3, 1, 0, 2, 3, tzinfo=UTC),
    "yesterday": None,
    "": None,
    "Thu, 99 Foo 2024": None,
    "Fri, 31 Dec 9999 23:59:59 -0100": None,
    "9" * 5000: None,
}


@pytest.mark.parametrize(("header", "date"), DATES.items(), ids=range(len(DATES)))
def test_a_response_has_the_portals_clock(header: str, date: datetime | None) -> None:
    """The `Date` header goes with the numbers, where it can be read."""

    def script(peer: Peer) -> None:
        peer.send(good_response(peer).replace(b"\r\n", f"\r\nDate: {header}\r\n".encode(), 1))

    with Server(script) as portal:
        assert fetch(portal.url).date == date


class Headers(Transport):
    """Responds with these headers."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def exchange(self, _method: str, _url: str, decode: Callable[[Reply], T], **_: object) -> T:  # type: ignore[override]
        """Return a good response of getIsp."""
        return decode(Reply(200, self._headers, b'{"code": 1, "totalFlux": 7}'))


@given(st.text(st.characters(max_codepoint=255)) | st.from_regex(r"[A-Z][a-z]{2}, \d+ \w+ \d+ .*", fullmatch=True))
def test_any_header_is_a_time_or_none(text: str) -> None:
    """Whatever the standard library makes of `Date` and `Retry-After`, the response is read."""
    settings = Settings(user="me", password=PASSWORD, account="a", channels=("47",))
    client = PortalClient(Headers({"Date": text, "Retry-After": text}), settings, Redactor(PASSWORD))
    date = client.fetch(Request("47", Method.ISP, WINDOW), monotonic() + PATIENCE).date
    assert date is None or date.tzinfo == UTC


def test_the_portals_words_are_redacted() -> None:
    """A refusal has them in its message, on one line."""
    body = f'{{"code": 10001, "msg": "{PASSWORD} is wrong\\nfor you"}}'.encode()
    with Server(sending(response(body))) as portal, pytest.raises(Refused) as caught:
        fetch(portal.url)
    assert str(caught.value) == "the portal refused: `code` is 10001: *** is wrong for you"


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["{elsewhere}/x", "//{host}/x", "/x", "", "http://[::1", "\xff\x01", "//"])
def test_redirects_are_not_followed(status: int, where: str) -> None:
    """Nobody but the portal gets the query, which holds the password; a redirect is a status, wherever it leads."""
    with Server(good) as elsewhere:
        location = where.format(elsewhere=elsewhere.url, host=elsewhere.host)
        with Server(sending(response(b"gone", status, f"Location: {location}"))) as portal:
            with pytest.raises(BadStatus, match=rf"^HTTP status {status} \(a redirect, which is not followed"):
                fetch(portal.url)
            assert len(portal.targets) == 1
        assert elsewhere.connections == 0


# --- Tries -----------------------------------------------------------------------------------------------------------


def first(*scripts: Script) -> Script:
    """Return a script that is these, one a request, and responds well from then on."""
    left, lock = itertools.chain(scripts, itertools.repeat(good)), threading.Lock()

    def script(peer: Peer) -> None:
        with lock:
            following = next(left)
        following(peer)

    return script


PASSING: dict[str, Script] = {
    "closed": Peer.close,
    "reset": Peer.reset,
    **{f"status {status}": sending(response(b"", status)) for status in RETRIED_STATUSES},
}


@pytest.mark.parametrize("script", PASSING.values(), ids=PASSING)
def test_what_may_pass_is_tried_again_twice(script: Script, waits: list[float]) -> None:
    """Broken connections and 429, 502, 503, 504 are tried three times in all, ever further apart."""
    with Server(script) as portal:
        with pytest.raises((BadStatus, Unreachable)):
            fetch(portal.url)
        assert len(portal.targets) == 3
    assert BACKOFF <= waits[0] <= 2 * BACKOFF <= waits[1] <= 4 * BACKOFF


@pytest.mark.parametrize("script", PASSING.values(), ids=PASSING)
@pytest.mark.usefixtures("waits")
def test_what_has_passed_is_forgotten(script: Script) -> None:
    """A response at the third try is as good as one at the first."""
    with Server(first(script, script)) as portal:
        assert isinstance(fetch(portal.url), Isp)
        assert len(portal.targets) == 3


def test_retries_do_not_come_back_together(waits: list[float]) -> None:
    """Requests that failed together are spread by chance."""
    with Server(sending(response(b"", 503))) as portal:
        for _ in range(5):
            with pytest.raises(BadStatus):
                fetch(portal.url)
    assert len(set(waits)) == 10


FINAL: dict[str, Script] = {
    "refused": REFUSAL,
    "refused under 503": sending(response(b'{"code": 10001}', 503, "Retry-After: 0")),
    **{f"status {status}": sending(response(b"", status, "Retry-After: 0")) for status in (201, 401, 403, 404, 500)},
    "malformed": sending(response(b"[")),
    "status 401, its body broken off": then(sending(response(b"{", 401, length=100)), Peer.close),
}


@pytest.mark.parametrize("script", FINAL.values(), ids=FINAL)
def test_what_will_not_pass_is_not_tried_again(script: Script, waits: list[float]) -> None:
    """A refusal, 401 and 403 above all: more of them could lock the account."""
    with Server(script) as portal:
        with pytest.raises((BadStatus, Refused, Malformed)):
            fetch(portal.url)
        assert len(portal.targets) == 1
    assert not waits


def test_a_certificate_that_is_not_trusted_is_not_tried_again(waits: list[float], tmp_path: Path) -> None:
    """Another try cannot help."""
    tls, _ = loopback(tmp_path)
    with Server(good, tls=tls) as portal, pytest.raises(Unreachable):
        fetch(portal.url)
    assert not waits


def test_nobody_listens(waits: list[float]) -> None:
    """A connection that is refused is tried again: the portal may be restarting."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(Unreachable):
        fetch(f"http://127.0.0.1:{port}")
    assert len(waits) == 2


def http_date(seconds: float) -> str:
    """Return a time so far from now, as HTTP has it."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("status", RETRIED_STATUSES)
def test_retry_after_is_waited_for(status: int, waits: list[float]) -> None:
    """Seconds or a date; the longer of it and the backoff counts."""
    script = first(*(sending(response(b"", status, f"Retry-After: {value}")) for value in ("7", "0")))
    with Server(script) as portal:
        fetch(portal.url)
    with Server(first(sending(response(b"", status, f"Retry-After: {http_date(3600)}")))) as portal:
        fetch(portal.url, deadline=7200)
    assert waits[0] == 7
    assert 2 * BACKOFF <= waits[1] <= 4 * BACKOFF
    assert 0 < waits[2] <= 3600


NOT_TIMES = [
    "soon",
    "",
    "-5",
    "1e3",
    "7, 7",
    "\xff",
    "Thu, 99 Foo 2024",
    http_date(-3600),
    "0x7",
    "9" * 400,
    "9" * 5000,
]


@pytest.mark.parametrize("value", NOT_TIMES, ids=range(len(NOT_TIMES)))
def test_a_retry_after_that_cannot_be_read_does_not_count(value: str, waits: list[float]) -> None:
    """Neither does one that is over: the backoff stays as it is."""
    with Server(first(sending(response(b"", 503, f"Retry-After: {value}")))) as portal:
        fetch(portal.url)
    assert BACKOFF <= waits[0] <= 2 * BACKOFF


@pytest.mark.parametrize("value", ["61", "86400", "9" * 9, http_date(3600), http_date(10**9)], ids=range(5))
def test_a_retry_after_beyond_the_deadline_is_not_waited_for(value: str, waits: list[float]) -> None:
    """Where the deadline leaves no time for another try, the request has failed."""
    with Server(sending(response(b"", 503, f"Retry-After: {value}"))) as portal:
        with pytest.raises(BadStatus, match="HTTP status 503"):
            fetch(portal.url, deadline=60)
        assert len(portal.targets) == 1
    assert not waits


# --- Time ------------------------------------------------------------------------------------------------------------


def test_a_request_that_is_late_is_not_tried_again(waits: list[float]) -> None:
    """The portal may be working on it still."""
    with Server(Peer.hang) as portal:
        with pytest.raises(RequestTimeout, match=r"within 0.2 s$"):
            fetch(portal.url, timeout=0.2)
        assert len(portal.targets) == 1
    assert not waits


@pytest.mark.parametrize("left", [0.2, 0.0, -1.0])
def test_a_request_that_the_deadline_cuts_short_says_so(left: float) -> None:
    """It was the poll that had no more time, not the portal that took longer than a request may."""
    with Server(Peer.hang) as portal, pytest.raises(RequestTimeout) as caught:
        fetch(portal.url, deadline=left)
    assert str(caught.value) == DEADLINE_PASSED
    assert isinstance(caught.value, RequestError)
