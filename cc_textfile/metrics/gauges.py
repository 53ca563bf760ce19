"""The gauges of the older exporter: numbers of a window that ends now. Names, labels and HELP texts are that one's."""

from collections.abc import Iterator
from typing import TypeVar

from cc_textfile.metrics.family import Metrics, Results, Series, merged
from cc_textfile.portal.responses import HitRate, HttpCode, Isp, Method, Region, Request, Response
from cc_textfile.portal.translations import translate_as_before

METRICS = Metrics()
R = TypeVar("R", bound=Response)


def _responses(results: Results, method: Method, kind: type[R]) -> Iterator[tuple[str, R]]:
    """Return the responses of a method for the window of the gauges, with their channels."""
    if results.window:
        window = results.window.days if method is Method.HTTP_CODE else results.window
        for channel in results.settings.channels:
            response = results.snapshot.responses.get(Request(channel, method, window))
            if isinstance(response, kind):
                yield channel, response


@METRICS.gauge("ChinaCache_metrics_isp_total_bytes", "Total Traffic in Bytes.", "channel")
def isp_total_bytes(results: Results) -> Series:
    """`{channel="47"} 1.8124470633e+12`."""
    for channel, response in _responses(results, Method.ISP, Isp):
        if response.total_bytes is not None:
            yield {"channel": channel}, response.total_bytes


@METRICS.gauge("ChinaCache_metrics_isp_specific_flux_ratio", "Flow Rate for a single ISP.", "channel", "isp")
def isp_specific_flux_ratio(results: Results) -> Series:
    """`{channel="47", isp="China Telecom"} 0.36325`."""
    for channel, response in _responses(results, Method.ISP, Isp):
        for isp, ratio in merged((translate_as_before(row.name), row.flux_ratio) for row in response.isps).items():
            yield {"channel": channel, "isp": isp}, ratio


@METRICS.gauge("ChinaCache_metrics_hit_miss_total", "Hits and Misses total values.", "channel", "HitOrMiss")
def hit_miss_total(results: Results) -> Series:
    """`{channel="47", HitOrMiss="Hit"} 1127.0`."""
    for channel, response in _responses(results, Method.HIT_RATE, HitRate):
        for name, value in (("Hit", response.hits), ("Miss", response.misses)):
            if value is not None:
                yield {"channel": channel, "HitOrMiss": name}, value


@METRICS.gauge("ChinaCache_metrics_region_total_bytes", "Total Traffic in Bytes.", "channel")
def region_total_bytes(results: Results) -> Series:
    """`{channel="47"} 8.816302995e+10`."""
    for channel, response in _responses(results, Method.REGION, Region):
        if response.total_bytes is not None:
            yield {"channel": channel}, response.total_bytes


@METRICS.gauge(
    "ChinaCache_metrics_region_specific_flux_ratio", "Flow Rate for a single region.", "channel", "region", "name"
)
def region_specific_flux_ratio(results: Results) -> Series:
    """`{channel="47", region="Province", name="Guangdong Province"} 0.25906`."""
    for channel, response in _responses(results, Method.REGION, Region):
        rows = merged((translate_as_before(row.name), row.flux_ratio) for row in response.provinces)
        for name, ratio in rows.items():
            yield {"channel": channel, "region": "Province", "name": name}, ratio


@METRICS.gauge(
    "ChinaCache_metrics_statuscodes_request_percent",
    "Percentage of Requests that result in the given StatusCode.",
    "channel",
    "StatusCode",
)
def statuscodes_request_percent(results: Results) -> Series:
    """`{channel="47", StatusCode="200"} 97.31`."""
    for channel, response in _responses(results, Method.HTTP_CODE, HttpCode):
        for code, percent in merged((row.code, row.percent) for row in response.codes).items():
            yield {"channel": channel, "StatusCode": code}, percent


@METRICS.gauge(
    "ChinaCache_metrics_statuscodes_request_count",
    "Number of Requests that result in the given StatusCode.",
    "channel",
    "StatusCode",
)
def statuscodes_request_count(results: Results) -> Series:
    """`{channel="47", StatusCode="200"} 9120.0`."""
    for channel, response in _responses(results, Method.HTTP_CODE, HttpCode):
        for code, requests in merged((row.code, row.requests) for row in response.codes).items():
            yield {"channel": channel, "StatusCode": code}, requests
