"""Where the numbers go: the text file, the Pushgateway, or both, behind one Protocol."""

import base64
import errno
import hashlib
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Protocol, cast
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, push_to_gateway, write_to_textfile
from prometheus_client.openmetrics.exposition import UNDERSCORES
from requests.utils import get_auth_from_url

from cc_textfile.errors import OutputError, PortalError
from cc_textfile.redaction import Redactor
from cc_textfile.settings import Settings
from cc_textfile.transport import MAX_BODY_BYTES, Reply, Transport
from cc_textfile.values import Shard

JOB = "ChinaCachePush"
"""The job under which the older exporter pushed; dashboards ask for it."""

GOOD_STATUSES = range(200, 300)

FILE_MODE = 0o644
"""node_exporter runs as a user of its own, and a file that it can't read is an error for the whole folder."""

HIDDEN = "a process of another namespace"
"""Who holds a file when /proc does not tell."""

log = logging.getLogger(__name__)


def real_place(path: Path) -> str:
    """Return where a file is, links to its folder followed; not its own, in whose place the file is put."""
    return os.path.realpath(path.parent) + "/" + path.name


class Output(Protocol):
    """Somewhere to deliver to."""

    def held(self) -> AbstractContextManager[None]:
        """Return a context in which no other process delivers here; raises `OutputError` if one does already."""

    def deliver(self, registry: CollectorRegistry) -> str:
        """Deliver what the registry holds and return where it went, in words; raises `OutputError`."""


class Textfile:
    """A `.prom` file in the folder of node_exporter's textfile collector, replaced whole or not at all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # node_exporter reads what ends in .prom, and this does not.
        self._draft = path.with_name(f".{path.name}.cc-textfile")
        self._name = "cc_textfile/" + hashlib.sha256(os.fsencode(real_place(path))).hexdigest()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the file against a second instance, and sweep what a killed one left.

        The lock is a socket's name in Linux's abstract namespace: it is nowhere in the file system, works in a
        read-only one, and is gone with the process however that ends. A second name tells which process it is.
        """
        with socket.socket(socket.AF_UNIX) as lock, socket.socket(socket.AF_UNIX) as holder:
            try:
                lock.bind(f"\0{self._name}")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:  # pragma: no cover # no other is known to come of a name like this
                    raise
                message = (
                    f"{self._path} is being written by another cc-textfile, {self.holder() or HIDDEN}: "
                    "stop that one, or give this one another --textfile"
                )
                raise OutputError(message) from None
            holder.bind(f"\0{self._name}.{os.getpid()}")
            self._sweep()
            yield

    def holder(self) -> str | None:
        """Return which process holds the file, in words, as far as /proc tells; takes no hold itself."""
        with suppress(OSError):
            for line in Path("/proc/net/unix").read_text(errors="replace").splitlines():
                _, found, process = line.partition(f"@{self._name}.")
                if found and process.isdecimal():
                    return f"process {process}"
        return None

    def drafts(self) -> list[Path]:
        """Return the drafts of this file, which only who holds it may have made; raises `OSError`."""
        ours = re.compile(re.escape(self._draft.name) + r"(\.\d+\.\d+)?")
        return [Path(entry.path) for entry in os.scandir(self._path.parent) if ours.fullmatch(entry.name)]

    def spare_draft(self, number: int) -> Path:
        """Return a name beside the file that nobody uses, and that is swept like any draft."""
        return self._draft.with_name(f"{self._draft.name}.{os.getpid()}.{number}")

    def deliver(self, registry: CollectorRegistry) -> str:
        """Write the file; on any failure the old one stays as it was."""
        try:
            # Our names are of the old character set, so any escaping makes the same text; this one is a tenth quicker.
            write_to_textfile(str(self._draft), registry, escaping=UNDERSCORES)
            self._draft.chmod(FILE_MODE)
            # Without this, a power cut after the rename may leave an empty file under the name.
            with self._draft.open("rb") as draft:
                os.fsync(draft.fileno())
            self._draft.replace(self._path)
        except OSError as error:
            message = f"{self._path} cannot be written: {error.strerror}{_advice(error, self._path.parent)}"
            raise OutputError(message) from error
        finally:
            # Also when interrupted: write_to_textfile cleans up after an Exception alone.
            self._sweep()
        return f"wrote {self._path}"

    def _sweep(self) -> None:
        with suppress(OSError):
            for draft in self.drafts():
                draft.unlink()


def _advice(error: OSError, folder: Path) -> str:
    match error.errno:
        case errno.ENOENT:
            return f" (the folder {folder} is missing: create it, or correct --textfile)"
        case errno.EACCES | errno.EPERM:
            return f" (user {os.geteuid()} needs to write, and to replace its own files, in {folder})"
        case errno.ENOSPC | errno.EDQUOT:
            return f" (make room on the file system of {folder})"
        case errno.EROFS:
            return f" (the file system of {folder} is read-only; under systemd, see ReadWritePaths=)"
        case errno.ENAMETOOLONG:
            return " (the draft beside it has a name 40 characters longer: give --textfile a shorter one)"
    return ""


