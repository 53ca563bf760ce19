"""One HTTP exchange over real sockets: its bounds in time and size, its errors, and whose bytes a response is."""

import re
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from cc_textfile.errors import CcTextfileError, Malformed, RequestError, RequestTimeout, SettingsError, Unreachable
from cc_textfile.logs import Redactor
from cc_textfile.portal.transport import Reply, Transport
from cc_textfile.workers import Workers, within
from tests.certificates import bundle_of, loopback, served
from tests.conftest import PATIENCE
from tests.server import (
    Peer,
    Script,
    Server,
    dripping_handshake,
    proxy,
    response,
    sending,
    then,
)

SHORT = 0.3
"""Seconds that a request has in tests of a server that is late."""

MEBIBYTE = 1 << 20
LONGEST = 256 * 1024
"""Bytes of the longest body that is read."""


def whole(reply: Reply) -> Reply:
    """Take any response for good."""
    return reply


def get(url: str, *, timeout: float = PATIENCE, ca_file: Path | None = None) -> Reply:
    """Return the response of the server there."""
    transport = Transport(url, Redactor(), ca_file=ca_file)
    try:
        return transport.exchange("GET", f"{url}/", whole, timeout=timeout)
    finally:
        transport.close()


def echo(peer: Peer) -> None:
    """Respond with the target of the request."""
    peer.send(response(peer.target.encode()))


# --- Whose bytes a response is ---------------------------------------------------------------------------------------


def test_line_breaks_before_a_response_are_read_past() -> None:
    """Some servers end a body with one, and it may come later than the body."""
    with Server(sending(b"\r\n\n" + response(b"fine"))) as server:
        assert get(server.url).body == b"fine"


@pytest.mark.parametrize("status", [100, 102, 103, 199])
def test_interim_responses_are_read_past(status: int) -> None:
    """The response is the final one (RFC 9110, 15.2), and the connection serves the next request."""

    def script(peer: Peer) -> None:
        peer.send(response(b"", status, "Link: </style.css>") * 3)
        echo(peer)

    with Server(script) as server:
        transport = Transport(server.url, Redactor())
        for path in ("/1", "/2"):
            reply = transport.exchange("GET", server.url + path, whole, timeout=PATIENCE)
            assert (reply.status, reply.body, "Link" in reply.headers) == (200, path.encode(), False)
        assert server.connections == 1
        transport.close()


def refuse(reply: Reply) -> Reply:
    """Decode a response of status 200 only if it is an echo."""
    if reply.status == 200 and not reply.body.startswith(b"/"):
        raise Malformed("not what was requested")
    return reply


NOT_KEPT = {
    **{f"status {status}": response(b"", status) for status in (101, 201, 204, 304, 404, 503)},
    "no body": response(b""),
    "another body": response(b"{}"),
    "an empty chunk": response(b"0\r\n\r\n", 200, "Transfer-Encoding: chunked"),
}


@pytest.mark.parametrize("first", NOT_KEPT.values(), ids=NOT_KEPT)
def test_late_bytes_are_not_the_response_to_the_next_request(first: bytes) -> None:
    """A connection is kept only after a 200 that was decoded; what comes later on another is read by nobody."""
    late: dict[Peer, bytes] = {}

    def script(peer: Peer) -> None:
        if peer.target == "/1":
            late[peer] = response(b"/1")
            peer.send(first)
        else:
            peer.send(late.pop(peer, b""), response(peer.target.encode()))

    with Server(script) as server:
        transport = Transport(server.url, Redactor())
        for path in ("/1", "/2", "/3"):
            try:
                reply = transport.exchange("GET", server.url + path, refuse, timeout=PATIENCE)
            except Malformed:
                assert path == "/1"
            else:
                assert reply.status != 200 or reply.body == path.encode()
                assert path == "/1" or reply.status == 200
        transport.close()


@pytest.mark.parametrize("comes", ["together with a response", "before the next request", "not at all"])
def test_what_comes_unrequested_is_told(comes: str) -> None:
    """A second response, wherever it comes; that a server closes a connection between two requests is nothing."""
    sent = threading.Semaphore(0)

    def script(peer: Peer) -> None:
        reply = response(peer.target.encode())
        peer.send(reply + reply if comes == "together with a response" else reply)
        if comes == "before the next request" and peer.target == "/1":
            peer.send(reply)
        elif comes == "not at all":
            peer.sock.shutdown(socket.SHUT_WR)
        sent.release()

    with Server(script) as server:
        transport = Transport(server.url, Redactor())
        for path in ("/1", "/2"):
            assert transport.exchange("GET", server.url + path, whole, timeout=PATIENCE).body.startswith(b"/")
            assert sent.acquire(timeout=PATIENCE)
        assert transport.close() == (comes != "not at all")


