"""A portal that misbehaves, over real sockets: what is exported, in what time, after how many tries."""

import itertools
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from cc_textfile.answers import Endpoint, IspAnswer
from cc_textfile.client import BACKOFF, RETRIED_STATUSES, RETRIES, TOO_LATE, PortalClient
from cc_textfile.errors import BadStatus, Malformed, Overdue, PortalError, Refused, SettingsError, Unreachable
from cc_textfile.poll import REFUSALS_OF_AN_ACCOUNT, Poller, Snapshot, _spread
from cc_textfile.redaction import Redactor
from cc_textfile.transport import MAX_BODY_BYTES, Reply, Transport
from cc_textfile.window import Window
from tests.certificates import bundle_of, loopback, served
from tests.conftest import PATIENCE, Program, command, environment, eventually, run
from tests.server import (
    REFUSAL,
    Peer,
    Script,
    Server,
    answer,
    dripping_handshake,
    endpoint_of,
    good,
    proxy,
    saying,
    then,
)

WINDOW = Window.ending(datetime(2024, 2, 29, 16, 2, tzinfo=UTC), 5)
SHORT = 0.5
"""Seconds that a request has in tests of a portal that is late."""

LONG = 30.0
"""Seconds that it has in all others."""


def client_of(url: str, *, timeout: float = LONG, ca_file: Path | None = None) -> PortalClient:
    """Return a client of the portal there."""
    transport = Transport(url, connections=8, ca_file=ca_file)
    return PortalClient(transport, url, "me", "geheim", timeout=timeout, redact=Redactor("geheim"))


def ask(url: str, *, timeout: float = LONG, deadline: float = LONG, ca_file: Path | None = None) -> IspAnswer:
    """Ask the portal there for one channel's traffic."""
    return client_of(url, timeout=timeout, ca_file=ca_file).isp("47", WINDOW, time.monotonic() + deadline)


def poll(url: str, *channels: str, timeout: float = LONG, deadline: float = LONG, concurrency: int = 8) -> Snapshot:
    """Poll the portal there, of one channel where none is named."""
    client = client_of(url, timeout=timeout)
    return Poller(concurrency).poll(client, channels or ("47",), WINDOW, now=WINDOW.end, deadline=deadline)


def reasons(snapshot: Snapshot) -> Counter[str]:
    """Return how many questions failed for which reason."""
    return Counter(failure.reason for failure in snapshot.failures.values())


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note the waits before retries instead of waiting."""
    noted: list[float] = []
    monkeypatch.setattr("cc_textfile.client.sleep", noted.append)
    return noted


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


# --- Bytes of any kind -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b'{"error": "no"}', b"x" * (2 * MAX_BODY_BYTES)], ids=len)
@pytest.mark.parametrize("status", [201, 204, 301, 400, 401, 403, 404, 418, 500, 501, 505, 599])
def test_another_status_is_a_failure_at_once(status: int, body: bytes) -> None:
    """Another status than 200 is said, whatever page comes with it, and not tried again."""
    with Server(saying(answer(body if status != 204 else b"", status))) as portal:
        with pytest.raises(BadStatus, match=f"^HTTP status {status}") as caught:
            ask(portal.url)
        assert (caught.value.channel, caught.value.endpoint) == ("47", Endpoint.ISP)
        assert len(portal.targets) == 1


BABBLE: dict[str, bytes] = {
    "web page": answer(b"<!DOCTYPE html><title>Log in</title>"),
    "cut JSON": answer(b'{"code": 1, "totalFlux": 17, "isps": ['),
    "no body": answer(),
    "null": answer(b"null"),
    "list": answer(b"[1]"),
    "brackets": answer(b"[" * 200_000),
    "not UTF-8": answer(b'{"code": 1, "isp": "\xd6\xd0"}'),
    "not HTTP": b"220 mail.example ESMTP\r\n\r\n",
    "a terminal": b"login: \r\n\r\n",
    "no gzip": answer(b"plain", 200, "Content-Encoding: gzip"),
    "gzip in gzip in gzip": answer(b"plain", 200, "Content-Encoding: " + ", ".join(["gzip"] * 9)),
    "two lengths": answer(b"{}", 200, "Content-Length: 7"),
    "200 headers": answer(b"{}", 200, *(f"X-{n}: y" for n in range(200))),
    "a long header": answer(b"{}", 200, "X: " + "y" * 70_000),
}


@pytest.mark.parametrize("said", BABBLE.values(), ids=BABBLE)
def test_babble_is_malformed_for_that_endpoint_of_that_channel_alone(said: bytes) -> None:
    """What can't be read costs its own endpoint and channel; all around it is read, and nothing is tried again."""

    def script(peer: Peer) -> None:
        if endpoint_of(peer) is Endpoint.ISP and peer.query["channelIds"] == "bad":
            peer.say(said)
            peer.close()
        good(peer)

    with Server(script) as portal:
        snapshot = poll(portal.url, "47", "bad", "48")
        assert len(portal.targets) == 12
    assert {question: failure.reason for question, failure in snapshot.failures.items()} == {
        ("bad", Endpoint.ISP): "malformed"
    }
    assert len(snapshot.answers) == 11


fragments = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 503 \r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/2 200\r\n", b"\r\n",
        b"Content-Length: 2\r\n", b"Content-Length: -1\r\n", b"Content-Length: 99\r\n", b"Content-Length: \xb2\r\n",
        b"Transfer-Encoding: chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n", b"-1\r\n", b"ffffffffffffffffff\r\n", b"zz\r\n",
        b"Content-Encoding: gzip\r\n", b"Content-Encoding: deflate\r\n", b"Content-Encoding: br, zstd\r\n",
        b"Retry-After: \xff\r\n", b"Location: http://[::1\r\n", b"Location: \xff\r\n", b"Connection: close\r\n",
        b"Set-Cookie: a=b; Max-Age=x; expires=y\r\n", b" folded\r\n", b"no colon\r\n", b": \r\n", b"\0: \0\r\n", b"{}",
        zlib.compress(b"{}"), b"\x1f\x8b\x08", b"\0", b"HTTP/1.1 302 Found\r\n", b"HTTP/1.1 999999 No\r\n",
    ]
)  # fmt: skip


