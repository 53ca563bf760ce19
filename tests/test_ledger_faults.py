"""What a poll does when its ledger fails only after the portal has answered."""

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cc_textfile import daemon
from cc_textfile.demo.portal import CHANNELS, PASSWORD, USER, DemoPortal
from cc_textfile.errors import LedgerError
from cc_textfile.ledger import Ledger, days
from cc_textfile.ledger.file import explained
from cc_textfile.logs import Redactor
from cc_textfile.settings import Settings
from cc_textfile.signals import Signals
from tests.conftest import account, environment, run


def test_a_ledger_that_fails_at_the_end_costs_the_counters_alone(
    portal: DemoPortal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The gauges go out, `cc_textfile_ledger_up` is 0, and the poll is no success."""

    def full(*_: object) -> None:
        raise LedgerError("the disk is full")

    monkeypatch.setattr(Ledger, "record", full)
    textfile = tmp_path / "a.prom"
    settings = Settings(
        user=USER,
        password=PASSWORD,
        account=USER,
        channels=CHANNELS,
        portal_url=portal.url,
        textfile=textfile,
        ledger=tmp_path / "ledger",
    )
    assert not daemon.once(settings, Redactor(), Signals())
    assert "the disk is full" in caplog.messages
    text = textfile.read_text()
    assert 'cc_textfile_ledger_up{account="demo"} 0.0' in text
    assert "ChinaCache_metrics_isp_total_bytes" in text
    assert "chinacache_traffic" not in text


def test_an_unknown_variable_is_a_warning(portal: DemoPortal, tmp_path: Path) -> None:
    """A misspelt setting is not ignored without a word."""
    env = account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"), CC_TEXTFILE_TIMOUT="1s")
    done = run("run", env=env)
    assert done.returncode == 0
    assert "warning: " in done.stderr
    assert "CC_TEXTFILE_TIMOUT" in done.stderr


def test_a_ledger_that_is_not_there_is_said(tmp_path: Path) -> None:
    """Whoever reads days is told, and not that SQLite cannot open a file."""
    with pytest.raises(LedgerError, match="there is no such file"):
        days(tmp_path / "none", since=datetime.now(UTC).date())
    assert run("report", "--ledger", str(tmp_path / "none"), env=environment()).returncode != 0


def test_a_disk_that_fails_is_said_with_a_place_to_look(tmp_path: Path) -> None:
    """Nothing about the path explains it, so the kernel's log is named."""
    path = tmp_path / "ledger"
    path.touch()
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    with pytest.raises(LedgerError, match=r"ledger cannot be used: disk I/O error\. .*dmesg"), explained(path):
        raise error
