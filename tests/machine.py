"""Machines to test on: a minimal Debian of its own kernel namespaces, booted with its own systemd in half a second.

The root is built once, from what apt is configured for here, and kept in .cache. Each machine works on a writable layer
in memory above it, and leaves nothing behind.
"""

import contextlib
import hashlib
import os
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
    "prometheus-node-exporter",
    "prometheus",
)
TOOLS: Final = ("debootstrap", "systemd-nspawn", "nsenter", "unshare", "apt-get")
PATH: Final = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE: Final = 60.0
"""Seconds that a command, or an event, may take; far beyond what a slow machine needs."""

SECONDS_TO_STOP: Final = 20.0


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


def _release() -> str:
    """Return the code name of this host's own release, which its apt has a mirror of."""
    fields = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return fields["VERSION_CODENAME"].strip('"')


def root() -> Path:
    """Return the root that machines are booted from, built if not there yet (a minute); raises `NoRootError`."""
    release = _release()
    mark = hashlib.sha256(" ".join((release, *PACKAGES)).encode()).hexdigest()[:12]
    built = CACHE / f"host-{release}-{mark}"
    if not built.is_dir():
        mirrors = subprocess.run(
            ["apt-get", "indextargets", "--format=$(SITE)", "Created-By: Packages", f"Codename: {release}"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        CACHE.mkdir(exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix="host-unfinished-", dir=CACHE))
        unfinished.chmod(0o755)
        command = [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            release,
            str(unfinished),
            *mirrors[:1],
        ]
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if said.returncode != 0:
            message = f"debootstrap failed:\n{said.stdout[-2000:]}"
            raise NoRootError(message)
        # Every installed host has this; debootstrap leaves it to the installer.
        (unfinished / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
        # Who needs Prometheus starts it: it would slow the boot of all others.
        subprocess.run(["systemctl", "--quiet", f"--root={unfinished}", "disable", "prometheus.service"], check=True)
        with contextlib.suppress(OSError):  # somebody else was faster
            unfinished.rename(built)
        shutil.rmtree(unfinished, ignore_errors=True)
    return built


class Machine:
    """A booted machine; a context manager, which ends it. `source` is readable within, at the same path."""

    def __init__(self, *, source: Path) -> None:
        self._source = source
        self._name = f"cc-textfile-test-{os.getpid()}"
        self._leader = 0
        self._groups = [hierarchy / self._name for hierarchy in _hierarchies()]

    def __enter__(self) -> Self:
        """Boot, until every unit of the default target is up."""
        system = root()
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

    def write(self, path: str, text: str, mode: str = "0644") -> None:
        """Write a file within, and the folders that it is in."""
        self.run("install", "-D", f"--mode={mode}", "/dev/stdin", path, stdin=text)

    def property(self, unit: str, name: str) -> str:
        """Return a property of a unit, as systemd has it now."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def log(self, unit: str) -> str:
        """Return what the journal has of a unit, by it and about it: the messages alone."""
        self.run("journalctl", "--sync")
        return self.run("journalctl", "--output=cat", f"--unit={unit}")

    def wait_for_log(self, unit: str, text: str, *, times: int = 1) -> str:
        """Follow the journal of a unit until the text has come so many times; return all the messages until then."""
        lines: list[str] = []
        with self._running(("journalctl", "--follow", "--lines=all", "--output=cat", f"--unit={unit}")) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                times -= text in line
                if not times:
                    return "".join(lines)
        message = f"{text!r} never came from {unit}:\n{''.join(lines)}"
        raise AssertionError(message)
