"""Hosts fill up, folders vanish, signals come, clocks leap: polls go on, and what can be delivered is."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from cc_textfile import demo, runner
from cc_textfile.demo import DemoPortal
from cc_textfile.poll import Poller
from cc_textfile.redaction import Redactor
from cc_textfile.runner import Runner
from cc_textfile.settings import Settings
from cc_textfile.signals import stoppable
from tests.conftest import NOBODY, PATIENCE, POWERLESS, Program, account, command, eventually, get, needs_root, run

Start = Callable[..., Program]
A_SECOND_OR_SO = 1.5


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 256 KiB."""
    needs_root()
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


class Loop:
    """A loop under way, with a text file and a Pushgateway to fall back on."""

    def __init__(
        self, start: Start, portal: DemoPortal, textfile: Path, gateway: str, before: tuple[str, ...] = ()
    ) -> None:
        env = account(portal, CC_TEXTFILE_PATH=str(textfile), PUSHGATEWAY=gateway, CHINACACHE_INTERVAL="100ms")
        self.program = start(*before, *command("run"), env=env)
        self.program.line(f"; wrote {textfile}$")
        self.textfile = textfile
        self.gateway = gateway

    def fails(self, said: str) -> None:
        """See the failure named, the old file untouched, and the push instead."""
        self.program.line(f"error: {self.textfile} cannot be written: {said}")
        self.program.line("; pushed to .* instead$")
        assert "ChinaCache_metrics_isp_total_bytes" in get(f"{self.gateway}/metrics")

    def recovers(self) -> None:
        """See a poll after the repair write the file, without a restart, and without litter."""
        self.program.line(f"; wrote {self.textfile}$")
        assert self.program.end() == 0
        assert "Traceback" not in self.program.said
        assert [f.name for f in self.textfile.parent.iterdir() if f.name.startswith(".")] == []


def test_a_full_disk(small_disk: Path, start: Start, portal: DemoPortal, pushgateway: Callable[..., str]) -> None:
    """A full disk costs one poll's file at a time, and neither the old file nor the push."""
    loop = Loop(start, portal, small_disk / "a.prom", pushgateway())
    filler = small_disk / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    loop.fails(r"No space left on device \(make room on the file system of ")
    old = loop.textfile.read_text()
    assert "cc_textfile_dropped_rows" in old
    assert old.endswith("\n")
    filler.unlink()
    loop.recovers()


def test_a_file_system_that_went_read_only(
    small_disk: Path, start: Start, portal: DemoPortal, pushgateway: Callable[..., str]
) -> None:
    """A file system that the kernel made read-only is named as what it is."""
    loop = Loop(start, portal, small_disk / "a.prom", pushgateway())

    def remount(how: str) -> bool:
        # Busy as long as the loop has its draft open.
        return not subprocess.run(
            ["mount", "-o", f"remount,{how}", small_disk], check=False, capture_output=True
        ).returncode

    eventually(lambda: remount("ro"))
    loop.fails(r"Read-only file system \(the file system of .* is read-only; under systemd, see ReadWritePaths=\)")
    assert loop.textfile.exists()
    remount("rw")
    loop.recovers()


def test_a_folder_that_was_removed(
    tmp_path: Path, start: Start, portal: DemoPortal, pushgateway: Callable[..., str]
) -> None:
    """A folder that is gone is named, and not made anew: who removed it may have had a reason."""
    folder = tmp_path / "textfile"
    folder.mkdir()
    loop = Loop(start, portal, folder / "a.prom", pushgateway())
    moved = folder.rename(tmp_path / "elsewhere")
    loop.fails(rf"No such file or directory \(the folder {folder} is missing: create it, or correct --textfile\)")
    assert not folder.exists()
    shutil.rmtree(moved)
    folder.mkdir()
    loop.recovers()


