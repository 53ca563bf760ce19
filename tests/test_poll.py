"""Which requests a poll makes, in which order, and what it takes for an outcome."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from time import monotonic, sleep

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cc_textfile.errors import BadStatus, CcTextfileError, Malformed, Refused, RequestError, RequestTimeout, Unreachable
from cc_textfile.poll import NOT_MADE, PROBES, Fetch, Snapshot, gauge_requests, poll
from cc_textfile.portal.client import DEADLINE_PASSED
from cc_textfile.portal.responses import HitRate, Method, Request, Response
from cc_textfile.portal.window import Window
from tests.conftest import PATIENCE
from tests.test_transport import threads_left

NOW = datetime(2024, 2, 29, 16, 2, tzinfo=UTC)
WINDOW = Window.ending(NOW, 5)
SHORT = 0.3
GOOD = HitRate(hits=1, misses=1)


def requests(channels: int, *methods: Method) -> list[Request]:
    """Return the requests of a poll of so many channels."""
    return gauge_requests([str(number) for number in range(channels)], methods or tuple(Method), WINDOW)


def run(
    fetch: Callable[[Request], Response],
    wanted: Sequence[Request],
    optional: Sequence[Request] = (),
    *,
    concurrency: int = 8,
    deadline: float = PATIENCE,
) -> Snapshot:
    """Poll."""
    return poll(
        lambda request, _: fetch(request), wanted, optional, concurrency=concurrency, deadline=deadline, now=NOW
    )


def refusing(is_refused: Callable[[Request], bool], error: RequestError | None = None) -> Callable[[Request], Response]:
    """Return a fetch that refuses some requests."""

    def fetch(request: Request) -> Response:
        if is_refused(request):
            raise error or Refused("no")
        return GOOD

    return fetch


def reasons(snapshot: Snapshot) -> Counter[str]:
    """Return how many requests failed for which reason."""
    return Counter(failure.reason for failure in snapshot.failures.values())


def test_the_requests_of_the_gauges() -> None:
    """Each method of each channel once; status codes for the days on which the window lies."""
    assert gauge_requests(["47", "48"], [Method.ISP, Method.HTTP_CODE], WINDOW) == [
        Request("47", Method.ISP, WINDOW),
        Request("47", Method.HTTP_CODE, WINDOW.days),
        Request("48", Method.ISP, WINDOW),
        Request("48", Method.HTTP_CODE, WINDOW.days),
    ]


@settings(deadline=None)
@given(st.integers(0, 40), st.sets(st.sampled_from(Method), min_size=1), st.integers(1, 40), st.integers(0, 9))
def test_every_request_is_made_once(channels: int, methods: set[Method], concurrency: int, optional: int) -> None:
    """However many there are, and wanted twice or not; the first eight are spread over methods and channels."""
    wanted = requests(channels, *methods)
    made: list[Request] = []

    def fetch(request: Request) -> Response:
        made.append(request)
        return GOOD

    snapshot = run(fetch, wanted, [*requests(optional, *methods), *wanted], concurrency=concurrency)
    everything = {*wanted, *requests(optional, *methods)}
    assert sorted(made) == sorted(everything)
    assert snapshot.responses.keys() == everything
    assert (snapshot.failures, snapshot.account_refused, snapshot.success) == ({}, False, True)


@pytest.mark.parametrize("methods", [[Method.ISP], [Method.ISP, Method.REGION, Method.HTTP_CODE], list(Method)])
def test_the_first_requests_are_spread(methods: list[Method]) -> None:
    """Eight of them, of every method alike, and from all over the list of channels."""
    made: list[Request] = []

    def fetch(request: Request) -> Response:
        made.append(request)
        raise Refused("no")

    run(fetch, requests(80, *methods), concurrency=32)
    assert len(made) == len(set(made)) == PROBES
    of_each = Counter(request.method for request in made)
    assert set(of_each) == set(methods)
    assert max(of_each.values()) - min(of_each.values()) <= 1
    assert sorted(int(request.channel) // 10 for request in made) == list(range(8))


@pytest.mark.parametrize(
    "refusal", [Refused("no"), BadStatus("no", 401), BadStatus("no", 403)], ids=["refused", "401", "403"]
)
@pytest.mark.parametrize("concurrency", [1, 4, 64])
def test_an_account_that_is_refused(refusal: RequestError, concurrency: int) -> None:
    """After eight refusals and no good response no more requests are made, and each that was due is refused."""
    wanted = requests(100)
    made: list[Request] = []
    together = threading.Barrier(min(concurrency, PROBES))

    def fetch(request: Request) -> Response:
        made.append(request)
        together.wait(PATIENCE)
        raise refusal

    snapshot = run(fetch, wanted, requests(200), concurrency=concurrency)
    assert len(made) == PROBES
    assert snapshot.account_refused
    assert not snapshot.success
    assert {*wanted} <= snapshot.failures.keys() <= {*wanted, *made}
    not_made = [failure for failure in snapshot.failures.values() if str(failure) == NOT_MADE]
    assert len(not_made) == len(snapshot.failures) - PROBES
    assert {failure.reason for failure in snapshot.failures.values()} == {"refused"}
    assert all(failure.channel for failure in snapshot.failures.values())


def test_an_account_with_few_requests_that_are_all_refused() -> None:
    """One channel has no eight requests; all of them are enough."""
    snapshot = run(refusing(lambda _: True), requests(1))
    assert reasons(snapshot) == {"refused": 4}
    assert snapshot.account_refused


@pytest.mark.parametrize("concurrency", [1, 32])
@pytest.mark.parametrize("method", Method)
def test_a_method_that_is_refused_is_not_the_account(method: Method, concurrency: int) -> None:
    """An account without the right to one method has the numbers of the others."""
    wanted = requests(30)
    snapshot = run(refusing(lambda request: request.method is method), wanted, concurrency=concurrency)
    assert not snapshot.account_refused
    assert set(snapshot.failures) == {request for request in wanted if request.method is method}
    assert len(snapshot.responses) == 90


def test_channels_that_are_refused_are_not_the_account() -> None:
    """Also when they stand together, as those that are no more at the head of an old account's list."""
    snapshot = run(refusing(lambda request: int(request.channel) < 40), requests(100), concurrency=32)
    assert not snapshot.account_refused
    assert (reasons(snapshot), len(snapshot.responses)) == ({"refused": 160}, 240)


