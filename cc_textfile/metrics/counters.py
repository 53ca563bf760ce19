"""Counters of the ledger, the figures of the last closed day, and the channels' own labels."""

import math
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter

from cc_textfile.ledger import ChannelTotals, ClosedDay
from cc_textfile.metrics.family import Metrics, Results, Series, merged
from cc_textfile.portal.responses import Share
from cc_textfile.portal.translations import translate

METRICS = Metrics()
CHANNEL = ("account", "channel")


def _channels(results: Results) -> Iterator[tuple[dict[str, str], ChannelTotals]]:
    """Return the totals of each channel, with the labels that all its series have."""
    if results.totals:
        for channel, totals in results.totals.channels.items():
            yield {"account": results.settings.account, "channel": channel}, totals


def _single(value: Callable[[ChannelTotals], float | None]) -> Callable[[Results], Series]:
    def series(results: Results) -> Series:
        for labels, totals in _channels(results):
            number = value(totals)
            if number is not None:
                yield labels, float(number)

    return series


def _by(label: str, values: Callable[[ChannelTotals], Mapping[str, float]]) -> Callable[[Results], Series]:
    def series(results: Results) -> Series:
        for labels, totals in _channels(results):
            for key, number in values(totals).items():
                yield {**labels, label: key}, float(number)

    return series


def _of_day(
    rows: Callable[[ClosedDay], tuple[Share, ...]], value: Callable[[tuple[Share, ...]], Mapping[str, float]]
) -> Callable[[ChannelTotals], Mapping[str, float]]:
    return lambda totals: value(rows(totals.day)) if totals.day else {}


def _traffic_ratio(rows: tuple[Share, ...]) -> Mapping[str, float]:
    return merged((translate(row.name), row.flux_ratio) for row in rows)


def _hits(rows: tuple[Share, ...]) -> Mapping[str, float]:
    return merged((translate(row.name), row.hits) for row in rows)


def _hit_ratio(rows: tuple[Share, ...]) -> Mapping[str, float]:
    """Return hit ratios; rows of one label give the mean weighted by hits (plain where none of them has hits)."""
    groups: dict[str, list[Share]] = {}
    for row in rows:
        groups.setdefault(translate(row.name), []).append(row)
    means = {}
    for label, group in groups.items():
        if len(group) == 1:
            means[label] = group[0].hit_ratio
        elif all(row.hit_ratio is not None and row.hits is not None for row in group):
            weights = [row.hits or 0.0 for row in group] if any(row.hits for row in group) else [1.0] * len(group)
            means[label] = sum(w * (r.hit_ratio or 0.0) for w, r in zip(weights, group, strict=True)) / sum(weights)
    return {label: mean for label, mean in means.items() if mean is not None and math.isfinite(mean)}


METRICS.counter("chinacache_traffic_bytes_total", "Bytes delivered in the time counted.", *CHANNEL)(
    _single(lambda totals: totals.traffic_bytes)
)
METRICS.counter(
    "chinacache_requests_total",
    "Requests in the time counted, by whether the cache had the content.",
    *CHANNEL,
    "result",
)(_by("result", lambda totals: totals.requests))
METRICS.counter("chinacache_settled_seconds_total", "Seconds of CDN time counted.", *CHANNEL)(
    _single(lambda totals: totals.settled_seconds)
)
METRICS.counter("chinacache_responses_total", "Responses by HTTP status code.", *CHANNEL, "code")(
    _by("code", lambda totals: totals.responses)
)
METRICS.gauge(
    "chinacache_overcounted_bytes", "Bytes counted that the portal has since withdrawn; 0 as a rule.", *CHANNEL
)(_single(lambda totals: totals.overcounted_bytes))
METRICS.gauge(
    "chinacache_code_traffic_ratio",
    "Share of the traffic of the day so far by HTTP status code, 0 to 1.",
    *CHANNEL,
    "code",
)(_by("code", lambda totals: totals.code_traffic_ratio))
METRICS.gauge(
    "chinacache_day_end_timestamp_seconds",
    "End of the last closed day, in seconds since the epoch; the other chinacache_day metrics are of that day.",
    *CHANNEL,
)(_single(lambda totals: totals.day.end.timestamp() if totals.day else None))
METRICS.gauge("chinacache_day_traffic_bytes", "Bytes delivered on the last closed day.", *CHANNEL)(
    _single(lambda totals: totals.day.traffic_bytes if totals.day else None)
)
for label, word, rows in (
    ("isp", "ISP", attrgetter("isps")),
    ("province", "province", attrgetter("provinces")),
    ("country", "country", attrgetter("countries")),
):
    for name, help_text, value in (
        ("traffic_ratio", "Share of the traffic of the last closed day by {}, 0 to 1.", _traffic_ratio),
        ("hit_ratio", "Hit ratio of the last closed day by {}, 0 to 1.", _hit_ratio),
        ("hits", "Hits of the last closed day by {}.", _hits),
    ):
        METRICS.gauge(f"chinacache_day_{label}_{name}", help_text.format(word), *CHANNEL, label)(
            _by(label, _of_day(rows, value))
        )


@METRICS.gauge("chinacache_channel_info", "Labels of the channel from the channels file; always 1.", *CHANNEL)
def channel_info(results: Results) -> Series:
    """`{account="me", channel="47", name="www.example.com", team="web"} 1.0`; a label that is not given is empty."""
    own = results.settings.channel_labels
    names = dict.fromkeys(name for labels in own.values() for name in labels)
    for channel, labels in own.items():
        every = {name: labels.get(name, "") for name in names}
        yield {"account": results.settings.account, "channel": channel, **every}, 1.0


@METRICS.gauge("cc_textfile_ledger_up", "1 when the ledger was kept in this poll, else 0.", "account")
def ledger_up(results: Results) -> Series:
    """`{account="me"} 1.0`."""
    if results.settings.ledger:
        yield results.poller, float(results.totals is not None)


@METRICS.gauge(
    "cc_textfile_ledger_created_timestamp_seconds", "When the ledger was made, in seconds since the epoch.", "account"
)
def ledger_created(results: Results) -> Series:
    """`{account="me"} 1.7639706e+09`."""
    if results.totals:
        yield results.poller, results.totals.created.timestamp()


METRICS.gauge(
    "cc_textfile_ledger_settled_end_timestamp_seconds",
    "Everything before this time is counted, in seconds since the epoch.",
    *CHANNEL,
)(_single(lambda totals: totals.settled_end.timestamp()))
METRICS.counter(
    "cc_textfile_ledger_lost_seconds_total", "Seconds of CDN time that were skipped and are not counted.", *CHANNEL
)(_single(lambda totals: totals.lost_seconds))