def test_a_loop_waits_for_its_folder(tmp_path: Path, start: Start, portal: DemoPortal) -> None:
    """A folder that is not there yet is a failed delivery: the loop tries again at each poll, until it is."""
    path = tmp_path / "missing" / "a.prom"
    program = start(*command("run", "--interval", "100ms"), env=account(portal, CC_TEXTFILE_PATH=str(path)))
    program.line(f"error: {path} cannot be written: No such file or directory")
    path.parent.mkdir()
    program.line(f"; wrote {path}$")
    assert program.end() == 0


def test_a_unit_without_a_folder_does_not_start(tmp_path: Path, portal: DemoPortal) -> None:
    """In a unit's mounts a folder that is made later stays read-only: one line, nothing polled, no try after try."""
    path = tmp_path / "missing" / "a.prom"
    env = account(portal, CC_TEXTFILE_PATH=str(path), JOURNAL_STREAM="8:1", NOTIFY_SOCKET="@nobody-listens")
    ended = run("run", "--interval", "1h", env=env)
    assert ended.returncode == 2
    assert (
        ended.stderr
        == f"cc-textfile: --textfile (CC_TEXTFILE_PATH) names {path}; create the folder {path.parent} first\n"
    )
    assert portal.requests == 0


def test_a_folder_whose_owner_changed(
    tmp_path: Path, start: Start, portal: DemoPortal, pushgateway: Callable[..., str]
) -> None:
    """A folder that came to belong to somebody else is named, with what the user needs there."""
    needs_root()
    folder = tmp_path / "textfile"
    folder.mkdir()
    loop = Loop(start, portal, folder / "a.prom", pushgateway(), POWERLESS)
    os.chown(folder, NOBODY, NOBODY)
    loop.fails(rf"Permission denied \(user 0 needs to write, and to replace its own files, in {folder}\)")
    os.chown(folder, 0, 0)
    loop.recovers()


