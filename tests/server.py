"""Servers that misbehave on purpose, byte by byte: over TCP or TLS, each request is handed to a script."""

import json
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from http import HTTPStatus
from typing import NoReturn, Self
from urllib.parse import parse_qs, urlsplit

from cc_textfile.demo import portal as demo
from cc_textfile.portal.responses import Method

MAX_STOP = 10.0
"""Seconds that a script may go on after its connection was shut."""

WITHOUT_LENGTH = (*range(100, 200), HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


class Peer:
    """A client's connection, and the last request that came over it."""

    def __init__(self, server: "Server", sock: socket.socket) -> None:
        self.server = server
        self.sock = sock
        self.head = b""
        self.body = b""
        self._unread = b""

    @property
    def target(self) -> str:
        """The target of the request: a path, or an address where the server is a proxy."""
        return self.head.split(b" ", 2)[1].decode("latin-1")

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the request, decoded."""
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.target).query).items()}

    def read(self) -> bool:
        """Read one request, its body too; False when the client is gone."""
        self.head = self._until(b"\r\n\r\n")
        if not self.head:
            return False
        self.body = b""
        if length := re.search(rb"\r\nContent-Length: (\d+)", self.head, re.IGNORECASE):
            self.body = self._exactly(int(length[1]))
        elif re.search(rb"\r\nTransfer-Encoding: chunked", self.head, re.IGNORECASE):
            while size := int(self._until(b"\r\n"), 16):
                self.body += self._exactly(size)
                self._exactly(2)
            self._exactly(2)
        return True

    def _until(self, end: bytes) -> bytes:
        while end not in self._unread:
            more = self.sock.recv(65536)
            if not more:
                return b""
            self._unread += more
        read, _, self._unread = self._unread.partition(end)
        return read + end

    def _exactly(self, length: int) -> bytes:
        while len(self._unread) < length:
            more = self.sock.recv(65536)
            if not more:
                raise ConnectionError
            self._unread += more
        read, self._unread = self._unread[:length], self._unread[length:]
        return read

    def send(self, *pieces: bytes) -> None:
        """Send bytes."""
        for piece in pieces:
            self.sock.sendall(piece)

    def drip(self, data: bytes, seconds: float = 0.05) -> None:
        """Send bytes one at a time, so far apart."""
        for byte in data:
            self.send(bytes([byte]))
            if self.server.stopping.wait(seconds):
                raise ConnectionError

    def hang(self) -> NoReturn:
        """Wait until the client has gone or the server stops."""
        with suppress(OSError):
            while self.sock.recv(65536):
                pass
        raise ConnectionError

    def close(self) -> NoReturn:
        """Close the connection in an orderly way."""
        raise ConnectionError

    def reset(self) -> NoReturn:
        """Close the connection by RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        raise ConnectionError


Script = Callable[[Peer], None]
"""Responds to one request; the connection stays open for the next one unless the script closes it."""


class Server:
    """Listens on loopback. `connections` and `targets` show what came; `greet` is called before TLS and HTTP."""

    def __init__(
        self,
        script: Script,
        *,
        tls: ssl.SSLContext | None = None,
        greet: Script | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self._script = script
        self._tls = tls
        self._greet = greet
        self._listener = socket.create_server((host, 0), backlog=1024)
        self._peers: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self.stopping = threading.Event()
        self.port: int = self._listener.getsockname()[1]
        self.host = f"{host}:{self.port}"
        self.url = f"http{'s' if tls else ''}://{self.host}"
        self.connections = 0
        self.targets: list[str] = []

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        with self._lock:
            for peer in self._peers:
                with suppress(OSError):
                    peer.shutdown(socket.SHUT_RDWR)
            threads = list(self._threads)
        for thread in threads:
            thread.join(MAX_STOP)
            assert not thread.is_alive(), "a script goes on though its connection is gone"

    def _accept(self) -> None:
        while not self.stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            with self._lock:
                self.connections += 1
                self._peers.add(sock)
                self._threads.add(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        served = sock
        try:
            if self._greet:
                self._greet(Peer(self, sock))
            if self._tls:
                served = self._tls.wrap_socket(sock, server_side=True)
                with self._lock:
                    self._peers.add(served)
            peer = Peer(self, served)
            while peer.read():
                with self._lock:
                    self.targets.append(peer.target)
                self._script(peer)
        except OSError:
            pass
        finally:
            with self._lock:
                self._peers -= {sock, served}
                self._threads.discard(threading.current_thread())
            served.close()
            sock.close()


def response(body: bytes = b"", status: int = 200, *headers: str, length: int | None = None) -> bytes:
    """Return an HTTP response; `length` is its Content-Length, where that is not the body's."""
    lines = [f"HTTP/1.1 {status} Some Reason", *headers]
    if "Transfer-Encoding: chunked" not in headers and status not in WITHOUT_LENGTH:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def method_of(peer: Peer) -> Method:
    """Return the method that is requested."""
    return demo.METHODS[urlsplit(peer.target).path]


def channel_of(peer: Peer) -> str:
    """Return the channel that is requested."""
    return peer.query.get("channelIds") or peer.query["channel_id"]


def good_response(peer: Peer) -> bytes:
    """Return the portal's response."""
    fields = demo.response(method_of(peer), peer.query, datetime.now(UTC))
    return response(json.dumps(fields, ensure_ascii=False).encode())


def good(peer: Peer) -> None:
    """Respond as the portal does."""
    peer.send(good_response(peer))


def dripping_handshake(context: ssl.SSLContext) -> Script:
    """Return a greeting that sends its part of a TLS handshake a byte at a time."""

    def greet(peer: Peer) -> None:
        received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(received, to_send, server_side=True)
        received.write(peer.sock.recv(65536))
        with suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        peer.drip(to_send.read())

    return greet


def sending(*pieces: bytes) -> Script:
    """Return a script that always sends the same."""
    return lambda peer: peer.send(*pieces)


def then(*scripts: Script) -> Script:
    """Return a script of several."""

    def each(peer: Peer) -> None:
        for script in scripts:
            script(peer)

    return each


REFUSAL = sending(response(b'{"code": 10001, "success": false, "msg": "user name or password is wrong"}'))
"""The portal's response to a wrong password."""


@contextmanager
def proxy(trace: list[str], tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Serve as an HTTP proxy that traces what is requested, and by whom; CONNECT makes a tunnel."""

    def forward(peer: Peer) -> None:
        line = peer.head.split(b"\r\n", 1)[0]
        login = re.search(rb"\r\nProxy-Authorization:( [^\r]*)", peer.head, re.IGNORECASE)
        trace.append((line + (login[1] if login else b"")).decode("latin-1"))
        tunnel = line.startswith(b"CONNECT ")
        place = urlsplit(f"//{peer.target}" if tunnel else peer.target)
        with socket.create_connection((place.hostname, place.port)) as onward:
            if tunnel:
                peer.send(b"HTTP/1.1 200 Connected\r\n\r\n")
            else:
                path = f"{place.path}?{place.query}".encode("latin-1")
                onward.sendall(b"GET " + path + b" HTTP/1.0\r\n\r\n")
            back = threading.Thread(target=_pour, args=(onward, peer.sock), daemon=True)
            back.start()
            _pour(peer.sock, onward)
            back.join()
        raise ConnectionError

    with Server(forward, tls=tls) as server:
        yield server


def _pour(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
