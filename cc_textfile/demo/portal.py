"""A portal on loopback, in the wire format of the real one.

Its numbers depend on channel and time alone, and add up: those of a day are the sum of those of its minutes.
"""

import json
import math
import random
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from cc_textfile.errors import CcTextfileError, SettingsError
from cc_textfile.portal.client import PATHS, REST, STATISTICS
from cc_textfile.portal.responses import Method
from cc_textfile.portal.window import DAY, PORTAL_ZONE
from cc_textfile.workers import Workers

USER: Final = "demo"
PASSWORD: Final = "not-a-secret"  # noqa: S105 # opens this portal alone
CHANNELS: Final = ("100201", "100202", "100203")

# fmt: off
BREAKDOWNS: Final = {
    Method.ISP: {
        "isps": ("isp", {"中国电信": 41, "中国联通": 27, "中国移动": 19, "长城宽带": 6, "中国铁通": 4, "其他": 3}),
    },
    Method.REGION: {
        "provinces": ("provinceName", {"广东省": 21, "江苏省": 13, "浙江省": 12, "山东省": 11, "北京": 9, "上海": 9,
                                       "四川省": 8, "河南省": 7, "广西": 4, "内蒙古": 3, "新疆": 2, "香港特区": 1}),
        "states": ("stateOrRegionName", {"美国": 70, "德国": 30, "中国": 9900}),
    },
}
# fmt: on
STATUS_CODES: Final = {"200": 9310, "206": 320, "304": 210, "404": 110, "403": 28, "502": 14, "500": 8}

METHODS: Final = {path: method for method, path in PATHS.items()}


