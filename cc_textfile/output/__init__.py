"""Where the numbers go: the text file, the Pushgateway, or both."""

import logging
from contextlib import AbstractContextManager
from typing import Protocol

from prometheus_client import CollectorRegistry

from cc_textfile.errors import OutputError
from cc_textfile.logs import Redactor
from cc_textfile.output.pushgateway import Pushgateway
from cc_textfile.output.textfile import Textfile
from cc_textfile.settings import Settings

log = logging.getLogger(__name__)


class Output(Protocol):
    """A place to deliver to."""

    def locked(self) -> AbstractContextManager[None]:
        """Return a context in which no other process delivers here; raises `OutputError` if one does already."""

    def deliver(self, registry: CollectorRegistry) -> str:
        """Deliver what the registry has and return where it went, in words; raises `OutputError`."""


class Fallback:
    """The second output when the first fails."""

    def __init__(self, first: Output, second: Output) -> None:
        self._first = first
        self._second = second

    def locked(self) -> AbstractContextManager[None]:
        """Lock the first."""
        return self._first.locked()

    def deliver(self, registry: CollectorRegistry) -> str:
        """Deliver to one of the two."""
        try:
            return self._first.deliver(registry)
        except OutputError as error:
            log.error("%s", error)  # noqa: TRY400 # the message is complete; a traceback is for bugs
        return self._second.deliver(registry) + " instead"


class Both:
    """Two outputs, in this order; one that fails does not stop the other."""

    def __init__(self, first: Output, second: Output) -> None:
        self._outputs = (first, second)

    def locked(self) -> AbstractContextManager[None]:
        """Lock the first."""
        return self._outputs[0].locked()

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


def output_of(settings: Settings, redactor: Redactor) -> Output:
    """Return the output of the settings, which have at least one."""
    if not settings.textfile:
        return Pushgateway(settings, redactor)
    textfile = Textfile(settings.textfile)
    if not settings.pushgateway:
        return textfile
    both = Both if settings.pushgateway_mode == "always" else Fallback
    return both(textfile, Pushgateway(settings, redactor))
