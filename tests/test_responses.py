"""What is read of the portal's bytes: typed numbers, dropped rows, or one of three errors."""

import json
import math
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cc_textfile.errors import BadStatus, Malformed, Refused, RequestError
from cc_textfile.portal.responses import (
    HitRate,
    HttpCode,
    Isp,
    Method,
    Region,
    Response,
    Share,
    StatusCode,
    decode,
)

ISP_ROW = {"isp": "中国电信", "fluxRatio": 0.36325, "hitCount": 21298411, "hitRatio": 0.41423}
PROVINCE = {"provinceName": "广东省", "fluxRatio": 0.25906, "hitCount": 498637, "hitRatio": 0.20978}
COUNTRY = {"stateOrRegionName": "美国", "fluxRatio": 0.01, "hitCount": 12, "hitRatio": 0.5}
CODE = {"http_code": "200", "request_count": 9120, "request_percent": "97.31%", "flux_percent": "99.02%"}
GOOD: dict[Method, dict[str, Any]] = {
    Method.HIT_RATE: {"HitPercent": 0.93, "Hit": 1127, "MissPercent": 0.07, "Miss": 85, "code": 1},
    Method.ISP: {"totalFlux": 1812447063300, "isps": [ISP_ROW], "code": 1},
    Method.REGION: {"totalFlux": 88163029950, "provinces": [PROVINCE], "states": [COUNTRY], "code": 1},
    Method.HTTP_CODE: {"data": [CODE], "msg": "", "status": 0, "success": True},
}
READ: dict[Method, Response] = {
    Method.HIT_RATE: HitRate(hits=1127, misses=85),
    Method.ISP: Isp(total_bytes=1812447063300, isps=(Share("中国电信", 0.36325, 21298411, 0.41423),)),
    Method.REGION: Region(
        total_bytes=88163029950,
        provinces=(Share("广东省", 0.25906, 498637, 0.20978),),
        countries=(Share("美国", 0.01, 12, 0.5),),
    ),
    Method.HTTP_CODE: HttpCode(codes=(StatusCode("200", 9120, 97.31, 99.02),)),
}
BREAKDOWNS = [
    (Method.ISP, "isps", ISP_ROW, "isp"),
    (Method.REGION, "provinces", PROVINCE, "provinceName"),
    (Method.REGION, "states", COUNTRY, "stateOrRegionName"),
    (Method.HTTP_CODE, "data", CODE, "http_code"),
]


def decoded(method: Method, fields: object, status: int = 200) -> Response:
    """Decode a response of the method with these fields."""
    return decode(method, status, json.dumps(fields).encode(), str)


def changed(method: Method, **fields: object) -> dict[str, Any]:
    """Return the good response with other fields; `...` removes one."""
    return {name: value for name, value in (GOOD[method] | fields).items() if value is not ...}


@pytest.mark.parametrize("method", Method)
def test_the_portals_examples(method: Method) -> None:
    """The responses that the portal is known to give are read to the number, also behind a byte order mark."""
    assert decoded(method, GOOD[method]) == READ[method]
    assert decode(method, 200, b"\xef\xbb\xbf" + json.dumps(GOOD[method]).encode(), str) == READ[method]


NOT_OBJECTS = {
    b"": "the response has no body",
    b"\n <!DOCTYPE html><title>Log in</title>": "a web page instead of JSON",
    b'{"code": 1, "totalFlux": 17, "isps": [': "of 38 bytes is not JSON",
    '{"code": 1, "isp": "中国"}'.encode("gb18030"): "not UTF-8",
    b"[" * 200_000: "of 200000 bytes is not JSON",
    b'{"a":' * 100_000: "is not JSON",
    b'{"code": 1}{"code": 1}': "is not JSON",
    b"null": "JSON, but not an object",
    b"[]": "JSON, but not an object",
}