def test_another_failure_admits_all_until_eight_are_refused() -> None:
    """A portal that is also down in part is requested on, but not past eight refusals without a good response."""
    made: list[Request] = []

    def fetch(request: Request) -> Response:
        made.append(request)
        raise Unreachable("down") if len(made) % 2 else Refused("no")

    snapshot = run(fetch, requests(100), concurrency=1)
    assert len(made) == 2 * PROBES
    assert snapshot.account_refused


@pytest.mark.parametrize("other", [Malformed("not JSON"), BadStatus("HTTP status 500", 500)], ids=str)
def test_another_failure_does_not_admit_all(other: RequestError) -> None:
    """It shows nothing of the account: one more request goes, side by side with the others, and no ninth is refused."""
    together = threading.Barrier(PROBES)
    made: list[Request] = []

    def fetch(request: Request) -> Response:
        made.append(request)
        if made.index(request) == PROBES - 1:
            raise other
        together.wait(PATIENCE)
        raise Refused("no")

    snapshot = run(fetch, requests(100), concurrency=32)
    assert len(made) == PROBES + 1
    assert snapshot.account_refused


def test_the_first_good_response_admits_all() -> None:
    """From then on requests are made side by side, up to the concurrency."""
    together = threading.Barrier(12)
    made: list[Request] = []

    def fetch(request: Request) -> Response:
        made.append(request)
        if 1 <= made.index(request) <= 12:
            together.wait(PATIENCE)
        return GOOD

    snapshot = run(fetch, requests(7), concurrency=12)
    assert not together.broken
    assert len(snapshot.responses) == 28


def test_the_deadline_ends_a_poll() -> None:
    """What has no outcome by then is late, made or not; what comes later changes nothing."""
    over = threading.Event()

    def fetch(request: Request) -> Response:
        if request.method is Method.REGION:
            over.wait(PATIENCE)
        return GOOD

    wanted = requests(9)
    began = monotonic()
    snapshot = run(fetch, wanted, concurrency=2, deadline=SHORT)
    assert monotonic() - began >= SHORT
    good, bad = dict(snapshot.responses), dict(snapshot.failures)
    assert {str(failure) for failure in bad.values()} == {DEADLINE_PASSED}
    assert {type(failure) for failure in bad.values()} == {RequestTimeout}
    assert {(failure.channel, failure.method) for failure in bad.values()} == {r[:2] for r in bad}
    assert {*good, *bad} == {*wanted}
    over.set()
    assert run(fetch, wanted).responses.keys() == {*wanted}
    assert (snapshot.responses, snapshot.failures) == (good, bad)


def test_a_poll_returns_when_its_connections_are_closed() -> None:
    """A request that is cut short closes its connection a moment later; the file needs that descriptor."""
    closed = []

    def fetch(request: Request, end: float) -> Response:
        sleep(end - monotonic() + 0.05)
        closed.append(request)
        raise RequestTimeout(DEADLINE_PASSED)

    snapshot = poll(fetch, requests(1), concurrency=4, deadline=SHORT, now=NOW)
    assert len(closed) == len(snapshot.failures) == 4


def held(over: threading.Event, good: Callable[[Request], bool]) -> Fetch:
    """Return a fetch that is cut short at the deadline, but for good requests."""

    def fetch(request: Request, end: float) -> Response:
        if good(request):
            return GOOD
        over.wait(end - monotonic())
        raise RequestTimeout(DEADLINE_PASSED)

    return fetch


