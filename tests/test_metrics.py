"""Whatever a poll brought, its text is one that Prometheus' parsers take, and says that and no more."""

import math
import tracemalloc
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import add
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from cc_textfile import __version__
from cc_textfile.errors import REASONS, Refused, RequestError, RequestTimeout
from cc_textfile.ledger import ChannelTotals, ClosedDay, Totals
from cc_textfile.logs import Redactor
from cc_textfile.metrics import METRICS, Results, ResultsCollector, registry
from cc_textfile.metrics import gauges as older
from cc_textfile.output.pushgateway import Pushgateway
from cc_textfile.output.textfile import Textfile
from cc_textfile.poll import Snapshot, gauge_requests
from cc_textfile.portal.responses import (
    HitRate,
    HttpCode,
    Isp,
    Method,
    Region,
    Request,
    Response,
    Share,
    StatusCode,
)
from cc_textfile.portal.translations import TABLE, translate_as_before
from cc_textfile.portal.window import Window
from cc_textfile.settings import Settings, Shard
from tests.conftest import get

NOW = datetime(2024, 2, 29, 16, 3, 20, tzinfo=UTC)
WINDOW = Window.ending(NOW, 5)
DAYS = WINDOW.days

Series = tuple[str, frozenset[tuple[str, str]]]
"""A metric's name and labels."""


def settings_of(*channels: str, account: str = "me") -> Settings:
    """Return settings of an account."""
    return Settings(user="me", password="secret", account=account, channels=channels)


def request(channel: str, method: Method) -> Request:
    """Return the request behind a gauge."""
    return Request(channel, method, DAYS if method is Method.HTTP_CODE else WINDOW)


def results_of(
    responses: Mapping[tuple[str, Method], Response], failures: Mapping[tuple[str, Method], RequestError] | None = None
) -> Results:
    """Return a finished poll with these responses and failures."""
    failures = failures or {}
    channels = tuple(dict.fromkeys(channel for channel, _ in (*responses, *failures)))
    good = {request(*key): response for key, response in responses.items()}
    bad = {request(*key): error for key, error in failures.items()}
    return Results(settings_of(*channels), Snapshot(good, bad, NOW, 0.25), WINDOW, None)


def text_of(results: Results) -> str:
    """Return the exposition text."""
    return generate_latest(registry(results)[0]).decode()


