"""The files for operators in `monitoring/`, checked by the programs that read them."""

import json
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client import generate_latest

from cc_textfile.demo import portal as demo
from cc_textfile.metrics import METRICS
from cc_textfile.portal.responses import Method
from cc_textfile.portal.window import PORTAL_ZONE
from monitoring.render import render
from monitoring.simulated_day import CHANNELS, STEP, openmetrics, polls
from tests.conftest import ROOT, eventually, tool
from tests.prometheus import (
    MONITORING,
    ask,
    configure,
    dashboard,
    dashboard_queries,
    loaded_rules,
    make_blocks,
    metrics_of,
    rules,
    value,
)

RULE_TESTS = sorted((MONITORING / "tests").glob("*.yml"))
RUNBOOK = ROOT / "docs" / "runbook.md"
EXPORTED = {metric.name for metric in METRICS}
# Of node_exporter and of Prometheus itself.
FOREIGN = {
    "node_textfile_mtime_seconds",
    "node_textfile_scrape_error",
    "promhttp_metric_handler_errors_total",
    "ALERTS",
}
ALL_RULES = {**rules("record"), **rules("alert")}


def sections() -> dict[str, str]:
    """Return the sections of the runbook by the anchors of their headings."""
    parts = re.split(r"^## (.+)\n", RUNBOOK.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {title.lower().replace(" ", "-"): text for title, text in zip(parts[1::2], parts[2::2], strict=True)}


def runbook_queries() -> list[str]:
    """Return the queries of the runbook."""
    return re.findall(r"^```promql\n(.*?)^```", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def portal_bytes(channel: str, start: datetime, end: datetime) -> int:
    """Return the bytes that the demo portal has for this time."""
    times = {
        "startTime": f"{start.astimezone(PORTAL_ZONE):%Y%m%d%H%M}",
        "endTime": f"{end.astimezone(PORTAL_ZONE):%Y%m%d%H%M}",
    }
    return int(demo.response(Method.ISP, {"channelIds": channel, **times}, end)["totalFlux"])


def promtool(*arguments: str | Path) -> str:
    """Run promtool and return what it writes; it must succeed."""
    done = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- rules


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    """Real promtool finds no fault in the configuration, nor in the rules that it names."""
    output = promtool("check", "config", MONITORING / "prometheus.yml")
    assert f"SUCCESS: {len(rules('alert'))} rules found" in output
    assert f"SUCCESS: {len(rules('record'))} rules found" in output


def test_rules_are_few_and_short() -> None:
    """At most 5 recording rules and 12 alerts, and no expression of more than three lines."""
    assert len(rules("record")) <= 5
    assert len(rules("alert")) <= 12
    assert [name for name, rule in ALL_RULES.items() if len(rule["expr"].strip().splitlines()) > 3] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_rules_do_what_their_tests_say(path: Path) -> None:
    """Every scenario in monitoring/tests comes out as written, by real promtool."""
    promtool("test", "rules", path)


def test_every_alert_is_tested_before_while_and_after_it_fires() -> None:
    """For each alert there is a scenario in which it is silent, then fires, and then is silent again."""
    tested = set()
    for path in RULE_TESTS:
        for scenario in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            cases = scenario.get("alert_rule_test", [])
            for name in {case["alertname"] for case in cases}:
                fires = "".join("01"[bool(case["exp_alerts"])] for case in cases if case["alertname"] == name)
                if re.fullmatch("01+0", fires):
                    tested.add(name)
    assert tested == set(rules("alert"))


def test_every_recorded_series_is_tested_with_and_without_numbers() -> None:
    """For each recorded series there is a scenario in which it has samples, and one in which it has none."""
    some: set[str] = set()
    none: set[str] = set()
    for path in RULE_TESTS:
        for scenario in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for case in scenario.get("promql_expr_test", []):
                (some if case.get("exp_samples") else none).add(case["expr"])
    assert set(rules("record")) <= some
    assert set(rules("record")) <= none


# --- the mixin


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rules.yml", "alerts.yml", "dashboard.json"])
def test_rendered_files_are_up_to_date(name: str) -> None:
    """The committed files are what the mixin and the dashboard's script make."""
    assert (MONITORING / name).read_text(encoding="utf-8") == render()[name], "run make monitoring"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{ maxErorRatio: 0.02 }", "unknown setting maxErorRatio (known: criticalSeverity, "),
        ("{ maxErrorRatio: '2%' }", 'maxErrorRatio must be a number from 0 to 1, not "2%"'),
        ("{ maxErrorRatio: 2 }", "maxErrorRatio must be a number from 0 to 1, not 2"),
        ("{ maxPollAge: 900 }", "maxPollAge must be a duration such as '15m' or '1h30m', not 900"),
        ("{ maxPollAge: '15 minutes' }", "maxPollAge must be a duration such as '15m' or '1h30m', not \"15 minutes\""),
        ("{ minTrafficBytesRate: -1 }", "minTrafficBytesRate must be a number, not negative, not -1"),
        ("{ selector: null }", "selector must be a string, not null"),
        ("{ one: 1, pollerFor: '5' }", "unknown setting one"),
        ("{ one: 1, pollerFor: '5' }", "pollerFor must be a duration"),
    ],
)
def test_setting_that_is_unknown_or_of_a_wrong_type_is_refused_by_name(
    config: str, message: str, tmp_path: Path
) -> None:
    """Nothing is rendered, and the message has the setting and what would be right."""
    file = tmp_path / "my.libsonnet"
    file.write_text(config, encoding="utf-8")
    with pytest.raises(RuntimeError, match=re.escape(message)):
        render(file)


@pytest.mark.slow
def test_settings_reach_rules_and_dashboard(tmp_path: Path) -> None:
    """A selector is in every query of our series, thresholds and names are those given, and promtool accepts all."""
    file = tmp_path / "my.libsonnet"
    file.write_text(
        """{ selector: 'env="prod"', maxPollAge: '1h30m', maxErrorRatio: 0.125, warningSeverity: 'ticket',
            runbookUrl: 'https://wiki.example.com/chinacache' }""",
        encoding="utf-8",
    )
    files = render(file)
    for name in ("rules.yml", "alerts.yml"):
        (tmp_path / name).write_text(files[name], encoding="utf-8")
    promtool("check", "rules", tmp_path / "rules.yml", tmp_path / "alerts.yml")
    for name, text in files.items():
        series = re.findall(r"\b((?:cc_textfile|(?<!:)chinacache)_\w+?)\b(?!:)(\{[^}]*\})?", text.replace('\\"', '"'))
        used = [(metric, matchers) for metric, matchers in series if metric in EXPORTED - {"cc_textfile_build_info"}]
        assert used
        assert [metric for metric, matchers in used if 'env="prod"' not in matchers] == [], name
    assert "> 5400" in files["alerts.yml"]
    assert "ratio1h > 0.125" in files["alerts.yml"]
    assert "severity: ticket" in files["alerts.yml"]
    assert "https://wiki.example.com/chinacache#chinacacheservererrors" in files["alerts.yml"]
    thresholds = re.findall(r'"value": ([\d.]+)', files["dashboard.json"])
    assert {"5400", "0.125"} <= set(thresholds)


# --- what a person reads


@pytest.mark.parametrize(("name", "rule"), rules("alert").items())
def test_alert_tells_a_person_what_to_do(name: str, rule: dict[str, Any]) -> None:
    """An alert has a severity, a summary, a description, and a link to its own section of the runbook."""
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert ROOT / file == RUNBOOK
    assert anchor == name.lower()
    section = sections()[anchor]
    for part in ("**What it means.**", "**How to see it.**", "```promql\n", "```sh\n", "**What to do.**"):
        assert part in section


def test_runbook_has_the_alerts_that_there_are() -> None:
    """The runbook's table and sections are the alerts, in their order, with their severities."""
    severities = {name: rule["labels"]["severity"] for name, rule in rules("alert").items()}
    text = RUNBOOK.read_text(encoding="utf-8")
    assert re.findall(r"^## (ChinaCache\w+)$", text, re.MULTILINE) == list(severities)
    table = re.findall(r"^\| \[`(\w+)`\]\(#(\w+)\) \| (\w+) \|", text, re.MULTILINE)
    assert table == [(name, name.lower(), severity) for name, severity in severities.items()]


@pytest.mark.parametrize(
    "query", [*(rule["expr"] for rule in ALL_RULES.values()), *dashboard_queries(), *runbook_queries()]
)
def test_query_asks_for_series_that_exist(query: str) -> None:
    """Rules, dashboard and runbook ask for nothing that neither the program nor a recording rule makes."""
    assert metrics_of(query)
    assert metrics_of(query) <= EXPORTED | FOREIGN | set(rules("record"))


def test_alertmanager_example_names_alerts_and_labels_that_exist() -> None:
    """Each inhibition is between alerts that there are, and every receiver of a route is there."""
    config = yaml.safe_load((MONITORING / "alertmanager.yml").read_text(encoding="utf-8"))
    for rule in config["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            label, names = re.fullmatch(r'(\w+)=~?"([\w|]+)"', matcher).groups()  # type: ignore[union-attr]
            assert label == "alertname"
            assert set(names.split("|")) <= set(rules("alert"))
        assert set(rule["equal"]) <= {"account", "channel"}
    receivers = {config["route"]["receiver"], *(route["receiver"] for route in config["route"]["routes"])}
    assert receivers == {receiver["name"] for receiver in config["receivers"]}


# --- the dashboard


def test_dashboard_is_one_that_grafana_can_load() -> None:
    """It fits Grafana's own schema, its panels and queries are numbered, and its variables are there."""
    found = dashboard()
    register_default_plugins()
    assert json.loads(JSONEncoder().encode(Dashboard.from_json(found))) == found
    variables = found["templating"]["list"]
    assert [variable["name"] for variable in variables] == ["datasource", "account", "channel"]
    assert variables[0]["query"] == "prometheus"
    assert all(variable["multi"] and variable["includeAll"] for variable in variables[1:])
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == ["Overview", "Channels", "Status codes", "Last closed day", "Health of the poller and of the ledger"]
    for panel in panels:
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
        targets = panel.get("targets", [])
        assert len({target["refId"] for target in targets} - {""}) == len(targets)
        for target in targets:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_dashboard_shows_no_frozen_value_as_present() -> None:
    """A stat, a bar or a table shows the end of the range alone. A graph has steps of at least five minutes."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            assert target.get("instant", False) == (panel["type"] != "timeseries")
            assert target.get("interval") == ("5m" if panel["type"] == "timeseries" else None)


def test_dashboard_limits_the_lines_of_a_graph_by_channel() -> None:
    """A graph with a line for each channel shows the ten that matter."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            if panel["type"] == "timeseries" and "{{channel}}" in target["legendFormat"]:
                assert re.match(r"(top|bottom)k\(10, ", target["expr"])


def test_dashboard_panels_do_not_overlap() -> None:
    """No cell of the grid, 24 wide, is taken twice."""
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in dashboard()["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24


# --- with a real Prometheus


@pytest.mark.slow
def test_every_query_answers_over_a_simulated_day(tmp_path: Path, prometheus: Callable[[Path], str]) -> None:
    """After a day with an outage of 90 minutes every query has numbers, and the traffic is the portal's."""
    end = datetime(2026, 12, 1, 6, tzinfo=PORTAL_ZONE)
    times = [end - number * 2 * STEP for number in range(30 * 6, -1, -1)]
    outage = (end - timedelta(hours=8), end - timedelta(hours=6, minutes=30))
    target = {"job": "node", "instance": "localhost:9100"}
    history = polls(tmp_path, (time for time in times if not outage[0] < time < outage[1]))
    make_blocks(openmetrics(history, target), tmp_path)
    (tmp_path / "prometheus.yml").touch()
    url = prometheus(tmp_path / "prometheus.yml")

    def at(query: str, time: datetime = end) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = ask(url, "query", query=query, time=str(time.timestamp()))["result"]
        return result

    # Recorded series are not in blocks: their expressions take their places.
    recorded = rules("record")
    for query in [*recorded, *(rule["expr"] for rule in rules("alert").values()), *runbook_queries()]:
        assert at(_inlined(query, recorded)) or query not in recorded, query
    assert [query for query in dashboard_queries() if not at(query)] == []

    def rates_are_the_portals(hours: int, time: datetime) -> None:
        query = _inlined("account_channel:chinacache_traffic_bytes:rate1h", recorded).replace("[1h]", f"[{hours}h]")
        rates = {series["metric"]["channel"]: float(series["value"][1]) for series in at(query, time)}
        stop = time - timedelta(minutes=15)
        start = stop - timedelta(hours=hours)
        seconds = hours * 3600
        assert rates == pytest.approx({channel: portal_bytes(channel, start, stop) / seconds for channel in CHANNELS})

    rates_are_the_portals(1, end)
    # With an outage and its catch-up in the range.
    rates_are_the_portals(3, outage[1] + 2 * STEP)


def _inlined(query: str, recorded: dict[str, dict[str, Any]]) -> str:
    """Return a query with the expressions of recorded series in their places, without offsets and matchers."""
    for name, rule in reversed(recorded.items()):
        query = re.sub(rf"{name}(\{{[^}}]*\}})?(\s+offset \w+)?", f"({rule['expr'].strip()})", query)
    return query


@pytest.mark.slow
@pytest.mark.parametrize("ways", [("textfile",), ("pushgateway",), ("textfile", "pushgateway")], ids="+".join)
def test_rules_and_dashboard_answer_whichever_way_the_numbers_come(
    ways: tuple[str, ...],
    tmp_path: Path,
    node_exporter: Callable[[Path], str],
    pushgateway: Callable[..., str],
    prometheus: Callable[[Path], str],
) -> None:
    """By node_exporter, by a Pushgateway or by both: no rule fails, no alert is raised, no byte is counted twice."""
    textfiles, config = tmp_path / "textfiles", tmp_path / "config"
    textfiles.mkdir()
    config.mkdir()
    exporter = gateway = "127.0.0.1:1"
    if "textfile" in ways:
        exporter = urlsplit(node_exporter(textfiles)).netloc
    if "pushgateway" in ways:
        gateway = urlsplit(pushgateway()).netloc

    def deliver(text: bytes) -> None:
        if "textfile" in ways:
            temporary = textfiles / "cc-textfile.prom.new"
            temporary.write_bytes(text)
            temporary.rename(textfiles / "cc-textfile.prom")
        if "pushgateway" in ways:
            requests.put(f"http://{gateway}/metrics/job/ChinaCachePush", data=text, timeout=10).raise_for_status()

    now = datetime.now(UTC).replace(second=0, microsecond=0)
    times = [now - number * STEP for number in range(50 * 12, -1, -12)]
    *_, earlier, latest = (generate_latest(registry) for _, registry in polls(tmp_path, times))
    deliver(earlier)
    url = prometheus(configure(config, exporter, gateway))
    # Both ways must have come in before it says anything that nothing is counted twice.
    eventually(lambda: value(url, "count(chinacache_settled_seconds_total)") == len(ways) * len(CHANNELS))
    settled = value(url, "max(chinacache_settled_seconds_total)")
    deliver(latest)
    # An hour, or what there is of it up to midnight (UTC+8).
    latest_settled = eventually(lambda: value(url, f"min(chinacache_settled_seconds_total) > {settled}"))
    length = timedelta(seconds=latest_settled - (settled or 0))
    eventually(lambda: value(url, "account_channel:chinacache_responses_5xx:ratio1h") is not None)

    sources = ask(url, "series", **{"match[]": "cc_textfile_poll_timestamp_seconds"})
    labels = {"textfile": {"job": "node", "instance": exporter}, "pushgateway": {"job": "ChinaCachePush"}}
    name = {"__name__": "cc_textfile_poll_timestamp_seconds", "account": demo.USER}
    assert sorted(sources, key=itemgetter("job")) == sorted((name | labels[way] for way in ways), key=itemgetter("job"))
    loaded = eventually(lambda: loaded_rules(url))
    assert len(loaded) == len(ALL_RULES)
    assert [rule for rule in loaded if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in loaded if rule.get("state") == "firing"] == []
    assert [query for query in dashboard_queries() if value(url, query) is None] == []

    position = eventually(lambda: value(url, "max(cc_textfile_ledger_settled_end_timestamp_seconds)"))
    stop = datetime.fromtimestamp(position, UTC)
    expected = sum(portal_bytes(channel, stop - length, stop) for channel in CHANNELS) / length.total_seconds()
    assert value(url, "sum(account_channel:chinacache_traffic_bytes:rate1h)") == pytest.approx(expected)
