"""Windows are cut by the portal's clock, in UTC+8, whatever the zone of the host is."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_textfile.portal.window import DAY, PORTAL_ZONE, Window, midnight


@pytest.fixture(params=["UTC", "America/New_York", "Asia/Kathmandu"])
def _host_zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


def portal_time(text: str) -> datetime:
    """Return a time on the portal's clock."""
    return datetime.fromisoformat(text).replace(tzinfo=PORTAL_ZONE)


@pytest.mark.usefixtures("_host_zone")
def test_a_window_ends_now_on_the_minute_in_utc_plus_8() -> None:
    """A window ends at the minute that has begun, and lies on the days of UTC+8, under any zone of the host."""
    window = Window.ending(datetime(2024, 2, 29, 16, 2, 59, 999999, tzinfo=UTC).astimezone(), 5)
    assert window == (portal_time("2024-02-29T23:57"), portal_time("2024-03-01T00:02"))
    assert window.days == (portal_time("2024-02-29"), portal_time("2024-03-02"))


def test_a_window_that_ends_at_midnight_ends_on_the_new_day() -> None:
    """00:00 belongs to the day that it begins, as the older exporter had it."""
    window = Window.ending(datetime(2024, 12, 31, 16, 0, tzinfo=UTC), 5)
    assert window.days == (portal_time("2024-12-31"), portal_time("2025-01-02"))


def test_a_day_is_from_midnight_to_midnight() -> None:
    """The day of a time is the one of UTC+8."""
    before, after = datetime(2024, 2, 29, 15, 59, tzinfo=UTC), datetime(2024, 2, 29, 16, 0, tzinfo=UTC)
    assert Window(before, before).days == (portal_time("2024-02-29"), portal_time("2024-03-01"))
    assert Window(after, after).days == (portal_time("2024-03-01"), portal_time("2024-03-02"))


@given(st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.timezones()), st.integers(1, 527_040))  # noqa: DTZ001
def test_any_window(now: datetime, minutes: int) -> None:
    """A window has its length, ends in the current minute, and lies on its days, also when a host's clock shifts."""
    window = Window.ending(now, minutes)
    assert window.end <= now.astimezone(UTC) < window.end + timedelta(minutes=1)
    assert window.end - window.start == timedelta(minutes=minutes)
    assert window.days.start <= window.start < window.end < window.days.end
    assert {midnight(end) for end in window.days} == set(window.days)
    day = Window(now, now).days
    assert day.start + DAY == day.end
