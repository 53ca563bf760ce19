"""A portal of the program's own on loopback, in the wire format of the real one.

Its numbers are believable and made of nothing but channel and time, so that two polls of one window agree. It can be
asked to misbehave (`FAULTS`), by which everything that can go wrong far away can be seen near by.
"""

import json
import math
import random
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from prometheus_client.parser import text_string_to_metric_families

from cc_textfile.answers import Endpoint
from cc_textfile.window import PORTAL_ZONE

USER: Final = "demo"
PASSWORD: Final = "believe-nothing"  # noqa: S105 # opens this portal alone
CHANNELS: Final = ("100201", "100202", "100203")
WINDOW_MINUTES: Final = 24 * 60
"""Always on two calendar days, so that the rows which the portal makes once a day are there."""

ISPS: Final = {"中国电信": 41, "中国联通": 27, "中国移动": 19, "长城宽带": 6, "中国铁通": 4, "其他": 3}
PROVINCES: Final = {
    "广东省": 21, "江苏省": 13, "浙江省": 12, "山东省": 11, "北京": 9, "上海": 9, "四川省": 8, "河南省": 7, "广西": 4,
    "内蒙古": 3, "新疆": 2, "香港特区": 1,
}  # fmt: skip
STATES: Final = {"美国": 70, "德国": 30}
STATUS_CODES: Final = {"200": 9310, "206": 320, "304": 210, "404": 110, "403": 28, "502": 14, "500": 8}

PLACES: Final = {
    "/api/public/statistics/getHitRate.do": Endpoint.HIT_RATE,
    "/api/public/statistics/getIsp.do": Endpoint.ISP,
    "/api/public/statistics/getRegion.do": Endpoint.REGION,
    "/rest-api/public/statistics/http_code": Endpoint.HTTP_CODE,
}
HANG_SECONDS: Final = 3600
Query = Mapping[str, str]


def answer(endpoint: Endpoint, query: Query, now: datetime) -> dict[str, Any]:
    """Return the object that the portal answers; raises `ValueError` or `KeyError` for a query not in its form."""
    if endpoint is Endpoint.HTTP_CODE:
        return _http_code(
            query["channel_id"], _time(query["start_time"], "%Y%m%d"), _time(query["end_time"], "%Y%m%d"), now
        )
    channel, start, end = (
        query["channelIds"],
        _time(query["startTime"], "%Y%m%d%H%M"),
        _time(query["endTime"], "%Y%m%d%H%M"),
    )
    requests = _requests(channel, start, end)
    flux = {"totalFlux": requests * _random(channel, "size").randint(20_000, 90_000), "code": 1}
    # Made once a day: a window within one day has none of them.
    daily = start.date() != end.date()
    match endpoint:
        case Endpoint.HIT_RATE:
            hits = round(requests * _random(channel, "hit").uniform(0.88, 0.98))
            ratio = hits / requests if requests else 0.0
            return {"HitPercent": ratio, "Hit": hits, "MissPercent": 1 - ratio, "Miss": requests - hits, "code": 1}
        case Endpoint.ISP:
            return {"isps": _rows(channel, "isp", ISPS, requests) if daily else [], **flux}
        case _:
            provinces = _rows(channel, "provinceName", PROVINCES, requests) if daily else []
            return {
                "provinces": provinces,
                "states": _rows(channel, "stateOrRegionName", STATES, 0) if daily else [],
                **flux,
            }


def _http_code(channel: str, first: datetime, last: datetime, now: datetime) -> dict[str, Any]:
    requests = _requests(channel, first, max(first, min(last + timedelta(days=1), now)))
    shares = _spread(channel, "code", STATUS_CODES)
    rows = [
        {
            "http_code": code,
            "request_count": round(requests * share),
            "request_percent": f"{100 * share:.2f}%",
            "flux_percent": f"{100 * share:.2f}%",
        }
        for code, share in shares.items()
    ]
    return {"data": rows, "msg": "", "status": 0, "success": True}


def _requests(channel: str, start: datetime, end: datetime) -> int:
    """Return the channel's requests between two times: a daily curve, high in the evening, with short waves on it."""
    own = _random(channel, "volume")
    a_minute = own.randint(300, 3000)
    waves = [(1 / 1440, 0.7, 0.125), *((1 / minutes, 0.25, own.random()) for minutes in (11, 17))]

    def until(time: datetime) -> float:
        minutes = time.timestamp() / 60 + 8 * 60
        return minutes + sum(
            height * math.sin(2 * math.pi * (minutes * often + shift)) / (2 * math.pi * often)
            for often, height, shift in waves
        )

    return max(0, round(a_minute * (until(end) - until(start))))


def _rows(channel: str, key: str, weights: Mapping[str, int], requests: int) -> list[dict[str, Any]]:
    return [
        {key: name, "fluxRatio": round(share, 5), "hitCount": round(requests * share), "hitRatio": round(share, 5)}
        for name, share in _spread(channel, key, weights).items()
    ]


