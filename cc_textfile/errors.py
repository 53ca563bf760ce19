"""Everything that can go wrong, as one tree.

    CcTextfileError
    ├── SettingsError          flags, variables or files that a run cannot begin with
    ├── RequestError           one HTTP request, as a rule of one channel and method
    │   ├── Unreachable        no connection, a broken one, or one that is not trusted
    │   ├── BadStatus          an HTTP status other than 200
    │   ├── Refused            the response's own `code` or `success` is not good
    │   ├── Malformed          a response that cannot be read
    │   └── RequestTimeout     no response within the timeout or the deadline
    ├── OutputError            the numbers could not be delivered
    └── LedgerError            the ledger could not be read or written

No message holds a password: foreign text in it went through `logs.Redactor`. Anything outside of this tree is a bug.
"""

from typing import ClassVar


class CcTextfileError(Exception):
    """Base of all errors that the program names and handles; `remedy` is what to do, where `fault` does not say it."""

    def __init__(self, fault: str, remedy: str = "") -> None:
        super().__init__(f"{fault} ({remedy})" if remedy else fault)
        self.fault, self.remedy = fault, remedy


class SettingsError(CcTextfileError):
    """All faults of the settings, one sentence each."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class RequestError(CcTextfileError):
    """A request that brought no numbers; `reason` is its label in `cc_textfile_poll_failures`.

    `retry_after` is in how many seconds another try may help, None where none may. `poll` adds channel and method.
    """

    reason: ClassVar[str]
    retry_after: float | None = None

    def __init__(self, message: str, *, channel: str = "", method: str = "") -> None:
        super().__init__(message)
        self.channel = channel
        self.method = method


class Unreachable(RequestError):
    """No usable connection."""

    reason = "unreachable"
    retry_after: float | None = 0.0


class BadStatus(RequestError):
    """An HTTP status other than 200."""

    reason = "status"

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Refused(RequestError):
    """The portal understood the request and refused it."""

    reason = "refused"


class Malformed(RequestError):
    """Bytes that are not a response of the method."""

    reason = "malformed"


class RequestTimeout(RequestError):
    """No response within the timeout of a request or the deadline of a poll."""

    reason = "timeout"


REASONS = tuple(kind.reason for kind in (Unreachable, BadStatus, Refused, Malformed, RequestTimeout))


class OutputError(CcTextfileError):
    """A delivery that failed, or a text file that another process has locked."""


class LedgerError(CcTextfileError):
    """A ledger that cannot be used; the message says what to do."""
