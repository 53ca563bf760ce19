"""Log lines on standard error, as text or JSON, the redaction of secrets, and words on standard output."""

import base64
import json
import logging
import os
import re
import sys
import threading
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from types import TracebackType
from urllib.parse import quote, quote_plus

import click

from cc_textfile.errors import CcTextfileError, OutputError
from cc_textfile.workers import Workers

MASK = "***"
MAX_QUOTED = 200
"""Characters of foreign text that a message quotes."""

MIN_SECRET = 4
"""Characters; a shorter secret is part of too many words to be replaced."""

WRITE_SECONDS = 0.5
"""How long a text waits for a reader of standard error; those after it do not wait, and are dropped."""

_UNENCODED = ("", "/", "!'()*", "!#$&'()*+,/:;=?@", "!$%&()*+,/:;=?@[]\\^`{|}~")
"""What is left as it is by Python, JavaScript's encodeURIComponent and encodeURI, and by browsers in a query."""

_PASSWORD_IN_QUERY = re.compile(r"\b((?:apiPasswd|api_key)=)[^&\s]*")
"""Where the query of a request has the password: a server may repeat a part of it."""

FIELDS = ("channel", "method", "reason", "channels", "requests", "failed", "series", "seconds")
"""What a JSON line has beside level and message, where the event has it (`extra=`)."""

PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""The journal's priorities (sd-daemon(3))."""


class Redactor:
    """Replaces secrets in foreign text by `***`: in clear, percent-encoded, escaped (JSON, Python), in base64."""

    def __init__(self, *secrets: str) -> None:
        self._forms: list[str] = []
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Learn further secrets."""
        forms = {form for secret in secrets for form in _forms(secret)} | set(self._forms)
        self._forms = sorted((form for form in forms if len(form) >= MIN_SECRET), key=len, reverse=True)

    def redact(self, text: str) -> str:
        """Return the text without the secrets."""
        for form in self._forms:
            text = text.replace(form, MASK)
        return text

    def quote(self, foreign: str) -> str:
        """Return foreign text fit for a log line: redacted, printable, on one line, at most 200 characters."""
        line = _PASSWORD_IN_QUERY.sub(rf"\1{MASK}", self.redact(_one_line(foreign)))
        line = self._without_part(line)
        return line if len(line) <= MAX_QUOTED else line[:MAX_QUOTED] + "…"

    def _without_part(self, line: str) -> str:
        """Return the line without the larger part of a secret at its end, where a server has cut it off."""
        words = line.rstrip(" .…\"')]}")
        for form in self._forms:
            for length in range(len(form) - 1, max(MIN_SECRET, len(form) // 2) - 1, -1):
                if words.endswith(form[:length]):
                    return words[:-length] + MASK + line[len(words) :]
        return line


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _forms(secret: str) -> set[str]:
    """Return what a secret looks like when a server, or an error message, repeats it."""
    encoded = {quote(secret, safe=safe) for safe in _UNENCODED}
    encoded |= {quote_plus(secret), quote_plus(secret, safe="*").replace("~", "%7E")}
    # A URL inside of a URL is encoded twice.
    encoded |= {quote(form, safe="") for form in encoded}
    lower = {re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), form) for form in encoded}
    escaped = {text[1:-1] for text in (json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret))}
    # Go escapes three characters in JSON, Gson two more, and PHP slashes.
    for characters in ("[&<>]", "[&<>=']"):
        escaped |= {re.sub(characters, lambda match: f"\\u{ord(match[0]):04x}", text) for text in escaped}
    escaped |= {text.replace("/", "\\/") for text in escaped}
    in_base64 = base64.b64encode(secret.encode()).decode()
    forms = {secret, secret.replace("+", " "), *encoded, *lower, *escaped, in_base64}
    return forms | {_one_line(form) for form in forms}


def in_journal() -> bool:
    """Tell whether standard error leads to the journal; the variable alone is inherited (systemd.exec(5))."""
    with suppress(OSError):
        status = os.fstat(2)
        return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
    return False


def configure(level: str, form: str, redactor: Redactor) -> None:
    """Log from this level on, in this form (`text` or `json`); tracebacks of bugs are redacted."""
    # The journal has timestamps of its own, and takes priorities.
    journal = in_journal()
    handler = _Handler()
    handler.setFormatter((_Json if form == "json" else _Text)(journal=journal))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)

    def bug(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace)).rstrip()
        logging.getLogger(__name__).critical("%s", redactor.redact(text))

    sys.excepthook = bug
    threading.excepthook = lambda args: bug(args.exc_type, args.exc_value, args.exc_traceback)
    sys.unraisablehook = lambda args: bug(args.exc_type, args.exc_value, args.exc_traceback)


class _Stderr:
    """Standard error, written while it is read; what is to be written while it is not is dropped."""

    def __init__(self) -> None:
        self._writer: Workers | None = None

    def write(self, text: str) -> None:
        """Write the text, and wait for half a second at most."""
        if self._writer and not self._writer.wait(0):  # an earlier text still waits
            return
        write = partial(_write, text)
        if sys.is_finalizing():  # pragma: no cover # no thread starts any more, nor is coverage recorded
            write()
            return
        try:
            # A full pipe or a stopped terminal blocks its writer for ever, even where a part of the text fits.
            self._writer = Workers(write)
            self._writer.wait(WRITE_SECONDS)
        except CcTextfileError:  # the host gives no thread, which the text may be about
            write()


STDERR = _Stderr()
"""That of this process."""


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        STDERR.write(f"{self.format(record)}\n")


def complain(text: str) -> None:
    """Write a line on standard error, however long that takes."""
    _write(f"{text}\n")


def _write(text: str) -> None:
    # Where it is closed, or cannot be written, no other place could tell of it.
    if sys.stderr is not None:
        with suppress(OSError):  # Python's own streams would try again at the end, and make that the exit status
            os.write(2, text.encode(errors="backslashreplace"))


class _Text(logging.Formatter):
    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = self._text(record)
        if not self._journal:
            return text
        return "\n".join(f"<{PRIORITIES[record.levelno]}>{line}" for line in text.splitlines())

    def _text(self, record: logging.LogRecord) -> str:
        time = "" if self._journal else f"{_time(record)} "
        return f"{time}{record.levelname.lower()}: {record.getMessage()}"


class _Json(_Text):
    def _text(self, record: logging.LogRecord) -> str:
        line = {} if self._journal else {"time": _time(record)}
        line |= {"level": record.levelname.lower(), "message": record.getMessage()}
        line |= {name: record.__dict__[name] for name in FIELDS if name in record.__dict__}
        return json.dumps(line, ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    # In UTC: an impossible TZ must not cost the line.
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def say(text: str) -> None:
    """Write text on standard output, as far as its encoding has the characters; raises `OutputError`."""
    encoding = sys.stdout.encoding if sys.stdout else "utf-8"
    colour = False if os.environ.get("NO_COLOR") else None
    try:
        click.echo(text.encode(encoding, "backslashreplace").decode(encoding), color=colour)
    except OSError as error:
        # Python would try again at its end, and make that the exit status.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise OutputError(f"standard output cannot be written: {error.strerror}") from None
