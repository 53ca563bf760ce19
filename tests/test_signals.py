"""Every signal, at any time from the first line of `main`, does what it should: nothing hangs, and nothing is lost."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cc_textfile.demo import portal as demo
from cc_textfile.demo.portal import DemoPortal
from tests.conftest import PATIENCE, Program, account, command, eventually, needs_root

Start = Callable[..., Program]
STOP = (signal.SIGTERM, signal.SIGINT)

AT_AN_EVENT = """
import os, sys
from cc_textfile.__main__ import main
number, moment = map(int, sys.argv.pop(1).split(","))
count = 0
def hook(*_):
    global count
    count += 1
    if count == moment:
        os.kill(os.getpid(), number)
    if signals := sys.modules.get("cc_textfile.signals"):
        signals.STOP_SECONDS = 60  # however slow the machine is
sys.addaudithook(hook)
try:
    main()
finally:
    print(count)
"""
"""The program, which gets a signal at one of the events that Python tells of: imports, files, sockets, threads, ..."""


def at(moment: int, number: int) -> tuple[str, ...]:
    """Return the command line of the program that gets a signal at a moment, counted from the first line of `main`."""
    return (sys.executable, "-c", AT_AN_EVENT, f"{number},{moment}", "run")


@cache
def moments_of_a_poll() -> int:
    """Return how many events a poll has, from the first line of `main` to its end."""
    with DemoPortal().serving() as portal, TemporaryDirectory() as folder:
        env = account(portal, CC_TEXTFILE_PATH=f"{folder}/a.prom")
        done = subprocess.run(at(0, 0), env=env, stdout=subprocess.PIPE, check=True, timeout=PATIENCE)
    return int(done.stdout)


PARTS = [n / 24 for n in range(24)]


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_signal_to_stop_ends_the_start(part: float, env: dict[str, str], start: Start) -> None:
    """At each moment from the first line of `main` to the end of the first poll: the loop's own end, no traceback."""
    moment = 1 + int(part * moments_of_a_poll())
    number = STOP[moment % 2]
    program = start(*at(moment, number), env=env | {"CHINACACHE_INTERVAL": "1h"})
    assert program.end(None) == 0
    assert "Traceback" not in program.said
    assert [file.name for file in Path(env["CC_TEXTFILE_PATH"]).parent.iterdir()] in ([], ["a.prom"])


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_hangup_does_not_end_the_start(part: float, env: dict[str, str], start: Start) -> None:
    """At each moment from the first line of `main` on, a loop takes SIGHUP for what it is, and polls."""
    moment = 1 + int(part * moments_of_a_poll())
    program = start(*at(moment, signal.SIGHUP), env=env | {"CHINACACHE_INTERVAL": "1h"})
    program.line("SIGHUP: read the files of the settings again")
    program.line("polled 3 channels")
    assert program.end() == 0