@pytest.mark.parametrize(("body", "words"), NOT_OBJECTS.items(), ids=range(len(NOT_OBJECTS)))
@pytest.mark.parametrize("method", Method)
def test_bytes_that_are_not_a_response(method: Method, body: bytes, words: str) -> None:
    """Under status 200 they are malformed, and the message says what they are; under another, the status matters."""
    with pytest.raises(Malformed, match=words):
        decode(method, 200, body, str)
    with pytest.raises(BadStatus, match=r"^HTTP status 502$"):
        decode(method, 502, body, str)


@pytest.mark.parametrize("code", [0, 2, -1, 10001, "1", True, False, None, [], {}, 1.5, float("nan"), ...])
@pytest.mark.parametrize("method", [Method.HIT_RATE, Method.ISP, Method.REGION])
def test_any_code_but_1_is_a_refusal(method: Method, code: object) -> None:
    """`code` is the number 1 in a good response; anything else, or none, refuses, whatever numbers are there."""
    with pytest.raises(Refused, match=r"^the portal refused: "):
        decoded(method, changed(method, code=code))


@pytest.mark.parametrize("success", [False, 1, "true", None, [], ...])
def test_any_success_but_true_is_a_refusal(success: object) -> None:
    """`success` is true in a good response of the REST method."""
    with pytest.raises(Refused, match=r"^the portal refused: "):
        decoded(Method.HTTP_CODE, changed(Method.HTTP_CODE, success=success))


def test_a_refusal_carries_the_portals_words() -> None:
    """They are quoted, because they may repeat the password; ours are not."""
    body = b'{"code": 10001, "msg": "no such user", "message": "try again"}'
    with pytest.raises(Refused, match=r"^the portal refused: `code` is <10001: no such user: try again>$"):
        decode(Method.ISP, 200, body, "<{}>".format)
    with pytest.raises(Refused, match=r"^the portal refused: no `success` in its response$"):
        decode(Method.HTTP_CODE, 200, b"{}", "<{}>".format)


def test_a_refusal_that_is_nested_as_deep_as_can_be_read() -> None:
    """What Python can just read, and not write any more, is a refusal like any other."""
    seen = set()
    for depth in range(sys.getrecursionlimit()):
        with pytest.raises((Refused, Malformed)) as caught:
            decode(Method.ISP, 200, b'{"code": ' + b"[" * depth + b"0" + b"]" * depth + b"}", str)
        seen.add(caught.type)
    assert Refused in seen


@pytest.mark.parametrize("status", [201, 302, 401, 404, 500, 503])
@pytest.mark.parametrize("method", Method)
def test_the_portals_verdict_outranks_the_status(method: Method, status: int) -> None:
    """A verdict that is not good is a refusal under any status; without one, or with a good one, the status counts."""
    with pytest.raises(Refused):
        decoded(method, {"code": 0, "success": False}, status)
    others: list[object] = [{"error": "no"}, GOOD[method], [], None]
    for fields in others:
        with pytest.raises(BadStatus, match=f"^HTTP status {status}") as caught:
            decoded(method, fields, status)
        assert caught.value.status == status


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (302, "a redirect, which is not followed"),
        (401, "check user and password"),
        (403, "whether the portal admits the address of this host"),
        (407, "https_proxy"),
        (429, "lower --concurrency"),
    ],
)
def test_a_status_says_what_to_do(status: int, words: str) -> None:
    """Where something can be done about a status, the message says what."""
    with pytest.raises(BadStatus, match=words):
        decode(Method.ISP, status, b"", str)


NOT_NUMBERS = [-1, -0.5, 10**400, float("nan"), float("inf"), True, False, "17", "", None, [], {}, ...]


