"""What a run costs the portal and the host, counted, not timed; and what it logs of that beforehand."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cc_textfile import summary
from cc_textfile.demo.portal import DemoPortal
from cc_textfile.errors import RequestError, RequestTimeout, Unreachable
from cc_textfile.poll import Snapshot, gauge_requests
from cc_textfile.portal.responses import HitRate, Method
from cc_textfile.portal.window import Window
from tests.conftest import Program, account, command, environment, run
from tests.server import Server, good

# Each of these starts the program, most of them several times.
pytestmark = pytest.mark.slow

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(("channels", "concurrency", "connections"), [(60, 7, 7), (1, 32, 4)])
def test_four_requests_a_channel_over_few_connections(
    channels: int, concurrency: int, connections: int, portal: DemoPortal, tmp_path: Path
) -> None:
    """A poll makes each request once, over no more connections than `--concurrency`, nor than it has requests."""
    flags = ("--channels", ",".join(map(str, range(channels))), "--concurrency", str(concurrency))
    with Server(good) as counting:
        env = account(portal, CHINACACHE_URL=counting.url, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"))
        done = run("run", *flags, env=env)
        assert done.returncode == 0, done.stderr
        assert len(set(counting.targets)) == len(counting.targets) == 4 * channels
        assert counting.connections <= connections


def loaded(*arguments: str, env: dict[str, str]) -> set[str]:
    """Return the names of the modules that a command loads."""
    done = run(*arguments, env=env)
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_a_single_poll_loads_only_what_it_needs(portal: DemoPortal, tmp_path: Path) -> None:
    """A timer would pay each time for what the demo or a check needs."""
    env = account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"), PYTHONPROFILEIMPORTTIME="1")
    modules = loaded("run", env=env)
    assert {"cc_textfile.daemon", "requests", "prometheus_client"} <= modules
    assert not [name for name in modules if name.startswith(("cc_textfile.check", "cc_textfile.demo"))]
    assert "prometheus_client.parser" not in modules


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("run", "--help"), ("run",)])
def test_help_and_bad_settings_load_no_http(arguments: tuple[str, ...]) -> None:
    """A command that polls nothing responds at once."""
    modules = loaded(*arguments, env=environment(PYTHONPROFILEIMPORTTIME="1"))
    assert "cc_textfile.cli" in modules
    assert not {"requests", "urllib3", "prometheus_client"} & modules


def test_the_loop_logs_what_it_will_request(portal: DemoPortal, tmp_path: Path, start: Callable[..., Program]) -> None:
    """Before the first request, the operator sees what the portal will see, in a poll and in a day."""
    env = account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"))
    loop = start(*command("run", "--interval", "5m"), env=env)
    loop.line(
        r"info: 12 requests in a poll of 3 channels: 4 for the gauges of each channel; "
        r"3,456 a day, with a poll every 5m$"
    )
    loop.line("polled 3 channels")
    assert not [line for line in loop.lines if "warning" in line]


def test_shards_log_what_each_will_request(portal: DemoPortal, tmp_path: Path) -> None:
    """The budget is this host's; together the shards make each request once."""
    flags = ("--channels", ",".join(map(str, range(40))), "--textfile", str(tmp_path / "a.prom"))
    counts = []
    for shard in ("1/2", "2/2"):
        before = portal.requests
        done = run("run", *flags, "--shard", shard, env=account(portal))
        counts.append(portal.requests - before)
        assert f"info: {counts[-1]} requests in a poll of {counts[-1] // 4} channels" in done.stderr
    assert sum(counts) == 160


def snapshot(seconds: float, *, good: int, late: int = 0, unreachable: int = 0) -> Snapshot:
    """Return a poll that took so long, with so many requests of each kind."""
    names = [str(number) for number in range(good + late + unreachable)]
    requests = gauge_requests(names, [Method.HIT_RATE], Window.ending(NOW, 5))
    failures: dict[int, RequestError] = dict.fromkeys(range(late), RequestTimeout("late"))
    failures |= dict.fromkeys(range(late, late + unreachable), Unreachable("down"))
    return Snapshot(
        dict.fromkeys(requests[late + unreachable :], HitRate(hits=1, misses=1)),
        {requests[number]: error for number, error in failures.items()},
        NOW,
        seconds,
    )


@pytest.mark.parametrize(
    ("poll", "interval", "warning"),
    [
        (
            snapshot(60, good=1500, late=500),
            300,
            "25 requests a second. At this rate a poll of 2,000 requests takes 1m",
        ),
        (
            replace(snapshot(60, good=1500), left=500),
            None,
            "a poll of 2,000 requests takes 1m20s, and --deadline is 1m",
        ),
        (snapshot(60, good=1000, late=500, unreachable=500), None, "and --deadline is 1m: raise that"),
        (snapshot(40, good=2000), 30, "takes 40s, and --interval is 30s: raise that"),
    ],
)
def test_a_poll_that_does_not_fit_is_warned_of(
    poll: Snapshot, interval: float | None, warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At the speed that the portal showed, the operator learns what would do, and what to change."""
    summary.pace(poll, deadline=60, interval=interval)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert warning in record.getMessage()


@pytest.mark.parametrize(
    ("poll", "interval"),
    [
        (snapshot(59, good=2000), None),
        (snapshot(29, good=2000), 30),
        (snapshot(29, good=100, unreachable=1900), 30),
        (snapshot(10, good=9, late=3), 300),  # one method hangs for its timeout, and the rest is quick
        (snapshot(60, good=0, late=2000), 30),  # no portal is not a slow portal
    ],
)
def test_a_poll_that_fits_is_not_warned_of(
    poll: Snapshot, interval: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning that comes without need is not read when there is one."""
    summary.pace(poll, deadline=60, interval=interval)
    assert not caplog.records


def test_a_slow_portal_is_warned_of(portal: DemoPortal, tmp_path: Path) -> None:
    """The first poll shows it: here one request hangs until the deadline, and those behind it are not made."""
    portal.fault = lambda method, _: "hang" if method is Method.REGION else None
    flags = ("--concurrency", "1", "--deadline", "1s", "--textfile", str(tmp_path / "a.prom"))
    done = run("run", *flags, env=account(portal))
    assert done.returncode == 0
    assert "a poll of 12 requests takes" in done.stderr
    assert "and --deadline is 1s: raise that" in done.stderr
