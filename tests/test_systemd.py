"""What the program tells systemd, on real datagram sockets."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cc_textfile import systemd
from cc_textfile.demo.portal import DemoPortal
from tests.conftest import PATIENCE, Program, account, command


@pytest.fixture
def receiver() -> Iterator[socket.socket]:
    """Open a datagram socket, as systemd does for its services; not bound yet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(PATIENCE)
        yield receiver


def test_the_fields_arrive_in_one_datagram(
    receiver: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """READY and STATUS come together, a field a line."""
    receiver.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    systemd.notify(systemd.READY, systemd.status("12 requests good"))
    assert receiver.recv(4096) == b"READY=1\nSTATUS=12 requests good"


def test_an_abstract_socket_is_reached(receiver: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that begins with @ has no file; containers are given such ones."""
    receiver.bind(f"\0cc-textfile-test-{os.getpid()}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@cc-textfile-test-{os.getpid()}")
    systemd.notify(systemd.WATCHDOG)
    assert receiver.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", [None, "", "{folder}/nobody-listens", "vsock:2:1234", "/" + "x" * 200])
def test_without_a_listener_nothing_happens(
    address: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started by hand, or with an address that leads nowhere, the program goes on."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address.format(folder=tmp_path))
    systemd.notify(systemd.READY)


def test_a_queue_that_nobody_empties_holds_nothing_up(
    receiver: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor that stopped reading costs a moment for each datagram, and never a poll."""
    receiver.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr(systemd, "SEND_SECONDS", 0.001)
    limit = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())

    def send() -> None:
        for _ in range(2 * limit + 2):
            systemd.notify(systemd.WATCHDOG)

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    sending.join(PATIENCE)
    assert not sending.is_alive()


def test_a_status_is_one_line() -> None:
    """A line break would begin another field: an error text must not be able to say READY=1."""
    assert systemd.status("refused:\nREADY=1\n") == "STATUS=refused: READY=1"


@pytest.mark.parametrize(
    ("allowed", "watched", "seconds"),
    [
        ("30000000", None, 15.0),
        ("30000000", "{pid}", 15.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_is_notified_at_half_its_time(
    allowed: str | None, watched: str | None, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sd_watchdog_enabled(3): half the interval, and only for the process that is meant."""
    for name, value in (("WATCHDOG_USEC", allowed), ("WATCHDOG_PID", watched)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value.format(pid=os.getpid()))
    assert systemd.watchdog_interval() == seconds


def test_a_daemon_reports_its_state(
    receiver: socket.socket, tmp_path: Path, portal: DemoPortal, start: Callable[..., Program]
) -> None:
    """Ready after the first poll, a status for each, the watchdog at all times, reloading, stopping."""
    receiver.bind(str(tmp_path / "notify"))
    env = account(
        portal,
        CC_TEXTFILE_PATH=str(tmp_path / "a.prom"),
        CHINACACHE_INTERVAL="1h",
        NOTIFY_SOCKET=str(tmp_path / "notify"),
        WATCHDOG_USEC="200000",
    )
    go_on = threading.Event()
    portal.fault = lambda *_: "broken" if go_on.wait(PATIENCE) else None
    program = start(*command("run"), env=env)
    assert receiver.recv(4096) == b"WATCHDOG=1", "a long poll is alive"
    go_on.set()
    portal.fault = lambda *_: None

    def state() -> str:
        for _ in range(int(PATIENCE / 0.1)):
            if (field := receiver.recv(4096).decode()) != "WATCHDOG=1":
                return field
        pytest.fail("nothing but WATCHDOG=1")

    assert state().startswith("STATUS=polled 3 channels in ")
    assert state() == "READY=1", "ready means that a poll was made"
    assert receiver.recv(4096) == b"WATCHDOG=1"
    program.process.send_signal(signal.SIGHUP)
    assert state() == "RELOADING=1"
    assert state().startswith("STATUS=polled 3 channels in ")
    assert state() == "READY=1"
    assert (receiver.recv(4096), receiver.recv(4096)) == (b"WATCHDOG=1",) * 2, "one SIGHUP is one reload"
    program.process.send_signal(signal.SIGTERM)
    assert state() == "STOPPING=1"
    assert program.end(None) == 0


def test_a_daemon_reports_a_failure(
    receiver: socket.socket, tmp_path: Path, portal: DemoPortal, start: Callable[..., Program]
) -> None:
    """A poll that could not be delivered is in the status, and the daemon is ready all the same: it will try again."""
    receiver.bind(str(tmp_path / "notify"))
    textfile = tmp_path / "a.prom"
    textfile.mkdir()
    env = account(portal, CC_TEXTFILE_PATH=str(textfile), NOTIFY_SOCKET=str(tmp_path / "notify"))
    program = start(*command("run", "--interval", "1h"), env=env)
    assert receiver.recv(4096).decode().startswith(f"STATUS={textfile} cannot be written: Is a directory")
    assert receiver.recv(4096) == b"READY=1"
    assert program.end() == 0