def test_any_bytes_on_the_wire_are_a_reply_or_an_error_of_the_tree() -> None:
    """Headers, lengths, chunks and encodings in any disorder: never another exception, and never a wait without end."""
    said = b""

    def script(peer: Peer) -> None:
        peer.say(said)
        peer.close()

    @settings(max_examples=300, deadline=None)
    @given(st.lists(fragments | st.binary(max_size=5), max_size=9).map(b"".join) | st.binary())
    def check(said_now: bytes) -> None:
        nonlocal said
        said = said_now
        try:
            reply = transport.exchange("GET", f"{portal.url}/", timeout=LONG)
        except (Unreachable, Malformed) as error:
            assert str(error)  # noqa: PT017 # one of two ends
        else:
            assert isinstance(reply, Reply)

    with Server(script) as portal:
        transport = Transport(portal.url)
        check()
        transport.close()


# --- Redirects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["{elsewhere}/x", "//{host}/x", "/x", "", "http://[::1", "\xff\x01", "//"])
def test_redirects_are_not_followed(status: int, where: str) -> None:
    """Nobody but the portal gets the query, which holds the password; a redirect is a status, wherever it leads."""
    with Server(good) as elsewhere:
        location = where.format(elsewhere=elsewhere.url, host=elsewhere.url.removeprefix("http://"))
        with Server(saying(answer(b"gone", status, f"Location: {location}"))) as portal:
            with pytest.raises(BadStatus, match=f"HTTP status {status} .a redirect, which is not followed"):
                ask(portal.url)
            assert len(portal.targets) == 1
        assert elsewhere.connections == 0


# --- Time ------------------------------------------------------------------------------------------------------------


def accepts_nothing() -> socket.socket:
    """Return a listener whose queue is full: the handshake of a further connection is never answered."""
    hole = socket.socket()
    hole.bind(("127.0.0.1", 0))
    hole.listen(0)
    return hole


def fill(hole: socket.socket) -> list[socket.socket]:
    """Fill its queue."""
    waiting = [socket.socket() for _ in range(4)]
    for each in waiting:
        each.setblocking(False)  # noqa: FBT003 # as the standard library has it
        each.connect_ex(hole.getsockname())
    return waiting


@pytest.fixture
def hole() -> Iterator[tuple[str, int]]:
    """Return an address on loopback that does not answer."""
    listener = accepts_nothing()
    waiting = fill(listener)
    yield listener.getsockname()
    for each in (listener, *waiting):
        each.close()


def dripping(data: bytes) -> Script:
    """Return a script that says it a byte at a time."""
    return lambda peer: peer.drip(data)


LATE: dict[str, Script] = {
    "before the answer": Peer.hang,
    "in the header": dripping(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 99),
    "in the body": then(saying(answer(length=999)), dripping(b" " * 999)),
    "in a chunk": then(saying(answer(b"ffff\r\n", 200, "Transfer-Encoding: chunked")), dripping(b" " * 999)),
    "between chunks": then(saying(answer(b"", 200, "Transfer-Encoding: chunked")), dripping(b"1\r\nx\r\n" * 99)),
    "before the last byte": then(saying(answer(b"{", length=2)), Peer.hang),
    "with 100 Continue": dripping(b"HTTP/1.1 100 Continue\r\n\r\n" * 99),
    "with 100 Continue without end": lambda peer: peer.say(*[b"HTTP/1.1 100 Continue\r\n\r\n" * 999] * 99_999),
    "in an error page": then(saying(answer(b"", 502, length=999)), dripping(b" " * 999)),
}


class Stopwatch:
    """Measures a block, and holds it to a time and one second, which is what is promised of timeout and deadline."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        took = time.monotonic() - self._began
        assert self._seconds <= took + 0.05
        assert took < self._seconds + 1


@pytest.mark.parametrize("encrypted", [False, True], ids=["TCP", "TLS"])
@pytest.mark.parametrize("script", LATE.values(), ids=LATE)
def test_a_request_ends_with_its_timeout(script: Script, encrypted: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Wherever an answer hangs or drips, its request is given up when the timeout is over, and not tried again."""
    tls, bundle = loopback(tmp_path) if encrypted else (None, None)
    with Server(script, tls=tls) as portal:
        with Stopwatch(SHORT), pytest.raises(Overdue, match=f"^no whole answer from {portal.host} within 0.5 s$"):
            ask(portal.url, timeout=SHORT, ca_file=bundle)
        assert len(portal.targets) == 1


def test_a_peer_that_drips_and_then_hangs() -> None:
    """Silence after many bytes ends with the timeout that began before the first."""
    script = then(saying(answer(length=999)), dripping(b" " * 26), Peer.hang)
    with Server(script) as portal, Stopwatch(1.4), pytest.raises(Overdue):
        ask(portal.url, timeout=1.4)


@pytest.mark.parametrize("how", ["hangs", "drips"])
def test_a_handshake_ends_with_the_timeout(how: str, tmp_path: Path) -> None:
    """TLS that does not come about is late like anything else."""
    tls, bundle = loopback(tmp_path)
    greet = Peer.hang if how == "hangs" else dripping_handshake(tls)
    with Server(good, tls=tls, greet=greet) as portal, Stopwatch(SHORT), pytest.raises(Overdue):
        ask(portal.url, timeout=SHORT, ca_file=bundle)


