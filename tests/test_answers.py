"""What the portal may say, and what becomes of it: typed numbers, dropped rows, or one of three errors."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cc_textfile import answers
from cc_textfile.answers import (
    Answer,
    Endpoint,
    HitRateAnswer,
    HttpCodeAnswer,
    IspAnswer,
    RegionAnswer,
    Share,
    StatusCode,
)
from cc_textfile.errors import BadStatus, Malformed, PortalError, Refused

Decoder = Callable[[int, bytes], Answer]

DECODERS: Mapping[Endpoint, Decoder] = {
    Endpoint.HIT_RATE: answers.hit_rate,
    Endpoint.ISP: answers.isp,
    Endpoint.REGION: answers.region,
    Endpoint.HTTP_CODE: answers.http_code,
}
GOOD: Mapping[Endpoint, dict[str, Any]] = {
    Endpoint.HIT_RATE: {"HitPercent": 0.93, "Hit": 1127, "MissPercent": 0.07, "Miss": 85, "code": 1},
    Endpoint.ISP: {
        "totalFlux": 1812447063300,
        "isps": [{"isp": "中国电信", "fluxRatio": 0.36325, "hitCount": 21298411, "hitRatio": 0.41423}],
        "code": 1,
    },
    Endpoint.REGION: {
        "totalFlux": 88163029950,
        "provinces": [{"provinceName": "广东省", "fluxRatio": 0.25906, "hitCount": 498637, "hitRatio": 0.20978}],
        "states": [{"stateOrRegionName": "美国", "fluxRatio": 0.01, "hitCount": 12, "hitRatio": 0.5}],
        "code": 1,
    },
    Endpoint.HTTP_CODE: {
        "data": [{"http_code": "200", "request_count": 9120, "request_percent": "97.31%", "flux_percent": "99.02%"}],
        "msg": "",
        "status": 0,
        "success": True,
    },
}
VERDICT = {endpoint: "success" if endpoint is Endpoint.HTTP_CODE else "code" for endpoint in Endpoint}
ROWS = {Endpoint.ISP: "isps", Endpoint.REGION: "provinces", Endpoint.HTTP_CODE: "data"}
NAMES = {Endpoint.ISP: "isp", Endpoint.REGION: "provinceName", Endpoint.HTTP_CODE: "http_code"}
VALUES = {Endpoint.ISP: "fluxRatio", Endpoint.REGION: "fluxRatio", Endpoint.HTTP_CODE: "request_count"}


def decode(endpoint: Endpoint, said: object, status: int = 200) -> Answer:
    """Decode an answer that says this."""
    return DECODERS[endpoint](status, json.dumps(said).encode())


def changed(endpoint: Endpoint, **fields: object) -> dict[str, Any]:
    """Return the good answer with other fields; `...` takes one away."""
    merged = {**GOOD[endpoint], **fields}
    return {name: value for name, value in merged.items() if value is not ...}


def test_the_examples_of_the_portals_own_words() -> None:
    """The answers that the portal is known to give are read to the number."""
    assert decode(Endpoint.HIT_RATE, GOOD[Endpoint.HIT_RATE]) == HitRateAnswer(1127, 85)
    assert decode(Endpoint.ISP, GOOD[Endpoint.ISP]) == IspAnswer(1812447063300, (Share("中国电信", 0.36325),), 0)
    assert decode(Endpoint.REGION, GOOD[Endpoint.REGION]) == RegionAnswer(88163029950, (Share("广东省", 0.25906),), 0)
    assert decode(Endpoint.HTTP_CODE, GOOD[Endpoint.HTTP_CODE]) == HttpCodeAnswer((StatusCode("200", 9120, 97.31),), 0)


# --- Bytes -----------------------------------------------------------------------------------------------------------

NO_JSON: Mapping[str, tuple[bytes, str]] = {
    "no body": (b"", "the answer has no body"),
    "web page": (b"\n <!DOCTYPE html><title>Log in</title>", "a web page instead of JSON"),
    "cut short": (b'{"code": 1, "totalFlux": 17, "isps": [', "of 38 bytes is not JSON"),
    "not UTF-8": ('{"code": 1, "isp": "中国"}'.encode("gb18030"), "not UTF-8"),
    "UTF-16": ('{"code": 1}'.encode("utf-16"), "not UTF-8"),
    "brackets": (b"[" * 200_000, "of 200000 bytes is not JSON"),
    "objects": (b'{"a":' * 100_000, "is not JSON"),
    "a number of 5,000 digits": (b'{"code": 1, "Hit": ' + b"9" * 5000 + b"}", "is not JSON"),
    "two answers": (b'{"code": 1}{"code": 1}', "is not JSON"),
    "null": (b"null", "JSON, but null instead of an object"),
    "list": (b"[]", "JSON, but a list instead of an object"),
    "text": (b'"ok"', "JSON, but a text instead of an object"),
    "number": (b"1", "JSON, but a number instead of an object"),
    "truth": (b"true", "JSON, but a truth value instead of an object"),
    "NaN": (b"NaN", "JSON, but a number instead of an object"),
}


@pytest.mark.parametrize(("body", "words"), NO_JSON.values(), ids=NO_JSON)
@pytest.mark.parametrize("endpoint", Endpoint)
def test_bytes_that_are_no_answer_are_malformed(endpoint: Endpoint, body: bytes, words: str) -> None:
    """With status 200, what is not a JSON object is malformed, and the message says what it is instead."""
    with pytest.raises(Malformed, match=words):
        DECODERS[endpoint](200, body)


@pytest.mark.parametrize("body", [body for body, _ in NO_JSON.values()], ids=NO_JSON)
def test_bytes_that_are_no_answer_matter_less_than_the_status(body: bytes) -> None:
    """A gateway's error page is a matter of its status, whatever is on it."""
    with pytest.raises(BadStatus, match="HTTP status 502"):
        answers.isp(502, body)


