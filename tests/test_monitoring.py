"""The operator's kit in `monitoring/`, checked by the programs that will read it."""

import json
import re
import runpy
import subprocess
import time
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import yaml

from cc_textfile.collector import METRICS
from tests.conftest import ROOT, eventually, tool
from tests.prometheus import MONITORING, ask, configure, dashboard_queries, loaded_rules, rules, value

RULE_TESTS = sorted((MONITORING / "tests").glob("*.yml"))
RUNBOOK = ROOT / "README.md"

EXPORTED = {metric.name for metric in METRICS}
# Of node_exporter, of the Pushgateway and of Prometheus itself.
FOREIGN = {"node_textfile_mtime_seconds", "node_textfile_scrape_error", "push_time_seconds", "ALERTS"}

CHANNELS = ("101", "102", "103")
# Bytes of a window of 300 s: what all channels come to, each counted once.
BYTES_PER_SECOND = 1000.0 + 2000.0 + 3000.0


def metrics_of(query: str) -> set[str]:
    """Return the names of the series that a PromQL query asks for."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", query)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", bare)
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    words = re.findall(r"(?<![\w:.])([A-Za-z_][\w:]*)(?!\s*\(|[\w:])", re.sub(r"\boffset\s+\w+", "", bare))
    return set(words) - {"and", "or", "unless", "bool"}


def sample(now: float) -> str:
    """Return what a poll of three channels at midnight (UTC+8) exports: every metric of the contract."""
    endpoints = ("hit_rate", "isp", "region", "http_code")
    reasons = ("unreachable", "status", "refused", "malformed", "overdue")
    lines = [
        'cc_textfile_build_info{version="1.0.0"} 1',
        f"cc_textfile_poll_timestamp_seconds {now}",
        "cc_textfile_poll_duration_seconds 0.25",
        "cc_textfile_poll_success 1",
        f"cc_textfile_window_start_timestamp_seconds {now - 300}",
        f"cc_textfile_window_end_timestamp_seconds {now}",
        *(f'cc_textfile_failures{{endpoint="{e}",reason="{r}"}} 0' for e in endpoints for r in reasons),
        *(f'cc_textfile_dropped_rows{{endpoint="{endpoint}"}} 0' for endpoint in endpoints),
    ]
    for number, channel in enumerate(CHANNELS, start=1):
        of = f'channel="{channel}"'
        lines += [
            *(f'cc_textfile_endpoint_up{{{of},endpoint="{endpoint}"}} 1' for endpoint in endpoints),
            f"ChinaCache_metrics_isp_total_bytes{{{of}}} {300_000 * number}",
            f'ChinaCache_metrics_isp_specific_flux_ratio{{{of},isp="China Telecom"}} 0.625',
            f'ChinaCache_metrics_isp_specific_flux_ratio{{{of},isp="China Unicom"}} 0.375',
            f'ChinaCache_metrics_hit_miss_total{{{of},HitOrMiss="Hit"}} {900 * number}',
            f'ChinaCache_metrics_hit_miss_total{{{of},HitOrMiss="Miss"}} {100 * number}',
            f"ChinaCache_metrics_region_total_bytes{{{of}}} {300_000 * number}",
            f'ChinaCache_metrics_region_specific_flux_ratio{{{of},name="Beijing",region="Province"}} 0.25',
            f'ChinaCache_metrics_statuscodes_request_percent{{{of},StatusCode="200"}} 98',
            f'ChinaCache_metrics_statuscodes_request_percent{{{of},StatusCode="502"}} 2',
            f'ChinaCache_metrics_statuscodes_request_count{{{of},StatusCode="200"}} {9800 * number}',
            f'ChinaCache_metrics_statuscodes_request_count{{{of},StatusCode="502"}} {200 * number}',
        ]
    families: dict[str, list[str]] = {}
    for line in lines:
        families.setdefault(re.split(r"[{ ]", line)[0], []).append(line)
    text = (f"# TYPE {name} gauge\n" + "".join(f"{line}\n" for line in some) for name, some in families.items())
    return "".join(text)


def test_promtool_accepts_the_configuration_and_the_rules() -> None:
    """Real promtool finds no fault in the configuration nor, through it, in any rule."""
    done = subprocess.run(
        [tool("promtool"), "check", "config", MONITORING / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(rules('alert'))} rules found" in done.stdout
    assert f"SUCCESS: {len(rules('record'))} rules found" in done.stdout


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_rules_do_what_their_tests_say(path: Path) -> None:
    """Every scenario in monitoring/tests comes out as written, by real promtool."""
    done = subprocess.run([tool("promtool"), "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_both_ways() -> None:
    """For each alert there is a scenario in which it fires, and one in which it does not."""
    fires: set[str] = set()
    silent: set[str] = set()
    for path in RULE_TESTS:
        for scenario in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for case in scenario.get("alert_rule_test", []):
                (fires if case["exp_alerts"] else silent).add(case["alertname"])
    assert fires == set(rules("alert"))
    assert silent == set(rules("alert"))


def test_every_recording_rule_is_tested_both_ways() -> None:
    """For each recorded series there is a scenario in which it has samples, and one in which it has none."""
    some: set[str] = set()
    none: set[str] = set()
    for path in RULE_TESTS:
        for scenario in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for case in scenario.get("promql_expr_test", []):
                if case["expr"] in rules("record"):
                    (some if case["exp_samples"] else none).add(case["expr"])
    assert some == set(rules("record"))
    assert none == set(rules("record"))


@pytest.mark.parametrize(("name", "rule"), rules("alert").items())
def test_alert_tells_a_person_what_to_do(name: str, rule: dict[str, Any]) -> None:
    """An alert has a severity, a summary, a description and a link to its own section of the runbook."""
    assert name.startswith("ChinaCache")
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"README.md#{name.lower()}"
    section = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert section is not None
    for part in ("**What it means.**", "**How to see it.**", "**What to do.**"):
        assert part in section.group(1)


def test_runbook_has_no_section_of_an_alert_that_is_gone() -> None:
    """The runbook's sections and its table are the alerts that there are, in their order."""
    text = RUNBOOK.read_text(encoding="utf-8")
    severities = {name: rule["labels"]["severity"] for name, rule in rules("alert").items()}
    assert re.findall(r"^### (ChinaCache\w+)$", text, re.MULTILINE) == list(severities)
    table = re.findall(r"^\| \[`(\w+)`\]\(#(\w+)\) \| (\w+) \|", text, re.MULTILINE)
    assert table == [(name, name.lower(), severity) for name, severity in severities.items()]


