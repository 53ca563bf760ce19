"""What a ledger requests, counts and shows, and what it does when its file cannot be used."""

import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from cc_textfile.errors import LedgerError
from cc_textfile.ledger import ClosedDay, Day, days
from cc_textfile.ledger.past import Past
from cc_textfile.portal.responses import HitRate, HttpCode, Isp, Method, Request, Response, StatusCode
from cc_textfile.portal.window import DAY, Window, midnight
from cc_textfile.settings import Settings
from tests.cdn import CODES, SETTLE, STEP, Cdn, answers, at, ledger, poll, polls
from tests.conftest import POWERLESS, ROOT, Program, needs_root, tool

FIXTURE = ROOT / "tests" / "ledgers" / "schema-1.sqlite"
ISP, HIT_RATE, REGION, HTTP_CODE = Method.ISP, Method.HIT_RATE, Method.REGION, Method.HTTP_CODE


@pytest.fixture
def path(in_memory: Path) -> Path:
    return in_memory / "ledger.sqlite"


@pytest.fixture
def cdn() -> Cdn:
    return Cdn(at("03 14:02:30"))


def plan(kept: Path, cdn: Cdn, **options: object) -> list[tuple[str, str, str]]:
    """Return what would be requested now: method, start and end."""
    with ledger(kept, **options) as open_ledger:  # type: ignore[arg-type]
        return [
            (request.method.value, f"{request.window.start:%d %H:%M}", f"{request.window.end:%d %H:%M}")
            for request in open_ledger.plan(cdn.now)
        ]


# What is requested


def test_a_new_channel_begins_at_the_latest_settled_step(path: Path, cdn: Cdn) -> None:
    """Nothing before it is counted, its counters are 0, and all that is requested is what its day already holds."""
    assert plan(path, cdn) == [("http_code", "03 00:00", "04 00:00")]
    channel = poll(cdn, ledger(path)).channels["1001"]
    assert channel.settled_end == at("03 13:45")
    assert (channel.settled_seconds, channel.lost_seconds) == (0, 0)
    assert (channel.traffic_bytes, channel.overcounted_bytes) == (0, 0)
    assert channel.requests == {"hit": 0, "miss": 0}
    assert channel.responses == dict.fromkeys(CODES, 0)
    assert channel.day is None


def test_windows_follow_each_other_on_the_grid(path: Path, cdn: Cdn) -> None:
    """Each stretch begins where the one before ended, and ends with the latest settled step."""
    poll(cdn, ledger(path))
    cdn.now = at("03 14:04:59")
    assert plan(path, cdn) == [("http_code", "03 00:00", "04 00:00")]
    cdn.now = at("03 14:05:00")
    assert plan(path, cdn)[:2] == [("hit_rate", "03 13:45", "03 13:50"), ("isp", "03 13:45", "03 13:50")]
    poll(cdn, ledger(path))
    cdn.now = at("03 14:31:00")
    assert plan(path, cdn)[:2] == [("hit_rate", "03 13:50", "03 14:15"), ("isp", "03 13:50", "03 14:15")]


def test_after_an_outage_a_day_is_one_request_and_midnight_a_border(path: Path, cdn: Cdn) -> None:
    """The rest of the day of the outage comes first, then whole days, one in each poll."""
    poll(cdn, ledger(path))
    cdn.now = at("05 10:01")
    stretches = []
    for _ in range(3):
        stretches.append(next(request[1:] for request in plan(path, cdn) if request[0] == "isp"))
        poll(cdn, ledger(path))
    assert stretches == [("03 13:45", "04 00:00"), ("04 00:00", "05 00:00"), ("05 00:00", "05 09:45")]


def test_day_closes_come_last_and_who_is_behind_comes_first(path: Path, cdn: Cdn) -> None:
    """A deadline that cuts requests off does not always hit the same channel; the oldest day is closed first."""
    polls(cdn, path, at("04 00:30"), channels=("1001", "1002"))
    polls(cdn, path, at("04 01:59"), channels=("1001",))
    cdn.now = at("04 02:01")
    poll(cdn, ledger(path, ("1001",)), failing=[REGION])
    cdn.now = at("05 02:30")
    poll(cdn, ledger(path, ("1001",)), failing=[REGION])
    with ledger(path, ("1001", "1002")) as kept:
        wanted = [(r.channel, r.method.value, f"{r.window.start:%d %H:%M}") for r in kept.plan(cdn.now)]
    assert wanted == [
        *[("1002", "hit_rate", "04 00:15"), ("1002", "isp", "04 00:15"), ("1002", "http_code", "05 00:00")],
        *[("1001", "hit_rate", "05 00:00"), ("1001", "isp", "05 00:00"), ("1001", "http_code", "05 00:00")],
        *[("1002", "hit_rate", "03 13:45"), ("1002", "http_code", "03 00:00"), ("1002", "isp", "03 13:45")],
        *[("1001", "hit_rate", "04 00:00"), ("1001", "http_code", "04 00:00"), ("1001", "isp", "04 00:00")],
        ("1001", "region", "04 00:00"),
    ]
    with ledger(path, ("1001", "1002"), methods=[ISP]) as kept:
        assert {request.method for request in kept.plan(cdn.now)} == {ISP}


@pytest.mark.parametrize(
    ("methods", "wanted"),
    [
        ([ISP], [("isp", "03 13:45", "03 13:50")]),
        ([HIT_RATE, REGION], [("hit_rate", "03 13:45", "03 13:50")]),
        ([HTTP_CODE], [("http_code", "03 00:00", "04 00:00")]),
        ([REGION], []),
    ],
)
def test_the_position_follows_what_is_asked(
    path: Path, cdn: Cdn, methods: list[Method], wanted: list[tuple[str, str, str]]
) -> None:
    """A method that is not asked is neither counted nor waited for."""
    poll(cdn, ledger(path, methods=methods))
    cdn.now = at("03 14:05")
    assert plan(path, cdn, methods=methods) == wanted
    poll(cdn, ledger(path, methods=methods))
    cdn.now = at("03 14:10")
    channel = poll(cdn, ledger(path, methods=methods)).channels["1001"]
    assert channel.settled_end == at("03 13:55")
    assert channel.settled_seconds == 600
    assert (channel.traffic_bytes is None) == (channel.overcounted_bytes is None) == (ISP not in methods)
    assert set(channel.requests) == ({"hit", "miss"} if HIT_RATE in methods else set())
    assert set(channel.responses) == (set(CODES) if HTTP_CODE in methods else set())


def test_with_status_codes_alone_the_position_waits_for_them(path: Path, cdn: Cdn) -> None:
    """When `http_code` is all that is asked and it fails, nothing has been counted."""
    poll(cdn, ledger(path, methods=[HTTP_CODE]))
    cdn.now = at("03 15:00")
    totals = poll(cdn, ledger(path, methods=[HTTP_CODE]), failing=[HTTP_CODE])
    assert totals.channels["1001"].settled_end == at("03 13:45")


