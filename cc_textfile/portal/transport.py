"""One HTTP exchange, bounded in time and in size, whose errors are words without the URL.

Each thread has a connection of its own, so that one whose state is in doubt can be closed before anybody uses it again:
bytes that arrive late would else be taken for the response to the next request, and its numbers for another channel's.

What is used of urllib3 beyond its documented interface, tested with 2.6 to 2.8: `_new_conn`, `_dns_host`, `sock` and
`response_class` of a connection, `length_remaining` and `chunked` of a response.
"""

import http.client
import io
import logging
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import certifi
import requests
import urllib3
from requests.utils import get_auth_from_url, prepend_scheme_if_needed, select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection

from cc_textfile.errors import Malformed, RequestError, RequestTimeout, SettingsError, Unreachable
from cc_textfile.logs import Redactor

MAX_BODY_BYTES = 256 * 1024
"""The longest body that is read, unpacked: about five times the portal's longest, a row for every country."""

MAX_HEAD_BYTES = 64 * 1024
"""What status line, headers and the framing of a body may take beside it."""

STRAY_SECONDS = 0.06
"""How much longer than a response a connection is left open for one that nobody requested; TCP alone may delay it by
40 ms."""

MAX_STRAY_SECONDS = 2.0

INTERIM_STATUSES = frozenset(range(100, 200)) - {http.HTTPStatus.SWITCHING_PROTOCOLS}

ONCE: Mapping[str, Any] = {"retries": urllib3.Retry(total=False), "redirect": False, "assert_same_host": False}
"""How urllib3 makes a request: one try, and no other request after a redirect."""

UNKNOWN_ISSUER = range(18, 22)
"""OpenSSL's numbers (x509_vfy.h) for a certificate that no trusted authority has issued."""

ISSUER_HINT = "its authority is not trusted here; name its bundle: --ca-file for the portal, else REQUESTS_CA_BUNDLE"

# urllib3 writes whole URLs, and so passwords, into its debug lines and warnings.
logging.getLogger("urllib3").setLevel(logging.CRITICAL + 1)

T = TypeVar("T")


class _Exchange(threading.local):
    """What the exchange of this thread may still use up, time until `end` (on the monotonic clock) and bytes.

    A connection that is to be closed is looked at for `patience` seconds more. `strayed` tells that one more response
    came on it than was requested.
    """

    end = 0.0
    bytes_left: int
    patience = 0.0
    strayed = False

    def received(self, count: int) -> None:
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise _TooLongError


_exchange = _Exchange()


class _TooLongError(Exception):
    """More bytes than a response may have, whatever its headers say of its length."""


class _Socket(socket.socket):
    """A socket on which every wait ends when its thread's exchange must end."""

    responses = 0
    is_last = False
    """Whether the response that is read is the last one. It gets the connection, which is closed after it."""
    beyond = b""
    """What was read that is not part of a response that was requested."""

    def makefile(self, *_args: Any, **_kwargs: Any) -> Any:
        reader = _Reader(super().makefile("rb", 0))
        reader.sock = self
        self.responses += 1
        return reader

    def settimeout(self, _value: float | None, /) -> None:
        left = _exchange.end - monotonic()
        if left <= 0:
            raise TimeoutError
        super().settimeout(left)

    def recv(self, *args: Any) -> bytes:
        self.settimeout(None)
        data = super().recv(*args)
        _exchange.received(len(data))
        return data

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(None)
        count = super().recv_into(*args, **kwargs)
        _exchange.received(count)
        return count

    def read_beyond(self, seconds: float) -> bytes:
        """Return what comes that was not requested, until a response is in it, so many seconds have passed, or it ends.

        Line breaks are nothing: some servers end a body with one.
        """
        end = monotonic() + seconds
        with suppress(OSError):
            while b"HTTP/" not in self.beyond and len(self.beyond) < MAX_HEAD_BYTES:
                super().settimeout(max(end - monotonic(), 0))
                data = super().recv(1024)
                if not data:
                    break
                self.beyond = (self.beyond + data).lstrip()
        return self.beyond

    def look(self) -> None:
        """Look whether one more response comes, as it does where one has slipped into the place of another."""
        _exchange.strayed |= b"HTTP/" in self.read_beyond(_exchange.patience if self.responses > 1 else 0)


class _Reader(io.BufferedReader):
    """Reads a response. The bytes that it still holds at the end of the response are not part of it."""

    sock: _Socket

    def close(self) -> None:
        end, _exchange.end = _exchange.end, 0.0  # else `peek` waits for more
        with suppress(OSError, ValueError):
            self.sock.beyond = self.peek().lstrip()
        _exchange.end = end
        if self.sock.is_last:
            self.sock.look()
        super().close()


class _TlsSocket(_Socket, ssl.SSLSocket):
    """The same over TLS."""