def test_runbook_lists_every_recorded_series() -> None:
    """The table of recording rules has every series, in order, with the labels that its name begins with."""
    rows = re.findall(r"^\| `(\w+:\w+:\w+)` \| (.*?) \|", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name, _ in rows] == list(rules("record"))
    for name, labels in rows:
        level = name.split(":")[0]
        assert "_".join(re.findall(r"`(\w+)`", labels)) == ("" if level == "cdn" else level)


def test_waiting_time_is_the_same_everywhere() -> None:
    """Whoever polls less often has one number to change: no rule has another idea of when a poll is too old."""
    for rule in (rules("record") | rules("alert")).values():
        seconds = re.findall(r"time\(\)[^\n]*?[-+>] ?((?:\d+ \* )?\d+)\b", rule["expr"])
        seconds += re.findall(r"\d+ \* \d+", rule["expr"])
        assert set(seconds) <= {"15 * 60"}


@pytest.mark.parametrize("query", [*(rule["expr"] for kind in ("record", "alert") for rule in rules(kind).values())])
def test_rule_asks_for_series_that_exist(query: str) -> None:
    """A rule asks for nothing that neither the program nor another rule makes."""
    assert metrics_of(query) <= EXPORTED | FOREIGN | set(rules("record"))


@pytest.mark.parametrize("query", dashboard_queries())
def test_dashboard_asks_for_series_that_exist(query: str) -> None:
    """A query of the dashboard asks for nothing that neither the program nor a rule makes."""
    assert metrics_of(query)
    assert metrics_of(query) <= EXPORTED | FOREIGN | set(rules("record"))