def test_a_method_that_is_new_is_shown_as_0_first(path: Path, cdn: Cdn) -> None:
    """What the same poll has counted of it is shown by the next one, and is no overcount until then."""
    poll(cdn, ledger(path, methods=[HIT_RATE]))
    cdn.now = at("03 14:05")
    first, second = (poll(cdn, ledger(path, methods=[HIT_RATE, ISP])).channels["1001"] for _ in range(2))
    assert (first.traffic_bytes, first.overcounted_bytes) == (0, 0)
    assert second.traffic_bytes == cdn.known("1001", "traffic", at("03 13:45"), at("03 13:50"))


def test_a_first_value_that_was_not_delivered_is_shown_again(path: Path, cdn: Cdn) -> None:
    """What was counted meanwhile comes after it; and what another process has recorded since then stays."""
    for _ in range(2):
        kept = ledger(path)
        poll(cdn, kept)
        kept.not_delivered()
        cdn.now += STEP
    again, after = (poll(cdn, ledger(path)).channels["1001"] for _ in range(2))
    assert (again.traffic_bytes, again.requests["hit"], again.responses["200"], again.settled_seconds) == (0, 0, 0, 0)
    assert after.traffic_bytes == cdn.known("1001", "traffic", at("03 13:45"), at("03 13:55")) > 0
    assert after.settled_seconds == 600
    kept.not_delivered()
    assert poll(cdn, ledger(path)).channels["1001"].traffic_bytes == after.traffic_bytes


def test_a_channel_that_was_shown_before_does_not_begin_again(path: Path, cdn: Cdn) -> None:
    """When a poll is not delivered, only what it would have shown for the first time is 0 at the next."""
    polls(cdn, path, at("03 14:20"))
    both = ("1001", "1002")
    failed = ledger(path, both)
    before = poll(cdn, failed).channels["1001"]
    failed.not_delivered()
    after = poll(cdn, ledger(path, both)).channels
    assert before.traffic_bytes
    assert after["1001"].traffic_bytes == before.traffic_bytes
    assert after["1002"].traffic_bytes == 0


def test_a_method_that_is_asked_again_goes_on_where_it_stood(path: Path, cdn: Cdn) -> None:
    """Its counter was not exported in between, and the day close counts the day as a whole."""
    before = polls(cdn, path, at("04 06:00")).channels["1001"]
    without = polls(cdn, path, at("04 08:00"), methods=[HIT_RATE]).channels["1001"]
    assert without.traffic_bytes is None
    assert without.responses == {}
    after = poll(cdn, ledger(path)).channels["1001"]
    assert after.traffic_bytes == before.traffic_bytes
    end = polls(cdn, path, at("05 03:00")).channels["1001"]
    today = days(path, since=at("05 00:00").date())[0]
    truth = cdn.truth("1001", "traffic", at("03 13:45"), at("05 00:00"))
    assert end.traffic_bytes == truth + (today.traffic_bytes or 0)


def test_a_day_stays_open_while_a_method_that_it_counted_is_not_asked(path: Path, cdn: Cdn) -> None:
    """Its number is not the portal's for the whole day; the day is closed when the method is asked again."""
    polls(cdn, path, at("04 12:00"))
    polls(cdn, path, at("05 03:00"), methods=[HIT_RATE])
    assert not days(path, since=at("04 00:00").date())[0].closed
    polls(cdn, path, at("05 04:00"))
    day = days(path, since=at("04 00:00").date())[0]
    assert day.closed
    assert day.traffic_bytes == cdn.truth("1001", "traffic", at("04 00:00"), at("05 00:00"))


# What is counted


def test_a_stretch_is_counted_once_and_as_a_whole(path: Path, cdn: Cdn) -> None:
    """Both responses or neither: a poll in which one method fails counts nothing, and the next one counts it all."""
    poll(cdn, ledger(path))
    cdn.now = at("03 14:31")
    for method in (ISP, HIT_RATE):
        channel = poll(cdn, ledger(path), failing=[method]).channels["1001"]
        assert (channel.settled_seconds, channel.traffic_bytes, channel.requests["hit"]) == (0, 0, 0)
    first, second = (poll(cdn, ledger(path)).channels["1001"] for _ in range(2))
    start, end = at("03 13:45"), at("03 14:15")
    assert first.traffic_bytes == second.traffic_bytes == cdn.known("1001", "traffic", start, end)
    assert first.requests == {
        kind: cdn.known("1001", key, start, end) for kind, key in (("hit", "hits"), ("miss", "misses"))
    }
    assert first.settled_seconds == 1800


@pytest.mark.parametrize(
    "response",
    [
        HitRate(hits=None, misses=1.0),
        HitRate(hits=1.0, misses=None),
        HitRate(hits=2.0**53, misses=1.0),
        Isp(total_bytes=None, isps=()),
        Isp(total_bytes=1e300, isps=()),
    ],
)
def test_a_number_that_cannot_be_read_is_not_zero(path: Path, cdn: Cdn, response: Response) -> None:
    """A response that lacks a number that is counted is requested again."""
    poll(cdn, ledger(path))
    cdn.now = at("03 14:06")
    for number in range(2):
        with ledger(path) as kept:
            responses = answers(cdn, kept.plan(cdn.now))
            for request in responses:
                if type(responses[request]) is type(response) and number == 0:
                    responses[request] = response
            channel = kept.record(responses, cdn.now).channels["1001"]
        assert channel.settled_seconds == number * 300


def test_what_the_portal_knew_too_early_is_not_counted(path: Path, cdn: Cdn) -> None:
    """With a clock that is ahead, and stays so, only what the portal's clock calls settled is counted, and that is."""
    poll(cdn, ledger(path))
    ahead = timedelta(hours=5, minutes=3)
    for _ in range(20):
        cdn.now += STEP
        channel = poll(cdn, ledger(path), clock=ahead).channels["1001"]
        assert channel.settled_end <= cdn.now - SETTLE
    assert channel.settled_end > cdn.now - SETTLE - STEP
    assert at("03 13:45") + timedelta(seconds=channel.settled_seconds) == channel.settled_end
    for _ in range(2):
        cdn.now += STEP
        channel = poll(cdn, ledger(path)).channels["1001"]
    assert channel.settled_end > cdn.now - SETTLE - STEP


def test_a_clock_that_is_a_second_ahead_at_each_step_does_not_stop_the_counting(path: Path) -> None:
    """A timer polls in the first second of a step; the portal calls that the last second of the step before."""
    cdn = Cdn(at("03 13:59:59.700"))
    for _ in range(12):
        channel = poll(cdn, ledger(path), clock=timedelta(seconds=1)).channels["1001"]
        cdn.now += STEP
    assert channel.settled_end >= cdn.now - SETTLE - 3 * STEP


