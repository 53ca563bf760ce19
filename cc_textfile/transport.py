"""One HTTP exchange, bounded in time and in size, whose errors are words without the URL."""

import logging
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.client import IncompleteRead, RemoteDisconnected
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import certifi
import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter
from requests.utils import prepend_scheme_if_needed, select_proxy

from cc_textfile.errors import Malformed, Overdue, PortalError, SettingsError, Unreachable
from cc_textfile.sockets import POOLS, TlsSocket, end_waits_in

MAX_BODY_BYTES = 256 * 1024
"""The longest answer that is read, unpacked: some five times the portal's longest, a row for every country."""

FOREIGN_CODES = range(18, 22)
"""X509_V_ERR_* of OpenSSL by which nobody who is trusted has issued the certificate."""

FOREIGN = "issued by nobody whom this host trusts; --ca-file or REQUESTS_CA_BUNDLE names those it should"

# urllib3 puts whole URLs, and so passwords, into its debug lines and warnings.
logging.getLogger("urllib3").setLevel(logging.CRITICAL + 1)


class Reply(NamedTuple):
    """A whole HTTP answer, its body unpacked."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Transport:
    """Exchanges with one server, over connections that are kept open until `close`.

    `base_url` is http or https; `ca_file` replaces the bundle that `requests` would use; at most `connections` are
    open at once. Proxies and CA bundles of the environment count as they do for `requests`: `proxy` is the address of
    the one that applies, `tls` the context that verifies the server, and either may be None.
    """

    def __init__(self, base_url: str, *, connections: int = 1, ca_file: Path | None = None) -> None:
        self._host = urlsplit(base_url).netloc.rpartition("@")[2]
        self._broken_off = f"{self._host} broke the connection off"
        environment = requests.Session().merge_environment_settings(base_url, {}, None, None, None)
        self._proxies = environment["proxies"]
        self.proxy = select_proxy(base_url, self._proxies)
        bundle = ca_file or environment["verify"]
        self.tls = _tls_context(bundle) if base_url.startswith("https:") else None
        self._adapter = _Adapter(connections, self.tls)
        self._root = requests.PreparedRequest()
        self._root.url = f"{base_url}/"
        self._pool: Any = None
        try:
            if self.proxy:
                self.proxy = prepend_scheme_if_needed(self.proxy, "http")  # type: ignore[no-untyped-call]
            # What of a URL is not sent: nothing to a proxy that forwards, else scheme and host.
            self._origin = self._root.url.removesuffix(self._adapter.request_url(self._root, self._proxies))
            self._connections()
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError):
            unusable = "the proxy that the environment names (http_proxy, https_proxy, all_proxy)"
            raise SettingsError(
                (f"{unusable if self.proxy else self._host} is no address that can be asked",)
            ) from None

    def exchange(
        self,
        method: str,
        url: str,
        *,
        timeout: float,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        most: int = MAX_BODY_BYTES,
    ) -> Reply:
        """Return the server's answer to one request, within so many seconds from connect to the last byte.

        `most` is the longest answer that is read, in bytes.

        Raises `Unreachable`, `Overdue` or `Malformed`; redirects are answers like any other.
        """
        end_waits_in(timeout)
        try:
            with self._connections().urlopen(
                method,
                url.removeprefix(self._origin),
                body,
                headers,
                retries=self._adapter.max_retries,
                redirect=False,
                assert_same_host=False,
                timeout=urllib3.Timeout(total=timeout),
                preload_content=False,
            ) as response:
                content = response.read(most + 1, decode_content=True)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            # Not chained: the texts of requests and urllib3 hold the URL, and that the password.
            raise self.in_words(error, timeout) from None
        if not content and response.length_remaining is None and not response.chunked:
            # http.client takes a header that breaks off for one that is over.
            raise Unreachable(self._broken_off)
        # Of another status than 200, the status is what matters.
        if len(content) > most and response.status == HTTPStatus.OK:
            message = f"the answer of {self._host} is longer than {most // 1024} KiB"
            raise Malformed(message)
        return Reply(response.status, response.headers, content)

    def close(self) -> None:
        """Close the connections; the next exchange opens new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:  # urllib3 would leave its connections to the garbage collector
            pool.close()
        self._adapter.close()

    def _connections(self) -> Any:
        """Return the pool of connections, to the server or to a proxy.

        Found once, by requests' adapter, and used without a session: what that does around `urlopen` for each
        request (cookies, redirects, settings to merge) is a third of the cost of a small one.
        """
        pool = self._pool
        if pool is None:
            pool = self._pool = self._adapter.get_connection_with_tls_context(
                self._root, verify=True, proxies=self._proxies
            )
        return pool

    def in_words(self, error: Exception, timeout: float) -> PortalError:  # noqa: C901, PLR0911 # a table, in effect
        """Return what went wrong on a connection to the server, without its URL."""
        causes = list(_causes(error))
        by_proxy = _any(causes, urllib3.exceptions.ProxyError)
        for cause in causes:
            match cause:
                case TimeoutError() | urllib3.exceptions.TimeoutError():
                    return Overdue(f"no whole answer from {self._host} within {timeout:.3g} s")
                case ssl.SSLCertVerificationError():
                    return Unreachable(
                        f"the certificate of {self._host} is not to be trusted: {cause.verify_message.rstrip('.')}"
                        + (f" ({FOREIGN})" if cause.verify_code in FOREIGN_CODES else ""),
                        transient=False,
                    )
                case ssl.SSLError():
                    return Unreachable(f"TLS with {self._host} failed: {_said(cause)}")
                case socket.gaierror():
                    whose = "of the proxy" if by_proxy else f"in {self._host}"
                    return Unreachable(f"the name {whose} cannot be resolved: {cause.strerror}")
                case IncompleteRead() | RemoteDisconnected() | ConnectionResetError() | BrokenPipeError():
                    return Unreachable(self._broken_off)
                case OSError() if cause.strerror:
                    through = " through the proxy" if by_proxy else ""
                    return Unreachable(f"no connection to {self._host}{through}: {cause.strerror}")
        if by_proxy:
            status = re.search(r"failed: (\d{3})", str(error))
            return Unreachable(
                f"the proxy gave no connection to {self._host}"
                + (f" (HTTP status {status[1]})" if status else "")
                + "; see the variables https_proxy and no_proxy"
            )
        if _any(causes, urllib3.exceptions.DecodeError):
            return Malformed(f"the answer of {self._host} cannot be unpacked")
        if _any(causes, urllib3.exceptions.ProtocolError | urllib3.exceptions.InvalidHeader):
            return Malformed(f"what {self._host} answers is not HTTP")
        return Unreachable(f"no exchange with {self._host}: {type(error).__name__}", transient=False)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Return the error and all that it wraps, innermost first: `requests` wraps urllib3's, and that the system's."""
    inner = (*error.args, error.__cause__, error.__context__, getattr(error, "reason", None))
    for cause in inner:
        if isinstance(cause, BaseException):
            yield from _causes(cause)
    yield error


def _any(causes: list[BaseException], kind: type[BaseException] | UnionType) -> bool:
    return any(isinstance(cause, kind) for cause in causes)


def _said(error: ssl.SSLError) -> str:
    """Return what OpenSSL calls the error, as people would say it."""
    return error.reason.replace("_", " ").lower() if error.reason else "it was broken off"


def _tls_context(named: object) -> ssl.SSLContext:
    """Return a context that verifies: by the bundle (a file or a folder) that is named, or by the one of `requests`."""
    bundle = Path(named) if isinstance(named, str | Path) else Path(certifi.where())
    try:
        folder = bundle.is_dir()
        context = ssl.create_default_context(
            cafile=None if folder else str(bundle), capath=str(bundle) if folder else None
        )
    except OSError as error:
        fault = f"the CA bundle {bundle}, which the environment names, cannot be read: {error.strerror}"
        raise SettingsError((fault,)) from None
    context.sslsocket_class = TlsSocket
    return context


class _Adapter(HTTPAdapter):
    """requests' adapter, which knows of proxies, with the connections above and a TLS context that is read once."""

    def __init__(self, connections: int, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        super().__init__(pool_connections=1, pool_maxsize=connections)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._tls)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs, ssl_context=self._tls)
        manager.pool_classes_by_scheme = POOLS
        return manager

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        host, _ = super().build_connection_pool_key_attributes(*args, **kwargs)
        return host, {}
