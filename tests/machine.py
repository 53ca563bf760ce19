"""Machines to test on: a minimal Debian in kernel namespaces, booted with its own systemd in about a second.

The root of a release is built once, from the mirror that apt is configured for here, and kept in .cache. Each machine
works on a writable layer in memory above it, and leaves nothing behind.
"""

import contextlib
import fcntl
import hashlib
import itertools
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self

CACHE: Final = Path(__file__).resolve().parent.parent / ".cache"
PACKAGES: Final = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "python3",
    "ca-certificates",
    "man-db",
    "curl",
    "sudo",
    "prometheus-node-exporter",
)
RELEASES: Final = ("bookworm", "trixie")
TOOLS: Final = ("debootstrap", "systemd-nspawn", "nsenter", "unshare", "apt-get")
PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE: Final = 60.0
"""Seconds that a command, or an event, may take; far beyond what a slow machine needs."""

SECONDS_TO_STOP: Final = 20.0


_numbers = itertools.count()


class NoRootError(Exception):
    """The root that machines are booted from can't be built."""


def missing() -> str | None:
    """Return what stands in the way of booting a machine here, in words; None if nothing does."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    if os.geteuid() != 0:
        return "not root"
    if (
        subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False).returncode
        != 0
    ):
        return "not allowed to make namespaces"
    if not all(os.access(hierarchy, os.W_OK) for hierarchy in _hierarchies()):
        return "not allowed to make control groups"
    return None


def _hierarchies() -> list[Path]:
    """Return where systemd keeps its control groups: beside those of the first version, or all in one."""
    beside = [Path("/sys/fs/cgroup", name) for name in ("systemd", "unified")]
    return [path for path in beside if path.is_dir()] or [Path("/sys/fs/cgroup")]


def _mirror() -> str:
    """Return the Debian mirror that this host's own apt uses; raises `NoRootError`."""
    targets = ["apt-get", "indextargets", "--format=$(SITE)", "Created-By: Packages", "Origin: Debian"]
    sites = subprocess.run(targets, check=True, capture_output=True, text=True).stdout.split()
    mirrors = [site for site in sites if "security" not in site]
    if not mirrors:
        message = "apt has no Debian mirror; run apt-get update"
        raise NoRootError(message)
    return mirrors[0]


def root(release: str) -> Path:
    """Return the root of a release that machines are booted from, built if needed (a minute); raises `NoRootError`."""
    mark = hashlib.sha256(" ".join((release, *PACKAGES)).encode()).hexdigest()[:12]
    built = CACHE / f"host-{release}-{mark}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / release).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may build it now
        if not built.is_dir():
            _build(release, built)
    return built