def test_a_clock_that_is_behind_counts_later_and_nothing_twice(path: Path, cdn: Cdn) -> None:
    """A host with the time of yesterday requests yesterday's status codes; they are not counted again."""
    before = polls(cdn, path, at("05 10:00"), every=timedelta(hours=1)).channels["1001"]
    recorded = days(path, since=at("01 00:00").date())
    assert [day.closed for day in recorded] == [True, True, False]
    for back in (DAY, 4 * DAY):
        behind = poll(cdn, ledger(path), clock=-back).channels["1001"]
        assert behind.settled_end == before.settled_end
        assert behind.responses == before.responses
        assert days(path, since=at("01 00:00").date()) == recorded
    cdn.now = at("06 03:00")
    for _ in range(3):
        after = poll(cdn, ledger(path)).channels["1001"]
    recorded = days(path, since=at("05 00:00").date())
    assert recorded[0].traffic_bytes == cdn.truth("1001", "traffic", at("05 00:00"), at("06 00:00"))
    assert after.responses["404"] == sum(day.responses["404"] for day in days(path, since=at("03 00:00").date()))


def test_without_a_response_no_channel_begins(path: Path, cdn: Cdn) -> None:
    """Nobody knows what time it is then; a host whose clock says 1970 must not have lost 56 years later."""
    assert poll(cdn, ledger(path), failing=list(Method), clock=timedelta(days=-20000)).channels == {}
    assert poll(cdn, ledger(path)).channels["1001"].settled_end == at("03 13:45")


# Status codes


def codes(channel: str, day: Window, **counts: float | None) -> tuple[Request, HttpCode]:
    rows = tuple(StatusCode(name.strip("_"), count, 1.0, 12.5) for name, count in counts.items())
    return Request(channel, HTTP_CODE, day), HttpCode(codes=rows)


def record_codes(path: Path, cdn: Cdn, **counts: float | None) -> dict[str, int]:
    cdn.now += STEP
    with ledger(path, methods=[HTTP_CODE]) as kept:
        kept.plan(cdn.now)
        today = Window(cdn.now, cdn.now).days
        return dict(kept.record(dict([codes("1001", today, **counts)]), cdn.now).channels["1001"].responses)


def test_what_a_day_held_when_the_channel_was_new_is_not_counted(path: Path, cdn: Cdn) -> None:
    """Counting begins with the channel; a code that the portal withdraws below that mark counts as none."""
    assert record_codes(path, cdn, _200=1000.0, _404=50.0) == {"200": 0, "404": 0}
    assert record_codes(path, cdn, _200=1100.0, _404=40.0) == {"200": 100, "404": 0}
    assert days(path, since=cdn.now.date())[0].responses == {"200": 100, "404": 0}
    assert record_codes(path, cdn, _200=1200.0, _404=51.0) == {"200": 200, "404": 1}


@pytest.mark.parametrize(
    "bits",
    [
        "UPDATE channels SET figures = replace(figures, 'hits', 'hitr')",
        "UPDATE channels SET settled_end = CAST(settled_end AS BLOB)",
        "UPDATE channels SET figures = '[]'",
        "UPDATE channels SET codes = '[1]'",
        "UPDATE channels SET codes = replace(hex(zeroblob(5000)), '00', '[[')",
        "UPDATE ledger SET created = 1000000000000000",
        "DELETE FROM ledger",
        "INSERT INTO closed VALUES ('1001', 'isp', 1, 'x', '[[]]')",
        "INSERT INTO closed VALUES ('1001', 'isp', 1, 1, '[1]')",
        """INSERT INTO closed VALUES ('1001', 'isp', 1, 1, '[[["x", "1", 1, 1]]]')""",
        """UPDATE days SET codes = '{"200": "1"}'""",
        """UPDATE days SET baseline = '{"200": "1"}'""",
        "UPDATE days SET seconds = 'x'",
        """PRAGMA writable_schema = ON;
        UPDATE sqlite_schema SET sql = replace(sql, 'figures', 'figur' || CAST(x'e5' AS TEXT) || 's')""",
    ],
)
def test_bits_that_have_changed_where_sqlite_does_not_notice(path: Path, cdn: Cdn, bits: str) -> None:
    """The file is damaged, as one that SQLite cannot read, and stays as it is."""
    poll(cdn, ledger(path))
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(bits)
    content = path.read_bytes()
    cdn.now += STEP
    with pytest.raises(LedgerError, match="it is damaged"):
        poll(cdn, ledger(path))
    assert path.read_bytes() == content


def test_a_bug_is_not_taken_for_damage(path: Path, cdn: Cdn) -> None:
    """It is raised as it is: the advice for a damaged file would cost the counters."""
    with ledger(path, methods=[HTTP_CODE]) as kept:
        (request,) = kept.plan(cdn.now)
        wrong = StatusCode("200", "many", 1.0, 1.0)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            kept.record({request: HttpCode(codes=(wrong,))}, cdn.now)


@pytest.mark.usefixtures("no_working_directory")
def test_a_relative_path_when_the_working_directory_is_gone() -> None:
    """It is a ledger that cannot be used, as in any other folder that is gone."""
    with (
        ledger(Path("ledger.sqlite")) as kept,
        pytest.raises(LedgerError, match=r"ledger\.sqlite cannot be used: No such file or directory"),
    ):
        kept.plan(at("03 14:02"))


def test_a_new_code_is_shown_as_0_first(path: Path, cdn: Cdn) -> None:
    """`increase()` sees nothing of a series that begins with its first value."""
    record_codes(path, cdn, _200=1000.0)
    assert record_codes(path, cdn, _200=1001.0, _503=7.0) == {"200": 1, "503": 0}
    assert record_codes(path, cdn, _200=1002.0, _503=7.0) == {"200": 2, "503": 7}


def test_a_code_that_falls_stands_still(path: Path, cdn: Cdn) -> None:
    """A counter that falls by a little makes `increase()` a hundred times too large."""
    record_codes(path, cdn, _200=0.0)
    assert record_codes(path, cdn, _200=100.0) == {"200": 100}
    assert record_codes(path, cdn) == {"200": 100}
    assert record_codes(path, cdn, _200=90.0) == {"200": 100}
    assert record_codes(path, cdn, _200=103.0) == {"200": 103}


def test_a_code_that_the_portal_withdraws_is_not_counted(path: Path, cdn: Cdn) -> None:
    """What is missing in a later response is 0 there; the counter stands until the sum has caught up."""
    record_codes(path, cdn, _200=0.0)
    record_codes(path, cdn, _200=100.0, _503=7.0)
    assert record_codes(path, cdn, _200=100.0)["503"] == 0
    assert days(path, since=cdn.now.date())[0].responses == {"200": 100, "503": 0}
    assert record_codes(path, cdn, _200=100.0, _503=8.0)["503"] == 8


