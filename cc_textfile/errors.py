"""Everything that can go wrong, as one tree.

    CcTextfileError
    ├── SettingsError          flags, variables or files that a run can't begin with
    ├── PortalError            one request to the portal, of one channel and endpoint
    │   ├── Unreachable        no connection, a broken one, or one that can't be trusted
    │   ├── BadStatus          an HTTP status other than 200
    │   ├── Refused            the answer's own `code` or `success` says no
    │   ├── Malformed          an answer that can't be read
    │   └── Overdue            not answered within the timeout or the deadline
    └── OutputError            the numbers could not be delivered

A message says what is wrong and where, and never holds a password: it is made of words of our own and
of foreign words that went through `redaction`. Anything outside of this tree is a bug.
"""

from typing import ClassVar


class CcTextfileError(Exception):
    """What the program names and handles."""


class SettingsError(CcTextfileError):
    """All that is wrong with the settings, one sentence a fault."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class PortalError(CcTextfileError):
    """A request that brought no numbers; `reason` is its label in `cc_textfile_failures`."""

    reason: ClassVar[str]

    def __init__(self, message: str, *, channel: str = "", endpoint: str = "") -> None:
        super().__init__(message)
        self.channel = channel
        self.endpoint = endpoint


class Unreachable(PortalError):
    """No usable connection. `transient` ones are worth another try; a certificate that is not trusted is not."""

    reason = "unreachable"

    def __init__(self, message: str, *, transient: bool = True) -> None:
        super().__init__(message)
        self.transient = transient


class BadStatus(PortalError):
    """An HTTP status other than 200."""

    reason = "status"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Refused(PortalError):
    """The portal understood, and said no; or was not `asked`, because it said no to others."""

    reason = "refused"

    def __init__(self, message: str, *, channel: str = "", endpoint: str = "", asked: bool = True) -> None:
        super().__init__(message, channel=channel, endpoint=endpoint)
        self.asked = asked


class Malformed(PortalError):
    """Bytes that are not the answer that the endpoint gives."""

    reason = "malformed"


class Overdue(PortalError):
    """Late, as far as this poll is concerned."""

    reason = "overdue"


REASONS = tuple(kind.reason for kind in (Unreachable, BadStatus, Refused, Malformed, Overdue))


class OutputError(CcTextfileError):
    """A delivery that failed, or a text file that another process holds."""
