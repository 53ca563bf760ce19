"""The main job, with the real programs: portal → text file → node_exporter → Prometheus."""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cc_textfile import __version__
from cc_textfile.demo import portal as demo
from cc_textfile.demo.portal import DemoPortal
from cc_textfile.metrics import METRICS, gauges, health
from cc_textfile.portal.responses import Method
from tests.conftest import IN_JOURNAL, LISTENING, PATIENCE, ROOT, Program, account, eventually, get, run, tool

# Each of these starts the program, most of them several times.
pytestmark = pytest.mark.slow

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
FIXED_BY_CONTRACT = "ChinaCache_metrics_"
WITHOUT_LEDGER = {metric.name for metric in (*gauges.METRICS, *health.METRICS)}
ACCOUNT = ("account", demo.USER)


def series_of(text: str, *without: str) -> Series:
    """Return every sample of ours in a text, by name and labels, without the labels named."""
    return {
        (sample.name, tuple(sorted((k, v) for k, v in sample.labels.items() if k not in without))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(("ChinaCache_", "cc_textfile_"))
    }


@pytest.fixture
def written(tmp_path: Path, portal: DemoPortal) -> Path:
    """Poll once into a text file, over a window that lies on two days."""
    textfile = tmp_path / "textfile" / "chinacache.prom"
    textfile.parent.mkdir()
    env = account(portal, CC_TEXTFILE_PATH=str(textfile), CC_TEXTFILE_LEDGER=str(tmp_path / "ledger.sqlite"))
    done = run("run", env=env | {"QUERYTIME": "1440"})
    assert done.returncode == 0, done.stderr
    return textfile


def test_node_exporter_serves_every_series_of_the_file(written: Path, node_exporter: Callable[[Path], str]) -> None:
    """What is in the file comes out of node_exporter, name for name, label for label, value for value."""
    served = get(node_exporter(written.parent))
    assert "node_textfile_scrape_error 0" in served
    assert f'node_textfile_mtime_seconds{{file="{written}"}}' in served
    in_file = series_of(written.read_text())
    assert series_of(served) == in_file
    assert {name for name, _ in in_file} > WITHOUT_LEDGER


def test_names_types_and_help_are_the_contracts_through_node_exporter(
    written: Path, node_exporter: Callable[[Path], str]
) -> None:
    """HELP and TYPE survive the way."""
    served = get(node_exporter(written.parent)).splitlines()
    for metric in METRICS:
        if metric.name in WITHOUT_LEDGER or metric.is_counter:
            assert f"# TYPE {metric.name} {'counter' if metric.is_counter else 'gauge'}" in served
            assert f"# HELP {metric.name} {metric.help}" in served


def test_the_values_are_the_portals(written: Path) -> None:
    """Each number in the file is the one that the portal gives for the channel and the window in the file."""
    series = series_of(written.read_text())
    channel = demo.CHANNELS[0]
    (total,) = [v for (name, labels), v in series.items() if "isp_total" in name and dict(labels)["channel"] == channel]
    shares = {
        dict(labels)["isp"]: value
        for (name, labels), value in series.items()
        if "isp_specific" in name and dict(labels)["channel"] == channel
    }
    assert total > 1e9
    assert set(shares) == {
        "China Telecom",
        "China Unicom",
        "China Mobile",
        "China Railcom",
        "Great Wall Broadband",
        "other",
    }
    assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
    assert series["cc_textfile_poll_success", (ACCOUNT,)] == 1
    assert (
        series["cc_textfile_window_end_timestamp_seconds", (ACCOUNT,)]
        - series["cc_textfile_window_start_timestamp_seconds", (ACCOUNT,)]
        == 86400
    )


def test_promtool_accepts_the_file_but_for_the_names_of_the_contract(written: Path) -> None:
    """`promtool check metrics` finds nothing to blame in a metric whose name is ours to choose."""
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=written.read_text(), capture_output=True, text=True, check=False
    )
    blamed = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith(FIXED_BY_CONTRACT)]
    assert blamed == []


def test_two_accounts_on_one_host(tmp_path: Path, portal: DemoPortal, start: Callable[..., Program]) -> None:
    """The labels `account` and `shard` keep their series apart: node_exporter serves all of both, without a word."""
    for name in ("shop", "main"):
        for shard in ("1/2", "2/2"):
            textfile = tmp_path / f"cc-textfile-{name}-{shard[0]}.prom"
            env = account(portal, CC_TEXTFILE_PATH=str(textfile), CC_TEXTFILE_ACCOUNT=name, CC_TEXTFILE_SHARD=shard)
            # Channels of their own: the gauges of the older exporter have no label for the account.
            env["CHINACACHE_CHANNEL_IDS"] = ",".join(f"{name}-{n}" for n in range(8))
            assert run("run", env=env).returncode == 0
    folder = f"--collector.textfile.directory={tmp_path}"
    exporter = (tool("prometheus-node-exporter"), "--collector.disable-defaults", "--collector.textfile", folder)
    program = start(*exporter, "--web.listen-address=127.0.0.1:0")
    served = get(f"http://{program.line(LISTENING)[1]}/metrics")
    assert "node_textfile_scrape_error 0" in served
    in_files: Series = {}
    for file in tmp_path.iterdir():
        own = series_of(file.read_text())
        assert not own.keys() & in_files.keys()
        in_files |= own
    assert series_of(served) == in_files
    assert ("cc_textfile_build_info", (("account", "shop"), ("shard", "2/2"), ("version", __version__))) in in_files
    program.end()
    assert "level=error" not in program.said