def test_a_count_that_cannot_be_read_leaves_its_code_alone(path: Path, cdn: Cdn) -> None:
    """It is neither 0 nor, when the channel is new, all that comes later."""
    record_codes(path, cdn, _200=1000.0, _404=None)
    assert record_codes(path, cdn, _200=1010.0, _404=5000.0) == {"200": 10, "404": 0}
    assert record_codes(path, cdn, _200=None, _404=5001.0) == {"200": 10, "404": 1}
    assert record_codes(path, cdn, _200=1011.0, _404=2.0**53) == {"200": 11, "404": 1}


def test_a_row_without_a_name_may_be_of_any_code(path: Path, cdn: Cdn) -> None:
    """What no row names is not 0 then: neither withdrawn, nor new when a later response names it."""
    today = Window(cdn.now, cdn.now).days

    def record(unnamed: int, **counts: float) -> dict[str, int]:
        request, response = codes("1001", today, **counts)
        assert isinstance(response, HttpCode)
        with ledger(path, methods=[HTTP_CODE]) as kept:
            kept.plan(cdn.now)
            answer = replace(response, dropped_rows=unnamed, is_whole=not unnamed)
            return dict(kept.record({request: answer}, cdn.now).channels["1001"].responses)

    record(1, _404=5.0)
    record(0, _200=9000.0, _404=5.0)
    assert record(0, _200=9100.0, _404=6.0) == {"200": 100, "404": 1}
    assert record(1, _404=7.0) == {"200": 100, "404": 2}
    assert days(path, since=cdn.now.date())[0].responses == {"200": 100, "404": 2}
    assert record(0, _200=9300.0, _404=7.0) == {"200": 300, "404": 2}


def test_a_sum_that_is_no_number_is_not_exported(path: Path, cdn: Cdn) -> None:
    """Two rows of one code can come to more than a number can be."""
    poll(cdn, ledger(path, methods=[HTTP_CODE]))
    with ledger(path, methods=[HTTP_CODE]) as kept:
        (request,) = kept.plan(cdn.now)
        rows = (StatusCode("200", 1e308, 1.0, 1e308), StatusCode("200", 1e308, 1.0, 1e308))
        channel = kept.record({request: HttpCode(codes=rows)}, cdn.now).channels["1001"]
    assert channel.code_traffic_ratio == {}


def test_two_rows_of_one_code_are_added_unless_one_cannot_be_read(path: Path, cdn: Cdn) -> None:
    """A partial sum would pass for the whole, in counts and in ratios."""
    rows = [
        *(("200", 10.0, 30.0), ("200", 20.0, 20.0)),
        *(("404", 1.0, 10.0), ("404", None, None)),
        *(("503", 1.0, None), ("503", 1.0, 1.0)),
    ]
    poll(cdn, ledger(path, methods=[HTTP_CODE]), failing=[HTTP_CODE])
    record_codes(path, cdn)
    cdn.now = at("04 00:30")
    for _ in range(2):
        with ledger(path, methods=[HTTP_CODE]) as kept:
            (request,) = kept.plan(cdn.now)
            answer = HttpCode(codes=tuple(StatusCode(code, count, 1.0, flux) for code, count, flux in rows))
            channel = kept.record({request: answer}, cdn.now).channels["1001"]
    assert channel.responses == {"200": 30, "503": 2}
    assert channel.code_traffic_ratio == {"200": 0.5}


def test_ratios_are_those_of_this_poll(path: Path, cdn: Cdn) -> None:
    """A ratio that the portal did not give is not exported."""
    assert set(poll(cdn, ledger(path)).channels["1001"].code_traffic_ratio.values()) == {0.25}
    assert poll(cdn, ledger(path), failing=[HTTP_CODE]).channels["1001"].code_traffic_ratio == {}


# Day close


def test_a_day_close_replaces_what_was_recorded(path: Path, cdn: Cdn) -> None:
    """Late data and corrections arrive; the day has the rows of the portal, and the counters what was missing."""
    polls(cdn, path, at("05 00:30"))
    cdn.correct("1001", "traffic", at("04 12:00"), by=1_000_000_000)
    before = polls(cdn, path, at("05 01:59")).channels["1001"]
    assert before.day
    assert before.day.end == at("04 00:00")
    cdn.now = at("05 02:00")
    assert [request for request in plan(path, cdn) if request[1:] == ("04 00:00", "05 00:00")] == [
        (method, "04 00:00", "05 00:00") for method in ("hit_rate", "http_code", "isp", "region")
    ]
    after = poll(cdn, ledger(path)).channels["1001"]
    rows = cdn.rows("1001", at("04 00:00"))
    truth = cdn.truth("1001", "traffic", at("04 00:00"), at("05 00:00"))
    assert after.day == ClosedDay(at("05 00:00"), truth, rows, rows, rows[:1])
    today = days(path, since=at("05 00:00").date())[0]
    whole = cdn.truth("1001", "traffic", at("03 13:45"), at("05 00:00"))
    assert after.traffic_bytes == whole + (today.traffic_bytes or 0)
    counts = {code: cdn.truth("1001", code, at("04 00:00"), at("05 00:00")) for code in CODES}
    hits, misses = (cdn.truth("1001", kind, at("04 00:00"), at("05 00:00")) for kind in ("hits", "misses"))
    closed = days(path, since=at("04 00:00").date())[0]
    assert closed == Day(at("04 00:00").date(), "1001", truth, hits, misses, counts, closed=True)
    assert today.closed is False


def test_a_day_is_not_closed_before_its_time(path: Path, cdn: Cdn) -> None:
    """With a clock that is ahead the portal is asked too early, and what it then knows does not close the day."""
    polls(cdn, path, at("04 01:00"))
    assert poll(cdn, ledger(path), clock=timedelta(hours=1)).channels["1001"].day is None
    cdn.now = at("04 02:00")
    closed = [poll(cdn, ledger(path)).channels["1001"].day for _ in range(2)]
    assert closed[1]


def test_a_first_day_is_closed_from_where_it_was_counted(path: Path, cdn: Cdn) -> None:
    """What was before is not counted, and rows of the whole day are not those of the part."""
    channel = polls(cdn, path, at("04 03:00")).channels["1001"]
    truth = cdn.truth("1001", "traffic", at("03 13:45"), at("04 00:00"))
    assert channel.day == ClosedDay(at("04 00:00"), truth, (), (), ())
    assert days(path, since=at("03 00:00").date())[0].closed


