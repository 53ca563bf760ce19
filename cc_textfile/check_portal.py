"""What `cc-textfile check` sees of the portal, from its name to its numbers, with at most one refused password."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from ipaddress import ip_address
from time import monotonic
from urllib.parse import urlsplit

from cc_textfile.answers import Answer, Endpoint
from cc_textfile.client import HEADERS, PortalClient
from cc_textfile.collector import SnapshotCollector
from cc_textfile.errors import Overdue, PortalError, Refused, Unreachable
from cc_textfile.poll import Question, Snapshot, is_refusal
from cc_textfile.redaction import Redactor
from cc_textfile.settings import Settings, called
from cc_textfile.step import SLACK, Clock, State, Step, T, within
from cc_textfile.transport import Transport
from cc_textfile.values import DAY
from cc_textfile.window import Window

FEW_DAYS = 14
"""Days left on a certificate that are worth a warning: what renews by itself has done so long before."""

MOST_SKEW = 60
"""Seconds between the clocks; windows are cut to the minute by this host's."""


OUT_OF_DATE = (9, 10)
OF_ANOTHER_NAME = (62, 64)
"""OpenSSL's numbers for certificates: not yet or no longer valid; of another host or address (x509_vfy.h)."""

STEPS = ("name", "connection", "TLS", "clock", "password", *Endpoint, "load")


def portal(settings: Settings, redact: Redactor, clock: Clock) -> Iterator[Step]:
    """Go from the portal's name to its numbers; what is not reached because of a step that failed is skipped."""
    seen, failed = set(), ""
    for step in _Portal(settings, redact, clock).steps():
        yield step
        seen.add(step.step)
        failed = step.step if step.state is State.FAILED else failed
    for name in STEPS:
        if f"portal {name}" not in seen:
            yield Step(f"portal {name}", State.SKIPPED, f"not tried: {failed} failed")