def _http(text: str, head: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {head}\r\nContent-Length: {len(text.encode())}\r\n\r\n{text}".encode()


FAULTS: Final = {
    "refused": _http('{"code": 10001, "success": false, "msg": "user name or password is wrong"}'),
    "status": _http("<html>Bad Gateway</html>", "502 Bad Gateway"),
    "malformed": _http('{"code": 1, "totalFlux": 17, "isps": ['),
    "hang": b"",
    "drip": b"HTTP/1.1 200 OK\r\nContent-Length: 3600\r\n\r\n",
    "broken": b"",
}
"""The ways in which the portal can be asked to fail, and what it sends then."""


def response(method: Method, query: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """Return the portal's response as an object; raises `ValueError` or `KeyError` for a query not in its form."""
    _, _, *names, form = REST if method is Method.HTTP_CODE else STATISTICS
    channel, *times = (query[name] for name in names)
    start, end = (datetime.strptime(time, form).replace(tzinfo=PORTAL_ZONE) for time in times)
    if method is Method.HTTP_CODE:
        end += DAY  # whole days, both included
    # What lies after now has not happened.
    first, last = _until(channel, min(start, now)), _until(channel, min(end, now))
    numbers = {name: last[name] - first[name] for name in last}
    requests, misses = numbers.pop("requests"), numbers.pop("misses")
    if method is Method.HTTP_CODE:
        rows = [
            {"http_code": code, "request_count": count, "request_percent": share, "flux_percent": share}
            for code, count in numbers.items()
            for share in [f"{100 * count / requests:.2f}%" if requests else ""]
        ]
        return {"data": rows, "msg": "", "status": 0, "success": True}
    hits = requests - misses
    ratio = hits / requests if requests else 1.0
    if method is Method.HIT_RATE:
        return {"HitPercent": ratio, "Hit": hits, "MissPercent": 1 - ratio, "Miss": misses, "code": 1}
    content: dict[str, Any] = {"totalFlux": requests * _random(channel, "size").randint(20_000, 90_000), "code": 1}
    for breakdown, (key, weights) in BREAKDOWNS[method].items():
        content[breakdown] = [
            {key: name, "fluxRatio": round(share, 5), "hitCount": round(share * hits), "hitRatio": round(ratio, 5)}
            for name, share in _shares(channel, key, weights).items()
            if start.date() != end.date()  # as the portal, which makes them once a day
        ]
    return content


def _until(channel: str, time: datetime) -> dict[str, int]:
    """Return what was delivered from 1970 until a time: `requests`, `misses`, and the requests by status code."""
    minute = time.timestamp() // 60 + 8 * 60
    volume = _random(channel, "volume").uniform(300, 3000)  # requests per minute, on average
    hit_ratio = _random(channel, "hit").uniform(0.88, 0.98)

    # The rates are 1 on average, with waves; this is their integral.
    def wave(period: int, height: float, phase: float) -> float:
        return height * math.sin(2 * math.pi * (minute / period + phase)) * period / (2 * math.pi)

    requests = round(volume * (minute + wave(1440, 0.5, 0.125) + wave(11, 0.1, hit_ratio) + wave(17, 0.1, 0.5)))
    misses = round(volume * (1 - hit_ratio) * (minute + wave(1440, 0.4, 0.625)))
    codes = {code: math.floor(share * requests) for code, share in _shares(channel, "code", STATUS_CODES).items()}
    codes["200"] += requests - sum(codes.values())
    return {"requests": requests, "misses": misses, **codes}


def _shares(channel: str, key: str, weights: Mapping[str, int]) -> dict[str, float]:
    """Return shares of 1 that are near the weights', and differ a little from channel to channel."""
    own = _random(channel, key)
    skewed = {name: weight * own.uniform(0.7, 1.3) for name, weight in weights.items()}
    return {name: weight / sum(skewed.values()) for name, weight in skewed.items()}


def _random(channel: str, of: str) -> random.Random:
    return random.Random(zlib.crc32(f"{channel}/{of}".encode()))  # noqa: S311 # must give the same numbers each time


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "DemoPortal"

    def do_GET(self) -> None:
        self.server.requests += 1
        url, now, fault = urlsplit(self.path), self.server.clock(), None
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        try:
            method = METHODS[url.path]
            names = REST if method is Method.HTTP_CODE else STATISTICS
            user, password, channel = (query.get(name, "") for name in names[:3])
            admitted = (user, password) == (USER, PASSWORD)
            fault = self.server.fault(method, channel) or (None if admitted else "refused")
            if fault:
                content = FAULTS[fault]
            else:
                text = json.dumps(response(method, query, now), ensure_ascii=False)
                content = _http(text, f"200 OK\r\nDate: {self.date_time_string(now.timestamp())}")
        except (KeyError, ValueError) as error:
            content = _http(f"no such path, or a query not in its form: {error}", "400 Bad Request")
        self.wfile.write(content)
        while fault in {"hang", "drip"} and not self.server.stopping.wait(1 if fault == "drip" else None):
            self.wfile.write(b" ")
        self.close_connection |= fault in {"hang", "drip", "broken"}


class DemoPortal(ThreadingHTTPServer):
    """The portal. `fault` names how to fail for a method of a channel; `requests` counts the requests that came."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(
        self,
        address: tuple[str, int] = ("127.0.0.1", 0),
        *,
        fault: Callable[[Method, str], str | None] = lambda *_: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(address, _Handler)
        self.fault = fault
        self.clock = clock
        self.requests = 0
        self.stopping = threading.Event()
        self.url = "http://{}:{}".format(*self.server_address)

    def handle_error(self, *args: object) -> None:
        """Log nothing when a client goes away."""

    @contextmanager
    def serving(self) -> Iterator["DemoPortal"]:
        """Serve in the background until the block is left; responses that hang by then are ended."""
        Workers(partial(self.serve_forever, 0.05))
        try:
            yield self
        finally:
            self.stopping.set()
            self.shutdown()
            self.server_close()


def opened(serve: str | None, faults: Sequence[str]) -> AbstractContextManager[DemoPortal]:
    """Serve a portal at `serve` ([HOST:]PORT), or at any port of loopback; `faults` are METHOD=FAULT, or FAULT.

    Raises `SettingsError` for texts in another form, and `CcTextfileError` when it cannot listen.
    """
    faulty: dict[str, str] = {}
    for text in faults:
        method, _, fault = text.rpartition("=")
        if fault not in FAULTS or method not in {"", *Method}:
            names = f"{', '.join(Method)} and {', '.join(FAULTS)}"
            raise SettingsError(f"--fault is {text!r}; give [METHOD=]FAULT, of {names}")
        faulty[method] = fault
    host, _, port = (serve or "0").rpartition(":")
    host = host or "127.0.0.1"
    try:
        return DemoPortal((host, int(port)), fault=lambda method, _: faulty.get(method, faulty.get(""))).serving()
    except (ValueError, OverflowError, TypeError):
        raise SettingsError(f"--serve is {serve!r}; give [HOST:]PORT, with a port from 0 to 65535") from None
    except OSError as error:
        raise CcTextfileError(f"the demo portal cannot listen at {host}:{port}: {error.strerror}") from None
