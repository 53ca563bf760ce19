"""Whatever happens, and in whatever order: no counter falls, and after a day close the sums are the portal's."""

import tempfile
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from cc_textfile.ledger import ChannelTotals, Day, days
from cc_textfile.portal.responses import HttpCode, Method, Request, Response
from cc_textfile.portal.window import DAY, midnight
from tests.cdn import CODES, DAY_SETTLE, SETTLE, STEP, Cdn, answers, at, ledger

CHANNELS = ("1001", "1002", "1003")
FIGURES = {"traffic": "traffic_bytes", "hits": "hits", "misses": "misses"}
START = at("01 00:00")
END = START + timedelta(days=80)
IN_MEMORY = Path("/dev/shm")  # noqa: S108 # a commit waits for the disk, and that is not what is tested here


def recorded(day: Day, kind: str) -> int:
    return day.responses.get(kind, 0) if kind in CODES else getattr(day, FIGURES[kind]) or 0


def exported(totals: ChannelTotals) -> dict[str, int]:
    assert totals.traffic_bytes is not None
    return {
        "traffic": totals.traffic_bytes,
        "hits": totals.requests["hit"],
        "misses": totals.requests["miss"],
        **totals.responses,
    }


class LedgerModel(RuleBasedStateMachine):
    """A ledger, a CDN whose numbers are known, and a world in which everything fails but the program."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None)
        self.path = Path(self.folder.name) / "ledger.sqlite"
        self.clock = timedelta(0)
        self.channels = ["1001", "1002"]
        self.totals: dict[str, ChannelTotals] = {}
        self.shown: dict[tuple[str, str], int] = {}
        self.open_days: dict[tuple[str, datetime, str], int] = {}
        self.started: dict[str, datetime] = {}
        self.first_code_day: dict[str, datetime] = {}
        self.baselines: dict[str, dict[str, float] | None] = {}

    @initialize(minute=st.integers(0, 1439), days_back=st.sampled_from([1, 7]))
    def begin(self, minute: int, days_back: int) -> None:
        """Begin at any time of the day."""
        self.cdn = Cdn(START + timedelta(minutes=minute, seconds=17))
        self.catch_up = timedelta(days=days_back)

    def wait(self, time: timedelta) -> None:
        """Let time pass."""
        self.cdn.now = min(self.cdn.now + time, END)

    @rule(
        seconds=st.sampled_from([1, 59, 299, 300, 301, 900]) | st.integers(1, 7200),
        failing=st.sets(st.sampled_from(list(Method)), max_size=2) | st.just(set(Method)),
        answered=st.sampled_from([1.0, 1.0, 1.0, 0.7, 0.3]),
        crash=st.sampled_from([False, False, False, True]),
    )
    def poll_with_faults(self, seconds: int, failing: set[Method], answered: float, crash: bool) -> None:  # noqa: FBT001
        """Poll, with methods that fail, a deadline that cuts off the last requests, or a crash before the commit."""
        self.wait(timedelta(seconds=seconds))
        self.poll(failing=failing, answered=answered, crash=crash)

    @rule(times=st.integers(1, 12), minutes=st.sampled_from([1, 5, 5, 7, 60, 240]))
    def poll_undisturbed(self, times: int, minutes: int) -> None:
        """Poll a few times."""
        for _ in range(times):
            self.wait(timedelta(minutes=minutes))
            self.poll()

    @rule(hours=st.integers(1, 30) | st.sampled_from([50, 170, 250]))
    def be_off(self, hours: int) -> None:
        """Let the host be off."""
        self.wait(timedelta(hours=hours))

    @rule(seconds=st.integers(-1200, 8400))
    def wait_for_midnight(self, seconds: int) -> None:
        """Let the next poll come near a midnight or a day close."""
        moment = midnight(self.cdn.now) + DAY + timedelta(seconds=seconds)
        self.wait(max(moment - self.cdn.now, timedelta(0)))

    @rule(seconds=st.sampled_from([0, 0, 1, 61, 86400, -86400, -3600]) | st.integers(-86400, 86400))
    def set_clock(self, seconds: int) -> None:
        """Set the host's clock wrong, or right."""
        self.clock = timedelta(seconds=seconds)

    @rule(
        channel=st.sampled_from(CHANNELS),
        kind=st.sampled_from([*FIGURES, *CODES]),
        minutes=st.integers(1, 1500),
        share=st.sampled_from([-1.0, -0.5, -0.1, 0.5]),
        whole=st.booleans(),
    )
    def correct(self, channel: str, kind: str, minutes: int, share: float, whole: bool) -> None:  # noqa: FBT001
        """Let the portal correct a minute, or all of a day, that cannot have been closed yet."""
        time = self.cdn.now - timedelta(minutes=minutes)
        if self.cdn.now < midnight(time) + DAY + DAY_SETTLE:
            start = midnight(time) if whole else time
            before = self.cdn.truth(channel, kind, start, time + timedelta(minutes=1))
            self.cdn.correct(channel, kind, time, int(before * share))

    @rule(channel=st.sampled_from(CHANNELS))
    def change_channels(self, channel: str) -> None:
        """Add or remove a channel."""
        if channel in self.channels:
            self.channels.remove(channel)
        else:
            self.channels.append(channel)

    def poll(self, *, failing: AbstractSet[Method] = frozenset(), answered: float = 1.0, crash: bool = False) -> None:
        """Make one poll, and look at what it exports and what is recorded then."""
        with ledger(self.path, self.channels, catch_up=self.catch_up) as kept:
            wanted = kept.plan(self.cdn.now + self.clock)
            assert len(wanted) == len(set(wanted))
            if crash:
                return
            responses = answers(self.cdn, wanted[: round(len(wanted) * answered)], failing)
            totals = kept.record(responses, self.cdn.now + self.clock).channels
        by_channel: dict[str, list[Day]] = {name: [] for name in totals}
        for day in days(self.path, since=(START - 2 * DAY).date()):
            by_channel.setdefault(day.channel, []).append(day)
        for name, channel in totals.items():
            self.check_position(name, channel)
            self.note_baseline(name, channel, responses)
            self.check_days(name, channel, by_channel[name])
            self.check_counters(name, channel, by_channel[name])
        self.totals.update(totals)

    def check_position(self, name: str, now: ChannelTotals) -> None:
        """See that the position moves forward on the grid, never into unsettled time, and skips only old time."""
        before = self.totals.get(name)
        assert now.settled_end.timestamp() % STEP.total_seconds() == 0
        assert now.settled_end <= self.cdn.now - SETTLE
        if before is None:
            assert (now.settled_seconds, now.lost_seconds) == (0, 0)
            self.started[name] = now.settled_end
            self.first_code_day[name] = midnight(min(self.cdn.now.replace(microsecond=0), self.cdn.now + self.clock))
            return
        skipped = timedelta(seconds=now.lost_seconds - before.lost_seconds)
        assert skipped >= timedelta(0)
        assert not skipped or before.settled_end < self.cdn.now - self.catch_up
        elapsed = (now.settled_end - self.started[name]).total_seconds()
        assert before.settled_seconds <= now.settled_seconds
        assert elapsed - now.lost_seconds <= now.settled_seconds <= elapsed
        start, end = before.settled_end + skipped, now.settled_end
        assert start <= end <= midnight(start) + DAY
        for kind in FIGURES:
            key = (name, midnight(start), kind)
            self.open_days[key] = self.open_days.get(key, 0) + self.cdn.known(name, kind, start, end)

    def note_baseline(self, name: str, now: ChannelTotals, responses: dict[Request, Response]) -> None:
        """Remember what the channel's first day held when it was new; None when that cannot be told from outside."""
        day = self.first_code_day[name]
        for (channel, _, window), response in responses.items():
            if (channel, window.start) == (name, day) and isinstance(response, HttpCode) and name not in self.baselines:
                counts = {row.code: row.requests or 0.0 for row in response.codes}
                self.baselines[name] = counts if now.settled_end < day + DAY else None

    def check_days(self, name: str, now: ChannelTotals, recorded_days: list[Day]) -> None:
        """See that a closed day holds the portal's numbers, and an open one those of its stretches."""
        for day in recorded_days:
            start = midnight(at("01 00:00")) + (day.day - START.date())
            end = start + DAY
            if day.closed:
                for kind in FIGURES:
                    assert recorded(day, kind) == self.cdn.truth(name, kind, max(start, self.started[name]), end)
                for code in CODES:
                    self.check_code(name, code, start, day)
            elif end > now.settled_end and now.lost_seconds == 0:
                for kind in FIGURES:
                    assert recorded(day, kind) == self.open_days.get((name, start, kind), 0)

    def check_code(self, name: str, code: str, start: datetime, day: Day) -> None:
        """See that on a first day only what came after the channel was new is counted, and before it nothing."""
        truth = float(self.cdn.truth(name, code, start, start + DAY))
        first = self.first_code_day[name]
        if start < first:
            truth = 0
        elif start == first:
            baseline = self.baselines.get(name)
            if baseline is None:
                return
            truth = max(0, truth - baseline.get(code, 0))
        assert recorded(day, code) == truth

    def check_counters(self, name: str, now: ChannelTotals, recorded_days: list[Day]) -> None:
        """See that each series is 0 at first, and then the largest sum that all days ever had."""
        for kind, value in exported(now).items():
            total = sum(recorded(day, kind) for day in recorded_days)
            key = (name, kind)
            self.shown[key] = max(self.shown[key], total) if key in self.shown else 0
            assert value == self.shown[key]
            if kind == "traffic":
                assert now.overcounted_bytes == value - total
        missing = {code for channel, code in self.shown if channel == name} - exported(now).keys()
        assert not missing

    def teardown(self) -> None:
        """Let all be well again: everything is counted that was not skipped, and all days are closed."""
        try:
            if self.started:
                self.clock, self.channels = timedelta(0), list(self.started)
                self.cdn.now = midnight(self.cdn.now) + DAY + timedelta(hours=3)
                for _ in range(25):
                    self.cdn.now += STEP
                    self.poll()
                self.check_end()
        finally:
            self.folder.cleanup()

    def check_end(self) -> None:
        """See that nothing is lost and nothing is left to do."""
        today = midnight(self.cdn.now)
        closed = {(day.channel, day.day): day for day in days(self.path, since=START.date() - DAY) if day.closed}
        for name, channel in self.totals.items():
            assert self.cdn.now - SETTLE - STEP < channel.settled_end
            first = midnight(self.started[name])
            if channel.lost_seconds == 0:
                wanted = {(name, (first + n * DAY).date()) for n in range((today - first).days)}
                assert wanted <= closed.keys()
            yesterday = today - DAY
            if self.started[name] < today:
                assert channel.day
                assert channel.day.end == today
                rows = () if self.started[name] > yesterday else self.cdn.rows(name, yesterday)
                assert (channel.day.isps, channel.day.provinces, channel.day.countries) == (rows, rows, rows[:1])
                assert channel.day.traffic_bytes == closed[name, yesterday.date()].traffic_bytes


QUICK = settings(
    max_examples=20,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_nothing_is_lost_or_counted_twice() -> None:
    """Late and corrected data, outages, wrong clocks, crashes, changed channels: the sums come out, to the byte."""
    run_state_machine_as_test(LedgerModel, settings=QUICK)


@pytest.mark.slow
def test_nothing_is_lost_or_counted_twice_in_many_histories() -> None:
    """The same, for longer, and with other histories each time."""
    run_state_machine_as_test(
        LedgerModel, settings=settings(QUICK, max_examples=100, stateful_step_count=60, derandomize=False)
    )