def test_a_channel_that_is_new_after_midnight_has_two_first_days(path: Path) -> None:
    """Its time begins on the evening before; its status codes begin at the poll."""
    cdn = Cdn(at("04 00:05"))
    poll(cdn, ledger(path))
    poll(cdn, ledger(path), clock=-timedelta(hours=1))
    known = cdn.known("1001", "200", at("04 00:00"), at("05 00:00"))
    polls(cdn, path, at("05 03:00"))
    evening, day, _ = days(path, since=at("03 00:00").date())
    assert evening.traffic_bytes == cdn.truth("1001", "traffic", at("03 23:50"), at("04 00:00"))
    assert (evening.responses, evening.closed) == ({}, True)
    assert day.responses["200"] == cdn.truth("1001", "200", at("04 00:00"), at("05 00:00")) - known
    assert day.closed


def test_withdrawn_bytes_are_shown_until_the_sum_has_caught_up(path: Path, cdn: Cdn) -> None:
    """The counter stands still; the difference is what is overcounted."""
    before = polls(cdn, path, at("05 01:59")).channels["1001"]
    cdn.correct("1001", "traffic", at("04 12:00"), by=-400_000_000_000)
    cdn.now = at("05 02:00")
    after = poll(cdn, ledger(path)).channels["1001"]
    assert after.traffic_bytes == before.traffic_bytes
    assert after.overcounted_bytes
    total = sum(day.traffic_bytes or 0 for day in days(path, since=at("03 00:00").date()))
    assert after.traffic_bytes == total + after.overcounted_bytes
    later = polls(cdn, path, at("05 12:00")).channels["1001"]
    assert later.overcounted_bytes == 0
    assert later.traffic_bytes == sum(day.traffic_bytes or 0 for day in days(path, since=at("03 00:00").date()))


def test_a_method_that_fails_does_not_hold_up_the_others(path: Path, cdn: Cdn) -> None:
    """An account without the right to `region` has its days closed but for the provinces, and one retry per poll."""
    options = {"failing": [REGION]}
    cdn.now = at("03 14:02")
    while cdn.now < at("06 03:00"):
        cdn.now += timedelta(minutes=30)
        channel = poll(cdn, ledger(path), **options).channels["1001"]  # type: ignore[arg-type]
    rows = cdn.rows("1001", at("05 00:00"))
    truth = cdn.truth("1001", "traffic", at("05 00:00"), at("06 00:00"))
    assert channel.day == ClosedDay(at("06 00:00"), truth, rows, (), ())
    assert [day.closed for day in days(path, since=at("03 00:00").date())] == [True, False, False, False]
    assert [request for request in plan(path, cdn) if request[0] == "region"] == [("region", "04 00:00", "05 00:00")]
    assert poll(cdn, ledger(path)).channels["1001"].day == channel.day
    channel = poll(cdn, ledger(path)).channels["1001"]
    assert channel.day == ClosedDay(at("06 00:00"), truth, rows, rows, rows[:1])
    assert [day.closed for day in days(path, since=at("03 00:00").date())] == [True, True, True, False]


def test_a_day_close_that_is_never_answered_is_given_up(path: Path, cdn: Cdn, caplog: pytest.LogCaptureFixture) -> None:
    """After `--catch-up` it makes way for the days after it, with a warning; the day stays as it was counted."""
    while cdn.now < at("15 12:00"):
        cdn.now += timedelta(hours=3)
        poll(cdn, ledger(path), failing=[REGION])
    assert "day closes had no response within --catch-up: they are given up" in caplog.text
    assert [request for request in plan(path, cdn) if request[0] == "region"] == [("region", "08 00:00", "09 00:00")]


def test_a_response_without_a_number_does_not_close_a_day(path: Path, cdn: Cdn) -> None:
    """It is requested again."""
    polls(cdn, path, at("04 01:59"))
    cdn.now = at("04 02:01")
    with ledger(path) as kept:
        wanted = kept.plan(cdn.now)
        empty = Isp(total_bytes=None, isps=cdn.rows("1001", cdn.now))
        kept.record({**answers(cdn, wanted), wanted[-1]: empty}, cdn.now)
    assert plan(path, cdn)[-1] == ("isp", "03 13:45", "04 00:00")


# Limit, old days, other channels


def test_time_older_than_the_limit_is_skipped_and_shown(path: Path, cdn: Cdn, caplog: pytest.LogCaptureFixture) -> None:
    """The position moves forward by whole steps, and what it skips is in the lost seconds, with a warning."""
    poll(cdn, ledger(path))
    cdn.now = at("13 14:02:30")
    assert plan(path, cdn)[0] == ("hit_rate", "06 14:05", "07 00:00")
    assert not caplog.records
    channel = poll(cdn, ledger(path)).channels["1001"]
    assert channel.lost_seconds == (at("06 14:05") - at("03 13:45")).total_seconds()
    assert channel.settled_end == at("07 00:00")
    assert channel.settled_seconds == (at("07 00:00") - at("06 14:05")).total_seconds()
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert f"{channel.lost_seconds} seconds of 1 channels (1001 first) are older than --catch-up" in warning.message


def test_the_close_of_a_day_counts_the_part_that_was_skipped(path: Path, cdn: Cdn) -> None:
    """The day is asked as a whole, and bytes by seconds stays the exact bandwidth."""
    poll(cdn, ledger(path))
    cdn.now = at("13 14:02:30")
    for _ in range(12):
        channel = poll(cdn, ledger(path)).channels["1001"]
        cdn.now += STEP
    day = days(path, since=at("04 00:00").date())[0]
    assert day.traffic_bytes == cdn.truth("1001", "traffic", at("06 00:00"), at("07 00:00"))
    assert channel.settled_end - at("06 00:00") == timedelta(seconds=channel.settled_seconds)


def test_a_clock_that_is_a_second_ahead_at_each_step_does_not_stop_the_skipping(path: Path) -> None:
    """After a long outage the host takes a step for older than the limit, and the portal does not yet."""
    cdn = Cdn(at("03 13:59:59.700"))
    poll(cdn, ledger(path))
    cdn.now = at("13 13:59:59.700")
    for _ in range(3):
        channel = poll(cdn, ledger(path), clock=timedelta(seconds=1)).channels["1001"]
        cdn.now += STEP
    assert channel.settled_end == at("08 00:00")
    assert channel.lost_seconds == (at("06 14:05") - at("03 13:40")).total_seconds()


def test_a_clock_that_is_ahead_skips_nothing(path: Path, cdn: Cdn) -> None:
    """What the host takes for older than the limit is counted when the clock is right again."""
    poll(cdn, ledger(path))
    cdn.now = at("10 08:00")
    for clock in (timedelta(days=1), timedelta(0), timedelta(0)):
        channel = poll(cdn, ledger(path), clock=clock).channels["1001"]
    assert channel.lost_seconds == 0
    assert channel.settled_end == at("05 00:00")
    assert channel.settled_seconds == (channel.settled_end - at("03 13:45")).total_seconds()


