"""The portal, from its name to its numbers. What comes after a step that failed is not tried."""

import socket
import ssl
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import urlsplit

from urllib3.exceptions import ProxyError

from cc_textfile.check.step import FAILED, OK, SKIPPED, WARNING, Step
from cc_textfile.errors import RequestError, RequestTimeout, Unreachable
from cc_textfile.logs import Redactor
from cc_textfile.metrics import Results, registry
from cc_textfile.poll import Snapshot, gauge_requests, is_refusal, poll
from cc_textfile.portal.client import DEADLINE_PASSED, PortalClient
from cc_textfile.portal.transport import Transport, within
from cc_textfile.portal.window import Window
from cc_textfile.settings import Settings, called

MIN_DAYS_LEFT = 14
MAX_SKEW = 60
"""Seconds between the clocks; the clock of the host decides which windows are requested."""

MINUTES_PER_DAY = 24 * 60
T = TypeVar("T")


def portal(settings: Settings, redactor: Redactor) -> Iterator[Step]:
    """Go from the portal's name to its numbers."""
    if (yield from _reach(settings)):
        yield from _numbers(settings, redactor)


def _reach(settings: Settings) -> Generator[Step, None, bool]:
    """Connect to the portal, and return whether that worked; behind a proxy, the proxy is what has to be reached."""
    transport = Transport(settings.portal_url, ca_file=settings.ca_file)
    place = urlsplit(transport.proxy or settings.portal_url)
    host, port = place.hostname or "", place.port or (443 if place.scheme == "https" else 80)

    def bounded(act: Callable[[], T]) -> T:
        try:
            return within(settings.timeout, act)
        except RequestTimeout:
            raise RequestTimeout(f"{host} did not respond within {settings.timeout:g} s") from None
        except UnicodeError as error:
            raise Unreachable(f"{host} is not a host name") from error
        except OSError as error:
            raise transport.in_words(ProxyError("", error) if transport.proxy else error, settings.timeout) from error

    try:
        connection = bounded(partial(socket.create_connection, (host, port)))
    except RequestError as error:
        by_name = isinstance(error.__cause__, socket.gaierror | UnicodeError)
        look = f"getent hosts {host}; see /etc/resolv.conf" if by_name else f"nc -vz {host} {port}; see the firewall"
        proxy = "the variables https_proxy and no_proxy" if transport.proxy else "or set a proxy (https_proxy)"
        remedy = f"{look}, {proxy}, or correct {called('portal_url')}"
        yield Step("portal connection", FAILED, str(error), remedy)
        return False
    with connection:
        address = connection.getpeername()[0]
        peer = f"{'the proxy ' if transport.proxy else ''}{host} ({address})"
        yield Step("portal connection", OK, f"port {port} of {peer} is open")
        if not transport.tls:
            local = not transport.proxy and ip_address(address.partition("%")[0]).is_loopback
            detail = "not used: user and password are sent in clear text" + (", on this host only" if local else "")
            remedy = "" if local else f"use an https address: {called('portal_url')}"
            yield Step("portal TLS", OK if local else WARNING, detail, remedy)
        elif transport.proxy:
            yield Step("portal TLS", SKIPPED, "the proxy hides the certificate here; requests verify it")
        else:
            transport.tls.sslsocket_class = ssl.SSLSocket  # the transport's own works in an exchange only
            try:
                with bounded(partial(transport.tls.wrap_socket, connection, server_hostname=host)) as tls:
                    yield _certificate(tls.getpeercert() or {})
            except RequestError as error:
                yield Step("portal TLS", FAILED, str(error), _fix_tls(getattr(error.__cause__, "verify_code", None)))
                return False
    return True


def _certificate(certificate: Mapping[str, object]) -> Step:
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
    days = (ends - datetime.now(UTC)).days
    detail = f"the certificate is trusted, and valid for {days} more days, until {ends:%Y-%m-%d}"
    if days >= MIN_DAYS_LEFT:
        return Step("portal TLS", OK, detail)
    return Step("portal TLS", WARNING, detail, "ask the operator of the portal to renew it in time")


def _fix_tls(code: int | None) -> str:
    match code:  # OpenSSL's numbers (x509_vfy.h)
        case None:
            return f"see whether {called('portal_url')} is the address of a TLS server"
        case 9 | 10:  # not yet valid, or no longer
            return "if the clock of this host is right (timedatectl), ask the operator of the portal to renew it"
        case 62 | 64:  # of another host name or address
            return f"correct the name in {called('portal_url')}"
    return f"name the bundle of the authority that signed it: {called('ca_file')}"