def _spread(channel: str, key: str, weights: Mapping[str, int]) -> dict[str, float]:
    """Return shares of 1 that are the weights', give or take what is the channel's own."""
    own = _random(channel, key)
    skewed = {name: weight * own.uniform(0.7, 1.3) for name, weight in weights.items()}
    return {name: weight / sum(skewed.values()) for name, weight in skewed.items()}


def _random(channel: str, of: str) -> random.Random:
    return random.Random(zlib.crc32(f"{channel}/{of}".encode()))  # noqa: S311 # the same numbers each time is the point


def _time(text: str, form: str) -> datetime:
    return datetime.strptime(text, form).replace(tzinfo=PORTAL_ZONE)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet
    server: "DemoPortal"

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        endpoint = PLACES.get(place.path)
        if endpoint is None:
            self.say(b"<html>not found</html>", status=404, kind="text/html")
            return
        self.server.requests += 1
        query = dict(parse_qsl(place.query, keep_blank_values=True))
        channel = query.get("channelIds") or query.get("channel_id", "")
        fault = self.server.fault(endpoint, channel)
        if fault:
            FAULTS[fault](self)
            return
        user, password = (query.get("userName"), query.get("apiPasswd"))
        if endpoint is Endpoint.HTTP_CODE:
            user, password = query.get("api_user"), query.get("api_key")
        if (user, password) != (USER, PASSWORD):
            self.refuse()
            return
        try:
            said = answer(endpoint, query, self.server.clock())
        except (KeyError, ValueError) as error:
            said = {"code": 400, "success": False, "msg": f"bad query: {error}"}
        self.say(json.dumps(said, ensure_ascii=False).encode())

    def say(self, body: bytes, *, status: int = 200, kind: str = "application/json;charset=UTF-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self) -> None:
        self.say(json.dumps({"code": 10001, "success": False, "msg": "user name or password is wrong"}).encode())

    def unavailable(self) -> None:
        self.say(b"<html>Bad Gateway</html>", status=502, kind="text/html")

    def babble(self) -> None:
        self.say(b'{"code": 1, "totalFlux": 17, "isps": [')

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
    "status": _Handler.unavailable,
    "malformed": _Handler.babble,
    "hang": _Handler.hang,
    "drip": _Handler.drip,
    "broken": _Handler.break_off,
}
"""What the portal can be asked to do wrong, by name."""


def faithful(_endpoint: Endpoint, _channel: str) -> str | None:
    """Return no fault."""
    return None


class DemoPortal(ThreadingHTTPServer):
    """The portal; `fault` names what to do wrong for an endpoint of a channel, `requests` counts what was asked."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 1024

    def __init__(
        self,
        address: tuple[str, int] = ("127.0.0.1", 0),
        *,
        fault: Callable[[Endpoint, str], str | None] = faithful,
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
        """Say nothing: a client that goes away is the client's affair."""

    @contextmanager
    def serving(self) -> Iterator["DemoPortal"]:
        """Serve in the background until the block is left; what hangs by then is let go."""
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.stopping.set()
            self.shutdown()
            self.server_close()
            thread.join()


def table(textfile: Path) -> str:
    """Return what a text file says, for people: a block a channel."""
    samples = [
        sample
        for family in text_string_to_metric_families(textfile.read_text())
        for sample in family.samples
        if sample.name.startswith("ChinaCache_metrics_")
    ]
    channels = dict.fromkeys(sample.labels["channel"] for sample in samples)
    return "\n\n".join(_block(channel, [s for s in samples if s.labels["channel"] == channel]) for channel in channels)


def _block(channel: str, samples: list[Any]) -> str:
    def ranked(metric: str, label: str, form: str) -> str:
        found = sorted((s for s in samples if s.name == f"ChinaCache_metrics_{metric}"), key=lambda s: -s.value)
        return ", ".join(f"{s.labels[label]} {s.value:{form}}" for s in found[:4]) or "-"

    one = {(s.name.removeprefix("ChinaCache_metrics_"), s.labels.get("HitOrMiss")): s.value for s in samples}
    hits, misses = one.get(("hit_miss_total", "Hit"), 0.0), one.get(("hit_miss_total", "Miss"), 0.0)
    lines = {
        "traffic": f"{one[total] / 1e9:,.1f} GB" if (total := ("isp_total_bytes", None)) in one else "-",
        "hit ratio": f"{hits / (hits + misses):.1%}  ({hits:,.0f} hits, {misses:,.0f} misses)"
        if hits + misses
        else "-",
        "status codes": ranked("statuscodes_request_percent", "StatusCode", ".2f"),
        "top ISPs": ranked("isp_specific_flux_ratio", "isp", ".1%"),
        "top provinces": ranked("region_specific_flux_ratio", "name", ".1%"),
    }
    return "\n".join([f"channel {channel}", *(f"  {name:<14} {text}" for name, text in lines.items())])
