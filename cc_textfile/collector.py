"""A finished snapshot as metric families: names, labels and HELP texts, and which number goes where."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, cast

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from cc_textfile import __version__
from cc_textfile.answers import Endpoint, HitRateAnswer, HttpCodeAnswer, IspAnswer, RegionAnswer
from cc_textfile.errors import REASONS
from cc_textfile.poll import Snapshot
from cc_textfile.translations import translate

Series = Iterator[tuple[dict[str, str], float]]
"""Labels and value of each sample."""


class Gauge(NamedTuple):
    """A metric: how it is called, and where its samples come from."""

    name: str
    help: str
    labels: tuple[str, ...]
    series: Callable[[Snapshot], Series]


def hit_miss_total(snapshot: Snapshot) -> Series:
    """`{channel="47", HitOrMiss="Hit"} 1127.0`."""
    for channel, answer in snapshot.of(HitRateAnswer):
        yield {"channel": channel, "HitOrMiss": "Hit"}, answer.hits
        yield {"channel": channel, "HitOrMiss": "Miss"}, answer.misses


def isp_total_bytes(snapshot: Snapshot) -> Series:
    """`{channel="47"} 1.8124470633e+12`."""
    for channel, answer in snapshot.of(IspAnswer):
        yield {"channel": channel}, answer.total_bytes


def isp_specific_flux_ratio(snapshot: Snapshot) -> Series:
    """`{channel="47", isp="China Telecom"} 0.36325`."""
    for channel, answer in snapshot.of(IspAnswer):
        for name, ratio in _merged([(translate(share.name), share.flux_ratio) for share in answer.isps]):
            yield {"channel": channel, "isp": name}, ratio


def region_total_bytes(snapshot: Snapshot) -> Series:
    """`{channel="47"} 8.816302995e+10`."""
    for channel, answer in snapshot.of(RegionAnswer):
        yield {"channel": channel}, answer.total_bytes


def region_specific_flux_ratio(snapshot: Snapshot) -> Series:
    """`{channel="47", region="Province", name="Guangdong Province"} 0.25906`."""
    for channel, answer in snapshot.of(RegionAnswer):
        for name, ratio in _merged([(translate(share.name), share.flux_ratio) for share in answer.provinces]):
            yield {"channel": channel, "region": "Province", "name": name}, ratio


def statuscodes_request_percent(snapshot: Snapshot) -> Series:
    """`{channel="47", StatusCode="200"} 97.31`."""
    for channel, answer in snapshot.of(HttpCodeAnswer):
        for code, percent in _merged([(row.code, row.percent) for row in answer.codes]):
            yield {"channel": channel, "StatusCode": code}, percent


def statuscodes_request_count(snapshot: Snapshot) -> Series:
    """`{channel="47", StatusCode="200"} 9120.0`."""
    for channel, answer in snapshot.of(HttpCodeAnswer):
        for code, requests in _merged([(row.code, row.requests) for row in answer.codes]):
            yield {"channel": channel, "StatusCode": code}, requests


def endpoint_up(snapshot: Snapshot) -> Series:
    """`{channel="47", endpoint="isp"} 1.0`."""
    names = [(endpoint, endpoint.value) for endpoint in Endpoint]
    for channel in snapshot.channels:
        for endpoint, name in names:
            yield {"channel": channel, "endpoint": name}, float((channel, endpoint) in snapshot.answers)


def failures(snapshot: Snapshot) -> Series:
    """`{endpoint="isp", reason="refused"} 0.0`."""
    counts = Counter((endpoint, error.reason) for (_, endpoint), error in snapshot.failures.items())
    for endpoint in Endpoint:
        for reason in REASONS:
            yield {"endpoint": endpoint.value, "reason": reason}, float(counts[endpoint, reason])


def dropped_rows(snapshot: Snapshot) -> Series:
    """`{endpoint="isp"} 0.0`."""
    counts: Counter[Endpoint] = Counter()
    for (_, endpoint), answer in snapshot.answers.items():
        counts[endpoint] += answer.dropped_rows
    for endpoint in Endpoint:
        yield {"endpoint": endpoint.value}, float(counts[endpoint])


def _single(value: Callable[[Snapshot], float]) -> Callable[[Snapshot], Series]:
    return lambda snapshot: iter([({}, value(snapshot))])


METRICS = (
    Gauge("ChinaCache_metrics_isp_total_bytes", "Total Traffic in Bytes.", ("channel",), isp_total_bytes),
    Gauge(
        "ChinaCache_metrics_isp_specific_flux_ratio",
        "Flow Rate for a single ISP.",
        ("channel", "isp"),
        isp_specific_flux_ratio,
    ),
    Gauge(
        "ChinaCache_metrics_hit_miss_total", "Hits and Misses total values.", ("channel", "HitOrMiss"), hit_miss_total
    ),
    Gauge("ChinaCache_metrics_region_total_bytes", "Total Traffic in Bytes.", ("channel",), region_total_bytes),
    Gauge(
        "ChinaCache_metrics_region_specific_flux_ratio",
        "Flow Rate for a single region.",
        ("channel", "region", "name"),
        region_specific_flux_ratio,
    ),
    Gauge(
        "ChinaCache_metrics_statuscodes_request_percent",
        "Percentage of Requests that result in the given StatusCode.",
        ("channel", "StatusCode"),
        statuscodes_request_percent,
    ),
    Gauge(
        "ChinaCache_metrics_statuscodes_request_count",
        "Number of Requests that result in the given StatusCode.",
        ("channel", "StatusCode"),
        statuscodes_request_count,
    ),
    Gauge(
        "cc_textfile_build_info",
        "The version of cc_textfile that wrote this; always 1.",
        ("version",),
        lambda _: iter([({"version": __version__}, 1.0)]),
    ),
    Gauge(
        "cc_textfile_poll_timestamp_seconds",
        "When the poll ended, in seconds since the epoch.",
        (),
        _single(lambda snapshot: snapshot.ended.timestamp()),
    ),
    Gauge(
        "cc_textfile_poll_duration_seconds", "How long the poll took.", (), _single(lambda snapshot: snapshot.seconds)
    ),
    Gauge(
        "cc_textfile_poll_success",
        "1 when every request of the poll was answered well, else 0.",
        (),
        _single(lambda snapshot: float(not snapshot.failures)),
    ),
    Gauge(
        "cc_textfile_window_start_timestamp_seconds",
        "Where the window begins that the numbers are of, in seconds since the epoch.",
        (),
        _single(lambda snapshot: snapshot.window.start.timestamp()),
    ),
    Gauge(
        "cc_textfile_window_end_timestamp_seconds",
        "Where the window ends that the numbers are of, in seconds since the epoch.",
        (),
        _single(lambda snapshot: snapshot.window.end.timestamp()),
    ),
    Gauge(
        "cc_textfile_endpoint_up",
        "1 when the portal answered this endpoint well for this channel, else 0.",
        ("channel", "endpoint"),
        endpoint_up,
    ),
    Gauge(
        "cc_textfile_failures",
        "Requests of the poll that brought no numbers, by reason; 0 when none.",
        ("endpoint", "reason"),
        failures,
    ),
    Gauge(
        "cc_textfile_dropped_rows",
        "Rows of good answers that could not be read and were left out.",
        ("endpoint",),
        dropped_rows,
    ),
)


class SnapshotCollector(Collector):
    """Renders one snapshot; `series` is how many samples the last `collect` gave."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self.series = 0

    def describe(self) -> Iterable[Metric]:
        """Return the families without samples; without this, registering would render the snapshot once for nothing."""
        return [GaugeMetricFamily(metric.name, metric.help, labels=metric.labels) for metric in METRICS]

    def collect(self) -> Iterable[Metric]:
        """Return the families one by one; the samples of each are made as they are read, and can be read once."""
        self.series = 0
        for metric, family in zip(METRICS, self.describe(), strict=True):
            if next(metric.series(self._snapshot), None):
                # No list, as the annotation has it: of 300,000 samples that one took 60 MB and a third of the time.
                family.samples = self._samples(metric)  # type: ignore[assignment]
                yield family

    def _samples(self, metric: Gauge) -> Iterator[Sample]:
        for labels, value in metric.series(self._snapshot):
            self.series += 1
            yield Sample(metric.name, labels, value)


def registry(collector: SnapshotCollector) -> CollectorRegistry:
    """Return a registry of the collector's own, for `write_to_textfile` and `push_to_gateway`."""
    private = CollectorRegistry(auto_describe=False)
    private.register(collector)
    return private


def _merged(rows: list[tuple[str, float | None]]) -> Iterable[tuple[str, float]]:
    """Add up the rows that end in one label; where one of them can't be read, the sum is not known and not given."""
    single = dict(rows)
    if len(single) == len(rows) and None not in single.values():  # as good as always, and twice as fast
        return cast("Iterable[tuple[str, float]]", single.items())
    sums: dict[str, float] = {}
    for label, value in rows:
        sums[label] = sums.get(label, 0.0) + (math.nan if value is None else value)
    return [(label, total) for label, total in sums.items() if math.isfinite(total)]