def test_each_thread_has_one_connection_and_all_are_closed() -> None:
    """Eight threads with eight requests each open eight connections; `close` closes them, and may be called twice."""
    at_once = threading.Barrier(8)
    closed = threading.Semaphore(0)

    class Counting(Server):
        def _serve(self, sock: socket.socket) -> None:
            super()._serve(sock)
            closed.release()

    with Counting(echo) as server:
        transport = Transport(server.url, Redactor())

        def work() -> None:
            at_once.wait(PATIENCE)
            for number in range(8):
                transport.exchange("GET", f"{server.url}/{number}", whole, timeout=PATIENCE)

        assert Workers(work, 8).wait(PATIENCE)
        assert (server.connections, len(server.targets)) == (8, 64)
        transport.close()
        transport.close()
        for _ in range(8):
            assert closed.acquire(timeout=PATIENCE), "a connection stays open"
        transport.exchange("GET", f"{server.url}/", whole, timeout=PATIENCE)
        assert server.connections == 9
        transport.close()


# --- Bytes of any kind -----------------------------------------------------------------------------------------------

NOT_HTTP = {
    "another protocol": b"220 mail.example ESMTP\r\n\r\n",
    "a chunk size of -5": response(b"-5\r\n{}\r\n0\r\n\r\n", 200, "Transfer-Encoding: chunked"),
    "two lengths": response(b"{}", 200, "Content-Length: 7"),
    "200 headers": response(b"{}", 200, *(f"X-{n}: y" for n in range(200))),
    "a long header": response(b"{}", 200, "X: " + "y" * 70_000),
}
NOT_PACKED = {
    "no gzip": response(b"plain", 200, "Content-Encoding: gzip"),
    "gzip nine times": response(b"plain", 200, "Content-Encoding: " + ", ".join(["gzip"] * 9)),
}


@pytest.mark.parametrize("sent", (NOT_HTTP | NOT_PACKED).values(), ids=NOT_HTTP | NOT_PACKED)
def test_bytes_that_cannot_be_read_are_malformed(sent: bytes) -> None:
    """Whatever the HTTP stack raises is the error of this one request."""
    with Server(then(sending(sent), Peer.close)) as server, pytest.raises(Malformed) as caught:
        get(server.url)
    what = {f"what {server.host} sends is not HTTP", f"the response of {server.host} cannot be unpacked"}
    assert str(caught.value) in what


fragments = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 503 \r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/2 200\r\n", b"\r\n",
        b"HTTP/1.1 103 Early Hints\r\n", b"Content-Length: 2\r\n", b"Content-Length: -1\r\n", b"Content-Length: 99\r\n",
        b"Content-Length: \xb2\r\n", b"Transfer-Encoding: chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n", b"-1\r\n", b"-5\r\n",
        b"ffffffffffffffffff\r\n", b"zz\r\n", b"Content-Encoding: gzip\r\n", b"Content-Encoding: br, zstd\r\n",
        b"Retry-After: \xff\r\n", b"Retry-After: " + b"9" * 400 + b"\r\n", b"Location: http://[::1\r\n",
        b"Connection: close\r\n", b"Set-Cookie: a=b; Max-Age=x\r\n", b" folded\r\n", b"no colon\r\n", b": \r\n",
        b"\0: \0\r\n", b"{}", zlib.compress(b"{}"), b"\x1f\x8b\x08", b"\0", b"HTTP/1.1 302 Found\r\n",
        b"HTTP/1.1 999999 No\r\n",
    ]
)  # fmt: skip


def test_any_bytes_are_a_response_or_an_error_of_the_tree() -> None:
    """Headers, lengths, chunks and encodings in any disorder: never another exception."""
    sent = b""

    def script(peer: Peer) -> None:
        peer.send(sent)
        peer.close()

    @settings(max_examples=300, deadline=None)
    @given(st.lists(fragments | st.binary(max_size=5), max_size=9).map(b"".join) | st.binary())
    def check(now: bytes) -> None:
        nonlocal sent
        sent = now
        try:
            reply = transport.exchange("GET", f"{server.url}/", whole, timeout=PATIENCE)
        except (Unreachable, Malformed) as error:
            assert str(error)  # noqa: PT017 # one of two ends
        else:
            assert isinstance(reply, Reply)

    with Server(script) as server:
        transport = Transport(server.url, Redactor())
        check()
        transport.close()