def test_a_byte_order_mark_does_not_count() -> None:
    """A mark before the JSON, which JSON forbids and some servers send, takes nothing away."""
    body = b"\xef\xbb\xbf" + json.dumps(GOOD[Endpoint.HIT_RATE]).encode()
    assert answers.hit_rate(200, body) == HitRateAnswer(1127, 85)


# --- The verdict -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 2, -1, 10001, "1", "ok", True, False, None, [], {}, [1], 1.5, float("nan"), ...])
@pytest.mark.parametrize("endpoint", [Endpoint.HIT_RATE, Endpoint.ISP, Endpoint.REGION])
def test_any_code_but_1_is_a_refusal(endpoint: Endpoint, code: object) -> None:
    """`code` is the number 1 in a good answer; anything else, or none, refuses, with all the numbers in place."""
    with pytest.raises(Refused, match=r"^the portal refused: "):
        decode(endpoint, changed(endpoint, code=code))


@pytest.mark.parametrize("success", [False, 1, "true", None, [], ...])
def test_any_success_but_true_is_a_refusal(success: object) -> None:
    """`success` is true in a good answer of the REST method."""
    with pytest.raises(Refused, match=r"^the portal refused: "):
        decode(Endpoint.HTTP_CODE, changed(Endpoint.HTTP_CODE, success=success))


def test_the_number_1_may_be_written_otherwise() -> None:
    """JSON has one kind of number: 1.0 is 1."""
    assert decode(Endpoint.HIT_RATE, changed(Endpoint.HIT_RATE, code=1.0)) == HitRateAnswer(1127, 85)


def test_a_refusal_says_what_the_portal_says() -> None:
    """The verdict and the portal's own words are in the message."""
    with pytest.raises(Refused, match=r'^the portal refused: `code` is "10001": no such user: try again$'):
        decode(Endpoint.ISP, {"code": "10001", "msg": "no such user", "message": "try again"})
    with pytest.raises(Refused, match=r"^the portal refused: `code` is a list$"):
        decode(Endpoint.ISP, {"code": [1], "msg": "", "message": 17})
    with pytest.raises(Refused, match=r"^the portal refused: no `success` in its answer$"):
        decode(Endpoint.HTTP_CODE, {})


