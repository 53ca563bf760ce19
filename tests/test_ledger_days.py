"""Thirty days of the real command, in a world where everything fails at some time: each byte is counted once.

The portal and the host's clock are simulated (`tests.simulation`); the command, its processes, its requests, its ledger
and its file are real. A portal that is down sends nonsense here: libfaketime breaks the sleep before a retry.
"""

import json
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from time import sleep

import pytest

from cc_textfile.demo.portal import DemoPortal
from cc_textfile.ledger import days
from cc_textfile.portal.responses import Method
from cc_textfile.portal.window import DAY, PORTAL_ZONE, midnight
from tests.simulation import CHANNELS, METHODS, Correction, Exported, Host, Series, World, exported, respond, settled

BEGIN = datetime(2026, 12, 1, 8, 7, 30, tzinfo=PORTAL_ZONE)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY_GAUGES = {"chinacache_day_end_timestamp_seconds", "chinacache_day_traffic_bytes"}
LONGEST_CATCH_UP = 15
"""Polls after which all is counted, and all days are closed, whatever was before."""


class Month:
    """Polls through so many days, looks at each file, and compares with the portal when a day is closed."""

    def __init__(self, host: Host, portal: DemoPortal, methods: set[Method], chance: random.Random) -> None:
        self.host, self.world, self.portal = host, host.world, portal
        self.methods = methods
        self.chance = chance
        self.seen: dict[Series, float] = {}
        self.started: dict[str, datetime] = {}
        self.was_killed = False
        self.days = self.kill_at_request = 0
        self.failing: set[Method] = set()
        self.failure = "malformed"
        self.overcounted = 0.0
        self.steps: dict[str, tuple[object, tuple[datetime, float]]] = {}
        self.world.fault = self.fault

    def fault(self, method: Method, _channel: str) -> str | None:
        """Let the portal fail, or the program be killed, at a request."""
        self.kill_at_request -= 1
        if self.kill_at_request == 0:
            self.host.kill()
        return self.failure if method in self.failing else None

    def poll(self, time: datetime, *, once: bool = False) -> None:
        """Poll at a time, and look at the file."""
        self.world.now = time
        if once:
            before = self.portal.requests
            status = self.host.run().returncode
            assert status == (1 if self.failing >= self.methods and self.portal.requests > before else 0)
        else:
            assert "wrote" in self.host.poll()
        self.look()
        self.was_killed = False

    def killed_poll(self, time: datetime) -> None:
        """Poll at a time, and kill the program at one of its requests, or some time after it was told to poll."""
        self.world.now = time
        was_running = self.host.loop is not None
        if self.chance.random() < 0.5:
            self.kill_at_request = self.chance.randint(1, 2 * len(self.methods))
            self.host.begin_poll()
            self.host.wait()
            self.kill_at_request = 0
        else:
            self.host.begin_poll()
            sleep(self.chance.uniform(0, 0.06 if was_running else 0.6))
        self.host.stop()
        self.was_killed = True
        if self.host.textfile.exists():
            self.look()

    def look(self) -> Exported:
        """See that no counter fell or is missing, that each began with 0, and that no time is counted too early."""
        found = exported(self.host.textfile)
        for series, value in found.counters.items():
            if series in self.seen:
                assert value >= self.seen[series], f"{series} fell"
            elif not self.was_killed:
                assert value == 0, f"{series} began with {value}"
        assert self.seen.keys() <= found.counters.keys()
        self.seen = found.counters
        for channel in CHANNELS:
            end = self.settled_end(found, channel)
            self.started.setdefault(channel, end)
            assert end <= settled(self.world.now)
            assert found.value("cc_textfile_ledger_lost_seconds_total", channel) == 0
            counted = found.value("chinacache_settled_seconds_total", channel)
            assert counted == (end - self.started[channel]).total_seconds()
            if Method.ISP in self.methods:
                self.look_at_step(found, channel)
        return found

    def look_at_step(self, found: Exported, channel: str) -> None:
        """See that a poll that closed no day counted what the portal knew of the time by which the position moved."""
        overcounted = found.value("chinacache_overcounted_bytes", channel)
        self.overcounted = max(self.overcounted, overcounted)
        day = [v for (name, labels), v in found.gauges.items() if name in DAY_GAUGES and ("channel", channel) in labels]
        step = self.settled_end(found, channel), found.value("chinacache_traffic_bytes_total", channel) - overcounted
        before, (start, counted) = self.steps.get(channel, (day, step))
        if day == before and not self.was_killed:
            assert step[1] - counted == self.world.known(channel, start, step[0])["traffic"]
        self.steps[channel] = day, step

    def settled_end(self, found: Exported, channel: str) -> datetime:
        """Return a channel's position."""
        seconds = found.value("cc_textfile_ledger_settled_end_timestamp_seconds", channel)
        return datetime.fromtimestamp(seconds, PORTAL_ZONE)

    def close(self, time: datetime) -> None:
        """Poll until yesterday is closed and all is counted, and compare with what the portal knows."""
        today = midnight(time)
        for number in range(LONGEST_CATCH_UP):
            self.poll(time + number * 5 * MINUTE)
            found = self.look()
            recorded = days(self.host.ledger, since=BEGIN.date())
            is_closed = all(day.closed for day in recorded if day.day < today.date())
            if is_closed and all(self.settled_end(found, name) == settled(self.world.now) for name in CHANNELS):
                break
        else:
            pytest.fail(f"not all was counted and closed {LONGEST_CATCH_UP} polls after {time}")
        self.days += 1
        for channel in CHANNELS:
            self.compare(found, channel)
            self.compare_day(found, channel, today)

    def compare(self, found: Exported, channel: str) -> None:
        """See that the counters are what the portal knows of the time counted; what it withdrew is shown."""
        truth = self.world.truth(channel, self.started[channel], self.settled_end(found, channel))
        if Method.ISP in self.methods:
            bytes_counted = found.value("chinacache_traffic_bytes_total", channel)
            assert bytes_counted - found.value("chinacache_overcounted_bytes", channel) == truth["traffic"]
        if Method.HIT_RATE in self.methods:
            for result in ("hit", "miss"):
                self.is_sum(found, channel, truth[result], "chinacache_requests_total", result=result)
        if Method.HTTP_CODE in self.methods:
            truth = self.world.truth(channel, BEGIN, self.world.now)
            for code in {code for code in truth.keys() - METHODS.keys() if truth[code]}:
                self.is_sum(found, channel, truth[code], "chinacache_responses_total", code=code)
        names = {name for name, _ in found.counters}
        assert ("chinacache_traffic_bytes_total" in names) == (Method.ISP in self.methods)
        assert ("chinacache_requests_total" in names) == (Method.HIT_RATE in self.methods)
        assert ("chinacache_responses_total" in names) == (Method.HTTP_CODE in self.methods)

    def is_sum(self, found: Exported, channel: str, truth: int, name: str, **labels: str) -> None:
        """See that a counter has its sum, unless the portal has withdrawn something and it has not caught up yet."""
        yesterday = midnight(self.world.now) - DAY
        withdrawn = any(correction.sign < 0 and correction.end > yesterday for correction in self.world.corrections)
        value = found.value(name, channel, **labels)
        assert value >= truth if withdrawn else value == truth, (name, channel, labels)

    def compare_day(self, found: Exported, channel: str, today: datetime) -> None:
        """See that the gauges of the last closed day are the portal's."""
        assert found.value("chinacache_day_end_timestamp_seconds", channel) == today.timestamp()
        start = max(today - DAY, self.started[channel])
        if Method.ISP in self.methods:
            traffic = self.world.truth(channel, start, today)["traffic"]
            assert found.value("chinacache_day_traffic_bytes", channel) == traffic
        if start != today - DAY:
            return
        query = {"channelIds": channel, "startTime": f"{start:%Y%m%d%H%M}", "endTime": f"{today:%Y%m%d%H%M}"}
        for method, field, name in (
            (Method.ISP, "isps", "chinacache_day_isp_hits"),
            (Method.REGION, "provinces", "chinacache_day_province_hits"),
            (Method.REGION, "states", "chinacache_day_country_hits"),
        ):
            if method in self.methods:
                hits = sorted(row["hitCount"] for row in respond(method, query, today)[field])
                shown = [v for (n, labels), v in found.gauges.items() if n == name and ("channel", channel) in labels]
                assert sorted(shown) == hits, name


