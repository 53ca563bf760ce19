"""The main job, with the real programs: portal → text file → node_exporter → Prometheus, and by the Pushgateway."""

import json
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cc_textfile import demo
from cc_textfile.answers import Endpoint
from cc_textfile.collector import METRICS
from cc_textfile.demo import DemoPortal
from tests.conftest import PATIENCE, ROOT, Program, account, command, eventually, get, run, tool

Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]
FIXED_BY_CONTRACT = "ChinaCache_metrics_"


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
    done = run("run", env=account(portal, CC_TEXTFILE_PATH=str(textfile), QUERYTIME="1440"))
    assert done.returncode == 0, done.stderr
    return textfile


def test_node_exporter_serves_every_series_of_the_file(written: Path, node_exporter: Callable[[Path], str]) -> None:
    """What is in the file comes out of node_exporter, name for name, label for label, value for value."""
    served = get(node_exporter(written.parent))
    assert "node_textfile_scrape_error 0" in served
    assert f'node_textfile_mtime_seconds{{file="{written}"}}' in served
    in_file = series_of(written.read_text())
    assert series_of(served) == in_file
    assert {name for name, _ in in_file} == {metric.name for metric in METRICS}


def test_names_types_and_help_are_the_contracts_through_node_exporter(
    written: Path, node_exporter: Callable[[Path], str]
) -> None:
    """HELP and TYPE survive the way: every metric is a gauge with its own text."""
    served = get(node_exporter(written.parent)).splitlines()
    for metric in METRICS:
        assert f"# TYPE {metric.name} gauge" in served
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
    assert series["cc_textfile_poll_success", ()] == 1
    assert (
        series["cc_textfile_window_end_timestamp_seconds", ()]
        - series["cc_textfile_window_start_timestamp_seconds", ()]
        == 86400
    )


def test_promtool_accepts_the_file_but_for_the_names_of_the_contract(written: Path) -> None:
    """`promtool check metrics` finds nothing to blame in a metric whose name is ours to choose."""
    done = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=written.read_text(), capture_output=True, text=True, check=False
    )
    blamed = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith(FIXED_BY_CONTRACT)]
    assert blamed == []


def test_anybody_may_read_the_file_whatever_the_umask(tmp_path: Path, portal: DemoPortal) -> None:
    """node_exporter runs as another user: a file that it can't read is an error for the whole folder."""
    textfile = tmp_path / "a.prom"
    env = account(portal, CC_TEXTFILE_PATH=str(textfile))
    assert run("run", env=env, umask=0o077).returncode == 0
    assert stat.S_IMODE(textfile.stat().st_mode) == 0o644
    assert [file.name for file in tmp_path.iterdir()] == ["a.prom"]


def pushed(url: str) -> Series:
    return series_of(get(f"{url}/metrics"), "job", "instance")


def test_the_pushgateway_takes_the_push_under_the_old_job(portal: DemoPortal, pushgateway: Callable[..., str]) -> None:
    """With nothing but the older exporter's variables, a run pushes under its job, and every metric arrives."""
    url = pushgateway()
    env = account(portal, PUSHGATEWAY=url, QUERYTIME="1440")
    done = run("run", env=env)
    assert done.returncode == 0, done.stderr
    served = get(f"{url}/metrics")
    assert 'ChinaCache_metrics_isp_total_bytes{channel="100201",instance="",job="ChinaCachePush"}' in served
    assert {name for name, _ in pushed(url)} == {metric.name for metric in METRICS}
    assert f"pushed to {url.removeprefix('http://')}" in done.stderr


def test_a_channel_that_is_gone_is_gone_from_the_pushgateway(
    portal: DemoPortal, pushgateway: Callable[..., str]
) -> None:
    """A push replaces the whole group, so that a series that is gone goes."""
    url = pushgateway()
    assert run("run", "--channels", "1,2", env=account(portal, PUSHGATEWAY=url)).returncode == 0
    assert {dict(labels).get("channel") for _, labels in pushed(url)} == {"1", "2", None}
    assert run("run", "--channels", "2", env=account(portal, PUSHGATEWAY=url)).returncode == 0
    assert {dict(labels).get("channel") for _, labels in pushed(url)} == {"2", None}


