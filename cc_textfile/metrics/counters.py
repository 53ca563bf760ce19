"""Counters of the ledger, the figures of the last closed day, and the channels' own labels."""

import math
from collections.abc import Callable, Mapping, Sequence

from cc_textfile.ledger import ChannelTotals, ClosedDay
from cc_textfile.metrics.family import POLL, Definition, Labelled, Results, Source, counter, gauge, merged
from cc_textfile.portal.responses import Share
from cc_textfile.portal.translations import translate


def _totals(results: Results) -> Labelled[ChannelTotals]:
    if results.totals:
        for channel, totals in results.totals.channels.items():
            yield {"account": results.settings.account, "channel": channel}, totals


def _days(results: Results) -> Labelled[ClosedDay]:
    for labels, totals in _totals(results):
        if totals.day:
            yield labels, totals.day


TOTALS = Source(_totals, "account", "channel")
DAY = Source(_days, "account", "channel")


def _hit_ratios(rows: Sequence[Share]) -> Mapping[str, float | None]:
    groups: dict[str, list[Share]] = {}
    for row in rows:
        groups.setdefault(translate(row.name), []).append(row)
    return {label: _hit_ratio(group) for label, group in groups.items()}


def _hit_ratio(rows: list[Share]) -> float | None:
    """Return the mean weighted by hits, or a plain one where there are no hits; None where a part is not known."""
    if len(rows) == 1:
        return rows[0].hit_ratio
    parts = [(row.hit_ratio, row.hits) for row in rows if row.hit_ratio is not None and row.hits is not None]
    if len(parts) < len(rows):
        return None
    hits = sum(weight for _, weight in parts)
    mean = sum(r * weight for r, weight in parts) / hits if hits else sum(r for r, _ in parts) / len(parts)
    return mean if math.isfinite(mean) else None


# fmt: off
def _of_day(label: str, word: str, rows: Callable[[ClosedDay], Sequence[Share]]) -> tuple[Definition, ...]:
    """Return the gauges of one breakdown of the last closed day."""
    return (
        gauge(f"chinacache_day_{label}_traffic_ratio",
              f"Share of the traffic of the last closed day by {word}, 0 to 1.",
              DAY.by(label, lambda day: merged([(translate(row.name), row.flux_ratio) for row in rows(day)]))),
        gauge(f"chinacache_day_{label}_hit_ratio", f"Hit ratio of the last closed day by {word}, 0 to 1.",
              DAY.by(label, lambda day: _hit_ratios(rows(day)))),
        gauge(f"chinacache_day_{label}_hits", f"Hits of the last closed day by {word}.",
              DAY.by(label, lambda day: merged([(translate(row.name), row.hits) for row in rows(day)]))),
    )


def _own_labels(results: Results) -> Labelled[float]:
    """Return 1 for each channel of a file with labels; a label that only others have is empty."""
    own = results.settings.channel_labels
    names = dict.fromkeys(name for labels in own.values() for name in labels)
    for channel, labels in own.items():
        every = {name: labels.get(name, "") for name in names}
        yield {"account": results.settings.account, "channel": channel, **every}, 1.0


METRICS = (
    counter("chinacache_traffic_bytes_total", "Bytes delivered in the time counted.",
            TOTALS.number(lambda totals: totals.traffic_bytes)),
    counter("chinacache_requests_total", "Requests in the time counted, by whether the cache had the content.",
            TOTALS.by("result", lambda totals: totals.requests)),
    counter("chinacache_settled_seconds_total", "Seconds of CDN time counted.",
            TOTALS.number(lambda totals: totals.settled_seconds)),
    counter("chinacache_responses_total", "Responses by HTTP status code.",
            TOTALS.by("code", lambda totals: totals.responses)),
    gauge("chinacache_overcounted_bytes", "Bytes counted that the portal has since withdrawn; 0 as a rule.",
          TOTALS.number(lambda totals: totals.overcounted_bytes)),
    gauge("chinacache_code_traffic_ratio", "Share of the traffic of the day so far by HTTP status code, 0 to 1.",
          TOTALS.by("code", lambda totals: totals.code_traffic_ratio)),
    gauge("chinacache_day_end_timestamp_seconds",
          "End of the last closed day, in seconds since the epoch; the other chinacache_day metrics are of that day.",
          DAY.number(lambda day: day.end.timestamp())),
    gauge("chinacache_day_traffic_bytes", "Bytes delivered on the last closed day.",
          DAY.number(lambda day: day.traffic_bytes)),
    *_of_day("isp", "ISP", lambda day: day.isps),
    *_of_day("province", "province", lambda day: day.provinces),
    *_of_day("country", "country", lambda day: day.countries),
    gauge("chinacache_channel_info", "Labels of the channel from the channels file; always 1.",
          (("account", "channel"), _own_labels)),
    gauge("cc_textfile_ledger_up", "1 when the ledger was kept in this poll, else 0.",
          POLL.number(lambda results: float(results.totals is not None) if results.settings.ledger else None)),
    gauge("cc_textfile_ledger_created_timestamp_seconds", "When the ledger was made, in seconds since the epoch.",
          POLL.number(lambda results: results.totals.created.timestamp() if results.totals else None)),
    gauge("cc_textfile_ledger_settled_end_timestamp_seconds",
          "Everything before this time is counted, in seconds since the epoch.",
          TOTALS.number(lambda totals: totals.settled_end.timestamp())),
    counter("cc_textfile_ledger_lost_seconds_total", "Seconds of CDN time that were skipped.",
            TOTALS.number(lambda totals: totals.lost_seconds)),
)