def test_while_the_portal_does_not_answer_nothing_is_skipped(path: Path, cdn: Cdn) -> None:
    """Nobody knows what time it is then."""
    poll(cdn, ledger(path))
    cdn.now = at("13 14:00")
    assert poll(cdn, ledger(path), failing=list(Method)).channels["1001"].lost_seconds == 0


def test_a_channel_that_comes_back_goes_on(path: Path, cdn: Cdn) -> None:
    """Its state stays while it is not in the settings; the time between is counted."""
    both = ("1001", "1002")
    before = polls(cdn, path, at("03 15:00"), channels=both).channels["1002"]
    assert polls(cdn, path, at("03 18:00"), channels=["1001"]).channels.keys() == {"1001"}
    after = poll(cdn, ledger(path, both)).channels["1002"]
    assert before.settled_end == at("03 14:45")
    assert after.traffic_bytes
    assert after.traffic_bytes - cdn.known("1002", "traffic", at("03 14:45"), at("03 17:45")) == before.traffic_bytes


def test_days_are_kept_for_92_days_and_their_sums_for_ever(path: Path, cdn: Cdn) -> None:
    """What a poll reads and writes does not grow, and no counter falls when a day goes."""
    methods = [ISP]
    shown = 0
    for _ in range(400):
        cdn.now += timedelta(hours=6)
        channel = poll(cdn, ledger(path, methods=methods)).channels["1001"]
        assert channel.traffic_bytes is not None
        assert channel.traffic_bytes >= shown
        shown = channel.traffic_bytes
    kept = days(path, since=at("01 00:00").date())
    assert [day.day for day in kept] == [(cdn.now - n * DAY).date() for n in range(92, -1, -1)]
    assert all(day.closed for day in kept[:-2])
    began = midnight(cdn.now) - 92 * DAY
    older = cdn.truth("1001", "traffic", at("03 19:45"), began)
    assert shown == older + sum(day.traffic_bytes or 0 for day in kept)


def test_a_channel_that_comes_back_after_a_hundred_days_goes_on_in_its_day(path: Path, cdn: Cdn) -> None:
    """Where `--catch-up` reaches so far. What was counted of its last day is still known, and not counted twice."""
    began = at("03 13:45")
    polls(cdn, path, at("03 18:00"), channels=("1001", "1002"))
    cdn.now += 100 * DAY
    poll(cdn, ledger(path, ("1002",)))
    cdn.now += timedelta(hours=12)
    for _ in range(3):
        channel = poll(cdn, ledger(path, catch_up=110 * DAY)).channels["1001"]
    assert channel.settled_end == at("06 00:00")
    assert channel.settled_seconds == (channel.settled_end - began).total_seconds()
    assert channel.traffic_bytes == cdn.truth("1001", "traffic", began, channel.settled_end)


# The file


def test_closed_without_recording_it_changes_nothing(path: Path, cdn: Cdn) -> None:
    """A crash between plan and record, or a check, leaves the file as it was, or none where there was none."""
    plan(path, cdn)
    assert list(path.parent.iterdir()) == []
    polls(cdn, path, at("03 16:00"))
    before = path.read_bytes()
    cdn.now = at("03 17:00")
    with ledger(path) as kept:
        kept.plan(cdn.now)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_it_remembers_when_it_was_made(path: Path, cdn: Cdn) -> None:
    """A younger time than the last one tells that a ledger was lost."""
    poll(cdn, ledger(path))
    cdn.now = at("04 12:00")
    assert poll(cdn, ledger(path)).created == at("03 14:02:30")


def test_an_empty_file_is_a_new_ledger(path: Path, cdn: Cdn) -> None:
    """It holds nothing that could be overwritten; an administrator may have made it with the right owner and mode."""
    path.touch()
    assert plan(path, cdn)
    assert path.exists()
    poll(cdn, ledger(path))
    assert days(path, since=at("03 00:00").date())


def test_the_path_may_hold_any_characters(tmp_path: Path, cdn: Cdn) -> None:
    """A question mark, a percent sign and what is not ASCII are part of the name."""
    path = tmp_path / "what? 100% é#.sqlite"
    poll(cdn, ledger(path))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("missing/ledger.sqlite", r"No such file or directory \(as root: install -d .*/missing; or correct the path\)"),
        ("", "is not a regular file"),
    ],
)
def test_a_path_that_cannot_be_one(tmp_path: Path, cdn: Cdn, name: str, says: str) -> None:
    """The message says what is wrong with it and what to do."""
    with pytest.raises(LedgerError, match=says):
        plan(tmp_path / name, cdn)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ledger", "ledger-journal"])
def test_a_fifo_is_not_waited_for(tmp_path: Path, cdn: Cdn, name: str) -> None:
    """Neither in the place of the ledger nor of its journal, which lies beside the file that a link leads to."""
    poll(cdn, ledger(tmp_path / "ledger"))
    (tmp_path / "link").symlink_to("ledger")
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    for path in (tmp_path / "ledger", tmp_path / "link"):
        with pytest.raises(LedgerError, match=f"{name} is not a regular file"):
            plan(path, cdn)


def damaged(path: Path, cdn: Cdn) -> str:
    """Return what a poll says of a file that it must leave alone."""
    before, size = path.read_bytes(), len(list(path.parent.iterdir()))
    with pytest.raises(LedgerError) as caught:
        poll(cdn, ledger(path))
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == size
    return str(caught.value)


@pytest.mark.parametrize("content", [b"x", b"{}\n", b"SQLite format 3\0" + bytes(4000), bytes(8192), b"\xff" * 5000])
def test_a_file_that_is_no_database(path: Path, cdn: Cdn, content: bytes) -> None:
    """It is left as it is: its owner may want it."""
    path.write_bytes(content)
    assert re.search("is not a ledger of cc-textfile|is damaged", damaged(path, cdn))


def test_a_database_of_another_program(path: Path, cdn: Cdn) -> None:
    """It is left as it is, and no table is added."""
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE channels (name TEXT)")
    db.close()
    assert "it is not a ledger of cc-textfile. It was left as it is." in damaged(path, cdn)


def test_a_ledger_of_a_newer_version(path: Path, cdn: Cdn) -> None:
    """What a newer version knows of it is not known here."""
    poll(cdn, ledger(path))
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 2")
    db.close()
    assert "a newer version of cc-textfile has written it (schema 2, not 1). Install that" in damaged(path, cdn)


def test_a_ledger_that_was_cut_short(path: Path, cdn: Cdn) -> None:
    """Wherever it was cut, nothing is counted into what is left of it."""
    polls(cdn, path, at("07 16:00"), every=timedelta(hours=2), channels=[str(n) for n in range(1000, 1020)])
    whole = path.read_bytes()
    sizes = {*range(1, len(whole), 700), *range(4096, len(whole), 4096), len(whole) - 1}
    for size in sorted(sizes):
        path.write_bytes(whole[:size])
        assert re.search("is not a ledger|was cut short|is damaged", damaged(path, cdn)), size
    path.write_bytes(whole)
    poll(cdn, ledger(path, ("1000",)))


