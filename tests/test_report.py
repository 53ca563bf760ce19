"""`cc-textfile report`: what the ledger has recorded, for people and for programs, while a poll may be under way."""

import csv
import io
import json
import os
import pty
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from cc_textfile import report
from cc_textfile.demo.portal import CHANNELS, response
from cc_textfile.ledger import Day, Ledger, days
from cc_textfile.ledger.file import examine
from cc_textfile.portal.responses import Method, Request, decode
from cc_textfile.portal.window import DAY, PORTAL_ZONE, Window
from cc_textfile.settings import Settings
from tests.conftest import PATIENCE, command, environment, run

NOW = datetime.now(UTC)
YESTERDAY = Window(NOW - DAY, NOW - DAY).days
SETTINGS = Settings(user="me", password="", account="me", channels=CHANNELS, settle=0.0, day_settle=0.0)


def answered(request: Request) -> dict[str, object]:
    """Return the demo portal's content for a request."""
    channel, method, (start, end) = request
    last = end - DAY if method is Method.HTTP_CODE else end
    query = {
        "channelIds": channel,
        "channel_id": channel,
        "startTime": f"{start:%Y%m%d%H%M}",
        "endTime": f"{end:%Y%m%d%H%M}",
        "start_time": f"{start:%Y%m%d}",
        "end_time": f"{last:%Y%m%d}",
    }
    return response(method, query, NOW)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a ledger that has counted all of yesterday, and a part of today."""
    path = tmp_path_factory.mktemp("report") / "ledger.sqlite"
    for now in (YESTERDAY.start, YESTERDAY.end, NOW, NOW):
        with Ledger(path, SETTINGS) as opened:
            wanted = opened.plan(now)
            opened.record({r: decode(r.method, 200, json.dumps(answered(r)).encode(), str) for r in wanted}, now)
    return path


def test_json_has_the_figures_of_each_day_and_channel(ledger: Path) -> None:
    """The objects of the contract: yesterday is closed and its figures are the portal's, today is not closed."""
    done = run("report", "--ledger", str(ledger), "--format", "json", env=environment())
    assert done.returncode == 0, done.stderr
    days = json.loads(done.stdout)
    traffic, rate, codes = (
        answered(Request(CHANNELS[0], method, YESTERDAY)) for method in (Method.ISP, Method.HIT_RATE, Method.HTTP_CODE)
    )
    rows = codes["data"]
    assert isinstance(rows, list)
    assert days[0] == {
        "day": f"{YESTERDAY.start:%Y-%m-%d}",
        "channel": CHANNELS[0],
        "traffic_bytes": traffic["totalFlux"],
        "hits": rate["Hit"],
        "misses": rate["Miss"],
        "responses": days[0]["responses"],
        "closed": True,
    }
    assert set(days[0]["responses"]) <= {row["http_code"] for row in rows}
    assert [(day["channel"], day["closed"]) for day in days] == [
        (channel, closed) for closed in (True, False) for channel in CHANNELS
    ]


def test_csv_has_a_column_for_each_status_code(ledger: Path) -> None:
    """A row for each day and channel, with the numbers as they are."""
    done = run("report", "--ledger", str(ledger), "--format", "csv", "--days", "3", env=environment())
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    days = json.loads(run("report", "--ledger", str(ledger), "--format", "json", env=environment()).stdout)
    assert len(rows) == 6
    for row, day in zip(rows, days, strict=True):
        assert row["traffic_bytes"] == str(day["traffic_bytes"])
        assert row["closed"] == str(day["closed"]).lower()
        for code, count in day["responses"].items():
            assert row[f"responses_{code}"] == str(count)


def test_a_table_has_units_totals_and_a_mark_for_open_days(ledger: Path) -> None:
    """What people read: a line for each channel and one for all of them, and a note on days that are not closed."""
    done = run("report", "--ledger", str(ledger), env=environment())
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["day", "channel", "traffic", "requests", "hit", "ratio", "5xx", "closed"]
    assert [line.split()[1] for line in lines[1:5]] == [*CHANNELS, "all"]
    assert all(line.endswith(" yes") for line in lines[1:5])
    assert lines[5].endswith(" no *")
    assert lines[-1].startswith("* not closed: ")
    assert "GB" in lines[1]