def test_no_rule_or_panel_takes_a_gauge_for_a_counter() -> None:
    """All that the program exports are gauges: rate() and its like would take each fall for a counter's new start."""
    queries = [rule["expr"] for kind in ("record", "alert") for rule in rules(kind).values()]
    for query in [*queries, *dashboard_queries()]:
        assert not re.search(r"\b(rate|irate|increase|resets)\s*\(", query)


def test_dashboard_is_up_to_date() -> None:
    """The committed dashboard is what the script makes."""
    made = runpy.run_path(str(MONITORING / "dashboard.py"))["build"]()
    assert (MONITORING / "dashboard.json").read_text(encoding="utf-8") == made, "run monitoring/dashboard.py"


def test_dashboard_is_one_that_grafana_can_load() -> None:
    """Panels and queries are numbered, every query goes to the chosen data source, and both variables are there."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    data_source, channel = dashboard["templating"]["list"]
    assert (data_source["name"], data_source["type"], data_source["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    assert (channel["name"], channel["multi"], channel["includeAll"]) == ("channel", True, True)
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert rows == ["Overview", "Status codes", "ISPs and provinces", "Health of the poller"]
    for panel in panels:
        targets = panel.get("targets", [])
        assert len({target["refId"] for target in targets} - {""}) == len(targets)
        for target in targets:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.slow
@pytest.mark.parametrize("ways", [("textfile",), ("pushgateway",), ("textfile", "pushgateway")], ids="+".join)
def test_rules_and_dashboard_answer_whichever_way_the_numbers_come(
    ways: tuple[str, ...],
    tmp_path: Path,
    node_exporter: Callable[[Path], str],
    pushgateway: Callable[..., str],
    prometheus: Callable[[Path], str],
) -> None:
    """By node_exporter, by a Pushgateway or by both: no rule fails, no query is empty, no byte is counted twice."""
    textfiles, config = tmp_path / "textfiles", tmp_path / "config"
    textfiles.mkdir()
    config.mkdir()
    text = sample(time.time())
    exporter = gateway = "127.0.0.1:1"
    if "textfile" in ways:
        (textfiles / "cc-textfile.prom").write_text(text, encoding="utf-8")
        exporter = urlsplit(node_exporter(textfiles)).netloc
    if "pushgateway" in ways:
        gateway = urlsplit(pushgateway()).netloc
        push = requests.put(f"http://{gateway}/metrics/job/ChinaCachePush", data=text.encode(), timeout=10)
        push.raise_for_status()
    url = prometheus(configure(config, exporter, gateway))

    # Both ways must have come in before it says anything that nothing is counted twice.
    eventually(lambda: value(url, "count(cc_textfile_poll_timestamp_seconds)") == len(ways))
    eventually(lambda: value(url, "cdn:ChinaCache_metrics_statuscodes_request_count:ratio_5xx_1h") is not None)
    sources = ask(url, "series", **{"match[]": "cc_textfile_poll_timestamp_seconds"})
    labels = {"textfile": {"job": "node", "instance": exporter}, "pushgateway": {"job": "ChinaCachePush"}}
    expected = [{"__name__": "cc_textfile_poll_timestamp_seconds"} | labels[way] for way in ways]
    assert sorted(sources, key=itemgetter("job")) == sorted(expected, key=itemgetter("job"))

    loaded = eventually(lambda: loaded_rules(url))
    assert len(loaded) == len(rules("record")) + len(rules("alert"))
    assert [rule for rule in loaded if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in loaded if rule.get("state") == "firing"] == []

    assert value(url, "cdn:ChinaCache_metrics_total_bytes:per_second") == pytest.approx(BYTES_PER_SECOND)
    empty = [query for query in dashboard_queries() if value(url, query) is None]
    assert empty == []
