"""Time windows, and how the portal spells them: wall-clock time in UTC+8, whatever the zone of the host."""

from datetime import datetime, timedelta, timezone
from typing import NamedTuple, Self

PORTAL_ZONE = timezone(timedelta(hours=8), "UTC+8")
DAY = timedelta(days=1)
STEP = timedelta(minutes=5)


def midnight(time: datetime) -> datetime:
    """Return the start of the day (UTC+8) in which an aware time lies."""
    return time.astimezone(PORTAL_ZONE).replace(hour=0, minute=0, second=0, microsecond=0)


class Window(NamedTuple):
    """The time that numbers are asked for; both ends are aware, on the minute, in UTC+8; the end is not included."""

    start: datetime
    end: datetime

    @classmethod
    def ending(cls, now: datetime, minutes: int) -> Self:
        """Return the window of so many minutes that ends at `now` (aware), rounded down to the minute."""
        end = now.astimezone(PORTAL_ZONE).replace(second=0, microsecond=0)
        return cls(end - timedelta(minutes=minutes), end)

    @property
    def days(self) -> Self:
        """The whole days on which the window starts and ends."""
        return type(self)(midnight(self.start), midnight(self.end) + DAY)