def test_it_can_be_narrowed_to_days_and_a_channel(ledger: Path) -> None:
    """One day is today; days and channels without a record are said in words."""
    now = NOW.astimezone(PORTAL_ZONE)
    days = json.loads(report.render(ledger, "json", days=1, channel=CHANNELS[1], now=now, width=None))
    assert [(day["day"], day["channel"]) for day in days] == [(f"{now:%Y-%m-%d}", CHANNELS[1])]
    shown = run("report", "--ledger", str(ledger), "--days", "1", env=environment())
    assert shown.returncode == 0
    assert f"{YESTERDAY.start:%Y-%m-%d}" not in shown.stdout
    done = run("report", "--channel", "nobody", env=environment(CC_TEXTFILE_LEDGER=str(ledger)))
    assert (done.returncode, done.stdout) == (0, "nothing is recorded for these days\n")


@pytest.mark.slow
def test_after_a_kill_in_the_middle_of_a_commit(ledger: Path) -> None:
    """A reader cannot undo what was begun, and says that the next poll does; `check`, which may write, does it."""
    script = (
        "import os, sqlite3, sys; db = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "db.execute('PRAGMA cache_size = 1'); db.execute('BEGIN IMMEDIATE');"
        "db.execute('UPDATE days SET codes = codes || zeroblob(99999)'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(ledger)], check=False)
    assert ledger.with_name(f"{ledger.name}-journal").stat().st_size
    done = run("report", "--ledger", str(ledger), env=environment())
    assert (done.returncode, done.stdout) == (1, "")
    assert "the next poll repairs it" in done.stderr
    examine(ledger)
    assert run("report", "--ledger", str(ledger), env=environment()).returncode == 0


@pytest.mark.slow
def test_on_a_terminal_it_fits_the_width(ledger: Path) -> None:
    """A line is cut where the terminal ends; in a pipe it is not."""
    terminal, end = pty.openpty()
    env = environment(COLUMNS="40", TERM="xterm")
    with subprocess.Popen(command("report", "--ledger", str(ledger)), env=env, stdout=end) as process:
        os.close(end)
        shown = b""
        try:
            while part := os.read(terminal, 4096):
                shown += part
        except OSError:  # the program has ended
            pass
        assert process.wait() == 0
    os.close(terminal)
    assert max(len(line) for line in shown.decode().splitlines()) == 40
    piped = run("report", "--ledger", str(ledger), env=env).stdout
    assert max(len(line) for line in piped.splitlines()) > 40


@pytest.mark.parametrize(
    "bits",
    [
        "UPDATE days SET traffic = 'x'",
        "UPDATE days SET codes = 'null'",
        "UPDATE days SET channel = CAST(channel AS BLOB)",
    ],
)
def test_a_ledger_that_is_damaged(tmp_path: Path, ledger: Path, bits: str) -> None:
    """It is said, also where SQLite does not notice."""
    copy = tmp_path / "ledger.sqlite"
    copy.write_bytes(ledger.read_bytes())
    with closing(sqlite3.connect(copy)) as db, db:
        db.execute(bits)
    done = run("report", "--ledger", str(copy), env=environment())
    assert done.returncode == 1
    assert f"the ledger {copy} cannot be used: it is damaged" in done.stderr


def test_a_ledger_that_grows_meanwhile_is_not_cut_short(tmp_path: Path, ledger: Path) -> None:
    """The report waits for a commit, which may make the file longer."""
    copy, connected = tmp_path / "ledger.sqlite", threading.Event()
    copy.write_bytes(ledger.read_bytes())
    sys.addaudithook(lambda event, _: connected.set() if event == "sqlite3.connect/handle" else None)
    with closing(sqlite3.connect(copy, isolation_level=None)) as db, ThreadPoolExecutor() as threads:
        db.execute("BEGIN EXCLUSIVE")
        connected.clear()
        found = threads.submit(days, copy, since=YESTERDAY.start.date())
        assert connected.wait(PATIENCE)
        db.execute("CREATE TABLE more AS SELECT hex(randomblob(100000))")
        db.execute("COMMIT")
        assert len(found.result()) == 2 * len(CHANNELS)


def test_a_poll_under_way_is_not_disturbed(tmp_path: Path, ledger: Path) -> None:
    """The ledger is read while a poll has it locked, and the poll records as if nobody had read."""
    copy = tmp_path / "ledger.sqlite"
    copy.write_bytes(ledger.read_bytes())
    with Ledger(copy, SETTINGS) as opened:
        wanted = opened.plan(NOW + timedelta(minutes=10))
        assert run("report", "--ledger", str(copy), env=environment()).returncode == 0
        later = NOW + timedelta(minutes=10)
        opened.record({r: decode(r.method, 200, json.dumps(answered(r)).encode(), str) for r in wanted}, later)


def test_what_is_no_ledger_is_said_and_left_alone(tmp_path: Path) -> None:
    """A missing file is a fault of the command line; another file is an error, and stays as it is."""
    done = run("report", "--ledger", str(tmp_path / "none"), env=environment())
    assert done.returncode == 2
    assert "does not exist" in done.stderr
    other = tmp_path / "other"
    other.write_bytes(b"not a ledger" * 1000)
    done = run("report", "--ledger", str(other), env=environment())
    assert done.returncode == 1
    assert "not a ledger" in done.stderr
    assert other.read_bytes() == b"not a ledger" * 1000
    assert list(tmp_path.iterdir()) == [other]
    os.mkfifo(tmp_path / "fifo")
    done = run("report", "--ledger", str(tmp_path / "fifo"), env=environment())
    assert done.returncode == 1
    assert "is not a regular file" in done.stderr


def test_standard_output_that_takes_nothing(ledger: Path) -> None:
    """A full disk is status 1 and a line; a closed output is nobody's loss."""
    words = command("report", "--ledger", str(ledger))
    for redirected, status, error in ((">/dev/full", 1, "error: standard output cannot be written: "), (">&-", 0, "")):
        shell = ["sh", "-c", f'"$@" {redirected}', "-", *words]
        done = subprocess.run(shell, env=environment(), stderr=subprocess.PIPE, text=True, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (status, status), done.stderr
        assert error in done.stderr


def test_more_days_than_there_were(ledger: Path) -> None:
    """A number of days that leads to before the first year is a fault of the command line."""
    done = run("report", "--ledger", str(ledger), "--days", "99999", env=environment())
    assert done.returncode == 0, done.stderr
    done = run("report", "--ledger", str(ledger), "--days", "1000000", env=environment())
    assert done.returncode == 2
    assert "is not in the range" in done.stderr


TODAY = date(2026, 12, 1)


def test_what_is_not_known_is_a_dash_and_no_part_passes_for_the_whole() -> None:
    """A channel without traffic figures makes the total unknown, and a day without requests has no ratio."""
    days = [
        Day(TODAY, "1", 1_500, 3, 1, {"200": 3, "503": 1}, closed=True),
        Day(TODAY, "2", None, 0, 0, {}, closed=True),
    ]
    lines = [line.split() for line in report.as_table(days).splitlines()]
    assert lines[1] == ["2026-12-01", "1", "1.5", "kB", "4", "75.0%", "25.00%", "yes"]
    assert lines[2] == ["2026-12-01", "2", "-", "0", "-", "-", "yes"]
    assert lines[3] == ["2026-12-01", "all", "channels", "-", "4", "75.0%", "25.00%", "yes"]


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (999_949, "999.9 kB"), (10**15, "1.0 PB"), (10**19, "10,000.0 PB")],
)
def test_bytes_are_shown_in_the_largest_unit(count: int, shown: str) -> None:
    """Decimal units, as networks are counted."""
    assert shown in report.as_table([Day(TODAY, "1", count, 0, 0, {}, closed=True)])