@pytest.mark.parametrize("value", NOT_NUMBERS)
@pytest.mark.parametrize(("method", "field"), [(Method.ISP, "totalFlux"), (Method.REGION, "totalFlux")])
def test_a_total_that_cannot_be_read_costs_the_total_alone(method: Method, field: str, value: object) -> None:
    """The rows stay; without a number in a row either, the response is malformed."""
    fields = changed(method, **{field: value})
    response = decoded(method, fields)
    assert isinstance(response, Isp | Region)
    assert response.total_bytes is None
    assert response == decoded(method, GOOD[method] | {field: None})
    words = "missing" if value is ... else "no count can be read"
    without = {name: each for name, each in fields.items() if name in {"code", "totalFlux"}}
    for rows in ({}, {"isps": [{"isp": "x"}], "states": [{"stateOrRegionName": "x", "fluxRatio": "1"}]}):
        with pytest.raises(Malformed, match=f"^`totalFlux`: {words}$"):
            decoded(method, without | rows)


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_hits_and_misses_are_read_apart(value: object) -> None:
    """One that cannot be read costs itself; two are a malformed response."""
    assert decoded(Method.HIT_RATE, changed(Method.HIT_RATE, Hit=value)) == HitRate(hits=None, misses=85)
    assert decoded(Method.HIT_RATE, changed(Method.HIT_RATE, Miss=value)) == HitRate(hits=1127, misses=None)
    with pytest.raises(Malformed, match=r"^`Hit` and `Miss`: "):
        decoded(Method.HIT_RATE, changed(Method.HIT_RATE, Hit=value, Miss=value))


@pytest.mark.parametrize("digits", [b"9" * 5000, b"-" + b"9" * 5000, b"1e999", b'"x"', b"[[[]]]", b"NaN"])
def test_a_field_that_is_not_read_costs_nothing(digits: bytes) -> None:
    """Whatever the portal has in other fields, a number that Python would not convert included."""
    body = b'{"code": 1, "Hit": 1, "Miss": 2, "other": ' + digits + b"}"
    assert decode(Method.HIT_RATE, 200, body, str) == HitRate(hits=1, misses=2)


def test_an_exponent_that_underflows_is_zero() -> None:
    """It is a number, as small as there is."""
    body = b'{"code": 1, "Hit": 1e-999, "Miss": 0}'
    assert decode(Method.HIT_RATE, 200, body, str) == HitRate(hits=0, misses=0)


@pytest.mark.parametrize("rows", [..., None, []], ids=str)
@pytest.mark.parametrize(("method", "key"), [breakdown[:2] for breakdown in BREAKDOWNS])
def test_a_breakdown_may_be_empty_null_or_absent(method: Method, key: str, rows: object) -> None:
    """The response is good: the portal makes rows once a day."""
    assert decoded(method, changed(method, **{key: rows})).dropped_rows == 0


@pytest.mark.parametrize("rows", [{}, ISP_ROW, "", 0, False, "中国电信"], ids=str)
def test_a_breakdown_that_is_not_a_list_is_a_dropped_row(rows: object) -> None:
    """It costs itself, and not the traffic; of the REST method it is all, and so the response is malformed."""
    isp = changed(Method.ISP, isps=rows)
    assert decoded(Method.ISP, isp) == Isp(total_bytes=1812447063300, isps=(), dropped_rows=1)
    region = changed(Method.REGION, provinces=rows, states=rows)
    assert decoded(Method.REGION, region) == Region(total_bytes=88163029950, provinces=(), countries=(), dropped_rows=2)
    with pytest.raises(Malformed, match=r"^`data` is not a list$"):
        decoded(Method.HTTP_CODE, changed(Method.HTTP_CODE, data=rows))


def names_of(response: Response) -> list[str]:
    """Return the names of all rows."""
    match response:
        case Isp():
            return [row.name for row in response.isps]
        case Region():
            return [row.name for row in (*response.provinces, *response.countries)]
        case HttpCode():
            return [row.code for row in response.codes]
    return []