class Pushgateway:
    """A Pushgateway's group for the job; each push replaces it whole (PUT), so that a series that is gone goes.

    Shards have a group each, told apart by `instance`: in one group the last of them would replace the others.
    `url` is without the account that may be in it, and `grouping_key` what the group has beside its job.
    """

    def __init__(self, url: str, *, shard: Shard | None, timeout: float, redact: Redactor) -> None:
        self.url, self._authorization = without_account(url, redact)
        self.grouping_key = {"instance": f"shard-{shard.number}-of-{shard.total}"} if shard else {}
        self._host = urlsplit(self.url).netloc
        self._timeout = timeout
        self._redact = redact
        self._transport = Transport(self.url)

    def held(self) -> AbstractContextManager[None]:
        """Hold nothing: the last push wins."""
        return nullcontext()

    def deliver(self, registry: CollectorRegistry) -> str:
        """Push, within the timeout."""
        push_to_gateway(self.url, JOB, registry, self.grouping_key, timeout=self._timeout, handler=self._handler)
        return f"pushed to {self._host}"

    def get(self, path: str, *, most: int = MAX_BODY_BYTES) -> Reply:
        """Return what the Pushgateway says at a path, in so many bytes at the most; raises `PortalError`."""
        try:
            return self._transport.exchange(
                "GET", self.url + path, timeout=self._timeout, headers=self._authorization, most=most
            )
        finally:
            self._transport.close()

    def _handler(
        self, url: str, method: str, timeout: float | None, headers: list[tuple[str, str]], data: bytes
    ) -> Callable[[], None]:
        def push() -> None:
            try:
                reply = self._transport.exchange(
                    method,
                    url,
                    timeout=timeout or self._timeout,
                    headers={**dict(headers), **self._authorization},
                    body=data,
                )
            except PortalError as error:
                message = f"the Pushgateway took no push: {error}"
                raise OutputError(message) from None
            finally:
                self._transport.close()
            if reply.status not in GOOD_STATUSES:
                reason = self._redact.quote(reply.body.decode(errors="replace"))
                message = f"the Pushgateway at {self._host} answered {reply.status}: {reason or 'no reason given'}"
                raise OutputError(message)

        return push


def without_account(url: str, redact: Redactor) -> tuple[str, dict[str, str]]:
    """Return an address without the user and password in it, and the headers that hold them instead."""
    user, password = get_auth_from_url(url)
    place = urlsplit(url)
    bare = place._replace(netloc=place.netloc.rpartition("@")[2]).geturl()
    if not user and not password:
        return bare, {}
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    redact.add(token, password)
    return bare, {"Authorization": f"Basic {token}"}


class Fallback:
    """The second output when the first fails."""

    def __init__(self, first: Output, second: Output) -> None:
        self._first = first
        self._second = second

    def held(self) -> AbstractContextManager[None]:
        """Hold the first."""
        return self._first.held()

    def deliver(self, registry: CollectorRegistry) -> str:
        """Deliver to one of the two."""
        try:
            return self._first.deliver(registry)
        except OutputError as error:
            log.error("%s", error)  # noqa: TRY400 # the message says it all; a traceback is for bugs
        return self._second.deliver(registry) + " instead"


class Both:
    """Two outputs, in this order; one that fails does not keep the other from its turn."""

    def __init__(self, first: Output, second: Output) -> None:
        self._outputs = (first, second)

    def held(self) -> AbstractContextManager[None]:
        """Hold the first."""
        return self._outputs[0].held()

    def deliver(self, registry: CollectorRegistry) -> str:
        """Deliver to each that can be delivered to."""
        delivered, errors = [], []
        for output in self._outputs:
            try:
                delivered.append(output.deliver(registry))
            except OutputError as error:
                errors.append(str(error))
        if not delivered:
            raise OutputError("; ".join(errors))
        for message in errors:
            log.error("%s", message)
        return " and ".join(delivered)


def output_of(settings: Settings, redact: Redactor) -> Output:
    """Return the output that the settings ask for."""
    textfile = Textfile(settings.textfile) if settings.textfile else None
    gateway = (
        Pushgateway(settings.pushgateway, shard=settings.shard, timeout=settings.timeout, redact=redact)
        if settings.pushgateway
        else None
    )
    if textfile and gateway:
        return (Both if settings.pushgateway_mode == "always" else Fallback)(textfile, gateway)
    return textfile or cast("Output", gateway)  # `Settings.load` sees to it that there is one