def test_shards_do_not_push_each_other_away(portal: DemoPortal, pushgateway: Callable[..., str]) -> None:
    """Each shard has a group of its own, told apart by its instance; in one group the last push would be all."""
    url = pushgateway()
    channels = ",".join(str(n) for n in range(20))
    for shard in ("1/2", "2/2"):
        done = run("run", "--channels", channels, "--shard", shard, env=account(portal, PUSHGATEWAY=url))
        assert done.returncode == 0
    found = {
        dict(labels).get("channel") for name, labels in pushed(url) if name == "ChinaCache_metrics_isp_total_bytes"
    }
    assert found == set(channels.split(","))
    assert 'instance="shard-1-of-2",job="ChinaCachePush"' in get(f"{url}/metrics")


def test_with_both_outputs_the_push_is_a_fallback(
    tmp_path: Path, portal: DemoPortal, pushgateway: Callable[..., str]
) -> None:
    """By default the Pushgateway is pushed to only when the file can't be written, and the run is a success then."""
    url = pushgateway()
    env = account(portal, PUSHGATEWAY=url)
    assert run("run", "--textfile", str(tmp_path / "a.prom"), env=env).returncode == 0
    assert pushed(url) == {}
    done = run("run", "--textfile", str(tmp_path / "gone" / "a.prom"), env=env)
    assert done.returncode == 0
    assert f"the folder {tmp_path / 'gone'} is missing: create it, or correct --textfile" in done.stderr
    assert "pushed to" in done.stderr
    assert pushed(url)


def test_always_does_both(tmp_path: Path, portal: DemoPortal, pushgateway: Callable[..., str]) -> None:
    """`--pushgateway-mode always` writes and pushes; either alone is a delivery, and neither is a failure."""
    url = pushgateway()
    textfile = tmp_path / "a.prom"
    flags = ("--pushgateway-mode", "always")
    assert run("run", *flags, "--textfile", str(textfile), env=account(portal, PUSHGATEWAY=url)).returncode == 0
    assert pushed(url) == series_of(textfile.read_text())
    textfile.unlink()
    done = run("run", *flags, "--textfile", str(textfile), env=account(portal, PUSHGATEWAY="http://127.0.0.1:9"))
    assert (done.returncode, textfile.exists()) == (0, True)
    assert "the Pushgateway took no push: no connection to 127.0.0.1:9: Connection refused" in done.stderr
    gone = str(tmp_path / "gone" / "a.prom")
    done = run("run", *flags, "--textfile", gone, env=account(portal, PUSHGATEWAY="http://127.0.0.1:9"))
    assert done.returncode == 1
    assert "is missing" in done.stderr
    assert "Connection refused" in done.stderr


def test_a_file_that_cannot_be_written_is_a_failed_delivery(tmp_path: Path, portal: DemoPortal) -> None:
    """Not a fault of the settings: the poll is made, and its failure is 1."""
    done = run("run", "--textfile", str(tmp_path / "gone" / "a.prom"), env=account(portal))
    assert done.returncode == 1
    assert portal.requests == 12


def test_one_answer_is_enough_for_success_and_the_rest_goes_on(tmp_path: Path, portal: DemoPortal) -> None:
    """A failed endpoint exports nothing and is reported down; the others are there, and the exit status is 0."""
    portal.fault = lambda endpoint, channel: None if (endpoint, channel) == ("isp", "100202") else "malformed"
    textfile = tmp_path / "a.prom"
    done = run("run", env=account(portal, CC_TEXTFILE_PATH=str(textfile)))
    assert done.returncode == 0
    series = series_of(textfile.read_text())
    assert {name for name, _ in series if name.startswith("ChinaCache")} == {"ChinaCache_metrics_isp_total_bytes"}
    assert series["cc_textfile_poll_success", ()] == 0
    up = {labels: value for (name, labels), value in series.items() if name == "cc_textfile_endpoint_up"}
    assert up.pop((("channel", "100202"), ("endpoint", "isp"))) == 1
    assert set(up.values()) == {0}
    assert len(up) == 11
    assert series["cc_textfile_failures", (("endpoint", "isp"), ("reason", "malformed"))] == 2
    assert series["cc_textfile_failures", (("endpoint", "isp"), ("reason", "refused"))] == 0


