"""The counters through the real chain: the command, node_exporter, Prometheus, PromQL.

Simulated are the portal and the command's clock (`tests.simulation`). In the first test all programs are real and run
together; what takes the command hours passes there between two scrapes. In the second one the scrapes are simulated,
one a minute, and their samples come into Prometheus by promtool: so the windows of the queries are hours, too.
"""

import math
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml

from cc_textfile.metrics import METRICS
from cc_textfile.portal.responses import Method
from cc_textfile.portal.window import PORTAL_ZONE
from tests.conftest import eventually, get
from tests.prometheus import ask, make_blocks, value
from tests.simulation import CHANNELS, Exported, Host, World, exported, settled

BEGIN = datetime(2026, 3, 3, 14, 2, 30, tzinfo=PORTAL_ZONE)
MINUTE = timedelta(minutes=1)
STEP = 5 * MINUTE
HOUR = 60 * MINUTE
CHANNEL = CHANNELS[0]
WANTED = f'{{channel="{CHANNEL}"}}'
QUERIED = ("chinacache_traffic_bytes_total", "chinacache_settled_seconds_total")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, in_memory: Path) -> Iterator[Host]:
    world = World(BEGIN)
    with world.serving(monkeypatch) as portal:
        host = Host(world, portal, in_memory)
        yield host
        host.stop()


def history(host: Host) -> Iterator[str]:
    """Poll, and tell after each poll what that was: a restart, an outage, late data, a catch-up over midnight."""
    world = host.world
    evening = BEGIN + 8 * HOUR
    world.stalls = [(evening, evening + 100 * MINUTE)]
    for number in range(6):
        world.now = BEGIN + number * STEP
        host.poll()
        yield "steady"
    host.stop()
    world.now += 3 * STEP
    host.poll()
    yield "restarted"
    world.fault = failing
    for _ in range(3):
        world.now += HOUR
        host.poll()
        yield "outage"
    world.fault = lambda *_: None
    world.now += STEP
    host.poll()
    yield "caught up"
    for number in range(4):
        world.now = evening + number * 20 * MINUTE
        host.poll()
        yield "late"
    for number in range(4):
        world.now = BEGIN + 30 * HOUR + number * STEP
        host.poll()
        yield "closed" if number else "late"


def failing(_method: Method, _channel: str) -> str:
    """Let the portal fail."""
    return "malformed"


def position(found: Exported) -> datetime:
    """Return the end of the time counted."""
    seconds = found.value("cc_textfile_ledger_settled_end_timestamp_seconds", CHANNEL)
    return datetime.fromtimestamp(seconds, PORTAL_ZONE)


@pytest.mark.slow
def test_increase_is_the_truth(
    host: Host,
    tmp_path: Path,
    node_exporter: Callable[[Path], str],
    prometheus: Callable[[Path], str],
) -> None:
    """Over a restart, an outage and a catch-up, `increase()` gives what the portal knows, and nothing resets."""
    host.poll()
    metrics_url = node_exporter(host.textfile.parent)
    target = metrics_url.removeprefix("http://").removesuffix("/metrics")
    scraped = {"job_name": "node", "scrape_interval": "200ms", "scrape_timeout": "200ms"}
    config = tmp_path / "prometheus.yml"
    config.write_text(
        yaml.safe_dump({"scrape_configs": [{**scraped, "static_configs": [{"targets": [target]}]}]}), encoding="utf-8"
    )
    url = prometheus(config)
    eventually(lambda: value(url, "count_over_time(cc_textfile_poll_timestamp_seconds[1h]) > 2"))
    for moment in history(host):
        now = host.world.now.timestamp()
        eventually(lambda: value(url, f"cc_textfile_poll_timestamp_seconds >= {now:.0f}"))  # noqa: B023
        found = exported(host.textfile)
        if moment != "late":  # until the day is closed
            compare(url, host, found)
    assert position(found) == settled(host.world.now)

    types = ask(url, "metadata")
    for metric in METRICS:
        if metric.is_counter or metric.name in types:
            assert types[metric.name][0]["type"] == ("counter" if metric.is_counter else "gauge")
    ours = '{job="node", __name__=~"(?i:chinacache|cc_textfile)_.+"}'
    targets = {"instance", "job"}
    there = {
        (labels.pop("__name__"), tuple(sorted((name, text) for name, text in labels.items() if name not in targets)))
        for labels in ask(url, "series", **{"match[]": ours})
    }
    assert {*found.counters, *found.gauges} <= there
    assert "# TYPE chinacache_traffic_bytes_total counter" in get(metrics_url)


