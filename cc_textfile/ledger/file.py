"""The SQLite file of a ledger: its tables, how it is opened, and what is wrong with it, in words.

A file that is damaged, or that is not a ledger, is never written to.
"""

import errno
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import NamedTuple

from cc_textfile.errors import LedgerError
from cc_textfile.portal.window import PORTAL_ZONE
from cc_textfile.remedies import os_errors_as, remedy, user

APPLICATION_ID = 0x63635F74  # "cc_t": tells a ledger from another program's SQLite file
SCHEMA_VERSION = 1
READER_WAIT = 5.0
"""Seconds that a commit waits for readers, and a reader for a commit."""

_FOREIGN = "it is not a ledger of cc-textfile. It was left as it is. Give --ledger the path of another file"
_DAMAGED = "It was left as it is. Put a backup in its place, or move it away to begin a new one, with all counters at 0"

_UNFINISHED = "a backfill into it is not finished. Run `cc-textfile backfill` again, or delete it to begin with a poll"

_SCHEMA = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
    "CREATE TABLE ledger (created INTEGER NOT NULL, clock_ahead INTEGER NOT NULL)",
    # `figures` is {"traffic": [sum, shown], …}, `codes` the same by status code.
    """CREATE TABLE channels (
        channel TEXT PRIMARY KEY, started INTEGER NOT NULL, first_code_day INTEGER NOT NULL,
        settled_end INTEGER NOT NULL, settled_seconds INTEGER NOT NULL, lost_seconds INTEGER NOT NULL,
        figures TEXT NOT NULL, codes TEXT NOT NULL) WITHOUT ROWID""",
    # The rows of one day lie side by side, so that a poll touches as many pages in the third month as on the first day.
    # `codes` is {"200": 9120}; `baseline`, on a channel's first day, what the portal had counted before.
    """CREATE TABLE days (
        day INTEGER, channel TEXT, seconds INTEGER NOT NULL, traffic INTEGER, hits INTEGER, misses INTEGER,
        codes TEXT NOT NULL, baseline TEXT NOT NULL, closed INTEGER NOT NULL,
        PRIMARY KEY (day, channel)) WITHOUT ROWID""",
    "CREATE TABLE closes (day INTEGER, channel TEXT, method TEXT, PRIMARY KEY (day, channel, method)) WITHOUT ROWID",
    # The last day that was closed by each method. `rows` are lists of [name, flux ratio, hits, hit ratio].
    """CREATE TABLE closed (
        channel TEXT, method TEXT, day INTEGER NOT NULL, traffic INTEGER, rows TEXT NOT NULL,
        PRIMARY KEY (channel, method))""",
)


class Day(NamedTuple):
    """What is recorded of one day of one channel; what was not asked is None."""

    day: date
    channel: str
    traffic_bytes: int | None
    hits: int | None
    misses: int | None
    responses: Mapping[str, int]
    closed: bool


def days(path: Path, *, since: date) -> list[Day]:
    """Return what is recorded of each day from `since` on, by day and channel; only reads. Raises `LedgerError`."""
    first = int(datetime.combine(since, datetime.min.time(), PORTAL_ZONE).timestamp())
    query = "SELECT day, channel, traffic, hits, misses, codes, closed FROM days WHERE day >= ? ORDER BY day, channel"
    with explained(path), closing(_connect(path, "ro", wait=READER_WAIT)) as db:
        found = []
        db.execute("BEGIN")
        for day, name, *figures, codes, closed in db.execute(query, (first,)) if has_ledger(db, path) else ():
            with decoding():
                traffic, hits, misses = map(number, figures)
                counts = {code: whole(count) for code, count in json.loads(codes).items()}
                found.append(Day(moment(day).date(), text(name), traffic, hits, misses, counts, bool(closed)))
        return found


def examine(path: Path) -> None:
    """Raise `LedgerError` if a poll could not read the file; undoes what a killed poll had begun to write."""
    with explained(path), closing(_connect(path, "rw", wait=READER_WAIT)) as db:
        db.execute("BEGIN")
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0] if has_ledger(db, path) else "ok"
        if found != "ok":
            raise sqlite3.DatabaseError(found)


