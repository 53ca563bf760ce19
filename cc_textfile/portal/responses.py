"""The portal's responses: a type and a decoder per method, bytes in, typed numbers out.

A response is read as far as it is exported or counted. A field that cannot be read is None, as is one that the portal
did not give. A row without a usable name or any usable number is counted in `dropped_rows`. A response without any
usable number is `Malformed`, and one that is not good is `Refused`. Names stay as the portal spells them.
"""

import codecs
import json
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Final, NamedTuple, TypeVar

from cc_textfile.errors import BadStatus, Malformed, Refused
from cc_textfile.portal.window import Window

HTTP_OK = 200
HINTS = dict.fromkeys(range(300, 400), "a redirect, which is not followed: the query holds the password") | {
    401: "unauthorised: check user and password",
    403: "forbidden: check user, password and whether the portal admits the address of this host",
    407: "the proxy wants a user and a password: see https_proxy",
    429: "too many requests: lower --concurrency or poll less often",
}
"""What to do about an HTTP status."""


class Method(StrEnum):
    """The portal's methods, by the name that they have in labels, settings and messages."""

    HIT_RATE = "hit_rate"
    ISP = "isp"
    REGION = "region"
    HTTP_CODE = "http_code"

    __hash__ = str.__hash__  # that of Enum is a Python function


class Request(NamedTuple):
    """One request: a method of the portal, for one channel and one window. For `http_code` the window is whole days."""

    channel: str
    method: Method
    window: Window


class Share(NamedTuple):
    """The part of a channel's traffic that one carrier, province or country has; ratios are 0 to 1."""

    name: str
    flux_ratio: float | None
    hits: float | None
    hit_ratio: float | None


