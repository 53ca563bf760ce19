"""Logging to standard error: one line an event, as text or JSON, without secrets."""

import json
import logging
import os
import sys
import threading
import traceback
from datetime import UTC, datetime
from types import TracebackType

from cc_textfile.redaction import Redactor

FIELDS = ("channel", "endpoint", "reason", "channels", "requests", "failed", "series", "seconds")
"""What a JSON line holds beside level and message, where the event has it (`extra=`)."""


def configure(level: str, form: str, redact: Redactor) -> None:
    """Log from this level on, in this form (`text` or `json`), through the redactor; bugs, too, go through it."""
    # journald has timestamps of its own.
    timestamps = "JOURNAL_STREAM" not in os.environ
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter((_Json if form == "json" else _Text)(redact, timestamps=timestamps))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)

    def bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = bug
    threading.excepthook = lambda args: bug(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)


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
        line |= {"level": record.levelname.lower(), "message": logging.Formatter.format(self, record)}
        line |= {name: record.__dict__[name] for name in FIELDS if name in record.__dict__}
        return self._redact(json.dumps(line, ensure_ascii=False))


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).astimezone().isoformat(timespec="milliseconds")
