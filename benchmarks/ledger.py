"""What the ledger itself costs a poll: plan and record, with a history of one day or of many.

`python -m benchmarks.ledger FOLDER CHANNELS DAYS` makes a ledger with so many days of history in the folder, polls once
more, and writes the CPU seconds and the kilobytes read of that poll to standard output, as JSON.
"""

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from cc_textfile.demo.portal import response
from cc_textfile.ledger import Ledger
from cc_textfile.portal.responses import Method, Request, Response, decode
from cc_textfile.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cc_textfile.portal.window import Window

START = datetime(2024, 1, 1, 4, tzinfo=UTC)
"""Noon in UTC+8."""


class Portal:
    """Gives each channel the same response to the same request."""

    def __init__(self) -> None:
        self._known: dict[tuple[Method, Window], Response] = {}

    def __call__(self, request: Request, now: datetime) -> Response:
        """Return the response to a request."""
        _, method, window = request
        if (method, window) not in self._known:
            end = window.end - timedelta(days=1) if method is Method.HTTP_CODE else window.end
            query = {
                "channelIds": "1",
                "startTime": f"{window.start:%Y%m%d%H%M}",
                "endTime": f"{end:%Y%m%d%H%M}",
                "channel_id": "1",
                "start_time": f"{window.start:%Y%m%d}",
                "end_time": f"{end:%Y%m%d}",
            }
            self._known[method, window] = decode(method, 200, json.dumps(response(method, query, now)).encode(), str)
        return self._known[method, window]


def poll(path: Path, channels: int, now: datetime, portal: Portal) -> tuple[float, int]:
    """Poll once, and return what the ledger took of it: CPU seconds, and bytes read."""
    cpu, read = time.process_time(), _bytes_read()
    names = tuple(str(100000 + n) for n in range(channels))
    with Ledger(path, Settings(user="demo", password="", account="demo", channels=names)) as ledger:
        wanted = ledger.plan(now)
        planned = time.process_time() - cpu
        responses: Mapping[Request, Response] = {request: portal(request, now) for request in wanted}
        cpu = time.process_time()
        ledger.record(responses, now)
        return planned + time.process_time() - cpu, _bytes_read() - read


def _bytes_read() -> int:
    """Return how much this process has read from files, cached or not."""
    return int(Path("/proc/self/io").read_text().split()[1])


def main(folder: Path, channels: int, days: int) -> None:
    """Make the history, and measure a poll a little after it."""
    path, portal = folder / f"{channels}-{days}.sqlite", Portal()
    # Two polls a day: the first counts the day before to its end and closes it, the second counts on.
    for day in range(days + 1):
        for hours in (0, 9):
            poll(path, channels, START + timedelta(days=day, hours=hours), portal)
    taken = [poll(path, channels, START + timedelta(days=days, hours=10, minutes=5 * n), portal) for n in range(9)]
    cpu, read = (sorted(each)[len(taken) // 2] for each in zip(*taken, strict=True))
    print(json.dumps({"cpu": cpu, "kilobytes": read / 1024}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