def test_a_bug_in_a_decoder_is_not_an_error_of_the_server() -> None:
    """It is raised as it is, and the connection is not kept."""

    def bug(reply: Reply) -> Reply:
        raise KeyError(reply.status)

    with Server(echo) as server:
        transport = Transport(server.url, Redactor())
        with pytest.raises(KeyError):
            transport.exchange("GET", f"{server.url}/", bug, timeout=PATIENCE)
        transport.exchange("GET", f"{server.url}/", whole, timeout=PATIENCE)
        assert server.connections == 2
        transport.close()


BROKEN: dict[str, Script] = {
    "closed": Peer.close,
    "reset": Peer.reset,
    "in the header": then(sending(b"HTTP/1.1 200 OK\r\nContent-Le"), Peer.close),
    "in the body": then(sending(response(b'{"code": 1', length=99)), Peer.close),
    "in a chunk": then(sending(response(b"ff\r\n{", 200, "Transfer-Encoding: chunked")), Peer.close),
    "by reset in the body": then(sending(response(b"{", length=99)), Peer.reset),
    "after an interim response": then(sending(response(b"", 103)), Peer.close),
}


@pytest.mark.parametrize("script", BROKEN.values(), ids=BROKEN)
def test_a_connection_that_is_broken_off(script: Script) -> None:
    """Wherever that happens, half a response is none."""
    with Server(script) as server, pytest.raises(Unreachable) as caught:
        get(server.url)
    assert str(caught.value) == f"{server.host} closed the connection before its response was complete"
    assert caught.value.retry_after == 0


# --- Size ------------------------------------------------------------------------------------------------------------


def test_the_longest_body_that_is_read() -> None:
    """A body of 256 KiB is read; one byte more is too long, and the message has the limit."""
    with Server(sending(response(b"x" * LONGEST))) as server:
        assert len(get(server.url).body) == LONGEST
    with Server(sending(response(b"x" * (LONGEST + 1)))) as server, pytest.raises(Malformed) as caught:
        get(server.url)
    assert str(caught.value) == f"the response of {server.host} is longer than 256 KiB"