def test_optional_requests_that_the_deadline_leaves_out_are_no_failures() -> None:
    """The next poll makes them; a required one that is cut short is a failure."""
    wanted, optional = requests(1), requests(9)[4:]
    over = threading.Event()
    answered: list[Request] = []

    def fetch(request: Request, end: float) -> Response:
        if request not in wanted and not answered:
            answered.append(request)
            over.wait(end - 0.9 - monotonic())  # the rest begins in the second half of the time
            return GOOD
        return held(over, lambda _: False)(request, end)

    snapshot = poll(fetch, wanted[:1], optional, concurrency=2, deadline=2, now=NOW)
    assert set(snapshot.failures) == {wanted[0]}
    assert [*snapshot.responses] == answered
    assert snapshot.left == len(optional) - 1


def test_a_portal_that_is_silent_is_a_failure_of_optional_requests_too() -> None:
    """Without gauges all requests are optional: a poll without any response must not pass for a good one."""
    fetch = held(threading.Event(), lambda _: False)
    snapshot = poll(fetch, (), requests(9), concurrency=4, deadline=SHORT, now=NOW)
    assert not snapshot.success
    assert reasons(snapshot) == {"timeout": 4}


def test_an_optional_request_that_had_most_of_the_time_is_a_failure() -> None:
    """One that the portal never answers is no lack of time, and must not stay unseen poll after poll."""
    optional = requests(2)[4:]
    fetch = held(threading.Event(), lambda request: request not in optional)
    snapshot = poll(fetch, requests(1), optional, concurrency=8, deadline=SHORT, now=NOW)
    assert set(snapshot.failures) == {*optional}
    assert reasons(snapshot) == {"timeout": len(optional)}
    assert not snapshot.left


def test_no_response_is_good_where_more_came_than_were_requested() -> None:
    """Nobody knows which of them is whose, so none is exported."""
    wanted = requests(1)
    snapshot = poll(lambda *_: GOOD, wanted, concurrency=4, deadline=PATIENCE, now=NOW, close=lambda: True)
    assert snapshot.responses == {}
    assert [*snapshot.failures] == wanted
    assert reasons(snapshot) == {"malformed": 4}


def test_an_optional_request_that_fails_is_a_failure() -> None:
    """The portal refused it, or cannot be reached: that is no lack of time."""
    optional = requests(2)[4:]
    snapshot = run(refusing(lambda request: request == optional[0]), requests(1), optional)
    assert set(snapshot.failures) == {optional[0]}


def test_optional_requests_come_last() -> None:
    """But for the first eight, which show whether the account is refused."""
    wanted, optional = requests(20), requests(40)[80:]
    made: list[Request] = []

    def fetch(request: Request) -> Response:
        made.append(request)
        return GOOD

    run(fetch, wanted, optional, concurrency=1)
    rest = made[PROBES:]
    assert rest == [request for request in [*wanted, *optional] if request not in made[:PROBES]]


def test_nothing_to_request_is_no_failure() -> None:
    """An account whose ledger is settled has nothing to do."""
    snapshot = run(refusing(lambda _: True), ())
    assert (snapshot.success, snapshot.account_refused, snapshot.requests) == (True, False, ())
    assert (snapshot.ended, snapshot.seconds, snapshot.left) == (NOW, 0, 0)


@pytest.mark.parametrize("concurrency", [1, 8])
def test_a_bug_is_raised_at_once(concurrency: int) -> None:
    """What is not an error of the tree ends the poll, whatever else is under way."""
    over = threading.Event()
    ended: list[Request] = []

    def fetch(request: Request) -> Response:
        if request.channel == "0":
            raise KeyError(request.channel)
        over.wait(PATIENCE)
        ended.append(request)
        return GOOD

    with pytest.raises(KeyError):
        run(fetch, requests(9), concurrency=concurrency, deadline=threading.TIMEOUT_MAX)
    assert not ended
    over.set()


def test_a_host_that_gives_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The poll is made by those that there are; without one, there is no poll."""
    threads_left(monkeypatch, 1)
    assert len(run(lambda _: GOOD, requests(9)).responses) == 36
    with pytest.raises(CcTextfileError, match="see TasksMax= of the unit"):
        run(lambda _: GOOD, requests(9))


def test_progress_is_called_from_time_to_time_and_at_the_end() -> None:
    """With what is done, and all; the last call is complete, whatever was left out."""
    calls: list[tuple[int, int]] = []
    seen = threading.Event()

    def progress(done: int, total: int) -> None:
        calls.append((done, total))
        seen.set()

    def fetch(request: Request, _: float) -> Response:
        if request.channel == "8":
            assert seen.wait(PATIENCE)
        return GOOD

    poll(fetch, requests(9), concurrency=1, deadline=PATIENCE, now=NOW, progress=progress)
    assert calls[0][0] < calls[0][1] == 36
    assert calls[-1] == (36, 36)


def test_a_snapshot_has_its_times() -> None:
    """How long it took, and when it ended."""
    snapshot = run(lambda _: GOOD, requests(1))
    assert snapshot.seconds > 0
    assert (snapshot.ended - NOW).total_seconds() == pytest.approx(snapshot.seconds, abs=1e-5)
