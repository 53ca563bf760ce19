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


class Both:
    """Two outputs. The second is for when the first fails, or, if `always`, for every delivery."""

    def __init__(self, first: Output, second: Output, *, always: bool) -> None:
        self._outputs = (first, second)
        self._always = always

    def locked(self) -> AbstractContextManager[None]:
        """Lock the first."""
        return self._outputs[0].locked()

    def deliver(self, registry: CollectorRegistry) -> str:
        """Deliver to one of the two, or to both; one that fails does not stop the other."""
        delivered, errors = [], []
        for output in self._outputs:
            try:
                delivered.append(output.deliver(registry))
            except OutputError as error:
                errors.append(str(error))
            if delivered and not self._always:
                break
        if not delivered:
            raise OutputError("; ".join(errors))
        for message in errors:
            log.error("%s", message)
        return " and ".join(delivered) + (" instead" if errors and not self._always else "")


def output_of(settings: Settings, redactor: Redactor) -> Output:
    """Return the output of the settings, which have at least one."""
    outputs: list[Output] = []
    if settings.textfile:
        outputs.append(Textfile(settings.textfile))
    if settings.pushgateway:
        outputs.append(Pushgateway(settings, redactor))
    return Both(*outputs, always=settings.pushgateway_mode == "always") if len(outputs) > 1 else outputs[0]
