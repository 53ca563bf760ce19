"""The loop: its rhythm, whatever the clock does, and what keeps it from starting."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from cc_textfile import daemon
from cc_textfile.demo import portal as demo
from cc_textfile.demo.portal import DemoPortal
from cc_textfile.logs import Redactor
from cc_textfile.remedies import user
from cc_textfile.settings import Settings
from cc_textfile.signals import Signals
from cc_textfile.workers import within
from tests.conftest import IN_JOURNAL, NOBODY, PATIENCE, POWERLESS, Program, account, command, needs_root, run

Start = Callable[..., Program]


def test_it_polls_at_once_and_again_until_it_is_stopped(env: dict[str, str], start: Start) -> None:
    """The first poll does not wait for the interval; SIGTERM ends the loop with 0."""
    program = start(*command("run", "--interval", "200ms"), env=env)
    for _ in range(3):
        program.line("polled 3 channels")
    assert program.end() == 0
    assert program.said.endswith("info: SIGTERM: stopped")
    assert [file.name for file in Path(env["CC_TEXTFILE_PATH"]).parent.iterdir()] == ["a.prom"]


def test_it_waits_for_its_folder(tmp_path: Path, start: Start, portal: DemoPortal) -> None:
    """A folder that does not exist yet is a failed delivery: the loop tries again at each poll, until it does."""
    path = tmp_path / "missing" / "a.prom"
    program = start(*command("run", "--interval", "100ms"), env=account(portal, CC_TEXTFILE_PATH=str(path)))
    program.line(f"error: {path} cannot be written: No such file or directory")
    path.parent.mkdir()
    program.line(f"; wrote {path}$")
    assert program.end() == 0


@pytest.mark.parametrize("closed", [False, True])
def test_a_unit_without_a_folder_does_not_start(tmp_path: Path, portal: DemoPortal, *, closed: bool) -> None:
    """In a unit's mounts a folder that is made later stays read-only: one line, nothing polled, no try after try."""
    path = tmp_path / "folder" / "missing" / "a.prom"
    if closed:  # to this user; then nobody can tell whether there is a folder in it
        needs_root()
        path.parent.parent.mkdir(0o700)
        os.chown(path.parent.parent, NOBODY, NOBODY)
    env = account(portal, CC_TEXTFILE_PATH=str(path), NOTIFY_SOCKET="@nobody-listens")
    ended = run("run", "--interval", "1h", env=env, before=(*(POWERLESS if closed else ()), *IN_JOURNAL))
    assert ended.returncode == 2
    assert ended.stderr.endswith(
        f"cc-textfile: --textfile (CC_TEXTFILE_PATH) names {path}; create the folder {path.parent} first, where user "
        f"{user()} can reach it\n"
    )
    assert portal.requests == 0


def test_a_host_with_little_memory_for_threads(env: dict[str, str]) -> None:
    """With fewer threads than asked for the poll takes longer, and is whole."""
    channels = ",".join(str(n) for n in range(60))
    flags = ("--channels", channels, "--concurrency", "200")
    done = run("run", *flags, env=env, before=("prlimit", f"--as={450 << 20}", "--"))
    assert "240 requests good, 0 failed" in done.stderr
    assert done.returncode == 0


def test_a_host_that_gives_no_thread(env: dict[str, str]) -> None:
    """Not even the first: one line tells where the limit may be."""
    no_thread = "import threading; threading.stack_size(1 << 40); from cc_textfile.__main__ import main; main()"
    words = (sys.executable, "-c", no_thread, "run")
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stderr == (
        "cc-textfile: no thread could be started: see TasksMax= of the unit, or the limit of processes (ulimit -u)\n"
    )


class Jumping(datetime):
    """The wall clock, some jump away from the true one."""

    jump = timedelta()

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        """Return the time after the jump."""
        return datetime.now(tz) + cls.jump


class EndOfTest(Exception):
    """Ends the loop."""


INTERVAL = 0.25


class Output:
    """Notes time and window of each delivery, and does something at some of them."""

    def __init__(self, deliveries: int, act: Mapping[int, Callable[[], object]]) -> None:
        self.times: list[float] = []
        self.windows: list[float] = []
        self._deliveries = deliveries
        self._act = act

    def locked(self) -> nullcontext[None]:
        """Lock nothing."""
        return nullcontext()

    def deliver(self, registry: CollectorRegistry) -> str:
        """Note the delivery."""
        end = registry.get_sample_value("cc_textfile_window_end_timestamp_seconds", {"account": demo.USER})
        assert end is not None
        self.windows.append(end)
        self._act.get(len(self.windows), lambda: None)()
        self.times.append(time.monotonic())
        if len(self.times) == self._deliveries:
            raise EndOfTest
        return "seen"


def loop(portal: DemoPortal, output: Output, monkeypatch: pytest.MonkeyPatch) -> float:
    """Run the loop until the output ends it; returns when it began."""
    settings = Settings(
        user=demo.USER,
        password=demo.PASSWORD,
        account=demo.USER,
        channels=("1",),
        portal_url=portal.url,
        interval=INTERVAL,
    )
    monkeypatch.setattr(daemon, "Output", lambda *_: output)
    began = time.monotonic()
    with pytest.raises(EndOfTest):
        within(PATIENCE, lambda: daemon.loop(settings, Redactor(), Signals(), reload=lambda: settings))
    return began


def test_a_poll_that_took_long_is_not_made_up_for(portal: DemoPortal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is at once, and those after it in their rhythm: no burst."""
    output = Output(4, {1: lambda: time.sleep(4 * INTERVAL)})
    loop(portal, output, monkeypatch)
    assert output.times[-1] - output.times[0] > 2 * INTERVAL


@pytest.mark.slow
@pytest.mark.parametrize("jump", [timedelta(hours=-7), timedelta(hours=7)], ids=["back", "forward"])
@pytest.mark.parametrize("what", ["clock", "zone"])
def test_a_jump_of_the_clock(portal: DemoPortal, monkeypatch: pytest.MonkeyPatch, jump: timedelta, what: str) -> None:
    """Polls go on in their rhythm, neither late by the jump nor in a burst, and windows follow the new time."""

    def change() -> None:
        if what == "clock":
            Jumping.jump = jump
        else:
            # POSIX turns the sign round: what is east of Greenwich is negative.
            monkeypatch.setenv("TZ", f"XXX{-jump.total_seconds() / 3600:+.0f}")
            time.tzset()

    monkeypatch.setattr(daemon, "datetime", Jumping)
    monkeypatch.setattr("schedule.datetime.datetime", Jumping)
    monkeypatch.setattr(Jumping, "jump", timedelta())
    # While the loop sleeps: it has decided already when to wake.
    output = Output(6, {2: lambda: threading.Timer(INTERVAL / 2, change).start()})
    began = loop(portal, output, monkeypatch)
    monkeypatch.undo()
    time.tzset()
    assert output.times[-1] - began > 5 * INTERVAL
    assert all(later - earlier < PATIENCE / 10 for earlier, later in pairwise(output.times))
    expected = jump if what == "clock" else timedelta()
    assert abs(timedelta(seconds=output.windows[-1] - output.windows[0]) - expected) <= timedelta(minutes=2)