class _HttpResponse(http.client.HTTPResponse):
    """Reads past interim responses (RFC 9110, 15.2), as http.client does for status 100, and line breaks before one."""

    def begin(self, *args: Any, **kwargs: Any) -> None:
        while self.fp.peek(1)[:1] in (b"\r", b"\n"):
            self.fp.read(1)
        super().begin(*args, **kwargs)
        while self.status in INTERIM_STATUSES:
            self.headers = self.msg = None  # type: ignore[assignment] # else `begin` takes it for begun
            super().begin(*args, **kwargs)
        if isinstance(self.fp, _Reader):
            self.fp.sock.is_last = self.will_close


class _Connection(HTTPConnection):
    response_class = _HttpResponse

    def _new_conn(self) -> socket.socket:
        """Connect to the first address that accepts."""
        # As bytes: the codec that text goes through has an error of its own for a name that cannot be one.
        addresses = socket.getaddrinfo(self._dns_host.encode(), self.port, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in addresses:
            try:
                with ExitStack() as on_failure:
                    sock = on_failure.enter_context(_Socket(family, kind, protocol))
                    sock.settimeout(None)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    sock.connect(address)
                    sock.settimeout(None)
                    on_failure.pop_all()
                    return sock
            except OSError as failure:  # of the socket itself, too, where a host is without IPv6
                error = failure
        raise error

    @property
    def is_connected(self) -> bool:
        # Not by urllib3 alone: it does not see what TLS has decrypted already.
        more = isinstance(self.sock, _Socket) and self.sock.read_beyond(0)
        return super().is_connected and not more

    def close(self) -> None:
        if isinstance(self.sock, _Socket) and not self.sock.is_last:
            self.sock.look()
        super().close()


class _TlsConnection(_Connection, HTTPSConnection):
    pass


class Reply(NamedTuple):
    """A whole HTTP response, its body unpacked."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Exchanges with one server; safe to use from several threads.

    `base_url` is http or https; `ca_file` replaces the bundle that requests would use. Proxies and CA bundles of the
    environment count as they do for requests; `proxy` is the address of the one that applies, if any, and `redactor`
    learns its password. Raises `SettingsError` when one of them cannot be used.
    """

    def __init__(self, base_url: str, redactor: Redactor, *, ca_file: Path | None = None) -> None:
        place = urlsplit(base_url)
        environment = requests.Session().merge_environment_settings(base_url, {}, None, None, None)
        named = ca_file or environment["verify"]
        bundle = Path(named if isinstance(named, str | Path) else certifi.where())
        tls = _tls_context(bundle) if place.scheme == "https" else None
        self._base_url = base_url
        self._host = place.netloc.rpartition("@")[2]
        self._manager: Callable[[], urllib3.PoolManager] = partial(urllib3.PoolManager, ssl_context=tls)
        self.proxy = select_proxy(base_url, environment["proxies"])
        # The part of a URL that is not sent: nothing to a proxy that forwards, else scheme and host.
        self._origin = "" if self.proxy and not tls else f"{place.scheme}://{place.netloc}"
        self._idle: dict[int, Any] = {}  # the pool of each thread that makes no exchange now
        self._strayed = False
        self._longest = 0.0
        self._keeps = True
        try:
            if self.proxy:
                self.proxy = prepend_scheme_if_needed(self.proxy, "http")  # type: ignore[no-untyped-call]
                user, password = get_auth_from_url(self.proxy)
                headers = urllib3.make_headers(proxy_basic_auth=f"{user}:{password}") if user else {}
                redactor.add(*(value.removeprefix("Basic ") for value in headers.values()), password or user)
                proxy_tls = _tls_context(None) if self.proxy.startswith("https:") else None
                self._keeps = not (tls and proxy_tls)  # nobody sees what strays in TLS within TLS
                # The older urllib3 connects by the first of them to a proxy that forwards.
                contexts: dict[str, Any] = {"ssl_context": tls or proxy_tls, "proxy_ssl_context": proxy_tls}
                self._manager = partial(urllib3.ProxyManager, self.proxy, proxy_headers=headers, **contexts)
            self._new_pool()
        except (urllib3.exceptions.HTTPError, ValueError, TypeError):
            what = "the proxy of the environment (http_proxy, https_proxy, all_proxy)" if self.proxy else self._host
            raise SettingsError(f"{what} is not a usable address") from None

    def exchange(
        self,
        method: str,
        url: str,
        decode: Callable[[Reply], T],
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        limit: int = MAX_BODY_BYTES,
    ) -> T:
        """Return what `decode` makes of the server's response, within `timeout` seconds from connect to last byte.

        The connection is kept only if the status is 200 and `decode` raises nothing. `limit` is the longest body that
        is read, in bytes. Raises `RequestError`; a redirect is a response like any other.
        """
        pool = self._idle.pop(threading.get_ident(), None) or self._new_pool()
        reply, kept, began = None, False, monotonic()
        _exchange.end, _exchange.bytes_left = began + timeout, limit + MAX_HEAD_BYTES
        _exchange.patience, _exchange.strayed = self._patience(), False
        try:
            try:
                target = url.removeprefix(self._origin)
                with pool.urlopen(method, target, body, headers, preload_content=False, **ONCE) as response:
                    reply = _read(response, limit)
            except Exception as error:  # noqa: BLE001 # whatever the HTTP stack makes of foreign bytes
                # Not chained: the texts of requests and urllib3 hold the URL, and that the password.
                raise self._in_words(error, timeout, limit) from None
            decoded = decode(reply)
            kept = self._keeps and reply.status == http.HTTPStatus.OK
            return decoded
        finally:
            if reply:
                self._longest = max(self._longest, monotonic() - began)
            if kept:
                self._idle[threading.get_ident()] = pool
            else:
                _exchange.patience = self._patience()
                pool.close()
            if _exchange.strayed:
                self._strayed = True

    def close(self) -> bool:
        """Close all connections that are not in use; the next exchange opens new ones.

        Returns whether, since the last call, one more response came on any of them than was requested. It is waited for
        as long as a response took. Then responses are not those to the requests that they seem to answer.
        """
        end = monotonic() + self._patience()
        idle, self._idle = self._idle, {}
        _exchange.strayed = False
        for pool in list(idle.values()):
            _exchange.patience = max(end - monotonic(), 0)
            pool.close()
        strayed = self._strayed or _exchange.strayed
        self._strayed, self._longest = False, 0.0
        return strayed

    def _patience(self) -> float:
        return min(STRAY_SECONDS + self._longest, MAX_STRAY_SECONDS)

    def _new_pool(self) -> Any:
        """Return urllib3's pool of one connection, which leads to the server or to a proxy.

        Not a session of requests: what that does for each request (cookies, redirects, settings to merge) is a third
        of the CPU time.
        """
        pool: Any = self._manager().connection_from_url(self._base_url)
        pool.ConnectionCls = _TlsConnection if pool.scheme == "https" else _Connection
        return pool

    def _in_words(self, error: Exception, timeout: float, limit: int) -> RequestError:  # noqa: C901, PLR0911 # a table
        """Return what went wrong on a connection to the server, without its URL."""
        for cause in _causes(error):
            match cause:
                case _TooLongError():
                    return Malformed(f"the response of {self._host} is longer than {limit // 1024} KiB")
                case TimeoutError() | urllib3.exceptions.TimeoutError():
                    return RequestTimeout(f"no complete response from {self._host} within {timeout:.3g} s")
                case ssl.SSLCertVerificationError():
                    hint = f" ({ISSUER_HINT})" if cause.verify_code in UNKNOWN_ISSUER else ""
                    reason = cause.verify_message.rstrip(".")
                    untrusted = Unreachable(f"the certificate of {self._host} is not trusted: {reason}{hint}")
                    untrusted.retry_after = None
                    return untrusted
                case ssl.SSLError():
                    reason = cause.reason.replace("_", " ").lower() if cause.reason else "the connection was closed"
                    return Unreachable(f"TLS with {self._host} failed: {reason}")
                case socket.gaierror():
                    whose = "of the proxy" if self.proxy else f"in {self._host}"
                    return Unreachable(f"the name {whose} cannot be resolved: {cause.strerror}")
                case http.client.IncompleteRead() | ConnectionResetError() | BrokenPipeError():
                    return Unreachable(f"{self._host} closed the connection before its response was complete")
                case OSError() if cause.strerror:
                    through = " through the proxy" if self.proxy else ""
                    return Unreachable(f"no connection to {self._host}{through}: {cause.strerror}")
                case urllib3.exceptions.ProxyError():
                    status = "".join(re.findall(r"failed: (\d{3})", str(cause)))
                    refused = f"the proxy gave no connection to {self._host} (HTTP status {status})"
                    return Unreachable(f"{refused}; see https_proxy and no_proxy")
                case urllib3.exceptions.DecodeError():
                    return Malformed(f"the response of {self._host} cannot be unpacked")
        return Malformed(f"what {self._host} sends is not HTTP")


def _read(response: Any, limit: int) -> Reply:
    content = b""
    try:
        content = response.read(limit + 1, decode_content=True)
    except (urllib3.exceptions.ProtocolError, urllib3.exceptions.DecodeError, _TooLongError):
        if response.status == http.HTTPStatus.OK:  # else the status is what matters
            raise
    if response.status == http.HTTPStatus.OK:
        if not content and response.length_remaining is None and not response.chunked:
            # http.client takes headers that break off for headers that are complete.
            raise http.client.IncompleteRead(content)
        if len(content) > limit:
            raise _TooLongError
    return Reply(response.status, response.headers, content)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Return the error and all that it wraps, innermost first: urllib3's wraps the system's."""
    for cause in (*error.args, error.__cause__, error.__context__):
        if isinstance(cause, BaseException):
            yield from _causes(cause)
    yield error


def _tls_context(bundle: Path | None) -> ssl.SSLContext:
    """Return a context that verifies by a bundle (a file or a folder), or else by the system's."""
    try:
        folder = bundle if bundle and bundle.is_dir() else None
        context = ssl.create_default_context(cafile=None if folder else bundle, capath=folder)
    except OSError as error:
        named = f"the CA bundle {bundle}, named by the environment,"
        raise SettingsError(f"{named} cannot be read: {error.strerror}") from None
    context.sslsocket_class = _TlsSocket
    return context