@pytest.mark.parametrize("status", [201, 204, 301, 400, 401, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("endpoint", Endpoint)
def test_the_portals_own_word_outranks_the_status(endpoint: Endpoint, status: int) -> None:
    """A verdict that is not good is a refusal under any status; without one, or with a good one, the status counts."""
    with pytest.raises(Refused):
        decode(endpoint, {VERDICT[endpoint]: 0, "msg": "no"}, status)
    others: list[object] = [{"error": "no"}, GOOD[endpoint], [], None]
    for said in others:
        with pytest.raises(BadStatus, match=f"HTTP status {status}") as caught:
            decode(endpoint, said, status)
        assert caught.value.status == status


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (302, "a redirect, which is not followed: the query holds the password"),
        (401, "unauthorised: check user and password"),
        (403, "forbidden: check user, password and whether this host's address may ask"),
        (429, "too many requests: lower --concurrency or poll less often"),
    ],
)
def test_a_status_says_what_to_do(status: int, words: str) -> None:
    """Where something can be done about a status, the message says what."""
    with pytest.raises(BadStatus) as caught:
        answers.isp(status, b"")
    assert str(caught.value) == f"HTTP status {status} ({words})"


# --- Numbers ---------------------------------------------------------------------------------------------------------

NO_NUMBERS = [
    -1, -0.5, 10**400, -(10**400), float("nan"), float("inf"), float("-inf"), True, False, "17", "", None, [], {}, [17],
]  # fmt: skip


@pytest.mark.parametrize("value", [*NO_NUMBERS, ...])
@pytest.mark.parametrize(
    ("endpoint", "field"),
    [
        (Endpoint.HIT_RATE, "Hit"),
        (Endpoint.HIT_RATE, "Miss"),
        (Endpoint.ISP, "totalFlux"),
        (Endpoint.REGION, "totalFlux"),
    ],
)
def test_a_total_that_makes_no_sense_is_malformed(endpoint: Endpoint, field: str, value: object) -> None:
    """Negative, not finite, text, or not there: no such number is exported, and none in its stead."""
    words = f"^`{field}` is {'missing' if value is ... else 'not a count'}$"
    with pytest.raises(Malformed, match=words):
        decode(endpoint, changed(endpoint, **{field: value}))


@pytest.mark.parametrize("digits", ["1e999", "-1e999", "1e-999"])
def test_exponents_beyond_reason(digits: str) -> None:
    """What overflows to infinity is no number; what underflows is zero."""
    body = f'{{"code": 1, "Hit": {digits}, "Miss": 0}}'.encode()
    if digits == "1e-999":
        assert answers.hit_rate(200, body) == HitRateAnswer(0, 0)
    else:
        with pytest.raises(Malformed):
            answers.hit_rate(200, body)


def test_fields_that_are_not_exported_are_not_read() -> None:
    """Nonsense in a field that nobody asked for costs nothing."""
    said = changed(Endpoint.REGION, states="none", extra=[[[]]], hitCount=-1)
    assert decode(Endpoint.REGION, said) == RegionAnswer(88163029950, (Share("广东省", 0.25906),), 0)


# --- Rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [..., None, []], ids=str)
@pytest.mark.parametrize("endpoint", ROWS)
def test_a_breakdown_may_be_empty_null_or_absent(endpoint: Endpoint, rows: object) -> None:
    """Without rows the answer is good: the portal makes them once a day."""
    answer = decode(endpoint, changed(endpoint, **{ROWS[endpoint]: rows}))
    assert (rows_of(answer), answer.dropped_rows) == ([], 0)


