"""What tests share: the real programs, the demo portal, and the command line as a user starts it."""

import itertools
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cc_textfile.demo import portal as demo
from cc_textfile.portal.responses import Method

ROOT = Path(__file__).parent.parent
LISTENING = r'msg="Listening on" address=(\S+)'
PATIENCE = 120.0
"""Seconds that a test waits for an event before it takes it for lost; far beyond what a slow machine needs."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Take a skip for a failure where everything can be had: a suite that leaves tests out must not look whole."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped with CI=true: {report.longrepr[2]}"
    return report


def project() -> dict[str, Any]:
    """Return what pyproject.toml has about the project."""
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def tool(name: str) -> str:
    """Return the path of a real program: on the PATH, or where tests/fetch-tools put it; else the test is skipped."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:{ROOT}/.tools/usr/bin:/usr/sbin:/sbin")
    if not found:
        pytest.skip(f"{name} is not here, and tests/fetch-tools could not fetch it")
    return found


def needs_root() -> None:
    """Skip a test that mounts, or runs as another user."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


POWERLESS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")
"""Runs a command as root in name only: what belongs to others is closed to it, as it is to any user."""

NOBODY = 65534

NETWORK = re.compile(r"(REQUESTS|CURL)_CA_BUNDLE$|(https?|all|no)_proxy$", re.IGNORECASE)
for _name in filter(NETWORK.match, tuple(os.environ)):
    del os.environ[_name]  # all servers are on loopback, to which no proxy leads


def environment(**variables: str) -> dict[str, str]:
    """Return an environment for the program: this one, without what would change its ways, and with these."""
    ours = re.compile(r"CHINACACHE_|CC_TEXTFILE_|PUSHGATEWAY$|QUERYTIME$|CREDENTIALS_DIRECTORY$|JOURNAL_STREAM$")
    return {
        name: value
        for name, value in os.environ.items()
        if not ours.match(name) and not NETWORK.match(name) and name != "PYTHONUNBUFFERED"
    } | variables


class Program:
    """A program under way: its lines on standard error as they come, and its end."""

    def __init__(self, *command: str, env: Mapping[str, str] | None = None, **options: Any) -> None:
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env, text=True, **options
        )
        self.lines: list[str] = []
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    def line(self, pattern: str) -> re.Match[str]:
        """Wait for the next line in which the pattern is found."""
        while True:
            line = self._queue.get(timeout=PATIENCE)
            if line is None:
                pytest.fail(
                    f"{self.process.args!s} ended before it said {pattern!r}; it said:\n" + "\n".join(self.lines)
                )
            self.lines.append(line)
            if match := re.search(pattern, line):
                return match

    def end(self, number: signal.Signals | None = signal.SIGTERM) -> int:
        """Send a signal, if any, wait for the end, and return the exit status."""
        if number is not None:
            self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        while (line := self._queue.get(timeout=PATIENCE)) is not None:
            self.lines.append(line)
        return status

    @property
    def said(self) -> str:
        """All that it wrote to standard error, as far as it was read."""
        return "\n".join(self.lines)


@pytest.fixture
def start() -> Iterator[Callable[..., Program]]:
    """Start programs that are killed at the end of the test."""
    with ExitStack() as stack:

        def run(*command: str, **options: Any) -> Program:
            program = Program(*command, **options)
            stack.callback(_kill, program)
            return program

        yield run


def _kill(program: Program) -> None:
    program.process.kill()
    program.process.wait()
    program._reader.join(PATIENCE)  # noqa: SLF001 # a pipe that is left open is a warning, and so an error
    assert program.process.stderr
    program.process.stderr.close()


@pytest.fixture
def node_exporter(start: Callable[..., Program]) -> Callable[[Path], str]:
    """Start the real node_exporter over a folder; returns the URL of its metrics."""

    def run(folder: Path) -> str:
        program = start(
            tool("prometheus-node-exporter"),
            "--collector.disable-defaults",
            "--collector.textfile",
            f"--collector.textfile.directory={folder}",
            "--web.listen-address=127.0.0.1:0",
        )
        return f"http://{program.line(LISTENING)[1]}/metrics"

    return run


@pytest.fixture
def pushgateway(start: Callable[..., Program]) -> Callable[[], str]:
    """Start a real Pushgateway that remembers nothing; returns its URL."""

    def run(*flags: str) -> str:
        # Debian's build persists by default, and would bring an earlier test's groups back.
        program = start(
            tool("prometheus-pushgateway"), "--persistence.file=", "--web.listen-address=127.0.0.1:0", *flags
        )
        return f"http://{program.line(LISTENING)[1]}"

    return run


def prometheus_url(program: Program) -> str:
    """Wait until a Prometheus is ready, and return its URL."""
    # Two threads write these lines, in either order.
    found = [program.line(f"{LISTENING}|Server is ready to receive web requests") for _ in range(2)]
    (address,) = (match[1] for match in found if match[1])
    return f"http://{address}"


@pytest.fixture
def prometheus(start: Callable[..., Program], tmp_path: Path) -> Callable[[Path], str]:
    """Start a real Prometheus with a configuration file; returns its URL once it is ready."""

    def run(config: Path) -> str:
        program = start(
            tool("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            "--web.listen-address=127.0.0.1:0",
        )
        return prometheus_url(program)

    return run


def eventually(look: Callable[[], Any]) -> Any:
    """Look again and again, at what tells nobody when it changes, until there is something to see."""
    deadline = time.monotonic() + PATIENCE
    while not (seen := look()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
    return seen


def get(url: str) -> str:
    """Return what an HTTP server says."""
    with urllib.request.urlopen(url, timeout=PATIENCE) as reply:
        return str(reply.read().decode())


@pytest.fixture
def portal() -> Iterator[demo.DemoPortal]:
    """Serve the demo portal."""
    with demo.DemoPortal().serving() as serving:
        yield serving


POLLS = 1_200


class LongLife(NamedTuple):
    """A process that makes so many polls of a portal, into a folder."""

    process: subprocess.Popen[str]
    portal: demo.DemoPortal
    folder: Path
    log: Path


@pytest.fixture(scope="session")
def long_life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LongLife]:
    """Start a thousand polls, a third of them failing in every way; other tests can wait while they are made."""
    endings, polls = itertools.cycle(demo.FAULTS), itertools.count()

    def third(method: Method, _channel: str) -> str | None:
        if method is Method.HIT_RATE and next(polls) % 3 == 0:
            return next(endings)
        return None

    place = tmp_path_factory.mktemp("long-life")
    folder, log = place / "textfile", place / "log"
    folder.mkdir()
    with demo.DemoPortal(fault=third).serving() as portal, log.open("w") as errors, ExitStack() as at_the_end:
        env = account(portal, CHINACACHE_CHANNEL_IDS="1", CC_TEXTFILE_TIMEOUT="20ms")
        env |= {"CC_TEXTFILE_PATH": str(folder / "a.prom"), "CC_TEXTFILE_LEDGER": str(place / "ledger.sqlite")}
        # Coverage follows every process; this one would spend most of its time being followed.
        env = {name: value for name, value in env.items() if not name.startswith("COV")}
        arguments = [sys.executable, "-m", "tests.long_life", str(POLLS)]
        process = subprocess.Popen(arguments, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=errors, text=True)
        at_the_end.enter_context(process)
        at_the_end.callback(process.kill)
        yield LongLife(process, portal, folder, log)


def account(portal: demo.DemoPortal, **variables: str) -> dict[str, str]:
    """Return an environment with an account of the demo portal, and these variables."""
    return environment(
        **{
            "CHINACACHE_USER": demo.USER,
            "CHINACACHE_PASS": demo.PASSWORD,
            "CHINACACHE_CHANNEL_IDS": ",".join(demo.CHANNELS),
            "CHINACACHE_URL": portal.url,
        }
        | variables
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder that every user can look into, unlike pytest's own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:  # the one place whose parents are open to all
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """Make a folder in memory: a commit waits for the disk, and that is not what is tested here."""
    memory = Path("/dev/shm")  # noqa: S108 # nothing secret is in it
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as made:
        yield Path(made)


@pytest.fixture
def no_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the working directory while this process is in it."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()


@pytest.fixture
def env(portal: demo.DemoPortal, folder: Path) -> dict[str, str]:
    """Return settings with which all is well."""
    return account(portal, CC_TEXTFILE_PATH=str(folder / "a.prom"))


def command(*arguments: str) -> tuple[str, ...]:
    """Return the program's command line."""
    return (sys.executable, "-m", "cc_textfile", *arguments)


IN_JOURNAL = ("sh", "-c", 'JOURNAL_STREAM=$(stat --dereference --format=%d:%i /dev/stderr) exec "$@"', "sh")
"""Runs a command as systemd does whose standard error is the journal."""


def run(
    *arguments: str, env: Mapping[str, str], before: tuple[str, ...] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the program to its end, as a user would, behind the words `before` it."""
    return subprocess.run(
        [*before, *command(*arguments)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        **options,
    )
