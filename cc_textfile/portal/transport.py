"""One HTTP exchange, bounded in time and in size, whose errors are words without the URL.

Each thread has a connection of its own, so that one whose state is in doubt can be closed before anybody uses it again:
bytes that arrive late would else be taken for the response to the next request, and its numbers for another channel's.

What is used of urllib3 beyond its documented interface, tested with 2.6 to 2.8: `_new_conn`, `_dns_host`, `sock` and
`response_class` of a connection, `pool` and `num_requests` of a pool, `length_remaining` and `chunked` of a response.
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
"""How long a connection is left open for a response that nobody requested; TCP alone may delay one by 40 ms."""

MAX_STRAY_SECONDS = 0.5

INTERIM_STATUSES = frozenset(range(100, 200)) - {http.HTTPStatus.SWITCHING_PROTOCOLS}

BODILESS = (http.HTTPStatus.NO_CONTENT, http.HTTPStatus.NOT_MODIFIED)
"""Some servers send a body all the same."""

ONCE: Mapping[str, Any] = {"retries": urllib3.Retry(total=False), "redirect": False, "assert_same_host": False}
"""How urllib3 makes a request: one try, and no other request after a redirect."""

UNKNOWN_ISSUER = range(18, 22)
"""OpenSSL's numbers (x509_vfy.h) for a certificate that no trusted authority has issued."""

ISSUER_HINT = "its authority is not trusted here; name its bundle: --ca-file for the portal, else REQUESTS_CA_BUNDLE"

# urllib3 writes whole URLs, and so passwords, into its debug lines and warnings.
logging.getLogger("urllib3").setLevel(logging.CRITICAL + 1)

T = TypeVar("T")


class _Exchange(threading.local):
    """What the exchange of this thread may still use up, time until `end` (on the monotonic clock) and bytes."""

    end = 0.0
    bytes_left = 0

    def received(self, count: int) -> None:
        self.bytes_left -= count
        if self.bytes_left < 0:
            raise _TooLongError


_exchange = _Exchange()


class _TooLongError(Exception):
    """More bytes than a response may have, whatever its headers say of its length."""


class _Socket(socket.socket):
    """A socket on which every wait ends when its thread's exchange must end."""

    holds_more = False
    """Whether bytes were read that are not part of a response that was requested."""

    def makefile(self, *_args: Any, **_kwargs: Any) -> Any:
        reader = _Reader(super().makefile("rb", 0))
        reader.sock = self
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

    def has_more(self, seconds: float) -> bool:
        """Tell whether there is more to read than what was requested; wait for it so long."""
        with suppress(OSError):
            super().settimeout(seconds)
            return self.holds_more or bool(super().recv(1024).strip())
        return False


class _Reader(io.BufferedReader):
    """Reads a response. The bytes that it still holds at the end of the response are not part of it."""

    sock: _Socket

    def close(self) -> None:
        end, _exchange.end = _exchange.end, 0.0  # else `peek` waits for more
        with suppress(OSError, ValueError):
            self.sock.holds_more |= bool(self.peek().strip())  # some servers end a body with a line break
        _exchange.end = end
        super().close()


class _TlsSocket(_Socket, ssl.SSLSocket):
    """The same over TLS."""


class _HttpResponse(http.client.HTTPResponse):
    """Reads past interim responses (RFC 9110, 15.2); http.client does so for status 100 alone."""

    def begin(self, *args: Any, **kwargs: Any) -> None:
        super().begin(*args, **kwargs)
        while self.status in INTERIM_STATUSES:
            self.headers = self.msg = None  # type: ignore[assignment] # else `begin` takes it for begun
            super().begin(*args, **kwargs)


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
        self._look_for_stray(pool, 0)
        reply, kept, began = None, False, monotonic()
        _exchange.end, _exchange.bytes_left = began + timeout, limit + MAX_HEAD_BYTES
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
            if kept:
                self._idle[threading.get_ident()] = pool
            else:
                if reply and reply.status not in BODILESS and pool.num_requests > 1:
                    # It may be the response to an earlier request, and the right one comes later.
                    self._look_for_stray(pool, min(STRAY_SECONDS + monotonic() - began, MAX_STRAY_SECONDS))
                pool.close()

    def close(self, seconds: float = 0.0) -> bool:
        """Close all connections that are not in use; the next exchange opens new ones.

        Returns whether more came on any of them than was requested, since the last call or within so many seconds.
        Then responses are not those to the requests that they seem to answer.
        """
        end = monotonic() + seconds
        idle, self._idle = self._idle, {}
        for pool in list(idle.values()):
            self._look_for_stray(pool, max(end - monotonic(), 0))
            pool.close()
        strayed, self._strayed = self._strayed, False
        return strayed

    def _look_for_stray(self, pool: Any, seconds: float) -> None:
        """Wait so long for what nobody requested on a connection that is not in use, and close that if there is any.

        Not by urllib3 alone: it does not see what TLS has decrypted already.
        """
        for connection in pool.pool.queue:  # one at most, None if it is not open
            if connection and connection.sock and connection.sock.has_more(seconds):
                self._strayed = True
                connection.close()

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
