"""Rendering: a finished snapshot as metric families, one sample at a time."""

import tracemalloc
from datetime import UTC, datetime

from prometheus_client import generate_latest

from cc_textfile.answers import Answer, Endpoint, HitRateAnswer, HttpCodeAnswer, StatusCode
from cc_textfile.client import PortalClient
from cc_textfile.collector import METRICS, SnapshotCollector, registry
from cc_textfile.demo import CHANNELS, PASSWORD, USER, WINDOW_MINUTES, DemoPortal
from cc_textfile.poll import Poller, Question, Snapshot
from cc_textfile.redaction import Redactor
from cc_textfile.transport import Transport
from cc_textfile.window import Window

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)


def polled(portal: DemoPortal) -> Snapshot:
    """Return what the demo portal says."""
    client = PortalClient(Transport(portal.url), portal.url, USER, PASSWORD, timeout=60, redact=Redactor(PASSWORD))
    return Poller(4).poll(client, CHANNELS, Window.ending(NOW, WINDOW_MINUTES), now=NOW, deadline=60)


def test_samples_have_the_labels_that_the_metric_declares(portal: DemoPortal) -> None:
    """What `describe`, and the README's table, say of a metric is what its samples have."""
    snapshot = polled(portal)
    for metric in METRICS:
        labels = [tuple(labels) for labels, _ in metric.series(snapshot)]
        assert labels, metric.name
        assert set(labels) == {metric.labels}


def test_every_scrape_of_a_snapshot_is_the_same(portal: DemoPortal) -> None:
    """A collector may be asked again: when a push follows a file that could not be written."""
    collector = SnapshotCollector(polled(portal))
    private = registry(collector)
    first, series = generate_latest(private), collector.series
    assert generate_latest(private) == first
    assert collector.series == series == len([line for line in first.splitlines() if not line.startswith(b"#")])


def test_rendering_keeps_no_sample() -> None:
    """However many series a poll has, its samples are made one by one: memory is for the text."""
    codes = HttpCodeAnswer(tuple(StatusCode(str(n), 1.0, 1.0) for n in range(20_000)), 0)
    answers: dict[Question, Answer] = {("7", Endpoint.HTTP_CODE): codes, ("7", Endpoint.HIT_RATE): HitRateAnswer(1, 1)}
    snapshot = Snapshot(Window.ending(NOW, 5), ("7",), answers, {}, NOW, 1.0, account_refused=False)
    tracemalloc.start()
    for family in SnapshotCollector(snapshot).collect():
        for _ in family.samples:
            pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000 * 200
