"""One large file, written as the program does, or by `write_to_textfile` alone from families that are made before.

Says on standard output, as JSON, the series in the file, and the seconds and CPU seconds that writing took.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl

from prometheus_client import CollectorRegistry, write_to_textfile
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from cc_textfile import answers, demo
from cc_textfile.answers import Answer, Endpoint
from cc_textfile.collector import SnapshotCollector, registry
from cc_textfile.output import Textfile
from cc_textfile.poll import Question, Snapshot
from cc_textfile.window import Window

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
QUERY = "startTime=202404301200&endTime=202405011200&start_time=20240430&end_time=20240501"
DECODERS: Mapping[Endpoint, Callable[[int, bytes], Answer]] = {
    Endpoint.HIT_RATE: answers.hit_rate,
    Endpoint.ISP: answers.isp,
    Endpoint.REGION: answers.region,
    Endpoint.HTTP_CODE: answers.http_code,
}


def snapshot(channels: int) -> Snapshot:
    """Return a poll in which all was answered, with the daily rows: 40 series a channel."""
    names = tuple(str(100000 + n) for n in range(channels))
    query = dict(parse_qsl(QUERY))
    found: dict[Question, Answer] = {}
    for name in names:
        for endpoint in Endpoint:
            said = demo.answer(endpoint, {**query, "channelIds": name, "channel_id": name}, NOW)
            found[name, endpoint] = DECODERS[endpoint](200, json.dumps(said).encode())
    return Snapshot(Window.ending(NOW, 1440), names, found, {}, NOW, 1.0, account_refused=False)


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
    collector = SnapshotCollector(snapshot(channels))
    output = Textfile(path)
    if how == "floor":
        made = CollectorRegistry(auto_describe=False)
        made.register(Made(collector))
    started, started_cpu = time.perf_counter(), time.process_time()
    if how == "floor":
        write_to_textfile(str(path), made)
    else:
        output.deliver(registry(collector))
    taken = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - started_cpu}
    print(json.dumps({"series": collector.series, **taken}))  # a line to the other process


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
