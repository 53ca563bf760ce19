"""The whole chain: demo portal → program → node_exporter or Pushgateway → Prometheus, its rules and the dashboard."""

import signal
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cc_textfile import demo
from cc_textfile.demo import DemoPortal
from tests.conftest import Program, account, command, eventually
from tests.prometheus import configure, dashboard_queries, firing, hasten, loaded_rules, rules, value


@pytest.mark.slow
@pytest.mark.parametrize("way", ["textfile", "pushgateway"])
def test_from_the_portal_to_the_alert(
    way: str,
    tmp_path: Path,
    portal: DemoPortal,
    start: Callable[..., Program],
    node_exporter: Callable[[Path], str],
    pushgateway: Callable[..., str],
    prometheus: Callable[[Path], str],
) -> None:
    """Every rule loads, every dashboard query answers, nothing fires; and when the loop is killed, one alert tells."""
    textfiles, config = tmp_path / "textfiles", tmp_path / "config"
    textfiles.mkdir()
    config.mkdir()
    exporter = gateway = "127.0.0.1:1"
    if way == "textfile":
        exporter = urlsplit(node_exporter(textfiles)).netloc
        where = {"CC_TEXTFILE_PATH": str(textfiles / "cc-textfile.prom")}
    else:
        gateway = urlsplit(pushgateway()).netloc
        where = {"PUSHGATEWAY": gateway}
    flags = ("--interval", "500ms", "--querytime", str(demo.WINDOW_MINUTES))
    loop = start(*command("run", *flags), env=account(portal, **where))
    loop.line("polled 3 channels .* 12 requests good, 0 failed")
    file = configure(config, exporter, gateway)
    hasten(config)
    url = prometheus(file)

    eventually(lambda: value(url, "cdn:ChinaCache_metrics_statuscodes_request_count:ratio_5xx_1h") is not None)
    loaded = eventually(lambda: loaded_rules(url))
    assert len(loaded) == len(rules("record")) + len(rules("alert"))
    assert [rule for rule in loaded if rule["health"] != "ok"] == []
    assert eventually(lambda: [q for q in dashboard_queries() if value(url, q) is None] == [])
    assert "ChinaCachePollerDead" not in firing(url)
    loop.end(signal.SIGKILL)
    eventually(lambda: "ChinaCachePollerDead" in firing(url))
