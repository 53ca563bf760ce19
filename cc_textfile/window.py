"""Time windows, and how the portal spells them: wall-clock time in UTC+8, whatever the host's zone is."""

from datetime import datetime, timedelta, timezone
from typing import NamedTuple, Self

PORTAL_ZONE = timezone(timedelta(hours=8), "UTC+8")


class Window(NamedTuple):
    """The stretch of time that numbers are asked for; both ends are aware, on the minute, in UTC+8."""

    start: datetime
    end: datetime

    @classmethod
    def ending(cls, now: datetime, minutes: int) -> Self:
        """Return the window of so many minutes that ends at `now` (aware), cut to the minute."""
        if now.tzinfo is None:
            message = "`now` must be aware: a naive time would be taken for the host's zone"
            raise ValueError(message)
        end = now.astimezone(PORTAL_ZONE).replace(second=0, microsecond=0)
        return cls(end - timedelta(minutes=minutes), end)

    @property
    def minutes(self) -> tuple[str, str]:
        """Start and end as `YYYYMMDDhhmm`, for the statistics methods."""
        return f"{self.start:%Y%m%d%H%M}", f"{self.end:%Y%m%d%H%M}"

    @property
    def days(self) -> tuple[str, str]:
        """The days on which it starts and ends as `YYYYMMDD`, for the REST method."""
        return f"{self.start:%Y%m%d}", f"{self.end:%Y%m%d}"