def _numbers(settings: Settings, redactor: Redactor) -> Iterator[Step]:
    """Make one request per method; a refusal before any good response ends it, so that the account is not locked."""
    transport = Transport(settings.portal_url, ca_file=settings.ca_file)
    fetch = PortalClient(transport, settings, redactor).fetch
    channel = settings.channels[0]
    window = Window.ending(datetime.now(UTC), settings.querytime)
    good = Snapshot({}, {}, datetime.now(UTC), 0.0)
    for request in gauge_requests([channel], settings.methods, window):
        one = poll(fetch, [request], concurrency=1, deadline=settings.deadline, now=datetime.now(UTC))
        error = one.failures.get(request)
        if error and is_refusal(error) and not good.responses:
            user, password, channels = (settings.origin(name) for name in ("user", "password", "channels"))
            detail = f"user {settings.user}, {request.method} of channel {channel}: {error}"
            remedy = f"correct user ({user}) or password ({password}), unless it is about the channel ({channels})"
            yield Step("portal password", FAILED, detail, f"{remedy}; only one request was made")
            return
        if error:
            remedy = _fix_request(settings, error, has_proxy=bool(transport.proxy))
            yield Step(f"portal {request.method}", FAILED, f"channel {channel}: {error}", remedy)
            continue
        if not good.responses:
            yield Step("portal password", OK, f"the portal admits user {settings.user}")
            yield _clock(one.responses[request].date, one.ended)
        good = replace(one, responses={**good.responses, **one.responses}, seconds=good.seconds + one.seconds)
        yield Step(f"portal {request.method}", OK, f"channel {channel}: good response")
    if good.responses:
        yield _load(settings, good, window)


def _fix_request(settings: Settings, error: RequestError, *, has_proxy: bool) -> str:
    if is_refusal(error):
        return f"ask the operator of the portal whether user {settings.user} may use this method for this channel"
    if isinstance(error, RequestTimeout):
        return f"raise {called('deadline' if str(error) == DEADLINE_PASSED else 'timeout')}"
    if isinstance(error, Unreachable) and has_proxy:
        return f"see the variables https_proxy and no_proxy; if the proxy signs certificates: {called('ca_file')}"
    return "try again later; if it stays, ask the operator of the portal, or of the proxy in between"


def _clock(portal: datetime | None, host: datetime) -> Step:
    if portal is None:
        return Step("portal clock", SKIPPED, "the portal does not say what time it is")
    skew = (host - portal).total_seconds()
    if abs(skew) <= MAX_SKEW:
        return Step("portal clock", OK, f"the clock of this host is within {MAX_SKEW} s of the portal's")
    detail = f"the clock of this host is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the portal's"
    return Step("portal clock", WARNING, f"{detail}: the wrong time is requested", "sudo timedatectl set-ntp true")


def _load(settings: Settings, snapshot: Snapshot, window: Window) -> Step:
    """Estimate a whole poll from one channel."""
    one = replace(settings, channels=settings.channels[:1], channel_labels={})
    _, collector = registry(Results(one, snapshot, window if settings.gauges else None, None))
    samples = [sample for metric in collector.collect() for sample in metric.samples]
    channels, of_channel = len(settings.channels), sum("channel" in sample.labels for sample in samples)
    series = of_channel * channels + len(samples) - of_channel + len(settings.channel_labels)
    requests = channels * (len(settings.methods) * settings.gauges + 2 * bool(settings.ledger))
    detail = f"about {requests:,} requests and {series:,} series in a poll"
    detail += ", and the counters of the ledger" if settings.ledger else ""
    if settings.gauges and settings.querytime < MINUTES_PER_DAY:
        detail += "; more series around midnight (UTC+8)"
    seconds = snapshot.seconds / len(snapshot.responses) * requests / settings.concurrency
    if seconds <= settings.deadline:
        return Step("portal load", OK, detail)
    detail += f"; at this rate it takes {seconds:.0f} s, and the deadline is {settings.deadline:g} s"
    remedy = f"raise {called('concurrency')} or {called('deadline')}, or divide the channels: {called('shard')}"
    return Step("portal load", WARNING, detail, remedy)