def test_one_account_needs_no_label(written: Path) -> None:
    """Where no account is given, `build_info` has the version alone, and the other metrics the user."""
    series = series_of(written.read_text())
    assert ("cc_textfile_build_info", (("version", __version__),)) in series
    assert ("cc_textfile_poll_success", (("account", demo.USER),)) in series


def test_one_good_response_is_enough_for_success(tmp_path: Path, portal: DemoPortal) -> None:
    """A failed method exports nothing and is reported down; the others are there, and the exit status is 0."""
    portal.fault = lambda method, channel: None if (method, channel) == ("isp", "100202") else "malformed"
    textfile = tmp_path / "a.prom"
    done = run("run", env=account(portal, CC_TEXTFILE_PATH=str(textfile)))
    assert done.returncode == 0
    series = series_of(textfile.read_text())
    assert {name for name, _ in series if name.startswith("ChinaCache")} == {"ChinaCache_metrics_isp_total_bytes"}
    assert series["cc_textfile_poll_success", (ACCOUNT,)] == 1
    up = {labels: value for (name, labels), value in series.items() if name == "cc_textfile_method_up"}
    assert up.pop((ACCOUNT, ("channel", "100202"), ("method", "isp"))) == 1
    assert set(up.values()) == {0}
    assert len(up) == 11
    assert series["cc_textfile_poll_failures", (ACCOUNT, ("method", "isp"), ("reason", "malformed"))] == 2
    assert series["cc_textfile_poll_failures", (ACCOUNT, ("method", "isp"), ("reason", "refused"))] == 0


def test_a_poll_in_which_all_failed_still_writes_what_it_knows(tmp_path: Path, portal: DemoPortal) -> None:
    """Exit 1, and the file shows that all failed, without a single old number."""
    textfile = tmp_path / "a.prom"
    env = account(portal, CC_TEXTFILE_PATH=str(textfile))
    assert run("run", env=env).returncode == 0
    portal.fault = lambda *_: "refused"
    done = run("run", env=env)
    assert done.returncode == 1
    series = series_of(textfile.read_text())
    assert not [name for name, _ in series if name.startswith("ChinaCache")]
    assert series["cc_textfile_poll_success", (ACCOUNT,)] == 0
    assert sum(value for (name, _), value in series.items() if name == "cc_textfile_poll_failures") == 12


def test_one_line_a_poll_and_one_a_distinct_failure(tmp_path: Path, portal: DemoPortal) -> None:
    """Three channels that fail alike are one line; the poll's own has channels, requests, series and the output."""
    portal.fault = lambda method, _: "malformed" if method is Method.ISP else None
    textfile = tmp_path / "a.prom"
    done = run("run", env=account(portal, CC_TEXTFILE_PATH=str(textfile)), before=IN_JOURNAL)
    _, first, second = done.stderr.splitlines()
    assert re.fullmatch(
        "<4>warning: isp of channel 10020., 10020., 10020.: the response of 38 bytes is not JSON", first
    )
    assert second.startswith("<4>warning: polled 3 channels in ")
    assert "9 requests good, 3 failed; " in second
    assert second.endswith(f" series; wrote {textfile}")


def test_prometheus_has_the_numbers_of_both_ways(
    written: Path,
    tmp_path: Path,
    portal: DemoPortal,
    node_exporter: Callable[[Path], str],
    pushgateway: Callable[..., str],
    prometheus: Callable[[Path], str],
) -> None:
    """The shipped configuration scrapes both, keeps the job of the push, and a query finds both."""
    gateway = pushgateway()
    assert run("run", env=account(portal, PUSHGATEWAY=gateway)).returncode == 0
    config = (ROOT / "monitoring" / "prometheus.yml").read_text()
    for standard, real in (
        ("localhost:9100", node_exporter(written.parent).split("/")[2]),
        ("localhost:9091", gateway.removeprefix("http://")),
        ("scrape_interval: 1m", "scrape_interval: 1s"),
    ):
        assert standard in config
        config = config.replace(standard, real)
    file = tmp_path / "prometheus.yml"
    file.write_text(config)
    for rules in (ROOT / "monitoring").glob("*.yml"):
        if rules.name != "prometheus.yml":
            (tmp_path / rules.name).write_text(rules.read_text())
    url = prometheus(file)
    jobs = 'count by (job) (ChinaCache_metrics_isp_total_bytes{channel="100201"})'
    eventually(lambda: {result["metric"]["job"] for result in query(url, jobs)} == {"node", "ChinaCachePush"})


def query(url: str, expression: str) -> list[dict[str, dict[str, str]]]:
    with urlopen(Request(f"{url}/api/v1/query?query={quote(expression)}"), timeout=PATIENCE) as reply:
        result: list[dict[str, dict[str, str]]] = json.load(reply)["data"]["result"]
        return result
