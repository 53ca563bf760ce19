"""A Pushgateway's group for the job; each push replaces the whole group (PUT), so that a series that is gone goes."""

import base64
from collections.abc import Sequence
from functools import partial
from urllib.parse import unquote, urlsplit

from prometheus_client import CollectorRegistry, push_to_gateway

from cc_textfile.errors import OutputError, RequestError
from cc_textfile.logs import Redactor
from cc_textfile.portal.transport import Reply, Transport
from cc_textfile.settings import Settings
from cc_textfile.workers import within

JOB = "ChinaCachePush"
"""The job under which the older exporter pushed; queries depend on it."""

GOOD_STATUSES = range(200, 300)


class Pushgateway:
    """The gateway of the settings; `url` is without user and password, `grouping_key` is what is added to the job.

    Accounts and shards have groups of their own: in one group, the last push would replace the others.
    """

    def __init__(self, settings: Settings, redactor: Redactor) -> None:
        self.url, self._authorization = without_credentials(settings.pushgateway or "", redactor)
        self.grouping_key = {"account": settings.account} if settings.account_given else {}
        if settings.shard:
            self.grouping_key["instance"] = f"shard-{settings.shard.number}-of-{settings.shard.total}"
        self._host = urlsplit(self.url).netloc
        self._timeout = settings.timeout
        self._redactor = redactor
        self._transport = Transport(self.url, redactor)

    def deliver(self, registry: CollectorRegistry) -> str:
        """Push within the timeout and return where, in words. Raises `OutputError`."""
        push_to_gateway(self.url, JOB, registry, self.grouping_key, handler=lambda **push: partial(self._send, **push))
        return f"pushed to {self._host}"

    def try_push(self) -> None:
        """Ask whether it is ready, on the way that a push goes. Raises `OutputError`."""
        self._send(f"{self.url}/-/ready", "GET")

    def _send(
        self, url: str, method: str, headers: Sequence[tuple[str, str]] = (), data: bytes | None = None, **_: object
    ) -> None:
        fields = dict(headers) | self._authorization
        exchange = partial(self._transport.exchange, method, url, self._accepted, headers=fields, body=data)
        try:
            within(self._timeout, partial(exchange, timeout=self._timeout))
        except RequestError as error:
            raise OutputError(f"the Pushgateway cannot be used: {error}") from None
        finally:
            self._transport.close()

    def _accepted(self, reply: Reply) -> None:
        if reply.status not in GOOD_STATUSES:
            reason = self._redactor.quote(reply.body.decode(errors="replace")) or "no reason given"
            raise OutputError(f"the Pushgateway at {self._host} responds with status {reply.status}: {reason}")


def without_credentials(url: str, redactor: Redactor) -> tuple[str, dict[str, str]]:
    """Return an address without the user and password in it, and the headers that hold them instead."""
    place = urlsplit(url)
    bare = place._replace(netloc=place.netloc.rpartition("@")[2]).geturl()
    user, password = unquote(place.username or ""), unquote(place.password or "")
    if not user and not password:
        return bare, {}
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    redactor.add(token, password or user)  # a user alone may be a token
    return bare, {"Authorization": f"Basic {token}"}
