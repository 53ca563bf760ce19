"""Whatever a snapshot holds, its text is one that Prometheus' parsers take, and says what the snapshot says."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from cc_textfile import __version__
from cc_textfile.answers import (
    Answer,
    Endpoint,
    HitRateAnswer,
    HttpCodeAnswer,
    IspAnswer,
    RegionAnswer,
    Share,
    StatusCode,
)
from cc_textfile.collector import METRICS, Gauge, SnapshotCollector, registry
from cc_textfile.errors import REASONS, Overdue, PortalError, Refused
from cc_textfile.output import Pushgateway, Textfile
from cc_textfile.poll import Question, Snapshot
from cc_textfile.redaction import Redactor
from cc_textfile.translations import TABLE, translate
from cc_textfile.window import Window
from tests.conftest import get

NOW = datetime(2024, 2, 29, 16, 3, 20, tzinfo=UTC)

Series = tuple[str, frozenset[tuple[str, str]]]
"""A metric's name and labels."""


def snapshot_of(answers: Mapping[Question, Answer], failures: Mapping[Question, PortalError] | None = None) -> Snapshot:
    """Return a finished poll with these answers and failures."""
    failures = failures or {}
    channels = tuple(dict.fromkeys(channel for channel, _ in (*answers, *failures)))
    return Snapshot(Window.ending(NOW, 5), channels, answers, failures, NOW, 0.25, account_refused=False)


def text_of(snapshot: Snapshot) -> str:
    """Return the snapshot's exposition text."""
    return generate_latest(registry(SnapshotCollector(snapshot))).decode()


def parsed(text: str) -> dict[Series, float]:
    """Return what Prometheus' own Python parser reads in a text; a series that is there twice is an error."""
    found: dict[Series, float] = {}
    for family in text_string_to_metric_families(text):
        assert family.type == "gauge"
        for sample in family.samples:
            series = sample.name, frozenset(sample.labels.items())
            assert series not in found, f"{series} is there twice"
            found[series] = sample.value
    return found


def series(metric: str, /, **labels: str) -> Series:
    """Return a series by its name, without the prefix, and its labels."""
    return f"ChinaCache_metrics_{metric}", frozenset(labels.items())


EXAMPLE = snapshot_of(
    {
        ("47", Endpoint.HIT_RATE): HitRateAnswer(1127, 85),
        ("47", Endpoint.ISP): IspAnswer(1812447063300, (Share("中国电信", 0.36325),), 0),
        ("47", Endpoint.REGION): RegionAnswer(88163029950, (Share("广东省", 0.25906),), 0),
        ("47", Endpoint.HTTP_CODE): HttpCodeAnswer((StatusCode("200", 9120, 97.31),), 0),
    }
)


@pytest.mark.parametrize(
    "metric", [metric for metric in METRICS if metric.series.__doc__], ids=lambda metric: metric.name
)
def test_the_example_in_a_docstring_is_true(metric: Gauge) -> None:
    """What stands in a function's docstring is exposition text, and what it makes of the portal's example answers."""
    assert metric.series.__doc__
    (example,) = re.findall("`(.*)`", metric.series.__doc__)
    shown = parsed(f"# TYPE {metric.name} gauge\n{metric.name}{example}\n")
    assert shown
    assert shown.items() <= parsed(text_of(EXAMPLE)).items()


def test_each_function_of_the_metrics_has_its_example() -> None:
    """Only the metrics of a single number go without one."""
    without = [metric for metric in METRICS if not metric.series.__doc__]
    assert all(set(metric.labels) <= {"version"} for metric in without)
    assert len(without) == 6


# --- Rows that end in one label --------------------------------------------------------------------------------------


def test_two_spellings_of_a_carrier_are_one_series() -> None:
    """中国联通 and f中国联通 are both China Unicom, and so is a row in English: what adds up is added."""
    rows = (Share("中国联通", 0.25), Share("中国电信", 0.125), Share("f中国联通", 0.5), Share("China Unicom", 0.0625))
    found = parsed(text_of(snapshot_of({("47", Endpoint.ISP): IspAnswer(1, rows, 0)})))
    assert found[series("isp_specific_flux_ratio", channel="47", isp="China Unicom")] == 0.8125
    assert found[series("isp_specific_flux_ratio", channel="47", isp="China Telecom")] == 0.125


def test_a_province_given_twice_is_one_series() -> None:
    """The same row twice adds up too, and does not cost the whole file."""
    rows = (Share("广东省", 0.25), Share("广东省", 0.5))
    found = parsed(text_of(snapshot_of({("47", Endpoint.REGION): RegionAnswer(1, rows, 0)})))
    name = {"region": "Province", "name": "Guangdong Province"}
    assert found[series("region_specific_flux_ratio", channel="47", **name)] == 0.75