def test_connecting_and_answering_share_one_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy's tunnel, the handshake and the answer may each take a while: together they have one timeout."""
    tls, bundle = loopback(tmp_path)
    slowly = threading.Event()

    def slow_tunnel(peer: Peer) -> None:
        slowly.wait(SHORT * 0.6)
        peer.say(answer(b"", 200))
        received, to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        handshake = tls.wrap_bio(received, to_send, server_side=True)
        received.write(peer.sock.recv(65536))
        with pytest.raises(ssl.SSLWantReadError):
            handshake.do_handshake()
        slowly.wait(SHORT * 0.6)
        peer.say(to_send.read())
        peer.hang()

    with Server(slow_tunnel) as tunnel:
        monkeypatch.setenv("https_proxy", tunnel.url)
        with Stopwatch(SHORT), pytest.raises(Overdue):
            ask("https://portal.invalid:444", timeout=SHORT, ca_file=bundle)


def test_a_poll_ends_with_its_deadline() -> None:
    """What is not in by the deadline is overdue; what is, stays; and no thread outlasts it by more than a second."""

    def script(peer: Peer) -> None:
        if endpoint_of(peer) is Endpoint.REGION:
            peer.hang()
        good(peer)

    with Server(script) as portal:
        with Stopwatch(SHORT):
            snapshot = poll(portal.url, "47", "48", deadline=SHORT)
        for thread in threading.enumerate():
            if thread.name.startswith("poll"):
                thread.join(1)
                assert not thread.is_alive()
    assert set(snapshot.failures) == {("47", Endpoint.REGION), ("48", Endpoint.REGION)}
    assert reasons(snapshot) == {"overdue": 2}
    assert len(snapshot.answers) == 6