def compare(url: str, host: Host, found: Exported) -> None:
    """Compare what PromQL says of all time until now with what the portal knows of it."""
    end = position(found)
    truth = host.world.truth(CHANNEL, settled(BEGIN), end)
    for query, expected in (
        ("chinacache_traffic_bytes_total{}", truth["traffic"]),
        ('chinacache_requests_total{result="hit"}', truth["hit"]),
        ('chinacache_requests_total{result="miss"}', truth["miss"]),
        ("chinacache_settled_seconds_total{}", (end - settled(BEGIN)).total_seconds()),
        ("cc_textfile_ledger_lost_seconds_total{}", 0),
    ):
        series = query.replace("}", f',channel="{CHANNEL}"}}').replace("{,", "{")
        # At the very time of a sample nothing is extrapolated to the end, and a series that begins with 0 has no start.
        latest = value(url, f"timestamp({series})")
        (result,) = ask(url, "query", query=f"increase({series}[1h])", time=f"{latest:.3f}")["result"]
        assert float(result["value"][1]) == pytest.approx(expected, rel=1e-12), query
        assert value(url, f"min_over_time({series}[1h])") == 0
        assert value(url, f"resets({series}[1h])") == 0
    rate = f"rate(chinacache_traffic_bytes_total{WANTED}[1h]) / rate(chinacache_settled_seconds_total{WANTED}[1h])"
    if end > settled(BEGIN):
        bandwidth = truth["traffic"] / (end - settled(BEGIN)).total_seconds()
        assert value(url, rate) == pytest.approx(bandwidth, rel=1e-12)


@pytest.mark.slow
def test_bytes_by_settled_seconds_is_the_exact_bandwidth(
    host: Host, tmp_path: Path, prometheus: Callable[[Path], str]
) -> None:
    """For each window and at each time, steady, in an outage and while catching up; `increase()` over it is exact."""
    world = host.world
    began = world.now = BEGIN.replace(second=0)
    samples: dict[str, list[str]] = {name: [] for name in QUERIED}
    positions: list[datetime] = []
    for minute in range(6 * 60):
        if minute == 30:
            host.stop()  # a restart
        world.fault = failing if 60 <= minute < 190 else lambda *_: None
        if minute % 5 == 0:
            host.poll()
        found = exported(host.textfile)
        positions.append(position(found))
        for name, lines in samples.items():
            lines.append(f"{name}{WANTED} {found.value(name, CHANNEL)!r} {world.now.timestamp():.0f}\n")
        world.now += MINUTE
    text = "".join(f"# TYPE {name.removesuffix('_total')} counter\n{''.join(lines)}" for name, lines in samples.items())
    make_blocks(text + "# EOF\n", tmp_path)
    (tmp_path / "prometheus.yml").touch()
    url = prometheus(tmp_path / "prometheus.yml")

    traffic, seconds = (f"{name}{WANTED}" for name in QUERIED)
    last = began + (len(positions) - 1) * MINUTE
    times = {"start": f"{began.timestamp():.0f}", "end": f"{last.timestamp():.0f}", "step": "60"}
    for minutes in (15, 60, 180):
        bandwidth = f"rate({traffic}[{minutes}m]) / rate({seconds}[{minutes}m])"
        for query in (bandwidth, f"increase({traffic}[{minutes}m])"):
            (result,) = ask(url, "query_range", query=query, **times)["result"]
            shown = {round((time - began.timestamp()) / 60): float(number) for time, number in result["values"]}
            for minute in range(minutes, len(positions)):
                start, end = positions[minute - minutes], positions[minute]
                truth: float = world.truth(CHANNEL, start, end)["traffic"]
                if query == bandwidth:
                    truth = truth / (end - start).total_seconds() if start < end else math.nan
                assert shown[minute] == pytest.approx(truth, rel=1e-9, nan_ok=True), (query, minute)