@pytest.mark.parametrize("rows", [{}, "", 0, False, {"isp": "x"}, "中国电信"], ids=str)
@pytest.mark.parametrize("endpoint", ROWS)
def test_a_breakdown_that_is_no_list_is_malformed(endpoint: Endpoint, rows: object) -> None:
    """A breakdown of another type is an answer that is not understood."""
    with pytest.raises(Malformed, match=f"^`{ROWS[endpoint]}` is not a list$"):
        decode(endpoint, changed(endpoint, **{ROWS[endpoint]: rows}))


NO_ROWS: list[object] = [None, 17, "row", [], True, {}]
NO_LABELS: list[object] = [None, "", " \t\n", 200, True, [], {}, "\ud800", "x\udfffy", ...]


@pytest.mark.parametrize("endpoint", ROWS)
def test_a_bad_row_is_dropped_and_its_neighbours_stay(endpoint: Endpoint) -> None:
    """Rows of a wrong type, without a name or without a number are counted; those around them are read."""
    good = GOOD[endpoint][ROWS[endpoint]][0]
    bad: list[Any] = [
        *NO_ROWS,
        *({**good, NAMES[endpoint]: name} for name in NO_LABELS if name is not ...),
        {name: value for name, value in good.items() if name != NAMES[endpoint]},
        *({**good, NAMES[endpoint]: f"bad {n}", VALUES[endpoint]: no} for n, no in enumerate(NO_NUMBERS)),
        {name: value for name, value in good.items() if name != VALUES[endpoint]},
    ]
    first, last = ({**good, NAMES[endpoint]: name} for name in ("first", "last"))
    answer = decode(endpoint, changed(endpoint, **{ROWS[endpoint]: [first, *bad, last]}))
    assert answer.dropped_rows == len(bad)
    assert [row[0] for row in rows_of(answer) if row[1] is not None] == ["first", "last"]


def test_a_row_whose_number_cannot_be_read_keeps_its_name() -> None:
    """Its name stays, without a number: a row of the same series must not pass for the whole."""
    rows = [{"isp": "中国联通", "fluxRatio": 0.2}, {"isp": "f中国联通", "fluxRatio": "much"}]
    answer = decode(Endpoint.ISP, changed(Endpoint.ISP, isps=rows))
    assert answer == IspAnswer(1812447063300, (Share("中国联通", 0.2), Share("f中国联通", None)), 1)


PERCENTAGES: Mapping[str, tuple[object, float | None, int]] = {
    "usual": ("97.31%", 97.31, 0),
    "whole": ("100%", 100.0, 0),
    "blanks": (" 0.5 % ", 0.5, 0),
    "other blanks": ("\u30000.5%", None, 1),
    "over 100": ("120.00%", 120.0, 0),
    "empty": ("", None, 0),
    "blank": (" ", None, 0),
    "null": (None, None, 0),
    "no sign": ("97.31", None, 1),
    "number": (97.31, None, 1),
    "negative": ("-1%", None, 1),
    "NaN": ("nan%", None, 1),
    "infinite": ("inf%", None, 1),
    "400 digits": ("9" * 400 + "%", None, 1),
    "comma": ("97,31%", None, 1),
    "underscore": ("9_7%", None, 1),
    "other digits": ("٩٧%", None, 1),
    "exponent": ("1e2%", None, 1),
    "text": ("-", None, 1),
    "list": (["97.31%"], None, 1),
}


@pytest.mark.parametrize(("said", "percent", "dropped"), PERCENTAGES.values(), ids=PERCENTAGES)
def test_percentages(said: object, percent: float | None, dropped: int) -> None:
    """A percentage is read as `97.31%`; left open it is no number, and its row's count stays; else the row is bad."""
    row = {"http_code": "200", "request_count": 7, "request_percent": said}
    answer = decode(Endpoint.HTTP_CODE, changed(Endpoint.HTTP_CODE, data=[row]))
    assert answer == HttpCodeAnswer((StatusCode("200", None if dropped else 7, percent),), dropped)


