"""A Pushgateway's group for the job; each push replaces the whole group (PUT), so that a series that is gone goes."""

import base64
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, push_to_gateway
from requests.utils import get_auth_from_url

from cc_textfile.errors import OutputError, RequestError
from cc_textfile.logs import Redactor
from cc_textfile.portal.transport import Transport
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
        self._transport = Transport(self.url)

    def locked(self) -> AbstractContextManager[None]:
        """Lock nothing: the last push wins."""
        return nullcontext()

    def deliver(self, registry: CollectorRegistry) -> str:
        """Push within the timeout and return where, in words. Raises `OutputError`."""

        def push() -> None:
            push_to_gateway(self.url, JOB, registry, self.grouping_key, handler=self._handler)

        try:
            within(self._timeout, push)
        except RequestError as error:
            message = f"the push to the Pushgateway failed: {error}"
            raise OutputError(message) from None
        finally:
            self._transport.close()
        return f"pushed to {self._host}"

    def _handler(
        self, url: str, method: str, timeout: float | None, headers: list[tuple[str, str]], data: bytes
    ) -> Callable[[], None]:
        del timeout  # the settings' one bounds the whole push

        def send() -> None:
            fields = {**dict(headers), **self._authorization}
            reply = self._transport.exchange(
                method, url, lambda reply: reply, timeout=self._timeout, headers=fields, body=data
            )
            if reply.status not in GOOD_STATUSES:
                reason = self._redactor.quote(reply.body.decode(errors="replace")) or "no reason given"
                message = f"the Pushgateway at {self._host} refused the push with status {reply.status}: {reason}"
                raise OutputError(message)

        return send


def without_credentials(url: str, redactor: Redactor) -> tuple[str, dict[str, str]]:
    """Return an address without the user and password in it, and the headers that hold them instead."""
    user, password = get_auth_from_url(url)
    place = urlsplit(url)
    bare = place._replace(netloc=place.netloc.rpartition("@")[2]).geturl()
    if not user and not password:
        return bare, {}
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    redactor.add(token, password)
    return bare, {"Authorization": f"Basic {token}"}
