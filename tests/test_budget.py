"""What a run costs the portal and the host, counted, not timed; and what it says of that beforehand."""

import logging
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cc_textfile import report
from cc_textfile.answers import Endpoint, HitRateAnswer
from cc_textfile.demo import DemoPortal
from cc_textfile.errors import Overdue, PortalError, Unreachable
from cc_textfile.poll import Snapshot
from cc_textfile.window import Window
from tests.conftest import Program, account, command, environment, run

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)


class CountingPortal(DemoPortal):
    """The demo portal, which counts connections too."""

    connections = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        """Count one more."""
        self.connections += 1
        super().process_request(request, client_address)


@pytest.fixture
def counting() -> Iterator[CountingPortal]:
    """Serve the counting portal."""
    portal = CountingPortal()
    with portal.serving():
        yield portal


def test_four_requests_a_channel_over_few_connections(counting: CountingPortal, tmp_path: Path) -> None:
    """A poll asks each endpoint of each channel once, over no more connections than `--concurrency`."""
    channels = ",".join(str(n) for n in range(60))
    flags = ("--channels", channels, "--concurrency", "7", "--textfile", str(tmp_path / "a.prom"))
    done = run("run", *flags, env=account(counting))
    assert done.returncode == 0, done.stderr
    assert counting.requests == 240
    assert 1 <= counting.connections <= 7


def test_no_more_connections_than_requests(counting: CountingPortal, tmp_path: Path) -> None:
    """One channel opens at most the four connections that it can use."""
    done = run("run", "--channels", "7", "--textfile", str(tmp_path / "a.prom"), env=account(counting))
    assert done.returncode == 0, done.stderr
    assert counting.requests == 4
    assert counting.connections <= 4


def loaded(*arguments: str, env: dict[str, str]) -> set[str]:
    """Return the names of the modules that a command loads."""
    done = run(*arguments, env=env)
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_a_single_poll_loads_what_it_needs_alone(portal: DemoPortal, tmp_path: Path) -> None:
    """What a loop, the demo or a check needs is not read for one poll: a timer would pay for it each time."""
    env = account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"), PYTHONPROFILEIMPORTTIME="1")
    modules = loaded("run", env=env)
    assert {"cc_textfile.runner", "requests", "prometheus_client"} <= modules
    ours = {name for name in modules if name.startswith("cc_textfile.")}
    assert not [name for name in ours if name.startswith(("cc_textfile.check", "cc_textfile.step", "cc_textfile.demo"))]
    assert not {"schedule", "prometheus_client.parser"} & modules


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("run", "--help"), ("run",)])
def test_help_and_bad_settings_load_no_http(arguments: tuple[str, ...]) -> None:
    """What polls nothing answers at once."""
    modules = loaded(*arguments, env=environment(PYTHONPROFILEIMPORTTIME="1"))
    assert "cc_textfile.cli" in modules
    assert not {"requests", "urllib3", "prometheus_client"} & modules


def test_the_loop_says_what_it_will_ask(portal: DemoPortal, tmp_path: Path, start: Callable[..., Program]) -> None:
    """Before the first request, the operator sees what the portal will see, in a poll and in a day."""
    env = account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"))
    loop = start(*command("run", "--interval", "5m"), env=env)
    loop.line(r"info: 12 requests a poll, 4 for each of 3 channels; 3,456 a day, with a poll every 5m$")
    loop.line("polled 3 channels")
    assert not [line for line in loop.lines if "warning" in line]


def test_a_single_poll_says_what_it_will_ask(portal: DemoPortal, tmp_path: Path) -> None:
    """A single poll knows nothing of a day; whose timer it is does."""
    env = account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"))
    first = run("run", env=env).stderr.splitlines()[0]
    assert first.endswith("info: 12 requests a poll, 4 for each of 3 channels")


def test_a_shard_says_what_it_will_ask_itself(portal: DemoPortal, tmp_path: Path) -> None:
    """The budget is this host's, after the shard is taken."""
    channels = ",".join(str(n) for n in range(40))
    flags = ("--channels", channels, "--textfile", str(tmp_path / "a.prom"))
    counts = []
    for shard in ("1/2", "2/2"):
        before = portal.requests
        done = run("run", *flags, "--shard", shard, env=account(portal))
        counts.append(portal.requests - before)
        assert f"info: {counts[-1]} requests a poll, 4 for each of {counts[-1] // 4} channels" in done.stderr
    assert sum(counts) == 160


