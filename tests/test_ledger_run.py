"""The ledger in the life of the real command: when its file cannot be used, when it is killed, and what it requests."""

import re
import shutil
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cc_textfile.demo import portal as demo
from cc_textfile.demo.portal import DemoPortal
from cc_textfile.portal.responses import Method
from cc_textfile.portal.window import PORTAL_ZONE
from tests.conftest import Program, account, needs_root, run, tool
from tests.simulation import CHANNELS, Exported, Host, Series, World, exported, settled

BEGIN = datetime(2026, 12, 3, 14, 2, 30, tzinfo=PORTAL_ZONE)
STEP = timedelta(minutes=5)
ACCOUNT = (("account", demo.USER),)


@pytest.fixture
def world() -> World:
    return World(BEGIN)


@pytest.fixture
def simulated_portal(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[DemoPortal]:
    with world.serving(monkeypatch) as portal:
        yield portal


@pytest.fixture
def host(world: World, simulated_portal: DemoPortal, in_memory: Path) -> Iterator[Host]:
    host = Host(world, simulated_portal, in_memory)
    yield host
    host.stop()


def compare(host: Host) -> Exported:
    """See that the counters of the file are what the portal knows of the time since the beginning."""
    found = exported(host.textfile)
    for channel in CHANNELS:
        truth = host.world.truth(channel, settled(BEGIN), settled(host.world.now))
        assert found.value("chinacache_traffic_bytes_total", channel) == truth["traffic"]
        for result in ("hit", "miss"):
            assert found.value("chinacache_requests_total", channel, result=result) == truth[result]
        truth = host.world.truth(channel, BEGIN, host.world.now)
        assert found.value("chinacache_responses_total", channel, code="200") == truth["200"]
    return found


# --- Files that cannot be used ---------------------------------------------------------------------------------------


@contextmanager
def folder_is_away(path: Path) -> Iterator[str]:
    away = path.parent.with_name("away")
    path.parent.rename(away)
    yield f"install -d -m 0755 -o root {path.parent}; or correct the path"
    away.rename(path.parent)


@contextmanager
def other_content(path: Path, content: bytes) -> Iterator[None]:
    """Put something else in the place of the ledger, and see that it is left as it is."""
    original = path.read_bytes()
    path.write_bytes(content)
    yield
    assert path.read_bytes() == content
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    path.write_bytes(original)


@contextmanager
def no_database(path: Path) -> Iterator[str]:
    with other_content(path, b"precious\n" * 1000):
        yield "it is not a ledger of cc-textfile. It was left as it is. Give --ledger the path of another file"


@contextmanager
def cut_short(path: Path) -> Iterator[str]:
    with other_content(path, path.read_bytes()[:-4096]):
        yield "Put a backup in its place, or move it away to begin a new one, with all counters at 0"


@contextmanager
def newer_version(path: Path) -> Iterator[str]:
    newer = path.with_suffix(".newer")
    shutil.copy(path, newer)
    with closing(sqlite3.connect(newer)) as db:
        db.execute("PRAGMA user_version = 99")
    content = newer.read_bytes()
    newer.unlink()
    with other_content(path, content):
        yield "a newer version of cc-textfile has written it (schema 99, not 1). Install that"


@contextmanager
def locked(path: Path) -> Iterator[str]:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield "another process has locked it"
        db.execute("ROLLBACK")


@contextmanager
def read_only(path: Path) -> Iterator[str]:
    subprocess.run(["mount", "-o", "remount,ro", str(path.parent)], check=True)
    yield f"Read-only file system (in a unit of systemd: ReadWritePaths={path.parent};"
    subprocess.run(["mount", "-o", "remount,rw", str(path.parent)], check=True)


@contextmanager
def full_disk(path: Path) -> Iterator[str]:
    waste = path.with_name("waste")
    with waste.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):  # noqa: PT012
        while True:
            file.write(bytes(4096))
    yield f"(free some space: df -h {path.parent})"
    waste.unlink()


Fault = Callable[[Path], AbstractContextManager[str]]
MOUNTED = (read_only, full_disk)


@pytest.fixture
def disk(host: Host) -> Iterator[None]:
    """Mount a file system of 400 KB for the ledger."""
    needs_root()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(host.ledger.parent)], check=True)
    yield
    host.stop()
    subprocess.run(["umount", str(host.ledger.parent)], check=True)


FAULTS = (folder_is_away, no_database, cut_short, newer_version, locked, read_only, full_disk)