def parsed(text: str) -> dict[Series, float]:
    """Return what Prometheus' own Python parser reads in a text; a series that is there twice is an error."""
    found: dict[Series, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series = sample.name, frozenset(sample.labels.items())
            assert series not in found, f"{series} is there twice"
            found[series] = sample.value
    return found


def named(name: str, /, **labels: str) -> Series:
    """Return a series by its name and labels."""
    return name, frozenset(labels.items())


def gauge(name: str, /, **labels: str) -> Series:
    """Return a series of the older exporter by its name, without the prefix, and its labels."""
    return named(f"ChinaCache_metrics_{name}", **labels)


def share(name: str, ratio: float | None) -> Share:
    """Return a row of which only the share of traffic matters."""
    return Share(name, ratio, None, None)


DAY = ClosedDay(
    end=datetime(2024, 2, 28, 16, tzinfo=UTC),
    traffic_bytes=86_400,
    isps=(Share("中国联通", 0.25, 300, 0.5), Share("f中国联通", 0.125, 100, 0.9), Share("海南省", 0.5, 0, 0.25)),
    provinces=(Share("海南省", 0.5, 7, 0.25),),
    countries=(Share("韩国", 0.5, 7, 0.25), Share("新西兰", None, None, 0.75)),
)
CHANNEL = ChannelTotals(
    settled_end=datetime(2024, 2, 29, 15, 45, tzinfo=UTC),
    settled_seconds=900,
    lost_seconds=300,
    traffic_bytes=12_345,
    overcounted_bytes=5,
    requests={"hit": 9, "miss": 1},
    responses={"200": 8, "502": 2},
    code_traffic_ratio={"200": 0.875},
    day=DAY,
)
TOTALS = Totals(created=datetime(2024, 1, 1, tzinfo=UTC), channels={"47": CHANNEL})

EXAMPLE = replace(
    results_of(
        {
            ("47", Method.HIT_RATE): HitRate(hits=1127, misses=85),
            ("47", Method.ISP): Isp(total_bytes=1812447063300, isps=(share("中国电信", 0.36325),)),
            ("47", Method.REGION): Region(
                total_bytes=88163029950, provinces=(share("广东省", 0.25906),), countries=(share("美国", 0.5),)
            ),
            ("47", Method.HTTP_CODE): HttpCode(codes=(StatusCode("200", 9120, 97.31, 99.02),)),
        }
    ),
    totals=TOTALS,
)


def test_the_gauges_of_the_contracts_example_responses() -> None:
    """Names, labels and values are those that the older exporter made of them."""
    found = parsed(text_of(EXAMPLE))
    assert {series: value for series, value in found.items() if series[0].startswith("ChinaCache_metrics_")} == {
        gauge("isp_total_bytes", channel="47"): 1812447063300,
        gauge("isp_specific_flux_ratio", channel="47", isp="China Telecom"): 0.36325,
        gauge("hit_miss_total", channel="47", HitOrMiss="Hit"): 1127,
        gauge("hit_miss_total", channel="47", HitOrMiss="Miss"): 85,
        gauge("region_total_bytes", channel="47"): 88163029950,
        gauge("region_specific_flux_ratio", channel="47", region="Province", name="Guangdong Province"): 0.25906,
        gauge("statuscodes_request_percent", channel="47", StatusCode="200"): 97.31,
        gauge("statuscodes_request_count", channel="47", StatusCode="200"): 9120,
    }


# --- Rows that end in one label --------------------------------------------------------------------------------------


def test_two_spellings_of_a_carrier_are_one_series() -> None:
    """中国联通 and f中国联通 are both China Unicom, and so is a row in English: what adds up is added."""
    rows = (share("中国联通", 0.25), share("中国电信", 0.125), share("f中国联通", 0.5), share("China Unicom", 0.0625))
    found = parsed(text_of(results_of({("47", Method.ISP): Isp(total_bytes=1, isps=rows)})))
    assert found[gauge("isp_specific_flux_ratio", channel="47", isp="China Unicom")] == 0.8125
    assert found[gauge("isp_specific_flux_ratio", channel="47", isp="China Telecom")] == 0.125


def test_a_sum_of_which_a_part_is_not_known_is_not_given() -> None:
    """A row without a number keeps its whole series out, and no other: a part must not pass for the whole."""
    shares = (share("中国联通", 0.25), share("f中国联通", None), share("中国联通", 0.25), share("中国电信", 0.125))
    codes = (
        StatusCode("200", 7, None, None),
        StatusCode("200", 2, 1.5, None),
        StatusCode("404", None, None, None),
        StatusCode("404", 3, 9.5, None),
        StatusCode("500", 1, 0.5, None),
    )
    responses: dict[tuple[str, Method], Response] = {
        ("47", Method.ISP): Isp(total_bytes=None, isps=shares, dropped_rows=1),
        ("48", Method.ISP): Isp(total_bytes=None, isps=(share("中国联通", 0.75),)),
        ("47", Method.HTTP_CODE): HttpCode(codes=codes, dropped_rows=1),
    }
    found = parsed(text_of(results_of(responses)))
    assert {name: value for name, value in found.items() if name[0].startswith("ChinaCache_metrics_isp")} == {
        gauge("isp_specific_flux_ratio", channel="47", isp="China Telecom"): 0.125,
        gauge("isp_specific_flux_ratio", channel="48", isp="China Unicom"): 0.75,
    }
    assert {name: value for name, value in found.items() if "statuscodes" in name[0]} == {
        gauge("statuscodes_request_count", channel="47", StatusCode="200"): 9,
        gauge("statuscodes_request_count", channel="47", StatusCode="500"): 1,
        gauge("statuscodes_request_percent", channel="47", StatusCode="500"): 0.5,
    }
    assert found[named("cc_textfile_poll_dropped_rows", account="me", method="isp")] == 1


def test_a_sum_beyond_all_numbers_is_not_given() -> None:
    """Two numbers may each be finite and their sum not."""
    rows = (share("中国联通", 1.5e308), share("f中国联通", 1.5e308))
    assert "China Unicom" not in text_of(results_of({("47", Method.ISP): Isp(total_bytes=1, isps=rows)}))


# --- Registering -----------------------------------------------------------------------------------------------------


def test_registering_does_not_render() -> None:
    """`describe` names the families; results are rendered when they are delivered, and not before."""

    class NotYet(ResultsCollector):
        def collect(self) -> Iterable[Metric]:
            pytest.fail("collected at registration")

    described = list(NotYet(METRICS, EXAMPLE).describe())
    assert [(family.name, family.documentation, family.type) for family in described] == [
        (metric.name.removesuffix("_total") if metric.is_counter else metric.name, metric.help, kind)
        for metric in METRICS
        for kind in ["counter" if metric.is_counter else "gauge"]
    ]
    assert not any(list(family.samples) for family in described)


def test_series_are_counted_and_the_same_at_each_scrape() -> None:
    """A registry may be read again, when a push follows a file that could not be written."""
    private, collector = registry(EXAMPLE)
    first = generate_latest(private).decode()
    assert len(parsed(first)) == collector.series
    assert generate_latest(private).decode() == first


def test_samples_have_the_labels_that_the_metric_declares() -> None:
    """What `describe`, and the documents, say of a metric is what its samples have."""
    results = replace(EXAMPLE, settings=replace(EXAMPLE.settings, ledger=Path("l"), channel_labels={"47": {}}))
    for metric in METRICS:
        labels = [tuple(labels) for labels, _ in metric.series(results)]
        assert labels, metric.name
        assert set(labels) == {metric.labels}


def test_rendering_keeps_no_sample() -> None:
    """However many series a poll has, its samples are made one by one: memory is for the text."""
    codes = HttpCode(codes=tuple(StatusCode(str(n), 1.0, 1.0, 1.0) for n in range(20_000)))
    results = results_of({("7", Method.HTTP_CODE): codes})
    tracemalloc.start()
    for family in ResultsCollector(older.METRICS, results).collect():
        for _ in family.samples:
            pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A list of Samples alone takes more than twice this.
    assert peak < 20_000 * 300


# --- Pollers, the ledger, labels of one's own ------------------------------------------------------------------------


def test_a_shard_and_an_explicit_account_tell_a_poller_from_others() -> None:
    """The metrics of the poll have `account` and `shard`; so has the version where one host has several pollers."""
    sharded = replace(EXAMPLE.settings, account="shop", account_given=True, shard=Shard(2, 4))
    found = parsed(text_of(replace(EXAMPLE, settings=sharded)))
    assert found[named("cc_textfile_poll_success", account="shop", shard="2/4")] == 1
    assert found[named("cc_textfile_build_info", version=__version__, account="shop", shard="2/4")] == 1
    assert found[named("chinacache_traffic_bytes_total", account="shop", channel="47")] == 12_345


def test_the_ledgers_totals_are_exported_under_the_names_of_section_6() -> None:
    """Counters, the figures of the day that was closed last, and the ledger's own state."""
    settings = replace(EXAMPLE.settings, ledger=Path("ledger"))
    found = parsed(text_of(replace(EXAMPLE, settings=settings)))
    channel = {"account": "me", "channel": "47"}
    assert {name: value for name, value in found.items() if "hinacache_" in name[0] or "_ledger_" in name[0]} == {
        named("chinacache_traffic_bytes_total", **channel): 12_345,
        named("chinacache_requests_total", **channel, result="hit"): 9,
        named("chinacache_requests_total", **channel, result="miss"): 1,
        named("chinacache_settled_seconds_total", **channel): 900,
        named("chinacache_responses_total", **channel, code="200"): 8,
        named("chinacache_responses_total", **channel, code="502"): 2,
        named("chinacache_overcounted_bytes", **channel): 5,
        named("chinacache_code_traffic_ratio", **channel, code="200"): 0.875,
        named("chinacache_day_end_timestamp_seconds", **channel): DAY.end.timestamp(),
        named("chinacache_day_traffic_bytes", **channel): 86_400,
        # Two spellings of one carrier: shares and hits are added, hit ratios weighted by hits.
        named("chinacache_day_isp_traffic_ratio", **channel, isp="China Unicom"): 0.375,
        named("chinacache_day_isp_hits", **channel, isp="China Unicom"): 400,
        named("chinacache_day_isp_hit_ratio", **channel, isp="China Unicom"): 0.6,
        named("chinacache_day_isp_traffic_ratio", **channel, isp="Hainan Province"): 0.5,
        named("chinacache_day_isp_hits", **channel, isp="Hainan Province"): 0,
        named("chinacache_day_isp_hit_ratio", **channel, isp="Hainan Province"): 0.25,
        named("chinacache_day_province_traffic_ratio", **channel, province="Hainan Province"): 0.5,
        named("chinacache_day_province_hits", **channel, province="Hainan Province"): 7,
        named("chinacache_day_province_hit_ratio", **channel, province="Hainan Province"): 0.25,
        named("chinacache_day_country_traffic_ratio", **channel, country="South Korea"): 0.5,
        named("chinacache_day_country_hits", **channel, country="South Korea"): 7,
        named("chinacache_day_country_hit_ratio", **channel, country="South Korea"): 0.25,
        named("chinacache_day_country_hit_ratio", **channel, country="New Zealand"): 0.75,
        named("cc_textfile_ledger_up", account="me"): 1,
        named("cc_textfile_ledger_created_timestamp_seconds", account="me"): TOTALS.created.timestamp(),
        named("cc_textfile_ledger_settled_end_timestamp_seconds", **channel): CHANNEL.settled_end.timestamp(),
        named("cc_textfile_ledger_lost_seconds_total", **channel): 300,
    }


@pytest.mark.parametrize(
    ("rows", "mean"),
    [
        ((Share("中国联通", 0, 0, 0.5), Share("f中国联通", 0, 0, 0.25)), 0.375),
        ((Share("中国联通", 0, 0, 0.5), Share("f中国联通", 0, 10, 0.25)), 0.25),
        ((Share("中国联通", 0, 30, 0.0), Share("f中国联通", 0, 10, 0.5)), 0.125),
        ((Share("中国联通", 0, 10, 0.5), Share("f中国联通", 0, None, 0.25)), None),
        ((Share("中国联通", 0, 10, 0.5), Share("f中国联通", 0, 10, None)), None),
        ((Share("中国联通", 0, None, 0.5),), 0.5),
        ((Share("中国联通", 0, 10, None),), None),
        ((Share("中国联通", 0, 1e308, 1e10), Share("f中国联通", 0, 1e308, 0.25)), None),
    ],
)
def test_merged_hit_ratios_are_weighted_by_hits(rows: tuple[Share, ...], mean: float | None) -> None:
    """The mean of merged rows is known only if all ratios and hits are; one row needs no hits."""
    day = replace(DAY, isps=rows)
    totals = Totals(TOTALS.created, {"47": replace(CHANNEL, day=day)})
    found = parsed(text_of(replace(EXAMPLE, totals=totals)))
    assert found.get(named("chinacache_day_isp_hit_ratio", account="me", channel="47", isp="China Unicom")) == mean


def test_a_ledger_that_failed_costs_its_metrics_and_says_so() -> None:
    """Without totals there are no counters; `cc_textfile_ledger_up` is there only if a ledger is set."""
    failed = replace(EXAMPLE, settings=replace(EXAMPLE.settings, ledger=Path("ledger")), totals=None)
    found = parsed(text_of(failed))
    assert found[named("cc_textfile_ledger_up", account="me")] == 0
    assert not any("hinacache_" in name or "ledger_c" in name for name, _ in found)
    assert "ledger" not in text_of(replace(EXAMPLE, totals=None))


def test_what_is_not_counted_or_not_closed_yet_is_absent() -> None:
    """None is no series: no zero stands for a number that is not known."""
    fresh = replace(CHANNEL, traffic_bytes=None, overcounted_bytes=None, requests={}, responses={}, day=None)
    text = text_of(replace(EXAMPLE, totals=Totals(TOTALS.created, {"47": fresh})))
    for name in ("traffic_bytes", "overcounted", "requests", "responses", "day"):
        assert f"\nchinacache_{name}" not in text
    assert 'chinacache_settled_seconds_total{account="me",channel="47"} 900.0' in text


def test_without_gauges_there_is_no_window() -> None:
    """The window of section 2 is that of the gauges."""
    text = text_of(replace(EXAMPLE, window=None))
    assert "cc_textfile_window" not in text
    assert "ChinaCache_metrics" not in text


def test_a_method_is_up_when_all_its_requests_were_answered_well() -> None:
    """A request for the ledger counts like one for a gauge; a poll that had nothing to ask is no failed poll.

    But for one whose ledger is broken: nobody knows what there was to ask.
    """
    late = Request("47", Method.ISP, Window(WINDOW.start - timedelta(hours=1), WINDOW.start))
    snapshot = EXAMPLE.snapshot
    found = parsed(text_of(replace(EXAMPLE, snapshot=replace(snapshot, failures={late: RequestTimeout("late")}))))
    assert found[named("cc_textfile_method_up", account="me", channel="47", method="isp")] == 0
    assert found[named("cc_textfile_method_up", account="me", channel="47", method="region")] == 1
    assert found[named("cc_textfile_poll_requests", account="me", method="isp")] == 2
    assert found[named("cc_textfile_poll_failures", account="me", method="isp", reason="timeout")] == 1
    nothing = parsed(text_of(replace(EXAMPLE, snapshot=Snapshot({}, {}, NOW, 0.0))))
    assert nothing[named("cc_textfile_poll_success", account="me")] == 1
    broken = parsed(text_of(replace(EXAMPLE, snapshot=Snapshot({}, {}, NOW, 0.0), totals=None)))
    assert broken[named("cc_textfile_poll_success", account="me")] == 0


def test_labels_of_the_channels_file_are_exported() -> None:
    """A label that another channel has is empty, so that all series of the metric have the same labels."""
    own = {"47": {"name": "www.example.com", "team": "web"}, "48": {"name": "img"}}
    found = parsed(text_of(replace(EXAMPLE, settings=replace(EXAMPLE.settings, channel_labels=own))))
    info = {"account": "me", "channel": "47", "name": "www.example.com", "team": "web"}
    assert found[named("chinacache_channel_info", **info)] == 1
    assert found[named("chinacache_channel_info", account="me", channel="48", name="img", team="")] == 1


# --- Whatever the portal sends ---------------------------------------------------------------------------------------

HOSTILE = [
    'say "hello"',
    "two\nlines",
    "back\\slash",
    "\\",
    '\\"',
    "\\n",
    "a\\\nb",
    "carriage\rreturn",
    "nul\0byte",
    "\x1b[31mred",
    "مرحبا\u202eadmin",
    "\u2028\u2029\x85\x0b\x0c",
    '"} 1\nup{job="x',
    "{}=,#",
    "# HELP x y",
    "\ufeff中国",
    "\U0001f4a9\U0010ffff",
    " blanks around ",
    "x" * 100_000,
]
"""Names that a portal could send, all of them UTF-8, to programs that were not made for them."""

numbers = st.none() | st.floats(0, allow_nan=False, allow_infinity=False) | st.integers(0, 10**15).map(float)
names = st.sampled_from([*TABLE, *HOSTILE[:-1]]) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=9)
few_names = st.sampled_from(["中国联通", "f中国联通", "China Unicom", "广东省"])
shares = st.lists(st.builds(Share, names | few_names, numbers, numbers, numbers), max_size=5).map(tuple)
codes = st.lists(
    st.builds(StatusCode, st.sampled_from(["200", "404"]) | names, numbers, numbers, numbers), max_size=5
).map(tuple)
dropped = st.integers(0, 9)
channels = st.lists(
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=5),
    min_size=1,
    max_size=3,
    unique=True,
)
errors = st.sampled_from([RequestTimeout("late"), Refused("no")])
OUTCOMES: Mapping[Method, st.SearchStrategy[Response | RequestError]] = {
    Method.HIT_RATE: st.builds(HitRate, hits=numbers, misses=numbers, dropped_rows=dropped) | errors,
    Method.ISP: st.builds(Isp, total_bytes=numbers, isps=shares, dropped_rows=dropped) | errors,
    Method.REGION: st.builds(Region, total_bytes=numbers, provinces=shares, countries=shares, dropped_rows=dropped)
    | errors,
    Method.HTTP_CODE: st.builds(HttpCode, codes=codes, dropped_rows=dropped) | errors,
}


