"""What a poll shows: on a terminal while it runs, and in the log at its end."""

import os
import pty
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cc_textfile import summary
from cc_textfile.demo.portal import DemoPortal
from cc_textfile.errors import Malformed, RequestError
from cc_textfile.poll import Snapshot
from cc_textfile.portal.responses import Method, Request
from cc_textfile.portal.window import Window
from tests.conftest import PATIENCE, Program, account, command, eventually

NOW = datetime(2024, 5, 17, 3, 30, tzinfo=UTC)


@contextmanager
def long_polls_on_a_terminal(
    portal: DemoPortal, env: Mapping[str, str], interval: str
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a loop whose polls take two seconds, with a terminal as its standard error; the test closes that."""
    portal.fault = lambda method, _: "hang" if method is Method.ISP else None
    arguments = command("run", "--timeout", "2s", "--interval", interval)
    terminal, end = pty.openpty()
    with subprocess.Popen(arguments, env={**env, "TERM": "xterm"}, stderr=end, stdout=subprocess.DEVNULL) as process:
        os.close(end)
        yield process, terminal


def read_until(terminal: int, word: str) -> str:
    """Return what is shown on the terminal, up to the word and a little more."""
    shown = ""
    while word not in shown:
        shown += os.read(terminal, 4096).decode()
    return shown


@pytest.mark.slow
def test_a_long_poll_shows_its_progress_on_a_terminal(tmp_path: Path, portal: DemoPortal) -> None:
    """On standard error, if that is a terminal, and until the poll is over."""
    env = account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"), WATCHDOG_USEC="1000000")
    with long_polls_on_a_terminal(portal, env, "1h") as (process, terminal):
        shown = read_until(terminal, "; wrote ")
        process.terminate()
        assert process.wait() == 0
    os.close(terminal)
    progress, _, after = shown.partition("polled 3 channels")
    assert "polling: 9 of 12 requests (75%)\r" in progress
    assert "polling" not in after


@pytest.mark.slow
def test_a_terminal_that_goes_away_takes_no_poll_with_it(tmp_path: Path, portal: DemoPortal) -> None:
    """A loop whose terminal was closed while it showed its progress goes on polling."""
    textfile = tmp_path / "a.prom"
    with long_polls_on_a_terminal(portal, account(portal, CC_TEXTFILE_PATH=str(textfile)), "100ms") as (
        process,
        terminal,
    ):
        read_until(terminal, "polling")
        os.close(terminal)
        eventually(lambda: textfile.exists() or process.poll() is not None)
        first = textfile.stat().st_mtime_ns
        eventually(lambda: textfile.stat().st_mtime_ns > first or process.poll() is not None)
        process.terminate()
        assert process.wait() == 0


@pytest.mark.slow
def test_a_terminal_that_nobody_reads_stops_no_poll(tmp_path: Path, portal: DemoPortal) -> None:
    """Such as one that was stopped, or whose network is gone: the progress is given up, and the poll is delivered."""
    portal.fault = lambda method, _: "hang" if method is Method.ISP else None
    textfile = tmp_path / "a.prom"
    env = account(portal, CC_TEXTFILE_PATH=str(textfile), TERM="xterm")
    terminal, end = pty.openpty()
    os.set_blocking(end, False)
    with suppress(BlockingIOError):
        while True:
            os.write(end, b"x")
    os.set_blocking(end, True)
    with subprocess.Popen(command("run", "--timeout", "2s"), env=env, stderr=end, stdout=subprocess.DEVNULL) as process:
        os.close(end)
        assert process.wait(PATIENCE) == 0
    os.close(terminal)
    assert textfile.exists()


@pytest.mark.slow
def test_elsewhere_there_is_no_progress(tmp_path: Path, portal: DemoPortal, start: Callable[..., Program]) -> None:
    """A journal has each line for ever."""
    portal.fault = lambda method, _: "hang" if method is Method.ISP else None
    env = account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"))
    program = start(*command("run", "--timeout", "2s"), env=env)
    assert program.end(None) == 0
    assert "%" not in program.said
    assert "of 12" not in program.said
    assert "polling" not in program.said


def test_many_distinct_failures_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The first are logged, and the number of the others."""
    window = Window.ending(NOW, 5)
    failures: dict[Request, RequestError] = {
        Request(str(n), Method.ISP, window): Malformed(f"nonsense number {n}", channel=str(n), method=Method.ISP)
        for n in range(25)
    }
    summary.failures(Snapshot({}, failures, NOW, 1.0), "me")
    assert len(caplog.messages) == summary.MAX_FAILURE_LINES + 1
    assert caplog.messages[-1] == "5 more distinct failures are not logged"


def test_a_failure_of_many_channels_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """It names the first channels, each once however many of its requests failed, and the number of the others."""
    windows = (Window.ending(NOW, 5), Window.ending(NOW, 10))
    failures: dict[Request, RequestError] = {
        Request(str(n), Method.ISP, window): Malformed("cut", channel=str(n), method=Method.ISP)
        for n in range(5)
        for window in windows
    }
    summary.failures(Snapshot({}, failures, NOW, 1.0), "me")
    assert caplog.messages == ["isp of channel 0, 1, 2 and 2 more: cut"]
