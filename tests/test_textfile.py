"""The text file on real file systems: full, closed, gone, locked, and owned by a hostile user."""

import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cc_textfile.demo.portal import DemoPortal
from cc_textfile.errors import OutputError
from cc_textfile.logs import Redactor
from cc_textfile.output import Output
from cc_textfile.output.textfile import Textfile
from cc_textfile.settings import Settings
from tests.conftest import NOBODY, POWERLESS, Program, account, command, eventually, get, needs_root, run
from tests.writer import generation

Start = Callable[..., Program]


@pytest.mark.parametrize(("folder_mode", "umask"), [(0o755, 0o077), (0o2775, 0o022), (0o1777, 0o777)])
def test_everybody_may_read_the_file(folder_mode: int, umask: int, tmp_path: Path) -> None:
    """node_exporter runs as another user: whatever the umask and the folder's mode, the file's mode is 0644."""
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(folder_mode)
    before = os.umask(umask)
    try:
        Textfile(folder / "a.prom").deliver(generation(1))
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "a.prom").stat().st_mode) == 0o644
    assert [file.name for file in folder.iterdir()] == ["a.prom"]


def test_root_may_replace_the_file_of_another_user_in_a_folder_with_the_sticky_bit(tmp_path: Path) -> None:
    """The bit keeps users from each other's files, as in /tmp, and root from none."""
    needs_root()
    path = tmp_path / "a.prom"
    path.touch()
    for place in (tmp_path, path):
        os.chown(place, NOBODY, NOBODY)
    tmp_path.chmod(0o1777)
    Textfile(path).try_write(1)
    Textfile(path).deliver(generation(1))
    assert path.stat().st_uid == 0


def test_the_longest_name(tmp_path: Path) -> None:
    """A file system allows 255 bytes, and the temporary folder's name is 22 longer than the file's."""
    Textfile(tmp_path / ("x" * 228 + ".prom")).deliver(generation(1))
    with pytest.raises(OutputError, match="a temporary folder beside it has a name 22 characters longer"):
        Textfile(tmp_path / ("x" * 229 + ".prom")).deliver(generation(1))


@pytest.mark.parametrize("mode", ["fallback", "always"])
def test_the_file_is_locked_beside_a_pushgateway_too(mode: str, tmp_path: Path) -> None:
    """Two pollers with one file are told so, wherever else they deliver to."""
    path, url = tmp_path / "a.prom", "http://127.0.0.1:9"
    settings = Settings(
        user="me", password="x", account="a", channels=("1",), textfile=path, pushgateway=url, pushgateway_mode=mode
    )
    with (
        Output(settings, Redactor()).locked(),
        pytest.raises(OutputError, match="is locked by another cc-textfile"),
        Textfile(path).locked(),
    ):
        pass


# --- A folder whose owner means harm ---------------------------------------------------------------------------------


def as_nobody(script: str, *arguments: object) -> None:
    """Do something as the user who owns the folder, and no other file here."""
    user = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")
    subprocess.run([*user, "sh", "-euc", script, "sh", *map(str, arguments)], check=True)


class Victim:
    """A folder of root's with a file in it that nobody else may read, beside one that belongs to nobody."""

    def __init__(self, place: Path) -> None:
        self.folder = place / "theirs"
        self.folder.mkdir()
        os.chown(self.folder, NOBODY, NOBODY)
        (self.folder / "public").mkdir(mode=0o755)
        (self.folder / "public" / "keep").touch()
        self.own = place / "root"
        self.own.mkdir(mode=0o700)
        self.file = self.own / "content"
        self.file.write_text("secret")
        self.file.chmod(0o600)

    def assert_untouched(self) -> None:
        """See that root's folders are as they were, wherever they are."""
        assert len(list(self.folder.rglob("keep"))) == 1
        assert [file.name for file in self.own.iterdir()] == ["content"]
        assert self.file.read_text() == "secret"
        assert stat.S_IMODE(self.file.stat().st_mode) == 0o600