def times(chance: random.Random, day: datetime) -> Iterator[datetime]:
    """Return times of polls from a day's morning to the next day's: many around midnight, some at any time."""
    yield from sorted(day + timedelta(seconds=chance.randrange(9 * 3600, 23 * 3600)) for _ in range(8))
    evening = day + 23 * HOUR + 44 * MINUTE + timedelta(seconds=59)
    yield from (evening + n * 5 * MINUTE for n in (0, 1, 3))
    next_day = day + DAY
    yield from (next_day + timedelta(seconds=n) for n in (0, 299, 900, 1230, 7199))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "flags", "methods"),
    [
        (30, [], set(Method)),
        (6, ["--no-gauges"], set(Method)),
        (6, ["--methods", "isp,http_code"], {Method.ISP, Method.HTTP_CODE}),
        (6, ["--methods", "hit_rate", "--no-gauges"], {Method.HIT_RATE}),
    ],
)
def test_each_byte_of_thirty_days_is_counted_once(
    number: int, flags: list[str], methods: set[Method], in_memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outages, kills, a host that is off, wrong clocks, late and corrected data: 0 bytes lost, 0 counted twice."""
    chance = random.Random(str(flags))  # noqa: S311 # must be the same days each time
    world = World(BEGIN)
    world.new_codes = {"502": midnight(BEGIN) + 2 * DAY, "500": midnight(BEGIN) + 5 * DAY}
    with world.serving(monkeypatch) as portal:
        host = Host(world, portal, in_memory, *flags)
        month = Month(host, portal, methods, chance)
        try:
            month.poll(BEGIN)
            for day in range(number):
                one_day(month, midnight(BEGIN) + day * DAY, day)
        finally:
            host.stop()
    assert month.days >= 0.7 * number
    assert (month.overcounted > 0) == (Method.ISP in methods)
    found = exported(host.textfile)
    rows = json.loads(host.run("report", "--ledger", str(host.ledger), "--days", "40", "--format", "json").stdout)
    for channel in CHANNELS:
        counted = [row for row in rows if row["channel"] == channel]
        assert [row["closed"] for row in counted] == [True] * number + [False]
        assert found.value("chinacache_settled_seconds_total", channel) > (number - 0.5) * DAY.total_seconds()
        if Method.ISP in methods:
            assert found.value("chinacache_overcounted_bytes", channel) == 0
            total = sum(row["traffic_bytes"] for row in counted)
            assert found.value("chinacache_traffic_bytes_total", channel) == total


def one_day(month: Month, day: datetime, number: int) -> None:
    """Poll from a day's morning until it is closed, with the events of the day."""
    world, chance, host = month.world, month.chance, month.host
    polls = list(times(chance, day))
    host_is_off = number in {11, 12}
    portal_is_down = number in {6, 7, 8}
    # Late: no data from before midnight until after it, and for a hundred minutes of the day.
    world.stalls = [(day + 10 * HOUR, day + 10 * HOUR + 100 * MINUTE)]
    world.stalls.append((day + 22 * HOUR + 40 * MINUTE, day + DAY + 20 * MINUTE))
    if number % 3 != 2:
        start = day + chance.randint(9 * 60, 12 * 60) * MINUTE
        known = day + chance.choice([21 * HOUR, DAY + 90 * MINUTE])
        withdrawn = number < 25 and number % 3 == 1
        # More is withdrawn than comes late.
        length, sign = (8 * HOUR, -1) if withdrawn else (40 * MINUTE, 1)
        world.corrections.append(Correction(known, start, start + length, sign))
    # A clock is wrong from noon on, over midnight.
    wrong = {3: HOUR, 5: -HOUR, 14: DAY, 16: -DAY, 18: 7 * MINUTE, 20: -3 * DAY, 22: 3 * DAY}.get(number, timedelta(0))
    outage = chance.randint(0, len(polls) - 6)
    hours = range(outage, outage + chance.randint(1, 5))
    killed = chance.randrange(len(polls))
    single = set(chance.sample(range(len(polls)), 3)) if number % 4 == 0 else ()
    for place, time in enumerate(polls):
        host.wrong = wrong if time > day + 12 * HOUR else timedelta(0)
        if host_is_off or time < world.now:
            continue
        month.failing, month.failure = set(), chance.choice(["malformed", "refused"])
        if portal_is_down or (place in hours and number % 2):
            month.failing = set(Method)
        elif place in hours:
            month.failing = {chance.choice(sorted(month.methods))}
        if place == killed:
            month.killed_poll(time)
        else:
            month.poll(time, once=place in single)
    month.failing, host.wrong = set(), timedelta(0)
    if not host_is_off and not portal_is_down:
        month.close(day + DAY + 2 * HOUR + chance.randint(0, 299) * timedelta(seconds=1))
