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
from typing import NamedTuple

from cc_textfile.errors import BadStatus, Malformed, Refused
from cc_textfile.portal.window import Window

HTTP_OK = 200
REDIRECTS = range(300, 400)


class Method(StrEnum):
    """The portal's methods, by the name that they have in labels, settings and messages."""

    HIT_RATE = "hit_rate"
    ISP = "isp"
    REGION = "region"
    HTTP_CODE = "http_code"


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
    """Requests by HTTP status, over whole days; `unnamed_rows` are those among the dropped that may be of any code."""

    codes: tuple[StatusCode, ...]
    unnamed_rows: int = 0


Json = Mapping[str, object]

# Integers become floats at once: Python refuses to read an integer of more than 4,300 digits.
_JSON = json.JSONDecoder(parse_int=float)


def decode_hit_rate(status: int, body: bytes) -> HitRate:
    """Decode a response of getHitRate."""
    fields = _statistics(status, body)
    hits, misses = _number(fields.get("Hit")), _number(fields.get("Miss"))
    _require(fields, hits is not None or misses is not None, "Hit", "Miss")
    return HitRate(hits=hits, misses=misses)


def decode_isp(status: int, body: bytes) -> Isp:
    """Decode a response of getIsp."""
    fields = _statistics(status, body)
    total = _number(fields.get("totalFlux"))
    isps, dropped = _shares(fields, "isps", "isp")
    _require(fields, total is not None or isps, "totalFlux")
    return Isp(total_bytes=total, isps=isps, dropped_rows=dropped)


def decode_region(status: int, body: bytes) -> Region:
    """Decode a response of getRegion."""
    fields = _statistics(status, body)
    total = _number(fields.get("totalFlux"))
    provinces, dropped_provinces = _shares(fields, "provinces", "provinceName")
    countries, dropped_countries = _shares(fields, "states", "stateOrRegionName")
    _require(fields, total is not None or provinces or countries, "totalFlux")
    return Region(
        total_bytes=total,
        provinces=provinces,
        countries=countries,
        dropped_rows=dropped_provinces + dropped_countries,
    )


def decode_http_code(status: int, body: bytes) -> HttpCode:
    """Decode a response of the REST method."""
    fields = _good_object(status, body, "success", lambda success: success is True)
    if not isinstance(fields.get("data", []), list | None):
        raise Malformed("`data` is not a list")
    codes = []
    dropped = 0
    unnamed = 0
    for row in _rows(fields, "data"):
        code = _name(row.get("http_code"))
        requests = _number(row.get("request_count"))
        percent, flux_percent = _percent(row.get("request_percent")), _percent(row.get("flux_percent"))
        dropped += code is None or (requests is None and percent is None and flux_percent is None)
        unnamed += code is None
        if code is not None:
            codes.append(StatusCode(code, requests, percent, flux_percent))
    return HttpCode(codes=tuple(codes), unnamed_rows=unnamed, dropped_rows=dropped)


def _statistics(status: int, body: bytes) -> Json:
    # In Python `true == 1`; on the wire it is not.
    return _good_object(status, body, "code", lambda code: code == 1 and not isinstance(code, bool))


def _good_object(status: int, body: bytes, verdict: str, is_good: Callable[[object], bool]) -> Json:
    """Return the object of a good response: status 200, JSON, and a verdict (`code` or `success`) that is good."""
    try:
        # Not by the codec utf-8-sig: that is a file, which cannot be opened when connections have all descriptors.
        fields = _JSON.decode(body.removeprefix(codecs.BOM_UTF8).decode())
    except (ValueError, RecursionError) as error:
        if status != HTTP_OK:
            raise _bad_status(status) from None
        raise Malformed(_not_json(body, error)) from None
    # The portal's own verdict outranks the HTTP status. JSON without one, under another status than 200, is from a
    # server in between.
    if isinstance(fields, dict) and (verdict in fields or status == HTTP_OK) and not is_good(fields.get(verdict)):
        raise _refusal(fields, verdict)
    if status != HTTP_OK:
        raise _bad_status(status)
    if not isinstance(fields, dict):
        raise Malformed("the response is JSON, but not an object")
    return fields


def _bad_status(status: int) -> BadStatus:
    hint = {
        401: "unauthorised: check user and password",
        403: "forbidden: check user, password and whether the portal admits the address of this host",
        407: "the proxy wants a user and a password: see https_proxy",
        429: "too many requests: lower --concurrency or poll less often",
    }.get(status, "a redirect, which is not followed: the query holds the password" if status in REDIRECTS else "")
    return BadStatus(f"HTTP status {status}" + (f" ({hint})" if hint else ""), status)


def _not_json(body: bytes, error: Exception) -> str:
    if not body:
        return "the response has no body"
    if body.lstrip()[:1] == b"<":
        return "the response is a web page instead of JSON; a proxy or a login page may stand in between"
    if isinstance(error, UnicodeDecodeError):
        return "the response is not UTF-8"
    return f"the response of {len(body)} bytes is not JSON"


def _refusal(fields: Json, verdict: str) -> Refused:
    if verdict not in fields:
        return Refused(f"the portal refused: no `{verdict}` in its response")
    value = fields[verdict]
    # What is nested as deep as Python can read it is too deep for it to write.
    written = "nested" if isinstance(value, list | dict) else json.dumps(value)
    shown = f"{value:g}" if isinstance(value, float) else written
    texts = [text for key in ("msg", "message") if isinstance(text := fields.get(key), str) and text]
    return Refused(f"the portal refused: `{verdict}` is", foreign=": ".join([shown, *texts]))


def _require(fields: Json, found: object, *keys: str) -> None:
    if not found:
        word = "missing" if not any(key in fields for key in keys) else "not a count"
        raise Malformed(f"{' and '.join(f'`{key}`' for key in keys)}: {word}")


def _rows(fields: Json, key: str) -> list[Json]:
    """Return the rows of a breakdown; one that is empty or absent is good and has no rows.

    What is not an object has no fields, and so becomes a dropped row; likewise a breakdown that is not a list.
    """
    rows = fields.get(key)
    if rows is None:
        return []
    return [row if isinstance(row, dict) else {} for row in (rows if isinstance(rows, list) else [None])]


def _shares(fields: Json, key: str, name_key: str) -> tuple[tuple[Share, ...], int]:
    """Return the rows of a breakdown, and how many of them are dropped.

    A row with a name stays even if no number of it can be read: another row of the same label must not pass for the
    whole.
    """
    shares = []
    dropped = 0
    for row in _rows(fields, key):
        name = _name(row.get(name_key))
        numbers = _number(row.get("fluxRatio")), _number(row.get("hitCount")), _number(row.get("hitRatio"))
        dropped += name is None or numbers == (None, None, None)
        if name is not None:
            shares.append(Share(name, *numbers))
    return tuple(shares), dropped


def _name(value: object) -> str | None:
    """Return a name that can be the value of a label: text that is not blank and has a UTF-8 form."""
    if not isinstance(value, str) or not value.strip():
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    # The same few names are in every response; each is kept in memory once.
    return sys.intern(value)


def _number(value: object) -> float | None:
    """Return a finite number that is not negative, else None; a number written as text is text."""
    return value if type(value) is float and 0 <= value < math.inf else None


def _percent(value: object) -> float | None:
    """Return 97.31 for `"97.31%"`, `"97.31"` and `97.31`, and None for anything else."""
    if not isinstance(value, str):
        return _number(value)
    text = value.strip().removesuffix("%").rstrip()
    # float() alone would take underscores, digits of other scripts, `nan` and `inf`.
    return _number(float(text)) if re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", text) else None