def test_the_longest_response_that_is_read() -> None:
    """Beside the longest body, status line and headers may take 64 KiB; one byte more is too long."""
    space = 64 * 1024 - len(response(b"", 200, "X: ", "Y: ", length=LONGEST))
    for more in (0, 1):
        headers = ("X: " + "x" * (space // 2), "Y: " + "y" * (space - space // 2 + more))
        with Server(sending(response(b"x" * LONGEST, 200, *headers))) as server:
            if more:
                with pytest.raises(Malformed, match=r"is longer than 256 KiB$"):
                    get(server.url)
            else:
                assert len(get(server.url).body) == LONGEST


@pytest.mark.parametrize("sent", [response(b"x" * MEBIBYTE), response(b"", 103) * 9999], ids=["body", "interim"])
def test_a_limit_of_its_own(sent: bytes) -> None:
    """A caller may set another limit, for all that is received."""
    with Server(sending(sent)) as server:
        transport = Transport(server.url, Redactor())
        with pytest.raises(Malformed, match=r"is longer than 1 KiB$"):
            transport.exchange("GET", f"{server.url}/", whole, timeout=PATIENCE, limit=1024)
    with Server(sending(response(b"x" * MEBIBYTE))) as server:
        transport = Transport(server.url, Redactor())
        reply = transport.exchange("GET", f"{server.url}/", whole, timeout=PATIENCE, limit=MEBIBYTE)
        assert len(reply.body) == MEBIBYTE
        transport.close()


# --- Time ------------------------------------------------------------------------------------------------------------


def dripping(data: bytes) -> Script:
    """Return a script that sends one byte at a time."""
    return lambda peer: peer.drip(data)


def pause(seconds: float) -> Script:
    """Return a script that does nothing for so long."""

    def script(peer: Peer) -> None:
        peer.server.stopping.wait(seconds)

    return script


# What drips is complete after several times the timeout: an exchange that does not end in time ends otherwise.
LATE: dict[str, Script] = {
    "before the response": Peer.hang,
    "in the header": dripping(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 99 + b"\r\nContent-Length: 0\r\n\r\n"),
    "in the body": then(sending(response(length=99)), dripping(b" " * 99)),
    "in a chunk": then(
        sending(response(b"63\r\n", 200, "Transfer-Encoding: chunked")), dripping(b" " * 99 + b"\r\n0\r\n\r\n")
    ),
    "between chunks": then(
        sending(response(b"", 200, "Transfer-Encoding: chunked")), dripping(b"1\r\nx\r\n" * 20 + b"0\r\n\r\n")
    ),
    "before the last byte": then(sending(response(b"{", length=2)), Peer.hang),
    "in interim responses": dripping(response(b"", 100) * 2 + response(b"", 103) * 2 + response(b"{}")),
    "in an error page": then(sending(response(b"", 502, length=99)), dripping(b" " * 99)),
}


@pytest.mark.parametrize("encrypted", [False, True], ids=["TCP", "TLS"])
@pytest.mark.parametrize("script", LATE.values(), ids=LATE)
def test_an_exchange_ends_with_its_timeout(script: Script, encrypted: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Wherever a response hangs or drips."""
    tls, bundle = loopback(tmp_path) if encrypted else (None, None)
    with Server(script, tls=tls) as server, pytest.raises(RequestTimeout) as caught:
        get(server.url, timeout=SHORT, ca_file=bundle)
    assert str(caught.value) == f"no complete response from {server.host} within 0.3 s"


@pytest.mark.parametrize("how", ["hangs", "drips"])
def test_a_handshake_ends_with_the_timeout(how: str, tmp_path: Path) -> None:
    """TLS that does not come about is late like anything else."""
    tls, bundle = loopback(tmp_path)
    greet = Peer.hang if how == "hangs" else dripping_handshake(tls)
    with Server(echo, tls=tls, greet=greet) as server, pytest.raises(RequestTimeout):
        get(server.url, timeout=SHORT, ca_file=bundle)


def test_a_server_that_does_not_read_ends_with_the_timeout() -> None:
    """A large body, as of a push, is not written for ever."""
    with Server(echo, greet=pause(PATIENCE)) as server:
        transport = Transport(server.url, Redactor())
        with pytest.raises(RequestTimeout):
            transport.exchange("PUT", f"{server.url}/", whole, timeout=SHORT, body=bytes(64 * MEBIBYTE))


def test_a_tunnel_a_handshake_and_a_response_share_one_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may take a while; together they have one timeout."""
    tls, bundle = loopback(tmp_path)

    def slow_tunnel(peer: Peer) -> None:
        peer.drip(b"HTTP/1.1 200 OK\r\nX: yyy\r\n\r\n")
        dripping_handshake(tls)(peer)

    with Server(slow_tunnel) as tunnel:
        monkeypatch.setenv("https_proxy", tunnel.url)
        with pytest.raises(RequestTimeout):
            get("https://portal.invalid:444", timeout=1.5, ca_file=bundle)


NO_FAMILY = -2
"""No host has sockets of such a family."""


@pytest.fixture
def hole() -> Iterator[tuple[str, int]]:
    """Return an address on loopback that does not accept: its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)  # noqa: FBT003 # as the standard library has it
            each.connect_ex(listener.getsockname())
        yield listener.getsockname()
        for each in waiting:
            each.close()


def addresses(monkeypatch: pytest.MonkeyPatch, *of: tuple[str, int]) -> None:
    """Let every name have these addresses."""
    families = [socket.AF_INET if host != "::1" else NO_FAMILY for host, _ in of]
    found = [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", at) for family, at in zip(families, of, strict=True)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_an_address_that_refuses_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first address of a name that accepts is the one that is used; a host may be without a family of addresses."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = closed.getsockname()
    with Server(echo) as server:
        addresses(monkeypatch, refusing, ("::1", server.port), ("127.0.0.1", server.port))
        assert get("http://portal.invalid").body == b"/"


def test_all_addresses_of_a_name_have_one_timeout(hole: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have any number of addresses that do not respond."""
    addresses(monkeypatch, *[hole] * 999)
    with pytest.raises(RequestTimeout, match=r"^no complete response from portal.invalid within 0.3 s$"):
        within(PATIENCE, lambda: get("http://portal.invalid", timeout=SHORT))


def test_within_bounds_what_has_no_timeout() -> None:
    """A look-up that hangs is left to itself; a result and an error pass through."""
    over = threading.Event()
    with pytest.raises(RequestTimeout, match=r"^no result within 0.01 s$"):
        within(0.01, lambda: over.wait(PATIENCE))
    over.set()
    assert within(PATIENCE, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        within(PATIENCE, lambda: 1 // 0)


def threads_left(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the host give so many threads and no more."""
    start: Callable[[threading.Thread], None] = threading.Thread.start
    left = [None] * count

    def limited(thread: threading.Thread) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)


def test_a_host_that_gives_few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is done by those that there are; without one, the error says which limits to look at."""
    threads_left(monkeypatch, 2)
    done: list[None] = []
    assert Workers(lambda: done.append(None), 8).wait(PATIENCE)
    assert len(done) == 2
    with pytest.raises(CcTextfileError, match="see TasksMax= of the unit"):
        Workers(lambda: None)


# --- Errors in words -------------------------------------------------------------------------------------------------


def test_nobody_listens() -> None:
    """The system's words tell what is wrong, with the host and without the URL."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(Unreachable, match=f"^no connection to 127.0.0.1:{port}: Connection refused$"):
        get(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("name", ["portal.invalid", "a..b", "x" * 64 + ".invalid"])
def test_a_name_that_cannot_be_resolved(name: str) -> None:
    """A name that nobody knows, or that cannot be one."""
    with pytest.raises(Unreachable, match=f"^the name in {name}:444 cannot be resolved: "):
        get(f"http://{name}:444")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("expired", "certificate has expired"),
        ("not yet valid", "certificate is not yet valid"),
        ("foreign", "name its bundle: --ca-file for the portal, else REQUESTS_CA_BUNDLE)"),
        ("self-signed", "name its bundle: --ca-file for the portal, else REQUESTS_CA_BUNDLE)"),
        ("wrong name", "certificate is not valid for '127.0.0.1'"),
    ],
)
def test_a_certificate_that_is_not_trusted(kind: str, words: str, tmp_path: Path) -> None:
    """No request is made of such a server, another try cannot help, and the message says what is wrong."""
    trusted, now = trustme.CA(), datetime.now(UTC)
    validity: dict[str, dict[str, Any]] = {
        "expired": {"not_before": now - timedelta(days=9), "not_after": now - timedelta(days=1)},
        "not yet valid": {"not_before": now + timedelta(days=1)},
    }
    names = ("portal.example",) if kind == "wrong name" else ()
    context = served(trustme.CA() if kind == "foreign" else trusted, *names, **validity.get(kind, {}))
    if kind == "self-signed":
        itself, file = trustme.CA(), tmp_path / "itself.pem"
        file.write_bytes(itself.private_key_pem.bytes() + itself.cert_pem.bytes())
        context.load_cert_chain(file)
    with Server(echo, tls=context) as server:
        with pytest.raises(Unreachable, match=rf"^the certificate of {server.host} is not trusted: ") as caught:
            get(server.url, ca_file=bundle_of(trusted, tmp_path))
        assert str(caught.value).endswith(words)
        assert caught.value.retry_after is None
        assert server.targets == []


@pytest.mark.parametrize("bundle", ["/nonexistent", __file__], ids=["missing", "not a bundle"])
def test_a_bundle_that_cannot_be_read_is_a_settings_error(bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle that the environment names is not replaced by the usual one."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    with pytest.raises(SettingsError, match=f"^the CA bundle {bundle}, named by the environment, cannot be read: "):
        Transport("https://portal.invalid", Redactor())


def test_a_server_that_does_not_speak_tls(tmp_path: Path) -> None:
    """HTTP where TLS is expected is an error of TLS; TLS where HTTP is expected is not HTTP."""
    tls, bundle = loopback(tmp_path)
    with Server(echo, greet=sending(response(b"", 400))) as server, pytest.raises(Unreachable) as caught:
        get(server.url.replace("http:", "https:"), ca_file=bundle)
    assert str(caught.value) in {
        f"TLS with {server.host} failed: wrong version number",
        f"TLS with {server.host} failed: record layer failure",  # OpenSSL 3.5
    }
    with Server(echo, tls=tls) as server, pytest.raises(RequestError):
        get(server.url.replace("https:", "http:"))


# --- Proxies ---------------------------------------------------------------------------------------------------------


def test_the_proxies_of_the_environment_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP is forwarded, TLS goes through a tunnel, which is kept, and `no_proxy` is kept to."""
    tls, bundle = loopback(tmp_path)
    trace: list[str] = []
    with proxy(trace) as between, Server(echo) as plain, Server(echo, tls=tls) as encrypted:
        with_password = between.url.replace("//", "//me:p%40ss@")
        monkeypatch.setenv("http_proxy", with_password)
        monkeypatch.setenv("https_proxy", with_password)
        assert get(plain.url).status == 200
        assert trace == [f"GET {plain.url}/ HTTP/1.1 Basic bWU6cEBzcw=="]
        redactor = Redactor()
        transport = Transport(encrypted.url, redactor, ca_file=bundle)
        assert redactor.quote("me is not p@ss, p%40ss or bWU6cEBzcw==") == "me is not ***, *** or ***"
        for path in ("/1", "/2"):
            url = encrypted.url + path
            assert transport.exchange("GET", url, whole, timeout=PATIENCE).body == path.encode()
        transport.close()
        assert [re.sub(r" HTTP/1\.[01]", "", line) for line in trace[1:]] == [
            f"CONNECT {encrypted.host} Basic bWU6cEBzcw=="
        ]
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert get(encrypted.url, ca_file=bundle).body == b"/"
        assert len(trace) == 2


@pytest.mark.parametrize("encrypted", [False, True], ids=["forwards", "TLS within TLS"])
def test_a_proxy_that_speaks_tls(encrypted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    """An exchange is bounded in time like any other. In TLS within TLS each has a connection of its own."""
    tls, bundle = loopback(tmp_path)

    def script(peer: Peer) -> None:
        if peer.target.startswith("/drip"):
            peer.send(response(length=9999))
            peer.drip(b" " * 9999)
        echo(peer)

    with proxy([], tls) as between, Server(script, tls=tls if encrypted else None) as server:
        monkeypatch.setenv("all_proxy", between.url)
        monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
        transport = Transport(server.url, Redactor(), ca_file=bundle)
        for _ in range(2):
            assert transport.exchange("GET", f"{server.url}/1", whole, timeout=PATIENCE).status == 200
        assert between.connections == 1 + encrypted
        assert not transport.close()
        with pytest.raises(RequestTimeout):
            transport.exchange("GET", f"{server.url}/drip", whole, timeout=SHORT)


def test_a_proxy_that_gives_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy's part in a failure is told from the portal's. Its address may come without `http://`."""
    with Server(sending(response(b"", 407))) as between:
        monkeypatch.setenv("https_proxy", between.host)
        with pytest.raises(Unreachable) as refused:
            get("https://portal.invalid:444")
    with pytest.raises(Unreachable) as down:
        get("https://portal.invalid:444")
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    with pytest.raises(Unreachable) as unknown:
        get("https://portal.invalid:444")
    assert str(refused.value) == (
        "the proxy gave no connection to portal.invalid:444 (HTTP status 407); see https_proxy and no_proxy"
    )
    assert str(down.value) == "no connection to portal.invalid:444 through the proxy: Connection refused"
    assert str(unknown.value).startswith("the name of the proxy cannot be resolved: ")


def test_each_thread_goes_through_the_proxy_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is not kept is opened again through the proxy."""
    tls, bundle = loopback(tmp_path)
    trace: list[str] = []
    with proxy(trace) as between, Server(sending(response(b"", 503)), tls=tls) as server:
        monkeypatch.setenv("https_proxy", between.url)
        transport = Transport(server.url, Redactor(), ca_file=bundle)
        for _ in range(3):
            assert transport.exchange("GET", f"{server.url}/", whole, timeout=PATIENCE).status == 503
        transport.close()
        assert len(trace) == server.connections == 3


@pytest.mark.parametrize(
    "address", ["http://[::1", "gopher://proxy:70", "http://proxy:99999", "socks5://proxy", "http://me:password@"]
)
def test_a_proxy_that_cannot_be_one_is_a_settings_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named before anything is polled."""
    monkeypatch.setenv("https_proxy", address)
    with pytest.raises(SettingsError, match=r"^the proxy of the environment"):
        Transport("https://portal.invalid", Redactor())
