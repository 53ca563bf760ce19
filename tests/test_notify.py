"""What systemd hears of the program, on real datagram sockets."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cc_textfile import notify
from cc_textfile.demo import DemoPortal
from tests.conftest import PATIENCE, Program, account, command


@pytest.fixture
def systemd() -> Iterator[socket.socket]:
    """Open a datagram socket, as systemd does for its services; not bound yet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(10)
        yield receiver


def test_the_fields_arrive_in_one_datagram(
    systemd: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """READY and STATUS come together, a field a line."""
    systemd.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    notify.notify(notify.READY, notify.status("12 of 12 requests answered"))
    assert systemd.recv(4096) == b"READY=1\nSTATUS=12 of 12 requests answered"


def test_an_abstract_socket_is_reached(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that begins with @ has no file; containers are given such ones."""
    systemd.bind(f"\0cc-textfile-test-{os.getpid()}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@cc-textfile-test-{os.getpid()}")
    notify.notify(notify.WATCHDOG)
    assert systemd.recv(4096) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", [None, "", "{folder}/nobody-listens", "vsock:2:1234", "/" + "x" * 200])
def test_without_a_listener_nothing_happens(
    address: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Started by hand, or with an address that leads nowhere, the program goes on."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address.format(folder=tmp_path))
    notify.notify(notify.READY)


def test_a_queue_that_nobody_empties_holds_nothing_up(
    systemd: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor that stopped reading costs a moment for each datagram, and never a poll."""
    systemd.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setattr(notify, "PATIENCE", 0.001)
    most = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())

    def tell() -> None:
        for _ in range(2 * most + 2):
            notify.notify(notify.WATCHDOG)

    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    telling.join(PATIENCE)
    assert not telling.is_alive()


def test_a_status_is_one_line() -> None:
    """A line break would begin another field: an error text must not be able to say READY=1."""
    assert notify.status("refused:\nREADY=1\n") == "STATUS=refused: READY=1"


@pytest.mark.parametrize(
    ("allowed", "watched", "seconds"),
    [
        ("30000000", None, 15.0),
        ("30000000", str(os.getpid()), 15.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_time(
    allowed: str | None, watched: str | None, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sd_watchdog_enabled(3): half the interval, and only for the process that is meant."""
    for name, value in (("WATCHDOG_USEC", allowed), ("WATCHDOG_PID", watched)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert notify.watchdog_interval() == seconds


def test_a_daemon_says_how_it_is(
    systemd: socket.socket, tmp_path: Path, portal: DemoPortal, start: Callable[..., Program]
) -> None:
    """Ready after the first poll, a status for each, the watchdog fed at all times, reloading, stopping."""
    systemd.settimeout(PATIENCE)
    systemd.bind(str(tmp_path / "notify"))
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
    assert systemd.recv(4096) == b"WATCHDOG=1", "a poll that takes its time is alive"
    go_on.set()
    portal.fault = lambda *_: None
    heard = [systemd.recv(4096).decode()]
    while heard[-1] != "READY=1":
        heard.append(systemd.recv(4096).decode())
    assert heard[-2].startswith("STATUS=polled 3 channels in "), "ready is who has polled"
    assert systemd.recv(4096) == b"WATCHDOG=1"
    program.process.send_signal(signal.SIGHUP)
    while (word := systemd.recv(4096)) == b"WATCHDOG=1":
        pass
    assert (word, systemd.recv(4096)) == (b"RELOADING=1", b"READY=1")
    program.process.send_signal(signal.SIGTERM)
    while (word := systemd.recv(4096)) == b"WATCHDOG=1":
        pass
    assert word == b"STOPPING=1"
    assert program.end(None) == 0


def test_a_daemon_says_what_is_wrong(
    systemd: socket.socket, tmp_path: Path, portal: DemoPortal, start: Callable[..., Program]
) -> None:
    """A poll that could not be delivered is in the status, and the daemon is ready all the same: it will try again."""
    systemd.settimeout(PATIENCE)
    systemd.bind(str(tmp_path / "notify"))
    textfile = tmp_path / "a.prom"
    textfile.mkdir()
    env = account(portal, CC_TEXTFILE_PATH=str(textfile), NOTIFY_SOCKET=str(tmp_path / "notify"))
    program = start(*command("run", "--interval", "1h"), env=env)
    assert systemd.recv(4096).decode().startswith(f"STATUS={textfile} cannot be written: Is a directory")
    assert systemd.recv(4096) == b"READY=1"
    assert program.end() == 0