def series_but_counters(found: Exported) -> set[Series]:
    """Return the series that do not come from the ledger; it is up, or it has no others than that it is not."""
    names = {name for name, _ in found.gauges}
    assert "ChinaCache_metrics_isp_total_bytes" in names
    assert found.gauges["cc_textfile_poll_success", ACCOUNT] == 1
    of_the_ledger = {series for series in found.gauges if series[0].startswith(("chinacache_", "cc_textfile_ledger_"))}
    if not found.gauges["cc_textfile_ledger_up", ACCOUNT]:
        assert found.counters == {}
        assert of_the_ledger == {("cc_textfile_ledger_up", ACCOUNT)}
    return found.gauges.keys() - of_the_ledger


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_a_ledger_that_cannot_be_used_costs_its_counters_and_no_more(
    fault: Fault, host: Host, request: pytest.FixtureRequest
) -> None:
    """Gauges go out, one line says what to do, a single poll ends with 1; the loop counts on when the cause is gone."""
    if fault in MOUNTED:
        request.getfixturevalue("disk")
    host.poll()
    host.world.now += 2 * STEP
    host.poll()
    before = compare(host)
    assert host.loop
    with fault(host.ledger) as what_to_do:
        for _ in range(2):
            host.world.now += 2 * STEP
            host.loop.lines.clear()
            assert "wrote" in host.poll()
            (line,) = [line for line in host.loop.lines if f"error: the ledger {host.ledger} cannot be used: " in line]
            assert what_to_do in line
            found = exported(host.textfile)
            assert found.gauges["cc_textfile_ledger_up", ACCOUNT] == 0
            assert series_but_counters(found) == series_but_counters(before)
    host.world.now += STEP
    host.loop.lines.clear()
    host.poll()
    assert "the ledger" not in host.loop.said
    found = compare(host)
    assert found.gauges["cc_textfile_ledger_up", ACCOUNT] == 1
    assert found.counters.keys() == before.counters.keys()

    host.stop()
    with fault(host.ledger) as what_to_do:
        done = host.run()
    assert done.returncode == 1, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if str(host.ledger.parent) in line]
    assert what_to_do in line
    assert series_but_counters(exported(host.textfile)) == series_but_counters(before)


@pytest.mark.slow
def test_a_poll_that_is_not_delivered_lets_the_next_begin_with_0(portal: DemoPortal, tmp_path: Path) -> None:
    """As a timer makes them: each poll is a process of its own."""
    textfile = tmp_path / "textfile" / "a.prom"
    env = account(portal, CC_TEXTFILE_PATH=str(textfile), CC_TEXTFILE_LEDGER=str(tmp_path / "ledger.sqlite"))
    assert run("run", "--settle", "23h", env=env).returncode == 1  # so the next polls have something to count
    textfile.parent.mkdir()
    sums = []
    for _ in range(2):
        assert run("run", env=env).returncode == 0
        sums.append(sum(exported(textfile).counters.values()))
    assert sums[0] == 0 < sums[1]


def test_counters_begin_with_0_also_where_their_first_file_cannot_be_written(host: Host) -> None:
    """`increase()` sees all that was counted, from the first poll on."""
    elsewhere = host.textfile.parent.rename(host.textfile.parent.with_name("elsewhere"))
    assert "cannot be written" in host.poll()
    elsewhere.rename(host.textfile.parent)
    host.world.now += 2 * STEP
    host.poll()
    assert set(exported(host.textfile).counters.values()) == {0}
    host.poll()
    compare(host)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--no-gauges",), "--ledger (CC_TEXTFILE_LEDGER)"),
        (("--ledger", "{folder}/l", "--settle", "-1s"), "from 0s to 24h"),
        (("--ledger", "{folder}/l", "--settle", "24h1s"), "from 0s to 24h"),
        (("--ledger", "{folder}/l", "--catch-up", "23h59m"), "from 24h"),
    ],
)
def test_bad_settings_of_the_ledger(flags: tuple[str, ...], says: str, env: dict[str, str], portal: DemoPortal) -> None:
    """One line says what would be right; nothing is polled, and nothing is made."""
    folder = Path(env["CC_TEXTFILE_PATH"]).parent
    done = run("run", *(flag.format(folder=folder) for flag in flags), env=env)
    assert done.returncode == 2
    (line, _) = done.stderr.splitlines()
    assert says.format(folder=folder) in line
    assert portal.requests == 0
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("flags", [(), ("--no-gauges",)])
def test_a_loop_counts_at_its_interval(
    flags: tuple[str, ...], world: World, simulated_portal: DemoPortal, tmp_path: Path
) -> None:
    """Each step is counted once, however many polls fall into it."""
    host = Host(world, simulated_portal, tmp_path, "--interval", "20ms", *flags)
    host.poll()
    assert host.loop
    for _ in range(3):
        world.now += STEP
        host.set_clock()
        for _ in range(3):
            host.loop.line("polled")
        found = compare(host)
        assert found.value("chinacache_settled_seconds_total", CHANNELS[0]) == (world.now - BEGIN).total_seconds()
    host.stop()