@pytest.mark.parametrize("encrypted", [False, True], ids=["TCP", "TLS"])
def test_a_request_that_the_deadline_cuts_short_says_so(encrypted: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """It is the poll that had no more time, not the portal that took longer than a request may."""
    tls, bundle = loopback(tmp_path) if encrypted else (None, None)
    with Server(Peer.hang, tls=tls) as portal, Stopwatch(SHORT), pytest.raises(Overdue, match=f"^{TOO_LATE}$"):
        ask(portal.url, timeout=LONG, deadline=SHORT, ca_file=bundle)


def test_questions_that_were_never_asked_are_overdue() -> None:
    """With all threads held up until the deadline, the rest of the questions is overdue too."""
    with Server(Peer.hang) as portal, Stopwatch(SHORT):
        snapshot = poll(portal.url, *map(str, range(9)), deadline=SHORT, concurrency=2)
    assert reasons(snapshot) == {"overdue": 36}
    assert {str(failure) for failure in snapshot.failures.values()} == {TOO_LATE}


def test_a_poll_that_ran_into_its_deadline_takes_nothing_from_the_next() -> None:
    """The next poll asks at once, with all its threads, though those of the last are hardly over."""
    hanging = threading.Event()
    hanging.set()

    def script(peer: Peer) -> None:
        if hanging.is_set():
            peer.hang()
        good(peer)

    with Server(script) as portal:
        client = client_of(portal.url)
        poller = Poller(2)
        late = poller.poll(client, ("47", "48"), WINDOW, now=WINDOW.end, deadline=SHORT)
        hanging.clear()
        prompt = poller.poll(client, ("47", "48"), WINDOW, now=WINDOW.end, deadline=LONG)
    assert reasons(late) == {"overdue": 8}
    assert reasons(prompt) == {}


def addresses(monkeypatch: pytest.MonkeyPatch, *of: tuple[str, int]) -> None:
    """Let every name have these addresses."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for address in of]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_a_dead_address_does_not_take_the_time_of_the_others(
    hole: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several addresses behind a name, each has its share of the time, and a good one last is reached."""
    with Server(good) as portal:
        addresses(monkeypatch, hole, hole, ("127.0.0.1", portal.port))
        assert ask("http://portal.invalid", timeout=3).total_bytes > 0


def test_an_address_that_answers_has_the_time_of_those_that_were_not_needed(
    hole: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connected, a request has all of its time again, for a handshake that takes longer than one address's share."""
    tls, bundle = loopback(tmp_path)

    def hesitate(peer: Peer) -> None:
        peer.server.stopping.wait(0.6)

    with Server(good, tls=tls, greet=hesitate) as portal:
        addresses(monkeypatch, ("127.0.0.1", portal.port), hole, hole, hole, hole, hole)
        assert ask("https://localhost", timeout=3, ca_file=bundle).total_bytes > 0


def test_dead_addresses_together_have_one_timeout(hole: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many addresses do not answer, the request ends with its timeout."""
    addresses(monkeypatch, *[hole] * 5)
    with Stopwatch(SHORT), pytest.raises(Overdue):
        ask("http://portal.invalid", timeout=SHORT)


def test_look_ups_that_hang_are_late_and_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up that no timeout reaches is left to itself, one for all requests; once it is over, all is well."""
    over = threading.Event()
    real = socket.getaddrinfo

    def hang(_name: str, *args: Any, **kwargs: Any) -> Any:
        over.wait(PATIENCE)
        return real("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    with Server(good) as portal:
        url = f"http://portal.invalid:{portal.port}"
        with Stopwatch(SHORT), pytest.raises(Overdue):
            ask(url, timeout=SHORT)
        for _ in range(5):
            assert reasons(poll(url, "47", "48", timeout=0.01)) == {"overdue": 8}
        assert sum(thread.name == "look-up" for thread in threading.enumerate()) == 1
        over.set()
        assert reasons(poll(url)) == {}


@pytest.mark.parametrize("name", ["portal.invalid", "a..b", "x" * 64 + ".invalid"])
def test_a_name_that_is_none_is_unreachable(name: str, waits: list[float]) -> None:
    """A name that nobody knows, or that can't be one, is said to be that."""
    with pytest.raises(Unreachable, match=f"^the name in {name}:444 cannot be resolved: "):
        ask(f"http://{name}:444")
    assert len(waits) == RETRIES


@pytest.mark.slow
def test_a_thousand_polls_leave_no_thread_and_no_connection_behind() -> None:
    """Requests are given up on four times a poll, and after a thousand polls nothing of them is left."""

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before, threads = open_files(), set(threading.enumerate())
    with Server(Peer.hang) as portal:
        transport = Transport(portal.url, connections=8)
        client = PortalClient(transport, portal.url, "me", "geheim", timeout=0.005, redact=Redactor("geheim"))
        poller = Poller(8)
        for _ in range(1000):
            snapshot = poller.poll(client, ("47",), WINDOW, now=WINDOW.end, deadline=LONG)
            transport.close()
            assert reasons(snapshot) == {"overdue": 4}
        left = [thread for thread in set(threading.enumerate()) - threads if thread.name.startswith("poll")]
        for thread in left:
            thread.join(PATIENCE)
        assert not [thread for thread in left if thread.is_alive()]
    # The portal's own threads and connections, of the same process, are the last to go.
    eventually(lambda: not set(threading.enumerate()) - threads)
    eventually(lambda: open_files() <= before)


def account(url: str, tmp_path: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a run against the portal there, which writes `cdn.prom`."""
    return (
        environment(
            CHINACACHE_USER="me",
            CHINACACHE_PASS="geheim",
            CHINACACHE_CHANNEL_IDS="47",
            CHINACACHE_URL=url,
            QUERYTIME="1440",
            CC_TEXTFILE_PATH=str(tmp_path / "cdn.prom"),
        )
        | variables
    )


def failures_in(textfile: Path) -> dict[str, float]:
    """Return the failures that a text file tells of, by reason."""
    counts: Counter[str] = Counter()
    for family in text_string_to_metric_families(textfile.read_text()):
        for sample in family.samples:
            if sample.name == "cc_textfile_failures":
                counts[sample.labels["reason"]] += int(sample.value)
    return {reason: count for reason, count in counts.items() if count}


@pytest.mark.parametrize("script", [Peer.hang, LATE["in the body"]], ids=["hangs", "drips"])
def test_what_was_given_up_on_does_not_hold_up_the_end(script: Script, tmp_path: Path) -> None:
    """At the deadline the file is written and the process ends, though its requests had ten minutes."""
    with Server(script) as portal:
        env = account(portal.url, tmp_path, CC_TEXTFILE_TIMEOUT="10m", CC_TEXTFILE_DEADLINE="500ms")
        done = run("run", env=env)
    assert done.returncode == 1
    assert failures_in(tmp_path / "cdn.prom") == {"overdue": 4}


LOOK_UPS_HANG = """
import socket, sys, threading
real = socket.getaddrinfo
def hang(name, *args, **kwargs):
    if name.endswith(".invalid"):
        print("looking up", name, file=sys.stderr, flush=True)
        threading.Event().wait()
    return real(name, *args, **kwargs)
socket.getaddrinfo = hang
from cc_textfile.cli import main
main()
"""
"""The program on a host whose name server does not answer; that can't be had on loopback."""


def test_a_look_up_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """With a name server that never answers, a poll ends at its deadline, and the process with it."""
    env = account("http://portal.invalid", tmp_path, CC_TEXTFILE_TIMEOUT="10m", CC_TEXTFILE_DEADLINE="500ms")
    done = subprocess.run(
        (sys.executable, "-c", LOOK_UPS_HANG, "run"),
        env=env, capture_output=True, text=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1
    assert failures_in(tmp_path / "cdn.prom") == {"overdue": 4}


def test_sigterm_ends_a_push_whose_look_up_hangs(tmp_path: Path, start: Callable[..., Program]) -> None:
    """A push that waits for a name server is stopped like anything else."""
    with Server(good) as portal:
        env = account(portal.url, tmp_path, PUSHGATEWAY="http://gateway.invalid:9091", CC_TEXTFILE_TIMEOUT="10m")
        env["CC_TEXTFILE_PUSHGATEWAY_MODE"] = "always"
        program = start(sys.executable, "-c", LOOK_UPS_HANG, "run", "--interval", "1h", env=env)
        program.line("looking up gateway.invalid")
        assert program.end(signal.SIGTERM) == 0
    assert "Traceback" not in program.said


# --- Size ------------------------------------------------------------------------------------------------------------

MEGABYTE = 2**20
ROWS = b'{"isp": "\xe4\xb8\xad\xe5\x9b\xbd", "fluxRatio": 0.1},' * (MEGABYTE // 41)


def bomb(content: bytes, times: int) -> bytes:
    """Return gzip that unpacks to the content so many times over, without packing it more than once."""
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = pack.compress(content) + pack.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + block * times + b"\x03\0"  # nobody gets as far as the checksum


def flood(*headers: str, status: int = 200, length: int = 200 * MEGABYTE, first: bytes = b"") -> Script:
    """Return a script that says 200 MB of rows."""

    def script(peer: Peer) -> None:
        peer.say(answer(first, status, *headers, length=length))
        chunked = "Transfer-Encoding: chunked" in headers
        for _ in range(200):
            peer.say(f"{len(ROWS):x}\r\n".encode() + ROWS + b"\r\n" if chunked else ROWS)
        peer.close()

    return script


FLOODS: dict[str, tuple[Callable[[], Script], str]] = {
    "200 MB of JSON": (lambda: flood(first=b'{"code": 1, "totalFlux": 1, "isps": ['), "malformed"),
    "in chunks": (lambda: flood("Transfer-Encoding: chunked"), "malformed"),
    "1 MB of gzip that is 1 GB": (
        lambda: saying(answer(bomb(b" " * MEGABYTE, 1024), 200, "Content-Encoding: gzip")), "malformed",
    ),
    "gzip in gzip": (
        lambda: saying(answer(bomb(bomb(b" " * MEGABYTE, 1024), 99), 200, "Content-Encoding: gzip, gzip")), "malformed",
    ),
    "a redirect": (lambda: flood("Location: /elsewhere", status=302), "status"),
    "an error page": (lambda: flood(status=500), "status"),
}  # fmt: skip


def peak_kilobytes(env: dict[str, str]) -> tuple[int, subprocess.CompletedProcess[str]]:
    """Run the program once and return how much memory it had at most."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=False); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        (sys.executable, "-c", code, *command("run")),
        env=env, capture_output=True, text=True, check=True, timeout=PATIENCE,
    )  # fmt: skip
    return int(done.stdout), done


@pytest.fixture(scope="module")
def usual_kilobytes(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Return the memory that a poll of good answers takes."""
    with Server(good) as portal:
        return peak_kilobytes(account(portal.url, tmp_path_factory.mktemp("usual")))[0]


def test_the_bomb_is_one() -> None:
    """The packed answer is of the size that is spoken of, and unpacks."""
    packed = bomb(b" " * MEGABYTE, 1024)
    assert 0.9 * MEGABYTE < len(packed) < 1.2 * MEGABYTE
    assert zlib.decompressobj(31).decompress(packed, 3 * MEGABYTE) == b" " * (3 * MEGABYTE)


@pytest.mark.parametrize("case", FLOODS)
def test_an_answer_without_end_costs_little(case: str, usual_kilobytes: int, tmp_path: Path) -> None:
    """Four such answers at once cost less than 16 MB, and each is a failure of its own kind."""
    script, reason = FLOODS[case]
    with Server(script()) as portal:
        kilobytes, done = peak_kilobytes(account(portal.url, tmp_path))
    assert failures_in(tmp_path / "cdn.prom") == {reason: 4}, done.stderr
    assert kilobytes - usual_kilobytes < 16 * 1024


def test_the_longest_answer_that_is_read() -> None:
    """An answer of 256 KiB is read; one byte more is too long, and the message says how long is long."""
    filler = json.dumps({"code": 1, "totalFlux": 7}).encode()
    for length in (MAX_BODY_BYTES, MAX_BODY_BYTES + 1):
        with Server(saying(answer(filler.ljust(length)))) as portal:
            if length == MAX_BODY_BYTES:
                assert ask(portal.url).total_bytes == 7
            else:
                with pytest.raises(Malformed, match=f"^the answer of {portal.host} is longer than 256 KiB$"):
                    ask(portal.url)


# --- Retries ---------------------------------------------------------------------------------------------------------


def first(*scripts: Script) -> Script:
    """Return a script that does these, one a request, and answers well from then on."""
    left = list(scripts)
    lock = threading.Lock()

    def script(peer: Peer) -> None:
        with lock:
            following = left.pop(0) if left else good
        following(peer)

    return script


BROKEN: dict[str, Script] = {
    "closed": Peer.close,
    "reset": Peer.reset,
    "in the header": then(saying(b"HTTP/1.1 200 OK\r\nContent-Le"), Peer.close),
    "in the body": then(saying(answer(b'{"code": 1', length=99)), Peer.close),
    "in a chunk": then(saying(answer(b"ff\r\n{", 200, "Transfer-Encoding: chunked")), Peer.close),
    "by reset in the body": then(saying(answer(b"{", length=99)), Peer.reset),
}
WEARY: dict[str, Script] = {f"status {status}": saying(answer(b"", status)) for status in sorted(RETRIED_STATUSES)}


@pytest.mark.parametrize("script", (BROKEN | WEARY).values(), ids=BROKEN | WEARY)
def test_what_may_pass_is_tried_again_twice(script: Script, waits: list[float]) -> None:
    """Broken connections and 429, 502, 503, 504 are tried three times in all, ever further apart."""
    with Server(script) as portal:
        with pytest.raises((BadStatus, Unreachable)):
            ask(portal.url)
        assert len(portal.targets) == 1 + RETRIES
    assert [BACKOFF <= waits[0] <= 2 * BACKOFF, 2 * BACKOFF <= waits[1] <= 4 * BACKOFF] == [True, True]


@pytest.mark.parametrize("script", (BROKEN | WEARY).values(), ids=BROKEN | WEARY)
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.usefixtures("waits")
def test_what_has_passed_is_forgotten(script: Script, times: int) -> None:
    """An answer at the second or third try is as good as one at the first."""
    with Server(first(*[script] * times)) as portal:
        assert ask(portal.url).total_bytes > 0
        assert len(portal.targets) == 1 + times


def test_nobody_listens(waits: list[float]) -> None:
    """A connection that is refused is tried again too, and said to be refused."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(Unreachable, match=f"^no connection to 127.0.0.1:{port}: Connection refused$"):
        ask(f"http://127.0.0.1:{port}")
    assert len(waits) == RETRIES


def test_retries_do_not_come_back_together(waits: list[float]) -> None:
    """Requests that failed together are spread by chance."""
    with Server(saying(answer(b"", 503))) as portal:
        poll(portal.url, "47", "48", "49")
    assert len(waits) == 24
    assert len(set(waits)) == 24


NEVER_AGAIN: dict[str, Script] = {
    "refused": saying(answer(b'{"code": 10001, "msg": "wrong password"}')),
    **{
        f"refused under {status}": saying(answer(b'{"code": 10001, "msg": "wrong password"}', status, "Retry-After: 0"))
        for status in (*sorted(RETRIED_STATUSES), 500)
    },
    "401": saying(answer(b"", 401, "Retry-After: 0")),
    "403": saying(answer(b"", 403, "Retry-After: 0")),
    "404": saying(answer(b"", 404)),
    "500": saying(answer(b"", 500)),
    "malformed": saying(answer(b"[")),
}


@pytest.mark.parametrize("script", NEVER_AGAIN.values(), ids=NEVER_AGAIN)
def test_what_will_not_pass_is_not_tried_again(script: Script, waits: list[float]) -> None:
    """A refusal, 401 and 403 above all: asking again could lock the account."""
    with Server(script) as portal:
        with pytest.raises(PortalError):
            ask(portal.url)
        assert len(portal.targets) == 1
    assert not waits


def http_date(seconds: float) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("status", sorted(RETRIED_STATUSES))
def test_retry_after_is_kept_to(status: int, waits: list[float]) -> None:
    """Seconds and dates are waited for, if the deadline leaves the time; the longer of it and the backoff counts."""
    with Server(first(saying(answer(b"", status, "Retry-After: 7")))) as portal:
        assert ask(portal.url).total_bytes > 0
    with Server(first(saying(answer(b"", status, f"Retry-After: {http_date(20)}")))) as portal:
        assert ask(portal.url).total_bytes > 0
    with Server(first(saying(answer(b"", status, "Retry-After: 0")))) as portal:
        assert ask(portal.url).total_bytes > 0
    assert waits[0] == 7
    assert 10 < waits[1] <= 20
    assert BACKOFF <= waits[2] <= 2 * BACKOFF


NO_TIMES = ["soon", "", "-5", "1e3", "7, 7", "\xff", "Thu, 99 Foo 2024", http_date(-3600), "0x7", "7 s", "9" * 5000]


@pytest.mark.parametrize("said", NO_TIMES, ids=range(len(NO_TIMES)))
def test_a_retry_after_that_makes_no_sense_does_not_count(said: str, waits: list[float]) -> None:
    """What can't be understood, or is over, leaves the backoff as it is."""
    with Server(first(saying(answer(b"", 503, f"Retry-After: {said}")))) as portal:
        assert ask(portal.url).total_bytes > 0
    assert BACKOFF <= waits[0] <= 2 * BACKOFF


@pytest.mark.parametrize("said", ["31", "86400", "9" * 30, http_date(3600), http_date(10**9)], ids=len)
def test_a_retry_after_beyond_the_deadline_is_not_waited_for(said: str, waits: list[float]) -> None:
    """Where the deadline leaves no time for another try, the failure is said at once."""
    with Server(saying(answer(b"", 503, f"Retry-After: {said}"))) as portal:
        with pytest.raises(BadStatus, match="HTTP status 503"):
            ask(portal.url, deadline=LONG)
        assert len(portal.targets) == 1
    assert not waits


# --- Refusals --------------------------------------------------------------------------------------------------------


def refusing(*channels: str, by: Script = REFUSAL) -> Script:
    """Return a portal that refuses these channels."""

    def script(peer: Peer) -> None:
        channel = peer.query.get("channelIds") or peer.query["channel_id"]
        (by if channel in channels else good)(peer)

    return script


def test_a_channel_is_refused_where_others_are_not() -> None:
    """A refusal is of one channel, and the others are asked to the last."""
    with Server(refusing("bad", "worse", "worst")) as portal:
        snapshot = poll(portal.url, "47", "bad", "worse", "worst", "48", concurrency=1)
        assert len(portal.targets) == 20
    assert reasons(snapshot) == {"refused": 12}
    assert not snapshot.account_refused
    assert len(snapshot.answers) == 8


def test_two_refused_channels_in_front_are_not_the_account() -> None:
    """Each channel is asked one thing first, so that two that are refused do not pass for the account."""
    with Server(refusing("bad", "worse")) as portal:
        snapshot = poll(portal.url, "bad", "worse", "47", "48", concurrency=1)
    assert reasons(snapshot) == {"refused": 8}
    assert len(snapshot.answers) == 8


@pytest.mark.parametrize("concurrency", [1, 32])
@pytest.mark.parametrize("refused", Endpoint)
def test_an_endpoint_that_is_refused_for_every_channel_is_not_the_account(refused: Endpoint, concurrency: int) -> None:
    """An account without the right to one endpoint has the numbers of the others."""

    def script(peer: Peer) -> None:
        (REFUSAL if endpoint_of(peer) is refused else good)(peer)

    with Server(script) as portal:
        snapshot = poll(portal.url, *map(str, range(30)), concurrency=concurrency)
    assert not snapshot.account_refused
    assert len(snapshot.answers) == 90
    assert {endpoint for _, endpoint in snapshot.failures} == {refused}


def test_refused_channels_that_stand_together_are_not_the_account() -> None:
    """An old account's list begins with channels that are no more; what is asked first is from all over the list."""
    channels = [str(n) for n in range(100)]
    with Server(refusing(*channels[:40])) as portal:
        snapshot = poll(portal.url, *channels, concurrency=32)
    assert not snapshot.account_refused
    assert reasons(snapshot) == {"refused": 160}
    assert len(snapshot.answers) == 240


@given(st.integers(1, 70))
def test_every_question_is_asked_once(channels: int) -> None:
    """However questions are spread, each is asked, and none twice."""
    names = tuple(map(str, range(channels)))
    questions = list(_spread(names))
    assert sorted(questions) == sorted((channel, endpoint) for channel in names for endpoint in Endpoint)
    early = min(channels, REFUSALS_OF_AN_ACCOUNT)
    assert len({channel for channel, _ in questions[:early]}) == early
    assert len({endpoint for _, endpoint in questions[:REFUSALS_OF_AN_ACCOUNT]}) == 4


def test_a_good_answer_after_eight_refusals_lets_all_threads_in_again() -> None:
    """An account that looked refused until its first good answer is polled to the end, side by side as before."""
    numbers, later = itertools.count(), itertools.count()
    refused, left_alone, side_by_side = threading.Event(), threading.Event(), threading.Event()
    two = threading.Barrier(2)

    def script(peer: Peer) -> None:
        number = next(numbers)
        if number == 0:
            refused.wait(PATIENCE)
            eventually(lambda: sum(thread.name == "poll" for thread in threading.enumerate()) == 1)
            left_alone.set()
            good(peer)
        elif not left_alone.is_set():
            REFUSAL(peer)
            if number == REFUSALS_OF_AN_ACCOUNT:
                refused.set()
        else:
            if next(later) < two.parties:
                with suppress(threading.BrokenBarrierError):
                    two.wait(PATIENCE / 4)
                    side_by_side.set()
            good(peer)

    with Server(script) as portal:
        snapshot = poll(portal.url, *map(str, range(12)), concurrency=4)
    assert side_by_side.is_set()
    assert set(reasons(snapshot)) == {"refused"}
    assert len(snapshot.failures) < REFUSALS_OF_AN_ACCOUNT + 4
    assert len(snapshot.answers) == 48 - len(snapshot.failures)


@pytest.mark.parametrize(
    ("script", "asked_reason"),
    [(REFUSAL, "refused"), (saying(answer(b"", 401)), "status"), (saying(answer(b"no", 403)), "status")],
    ids=["refusal", "401", "403"],
)
@pytest.mark.parametrize("concurrency", [1, 4, 64])
def test_an_account_that_is_refused_is_not_asked_on(script: Script, asked_reason: str, concurrency: int) -> None:
    """After eight refusals and no good answer, the rest is not asked and reported refused, so that no account locks."""
    channels = [str(n) for n in range(100)]
    with Server(script) as portal:
        snapshot = poll(portal.url, *channels, concurrency=concurrency)
        asked = len(portal.targets)
    assert REFUSALS_OF_AN_ACCOUNT <= asked < REFUSALS_OF_AN_ACCOUNT + min(concurrency, REFUSALS_OF_AN_ACCOUNT)
    assert snapshot.account_refused
    assert not snapshot.answers
    unasked = [failure for failure in snapshot.failures.values() if isinstance(failure, Refused) and not failure.asked]
    assert len(unasked) == 400 - asked
    assert reasons(snapshot) == Counter({asked_reason: asked}) + Counter({"refused": 400 - asked})
    assert list(snapshot.failures) == [(channel, endpoint) for channel in channels for endpoint in Endpoint]


def test_a_good_answer_lets_all_threads_in() -> None:
    """With one answer that is no refusal, requests are under way side by side up to the concurrency."""
    asked = itertools.count()
    all_in = threading.Event()

    def script(peer: Peer) -> None:
        if (number := next(asked)) == 12:
            all_in.set()
        if number:
            all_in.wait(PATIENCE)
        good(peer)

    with Server(script) as portal:
        snapshot = poll(portal.url, *map(str, range(7)), concurrency=12)
        assert all_in.is_set()
        all_in.set()
    assert len(snapshot.answers) == 28


def test_fewer_refusals_are_not_the_account() -> None:
    """One channel has four endpoints, and four refusals are not yet eight."""
    with Server(REFUSAL) as portal:
        snapshot = poll(portal.url)
    assert reasons(snapshot) == {"refused": 4}
    assert not snapshot.account_refused


def test_one_log_line_says_that_the_account_is_refused(tmp_path: Path) -> None:
    """The operator is told once, with what was not asked and what to check; the file says refused; the exit is 1."""
    env = account("", tmp_path, CHINACACHE_CHANNEL_IDS=",".join(map(str, range(50))), CC_TEXTFILE_CONCURRENCY="1")
    with Server(REFUSAL) as portal:
        done = run("run", env=env | {"CHINACACHE_URL": portal.url})
        assert len(portal.targets) == REFUSALS_OF_AN_ACCOUNT
    assert done.returncode == 1
    assert failures_in(tmp_path / "cdn.prom") == {"refused": 200}
    (line,) = [line for line in done.stderr.splitlines() if "refuses the account" in line]
    assert "the portal refuses the account of user me: " in line
    assert "192 more were not made" in line
    assert "check CHINACACHE_USER and the password" in line
    assert "ChinaCache_metrics" not in (tmp_path / "cdn.prom").read_text()


# --- TLS -------------------------------------------------------------------------------------------------------------


def untrusted(kind: str) -> tuple[ssl.SSLContext, trustme.CA]:
    """Return a server's context that is not to be trusted, and the authority that is."""
    trusted = trustme.CA()
    now = datetime.now(UTC)
    match kind:
        case "expired":
            context = served(trusted, not_before=now - timedelta(days=9), not_after=now - timedelta(days=1))
        case "not yet valid":
            context = served(trusted, not_before=now + timedelta(days=1))
        case "foreign":
            context = served(trustme.CA())
        case _:
            context = served(trusted, "portal.example")
    return context, trusted


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("expired", "certificate has expired"),
        ("not yet valid", "certificate is not yet valid"),
        ("foreign", "issued by nobody whom this host trusts; --ca-file or REQUESTS_CA_BUNDLE names those it should"),
        ("wrong name", "certificate is not valid for '127.0.0.1'"),
    ],
)
def test_a_certificate_that_is_not_to_be_trusted(kind: str, words: str, tmp_path: Path, waits: list[float]) -> None:
    """No request is made of such a server, nor is it tried again; the message says in plain words what is wrong."""
    context, trusted = untrusted(kind)
    with Server(good, tls=context) as portal:
        with pytest.raises(Unreachable, match=rf"^the certificate of {portal.host} is not to be trusted: ") as caught:
            ask(portal.url, ca_file=bundle_of(trusted, tmp_path))
        assert words in str(caught.value)
        assert (portal.connections, portal.targets) == (1, [])
    assert not waits


def test_nothing_in_the_environment_turns_verifying_off(tmp_path: Path) -> None:
    """An empty bundle variable is none, and Python's and curl's switches are not ours."""
    context, _ = untrusted("foreign")
    switches = {"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": "", "PYTHONHTTPSVERIFY": "0", "SSL_CERT_FILE": "/dev/null"}
    with Server(good, tls=context) as portal:
        done = run("run", env=account(portal.url, tmp_path) | switches)
        assert portal.targets == []
    assert done.returncode == 1
    assert failures_in(tmp_path / "cdn.prom") == {"unreachable": 4}
    assert "issued by nobody whom this host trusts" in done.stderr


@pytest.mark.parametrize("variable", ["CHINACACHE_CA_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_bundle_of_ones_own(variable: str, tmp_path: Path) -> None:
    """A CA of one's own is named by --ca-file, or for all programs that use requests by the environment."""
    tls, bundle = loopback(tmp_path)
    with Server(good, tls=tls) as portal:
        done = run("run", env=account(portal.url, tmp_path) | {variable: str(bundle)})
    assert done.returncode == 0, done.stderr
    assert failures_in(tmp_path / "cdn.prom") == {}


@pytest.mark.parametrize("bundle", ["/nonexistent", __file__], ids=["missing", "no bundle"])
def test_a_bundle_that_cannot_be_read_is_a_settings_error(bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment names is not passed over for the system's bundle."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    with pytest.raises(SettingsError, match=f"^the CA bundle {bundle}, which the environment names, cannot be read: "):
        Transport("https://portal.invalid")


def test_a_server_that_does_not_speak_tls(tmp_path: Path, waits: list[float]) -> None:
    """HTTP where TLS is expected is said to be a matter of TLS; TLS where HTTP is expected is no HTTP."""
    tls, bundle = loopback(tmp_path)
    with Server(good, greet=saying(answer(b"", 400))) as portal, pytest.raises(Unreachable) as caught:
        ask(portal.url.replace("http:", "https:"), ca_file=bundle)
    assert str(caught.value) == f"TLS with {portal.host} failed: wrong version number"
    with Server(good, tls=tls) as portal, pytest.raises((Unreachable, Malformed)):
        ask(portal.url.replace("https:", "http:"))
    assert waits


# --- Proxies ---------------------------------------------------------------------------------------------------------


def test_the_proxies_of_the_environment_are_used(tmp_path: Path) -> None:
    """HTTP is handed on by the proxy, TLS goes through it in a tunnel, and what no_proxy names does neither."""
    tls, bundle = loopback(tmp_path)
    trace: list[str] = []
    with proxy(trace) as between, Server(good) as plain, Server(good, tls=tls) as encrypted:
        proxies = {"http_proxy": between.url, "https_proxy": between.url}
        assert run("run", env=account(plain.url, tmp_path) | proxies).returncode == 0
        handed_on = len(trace)
        assert all(line.startswith(f"GET {plain.url}/") for line in trace)
        env = account(encrypted.url, tmp_path, CHINACACHE_CA_FILE=str(bundle)) | proxies
        assert run("run", env=env).returncode == 0
        assert all(line.startswith(f"CONNECT {encrypted.host} ") for line in trace[handed_on:])
        through = len(trace)
        assert through > handed_on > 0
        assert run("run", env=env | {"no_proxy": "127.0.0.1"}).returncode == 0
        assert len(trace) == through
        assert len(encrypted.targets) == 8


def test_a_proxy_that_gives_no_connection(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy's part in a failure is told from the portal's."""
    with Server(saying(answer(b"", 407))) as between:
        monkeypatch.setenv("https_proxy", between.url)
        with pytest.raises(Unreachable) as refused:
            ask("https://portal.invalid:444")
    with pytest.raises(Unreachable) as down:
        ask("https://portal.invalid:444")
    monkeypatch.setenv("https_proxy", "http://proxy.invalid:3128")
    with pytest.raises(Unreachable) as unknown:
        ask("https://portal.invalid:444")
    assert str(refused.value) == (
        "the proxy gave no connection to portal.invalid:444 (HTTP status 407); "
        "see the variables https_proxy and no_proxy"
    )
    assert str(down.value) == "no connection to portal.invalid:444 through the proxy: Connection refused"
    assert str(unknown.value).startswith("the name of the proxy cannot be resolved: ")
    assert len(waits) == 3 * RETRIES


@pytest.mark.parametrize("said", ["http://[::1", "gopher://proxy:70", "http://proxy:99999", "socks5://proxy", "://"])
def test_a_proxy_that_is_none_is_a_settings_error(said: str, tmp_path: Path) -> None:
    """A variable that names no proxy ends with 2 before anything is polled."""
    done = run("run", env=account("https://portal.invalid", tmp_path) | {"https_proxy": said})
    assert done.returncode == 2
    assert "the proxy that the environment names" in done.stderr
    assert "nothing was polled" in done.stderr
    assert not (tmp_path / "cdn.prom").exists()
