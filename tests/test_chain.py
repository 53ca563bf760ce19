"""The whole chain: demo portal → program with ledger → node_exporter or Pushgateway → Prometheus, rules, dashboard."""

import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cc_textfile.demo import portal as demo
from cc_textfile.demo.portal import DemoPortal
from monitoring.simulated_day import CHANNELS, STEP, polls
from tests.conftest import Program, account, command, eventually
from tests.prometheus import configure, dashboard_queries, firing, hasten, loaded_rules, rules, value


@pytest.mark.slow
@pytest.mark.parametrize("way", ["textfile", "pushgateway"])
def test_from_the_portal_to_the_alert_and_back(
    way: str,
    tmp_path: Path,
    portal: DemoPortal,
    start: Callable[..., Program],
    node_exporter: Callable[[Path], str],
    pushgateway: Callable[..., str],
    prometheus: Callable[[Path], str],
) -> None:
    """Every rule loads, every query of the dashboard answers; the poller is stale while the loop is killed."""
    textfiles, config = tmp_path / "textfiles", tmp_path / "config"
    textfiles.mkdir()
    config.mkdir()
    exporter = gateway = "127.0.0.1:1"
    if way == "textfile":
        exporter = urlsplit(node_exporter(textfiles)).netloc
        output = {"CC_TEXTFILE_PATH": str(textfiles / "cc-textfile.prom")}
    else:
        gateway = urlsplit(pushgateway()).netloc
        output = {"PUSHGATEWAY": gateway}
    # A ledger with a closed day, which ends an hour ago. The portal's clock holds the program there.
    hour = timedelta(hours=1)
    began = datetime.now(UTC)
    for _ in polls(tmp_path, [began - hour - number * 12 * STEP for number in range(50, -1, -1)]):
        pass
    portal.clock = lambda: datetime.now(UTC) - hour

    channels = tmp_path / "channels"
    channels.write_text("".join(f"{channel} name={labels['name']}\n" for channel, labels in CHANNELS.items()))
    env = account(portal, CC_TEXTFILE_LEDGER=str(tmp_path / f"{demo.USER}.ledger"), **output)
    del env["CHINACACHE_CHANNEL_IDS"]
    loop = command("run", "--interval", "500ms", "--channels-file", str(channels))
    program = start(*loop, env=env)
    configuration = configure(config, exporter, gateway)
    hasten(config)
    url = prometheus(configuration)

    before = eventually(lambda: value(url, "max(chinacache_settled_seconds_total)"))
    portal.clock = lambda: datetime.now(UTC)
    eventually(lambda: value(url, "max(chinacache_settled_seconds_total)") >= before + 3600)
    loaded = eventually(lambda: loaded_rules(url))
    assert len(loaded) == len(rules("record")) + len(rules("alert"))
    assert [rule for rule in loaded if rule["health"] != "ok"] == []
    eventually(lambda: [name for name in rules("record") if value(url, name) is None] == [])
    assert eventually(lambda: [query for query in dashboard_queries() if value(url, query) is None] == [])

    stale = {"ChinaCachePollerStale", "ChinaCacheChannelsStale"}
    eventually(lambda: firing(url) & stale == set())
    program.end(signal.SIGKILL)
    eventually(lambda: firing(url) & stale == stale)
    start(*loop, env=env)
    eventually(lambda: firing(url) & stale == set())
