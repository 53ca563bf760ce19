"""Every wait on a socket ends when the exchange has to, whichever call it is."""

import socket
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic

import pytest
import requests

from cc_textfile.client import PortalClient
from cc_textfile.errors import CcTextfileError, Unreachable
from cc_textfile.poll import Poller
from cc_textfile.redaction import Redactor
from cc_textfile.sockets import _Socket, end_waits_in
from cc_textfile.transport import Transport
from cc_textfile.window import Window


@pytest.mark.parametrize(
    "wait",
    [lambda s: s.recv(1), lambda s: s.recv_into(bytearray(1)), lambda s: s.sendall(bytes(1 << 24))],
    ids=["recv", "recv_into", "sendall"],
)
def test_a_silent_peer_is_given_up_on(wait: Callable[[socket.socket], object]) -> None:
    """Reading by either call, and writing to who does not read, end with the exchange, whatever timeout was set."""
    ours, theirs = socket.socketpair()
    with theirs, _Socket(ours.family, ours.type, ours.proto, ours.detach()) as sock:
        end_waits_in(0.2)
        sock.settimeout(3600)
        began = monotonic()
        with pytest.raises(TimeoutError):
            wait(sock)
        assert monotonic() - began < 1.2
        with pytest.raises(TimeoutError):
            wait(sock)


def test_a_socket_without_a_timeout_has_none() -> None:
    """Who sets no timeout waits as long as it takes, as with any socket."""
    ours, theirs = socket.socketpair()
    with theirs, _Socket(ours.family, ours.type, ours.proto, ours.detach()) as sock:
        sock.settimeout(None)
        theirs.send(b"x")
        assert sock.recv(1) == b"x"


def test_an_error_that_nobody_foresaw_is_named_by_its_kind() -> None:
    """What `requests` may come up with one day is a failed exchange, in words without the URL."""
    error = Transport("http://127.0.0.1:9").in_words(requests.RequestException("http://host/?apiPasswd=secret"), 1)
    assert isinstance(error, Unreachable)
    assert str(error) == "no exchange with 127.0.0.1:9: RequestException"
    assert not error.transient


def test_a_host_that_has_no_thread_left_for_a_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an exchange that failed, for a reason that is the host's; the next one looks up anew."""
    transport = Transport("http://localhost:9")

    def none_left(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        with pytest.raises(Unreachable, match="no thread for the look-up of its name"):
            transport.exchange("GET", "http://localhost:9/", timeout=1)
    with pytest.raises(Unreachable, match="Connection refused"):
        transport.exchange("GET", "http://localhost:9/", timeout=10)


def test_a_host_that_has_no_thread_left_for_a_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one thread there is no poll, and the error says which limits to look at."""
    transport = Transport("http://127.0.0.1:9")
    client = PortalClient(transport, "http://127.0.0.1:9", "me", "secret", timeout=1, redact=Redactor("secret"))
    now = datetime(2024, 5, 17, tzinfo=UTC)

    def none_left(_: threading.Thread) -> None:
        message = "can't start new thread"
        raise RuntimeError(message)

    monkeypatch.setattr(threading.Thread, "start", none_left)
    with pytest.raises(CcTextfileError, match="see TasksMax= of the unit"):
        Poller(4).poll(client, ("1",), Window.ending(now, 5), now=now, deadline=1)


def test_closing_twice_is_closing_once() -> None:
    """Who closes what is closed already, as a poll that is stopped may, does nothing."""
    transport = Transport("http://127.0.0.1:9")
    transport.close()
    transport.close()
    with pytest.raises(Unreachable, match="Connection refused"):
        transport.exchange("GET", "http://127.0.0.1:9/", timeout=10)
