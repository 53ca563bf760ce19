"""Logging to standard error: one line an event, as text or JSON, without secrets."""

import json
import logging
import os
import sys
import threading
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

from cc_textfile.redaction import Redactor

FIELDS = ("channel", "endpoint", "reason", "channels", "requests", "failed", "series", "seconds")
"""What a JSON line holds beside level and message, where the event has it (`extra=`)."""


def configure(level: str, form: str, redact: Redactor) -> None:
    """Log from this level on, in this form (`text` or `json`), through the redactor; bugs, too, go through it."""
    # journald has timestamps of its own.
    timestamps = "JOURNAL_STREAM" not in os.environ
    handler = _Handler(sys.stderr)
    handler.setFormatter((_Json if form == "json" else _Text)(redact, timestamps=timestamps))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)

    def bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        with suppress(OSError, AttributeError):  # standard error is gone, or never was
            sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = bug
    threading.excepthook = lambda args: bug(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)
    sys.unraisablehook = lambda args: bug(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)


class _Handler(logging.StreamHandler[TextIO]):
    def handleError(self, _record: logging.LogRecord) -> None:  # noqa: N802 # as logging has it
        """Tell of a line that cannot be written as of any bug: logging would write out what it was to hold."""
        sys.excepthook(*sys.exc_info())


class _Text(logging.Formatter):
    def __init__(self, redact: Redactor, *, timestamps: bool) -> None:
        super().__init__()
        self._redact = redact
        self._timestamps = timestamps

    def format(self, record: logging.LogRecord) -> str:
        time = f"{_time(record)} " if self._timestamps else ""
        return self._redact(f"{time}{record.levelname.lower()}: {super().format(record)}")


class _Json(_Text):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time(record)} if self._timestamps else {}
        # Each value by itself: a password such as `3` or `": "` would take the line apart.
        line |= {"level": record.levelname.lower(), "message": self._redact(logging.Formatter.format(self, record))}
        values = {name: record.__dict__[name] for name in FIELDS if name in record.__dict__}
        line |= {name: self._redact(value) if isinstance(value, str) else value for name, value in values.items()}
        return json.dumps(line, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).astimezone().isoformat(timespec="milliseconds")
