"""Where the numbers go: the text file, the Pushgateway, or both."""

import logging
from contextlib import AbstractContextManager, nullcontext

from prometheus_client import CollectorRegistry

from cc_textfile.errors import OutputError
from cc_textfile.logs import Redactor
from cc_textfile.output.pushgateway import Pushgateway
from cc_textfile.output.textfile import Textfile
from cc_textfile.settings import Settings

log = logging.getLogger(__name__)


class Output:
    """The outputs of the settings, of which there is at least one."""

    def __init__(self, settings: Settings, redactor: Redactor) -> None:
        self._outputs: list[Textfile | Pushgateway] = []
        if settings.textfile:
            self._outputs.append(Textfile(settings.textfile))
        if settings.pushgateway:
            self._outputs.append(Pushgateway(settings, redactor))
        self._always = settings.pushgateway_mode == "always"

    def locked(self) -> AbstractContextManager[None]:
        """Return a context in which no other process writes the text file; raises `OutputError` if one does already.

        A Pushgateway needs no lock: the last push wins.
        """
        first = self._outputs[0]
        return first.locked() if isinstance(first, Textfile) else nullcontext()

    def deliver(self, registry: CollectorRegistry) -> str:
        """Deliver what the registry has and return where it went, in words. Raises `OutputError`.

        Of two outputs, one that fails does not stop the other; the second is for that case, unless `always` is set.
        """
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