def test_a_name_that_a_folder_has(tmp_path: Path, portal: DemoPortal) -> None:
    """A folder under the file's name is a failed delivery like any other."""
    (tmp_path / "a.prom").mkdir()
    done = run("run", env=account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom")))
    assert done.returncode == 1
    assert "a.prom cannot be written: Is a directory" in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["a.prom"]


def test_a_second_instance_says_who_holds_the_file(tmp_path: Path, start: Start, portal: DemoPortal) -> None:
    """The second ends with 1, names the first's process, makes no request and does not touch the file."""
    textfile = tmp_path / "a.prom"
    env = account(portal, CC_TEXTFILE_PATH=str(textfile))
    first = start(*command("run", "--interval", "1h"), env=env)
    first.line("; wrote ")
    before = textfile.stat()
    requests = portal.requests
    (tmp_path / "link").symlink_to(tmp_path)
    for path in (textfile, tmp_path / "link" / "a.prom"):
        second = run("run", env={**env, "CC_TEXTFILE_PATH": str(path)})
        assert second.returncode == 1
        assert f"by another cc-textfile, process {first.process.pid}: stop that one, or give this one" in second.stderr
    assert (portal.requests, textfile.stat()) == (requests, before)
    other = run("run", env={**env, "CC_TEXTFILE_PATH": str(tmp_path / "b.prom")})
    assert other.returncode == 0, "another file of the same folder is another account's, and free"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.prom", "b.prom", "link"]
    first.end(signal.SIGKILL)
    assert run("run", env=env).returncode == 0, "a lock that a killed process held does not block"


@pytest.fixture
def black_hole() -> Iterator[socket.socket]:
    """Listen, and take connections without ever a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as hole:
        yield hole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("interval", ["", "1h"])
@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_a_signal_ends_a_poll_that_is_under_way(
    tmp_path: Path, start: Start, portal: DemoPortal, number: signal.Signals, interval: str, fault: str
) -> None:
    """Within a second, whatever the portal does: 0 for a loop, 1 for a poll that delivered nothing; no litter."""
    asked = threading.Event()

    def misbehave(*_: object) -> str:
        asked.set()
        return fault

    portal.fault = misbehave
    env = account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"), CHINACACHE_INTERVAL=interval)
    program = start(*command("run"), env=env)
    assert asked.wait(PATIENCE)
    began = time.monotonic()
    assert program.end(number) == (0 if interval else 1)
    assert time.monotonic() - began < A_SECOND_OR_SO
    assert "Traceback" not in program.said
    assert number.name in program.said
    assert list(tmp_path.iterdir()) == []


def test_a_signal_ends_a_push_that_is_under_way(
    tmp_path: Path, start: Start, portal: DemoPortal, black_hole: socket.socket
) -> None:
    """A Pushgateway that takes the connection and says nothing does not hold up the end, nor the file."""
    host, port = black_hole.getsockname()
    textfile = tmp_path / "a.prom"
    env = account(portal, CC_TEXTFILE_PATH=str(textfile), PUSHGATEWAY=f"{host}:{port}")
    program = start(*command("run", "--pushgateway-mode", "always", "--interval", "1h"), env=env)
    connection, _ = black_hole.accept()
    with connection:
        assert textfile.exists(), "the file is written first, and waits for no push"
        began = time.monotonic()
        assert program.end() == 0
        assert time.monotonic() - began < A_SECOND_OR_SO
    assert "Traceback" not in program.said


def test_a_signal_ends_the_sleep_between_polls(tmp_path: Path, start: Start, portal: DemoPortal) -> None:
    """The sleep is one that a signal wakes from."""
    program = start(*command("run", "--interval", "1h"), env=account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom")))
    program.line("; wrote ")
    began = time.monotonic()
    assert program.end(signal.SIGINT) == 0
    assert time.monotonic() - began < A_SECOND_OR_SO


def test_a_hangup_reads_password_and_channels_again(tmp_path: Path, start: Start, portal: DemoPortal) -> None:
    """SIGHUP takes over new files at once and polls on by them; files that are no good change nothing."""
    password, channels = tmp_path / "password", tmp_path / "channels"
    password.write_text("wrong-one")
    channels.write_text("1\n2\n")
    env = account(
        portal,
        CC_TEXTFILE_PATH=str(tmp_path / "a.prom"),
        CHINACACHE_PASS_FILE=str(password),
        CHINACACHE_CHANNEL_IDS_FILE=str(channels),
        CHINACACHE_INTERVAL="300ms",
    )
    del env["CHINACACHE_PASS"], env["CHINACACHE_CHANNEL_IDS"]
    program = start(*command("run"), env=env)
    program.line("polled 2 channels .* 0 requests good, 8 failed")
    password.write_text(demo.PASSWORD)
    channels.write_text("1\n2\n3\n")
    program.process.send_signal(signal.SIGHUP)
    program.line("SIGHUP: read the settings' files again: 3 channels")
    program.line("polled 3 channels .* 12 requests good, 0 failed")
    channels.write_text("")
    program.process.send_signal(signal.SIGHUP)
    program.line("SIGHUP: the settings stay as they were: .*holds no channel")
    program.line("polled 3 channels .* 12 requests good, 0 failed")
    assert program.end() == 0


def test_a_hangup_is_heard_where_polls_take_longer_than_the_interval(
    tmp_path: Path, start: Start, portal: DemoPortal
) -> None:
    """A loop that never sleeps, because it is always late, reads the files again all the same."""
    program = start(
        *command("run", "--interval", "1ms"), env=account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"))
    )
    program.line("polled 3 channels")
    program.process.send_signal(signal.SIGHUP)
    program.line("SIGHUP: read the settings' files again")
    assert program.end() == 0


def test_a_hangup_during_a_poll_does_not_lose_it(tmp_path: Path, start: Start, portal: DemoPortal) -> None:
    """The poll that is under way ends as it began, and the files are read after it."""
    asked, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        asked.set()
        go_on.wait(PATIENCE)

    portal.fault = slow
    program = start(*command("run", "--interval", "1h"), env=account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom")))
    assert asked.wait(PATIENCE)
    program.process.send_signal(signal.SIGHUP)
    go_on.set()
    program.line("polled 3 channels .* 12 requests good, 0 failed")
    program.line("SIGHUP: read the settings' files again")
    assert program.end() == 0


class Leaping(datetime):
    """The wall clock, some leap away from the true one."""

    leap = timedelta()

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        """Return the leapt time."""
        return datetime.now(tz) + cls.leap


@pytest.mark.parametrize("leap", [timedelta(hours=-7), timedelta(hours=7)], ids=["back", "forth"])
@pytest.mark.parametrize("what", ["clock", "zone"])
def test_a_leap_of_the_clock(
    tmp_path: Path, portal: DemoPortal, monkeypatch: pytest.MonkeyPatch, leap: timedelta, what: str
) -> None:
    """Polls go on in their rhythm, neither late by the leap nor in a burst, and windows follow the new time."""
    interval = 0.25
    textfile = tmp_path / "a.prom"
    flags = {"channels": "1", "portal_url": portal.url, "textfile": str(textfile), "interval": "250ms"}
    settings = Settings.load(flags, account(portal))
    polls: list[float] = []

    def leap_now() -> None:
        if what == "clock":
            Leaping.leap = leap
        else:
            # POSIX turns the sign round: what is east of Greenwich is negative.
            monkeypatch.setenv("TZ", f"XXX{-leap.total_seconds() / 3600:+.0f}")
            time.tzset()

    def delivered(*_: object) -> str:
        polls.append(time.monotonic())
        if len(polls) == 2:
            # While the loop sleeps: then it has reckoned already when to wake.
            threading.Timer(interval / 2, leap_now).start()
        if len(polls) == 6:
            signal.raise_signal(signal.SIGTERM)
        return "seen"

    windows: list[datetime] = []
    poll = Poller.poll

    def seen(self: Any, *arguments: Any, **options: Any) -> Any:
        windows.append(arguments[2].end)
        return poll(self, *arguments, **options)

    monkeypatch.setattr(Poller, "poll", seen)
    monkeypatch.setattr(runner, "datetime", Leaping)
    monkeypatch.setattr("schedule.datetime.datetime", Leaping)
    monkeypatch.setattr(Leaping, "leap", timedelta())
    loop = Runner(settings, Redactor())
    monkeypatch.setattr(loop, "_output", type("Seen", (), {"held": loop._output.held, "deliver": delivered}))  # noqa: SLF001
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with pytest.raises(KeyboardInterrupt), stoppable():
        loop.loop(interval)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    monkeypatch.undo()
    time.tzset()
    for earlier, later in pairwise(polls):
        assert interval * 0.5 < later - earlier < interval * 0.5 + PATIENCE / 10
    expected = leap if what == "clock" else timedelta()
    assert abs((windows[-1] - windows[0]) - expected) <= timedelta(minutes=2)


def test_the_pushgateways_reason_is_in_the_message(
    portal: DemoPortal, pushgateway: Callable[..., str], tmp_path: Path
) -> None:
    """A 400 says what the Pushgateway has against the push."""
    url = pushgateway()
    assert run("run", env=account(portal, PUSHGATEWAY=url)).returncode == 0
    conflict = tmp_path / "conflict"
    conflict.write_text("# TYPE cc_textfile_poll_success counter\ncc_textfile_poll_success 1\n")
    wipe = subprocess.run(["curl", "-sS", "-X", "DELETE", f"{url}/metrics/job/ChinaCachePush"], check=False)
    assert wipe.returncode == 0
    subprocess.run(["curl", "-sS", "--fail", "-T", conflict, f"{url}/metrics/job/other"], check=True)
    done = run("run", env=account(portal, PUSHGATEWAY=url))
    assert done.returncode == 1
    assert "answered 400: pushed metrics are invalid or inconsistent with existing metrics" in done.stderr


PUSHGATEWAY_PASSWORD = "pa:ss@w&rd"
BCRYPT_OF_IT = "$2b$04$YuSe7rBKF1HYOPkjP9BqpOq6wtCCLioh6e6evyF6MegmwC26iFi8O"


def test_a_pushgateway_that_wants_a_password(
    portal: DemoPortal, pushgateway: Callable[..., str], tmp_path: Path
) -> None:
    """`http://user:password@host` authenticates, percent-encoded as in any URL; its password is in no message."""
    config = tmp_path / "web.yml"
    config.write_text(f"basic_auth_users:\n  pusher: {BCRYPT_OF_IT}\n")
    host = pushgateway(f"--web.config.file={config}").removeprefix("http://")
    good = run("run", env=account(portal, PUSHGATEWAY=f"http://pusher:pa%3Ass%40w%26rd@{host}"))
    assert good.returncode == 0, good.stderr
    assert f"; pushed to {host}" in good.stderr
    bad = run("run", env=account(portal, PUSHGATEWAY=f"http://pusher:wrong-one@{host}"))
    assert bad.returncode == 1
    assert f"the Pushgateway at {host} answered 401: Unauthorized" in bad.stderr
    assert "wrong-one" not in bad.stderr


def test_a_slow_pushgateway_is_bounded_by_the_timeout(
    tmp_path: Path, portal: DemoPortal, black_hole: socket.socket
) -> None:
    """A Pushgateway that does not answer costs the timeout, once, and nothing of the file."""
    host, port = black_hole.getsockname()
    env = account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"), PUSHGATEWAY=f"{host}:{port}")
    done = run("run", "--timeout", "1s", "--pushgateway-mode", "always", env=env)
    assert done.returncode == 0
    assert f"the Pushgateway took no push: no whole answer from {host}:{port} within 1 s" in done.stderr
    assert stat.S_IMODE((tmp_path / "a.prom").stat().st_mode) == 0o644


def test_a_host_with_few_threads_to_give(tmp_path: Path, portal: DemoPortal) -> None:
    """With fewer threads than asked for the poll takes longer, and is whole."""
    channels = ",".join(str(n) for n in range(60))
    flags = ("--channels", channels, "--concurrency", "200", "--textfile", str(tmp_path / "a.prom"))
    done = run("run", *flags, env=account(portal), before=("prlimit", f"--as={450 << 20}", "--"))
    assert "polled 60 channels" in done.stderr
    assert "240 requests good, 0 failed" in done.stderr
    assert done.returncode == 0


def test_stop_signals_in_a_row(tmp_path: Path, start: Start, portal: DemoPortal) -> None:
    """An impatient operator, or systemd after one, sends more than one signal; one end comes of them."""
    for _ in range(5):
        env = account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"))
        program = start(*command("run", "--interval", "1h"), env=env)
        program.line("; wrote ")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            program.process.send_signal(number)
        assert program.end(None) in (0, -signal.SIGTERM, -signal.SIGINT)
        assert "Traceback" not in program.said
        assert "race" not in program.said


def test_a_name_of_another_program_that_is_not_utf_8(tmp_path: Path, start: Start, portal: DemoPortal) -> None:
    """Who holds the file is found among the names of all programs, whatever bytes those have."""
    env = account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"))
    first = start(*command("run", "--interval", "1h"), env=env)
    first.line("; wrote ")
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(b"\0\xff\xfe" + os.urandom(8).hex().encode())
        second = run("run", env=env)
    assert f"process {first.process.pid}" in second.stderr


def test_a_link_is_held_by_its_own_name(tmp_path: Path, start: Start, portal: DemoPortal) -> None:
    """The first poll puts a file in the link's place, so it is the link that is held, and not what it led to."""
    (tmp_path / "real").touch()
    (tmp_path / "a.prom").symlink_to(tmp_path / "real")
    env = account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"))
    start(*command("run", "--interval", "1h"), env=env).line("; wrote ")
    assert run("run", env=env).returncode == 1