def test_a_row_without_a_percentage_is_bad() -> None:
    """A field that is left open is there; one that is missing is a row in another form than known."""
    answer = decode(Endpoint.HTTP_CODE, changed(Endpoint.HTTP_CODE, data=[{"http_code": "200", "request_count": 7}]))
    assert answer == HttpCodeAnswer((StatusCode("200", None, None),), 1)


# --- Whatever comes --------------------------------------------------------------------------------------------------

texts = st.text(st.characters() | st.sampled_from('"\\\n\r\0\ud800\udfff中f省%'), max_size=8)
numbers = st.one_of(
    st.integers(0, 10**15),
    st.floats(0, 1),
    st.floats(),
    st.integers(),
    st.sampled_from([10**400, -(10**400), 2**63, -0.0, 5e-324, 1.7976931348623157e308]),
)
scalars = st.none() | st.booleans() | numbers | texts | st.sampled_from(["97.31%", "", "0%", "nan%", "1e999"])
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
names = st.sampled_from(["中国电信", "中国联通", "f中国联通", "广东省", "200", "404"]) | texts
percentages = st.one_of(
    st.floats(0, 100).map("{:.2f}%".format), st.decimals(-1, 10**9, places=2).map("{}%".format), texts
)


def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return what is usual nine times of ten, and else anything: nonsense in one place at a time reaches further."""
    return st.integers(0, 9).flatmap(lambda n: usual if n else anything)


def rows(endpoint: Endpoint) -> st.SearchStrategy[Any]:
    """Return rows in the portal's form, with now and then a field missing or of another type."""
    fields = {NAMES[endpoint]: mostly(names), VALUES[endpoint]: mostly(numbers)}
    if endpoint is Endpoint.HTTP_CODE:
        fields["request_percent"] = mostly(percentages)
    return st.lists(mostly(st.fixed_dictionaries(fields) | st.fixed_dictionaries({}, optional=fields)), max_size=6)


def objects(endpoint: Endpoint) -> st.SearchStrategy[Any]:
    """Return answers of an endpoint, or near to it."""
    totals = {"Hit", "Miss", "totalFlux"} & GOOD[endpoint].keys()
    fields: dict[str, st.SearchStrategy[Any]] = {total: mostly(st.integers(0, 10**15)) for total in totals}
    if endpoint in ROWS:
        fields[ROWS[endpoint]] = mostly(rows(endpoint))
    fields[VERDICT[endpoint]] = mostly(st.just(GOOD[endpoint][VERDICT[endpoint]]))
    return mostly(st.fixed_dictionaries(fields) | st.fixed_dictionaries({"msg": texts}, optional=fields))


statuses = st.sampled_from([200] * 6 + [204, 301, 302, 400, 401, 403, 404, 429, 500, 502, 503, 504])
cases = st.sampled_from(Endpoint).flatmap(lambda endpoint: st.tuples(st.just(endpoint), objects(endpoint)))


def rows_of(answer: Answer) -> list[Share] | list[StatusCode]:
    """Return the rows of an answer that has any."""
    match answer:
        case IspAnswer():
            return list(answer.isps)
        case RegionAnswer():
            return list(answer.provinces)
        case HttpCodeAnswer():
            return list(answer.codes)
        case HitRateAnswer():
            return []


def totals_of(answer: Answer) -> tuple[float, ...]:
    """Return the numbers of an answer that are not in rows."""
    match answer:
        case HitRateAnswer():
            return (answer.hits, answer.misses)
        case IspAnswer() | RegionAnswer():
            return (answer.total_bytes,)
        case HttpCodeAnswer():
            return ()


def leaves(answer: Answer) -> Iterator[float | str | None]:
    """Return all that could be exported of an answer."""
    yield from totals_of(answer)
    for row in rows_of(answer):
        yield from row


def outcome_of(endpoint: Endpoint, status: int, body: bytes) -> Answer | BadStatus | Refused | Malformed:
    """Return the answer, or the error that the bytes are."""
    try:
        return DECODERS[endpoint](status, body)
    except (BadStatus, Refused, Malformed) as error:
        return error