@st.composite
def results(draw: st.DrawFn) -> Results:
    """Return polls of some channels, with a response or a failure for each method."""
    responses: dict[tuple[str, Method], Response] = {}
    failures: dict[tuple[str, Method], RequestError] = {}
    for channel in draw(channels):
        for method in Method:
            outcome = draw(OUTCOMES[method])
            if isinstance(outcome, RequestError):
                failures[channel, method] = outcome
            else:
                responses[channel, method] = outcome
    return results_of(responses, failures)


def sums(rows: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    """Add up by label, where all parts are known and the sum is finite; not by `sum`, which rounds less since 3.12."""
    parts: dict[str, list[float | None]] = {}
    for label, value in rows:
        parts.setdefault(label, []).append(value)
    known = {label: reduce(add, filter(None, values), 0.0) for label, values in parts.items() if None not in values}
    return {label: float(value) for label, value in known.items() if math.isfinite(value)}


def expected(results: Results) -> dict[Series, float]:
    """Return what the text is to say of the portal's responses."""
    all_of_them: dict[Series, float | None] = {}
    for (channel, _, _), response in results.snapshot.responses.items():
        match response:
            case HitRate():
                all_of_them[gauge("hit_miss_total", channel=channel, HitOrMiss="Hit")] = response.hits
                all_of_them[gauge("hit_miss_total", channel=channel, HitOrMiss="Miss")] = response.misses
            case Isp():
                all_of_them[gauge("isp_total_bytes", channel=channel)] = response.total_bytes
                for name, value in sums(
                    (translate_as_before(row.name), row.flux_ratio) for row in response.isps
                ).items():
                    all_of_them[gauge("isp_specific_flux_ratio", channel=channel, isp=name)] = value
            case Region():
                all_of_them[gauge("region_total_bytes", channel=channel)] = response.total_bytes
                rows = sums((translate_as_before(row.name), row.flux_ratio) for row in response.provinces)
                for name, value in rows.items():
                    place = gauge("region_specific_flux_ratio", channel=channel, region="Province", name=name)
                    all_of_them[place] = value
            case HttpCode():
                for code, value in sums((row.code, row.requests) for row in response.codes).items():
                    all_of_them[gauge("statuscodes_request_count", channel=channel, StatusCode=code)] = value
                for code, value in sums((row.code, row.percent) for row in response.codes).items():
                    all_of_them[gauge("statuscodes_request_percent", channel=channel, StatusCode=code)] = value
    return {series: value for series, value in all_of_them.items() if value is not None}


def expected_of_the_poll(results: Results) -> dict[Series, float]:
    """Return what the text is to say of the poll."""
    snapshot = results.snapshot
    me = ("account", "me")
    values: dict[Series, float] = {
        ("build_info", frozenset({("version", __version__)})): 1,
        ("poll_timestamp_seconds", frozenset({me})): NOW.timestamp(),
        ("poll_duration_seconds", frozenset({me})): 0.25,
        ("poll_success", frozenset({me})): float(bool(snapshot.responses)),
        ("window_start_timestamp_seconds", frozenset({me})): NOW.timestamp() - 320,
        ("window_end_timestamp_seconds", frozenset({me})): NOW.timestamp() - 20,
    }
    for method in Method:
        good = [response for request, response in snapshot.responses.items() if request.method is method]
        failed = [error.reason for request, error in snapshot.failures.items() if request.method is method]
        of = ("method", method.value)
        values["poll_requests", frozenset({me, of})] = len(good) + len(failed)
        values["poll_dropped_rows", frozenset({me, of})] = sum(each.dropped_rows for each in good)
        for reason in REASONS:
            values["poll_failures", frozenset({me, of, ("reason", reason)})] = failed.count(reason)
        for channel in results.settings.channels:
            up = request(channel, method) in snapshot.responses
            values["method_up", frozenset({me, of, ("channel", channel)})] = float(up)
    return {(f"cc_textfile_{name}", labels): value for (name, labels), value in values.items()}


@given(results())
def test_the_text_says_what_the_poll_brought(results: Results) -> None:
    """Read back, the text is the poll: every number that is known, under its labels, once, and nothing else."""
    assert parsed(text_of(results)) == expected(results) | expected_of_the_poll(results)


def test_all_requests_behind_the_gauges_are_made_once() -> None:
    """One request for each method and channel; status codes are of the whole days on which the window lies."""
    requests = gauge_requests(("47", "48"), (Method.ISP, Method.HTTP_CODE), WINDOW)
    assert requests == [
        Request(channel, method, window)
        for channel in ("47", "48")
        for method, window in ((Method.ISP, WINDOW), (Method.HTTP_CODE, DAYS))
    ]


# --- The real programs -----------------------------------------------------------------------------------------------


def hostile_results() -> Results:
    """Return a poll in which each hostile name is the name of everything."""
    rows = tuple(share(name, n / 64) for n, name in enumerate(HOSTILE))
    codes = tuple(StatusCode(name, n, n / 64, None) for n, name in enumerate(HOSTILE))
    return results_of(
        {
            ('"47"\\', Method.ISP): Isp(total_bytes=1, isps=rows),
            ('"47"\\', Method.REGION): Region(total_bytes=1, provinces=rows, countries=()),
            ('"47"\\', Method.HTTP_CODE): HttpCode(codes=codes),
        }
    )


def test_node_exporter_serves_hostile_names(tmp_path: Path, node_exporter: Callable[[Path], str]) -> None:
    """Whatever the names hold, the real node_exporter reads the file and serves each series with its name and value."""
    Textfile(tmp_path / "hostile.prom").deliver(registry(hostile_results())[0])
    served = get(node_exporter(tmp_path))
    assert "node_textfile_scrape_error 0" in served.splitlines()
    assert expected(hostile_results()).items() <= parsed_of_gauges(served).items()


def test_the_pushgateway_takes_hostile_names(pushgateway: Callable[[], str]) -> None:
    """The real Pushgateway accepts the same text, and serves it."""
    url = pushgateway()
    settings = replace(settings_of("47"), pushgateway=url, timeout=60)
    Pushgateway(settings, Redactor()).deliver(registry(hostile_results())[0])
    grouped = {
        (name, labels | {("job", "ChinaCachePush"), ("instance", "")}): value
        for (name, labels), value in expected(hostile_results()).items()
    }
    assert grouped.items() <= parsed_of_gauges(get(f"{url}/metrics")).items()


def parsed_of_gauges(text: str) -> dict[Series, float]:
    """Return what a server's text says of our metrics."""
    lines = [line for line in text.split("\n") if "ChinaCache_metrics" in line]
    return parsed("\n".join(lines) + "\n")
