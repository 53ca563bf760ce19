"""One poll: makes a list of requests side by side, until all have an outcome or the deadline has come."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import cycle, islice
from threading import Condition
from time import monotonic

from cc_textfile.errors import BadStatus, Malformed, Refused, RequestError, RequestTimeout
from cc_textfile.portal.client import DEADLINE_PASSED
from cc_textfile.portal.responses import Method, Request, Response
from cc_textfile.portal.transport import MAX_STRAY_SECONDS
from cc_textfile.portal.window import Window
from cc_textfile.workers import Workers

PROBES = 8
"""How many requests are made before the account is known not to be refused. More could lock it."""

UNAUTHORISED = (401, 403)
"""Statuses that refuse as clearly as the portal's own words."""

PROGRESS_SECONDS = 0.2

CLOSE_SECONDS = MAX_STRAY_SECONDS + 0.5
"""How long a poll waits at its deadline for threads to end, and so for connections to be closed: the file needs file
descriptors, too. Only a look-up of a name takes longer."""

NOT_MADE = "not made: the portal refused the first requests, and more could lock the account"

STRAYED = (
    "more responses came than requests were made, so none can be trusted to be the one that was requested; see the "
    "proxies and load balancers in between"
)

Fetch = Callable[[Request, float], Response]

Close = Callable[[], bool]
"""Closes the connections, and tells whether more responses have come on them than were requested."""

Progress = Callable[[int, int], None]
"""Called about five times a second, and at the end, with the number of requests that are done and of all."""


@dataclass(frozen=True)
class Snapshot:
    """A finished poll. Each request has a response or a failure, or is one of the optional ones that are `left`."""

    responses: Mapping[Request, Response]
    failures: Mapping[Request, RequestError]
    ended: datetime
    seconds: float
    account_refused: bool = False
    left: int = 0

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests that have an outcome."""
        return (*self.responses, *self.failures)

    @property
    def success(self) -> bool:
        """Whether at least one request was answered well, or none was due: to have nothing to ask is no failure."""
        return bool(self.responses) or not self.failures


def gauge_requests(channels: Sequence[str], methods: Sequence[Method], window: Window) -> list[Request]:
    """Return the requests behind the gauges of the older exporter."""
    days = window.days
    return [
        Request(channel, method, days if method is Method.HTTP_CODE else window)
        for channel in channels
        for method in methods
    ]


def no_stray() -> bool:
    """Close nothing, and tell that nothing strayed."""
    return False


def is_refusal(error: RequestError) -> bool:
    """Tell whether the portal refused, in its own words or by the status."""
    return isinstance(error, Refused) or (isinstance(error, BadStatus) and error.status in UNAUTHORISED)


def poll(
    fetch: Fetch,
    requests: Sequence[Request],
    optional: Sequence[Request] = (),
    *,
    concurrency: int,
    deadline: float,
    now: datetime,
    progress: Progress | None = None,
    close: Close = no_stray,
) -> Snapshot:
    """Make all requests within `deadline` seconds of `now`, at most `concurrency` at a time.

    `fetch` takes a request and the deadline on the monotonic clock, and returns a response or raises `RequestError`.
    `optional` requests come after the others. Those that the deadline leaves no time for have no outcome.
    Until one is answered well, at most eight are refused or under way; the first eight are spread over channels and
    methods. Once eight are refused and none is good, the account is refused, and no more requests are made.
    Where `close` tells that more responses came than were requested, none is good. (No connection outlives a poll:
    firewalls forget idle ones, and file and ledger need descriptors.)
    Raises `CcTextfileError` when no thread can be started, and whatever else than `RequestError` `fetch` raises.
    """
    began = monotonic()
    wanted = list(dict.fromkeys([*requests, *optional]))
    if not wanted:
        return Snapshot({}, {}, now, 0.0)
    run = _Run(fetch, wanted, began + deadline)
    workers = Workers(run.work, min(concurrency, len(wanted)))
    while not run.bugs and (left := run.end - monotonic()) > 0 and not workers.wait(min(PROGRESS_SECONDS, left)):
        if progress:
            progress(len(run.responses) + len(run.failures), len(wanted))
    if run.bugs:
        raise run.bugs[0]
    account_refused = run.refused()
    # Copies: a thread that ends later changes nothing any more.
    begun, good, bad = dict(run.begun), dict(run.responses), dict(run.failures)
    if account_refused:  # all refusals, those by a status too, get the reason of the alert
        bad = {request: Refused(str(error)) if is_refusal(error) else error for request, error in bad.items()}
    # An optional request that was cut short shows only that there was no time, if the portal answers others, and if it
    # did not have the larger part of the time.
    half = began + deadline / 2
    cut_short = {request for request, time in begun.items() if not good or time < half}
    missing = {*requests, *cut_short} - good.keys() - bad.keys()
    reason = partial(Refused, NOT_MADE) if account_refused else partial(RequestTimeout, DEADLINE_PASSED)
    bad |= {request: reason() for request in wanted if request in missing}
    if progress:
        progress(len(wanted), len(wanted))
    seconds = monotonic() - began
    workers.wait(CLOSE_SECONDS)
    if close():
        bad |= {request: Malformed(STRAYED) for request in good}
        good = {}
    for request, error in bad.items():
        error.channel, error.method = request.channel, request.method
    unmade = len(wanted) - len(good) - len(bad)
    return Snapshot(good, bad, now + timedelta(seconds=seconds), seconds, account_refused, unmade)


class _Run:
    """What the threads of a poll share; `end` is the deadline on the monotonic clock."""

    def __init__(self, fetch: Fetch, wanted: Sequence[Request], end: float) -> None:
        self._fetch = fetch
        self._order = iter(dict.fromkeys([*_probes(wanted), *wanted]))
        self._refusals: list[Request] = []
        self._turn = Condition()
        self._under_way = 0
        self.wanted = wanted
        self.end = end
        self.begun: dict[Request, float] = {}
        self.responses: dict[Request, Response] = {}
        self.failures: dict[Request, RequestError] = {}
        self.bugs: list[Exception] = []

    def refused(self) -> bool:
        return not self.responses and len(self._refusals) >= min(PROBES, len(self.wanted))

    def work(self) -> None:
        try:
            for request in self._order:
                with self._turn:
                    self._turn.wait_for(self._may_go_on, max(self.end - monotonic(), 0))
                    if monotonic() >= self.end or self.refused():
                        return
                    self._under_way += 1
                self._make(request)
                with self._turn:
                    self._under_way -= 1
                    self._turn.notify_all()
        except Exception as bug:  # noqa: BLE001 # raised again in the thread that polls, and ends the process
            self.bugs.append(bug)

    def _may_go_on(self) -> bool:
        return bool(self.responses) or self.refused() or self._under_way + len(self._refusals) < PROBES

    def _make(self, request: Request) -> None:
        self.begun[request] = monotonic()
        try:
            self.responses[request] = self._fetch(request, self.end)
        except RequestError as error:
            if monotonic() >= self.end:  # it was cut short
                return
            error.__traceback__ = error.__context__ = None  # they would keep the whole response in memory
            self.failures[request] = error
            if is_refusal(error):
                self._refusals.append(request)


def _probes(requests: Sequence[Request]) -> Iterator[Request]:
    """Return eight requests, or as many as there are, spread evenly over the methods and over the list of each."""
    lists = [some for method in Method if (some := [request for request in requests if request.method is method])]
    spread = enumerate(islice(cycle(lists), PROBES))
    return (each[len(each) * number // PROBES] for number, each in spread)
