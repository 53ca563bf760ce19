"""What the portal says: a type and a decoder per endpoint, bytes in, typed numbers out.

An answer is read as far as it is exported. A row whose numbers can't be read is left out and counted
(`dropped_rows`), and its neighbours stay; an answer that can't be read is `Malformed`; one that says no
is `Refused`. Names stay as the portal spells them, and a number that it did not say is `None`.
"""

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from cc_textfile.errors import BadStatus, Malformed, Refused

HTTP_OK = 200
REDIRECTS = range(300, 400)


class Endpoint(StrEnum):
    """The portal's endpoints, by the name they have in labels, messages and this package."""

    HIT_RATE = "hit_rate"
    ISP = "isp"
    REGION = "region"
    HTTP_CODE = "http_code"


class Share(NamedTuple):
    """The part of a channel's traffic that one carrier or province has, as a ratio 0 to 1."""

    name: str
    flux_ratio: float | None


class StatusCode(NamedTuple):
    """How many requests ended in one HTTP status: their count, and their percentage of all."""

    code: str
    requests: float | None
    percent: float | None


class HitRateAnswer(NamedTuple):
    """Requests served from the cache, and requests that were not."""

    hits: float
    misses: float
    dropped_rows: int = 0


class IspAnswer(NamedTuple):
    """Traffic in bytes, and each carrier's share where the portal has it (once a day)."""

    total_bytes: float
    isps: tuple[Share, ...]
    dropped_rows: int


class RegionAnswer(NamedTuple):
    """Traffic in bytes, and each province's share where the portal has it (once a day)."""

    total_bytes: float
    provinces: tuple[Share, ...]
    dropped_rows: int


class HttpCodeAnswer(NamedTuple):
    """Requests by HTTP status, over whole days."""

    codes: tuple[StatusCode, ...]
    dropped_rows: int


Answer = HitRateAnswer | IspAnswer | RegionAnswer | HttpCodeAnswer
Json = Mapping[str, object]


def hit_rate(status: int, body: bytes) -> HitRateAnswer:
    """Decode getHitRate's answer."""
    said = _statistics(status, body)
    return HitRateAnswer(_field(said, "Hit"), _field(said, "Miss"))


def isp(status: int, body: bytes) -> IspAnswer:
    """Decode getIsp's answer."""
    said = _statistics(status, body)
    isps, dropped = _shares(said, "isps", "isp")
    return IspAnswer(_field(said, "totalFlux"), isps, dropped)


def region(status: int, body: bytes) -> RegionAnswer:
    """Decode getRegion's answer; its `states` are not exported, and so not read."""
    said = _statistics(status, body)
    provinces, dropped = _shares(said, "provinces", "provinceName")
    return RegionAnswer(_field(said, "totalFlux"), provinces, dropped)


def http_code(status: int, body: bytes) -> HttpCodeAnswer:
    """Decode the REST method's answer."""
    said = _object(status, body, "success", lambda success: success is True)
    codes = []
    dropped = 0
    for row in _rows(said, "data"):
        code = _label(row, "http_code")
        requests = _row_number(row, "request_count", _number)
        percent = _row_number(row, "request_percent", _percent)
        if requests is None or (percent is None and not _unsaid(row, "request_percent")):
            requests = percent = None
        dropped += code is None or requests is None
        if code is not None:
            codes.append(StatusCode(code, requests, percent))
    return HttpCodeAnswer(tuple(codes), dropped)


def _statistics(status: int, body: bytes) -> Json:
    # `true == 1` in Python, and not on the wire.
    return _object(status, body, "code", lambda code: code == 1 and not isinstance(code, bool))


def _object(status: int, body: bytes, verdict: str, is_good: Callable[[object], bool]) -> Json:
    """Return a good answer's object: status 200, JSON, and a verdict (`code` or `success`) that is good."""
    try:
        said = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        if status != HTTP_OK:
            raise _bad_status(status) from None
        raise Malformed(_not_json(body, error)) from None
    # The portal's own word outranks the HTTP status; where there is none, a page with another status than
    # 200 is some server's in between.
    if isinstance(said, dict) and (verdict in said or status == HTTP_OK) and not is_good(said.get(verdict)):
        raise Refused(_refusal(said, verdict))
    if status != HTTP_OK:
        raise _bad_status(status)
    if not isinstance(said, dict):
        message = f"the answer is JSON, but {_kind(said)} instead of an object"
        raise Malformed(message)
    return said