class StatusCode(NamedTuple):
    """The requests that ended in one HTTP status: their count, and percentages 0 to 100 of requests and of traffic."""

    code: str
    requests: float | None
    percent: float | None
    flux_percent: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """What all good responses have; `date` is the portal's clock, from the HTTP header."""

    dropped_rows: int = 0
    date: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HitRate(Response):
    """Requests that the cache served, and requests that it did not."""

    hits: float | None
    misses: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Isp(Response):
    """Traffic in bytes, and each carrier's share of it; the portal has shares only for windows on two days."""

    total_bytes: float | None
    isps: tuple[Share, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Region(Response):
    """Traffic in bytes, and the share of each province and country; shares only for windows on two days."""

    total_bytes: float | None
    provinces: tuple[Share, ...]
    countries: tuple[Share, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCode(Response):
    """Requests by HTTP status, over whole days; not `is_whole` where there may be others, of any status."""

    codes: tuple[StatusCode, ...]
    is_whole: bool = True


Json = Mapping[str, object]
Row = TypeVar("Row", Share, StatusCode)

# Integers become floats at once: Python refuses to read an integer of more than 4,300 digits.
_JSON = json.JSONDecoder(parse_int=float)


def decode(method: Method, status: int, body: bytes, quote: Callable[[str], str]) -> Response:
    """Return what a good response has: status 200, JSON, and a verdict (`code` or `success`) that is good.

    `quote` redacts the portal's own words for a message. Raises `BadStatus`, `Refused` or `Malformed`.
    """
    verdict, good, decode_fields = DECODERS[method]
    try:
        # Not by the codec utf-8-sig: that is a file, which cannot be opened when connections have all descriptors.
        fields = _JSON.decode(body.removeprefix(codecs.BOM_UTF8).decode())
    except (ValueError, RecursionError) as error:
        if status == HTTP_OK:
            raise Malformed(_not_json(body, error)) from None
        fields = None
    # The portal's own verdict outranks the HTTP status. JSON without one, under another status than 200, is from a
    # server in between.
    if isinstance(fields, dict) and (verdict in fields or status == HTTP_OK):
        value = fields.get(verdict)
        if type(value) is not type(good) or value != good:  # in Python `true == 1`; on the wire it is not
            raise Refused(f"the portal refused: {_reason(fields, verdict, quote)}")
    if status != HTTP_OK:
        hint = f" ({HINTS[status]})" if status in HINTS else ""
        raise BadStatus(f"HTTP status {status}{hint}", status)
    if not isinstance(fields, dict):
        raise Malformed("the response is JSON, but not an object")
    return decode_fields(fields)


def _hit_rate(fields: Json) -> HitRate:
    hits, misses = _number(fields.get("Hit")), _number(fields.get("Miss"))
    _require(fields, hits is not None or misses is not None, "Hit", "Miss")
    return HitRate(hits=hits, misses=misses)


def _isp(fields: Json) -> Isp:
    total = _number(fields.get("totalFlux"))
    isps, dropped, _ = _rows(fields, "isps", partial(_share, "isp"))
    _require(fields, total is not None or any(map(_has_number, isps)), "totalFlux")
    return Isp(total_bytes=total, isps=isps, dropped_rows=dropped)


def _region(fields: Json) -> Region:
    total = _number(fields.get("totalFlux"))
    provinces, dropped, _ = _rows(fields, "provinces", partial(_share, "provinceName"))
    countries, more_dropped, _ = _rows(fields, "states", partial(_share, "stateOrRegionName"))
    _require(fields, total is not None or any(map(_has_number, provinces + countries)), "totalFlux")
    return Region(total_bytes=total, provinces=provinces, countries=countries, dropped_rows=dropped + more_dropped)


def _http_code(fields: Json) -> HttpCode:
    data = fields.get("data")
    if not isinstance(data, list | None):
        raise Malformed("`data` is not a list")
    codes, dropped, unnamed = _rows(fields, "data", _status_code)
    _require(fields, not data or any(map(_has_number, codes)), "data")
    return HttpCode(codes=codes, dropped_rows=dropped, is_whole=data is not None and not unnamed)


DECODERS: Final[Mapping[Method, tuple[str, object, Callable[[Json], Response]]]] = {
    Method.HIT_RATE: ("code", 1.0, _hit_rate),
    Method.ISP: ("code", 1.0, _isp),
    Method.REGION: ("code", 1.0, _region),
    Method.HTTP_CODE: ("success", True, _http_code),
}
"""Each method's verdict, its value in a good response, and what reads the other fields."""


def _not_json(body: bytes, error: Exception) -> str:
    if not body:
        return "the response has no body"
    if body.lstrip()[:1] == b"<":
        return "the response is a web page instead of JSON; a proxy or a login page may stand in between"
    if isinstance(error, UnicodeDecodeError):
        return "the response is not UTF-8"
    return f"the response of {len(body)} bytes is not JSON"


def _reason(fields: Json, verdict: str, quote: Callable[[str], str]) -> str:
    if verdict not in fields:
        return f"no `{verdict}` in its response"
    value = fields[verdict]
    # What is nested as deep as Python can read it is too deep for it to write.
    shown = "nested" if isinstance(value, list | dict) else json.dumps(value).removesuffix(".0")
    texts = [text for key in ("msg", "message") if isinstance(text := fields.get(key), str) and text]
    return f"`{verdict}` is {quote(': '.join([shown, *texts]))}"


def _require(fields: Json, found: object, *keys: str) -> None:
    if not found:
        word = "missing" if fields.keys().isdisjoint(keys) else "no count can be read"
        raise Malformed(f"{' and '.join(f'`{key}`' for key in keys)}: {word}")


def _share(name_key: str, row: Json) -> Share:
    flux_ratio, hits, hit_ratio = row.get("fluxRatio"), row.get("hitCount"), row.get("hitRatio")
    return Share(_name(row.get(name_key)), _number(flux_ratio), _number(hits), _number(hit_ratio))


def _status_code(row: Json) -> StatusCode:
    percent, flux_percent = _percent(row.get("request_percent")), _percent(row.get("flux_percent"))
    return StatusCode(_name(row.get("http_code")), _number(row.get("request_count")), percent, flux_percent)


def _rows(fields: Json, key: str, read: Callable[[Json], Row]) -> tuple[tuple[Row, ...], int, int]:
    """Return the rows of a breakdown that have a name, how many rows are dropped, and how many of those have no name.

    A breakdown that is empty or absent is good and has no rows. What is not an object has no fields, and so becomes a
    dropped row; likewise a breakdown that is not a list. A row with a name stays even if no number of it can be read:
    another row of the same label must not pass for the whole.
    """
    found = fields.get(key)
    if not isinstance(found, list):
        found = [] if found is None else [None]
    rows = [read(row if isinstance(row, dict) else {}) for row in found]
    named = tuple(row for row in rows if row[0])
    dropped = sum(not row[0] or not _has_number(row) for row in rows)
    return named, dropped, len(rows) - len(named)


def _has_number(row: Share | StatusCode) -> bool:
    return row[1:] != (None, None, None)


def _name(value: object) -> str:
    """Return a name that can be the value of a label: text that is not blank and has a UTF-8 form; "" for any other."""
    if not isinstance(value, str) or not value.strip():
        return ""
    try:
        value.encode()
    except UnicodeEncodeError:
        return ""
    # The same few names are in every response; each is kept in memory once.
    return sys.intern(value)


def _number(value: object) -> float | None:
    """Return a finite number that is not negative, else None; a number written as text is text."""
    return abs(value) if type(value) is float and 0 <= value < math.inf else None  # `abs`: of -0, too


def _percent(value: object) -> float | None:
    """Return 97.31 for `"97.31%"`, `"97.31"` and `97.31`, and None for anything else."""
    if not isinstance(value, str):
        return _number(value)
    text = value.strip().removesuffix("%").rstrip()
    # float() alone would take underscores, digits of other scripts, `nan` and `inf`.
    return _number(float(text)) if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", text) else None