def _build(release: str, built: Path) -> None:
    unfinished = Path(tempfile.mkdtemp(prefix="host-unfinished-", dir=CACHE))
    unfinished.chmod(0o755)
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", release, str(unfinished)]
    done = subprocess.run(
        [*command, _mirror()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        message = f"debootstrap of {release} failed:\n{done.stdout[-2000:]}"
        raise NoRootError(message)
    # Every installed host has these; debootstrap leaves them to the installer.
    (unfinished / "etc" / "hostname").write_text("debian\n")
    (unfinished / "etc" / "hosts").write_text("127.0.0.1 localhost\n127.0.1.1 debian\n")
    unfinished.rename(built)


class Machine:
    """A booted machine; a context manager, which ends it. `source` is readable within, at the same path."""

    def __init__(self, release: str, *, source: Path) -> None:
        self.release = release
        self._source = source
        self._name = f"cc-textfile-test-{os.getpid()}-{next(_numbers)}"
        self._leader = 0
        self._since: tuple[str, ...] = ()
        self._groups = [hierarchy / self._name for hierarchy in _hierarchies()]

    def __enter__(self) -> Self:
        """Boot, until every unit of the default target is up."""
        system = root(self.release)
        # systemd-nspawn makes control groups below its own: in one of our own, two test runs do not share them.
        for group in self._groups:
            group.mkdir(exist_ok=True)

        def enter_groups() -> None:
            for group in self._groups:
                (group / "cgroup.procs").write_text(str(os.getpid()))

        with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as booted:
            booted.bind(f"{folder}/notify")
            booted.settimeout(PATIENCE)
            self._process = subprocess.Popen(
                [
                    "systemd-nspawn",
                    "--quiet",
                    "--register=no",
                    "--keep-unit",
                    f"--machine={self._name}",
                    f"--directory={system}",
                    f"--bind-ro={self._source}",
                    "--volatile=overlay",
                    "--private-network",
                    "--notify-ready=yes",
                    "--console=pipe",
                    "--boot",
                ],
                env={"PATH": os.environ["PATH"], "NOTIFY_SOCKET": f"{folder}/notify"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                preexec_fn=enter_groups,  # noqa: PLW1509 # no thread of ours runs yet
            )
            said = ""
            try:
                while "READY=1" not in said:
                    said += booted.recv(4096).decode() + "\n"
            except TimeoutError:
                self._process.terminate()
                raise
            self._leader = int(said.partition("X_NSPAWN_LEADER_PID=")[2].split()[0])
        return self

    def __exit__(self, *exception: object) -> None:
        """Power off; what does not end by itself is killed."""
        # What `systemctl poweroff` does, without a process of its own within.
        os.kill(self._leader, signal.SIGRTMIN + 4)
        try:
            self._process.wait(SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            os.kill(self._leader, signal.SIGKILL)
            self._process.wait(SECONDS_TO_STOP)
        for group in self._groups:
            for path, _, _ in os.walk(group, topdown=False):
                Path(path).rmdir()

    @contextlib.contextmanager
    def _running(self, command: tuple[str, ...], **options: Any) -> Iterator[subprocess.Popen[str]]:
        """Run a command within; at the end it is killed, if it has not ended.

        To get into the machine, nsenter forks. The command is killed and not nsenter, so that this can reap it: for
        what is left of it a shutdown would wait ten seconds.
        """
        words = ["nsenter", f"--target={self._leader}", "--all", "--wd", "/usr/bin/env", "-i", PATH, *command]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, **options) as process:

            def kill() -> None:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                        os.kill(int(child), signal.SIGKILL)

            alarm = threading.Timer(PATIENCE, kill)
            alarm.start()
            try:
                yield process
            finally:
                alarm.cancel()
                kill()

    def run(self, *command: str, check: bool = True, stdin: str = "") -> str:
        """Run a command within, as root, and return what it says; raises `AssertionError` with that when it fails."""
        with self._running(command, stdin=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            said = process.communicate(stdin)[0]
        assert not check or process.returncode == 0, f"{' '.join(command)} exited {process.returncode}:\n{said}"
        return said

    def type(self, command: str, *, user: str, prompt: str, keys: str) -> str:
        """Run a user's shell command at a terminal, type the keys at its prompt, and return what the terminal shows."""
        script = shlex.join(("script", "--quiet", "--return", f"--command={command}", "/dev/null"))
        words = ("runuser", "--login", user, f"--command={script}")
        shown = ""
        with self._running(words, stdin=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            while prompt not in shown and (character := process.stdout.read(1)):
                shown += character
            # The prompt comes just before the terminal's echo is switched off.
            while " -echo " not in self.run("stty", "--all", "--file=/dev/pts/0", check=False):
                assert process.poll() is None, shown
            shown += process.communicate(keys)[0]
        assert process.returncode == 0, f"{command} exited {process.returncode}:\n{shown}"
        return shown

    def write(self, path: str, text: str, mode: str = "0644") -> None:
        """Write a file within, and the folders that it is in."""
        self.run("install", "-D", f"--mode={mode}", "/dev/stdin", path, stdin=text)

    def property(self, unit: str, name: str) -> str:
        """Return a property of a unit, as systemd has it now."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def forget_logs(self) -> None:
        """Leave out of later logs what is in the journal by now."""
        self.run("journalctl", "--sync")
        self._since = (f"--since=@{self.run('date', '+%s.%6N').strip()}",)

    def log(self, *arguments: str) -> str:
        """Return the messages of the journal, or of a part of it that the arguments of journalctl select."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--quiet", "--output=cat", *self._since, *arguments)

    def wait_for_log(self, unit: str, text: str, *, times: int = 1) -> str:
        """Follow the journal of a unit until the text has come so many times; return all the messages until then."""
        lines: list[str] = []
        with self._running(
            ("journalctl", "--follow", "--lines=all", "--output=cat", *self._since, f"--unit={unit}")
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                times -= text in line
                if not times:
                    return "".join(lines)
        message = f"{text!r} never came from {unit}:\n{''.join(lines)}"
        raise AssertionError(message)