# --- Kills -----------------------------------------------------------------------------------------------------------

CALLS = "pwrite64,fdatasync,fsync,ftruncate,mkdir,fchmod,rename,unlink,rmdir"
"""What changes something on the disk: the commit, and then the file."""


def traced(host: Host, start: Callable[..., Program], log: Path, *options: str) -> str:
    """Let the loop poll under strace, to the end of the poll or of the loop; returns what strace saw."""
    assert host.loop
    command = (tool("strace"), "-f", "-y", "-o", str(log), "-e", f"trace={CALLS}", *options)
    strace = start(*command, "-p", str(host.loop.process.pid))
    strace.line("attached")
    host.begin_poll()
    host.wait()
    strace.end(signal.SIGINT if host.loop else None)
    return log.read_text()


@pytest.mark.slow
def test_killed_at_each_system_call_between_commit_and_file(
    host: Host, tmp_path: Path, start: Callable[..., Program]
) -> None:
    """Whichever call is the last one, no counter falls, and the next poll goes on: nothing lost, nothing twice."""
    log = tmp_path / "strace.log"
    host.poll()
    host.world.now += STEP
    host.poll()
    host.world.now += STEP
    calls = re.findall(r"^\d+ +(\w+)\(", traced(host, start, log), re.MULTILINE)
    assert calls.index("fdatasync") < calls.index("mkdir") < calls.index("rename")
    counted_before_the_kill = set()
    for call, times in Counter(calls).items():
        for nth in range(1, times + 1):
            before = compare(host)
            host.world.now += STEP
            seen = traced(host, start, log, "-e", f"inject={call}:signal=SIGKILL:when={nth}")
            assert "killed by SIGKILL" in seen, f"{call} number {nth} was not reached"
            host.stop()
            between = exported(host.textfile)
            assert between.counters.keys() == before.counters.keys()
            assert all(value >= before.counters[series] for series, value in between.counters.items())
            host.world.now += STEP
            host.world.requests.clear()
            host.poll()
            compare(host)
            windows = {query["startTime"] for method, query in host.world.requests if method is Method.HIT_RATE}
            counted_before_the_kill.add(f"{settled(host.world.now) - STEP:%Y%m%d%H%M}" in windows)
    # Killed early, both steps are counted in one request; killed late, the second one alone is left.
    assert counted_before_the_kill == {True, False}


# --- What is requested -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "methods"),
    [
        ((), {"hit_rate": 2, "isp": 2, "region": 1, "http_code": 1}),
        (("--no-gauges",), {"hit_rate": 1, "isp": 1, "http_code": 1}),
        (("--methods", "isp,http_code"), {"isp": 2, "http_code": 1}),
        (("--methods", "http_code", "--no-gauges"), {"http_code": 1}),
    ],
)
def test_one_request_for_status_codes_serves_gauge_and_ledger(
    flags: tuple[str, ...],
    methods: dict[str, int],
    world: World,
    simulated_portal: DemoPortal,
    tmp_path: Path,
) -> None:
    """An ordinary poll makes no more requests than the first line of the log says."""
    host = Host(world, simulated_portal, tmp_path, *flags)
    host.run()
    host.world.now += STEP
    host.world.requests.clear()
    done = host.run()
    assert done.returncode == 0
    made = Counter(method for method, _ in host.world.requests)
    assert made == {Method(name): number * len(CHANNELS) for name, number in methods.items()}
    assert f" {made.total()} requests in a poll of {len(CHANNELS)} channels" in done.stderr.splitlines()[0]
    names = {name for name, _ in exported(host.textfile).gauges}
    assert any(name.startswith("ChinaCache_") for name in names) == ("--no-gauges" not in flags)
    assert ("cc_textfile_window_end_timestamp_seconds" in names) == ("--no-gauges" not in flags)
