"""A portal on loopback, in the wire format of the real one.

Its numbers depend on channel and time alone, in whole minutes, and add up: those of a day are the sum of those of its
minutes. It can be asked to fail in several ways (`FAULTS`).
"""

import json
import math
import random
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from cc_textfile.errors import CcTextfileError, SettingsError
from cc_textfile.portal.responses import Method
from cc_textfile.portal.window import PORTAL_ZONE

USER: Final = "demo"
PASSWORD: Final = "not-a-secret"  # noqa: S105 # opens this portal alone
CHANNELS: Final = ("100201", "100202", "100203")

ISPS: Final = {"中国电信": 41, "中国联通": 27, "中国移动": 19, "长城宽带": 6, "中国铁通": 4, "其他": 3}
PROVINCES: Final = {
    "广东省": 21, "江苏省": 13, "浙江省": 12, "山东省": 11, "北京": 9, "上海": 9, "四川省": 8, "河南省": 7, "广西": 4,
    "内蒙古": 3, "新疆": 2, "香港特区": 1,
}  # fmt: skip
COUNTRIES: Final = {"美国": 70, "德国": 30}
STATUS_CODES: Final = {"200": 9310, "206": 320, "304": 210, "404": 110, "403": 28, "502": 14, "500": 8}

PATHS: Final = {
    "/api/public/statistics/getHitRate.do": Method.HIT_RATE,
    "/api/public/statistics/getIsp.do": Method.ISP,
    "/api/public/statistics/getRegion.do": Method.REGION,
    "/rest-api/public/statistics/http_code": Method.HTTP_CODE,
}
HANG_SECONDS: Final = 3600
MAX_PORT: Final = 65535
Query = Mapping[str, str]