@pytest.fixture
def victim(folder: Path) -> Victim:
    """Make both folders."""
    needs_root()
    return Victim(folder)


HARM = {
    "link to a folder": 'ln -s "$2" "$1"',
    "link to a file": 'ln -s "$2/content" "$1"',
    "FIFO": 'mkfifo "$1"',
    "folder of theirs": 'mkdir -m 0700 "$1"; ln -s "$2/content" "$1/content"',
    "other folder of root's": 'mv "${1%/*}/public" "$1"',
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_what_looks_like_a_leftover(harm: str, victim: Victim) -> None:
    """Sweeping neither waits at a FIFO nor follows a link, and leaves alone what belongs to another user."""
    as_nobody(harm, victim.folder / ".a.prom.abcdefgh.cc-textfile", victim.own)
    textfile = Textfile(victim.folder / "a.prom")
    with textfile.locked():
        textfile.deliver(generation(1))
    victim.assert_untouched()
    assert os.path.lexists(victim.folder / ".a.prom.abcdefgh.cc-textfile")


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_what_has_the_name_of_the_file(harm: str, victim: Victim) -> None:
    """A link or a FIFO under the file's own name is replaced, not followed; a folder is an error."""
    as_nobody(harm, victim.folder / "a.prom", victim.own)
    with suppress(OutputError):
        Textfile(victim.folder / "a.prom").deliver(generation(1))
    assert (victim.folder / "a.prom").is_dir() == harm.startswith(("mkdir", "mv"))
    assert (victim.folder / "a.prom").is_symlink() is False
    victim.assert_untouched()


class Swap(Collector):
    """Puts something else in the place of the temporary folder while the file in it is written."""

    def __init__(self, harm: str, victim: Victim) -> None:
        self._harm = harm
        self._victim = victim

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Do so."""
        (made,) = self._victim.folder.glob(".a.prom.*")
        as_nobody(f'mv "$1" "$1.moved"; {self._harm}', made, self._victim.own)
        yield GaugeMetricFamily("a", "A.", value=1)


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_a_temporary_folder_that_is_replaced_while_it_is_written_to(harm: str, victim: Victim) -> None:
    """All happens in the folder that was made, wherever it is by then."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Swap(harm, victim))
    Textfile(victim.folder / "a.prom").deliver(registry)
    assert (victim.folder / "a.prom").read_text().endswith("a 1.0\n")
    victim.assert_untouched()


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_a_temporary_folder_that_is_replaced_as_soon_as_it_is_made(
    harm: str, victim: Victim, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in its place then is not written to: the delivery fails, in words."""
    mkdtemp = tempfile.mkdtemp

    def replaced(**options: Any) -> str:
        made: str = mkdtemp(**options)
        as_nobody(f'mv "$1" "$1.moved"; {harm}', made, victim.own)
        return made

    monkeypatch.setattr(tempfile, "mkdtemp", replaced)
    with pytest.raises(OutputError, match=r"a\.prom cannot be written: "):
        Textfile(victim.folder / "a.prom").deliver(generation(1))
    victim.assert_untouched()


# --- Two processes ---------------------------------------------------------------------------------------------------


def test_a_second_process_names_the_first(tmp_path: Path, start: Start, portal: DemoPortal) -> None:
    """The second ends with 1, names the first's process, makes no request and does not touch the file."""
    textfile = tmp_path / "a.prom"
    env = account(portal, CC_TEXTFILE_PATH=str(textfile))
    first = start(*command("run", "--interval", "1h"), env=env)
    first.line("; wrote ")
    before = textfile.stat()
    requests = portal.requests
    (tmp_path / "link").symlink_to(tmp_path)
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(b"\0\xff\xfe" + os.urandom(8))  # among the names that the first is looked for in
        for path in (textfile, tmp_path / "link" / "a.prom"):
            second = run("run", env={**env, "CC_TEXTFILE_PATH": str(path)})
            assert second.returncode == 1
            assert f"by another cc-textfile, process {first.process.pid}: stop that one, or give this" in second.stderr
    assert (portal.requests, textfile.stat()) == (requests, before)
    other = run("run", env={**env, "CC_TEXTFILE_PATH": str(tmp_path / "b.prom")})
    assert other.returncode == 0, "another file of the same folder is another account's, and free"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.prom", "b.prom", "link"]
    first.end(signal.SIGKILL)
    assert run("run", env=env).returncode == 0, "a lock does not outlive a killed process"


def test_a_lock_that_cannot_be_had(tmp_path: Path) -> None:
    """Where no socket can be opened, the message says so, and what to do."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(OutputError) as caught, Textfile(tmp_path / "a.prom").locked():
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert str(caught.value) == (
        f"{tmp_path}/a.prom cannot be locked: Too many open files (allow it more open files: ulimit -n 256)"
    )


def test_a_lock_that_another_program_has(tmp_path: Path) -> None:
    """Who does not say which process it is holds the lock all the same."""
    output = Textfile(tmp_path / "a.prom")
    with output.locked():
        names = Path("/proc/net/unix").read_text(errors="replace")  # other tests bind names that are no text
        (name,) = re.findall(rf"@(cc_textfile/\S+)\.{os.getpid()}$", names, re.MULTILINE)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"\0{name}")
        assert output.holder() == "an unknown process"
        with pytest.raises(OutputError, match="another cc-textfile, an unknown process"), output.locked():
            pass


def test_a_link_is_locked_by_its_own_name(tmp_path: Path) -> None:
    """The first poll puts a file in the link's place, so it is the link that is locked, and not its target."""
    (tmp_path / "real.prom").touch()
    (tmp_path / "a.prom").symlink_to(tmp_path / "real.prom")
    with Textfile(tmp_path / "a.prom").locked(), Textfile(tmp_path / "real.prom").locked():
        assert Textfile(tmp_path / "a.prom").holder() == f"process {os.getpid()}"
    assert Textfile(tmp_path / "a.prom").holder() is None


# --- Hosts that fill up, and folders that go -------------------------------------------------------------------------


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
    """A loop with a text file, and a Pushgateway to fall back on."""

    def __init__(
        self, start: Start, portal: DemoPortal, textfile: Path, gateway: str, before: tuple[str, ...] = (), **more: Any
    ) -> None:
        env = account(portal, CC_TEXTFILE_PATH=str(textfile), PUSHGATEWAY=gateway, CHINACACHE_INTERVAL="100ms")
        self.program = start(*before, *command("run"), env=env, **more)
        self.textfile = more.get("cwd", Path()) / textfile
        self.program.line(f"; wrote {self.textfile}$")
        self.gateway = gateway

    def fails(self, message: str) -> None:
        """See the failure named, and the push instead."""
        self.program.line(f"error: {self.textfile} cannot be written: {message}")
        self.program.line("; pushed to .* instead$")
        assert "ChinaCache_metrics_isp_total_bytes" in get(f"{self.gateway}/metrics")

    def recovers(self) -> None:
        """See a poll after the repair write the file, without a restart, and nothing else left in its folder."""
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
    loop.fails(rf"No space left on device \(free some space: df -h {small_disk}\)")
    old = loop.textfile.read_text()
    assert "cc_textfile_method_up" in old
    assert old.endswith("\n")
    filler.unlink()
    loop.recovers()


def test_a_file_system_that_went_read_only(
    small_disk: Path, start: Start, portal: DemoPortal, pushgateway: Callable[..., str]
) -> None:
    """A file system that the kernel made read-only is named as what it is."""
    loop = Loop(start, portal, small_disk / "a.prom", pushgateway())

    def remount(how: str) -> bool:
        # Busy as long as the loop has its temporary file open.
        return not subprocess.run(
            ["mount", "-o", f"remount,{how}", small_disk], check=False, capture_output=True
        ).returncode

    eventually(lambda: remount("ro"))
    loop.fails(rf"Read-only file system \(in a unit of systemd: ReadWritePaths={small_disk}; else see: findmnt")
    assert loop.textfile.exists()
    remount("rw")
    loop.recovers()


def test_a_folder_that_was_removed(
    tmp_path: Path, start: Start, portal: DemoPortal, pushgateway: Callable[..., str]
) -> None:
    """A folder that is gone is named, and not made anew: whoever removed it may have had a reason."""
    folder = tmp_path / "textfile"
    folder.mkdir()
    loop = Loop(start, portal, folder / "a.prom", pushgateway())
    moved = folder.rename(tmp_path / "elsewhere")
    loop.fails(rf"No such file or directory \(as root: install -d -m 0755 -o \S+ {folder}; or correct the path\)")
    assert not folder.exists()
    shutil.rmtree(moved)
    folder.mkdir()
    loop.recovers()


def test_a_working_directory_that_was_removed(
    tmp_path: Path, start: Start, portal: DemoPortal, pushgateway: Callable[..., str]
) -> None:
    """A loop names the folder, where a relative path leads to; at the start a relative path is a fault."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    loop = Loop(start, portal, Path("a.prom"), pushgateway(), cwd=folder)
    shutil.rmtree(folder)
    loop.fails(rf"No such file or directory \(as root: install -d -m 0755 -o \S+ {folder}; or correct the path\)")
    assert loop.program.end() == 0
    folder.mkdir()
    gone = ("sh", "-c", 'rmdir "$PWD"; exec "$@"', "sh")
    done = run("run", env=account(portal, CC_TEXTFILE_PATH="a.prom"), before=gone, cwd=folder)
    assert done.returncode == 2
    assert "--textfile (CC_TEXTFILE_PATH): a relative path, and the working directory is gone" in done.stderr


def test_a_folder_whose_owner_changed(
    tmp_path: Path, start: Start, portal: DemoPortal, pushgateway: Callable[..., str]
) -> None:
    """A folder that came to belong to another user is named, with what this user needs there."""
    needs_root()
    folder = tmp_path / "textfile"
    folder.mkdir()
    loop = Loop(start, portal, folder / "a.prom", pushgateway(), POWERLESS)
    os.chown(folder, NOBODY, NOBODY)
    loop.fails(rf"Permission denied \(run it as a user that may write there, or .* setfacl -m u:root:rwx {folder}\)")
    os.chown(folder, 0, 0)
    loop.recovers()


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("folder.prom", "Is a directory"),
        ("x" * 240 + ".prom", "File name too long (give a shorter path: a temporary folder beside it has a name 22 "),
        ("missing/a.prom", "No such file or directory (as root: install -d -m 0755 -o "),
    ],
)
def test_a_path_that_cannot_be_written(name: str, fault: str, tmp_path: Path, portal: DemoPortal) -> None:
    """Not a fault of the settings: the poll is made, its failure is 1, and nothing is left behind."""
    (tmp_path / "folder.prom").mkdir()
    done = run("run", env=account(portal, CC_TEXTFILE_PATH=str(tmp_path / name)))
    assert done.returncode == 1
    assert f"error: {tmp_path / name} cannot be written: {fault.format(tmp_path=tmp_path)}" in done.stderr
    assert portal.requests == 12
    assert [file.name for file in tmp_path.iterdir()] == ["folder.prom"]


def test_nothing_is_left_where_no_file_can_be_opened(tmp_path: Path) -> None:
    """Connections that hang have all descriptors: the folder of node_exporter must not fill up meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as opened:
        opened.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        with suppress(OSError):
            while True:
                opened.enter_context(open(os.devnull, "rb"))  # noqa: PTH123 # lighter than Path.open
        with pytest.raises(OutputError, match="Too many open files"):
            Textfile(tmp_path / "a.prom").deliver(CollectorRegistry())
    assert list(tmp_path.iterdir()) == []