def test_a_sum_of_which_a_part_cannot_be_read_is_not_given() -> None:
    """A row that could not be read keeps its whole series out, and no other: a part must not pass for the whole."""
    shares = (Share("中国联通", 0.25), Share("f中国联通", None), Share("中国联通", 0.25), Share("中国电信", 0.125))
    codes = (
        StatusCode("200", 7, None),
        StatusCode("200", 2, 1.5),
        StatusCode("404", None, None),
        StatusCode("404", 3, 9.5),
        StatusCode("500", 1, 0.5),
    )
    answers: dict[Question, Answer] = {
        ("47", Endpoint.ISP): IspAnswer(1, shares, 1),
        ("48", Endpoint.ISP): IspAnswer(1, (Share("中国联通", 0.75),), 0),
        ("47", Endpoint.HTTP_CODE): HttpCodeAnswer(codes, 1),
    }
    found = parsed(text_of(snapshot_of(answers)))
    isps = {name: value for name, value in found.items() if name[0].endswith("isp_specific_flux_ratio")}
    assert isps == {
        series("isp_specific_flux_ratio", channel="47", isp="China Telecom"): 0.125,
        series("isp_specific_flux_ratio", channel="48", isp="China Unicom"): 0.75,
    }
    counts = {name: value for name, value in found.items() if "statuscodes" in name[0]}
    assert counts == {
        series("statuscodes_request_count", channel="47", StatusCode="200"): 9,
        series("statuscodes_request_count", channel="47", StatusCode="500"): 1,
        series("statuscodes_request_percent", channel="47", StatusCode="500"): 0.5,
    }
    assert found["cc_textfile_dropped_rows", frozenset({("endpoint", "isp")})] == 1


def test_a_sum_beyond_all_numbers_is_not_given() -> None:
    """Two numbers may each be finite and their sum not."""
    rows = (Share("中国联通", 1.5e308), Share("f中国联通", 1.5e308))
    assert "China Unicom" not in text_of(snapshot_of({("47", Endpoint.ISP): IspAnswer(1, rows, 0)}))


# --- Registering -----------------------------------------------------------------------------------------------------


def test_registering_does_not_render() -> None:
    """`describe` names the families; a snapshot is rendered when it is delivered, and not before."""

    class NotYet(SnapshotCollector):
        def collect(self) -> Iterable[Metric]:
            pytest.fail("collected at registration")

    collector = NotYet(EXAMPLE)
    registry(collector)
    described = list(collector.describe())
    assert [(family.name, family.documentation, family.type) for family in described] == [
        (metric.name, metric.help, "gauge") for metric in METRICS
    ]
    assert not any(list(family.samples) for family in described)


def test_series_are_counted() -> None:
    """The collector knows how many series it gave, which the log line of a poll says; rendered again, the same."""
    collector = SnapshotCollector(EXAMPLE)
    private = registry(collector)
    for _ in range(2):
        assert len(parsed(generate_latest(private).decode())) == collector.series


# --- Whatever comes --------------------------------------------------------------------------------------------------

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

numbers = st.floats(0, allow_nan=False, allow_infinity=False) | st.integers(0, 10**15).map(float)
names = st.sampled_from([*TABLE, *HOSTILE[:-1]]) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=9)
few_names = st.sampled_from(["中国联通", "f中国联通", "China Unicom", "广东省"])
shares = st.lists(st.builds(Share, names | few_names, st.none() | numbers), max_size=5).map(tuple)
codes = st.lists(
    st.builds(StatusCode, st.sampled_from(["200", "404"]) | names, st.none() | numbers, st.none() | numbers), max_size=5
).map(tuple)
dropped = st.integers(0, 9)
channels = st.lists(
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=5),
    min_size=1,
    max_size=3,
    unique=True,
)
errors = st.sampled_from([Overdue("late"), Refused("no")])
OUTCOMES: Mapping[Endpoint, st.SearchStrategy[Answer | PortalError]] = {
    Endpoint.HIT_RATE: st.builds(HitRateAnswer, numbers, numbers, dropped) | errors,
    Endpoint.ISP: st.builds(IspAnswer, numbers, shares, dropped) | errors,
    Endpoint.REGION: st.builds(RegionAnswer, numbers, shares, dropped) | errors,
    Endpoint.HTTP_CODE: st.builds(HttpCodeAnswer, codes, dropped) | errors,
}


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """Return polls of some channels, each endpoint of which has an answer or a failure."""
    answers: dict[Question, Answer] = {}
    failures: dict[Question, PortalError] = {}
    for channel in draw(channels):
        for endpoint in Endpoint:
            outcome = draw(OUTCOMES[endpoint])
            if isinstance(outcome, PortalError):
                failures[channel, endpoint] = outcome
            else:
                answers[channel, endpoint] = outcome
    return snapshot_of(answers, failures)


