"""One large file, written as the program does, or by `write_to_textfile` alone from families that are made before.

Writes to standard output, as JSON, the series in the file, and the seconds and CPU seconds that writing took.
"""

import json
import sys
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl

from prometheus_client import CollectorRegistry, write_to_textfile
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from cc_textfile.demo.portal import response
from cc_textfile.metrics import Results, registry
from cc_textfile.output.textfile import Textfile
from cc_textfile.poll import Snapshot, gauge_requests
from cc_textfile.portal.responses import Method, Request, Response, decode
from cc_textfile.portal.window import Window
from cc_textfile.settings import Settings

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
QUERY = "startTime=202404301200&endTime=202405011200&start_time=20240430&end_time=20240501"


def results(channels: int) -> Results:
    """Return a poll in which all requests were answered, with the daily rows: 40 series a channel."""
    names = tuple(str(100000 + n) for n in range(channels))
    query = dict(parse_qsl(QUERY))
    window = Window.ending(NOW, 1440)
    found: dict[Request, Response] = {}
    for request in gauge_requests(names, tuple(Method), window):
        content = response(request.method, {**query, "channelIds": request.channel, "channel_id": request.channel}, NOW)
        found[request] = decode(request.method, 200, json.dumps(content).encode(), str)
    settings = Settings(user="demo", password="", account="demo", channels=names)
    return Results(settings, Snapshot(found, {}, NOW, 1.0), window, None)


class Made(Collector):
    """Gives the families of another collector, made before."""

    def __init__(self, collector: Collector) -> None:
        self._families = []
        for family in collector.collect():
            family.samples = list(family.samples)
            self._families.append(family)

    def collect(self) -> Iterable[Metric]:
        """Return them."""
        return self._families


def main(how: str, path: Path, channels: int) -> None:
    """Write one file; `how` is `program` or `floor`."""
    metrics, collector = registry(results(channels))
    output = Textfile(path)
    if how == "floor":
        made = CollectorRegistry(auto_describe=False)
        made.register(Made(collector))
    started, started_cpu = time.perf_counter(), time.process_time()
    if how == "floor":
        write_to_textfile(str(path), made)
    else:
        output.deliver(metrics)
    taken = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - started_cpu}
    print(json.dumps({"series": collector.series, **taken}))  # a line to the other process


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