@pytest.mark.parametrize(("method", "key", "row", "name"), BREAKDOWNS)
def test_a_row_without_a_usable_name_is_dropped(method: Method, key: str, row: dict[str, Any], name: str) -> None:
    """It is counted, and the rows around it are read."""
    others = changed(method, **{other: [] for _, other, *_ in BREAKDOWNS if other in GOOD[method]})
    not_names: list[object] = [None, "", " \t\n", 200, True, [], "\ud800", "x\udfffy"]
    bad: list[Any] = [None, 17, "row", [], {}, *(row | {name: value} for value in not_names)]
    response = decoded(method, others | {key: [row | {name: "first"}, *bad, row | {name: "last"}]})
    assert response.dropped_rows == len(bad)
    assert names_of(response) == ["first", "last"]


@pytest.mark.parametrize("value", NOT_NUMBERS)
@pytest.mark.parametrize("field", ["fluxRatio", "hitCount", "hitRatio"])
def test_a_number_of_a_row_that_cannot_be_read_costs_that_number(field: str, value: object) -> None:
    """The row keeps its other numbers, and is not dropped."""
    row = {name: number for name, number in (ISP_ROW | {field: value}).items() if number is not ...}
    response = decoded(Method.ISP, changed(Method.ISP, isps=[row]))
    assert isinstance(response, Isp)
    (share,) = response.isps
    numbers = dict(zip(("fluxRatio", "hitCount", "hitRatio"), share[1:], strict=True))
    assert numbers == {name: number for name, number in ISP_ROW.items() if name != "isp"} | {field: None}


def test_a_row_without_any_number_is_dropped_and_keeps_its_name() -> None:
    """It is counted; its name stays, so that another row of the same series does not pass for the whole."""
    isp = changed(Method.ISP, isps=[{"isp": "中国联通", "fluxRatio": 0.2}, {"isp": "f中国联通", "fluxRatio": "much"}])
    rows = (Share("中国联通", 0.2, None, None), Share("f中国联通", None, None, None))
    assert decoded(Method.ISP, isp) == Isp(total_bytes=1812447063300, isps=rows, dropped_rows=1)
    codes = changed(Method.HTTP_CODE, data=[CODE, {"http_code": "404", "request_percent": "", "flux_percent": "-"}])
    read = (StatusCode("200", 9120, 97.31, 99.02), StatusCode("404", None, None, None))
    assert decoded(Method.HTTP_CODE, codes) == HttpCode(codes=read, dropped_rows=1)


@pytest.mark.parametrize("row", [{"http_code": ""}, {"http_code": "200"}, None], ids=str)
def test_status_codes_of_which_no_row_can_be_read(row: object) -> None:
    """The response has no number, and is malformed: it is not one without requests."""
    with pytest.raises(Malformed, match=r"^`data`: no count can be read$"):
        decoded(Method.HTTP_CODE, changed(Method.HTTP_CODE, data=[row]))


@pytest.mark.parametrize(("data", "is_whole"), [(..., False), (None, False), ([], True)], ids=str)
def test_status_codes_that_are_not_given(data: object, *, is_whole: bool) -> None:
    """An empty list tells that there were no requests; a list that is null or absent tells nothing."""
    assert decoded(Method.HTTP_CODE, changed(Method.HTTP_CODE, data=data)) == HttpCode(codes=(), is_whole=is_whole)


PERCENTAGES = {
    "97.31%": 97.31, "100%": 100.0, "12.5": 12.5, " 0.5 % ": 0.5, "120.00%": 120.0,
    "": None, " ": None, "-1%": None, "nan%": None, "inf%": None, "9" * 400 + "%": None, "97,31%": None,
    "9_7%": None, "٩٧%": None, "1e2%": None, "-": None, "97.31%%": None,
    f"1{' ' * 250_000}x": None,
}  # fmt: skip