@pytest.mark.parametrize("number", STOP)
def test_a_start_that_takes_long_ends_by_the_signal_itself(number: signal.Signals, env: dict[str, str]) -> None:
    """For systemd that is a clean end, and an exit status of 143 is a failure."""
    words = [word.replace("STOP_SECONDS = 60", "STOP_SECONDS = 0") for word in at(moments_of_a_poll() // 8, number)]
    assert subprocess.run(words, env=env, check=False, timeout=PATIENCE).returncode == -number


@pytest.mark.slow
@pytest.mark.parametrize("number", STOP)
def test_output_that_nobody_reads_does_not_hold_up_the_end(number: signal.Signals, env: dict[str, str]) -> None:
    """Also before a poll begins: this is help that blocks in a full pipe."""
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "wb", buffering=0) as pipe:
        os.set_blocking(writer, False)
        while pipe.write(b"x" * 100):
            pass
        os.set_blocking(writer, True)
        with subprocess.Popen(command("--help"), env=env, stdout=pipe) as process:
            try:
                eventually(lambda: len(list(Path(f"/proc/{process.pid}/task").iterdir())) == 2)
                process.send_signal(number)
                assert process.wait(PATIENCE) == -number
            finally:
                process.kill()


# --- While the poll hangs --------------------------------------------------------------------------------------------


@contextmanager
def silent_resolver(folder: Path) -> Iterator[tuple[socket.socket, tuple[str, ...]]]:
    """Yield the socket of a name server that never responds, and the words before a command that uses it alone."""
    needs_root()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        address = f"127.7.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"  # one for each process that tests
        server.bind((address, 53))
        server.settimeout(PATIENCE)
        (folder / "resolv.conf").write_text(f"nameserver {address}\noptions timeout:30\n")
        mount = f'mount --bind {folder}/resolv.conf /etc/resolv.conf && exec "$@"'
        yield server, ("unshare", "--mount", "sh", "-c", mount, "sh")


Hang = tuple[dict[str, str], tuple[str, ...], Callable[[], object]]
"""The variables of a poll that hangs, the words before its command, and a function that waits until it does."""


@pytest.fixture
def hang(request: pytest.FixtureRequest, portal: DemoPortal, tmp_path: Path) -> Iterator[Hang]:
    """Let a poll hang in a step of its way."""
    with ExitStack() as stack:
        match request.param:
            case "name":
                server, words = stack.enter_context(silent_resolver(tmp_path))
                yield {"CHINACACHE_URL": "http://portal.example"}, words, lambda: server.recv(512)
            case "connection":
                full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
                stack.enter_context(socket.create_connection(full.getsockname()))
                port = full.getsockname()[1]
                syn_sent = re.compile(f"0100007F:{port:04X} 02 ")
                connections = Path("/proc/net/tcp")
                url = f"http://127.0.0.1:{port}"
                yield {"CHINACACHE_URL": url}, (), lambda: eventually(lambda: syn_sent.search(connections.read_text()))
            case "push":
                hole = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
                hole.settimeout(PATIENCE)
                env = {"PUSHGATEWAY": f"http://127.0.0.1:{hole.getsockname()[1]}", "CC_TEXTFILE_PATH": ""}
                yield env, (), lambda: stack.enter_context(hole.accept()[0])
            case fault:
                asked = threading.Event()

                def fail(*_: object) -> str:
                    asked.set()
                    return str(fault)

                portal.fault = fail
                yield {}, (), lambda: asked.wait(PATIENCE)


@pytest.mark.parametrize("interval", ["", "1h"])
@pytest.mark.parametrize("hang", ["name", "connection", "hang", "drip", "push"], indirect=True)
def test_a_signal_ends_a_poll_that_hangs(hang: Hang, interval: str, env: dict[str, str], start: Start) -> None:
    """Whatever it hangs in: 0 for a loop, 1 for a poll that delivered nothing, and nothing is left behind."""
    folder = Path(env["CC_TEXTFILE_PATH"]).parent
    more, before, begun = hang
    env |= {"CHINACACHE_INTERVAL": interval, "CC_TEXTFILE_TIMEOUT": "1h", "CC_TEXTFILE_DEADLINE": "2h"} | more
    program = start(*before, *command("run"), env=env)
    assert begun()
    number = STOP[bool(interval)]
    assert program.end(number) == (0 if interval else 1)
    assert "Traceback" not in program.said
    assert program.said.endswith(
        f"{number.name}: stopped" if interval else f"{number.name} before the poll was complete"
    )
    assert list(folder.iterdir()) == []


def test_under_nohup_the_end_of_the_terminal_ends_nothing(
    env: dict[str, str], portal: DemoPortal, start: Start
) -> None:
    """SIGHUP is ignored there, and stays so."""
    asked, over = threading.Event(), threading.Event()

    def wait(*_: object) -> None:
        asked.set()
        over.wait(PATIENCE)

    portal.fault = wait
    program = start("nohup", *command("run"), env=env)
    assert asked.wait(PATIENCE)
    program.process.send_signal(signal.SIGHUP)
    over.set()
    assert program.end(None) == 0


def test_a_delivery_that_has_begun_is_completed(env: dict[str, str], start: Start) -> None:
    """SIGTERM while the file is written: the file is there, and no temporary one."""
    delay = ("strace", "-f", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=300000")
    folder = Path(env["CC_TEXTFILE_PATH"]).parent
    program = start(*delay, *command("run", "--interval", "1h"), env=env)
    eventually(lambda: list(folder.glob(".a.prom.*")))
    child = int(Path(f"/proc/{program.process.pid}/task/{program.process.pid}/children").read_text())
    os.kill(child, signal.SIGTERM)
    assert program.end(None) == 0
    assert [file.name for file in folder.iterdir()] == ["a.prom"]


def test_stop_signals_in_a_row(env: dict[str, str], start: Start) -> None:
    """An impatient operator, or systemd after one, sends more than one signal: one end comes of them."""
    program = start(*command("run", "--interval", "1h"), env=env)
    program.line("; wrote ")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        program.process.send_signal(number)
    assert program.end(None) == 0
    assert re.search("(SIGINT|SIGTERM): stopped$", program.said, re.MULTILINE)


# --- SIGHUP ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(env: dict[str, str], tmp_path: Path) -> tuple[Path, Path]:
    """Let password and channels come from files."""
    password, channels = tmp_path / "password", tmp_path / "channels"
    password.write_text(demo.PASSWORD)
    channels.write_text("1\n2\n")
    del env["CHINACACHE_PASS"], env["CHINACACHE_CHANNEL_IDS"]
    env |= {"CHINACACHE_PASS_FILE": str(password), "CHINACACHE_CHANNEL_IDS_FILE": str(channels)}
    return password, channels


def test_a_hangup_reads_password_and_channels_again(
    files: tuple[Path, Path], env: dict[str, str], start: Start
) -> None:
    """The next poll is at once, and by the new files."""
    password, channels = files
    password.write_text("wrong-one")
    program = start(*command("run", "--interval", "1h"), env=env)
    program.line("polled 2 channels .* 0 requests good, 8 failed")
    password.write_text(demo.PASSWORD)
    channels.write_text("1\n2\n3\n")
    program.process.send_signal(signal.SIGHUP)
    program.line("SIGHUP: read the files of the settings again: 3 channels")
    program.line("polled 3 channels .* 12 requests good, 0 failed")
    assert program.end() == 0


def test_a_hangup_with_files_that_are_wrong_changes_nothing(
    files: tuple[Path, Path], env: dict[str, str], start: Start
) -> None:
    """All faults are in one line, and polls go on by the settings of before; also where a read would wait for ever."""
    password, channels = files
    program = start(*command("run", "--interval", "1h"), env=env)
    program.line("polled 2 channels .* 8 requests good, 0 failed")
    password.unlink()
    os.mkfifo(password)
    channels.write_text("")
    program.process.send_signal(signal.SIGHUP)
    program.line(f"SIGHUP: the settings stay as they were: .*{password}.*; .*{channels}")
    program.line("polled 2 channels .* 8 requests good, 0 failed")
    assert program.end() == 0


def test_a_hangup_is_not_lost_in_a_loop_that_is_always_late(env: dict[str, str], start: Start) -> None:
    """A loop that never sleeps reads the files again all the same."""
    program = start(*command("run", "--interval", "1ms"), env=env)
    program.line("polled 3 channels")
    program.process.send_signal(signal.SIGHUP)
    program.line("SIGHUP: read the files of the settings again")
    assert program.end() == 0


def test_a_hangup_during_a_poll_waits_for_its_end(env: dict[str, str], portal: DemoPortal, start: Start) -> None:
    """The poll that is under way ends as it began, and the files are read after it."""
    asked, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        asked.set()
        go_on.wait(PATIENCE)

    portal.fault = slow
    program = start(*command("run", "--interval", "1h"), env=env)
    assert asked.wait(PATIENCE)
    program.process.send_signal(signal.SIGHUP)
    go_on.set()
    program.line("polled 3 channels .* 12 requests good, 0 failed")
    program.line("SIGHUP: read the files of the settings again")
    assert program.end() == 0
