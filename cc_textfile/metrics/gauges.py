"""The gauges of the older exporter: numbers of a window that ends now. Names, labels and HELP texts are that one's."""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from cc_textfile.metrics.family import Labelled, Results, Source, gauge, merged
from cc_textfile.portal.responses import HitRate, HttpCode, Isp, Method, Region, Response, Share
from cc_textfile.portal.translations import translate_as_before

R = TypeVar("R", bound=Response)


def _responses(method: Method, kind: type[R], **labels: str) -> Callable[[Results], Labelled[R]]:
    def responses(results: Results) -> Labelled[R]:
        if results.window:
            window = results.window.days if method is Method.HTTP_CODE else results.window
            for channel in results.settings.channels:
                # Equal to a Request, and made in a fraction of the time.
                response = results.snapshot.responses.get((channel, method, window))  # type: ignore[call-overload]
                if isinstance(response, kind):
                    yield {"channel": channel, **labels}, response

    return responses


HIT_RATE = Source(_responses(Method.HIT_RATE, HitRate), "channel")
ISP = Source(_responses(Method.ISP, Isp), "channel")
REGION = Source(_responses(Method.REGION, Region), "channel")
PROVINCE = Source(_responses(Method.REGION, Region, region="Province"), "channel", "region")
HTTP_CODE = Source(_responses(Method.HTTP_CODE, HttpCode), "channel")


def _flux_ratios(rows: Iterable[Share]) -> Mapping[str, float | None]:
    return merged([(translate_as_before(row.name), row.flux_ratio) for row in rows])


# fmt: off
METRICS = (
    gauge("ChinaCache_metrics_isp_total_bytes", "Total Traffic in Bytes.", ISP.number(lambda isp: isp.total_bytes)),
    gauge("ChinaCache_metrics_isp_specific_flux_ratio", "Flow Rate for a single ISP.",
          ISP.by("isp", lambda isp: _flux_ratios(isp.isps))),
    gauge("ChinaCache_metrics_hit_miss_total", "Hits and Misses total values.",
          HIT_RATE.by("HitOrMiss", lambda rate: {"Hit": rate.hits, "Miss": rate.misses})),
    gauge("ChinaCache_metrics_region_total_bytes", "Total Traffic in Bytes.",
          REGION.number(lambda region: region.total_bytes)),
    gauge("ChinaCache_metrics_region_specific_flux_ratio", "Flow Rate for a single region.",
          PROVINCE.by("name", lambda region: _flux_ratios(region.provinces))),
    gauge("ChinaCache_metrics_statuscodes_request_percent",
          "Percentage of Requests that result in the given StatusCode.",
          HTTP_CODE.by("StatusCode", lambda http: merged([(row.code, row.percent) for row in http.codes]))),
    gauge("ChinaCache_metrics_statuscodes_request_count", "Number of Requests that result in the given StatusCode.",
          HTTP_CODE.by("StatusCode", lambda http: merged([(row.code, row.requests) for row in http.codes]))),
)