def check(answer: Answer) -> None:
    """Check what must be so of any answer at all."""
    for leaf in leaves(answer):
        if isinstance(leaf, str):
            assert leaf.strip()
            assert leaf.encode()
        elif leaf is not None:
            assert type(leaf) is float
            assert math.isfinite(leaf)
            assert leaf >= 0
    assert answer.dropped_rows >= 0


@given(cases, statuses)
def test_whatever_an_answer_says_it_is_read_or_one_of_three_errors(case: tuple[Endpoint, object], status: int) -> None:
    """No JSON, under any status, ends in another way; and what is read can be exported."""
    endpoint, said = case
    verdict = said.get(VERDICT[endpoint], ...) if isinstance(said, dict) else ...
    good = verdict is True if endpoint is Endpoint.HTTP_CODE else verdict == 1 and verdict is not True
    outcome = outcome_of(endpoint, status, json.dumps(said).encode())
    refuses = isinstance(said, dict) and not good and (verdict is not ... or status == 200)
    assert isinstance(outcome, Refused) == refuses
    assert isinstance(outcome, BadStatus) == (status != 200 and not refuses)
    if not isinstance(outcome, PortalError):
        check(outcome)
        if endpoint in ROWS:
            assert isinstance(said, dict)
            readable = sum(row[1] is not None for row in rows_of(outcome))
            assert readable + outcome.dropped_rows == len(said.get(ROWS[endpoint]) or [])


@given(
    st.sampled_from(list(ROWS)).flatmap(
        lambda endpoint: st.tuples(st.just(endpoint), rows(endpoint), st.lists(st.integers(0, 6), max_size=3))
    )
)
def test_good_rows_are_read_whatever_stands_beside_them(case: tuple[Endpoint, list[object], list[int]]) -> None:
    """Rows that are good are read in their order, with their numbers, wherever others stand between them."""
    endpoint, others, places = case
    mixed = list(others)
    added = []
    for n, place in enumerate(places):
        row = {NAMES[endpoint]: f"good-{n}", VALUES[endpoint]: n / 8, "request_percent": f"{n}.5%"}
        mixed.insert(min(place, len(mixed)), row)
    added = [row for row in mixed if isinstance(row, dict) and str(row.get(NAMES[endpoint])).startswith("good-")]
    answer = decode(endpoint, changed(endpoint, **{ROWS[endpoint]: mixed}))
    found = [row for row in rows_of(answer) if row[0].startswith("good-")]
    assert [(row[0], row[1]) for row in found] == [(row[NAMES[endpoint]], row[VALUES[endpoint]]) for row in added]


@given(st.sampled_from(Endpoint), statuses, st.binary(max_size=200))
@example(Endpoint.ISP, 200, b"\xef\xbb\xbf")
@example(Endpoint.ISP, 200, b"\xff\xfe{\x00}\x00")
def test_any_bytes_at_all(endpoint: Endpoint, status: int, body: bytes) -> None:
    """Noise is an error of the tree, and nothing else."""
    assert isinstance(outcome_of(endpoint, status, body), PortalError)


@given(cases, st.data())
def test_an_answer_that_was_damaged_on_its_way(case: tuple[Endpoint, object], data: st.DataObject) -> None:
    """Cut, with bytes changed or put in between: never another exception, never a number that can't be exported."""
    endpoint, said = case
    body = bytearray(json.dumps(said, ensure_ascii=False).encode(errors="surrogatepass"))
    assume(body)
    start = data.draw(st.integers(0, len(body) - 1))
    body[start : data.draw(st.integers(start, len(body)))] = data.draw(
        st.binary(max_size=4) | st.sampled_from([b"NaN", b"-", b"1e999", b'"', b"\\ud800", b"[" * 2000, b",", b"null"])
    )
    outcome = outcome_of(endpoint, 200, bytes(body))
    if not isinstance(outcome, PortalError):
        check(outcome)
