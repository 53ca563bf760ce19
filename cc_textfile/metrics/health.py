"""Metrics of the poll itself: when it was, how it went, and what was asked."""

from collections.abc import Iterable

from cc_textfile import __version__
from cc_textfile.errors import REASONS
from cc_textfile.metrics.family import POLL, Labelled, Results, Source, gauge
from cc_textfile.portal.responses import Method


def _by_method(counts: Iterable[tuple[Method, int]]) -> dict[str, float]:
    """Add up by method."""
    sums: dict[str, float] = dict.fromkeys(Method, 0.0)
    for method, count in counts:
        sums[method] += count
    return sums


def _failures(results: Results) -> Labelled[list[str]]:
    """Return the reasons of each method's failures."""
    for method in Method:
        reasons = [error.reason for request, error in results.snapshot.failures.items() if request.method is method]
        yield {**results.poller, "method": method}, reasons


def _up(results: Results) -> Labelled[dict[str, float | None]]:
    """Return each method's channels: 1 where all requests were answered well, 0 where not, None without requests."""
    for method in Method:
        up: dict[str, float | None] = dict.fromkeys(results.settings.channels)
        up |= {request.channel: 1.0 for request in results.snapshot.responses if request.method is method}
        up |= {request.channel: 0.0 for request in results.snapshot.failures if request.method is method}
        yield {**results.poller, "method": method}, up


FAILURES = Source(_failures, "account", "method")
UP = Source(_up, "account", "method")


def _success(results: Results) -> float:
    """Return 1 where a request was answered well, or a ledger that was kept had nothing to ask."""
    return float(bool(results.snapshot.responses) or (results.snapshot.success and results.totals is not None))


def _version(results: Results) -> Labelled[float]:
    """Return 1; a poller that is one of several on a host adds what tells it from the others."""
    poller = results.poller
    if not results.settings.account_given:
        # Several files with one series would be an error for node_exporter; one file needs no account here.
        poller.pop("account")
    yield {"version": __version__, **poller}, 1.0


# fmt: off
METRICS = (
    gauge("cc_textfile_build_info", "The version of cc_textfile that wrote this; always 1.", (("version",), _version)),
    gauge("cc_textfile_poll_timestamp_seconds", "When the poll ended, in seconds since the epoch.",
          POLL.number(lambda results: results.snapshot.ended.timestamp())),
    gauge("cc_textfile_poll_duration_seconds", "How long the poll took.",
          POLL.number(lambda results: results.snapshot.seconds)),
    gauge("cc_textfile_poll_success", "1 when at least one request of the poll was answered well, else 0.",
          POLL.number(_success)),
    gauge("cc_textfile_poll_requests", "Requests that the poll had to make.",
          POLL.by("method", lambda results: _by_method((request.method, 1) for request in results.snapshot.requests))),
    gauge("cc_textfile_poll_failures", "Requests of the poll that brought no numbers, by reason; 0 when none.",
          FAILURES.by("reason", lambda reasons: {reason: reasons.count(reason) for reason in REASONS})),
    gauge("cc_textfile_poll_dropped_rows", "Rows of good responses that could not be read and were left out.",
          POLL.by("method", lambda results: _by_method(
              (request.method, response.dropped_rows) for request, response in results.snapshot.responses.items()))),
    gauge("cc_textfile_window_start_timestamp_seconds",
          "Start of the window of the ChinaCache_metrics gauges, in seconds since the epoch.",
          POLL.number(lambda results: results.window.start.timestamp() if results.window else None)),
    gauge("cc_textfile_window_end_timestamp_seconds",
          "End of the window of the ChinaCache_metrics gauges, in seconds since the epoch.",
          POLL.number(lambda results: results.window.end.timestamp() if results.window else None)),
    gauge("cc_textfile_method_up", "1 when every request of this method for this channel was answered well, else 0.",
          UP.by("channel", lambda up: up)),
)
