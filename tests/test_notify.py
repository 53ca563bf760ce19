"""What systemd hears of the program, on real datagram sockets."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cc_textfile import notify


@pytest.fixture
def systemd() -> Iterator[socket.socket]:
    """A datagram socket, as systemd opens one for its services; not bound yet."""
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
