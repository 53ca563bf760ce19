"""One step of `cc-textfile check`."""

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """The result of a step; only `FAILED` means that a poll would not succeed."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


OK, WARNING, FAILED, SKIPPED = State


class Step(NamedTuple):
    """What was checked, the result, what was seen, and how to fix it where that is needed."""

    step: str
    state: State
    detail: str
    remedy: str = ""