@pytest.mark.parametrize(("written", "percent"), [*PERCENTAGES.items(), (97.31, 97.31), (None, None), (["1%"], None)])
def test_percentages(written: object, percent: float | None) -> None:
    """A percentage is read with and without its sign; one that cannot be read, or is empty, leaves the count."""
    row = CODE | {"request_percent": written}
    codes = decoded(Method.HTTP_CODE, changed(Method.HTTP_CODE, data=[row]))
    assert codes == HttpCode(codes=(StatusCode("200", 9120, percent, 99.02),))
    row = CODE | {"flux_percent": written}
    codes = decoded(Method.HTTP_CODE, changed(Method.HTTP_CODE, data=[row]))
    assert codes == HttpCode(codes=(StatusCode("200", 9120, 97.31, percent),))


# --- Any bytes at all ------------------------------------------------------------------------------------------------

texts = st.text(st.characters() | st.sampled_from('"\\\n\r\0\ud800\udfff中f省%'), max_size=8)
numbers = st.integers(0, 10**15) | st.floats() | st.integers() | st.sampled_from([10**400, -0.0, 5e-324, 1.8e308])
scalars = st.none() | st.booleans() | numbers | texts | st.sampled_from(["97.31%", "0%", "nan%"])
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))


@st.composite
def near_good(draw: st.DrawFn) -> tuple[Method, dict[str, Any]]:
    """Return a good response in which a few values, at any depth, are something else or missing."""
    method = draw(st.sampled_from(Method))
    fields = json.loads(json.dumps(GOOD[method]))
    for _ in range(draw(st.integers(0, 3))):
        place = fields
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            inner = place[key]
            if not isinstance(inner, dict | list) or draw(st.booleans()):
                place[key] = draw(anything)
                break
            place = inner
    return method, fields


def leaves(value: object) -> Iterator[object]:
    """Return all values within a response."""
    if isinstance(value, tuple):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


def outcome(method: Method, status: int, body: bytes) -> Response | RequestError:
    """Return the response, or the error; a response must be fit for export."""
    try:
        response = decode(method, status, body, str)
    except (BadStatus, Refused, Malformed) as error:
        return error
    for field in response.__dataclass_fields__.keys() - {"is_whole"}:
        for leaf in leaves(getattr(response, field)):
            assert leaf is None or (isinstance(leaf, str) and leaf.strip() and leaf.encode()) or is_count(leaf)
    assert status == 200
    return response


def is_count(value: object) -> bool:
    """Tell whether it is a number that can be exported."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf


@given(near_good(), st.sampled_from([200, 200, 200, 204, 302, 401, 503]))
def test_whatever_a_response_has_it_is_read_or_one_of_three_errors(
    case: tuple[Method, dict[str, Any]], status: int
) -> None:
    """No JSON ends in another way, and a verdict that is not good is always a refusal."""
    method, fields = case
    verdict, good = ("success", True) if method is Method.HTTP_CODE else ("code", 1)
    value = fields.get(verdict)
    is_good = value == good and isinstance(value, bool) == isinstance(good, bool)
    assert isinstance(outcome(method, status, json.dumps(fields).encode()), Refused) == (not is_good)


@given(near_good(), st.data())
def test_a_response_that_was_damaged_on_its_way(case: tuple[Method, dict[str, Any]], data: st.DataObject) -> None:
    """Cut, with bytes changed or inserted: never another exception, never a number that cannot be exported."""
    method, fields = case
    body = bytearray(json.dumps(fields, ensure_ascii=False).encode(errors="surrogatepass"))
    start = data.draw(st.integers(0, len(body)))
    body[start : data.draw(st.integers(start, len(body)))] = data.draw(
        st.binary(max_size=4) | st.sampled_from([b"NaN", b"-", b"1e999", b'"', b"\\ud800", b"[" * 2000, b",", b"null"])
    )
    outcome(method, 200, bytes(body))


@given(st.sampled_from(Method), st.sampled_from([200, 404]), st.binary(max_size=200))
@example(Method.ISP, 200, b"\xff\xfe{\x00}\x00")
def test_noise_is_an_error(method: Method, status: int, body: bytes) -> None:
    """Noise is an error of the tree, and nothing else."""
    assert isinstance(outcome(method, status, body), RequestError)