def test_a_ledger_in_wal_mode_is_whole(path: Path, cdn: Cdn) -> None:
    """litestream, which backs up SQLite files, keeps them so; what lies in the log counts as if it were in the file."""
    poll(cdn, ledger(path))
    many = [str(number) for number in range(2000, 2300)]
    with closing(sqlite3.connect(path)) as backup:
        backup.execute("PRAGMA journal_mode = WAL")
        backup.execute("SELECT * FROM days").fetchall()
        for _ in range(2):
            cdn.now += STEP
            assert poll(cdn, ledger(path, many)).channels.keys() == set(many)


def test_a_ledger_with_a_page_of_zeros(path: Path, cdn: Cdn) -> None:
    """A disk that lost a page costs a poll its counters, and no more; what a poll does not read it may not notice."""
    polls(cdn, path, at("07 16:00"), every=timedelta(hours=2), channels=[str(n) for n in range(1000, 1020)])
    whole = path.read_bytes()
    noticed = 0
    for start in range(0, len(whole), 4096):
        path.write_bytes(whole[:start] + bytes(4096) + whole[start + 4096 :])
        try:
            poll(cdn, ledger(path))
        except LedgerError:
            noticed += 1
    assert noticed >= 3


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("UPDATE channels SET codes = '{'", r"it is damaged \(Expecting property name"),
        ("DROP TABLE days", r"it is damaged \(no such table: days\). It was left as it is. Put a backup in its place"),
    ],
)
def test_a_ledger_with_damaged_contents(path: Path, cdn: Cdn, damage: str, says: str) -> None:
    """It costs the poll its counters, and is no crash."""
    poll(cdn, ledger(path))
    with sqlite3.connect(path) as db:
        db.execute(damage)
    db.close()
    assert re.search(says, damaged(path, cdn))


def test_a_disk_that_fails(path: Path, cdn: Cdn, start: Callable[..., Program]) -> None:
    """The message points to where the kernel says more, and the next poll goes on."""
    poll(cdn, ledger(path))
    refused = traced(path, start, "-e", "inject=pwrite64:error=EIO:when=3")
    assert f"{path} cannot be used: disk I/O error. The kernel's log may say why (`dmesg`)" in refused
    cdn.now = at("03 14:30")
    assert poll(cdn, ledger(path)).channels["1001"].settled_seconds == 1800


def test_days_of_a_ledger_that_is_not_there(path: Path) -> None:
    """To read makes no file."""
    with pytest.raises(LedgerError, match=r"there is no such file, or user [a-z]+ may not read it"):
        days(path, since=at("03 00:00").date())
    assert not path.exists()


def test_a_second_poller_is_told_at_once(path: Path, cdn: Cdn, start: Callable[..., Program]) -> None:
    """While one process polls, another gets no further than the plan; a reader is not held up."""
    poll(cdn, ledger(path))
    other = start(
        sys.executable, "-m", "tests.cdn", str(path), "2026-12-03T14:30+08:00", cwd=ROOT, stdin=subprocess.PIPE
    )
    other.line("ready")
    with pytest.raises(LedgerError, match=r"another process has locked it .* Only one poller can use a ledger"):
        plan(path, cdn)
    assert days(path, since=at("03 00:00").date())
    assert other.process.stdin
    other.process.stdin.write("\n")
    other.process.stdin.close()
    assert other.end(None) == 0
    assert plan(path, cdn)


def test_a_commit_waits_for_a_reader(path: Path, cdn: Cdn) -> None:
    """A report or a backup that reads at that moment costs nothing."""
    poll(cdn, ledger(path))
    cdn.now = at("03 14:30")
    reader = sqlite3.connect(path, check_same_thread=False)
    rows = reader.execute("SELECT * FROM days UNION ALL SELECT * FROM days")
    rows.fetchone()
    end = threading.Timer(0.3, rows.close)
    end.start()
    assert poll(cdn, ledger(path)).channels["1001"].settled_seconds == 1800
    end.join()
    reader.close()


def test_a_reader_that_never_ends(path: Path, cdn: Cdn, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs this poll its counters, and the next poll counts what this one could not."""
    poll(cdn, ledger(path))
    monkeypatch.setattr("cc_textfile.ledger.file.READER_WAIT", 0.2)
    cdn.now = at("03 14:30")
    reader = sqlite3.connect(path)
    rows = reader.execute("SELECT * FROM days UNION ALL SELECT * FROM days")
    rows.fetchone()
    with pytest.raises(LedgerError, match="another process has locked it"):
        poll(cdn, ledger(path))
    rows.close()
    reader.close()
    assert poll(cdn, ledger(path)).channels["1001"].settled_seconds == 1800


def test_the_commit_is_on_the_disk(path: Path, cdn: Cdn, start: Callable[..., Program]) -> None:
    """A power loss after the file has been written must not bring back an older ledger: the folder is synced, too."""
    poll(cdn, ledger(path))
    log = traced(path, start, "-y")
    assert re.search(rf"unlink\(\"{path}-journal\"\).*fdatasync\(\d+<{path.parent}>\)", log, re.DOTALL)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 400 KB."""
    needs_root()
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk: Path, cdn: Cdn) -> None:
    """It costs the counters while it lasts; when there is space again, the next poll counts it all."""
    path = small_disk / "ledger.sqlite"
    waste = small_disk / "waste"
    waste.write_bytes(bytes(390 * 1024))
    for _ in range(2):
        with pytest.raises(LedgerError, match=rf"the disk is full \(free some space: df -h {small_disk}\)"):
            poll(cdn, ledger(path))
        assert list(small_disk.iterdir()) == [waste]
    waste.unlink()
    poll(cdn, ledger(path))
    with waste.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):  # noqa: PT012
        while True:
            file.write(bytes(4096))
    before = path.read_bytes()
    cdn.now = at("03 15:00")
    with pytest.raises(LedgerError, match="the disk is full"):
        poll(cdn, ledger(path))
    assert path.read_bytes() == before
    waste.unlink()
    channel = poll(cdn, ledger(path)).channels["1001"]
    assert channel.traffic_bytes == cdn.known("1001", "traffic", at("03 13:45"), at("03 14:45"))


def test_a_read_only_file_system(small_disk: Path, cdn: Cdn) -> None:
    """The message names the directives of systemd that may be behind it."""
    path = small_disk / "ledger.sqlite"
    poll(cdn, ledger(path))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for place in (path, small_disk / "other.sqlite"):
        with pytest.raises(LedgerError, match=rf"Read-only file system \(.* ReadWritePaths={small_disk};"):
            plan(place, cdn)
        settings = Settings(user="me", password="", account="me", channels=("1001",))
        with pytest.raises(LedgerError, match="Read-only file system"):
            Past(place, settings, at("01 00:00"), timedelta(hours=1), cdn.now)
    assert days(path, since=at("03 00:00").date())
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert plan(path, cdn)