def _bad_status(status: int) -> BadStatus:
    hint = {
        401: "unauthorised: check user and password",
        403: "forbidden: check user, password and whether this host's address may ask",
        429: "too many requests: lower --concurrency or poll less often",
    }.get(status, "a redirect, which is not followed: the query holds the password" if status in REDIRECTS else "")
    return BadStatus(f"HTTP status {status}" + (f" ({hint})" if hint else ""), status)


def _not_json(body: bytes, error: Exception) -> str:
    if not body:
        return "the answer has no body"
    if body.lstrip()[:1] == b"<":
        return "the answer is a web page instead of JSON; a proxy or a login page may stand in between"
    if isinstance(error, UnicodeDecodeError):
        return "the answer is not UTF-8"
    return f"the answer of {len(body)} bytes is not JSON"


def _refusal(said: Json, verdict: str) -> str:
    if verdict not in said:
        return f"the portal refused: no `{verdict}` in its answer"
    word = said[verdict]
    parts = [f"`{verdict}` is {_kind(word) if isinstance(word, dict | list) else json.dumps(word)}"]
    parts += [words for key in ("msg", "message") if isinstance(words := said.get(key), str) and words]
    return "the portal refused: " + ": ".join(parts)


def _kind(value: object) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "a truth value",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), "null")


def _rows(said: Json, key: str) -> Iterator[object]:
    """Return the rows of a breakdown; empty or absent is a good answer without rows."""
    rows = said.get(key)
    if rows is None:
        return iter(())
    if not isinstance(rows, list):
        message = f"`{key}` is not a list"
        raise Malformed(message)
    return iter(rows)


def _shares(said: Json, key: str, name_key: str) -> tuple[tuple[Share, ...], int]:
    """Return the shares of a breakdown, and the number of rows that could not be read.

    A row with a name and no readable ratio stays, as `None`: another row of the same series must not pass for the
    whole.
    """
    shares = []
    dropped = 0
    for row in _rows(said, key):
        name = _label(row, name_key)
        ratio = _row_number(row, "fluxRatio", _number)
        dropped += name is None or ratio is None
        if name is not None:
            shares.append(Share(name, ratio))
    return tuple(shares), dropped


def _field(said: Json, key: str) -> float:
    number = _number(said.get(key))
    if number is None:
        message = f"`{key}` is missing" if key not in said else f"`{key}` is not a count"
        raise Malformed(message)
    return number


def _label(row: object, key: str) -> str | None:
    """Return a row's name if it can be a label's value: not blank, and text that has a UTF-8 form."""
    name = row.get(key) if isinstance(row, dict) else None
    if not isinstance(name, str) or not name.strip():
        return None
    try:
        name.encode()
    except UnicodeEncodeError:
        return None
    # The same few names in each answer: kept once, they take a fifth of the memory of a large poll less.
    return sys.intern(name)


def _row_number(row: object, key: str, read: Callable[[object], float | None]) -> float | None:
    return read(row.get(key)) if isinstance(row, dict) else None


def _number(value: object) -> float | None:
    """Return a finite number that is not negative, and None for anything else; numbers as text are text."""
    if type(value) is int or type(value) is float:
        try:
            number = float(value)
        except OverflowError:
            return None
        if 0 <= number < math.inf:
            return number
    return None


def _unsaid(row: object, key: str) -> bool:
    """Tell whether the row leaves a number open, which the portal does where there is nothing to divide by."""
    value = row.get(key, False) if isinstance(row, dict) else False
    return value is None or (isinstance(value, str) and not value.strip())


# float() alone would take underscores, other scripts' digits, `nan` and `inf`.
_PERCENT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", re.ASCII)


def _percent(value: object) -> float | None:
    """Return `97.31` for `"97.31%"`, and None for anything else."""
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    return _number(float(match[1])) if match else None