def snapshot(seconds: float, *, good: int, overdue: int = 0, unreachable: int = 0) -> Snapshot:
    """Return a poll that took so long, with so many requests of each kind."""
    failures: dict[tuple[str, Endpoint], PortalError] = {}
    failures |= {(f"late{n}", Endpoint.ISP): Overdue("late") for n in range(overdue)}
    failures |= {(f"gone{n}", Endpoint.ISP): Unreachable("gone") for n in range(unreachable)}
    answers = {(f"good{n}", Endpoint.HIT_RATE): HitRateAnswer(1, 1) for n in range(good)}
    channels = tuple(channel for channel, _ in (*answers, *failures))
    return Snapshot(Window.ending(NOW, 5), channels, answers, failures, NOW, seconds, account_refused=False)


@pytest.mark.parametrize(
    ("poll", "interval", "warning"),
    [
        (
            snapshot(60, good=1500, overdue=500),
            300,
            "the portal did 25 requests a second, at which a whole poll of 2,000 takes 1m20s, and --deadline is 1m: ",
        ),
        (snapshot(60, good=1000, overdue=500, unreachable=500), None, "did 25 requests a second"),
        (snapshot(40, good=2000), 30, "a whole poll of 2,000 takes 40s, and --interval is 30s: raise that"),
    ],
)
def test_a_poll_that_does_not_fit_is_warned_of(
    poll: Snapshot, interval: float | None, warning: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At the speed that the portal showed, the operator learns what would do, and what to turn."""
    report.pace(poll, deadline=60, interval=interval)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert warning in record.getMessage()


@pytest.mark.parametrize(
    ("poll", "interval"),
    [
        (snapshot(59, good=2000), None),
        (snapshot(29, good=2000), 30),
        (snapshot(29, good=100, unreachable=1900), 30),
        (snapshot(10, good=9, overdue=3), 300),  # one endpoint hangs for its timeout, and the rest is quick
        (snapshot(60, good=0, overdue=2000), 30),  # no portal is no slow portal
    ],
)
def test_a_poll_that_fits_is_not_warned_of(
    poll: Snapshot, interval: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning that comes without need is not read when there is one."""
    report.pace(poll, deadline=60, interval=interval)
    assert not caplog.records


def test_a_slow_portal_is_warned_of(portal: DemoPortal, tmp_path: Path) -> None:
    """The first poll already tells: here one request hangs until the deadline, and those behind it are not made."""
    portal.fault = lambda endpoint, _: "hang" if endpoint is Endpoint.REGION else None
    flags = ("--concurrency", "1", "--deadline", "1s", "--textfile", str(tmp_path / "a.prom"))
    done = run("run", *flags, env=account(portal))
    assert done.returncode == 0
    assert re.search(
        "warning: the portal did [0-9.]+ requests a second, at which a whole poll of 12 takes", done.stderr
    )
    assert "and --deadline is 1s: raise that" in done.stderr


@pytest.mark.parametrize(
    ("flag", "value", "range_"),
    [
        ("--shard", "0/3", "I from 1 to N and N up to 9999"),
        ("--shard", "4/3", "I from 1 to N and N up to 9999"),
        ("--shard", "1", "I from 1 to N and N up to 9999"),
        ("--shard", "a/b", "I from 1 to N and N up to 9999"),
        ("--concurrency", "0", "a whole number from 1 to 1000"),
        ("--concurrency", "100000", "a whole number from 1 to 1000"),
    ],
)
def test_a_budget_out_of_range_is_not_begun(
    portal: DemoPortal, tmp_path: Path, flag: str, value: str, range_: str
) -> None:
    """Exit 2 says the range, and the portal is not asked."""
    done = run("run", flag, value, "--textfile", str(tmp_path / "a.prom"), env=account(portal))
    assert done.returncode == 2
    assert flag in done.stderr
    assert range_ in done.stderr
    assert portal.requests == 0