class _Portal:
    def __init__(self, settings: Settings, redact: Redactor, clock: Clock) -> None:
        self._settings = settings
        self._redact = redact
        self._clock = clock
        self._transport = Transport(settings.portal_url, ca_file=settings.ca_file)
        # Behind a proxy, it is the proxy that this host has to find and to reach.
        peer = urlsplit(self._transport.proxy or settings.portal_url)
        self._host = peer.hostname or ""
        self._port = peer.port or (443 if peer.scheme == "https" else 80)
        self._peer = f"the proxy {self._host}" if self._transport.proxy else self._host
        self._addresses: list[str] = []
        self._socket: socket.socket
        self._open = ExitStack()

    def steps(self) -> Iterator[Step]:
        with self._open:
            self._open.callback(self._transport.close)
            for look in (self._name, self._connection, self._tls, self._skew):
                step = look()
                yield step
                if step.state is State.FAILED:
                    return
            yield from self._endpoints()

    def _try(self, act: Callable[[], T]) -> T:
        try:
            return within(self._settings.timeout, act)
        except OSError as error:
            raise self._transport.in_words(error, self._settings.timeout) from None
        except UnicodeError:  # a label of it is empty, or too long
            message = f"{self._host} is no name of a host"
            raise Unreachable(message) from None

    def _name(self) -> Step:
        try:
            found = self._try(partial(socket.getaddrinfo, self._host, self._port, type=socket.SOCK_STREAM))
        except PortalError as error:
            remedy = f"getent hosts {self._host}; mend this host's look-up of names, or correct {called('portal_url')}"
            return Step("portal name", State.FAILED, str(error), remedy)
        self._addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        return Step("portal name", State.OK, f"{self._peer} is {', '.join(self._addresses)}")

    def _connection(self) -> Step:
        began = monotonic()
        try:
            self._socket = self._open.enter_context(
                self._try(partial(socket.create_connection, (self._host, self._port), self._settings.timeout))
            )
        except PortalError as error:
            remedy = f"nc -vz {self._host} {self._port}; let this host out to it, or name a proxy: https_proxy"
            return Step("portal connection", State.FAILED, str(error), remedy)
        milliseconds = 1000 * (monotonic() - began)
        return Step("portal connection", State.OK, f"port {self._port} of {self._peer} is open, {milliseconds:.0f} ms")

    def _tls(self) -> Step:
        if not self._transport.tls:
            detail = "none: user and password travel in clear"
            near = all(ip_address(address.partition("%")[0]).is_loopback for address in self._addresses)
            if near and not self._transport.proxy:
                return Step("portal TLS", State.OK, f"{detail}, on this host")
            return Step("portal TLS", State.WARNING, detail, f"give {called('portal_url')} an https address")
        if self._transport.proxy:
            return Step("portal TLS", State.SKIPPED, "the proxy hides the certificate here; requests verify it")
        name = urlsplit(self._settings.portal_url).hostname
        try:
            with self._transport.tls.wrap_socket(self._socket, server_hostname=name) as tls:
                certificate = tls.getpeercert() or {}
        except OSError as error:
            detail = str(self._transport.in_words(error, self._settings.timeout))
            return Step("portal TLS", State.FAILED, detail, _mend_tls(error))
        ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
        days = (ends - self._clock()).days
        detail = f"the certificate is to be trusted, and has {days} days left, until {ends:%Y-%m-%d}"
        if days < FEW_DAYS:
            return Step(
                "portal TLS", State.WARNING, detail, "have the portal's operator renew it; then polls will fail"
            )
        return Step("portal TLS", State.OK, detail)

    def _skew(self) -> Step:
        """Compare the clocks by an answer that needs no account, whatever else it says."""
        url, timeout = f"{self._settings.portal_url}/", self._settings.timeout
        try:
            reply = self._try(partial(self._transport.exchange, "GET", url, timeout=timeout, headers=HEADERS))
            skew = (self._clock() - parsedate_to_datetime(reply.headers["Date"])).total_seconds()
        except PortalError as error:
            return Step("portal clock", State.SKIPPED, f"not compared: {error}")
        except (KeyError, ValueError, TypeError):
            return Step("portal clock", State.SKIPPED, "not compared: the portal does not say its time")
        if abs(skew) <= MOST_SKEW:
            return Step("portal clock", State.OK, f"this host's is within {MOST_SKEW} s of the portal's")
        detail = f"this host's is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the portal's"
        return Step(
            "portal clock", State.WARNING, f"{detail}, and cuts the windows", "as root: timedatectl set-ntp true"
        )

    def _endpoints(self) -> Iterator[Step]:
        """Ask each for the first channel; a refusal before any good answer ends it, so that nothing gets locked."""
        settings, channel = self._settings, self._settings.channels[0]
        client = PortalClient.of(settings, self._transport, self._redact)
        window = Window.ending(self._clock(), settings.querytime)
        answers: dict[Question, Answer] = {}
        failures: dict[Question, PortalError] = {}
        seconds = 0.0
        for endpoint, ask in client.methods.items():
            began = monotonic()
            try:
                answer = self._try(partial(ask, channel, window, began + settings.timeout + SLACK))
            except PortalError as error:
                if not answers and is_refusal(error):
                    yield self._refused(error)
                    return
                failures[channel, endpoint] = error
                yield Step(f"portal {endpoint}", State.FAILED, f"channel {channel}: {error}", self._mend(error))
                continue
            if not answers:
                yield Step("portal password", State.OK, f"the portal lets user {settings.user} in")
            answers[channel, endpoint] = answer
            seconds += monotonic() - began
            yield Step(f"portal {endpoint}", State.OK, f"channel {channel} is answered")
        if answers:
            snapshot = Snapshot(window, (channel,), answers, failures, self._clock(), seconds, account_refused=False)
            yield self._load(snapshot)

    def _refused(self, error: PortalError) -> Step:
        user, password, channels = (self._settings.origin(name) for name in ("user", "password", "channels"))
        detail = f"user {self._settings.user}, {error.endpoint} of channel {error.channel}: {error}"
        remedy = (
            f"correct user ({user}) or password ({password}), or what the portal's words are about: the channel "
            f"({channels}), or the right to {error.endpoint}; one try was made, and no more"
        )
        return Step("portal password", State.FAILED, detail, remedy)

    def _mend(self, error: PortalError) -> str:
        match error:
            case Refused():
                return f"ask the portal's operator whether user {self._settings.user} may read this"
            case Overdue():
                return f"give it longer than {self._settings.timeout:g} s: {called('timeout')}"
            case Unreachable() if self._transport.proxy:
                return (
                    f"see the variables https_proxy and no_proxy; if the proxy signs certificates: {called('ca_file')}"
                )
            case Unreachable():
                return "run this again; if it stays, ask the portal's operator"
        return "if it stays, ask the portal's operator, or whoever runs the proxy in between"

    def _load(self, snapshot: Snapshot) -> Step:
        """Reckon from one channel what a poll of all will be."""
        settings, channels = self._settings, len(self._settings.channels)
        samples = [sample for metric in SnapshotCollector(snapshot).collect() for sample in metric.samples]
        of_channel = sum("channel" in sample.labels for sample in samples)
        series, requests = of_channel * channels + len(samples) - of_channel, channels * len(Endpoint)
        detail = f"about {series} series and {requests} requests a poll"
        if settings.interval:
            detail += f", {requests * DAY / settings.interval:.0f} requests a day"
        if snapshot.window.start.date() == snapshot.window.end.date():
            detail += "; more series when the window spans midnight in UTC+8"
        seconds = snapshot.seconds / len(snapshot.answers) * requests / settings.concurrency
        if seconds <= settings.deadline:
            return Step("portal load", State.OK, detail)
        remedy = f"raise {called('concurrency')} or {called('deadline')}, or share the channels by {called('shard')}"
        late = f"; at this pace some {seconds:.0f} s, longer than the deadline of {settings.deadline:g} s"
        return Step("portal load", State.WARNING, detail + late, remedy)


def _mend_tls(error: OSError) -> str:
    code = getattr(error, "verify_code", None)
    if code is None:
        return f"see whether {called('portal_url')} is the address of a TLS server"
    if code in OUT_OF_DATE:
        return "look at this host's clock: timedatectl; if that is right, have the portal's operator renew it"
    if code in OF_ANOTHER_NAME:
        return f"correct the name in {called('portal_url')}"
    return f"name the bundle of the authority that signed it: {called('ca_file')}"