@contextmanager
def opened_for_poll(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a ledger, or make its file, begin a transaction that no other process can begin, and close it in the end."""
    try_write(path)
    with closing(_connect(path, "rwc")) as db:
        # EXTRA is FULL, and the folder as well: a journal that came back after a power loss would undo the commit.
        db.execute("PRAGMA synchronous = EXTRA")
        db.execute("BEGIN IMMEDIATE")
        db.execute(f"PRAGMA busy_timeout = {READER_WAIT * 1000:.0f}")
        yield db


def create(db: sqlite3.Connection, created: int) -> None:
    """Make the tables in an empty file, in the transaction of its first poll."""
    for statement in _SCHEMA:
        db.execute(statement)
    db.execute("INSERT INTO ledger VALUES (?, 0)", (created,))


def try_write(path: Path, size: int = 0) -> None:
    """Write so many bytes beside a ledger; raises `LedgerError` where a poll cannot write to it, and says what to do.

    A poll that uses the ledger is not disturbed. SQLite would find out at the commit, and not say where.
    """
    real, fault = Path(os.path.realpath(path)), f"the ledger {path} cannot be used"
    with os_errors_as(LedgerError, fault, real.parent), tempfile.TemporaryFile(dir=real.parent) as beside:
        beside.write(bytes(size))
    for file in (path, _journal(real)):
        if file.exists() and not os.access(file, os.R_OK | os.W_OK):
            raise LedgerError(f"{fault}: {os.strerror(errno.EACCES)}", remedy(errno.EACCES, file))


def _journal(real: Path) -> Path:
    return real.with_name(f"{real.name}-journal")


def _connect(path: Path, mode: str, wait: float = 0.0) -> sqlite3.Connection:
    real = Path(os.path.realpath(path))
    for file in (real, _journal(real)):
        if file.exists() and not file.is_file():  # SQLite would wait for the writer of a FIFO
            raise LedgerError(f"the ledger {path} cannot be used: {file} is not a regular file")
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=wait, isolation_level=None)


def has_ledger(db: sqlite3.Connection, path: Path, *, unfinished: bool = False) -> bool:
    """Return whether a ledger is in the file, or nothing yet; raises `LedgerError` if it is something else.

    With `unfinished`, a backfill that is not finished is nothing yet (`ledger.past`).
    """
    pages, page_size, application_id, version = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "page_size", "application_id", "user_version")
    )
    size = path.stat().st_size  # in the same transaction: the one above waits for a commit, which may add pages
    # With a write-ahead log, which litestream asks for, pages may be in that log alone.
    is_whole = size >= pages * page_size or db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    fault = ""
    if size and application_id != APPLICATION_ID:
        fault = _FOREIGN
    elif version > SCHEMA_VERSION:
        fault = f"a newer version of cc-textfile has written it (schema {version}, not {SCHEMA_VERSION}). Install that"
    elif size and not is_whole:  # SQLite notices only when whole pages are missing
        fault = f"it was cut short. {_DAMAGED}"
    elif size and version == 0 and not unfinished:
        fault = _UNFINISHED
    if fault:
        raise LedgerError(f"the ledger {path} cannot be used: {fault}")
    return size > 0 and version > 0


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite finds wrong with the file into a `LedgerError` that says what to do."""
    try:
        yield
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter where damage is in SQLite's own message
        match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF:
            case sqlite3.SQLITE_BUSY:
                fault = f"another process has locked it (`fuser -v {path}` names it). Only one poller can use a ledger"
            case sqlite3.SQLITE_FULL:
                fault = f"the disk is full ({remedy(errno.ENOSPC, path.parent)})"
            case sqlite3.SQLITE_READONLY if os.path.lexists(f"{path}-journal"):
                fault = "a poll was killed while it wrote. Nothing is lost: the next poll repairs it"
            case sqlite3.SQLITE_NOTADB:
                fault = _FOREIGN
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_ERROR:
                fault = f"it is damaged ({error}). {_DAMAGED}"
            case _ if not os.access(path, os.R_OK):
                fault = f"there is no such file, or user {user()} may not read it"
            case _:
                fault = f"{error}. The kernel's log may say why (`dmesg`)"
        raise LedgerError(f"the ledger {path} cannot be used: {fault}") from error
    except OSError as error:  # the file, or the working directory of a relative path, went away meanwhile
        raise LedgerError(f"the ledger {path} cannot be used: {error.strerror}") from error


@contextmanager
def decoding() -> Iterator[None]:
    """Take what cannot be made of a row for damage: SQLite does not notice a bit that has changed in a value."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        raise sqlite3.DatabaseError(str(error)) from error


def whole(value: object) -> int:
    """Return a number of the ledger; raises `TypeError` where damage left something else."""
    if not isinstance(value, int):
        raise TypeError("a number is something else")
    return value


def number(value: object) -> int | None:
    """Return a number of the ledger, or None where it has none."""
    return None if value is None else whole(value)


def text(value: object) -> str:
    """Return a name of the ledger; raises `TypeError` where damage left something else."""
    if not isinstance(value, str):
        raise TypeError("a name is something else")
    return value


def moment(seconds: int) -> datetime:
    """Return a time of the ledger, in UTC+8."""
    return datetime.fromtimestamp(seconds, PORTAL_ZONE)