def test_a_poll_in_which_all_failed_still_writes_what_it_knows(tmp_path: Path, portal: DemoPortal) -> None:
    """Exit 1, and the file says that all failed, without a single old number."""
    textfile = tmp_path / "a.prom"
    env = account(portal, CC_TEXTFILE_PATH=str(textfile))
    assert run("run", env=env).returncode == 0
    portal.fault = lambda *_: "refused"
    done = run("run", env=env)
    assert done.returncode == 1
    series = series_of(textfile.read_text())
    assert not [name for name, _ in series if name.startswith("ChinaCache")]
    assert series["cc_textfile_poll_success", ()] == 0
    assert sum(value for (name, _), value in series.items() if name == "cc_textfile_failures") == 12


def test_one_line_a_poll_and_one_a_distinct_failure(tmp_path: Path, portal: DemoPortal) -> None:
    """Three channels that fail alike are one line; the poll's own line tells channels, requests, series and where."""
    portal.fault = lambda endpoint, _: "malformed" if endpoint == Endpoint.ISP else None
    textfile = tmp_path / "a.prom"
    done = run("run", env=account(portal, CC_TEXTFILE_PATH=str(textfile), JOURNAL_STREAM="1:2"))
    _, first, second = done.stderr.splitlines()
    assert first == ("warning: isp of channel 100201, 100202, 100203: the answer of 38 bytes is not JSON")
    assert second.startswith("warning: polled 3 channels in ")
    assert "9 requests good, 3 failed; " in second
    assert second.endswith(f" series; wrote {textfile}")


def test_a_log_line_has_a_time_but_not_under_systemd(tmp_path: Path, portal: DemoPortal) -> None:
    """Journald has its own timestamps; elsewhere a line without one is of little use."""
    env = account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"))
    assert run("run", env=env).stderr[:4].isdigit()
    assert run("run", env={**env, "JOURNAL_STREAM": "1:2"}).stderr.startswith("info: 12 requests")
    lines = run("run", "--log-format", "json", "--log-level", "debug", env=env).stderr.splitlines()
    last = json.loads(lines[-1])
    assert (last["level"], last["channels"], last["requests"], last["failed"]) == ("info", 3, 12, 0)
    assert "T" in last["time"]


def test_a_duplicate_channel_is_asked_once_with_a_warning(tmp_path: Path, portal: DemoPortal) -> None:
    """A channel that is given twice would be two series of one name, and the whole file lost."""
    done = run("run", "--channels", "7,7", "--textfile", str(tmp_path / "a.prom"), env=account(portal))
    assert done.returncode == 0
    assert "warning: channel 7 is given 2 times and asked once" in done.stderr
    assert portal.requests == 4


def test_the_loop_polls_at_once_and_again_until_it_is_told_to_stop(
    tmp_path: Path, portal: DemoPortal, start: Callable[..., Program]
) -> None:
    """On an interval the first poll does not wait for it; SIGTERM ends the loop with 0."""
    textfile = tmp_path / "a.prom"
    loop = start(*command("run", "--interval", "200ms"), env=account(portal, CC_TEXTFILE_PATH=str(textfile)))
    for _ in range(3):
        loop.line("polled 3 channels")
    assert loop.end() == 0
    assert loop.said.splitlines()[-1].endswith("info: SIGTERM: stopped")
    assert [file.name for file in tmp_path.iterdir()] == ["a.prom"]


def test_prometheus_answers_from_both_ways(
    written: Path,
    tmp_path: Path,
    portal: DemoPortal,
    node_exporter: Callable[[Path], str],
    pushgateway: Callable[..., str],
    prometheus: Callable[[Path], str],
) -> None:
    """The shipped configuration scrapes both, keeps the pushed job's name, and Prometheus answers a query over them."""
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
