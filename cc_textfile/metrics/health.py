"""Metrics of the poll itself: when it was, how it went, and what was asked."""

from collections import Counter

from cc_textfile import __version__
from cc_textfile.errors import REASONS
from cc_textfile.metrics.family import Metrics, Results, Series
from cc_textfile.portal.responses import Method

METRICS = Metrics()


@METRICS.gauge("cc_textfile_build_info", "The version of cc_textfile that wrote this; always 1.", "version")
def build_info(results: Results) -> Series:
    """`{version="1.0.0"} 1.0`; a poller that is one of several on a host adds what tells it from the others."""
    settings, poller = results.settings, results.poller
    if not settings.account_given:
        # Several files with one series would be an error for node_exporter; one file needs no account here.
        poller.pop("account")
    yield {"version": __version__, **poller}, 1.0


@METRICS.gauge("cc_textfile_poll_timestamp_seconds", "When the poll ended, in seconds since the epoch.", "account")
def poll_timestamp(results: Results) -> Series:
    """`{account="me"} 1.7639712e+09`."""
    yield results.poller, results.snapshot.ended.timestamp()


@METRICS.gauge("cc_textfile_poll_duration_seconds", "How long the poll took.", "account")
def poll_duration(results: Results) -> Series:
    """`{account="me"} 1.83`."""
    yield results.poller, results.snapshot.seconds


@METRICS.gauge(
    "cc_textfile_poll_success", "1 when at least one request of the poll was answered well, else 0.", "account"
)
def poll_success(results: Results) -> Series:
    """`{account="me"} 1.0`."""
    yield results.poller, float(results.snapshot.success)


@METRICS.gauge("cc_textfile_poll_requests", "Requests that the poll had to make.", "account", "method")
def poll_requests(results: Results) -> Series:
    """`{account="me", method="isp"} 3.0`."""
    counts = Counter(request.method for request in results.snapshot.requests)
    for method in Method:
        yield {**results.poller, "method": method.value}, float(counts[method])


@METRICS.gauge(
    "cc_textfile_poll_failures",
    "Requests of the poll that brought no numbers, by reason; 0 when none.",
    "account",
    "method",
    "reason",
)
def poll_failures(results: Results) -> Series:
    """`{account="me", method="isp", reason="refused"} 0.0`."""
    counts = Counter((request.method, error.reason) for request, error in results.snapshot.failures.items())
    for method in Method:
        for reason in REASONS:
            yield {**results.poller, "method": method.value, "reason": reason}, float(counts[method, reason])


@METRICS.gauge(
    "cc_textfile_poll_dropped_rows",
    "Rows of good responses that could not be read and were left out.",
    "account",
    "method",
)
def poll_dropped_rows(results: Results) -> Series:
    """`{account="me", method="isp"} 0.0`."""
    counts: Counter[Method] = Counter()
    for request, response in results.snapshot.responses.items():
        counts[request.method] += response.dropped_rows
    for method in Method:
        yield {**results.poller, "method": method.value}, float(counts[method])


@METRICS.gauge(
    "cc_textfile_window_start_timestamp_seconds",
    "Start of the window of the ChinaCache_metrics gauges, in seconds since the epoch.",
    "account",
)
def window_start(results: Results) -> Series:
    """`{account="me"} 1.7639706e+09`."""
    if results.window:
        yield results.poller, results.window.start.timestamp()


@METRICS.gauge(
    "cc_textfile_window_end_timestamp_seconds",
    "End of the window of the ChinaCache_metrics gauges, in seconds since the epoch.",
    "account",
)
def window_end(results: Results) -> Series:
    """`{account="me"} 1.7639709e+09`."""
    if results.window:
        yield results.poller, results.window.end.timestamp()


@METRICS.gauge(
    "cc_textfile_method_up",
    "1 when every request of this method for this channel was answered well, else 0.",
    "account",
    "channel",
    "method",
)
def method_up(results: Results) -> Series:
    """`{account="me", channel="47", method="isp"} 1.0`."""
    failed = {(request.channel, request.method) for request in results.snapshot.failures}
    made = {(request.channel, request.method) for request in results.snapshot.responses} | failed
    poller = results.poller
    for channel in results.settings.channels:
        for method in Method:
            if (channel, method) in made:
                yield {**poller, "channel": channel, "method": method.value}, float((channel, method) not in failed)