def errors_without_rights(path: Path) -> str:
    """Let a user to whom nothing of others is open make a poll; return what it writes to standard error."""
    words = [*POWERLESS, sys.executable, "-m", "tests.cdn", str(path), "2026-12-03T14:30+08:00"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize(
    ("closed", "says"),
    [
        ("closed/folder/ledger.sqlite", "setfacl -m u:root:rwx {})"),
        ("closed/folder", "setfacl -m u:root:rwx {})"),
        ("closed", "setfacl -m u:root:x {})"),
    ],
)
def test_no_permission(tmp_path: Path, cdn: Cdn, closed: str, says: str) -> None:
    """The message says who has no permission where; SQLite needs the folder, too, for a journal during a commit."""
    needs_root()
    path, place = tmp_path / "closed/folder/ledger.sqlite", tmp_path / closed
    path.parent.mkdir(parents=True)
    poll(cdn, ledger(path))
    os.chown(place, 65534, 65534)
    place.chmod(0o700)
    errors = errors_without_rights(path)
    assert "cannot be used: Permission denied (" in errors
    assert errors.endswith(f" {says.format(place)}\n")
    os.chown(place, 0, 0)
    assert plan(path, cdn)


def test_no_permission_for_a_journal_that_another_user_left(path: Path, cdn: Cdn) -> None:
    """A poll of root that was killed in its commit: the message names the file, which SQLite does not."""
    needs_root()
    poll(cdn, ledger(path))
    journal = path.with_name(f"{path.name}-journal")
    journal.touch(0o600)
    os.chown(journal, 65534, 65534)
    errors = errors_without_rights(path)
    assert errors.endswith(f" setfacl -m u:root:rwx {journal})\n")


# Kills

CALLS = "openat,pwrite64,write,fdatasync,fsync,unlink,ftruncate,close"


def traced(path: Path, start: Callable[..., Program], *options: str) -> str:
    """Let a process make a poll under strace, from just before it records; returns what strace and it said."""
    recorder = start(
        *(sys.executable, "-m", "tests.cdn", str(path), "2026-12-03T14:30+08:00"),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        # Coverage's own writes are not the program's.
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
    )
    recorder.line("ready")
    log = path.parent.parent / "strace.log"
    command = (tool("strace"), "-f", "-o", str(log), "-e", f"trace={CALLS}", *options)
    strace = start(*command, "-p", str(recorder.process.pid))
    strace.line("attached")
    assert recorder.process.stdin
    recorder.process.stdin.write("\n")
    recorder.process.stdin.close()
    recorder.end(None)
    strace.end(None)
    return log.read_text() + recorder.said


@pytest.mark.slow
@pytest.mark.parametrize("exists", [True, False])
def test_killed_at_each_system_call_of_the_commit(
    tmp_path: Path,
    cdn: Cdn,
    start: Callable[..., Program],
    exists: bool,  # noqa: FBT001
) -> None:
    """Whichever call is the last, the ledger is that before the poll or that after it, and the next poll goes on."""
    folder = tmp_path / "folder"
    folder.mkdir()
    path, original = folder / "ledger.sqlite", tmp_path / "original.sqlite"
    if exists:
        poll(cdn, ledger(original))
    later = at("03 14:45")

    def restore() -> None:
        for file in folder.iterdir():
            file.unlink()
        if exists:
            shutil.copy(original, path)

    restore()
    calls = Counter(re.findall(r"^\d+ +(\w+)\(", traced(path, start), re.MULTILINE))
    assert calls["pwrite64"] > 3
    assert calls["fdatasync"] + calls["fsync"] >= 3
    ends = set()
    for call, times in calls.items():
        for nth in range(1, times + 1):
            restore()
            log = traced(path, start, "-e", f"inject={call}:signal=SIGKILL:when={nth}")
            assert "killed by SIGKILL" in log, f"{call} number {nth} was not reached"
            cdn.now = later
            with ledger(path) as kept:
                wanted = kept.plan(later)
                stretches = [request for request in wanted if request.method == ISP]
                channel = kept.record(answers(cdn, wanted), later).channels["1001"]
            begin = channel.settled_end - timedelta(seconds=channel.settled_seconds)
            seam = stretches[0].window.start if stretches else begin
            counted = Cdn(at("03 14:30")).known("1001", "traffic", begin, seam)
            counted += cdn.known("1001", "traffic", seam, channel.settled_end)
            assert channel.traffic_bytes == counted, f"killed at {call} number {nth}"
            ends.add(seam)
            assert [file.name for file in folder.iterdir()] == ["ledger.sqlite"]
    # Killed early, the stretch is counted now, or the channel begins now; killed late, it goes on from where it was.
    assert ends == {at("03 14:15"), at("03 13:45") if exists else at("03 14:30")}


# Versions


def test_a_ledger_of_schema_1_is_read(path: Path) -> None:
    """Every later version goes on where the first one stopped. LEDGERS=write makes the file anew."""
    if os.environ.get("LEDGERS") == "write":
        FIXTURE.parent.mkdir(exist_ok=True)
        FIXTURE.unlink(missing_ok=True)
        make_schema_1(FIXTURE)
    shutil.copy(FIXTURE, path)
    cdn = Cdn(at("05 09:31"))
    totals = poll(cdn, ledger(path, ("1001", "1002")))
    assert totals.created == at("03 14:02:30")
    first, second = totals.channels["1001"], totals.channels["1002"]
    rows = cdn.rows("1001", at("04 00:00"))
    truth = cdn.truth("1001", "traffic", at("04 00:00"), at("05 00:00"))
    assert first.day == ClosedDay(at("05 00:00"), truth, rows, rows, rows[:1])
    assert first.settled_end == second.settled_end == at("05 09:15")
    whole = cdn.truth("1001", "traffic", at("03 13:45"), at("05 00:00"))
    today = {day.channel: day for day in days(path, since=at("05 00:00").date())}
    assert first.traffic_bytes == whole + (today["1001"].traffic_bytes or 0)
    assert first.responses["200"] > 0
    assert second.lost_seconds == 0
    assert len(days(path, since=at("03 00:00").date())) == 6


def make_schema_1(path: Path) -> None:
    """Make a ledger with open and closed days, a day close that is still to be made, and a channel that is behind."""
    cdn = Cdn(at("03 14:02:30"))
    polls(cdn, path, at("05 01:30"), channels=("1001", "1002"))
    while cdn.now < at("05 08:58"):
        cdn.now += timedelta(minutes=28)
        poll(cdn, ledger(path, ("1001",)), failing=[REGION])