def sums(rows: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    """Add up by label, where all parts are known and the sum is finite."""
    parts: dict[str, list[float | None]] = {}
    for label, value in rows:
        parts.setdefault(label, []).append(value)
    known = {label: sum(filter(None, values)) for label, values in parts.items() if None not in values}
    return {label: float(value) for label, value in known.items() if math.isfinite(value)}


def expected(snapshot: Snapshot) -> dict[Series, float]:
    """Return what the text is to say of a snapshot, beside what it says of the poll itself."""
    said: dict[Series, float] = {}
    for (channel, _), answer in snapshot.answers.items():
        match answer:
            case HitRateAnswer():
                said[series("hit_miss_total", channel=channel, HitOrMiss="Hit")] = answer.hits
                said[series("hit_miss_total", channel=channel, HitOrMiss="Miss")] = answer.misses
            case IspAnswer():
                said[series("isp_total_bytes", channel=channel)] = answer.total_bytes
                for name, value in sums((translate(row.name), row.flux_ratio) for row in answer.isps).items():
                    said[series("isp_specific_flux_ratio", channel=channel, isp=name)] = value
            case RegionAnswer():
                said[series("region_total_bytes", channel=channel)] = answer.total_bytes
                for name, value in sums((translate(row.name), row.flux_ratio) for row in answer.provinces).items():
                    said[series("region_specific_flux_ratio", channel=channel, region="Province", name=name)] = value
            case HttpCodeAnswer():
                for code, value in sums((row.code, row.requests) for row in answer.codes).items():
                    said[series("statuscodes_request_count", channel=channel, StatusCode=code)] = value
                for code, value in sums((row.code, row.percent) for row in answer.codes).items():
                    said[series("statuscodes_request_percent", channel=channel, StatusCode=code)] = value
    return said


def expected_of_itself(snapshot: Snapshot) -> dict[Series, float]:
    """Return what the text is to say of the poll."""
    said: dict[Series, float] = {
        ("build_info", frozenset({("version", __version__)})): 1,
        ("poll_timestamp_seconds", frozenset()): NOW.timestamp(),
        ("poll_duration_seconds", frozenset()): 0.25,
        ("poll_success", frozenset()): float(not snapshot.failures),
        ("window_start_timestamp_seconds", frozenset()): NOW.timestamp() - 320,
        ("window_end_timestamp_seconds", frozenset()): NOW.timestamp() - 20,
    }
    for endpoint in Endpoint:
        answers = [answer for (_, of), answer in snapshot.answers.items() if of is endpoint]
        said["dropped_rows", frozenset({("endpoint", endpoint.value)})] = sum(each.dropped_rows for each in answers)
        failures = [failure.reason for (_, of), failure in snapshot.failures.items() if of is endpoint]
        for reason in REASONS:
            labels = {("endpoint", endpoint.value), ("reason", reason)}
            said["failures", frozenset(labels)] = failures.count(reason)
        for channel in snapshot.channels:
            labels = {("endpoint", endpoint.value), ("channel", channel)}
            said["endpoint_up", frozenset(labels)] = float((channel, endpoint) in snapshot.answers)
    return {(f"cc_textfile_{name}", labels): value for (name, labels), value in said.items()}


@given(snapshots())
def test_the_text_says_what_the_snapshot_says(snapshot: Snapshot) -> None:
    """Read back, the text is the snapshot: every number that is known, under its labels, once, and nothing else."""
    assert parsed(text_of(snapshot)) == expected(snapshot) | expected_of_itself(snapshot)


# --- The real programs -----------------------------------------------------------------------------------------------


def hostile_snapshot() -> Snapshot:
    """Return a poll in which each hostile name is the name of everything."""
    rows = tuple(Share(name, n / 64) for n, name in enumerate(HOSTILE))
    numbers = tuple(StatusCode(name, n, n / 64) for n, name in enumerate(HOSTILE))
    return snapshot_of(
        {
            ('"47"\\', Endpoint.ISP): IspAnswer(1, rows, 0),
            ('"47"\\', Endpoint.REGION): RegionAnswer(1, rows, 0),
            ('"47"\\', Endpoint.HTTP_CODE): HttpCodeAnswer(numbers, 0),
        }
    )


def test_node_exporter_serves_hostile_names(tmp_path: Path, node_exporter: Callable[[Path], str]) -> None:
    """Whatever the names hold, the real node_exporter reads the file and serves each series with its name and value."""
    Textfile(tmp_path / "hostile.prom").deliver(registry(SnapshotCollector(hostile_snapshot())))
    served = get(node_exporter(tmp_path))
    assert "node_textfile_scrape_error 0" in served.splitlines()
    assert expected(hostile_snapshot()).items() <= parsed_of_gauges(served).items()


def test_the_pushgateway_takes_hostile_names(pushgateway: Callable[[], str]) -> None:
    """The real Pushgateway accepts the same text, and serves it."""
    url = pushgateway()
    Pushgateway(url, shard=None, timeout=60, redact=Redactor()).deliver(registry(SnapshotCollector(hostile_snapshot())))
    grouped = {
        (name, labels | {("job", "ChinaCachePush"), ("instance", "")}): value
        for (name, labels), value in expected(hostile_snapshot()).items()
    }
    assert grouped.items() <= parsed_of_gauges(get(f"{url}/metrics")).items()


def parsed_of_gauges(text: str) -> dict[Series, float]:
    """Return what a server's text says of our metrics."""
    lines = [line for line in text.split("\n") if "ChinaCache_metrics" in line]
    return parsed("\n".join(lines) + "\n")
