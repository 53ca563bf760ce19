"""Windows are cut by the portal's clock, in UTC+8, whatever the host's own is."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_textfile.window import PORTAL_ZONE, Window


@pytest.fixture(params=["UTC", "Asia/Shanghai", "America/New_York", "Pacific/Kiritimati", "Asia/Kathmandu"])
def host_zone(request: pytest.FixtureRequest) -> Iterator[str]:
    """Move the host into a time zone."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = request.param
    time.tzset()
    yield request.param
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def test_a_window_ends_now_on_the_minute_in_utc_plus_8(host_zone: str) -> None:
    """A window ends at the minute that has begun and is QUERYTIME minutes long, under any TZ of the host."""
    now = datetime(2024, 3, 9, 13, 7, 59, 999999, tzinfo=UTC)
    assert Window.ending(now, 5).minutes == ("202403092102", "202403092107"), host_zone


def test_a_window_around_midnight_lies_on_two_days_of_the_portal(host_zone: str) -> None:
    """Midnight is that of UTC+8: 16:00 in UTC."""
    before = Window.ending(datetime(2024, 2, 29, 15, 59, 30, tzinfo=UTC), 5)
    across = Window.ending(datetime(2024, 2, 29, 16, 2, tzinfo=UTC), 5)
    assert (before.minutes, before.days) == (("202402292354", "202402292359"), ("20240229", "20240229")), host_zone
    assert (across.minutes, across.days) == (("202402292357", "202403010002"), ("20240229", "20240301")), host_zone


def test_a_window_that_ends_at_midnight_ends_on_the_new_day() -> None:
    """00:00 belongs to the day that it begins."""
    window = Window.ending(datetime(2024, 12, 31, 16, 0, 0, tzinfo=UTC), 5)
    assert window.minutes == ("202412312355", "202501010000")
    assert window.days == ("20241231", "20250101")


@pytest.mark.parametrize(
    "local",
    [
        datetime(2024, 3, 31, 1, 58, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2024, 3, 31, 3, 2, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=0),
        datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    ],
)
def test_a_change_to_summer_time_on_the_host_does_not_stretch_a_window(local: datetime) -> None:
    """Five minutes are five minutes on the night that the host's clock leaps."""
    window = Window.ending(local, 5)
    assert window.end - window.start == timedelta(minutes=5)
    assert window.end.timestamp() == local.timestamp()


@given(st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2200, 1, 1)), st.integers(1, 1_000_000))  # noqa: DTZ001
def test_the_wire_form_reads_back_as_the_window(moment: datetime, minutes: int) -> None:
    """What is sent, read as wall-clock time in UTC+8, is the window to the minute."""
    now = moment.replace(tzinfo=UTC)
    window = Window.ending(now, minutes)
    start, end = (datetime.strptime(text, "%Y%m%d%H%M").replace(tzinfo=PORTAL_ZONE) for text in window.minutes)
    assert end <= now < end + timedelta(minutes=1)
    assert end - start == timedelta(minutes=minutes)
    assert window.days == (f"{start:%Y%m%d}", f"{end:%Y%m%d}")


def test_a_naive_time_is_refused() -> None:
    """A naive `now` would be taken for the host's own zone; that is a bug, and it shows."""
    with pytest.raises(ValueError, match="aware"):
        Window.ending(datetime(2024, 1, 1), 5)  # noqa: DTZ001
