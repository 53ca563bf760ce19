"""Connections on which every wait ends when the exchange has to, whatever is waited for.

`requests` bounds each wait for bytes, so a peer that drips one byte a second is never late for it; it bounds each
address of a name, but not all of them; and the look-up of the name not at all.
"""

import errno
import ipaddress
import math
import socket
import ssl
import threading
from concurrent.futures import Future
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection

SHORTEST_TIMEOUT = 0.001
"""Seconds; what begins when time is up still needs a timeout that is one."""

TIMEOUT_SLACK = 0.1
"""Seconds that a socket's own timeout may lag behind: setting it is a system call, which quick answers do without."""


class _Exchange(threading.local):
    """When the exchange that this thread has under way must be over, on the monotonic clock."""

    ends = math.inf

    def left(self) -> float:
        return self.ends - monotonic()


_exchange = _Exchange()


def end_waits_in(seconds: float) -> None:
    """Begin an exchange in this thread: so many seconds from now, each wait of it is over, with a `TimeoutError`."""
    _exchange.ends = monotonic() + seconds


class _Socket(socket.socket):
    """A socket that waits no longer than its thread's exchange may take, whatever timeout it is given."""

    _timeout: float | None = None

    def settimeout(self, value: float | None, /) -> None:
        self._timeout = None if value is None else max(min(value, _exchange.left()), SHORTEST_TIMEOUT)
        super().settimeout(self._timeout)

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self._end_in_time()
        return super().recv_into(*args, **kwargs)

    def recv(self, *args: Any, **kwargs: Any) -> bytes:
        self._end_in_time()
        return super().recv(*args, **kwargs)

    def send(self, *args: Any, **kwargs: Any) -> int:
        self._end_in_time()
        return super().send(*args, **kwargs)

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self._end_in_time()
        super().sendall(*args, **kwargs)

    def _end_in_time(self) -> None:
        if self._timeout is None:
            return
        left = _exchange.left()
        if left <= 0:
            raise TimeoutError
        if left < self._timeout - TIMEOUT_SLACK:
            self.settimeout(left)


class TlsSocket(_Socket, ssl.SSLSocket):
    """The same over TLS; a handshake keeps to the socket's timeout as a whole."""


class _Connection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        """Connect to the first address that answers; one that does not leaves the others their share of the time."""
        addresses = _addresses(self._dns_host, self.port)
        failure: OSError | None = None
        for tried, (family, kind, protocol, _, address) in enumerate(addresses):
            sock = _Socket(family, kind, protocol)
            try:
                sock.settimeout(_exchange.left() / (len(addresses) - tried))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.connect(address)
                sock.settimeout(_exchange.left())
            except OSError as error:
                failure = error
                sock.close()
            else:
                return sock
        raise failure or OSError("no address")


class _TlsConnection(_Connection, HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


POOLS: Final = {"http": _Pool, "https": _TlsPool}
"""urllib3's pools with such connections, by scheme."""

Address = tuple[Any, ...]
"""What `socket.getaddrinfo` says of one address of a name."""

_look_ups: dict[tuple[str, int], Future[list[Address]]] = {}
_looking_up = threading.Lock()


def _addresses(name: str, port: int) -> list[Address]:
    """Return a name's addresses, as soon as its look-up is done and before the exchange must be over.

    No timeout reaches a look-up, so it has a thread of its own. Those who ask for one name at one time wait for one
    look-up, so that hanging ones do not pile up.
    """
    with suppress(ValueError):
        ipaddress.ip_address(name)
        return socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)  # of an address, which takes no look-up
    with _looking_up:
        look_up = _look_ups.get((name, port))
        if look_up is None:
            look_up = Future()
            try:
                threading.Thread(target=_look_up, args=(name, port, look_up), name="look-up", daemon=True).start()
            except RuntimeError as error:
                raise OSError(errno.EAGAIN, "no thread for the look-up of its name") from error
            _look_ups[name, port] = look_up
    return look_up.result(_exchange.left())


def _look_up(name: str, port: int, look_up: Future[list[Address]]) -> None:
    try:
        look_up.set_result(socket.getaddrinfo(name, port, type=socket.SOCK_STREAM))
    except OSError as error:
        look_up.set_exception(error)
    except UnicodeError:  # a label of it is empty, or too long
        look_up.set_exception(socket.gaierror(socket.EAI_NONAME, "it is no name of a host"))
    finally:
        with _looking_up:
            del _look_ups[name, port]