def response(method: Method, query: Query, now: datetime) -> dict[str, Any]:
    """Return the portal's response as an object; raises `ValueError` or `KeyError` for a query not in its form."""
    if method is Method.HTTP_CODE:
        channel = query["channel_id"]
        start = _time(query["start_time"], "%Y%m%d")
        end = _time(query["end_time"], "%Y%m%d") + timedelta(days=1)
        return _http_code(channel, _minute(start, now), _minute(end, now))
    channel = query["channelIds"]
    start, end = _time(query["startTime"], "%Y%m%d%H%M"), _time(query["endTime"], "%Y%m%d%H%M")
    first, last = _minute(start, now), _minute(end, now)
    requests = _requests(channel, last) - _requests(channel, first)
    # The portal makes breakdowns once a day: a window within one day has none.
    daily = start.date() != end.date()
    if method is Method.HIT_RATE:
        misses = _misses(channel, last) - _misses(channel, first)
        ratio = misses / requests if requests else 0.0
        return {"HitPercent": 1 - ratio, "Hit": requests - misses, "MissPercent": ratio, "Miss": misses, "code": 1}
    total = {"totalFlux": requests * _random(channel, "size").randint(20_000, 90_000), "code": 1}
    if method is Method.ISP:
        return {"isps": _rows(channel, "isp", ISPS, requests) if daily else [], **total}
    return {
        "provinces": _rows(channel, "provinceName", PROVINCES, requests) if daily else [],
        "states": _rows(channel, "stateOrRegionName", COUNTRIES, requests // 100) if daily else [],
        **total,
    }


def _http_code(channel: str, first: int, last: int) -> dict[str, Any]:
    total = _requests(channel, last) - _requests(channel, first)
    counts = {
        code: _part(channel, last, share) - _part(channel, first, share)
        for code, share in _spread(channel, "code", STATUS_CODES).items()
        if code != "200"
    }
    counts = {"200": total - sum(counts.values()), **counts}
    rows = [
        {
            "http_code": code,
            "request_count": count,
            "request_percent": f"{100 * count / total:.2f}%" if total else "",
            "flux_percent": f"{100 * count / total:.2f}%" if total else "",
        }
        for code, count in counts.items()
    ]
    return {"data": rows, "msg": "", "status": 0, "success": True}


def _minute(time: datetime, now: datetime) -> int:
    """Return a time as minutes since 1970 in UTC+8; what lies after `now` has not happened."""
    return math.floor(min(time, now).timestamp() / 60) + 8 * 60


def _requests(channel: str, minute: int) -> int:
    """Return the channel's requests until a minute: a daily curve, high in the evening, with short waves on it."""
    return round(_volume(channel) * _curve(channel, minute, day=0.5, short=0.1, shift=0.125))


def _misses(channel: str, minute: int) -> int:
    """Return those of them that the cache had no content for: less of them in the evening."""
    return round(
        _volume(channel) * (1 - _hit_ratio(channel)) * _curve(channel, minute, day=0.4, short=0.0, shift=0.625)
    )


def _curve(channel: str, minute: int, *, day: float, short: float, shift: float) -> float:
    """Return the integral of a rate that is 1 on average, with waves of these heights, which add up to less than 1."""
    waves = ((1 / 1440, day, shift), (1 / 11, short, _hit_ratio(channel)), (1 / 17, short, 0.5))
    return minute + sum(
        height * math.sin(2 * math.pi * (minute * frequency + phase)) / (2 * math.pi * frequency)
        for frequency, height, phase in waves
    )


@cache
def _volume(channel: str) -> float:
    """Return requests per minute, on average."""
    return _random(channel, "volume").uniform(300, 3000)


def _part(channel: str, minute: int, share: float) -> int:
    return math.floor(share * _requests(channel, minute))


@cache
def _hit_ratio(channel: str) -> float:
    return _random(channel, "hit").uniform(0.88, 0.98)


def _rows(channel: str, key: str, weights: Mapping[str, int], requests: int) -> list[dict[str, Any]]:
    hit_ratio = _hit_ratio(channel)
    return [
        {
            key: name,
            "fluxRatio": round(share, 5),
            "hitCount": round(requests * share * hit_ratio),
            "hitRatio": round(hit_ratio, 5),
        }
        for name, share in _spread(channel, key, weights).items()
    ]


def _spread(channel: str, key: str, weights: Mapping[str, int]) -> dict[str, float]:
    """Return shares of 1 that are near the weights', and differ a little from channel to channel."""
    own = _random(channel, key)
    skewed = {name: weight * own.uniform(0.7, 1.3) for name, weight in weights.items()}
    return {name: weight / sum(skewed.values()) for name, weight in skewed.items()}


def _random(channel: str, of: str) -> random.Random:
    return random.Random(zlib.crc32(f"{channel}/{of}".encode()))  # noqa: S311 # must give the same numbers each time


def _time(text: str, form: str) -> datetime:
    return datetime.strptime(text, form).replace(tzinfo=PORTAL_ZONE)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    server: "DemoPortal"

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        method = PATHS.get(place.path)
        if method is None:
            self.send(b"<html>not found</html>", status=404, kind="text/html")
            return
        self.server.requests += 1
        query = dict(parse_qsl(place.query, keep_blank_values=True))
        fault = self.server.fault(method, query.get("channelIds") or query.get("channel_id", ""))
        if fault:
            FAULTS[fault](self)
            return
        user, password = query.get("userName"), query.get("apiPasswd")
        if method is Method.HTTP_CODE:
            user, password = query.get("api_user"), query.get("api_key")
        if (user, password) != (USER, PASSWORD):
            self.refuse()
            return
        try:
            content = response(method, query, self.server.clock())
        except (KeyError, ValueError) as error:
            content = {"code": 400, "success": False, "msg": f"bad query: {error}"}
        self.send(json.dumps(content, ensure_ascii=False).encode())

    def send(self, body: bytes, *, status: int = 200, kind: str = "application/json;charset=UTF-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, _timestamp: float | None = None) -> str:
        return super().date_time_string(self.server.clock().timestamp())

    def refuse(self) -> None:
        self.send(json.dumps({"code": 10001, "success": False, "msg": "user name or password is wrong"}).encode())

    def fail(self) -> None:
        self.send(b"<html>Bad Gateway</html>", status=502, kind="text/html")

    def send_half(self) -> None:
        self.send(b'{"code": 1, "totalFlux": 17, "isps": [')

    def hang(self) -> None:
        self.server.stopping.wait(HANG_SECONDS)
        self.close_connection = True

    def drip(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(HANG_SECONDS))
        self.end_headers()
        self.wfile.flush()
        while not self.server.stopping.wait(1):
            self.wfile.write(b" ")
            self.wfile.flush()

    def break_off(self) -> None:
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Log nothing: the request line holds the password, and the poll logs what matters."""


FAULTS: Final[Mapping[str, Callable[[_Handler], None]]] = {
    "refused": _Handler.refuse,
    "status": _Handler.fail,
    "malformed": _Handler.send_half,
    "hang": _Handler.hang,
    "drip": _Handler.drip,
    "broken": _Handler.break_off,
}
"""The ways in which the portal can be asked to fail, by name."""


def no_fault(_method: Method, _channel: str) -> str | None:
    """Return no fault."""
    return None


class DemoPortal(ThreadingHTTPServer):
    """The portal. `fault` names how to fail for a method of a channel; `requests` counts the requests that came."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(
        self,
        address: tuple[str, int] = ("127.0.0.1", 0),
        *,
        fault: Callable[[Method, str], str | None] = no_fault,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(address, _Handler)
        self.fault = fault
        self.clock = clock
        self.requests = 0
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def handle_error(self, *args: object) -> None:
        """Log nothing when a client goes away."""

    @contextmanager
    def serving(self) -> Iterator["DemoPortal"]:
        """Serve in the background until the block is left; responses that hang by then are ended."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.stopping.set()
            self.shutdown()
            self.server_close()
            thread.join()


@contextmanager
def opened(serve: str | None, faults: Sequence[str]) -> "Iterator[DemoPortal]":
    """Serve a portal at `serve` ([HOST:]PORT), or at any port of loopback; `faults` are METHOD=FAULT, or FAULT.

    Raises `SettingsError` for texts in another form, and `CcTextfileError` when it cannot listen.
    """
    wrong: dict[str, str] = {}
    for each in faults:
        method, _, fault = each.rpartition("=")
        if fault not in FAULTS or (method and method not in list(Method)):
            names = f"[METHOD=]FAULT, of {', '.join(Method)} and {', '.join(FAULTS)}"
            raise SettingsError(f"--fault is {each!r}; give {names}")
        wrong |= dict.fromkeys([method] if method else Method, fault)
    host, _, port = (serve or "0").rpartition(":")
    if not port.isdecimal() or int(port) > MAX_PORT:
        raise SettingsError(f"--serve is {serve!r}; give [HOST:]PORT, with a port from 0 to {MAX_PORT}")
    try:
        portal = DemoPortal((host or "127.0.0.1", int(port)), fault=lambda method, _: wrong.get(method))
    except (OSError, TypeError) as error:  # the latter for a name that is not UTF-8
        reason = error.strerror if isinstance(error, OSError) else "no such name"
        message = f"the demo portal cannot listen at {host or '127.0.0.1'}:{port}: {reason}"
        raise CcTextfileError(message) from None
    with portal.serving():
        yield portal
