"""`cc-textfile check`: what it checks, in what words, how it shows that, and how it ends."""

import json
import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cc_textfile.check import State, Step, steps
from cc_textfile.demo.portal import CHANNELS, PASSWORD, USER, DemoPortal
from cc_textfile.logs import Redactor
from cc_textfile.portal.responses import Method
from cc_textfile.settings import SETTINGS, Settings
from tests.certificates import loopback
from tests.conftest import (
    NOBODY,
    PATIENCE,
    POWERLESS,
    Program,
    account,
    command,
    environment,
    eventually,
    get,
    needs_root,
    run,
)

# Each of these starts the program, most of them several times.
pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:1"
"""Where nothing listens."""

MOUNTED = ("unshare", "--mount", "sh", "-c")


class Checked:
    """The steps of a check, by name; its exit status is always what they say."""

    def __init__(self, *arguments: str, env: Mapping[str, str], **options: Any) -> None:
        done = run("check", "--node-exporter", NOWHERE, *arguments, "--json", env=env, **options)
        assert done.stderr == ""
        self.steps = {step["step"]: Step(**step) for step in json.loads(done.stdout)}
        assert done.returncode == (1 if self.names(State.FAILED) else 0)

    def has(self, step: str, state: State, detail: str, remedy: str = "") -> None:
        """Assert that the step is in this state, with these patterns in its detail and its remedy."""
        found = self.steps[step]
        assert found.state == state, found
        assert re.search(detail, found.detail), found
        assert re.search(remedy, found.remedy), found

    def names(self, state: State) -> set[str]:
        """Return the steps that are in the state."""
        return {step.step for step in self.steps.values() if step.state == state}


def alter(portal: DemoPortal, **methods: Any) -> None:
    """Let the portal handle its requests by these methods."""
    handler: Any = portal.RequestHandlerClass
    portal.RequestHandlerClass = type("Altered", (handler,), methods)


# --- The whole ---------------------------------------------------------------------------------------------------


def test_all_is_well(
    portal: DemoPortal,
    folder: Path,
    env: dict[str, str],
    node_exporter: Callable[[Path], str],
    pushgateway: Callable[..., str],
) -> None:
    """Where a poll succeeds, every step is ok; each method is requested once, and nothing is left behind or changed."""
    env |= {"PUSHGATEWAY": pushgateway(), "CC_TEXTFILE_PUSHGATEWAY_MODE": "always", "CHINACACHE_INTERVAL": "1h"}
    env |= {"CC_TEXTFILE_LEDGER": str(folder / "ledger")}
    run("run", env=env | {"CHINACACHE_INTERVAL": ""})
    made, before = portal.requests, {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    exporter = node_exporter(folder)
    for address in (exporter, exporter.removesuffix("/metrics")):
        checked = Checked("--node-exporter", address, env=env)
        assert checked.names(State.OK) == checked.steps.keys()
    assert portal.requests == made + 2 * len(Method)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    checked.has(
        "ledger", State.OK, rf"^{folder}/ledger counts 3 of 3 channels, until \d{{4}}-\d\d-\d\d \d\d:\d\d \(UTC\+8\)$"
    )
    checked.has("pushgateway group", State.OK, r"^job/ChinaCachePush was pushed \d+ s ago$")
    checked.has("node_exporter file", State.OK, r"a\.prom, written \d+ s ago$")


def test_before_the_first_poll(
    env: dict[str, str], folder: Path, node_exporter: Callable[[Path], str], pushgateway: Callable[..., str]
) -> None:
    """What only a poll makes is not missed before the first one."""
    env |= {"PUSHGATEWAY": pushgateway(), "CC_TEXTFILE_LEDGER": str(folder / "ledger")}
    checked = Checked("--node-exporter", node_exporter(folder), env=env)
    checked.has("node_exporter file", State.SKIPPED, "a.prom has not been written yet")
    checked.has("pushgateway group", State.OK, "not pushed yet")
    checked.has("ledger", State.OK, "is made by the first poll")
    assert list(folder.iterdir()) == []


def test_two_outputs(env: dict[str, str], folder: Path, pushgateway: Callable[..., str]) -> None:
    """With two outputs a poll succeeds by either; the one that fails is a warning."""
    env |= {"CC_TEXTFILE_PATH": str(folder / "gone" / "a.prom")}
    checked = Checked(env=env | {"PUSHGATEWAY": pushgateway()})
    checked.has("textfile writable", State.WARNING, "No such file or directory; the other output is good", "install -d")
    checked = Checked(env=env | {"PUSHGATEWAY": NOWHERE})
    assert checked.names(State.FAILED) == {"textfile writable", "pushgateway ready"}


def test_settings_and_their_origin(env: dict[str, str], tmp_path: Path) -> None:
    """Each setting is shown with its value and its origin, down to the file; secrets are only `set`."""
    (tmp_path / "channels").write_text("1\n2\n3\n4\n2\n")
    (tmp_path / "username").write_text("demo\n")
    (tmp_path / "password").write_text(PASSWORD)
    env |= {
        "CHINACACHE_USER": "",
        "CHINACACHE_PASS": "",
        "CHINACACHE_CHANNEL_IDS": "",
        "CHINACACHE_CHANNEL_IDS_FILE": str(tmp_path / "channels"),
        "CREDENTIALS_DIRECTORY": str(tmp_path),
        "PUSHGATEWAY": "http://me:hidden@127.0.0.1:1",
        "CC_TEXTFILE_TIMOUT": "5s",
    }
    found = Checked("--interval", "90s", "--shard", "1/1", env=env).steps
    expected = {
        "user": f"demo (credential {tmp_path}/username)",
        "password": f"set (credential {tmp_path}/password)",
        "channels": f"4: 1, 2, 3, ... (variable CHINACACHE_CHANNEL_IDS_FILE, file {tmp_path}/channels)",
        "methods": "hit_rate, isp, region, http_code (default)",
        "interval": "1m30s (flag --interval)",
        "querytime": "5 min (default)",
        "textfile": f"{env['CC_TEXTFILE_PATH']} (variable CC_TEXTFILE_PATH)",
        "pushgateway": "http://127.0.0.1:1 (variable PUSHGATEWAY)",
        "gauges": "true (default)",
        "catch_up": "168h (default)",
        "shard": "1/1 (flag --shard)",
    }
    assert expected.items() <= {name.removeprefix("settings "): step.detail for name, step in found.items()}.items()
    unset = {"ledger", "ca_file", "password_file", "channels_file"}
    assert {f"settings {setting.name}" for setting in SETTINGS if setting.name not in unset} <= found.keys()
    plain = run("check", env=env).stdout
    assert re.search(r"\nwarning  settings +channels that are given more than once .*: 2\n", plain)
    assert re.search(r"\nwarning  settings +.*CC_TEXTFILE_TIMOUT.*\n", plain)


def test_bad_settings(portal: DemoPortal) -> None:
    """Bad settings are status 2: all faults at once, nothing tried, and a list for programs."""
    env = environment(CHINACACHE_USER="me", QUERYTIME="x", CC_TEXTFILE_PATH="a.txt")
    plain, parsed = run("check", env=env), run("check", "--json", env=env)
    assert (plain.returncode, parsed.returncode, plain.stdout) == (2, 2, "")
    faults = [Step(**step) for step in json.loads(parsed.stdout)]
    assert {fault.state for fault in faults} == {State.FAILED}
    assert [fault.detail in plain.stderr for fault in faults] == [True] * 4
    done = run("check", env=account(portal, PUSHGATEWAY=NOWHERE, http_proxy="socks5://127.0.0.1:1"))
    assert (done.returncode, done.stdout.count("portal c")) == (2, 0)
    assert "the proxy of the environment" in done.stderr


def test_settings_of_a_service(tmp_path: Path) -> None:
    """Where the package is installed, missing settings lead to the command that checks a service."""

    def remedies(*arguments: str, **variables: str) -> set[str]:
        env = environment(**{"PATH": f"{tmp_path}:{os.environ['PATH']}", **variables})
        return {step["remedy"] for step in json.loads(run("check", "--json", *arguments, env=env).stdout)}

    (tmp_path / "cc-textfile-check").touch(mode=0o755)
    assert remedies() == {"the services have settings of their own; to check those, type: sudo cc-textfile-check"}
    usual = {"`cc-textfile run --help` explains each setting"}
    assert remedies(CREDENTIALS_DIRECTORY=str(tmp_path)) == usual
    (tmp_path / "cc-textfile-check").unlink()
    assert remedies() == usual


# --- How it is shown, and how it ends ----------------------------------------------------------------------------


def on_a_terminal(env: Mapping[str, str]) -> str:
    """Return what a check writes to a terminal."""
    reader, end = pty.openpty()
    process = subprocess.Popen(command("check", "--node-exporter", NOWHERE), env=env, stdout=end, stderr=end)
    os.close(end)
    text = b""
    try:
        while read := os.read(reader, 4096):
            text += read
    except OSError:  # the other end is closed
        pass
    os.close(reader)
    assert process.wait(PATIENCE) == 1
    return text.decode().replace("\r\n", "\n")


def test_lines(env: dict[str, str]) -> None:
    """Each step is a line, its remedy another, the verdict the last; only on a terminal the states are coloured."""
    env |= {"CHINACACHE_URL": NOWHERE, "CC_TEXTFILE_ACOUNT": "x", "TERM": "xterm"}
    done = run("check", "--node-exporter", NOWHERE, env=env)
    assert (done.returncode, done.stderr) == (1, "")
    *lines, verdict = done.stdout.splitlines()
    assert verdict == "a poll would not succeed: 1 failed, 1 to look at"
    assert all(re.match(r"(ok|warning|FAILED|skipped) +(\w+ ?)+ |         to fix it: ", line) for line in lines)
    failed = "FAILED   portal connection          no connection to 127.0.0.1:1: Connection refused"
    assert lines[lines.index(failed) + 1].startswith("         to fix it: nc -vz 127.0.0.1 1; ")
    terminal = on_a_terminal(env)
    assert "\x1b[31mFAILED  \x1b[0m portal connection" in terminal
    assert re.sub(r"\x1b\[\d+m", "", terminal) == done.stdout == on_a_terminal(env | {"NO_COLOR": "1"})


def test_standard_output_that_takes_nothing(env: dict[str, str]) -> None:
    """A full disk or a reader that has gone is status 1 and a line; a closed output changes nothing."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command("check"), env=env, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r".*error: standard output cannot be written: No space left on device\n", done.stderr)
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command("check"), env=env, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    closed = ["sh", "-c", '"$@" >&-', "-", *command("check")]
    done = subprocess.run(closed, env=env, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_foreign_text(portal: DemoPortal, env: dict[str, str]) -> None:
    """What the portal says in Chinese or in control characters breaks neither a terminal nor an old encoding."""
    body = json.dumps({"code": 9, "msg": "密码错误\x1b[31m"}).encode()
    alter(portal, refuse=lambda handler: handler.send(body))
    env |= {"CHINACACHE_PASS": "guess"}
    assert "`code` is 9: 密码错误 [31m\n" in run("check", env=env).stdout
    assert r"`code` is 9: \u5bc6" in run("check", env=env | {"PYTHONIOENCODING": "ascii"}).stdout


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_no_secret_is_shown(portal: DemoPortal, env: dict[str, str], form: tuple[str, ...]) -> None:
    """The password is not shown when the portal repeats it, in no spelling; our own words stay as they are."""
    env |= {"CHINACACHE_PASS": "p&w=ä/ +%", "PUSHGATEWAY": "http://me:hid%26den@127.0.0.1:1"}
    alter(portal, refuse=lambda handler: handler.send(json.dumps({"code": 9, "msg": handler.path}).encode()))
    done = run("check", *form, env=env)
    assert "***" in done.stdout
    assert not re.search(r"p&w|p%26w|hid.*den|\\u00e4", done.stdout + done.stderr)
    done = run("check", *form, env=env | {"CHINACACHE_PASS": "settings"})
    assert "settings user" in done.stdout


def test_an_interrupt(portal: DemoPortal, env: dict[str, str], folder: Path, start: Callable[..., Program]) -> None:
    """Ctrl-C ends it at once, whatever the portal is doing, without a traceback, and nothing is left behind."""
    requested = threading.Event()

    def fault(*_: object) -> str:
        requested.set()
        return "hang"

    portal.fault = fault
    program = start(*command("check", "--timeout", "1h", "--deadline", "1h"), env=env)
    assert requested.wait(PATIENCE)
    assert program.end(signal.SIGINT) == 1
    assert [line.partition("error: ")[2] for line in program.lines] == ["SIGINT before the check was complete"]
    assert list(folder.iterdir()) == []


# --- The portal --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "detail", "remedy"),
    [
        (NOWHERE, "^no connection to 127.0.0.1:1: Connection refused$", r"^nc -vz 127\.0\.0\.1 1; .*firewall"),
        ("https://portal.invalid:444", "portal.invalid:444 cannot be resolved", "^getent hosts portal.invalid; "),
        ("http://a..b", "^a..b is not a host name$", r"correct --portal-url \(CHINACACHE_URL\)$"),
    ],
)
def test_no_connection(env: dict[str, str], url: str, detail: str, remedy: str) -> None:
    """A portal that cannot be reached is named with the reason, and nothing more of it is tried."""
    checked = Checked(env=env | {"CHINACACHE_URL": url})
    checked.has("portal connection", State.FAILED, detail, remedy)
    assert [name for name in checked.steps if name.startswith("portal")] == ["portal connection"]


@pytest.mark.parametrize(("scheme", "port"), [("http", "80"), ("https", "443")])
def test_the_port_of_the_scheme(env: dict[str, str], scheme: str, port: str) -> None:
    """An address without a port has its scheme's."""
    step = Checked("--timeout", "2s", env=env | {"CHINACACHE_URL": f"{scheme}://127.0.0.1"}).steps["portal connection"]
    assert re.search(rf"127\.0\.0\.1 {port};|port {port} of ", step.remedy or step.detail)


@contextmanager
def secure(folder: Path, *names: str, days: float = 90) -> Iterator[tuple[DemoPortal, dict[str, str]]]:
    """Serve the demo portal over TLS; yields it, and the variables with its address and its CA bundle."""
    context, bundle = loopback(folder, *names, not_after=datetime.now(UTC) + timedelta(days=days, minutes=5))
    portal = DemoPortal()
    portal.socket = context.wrap_socket(portal.socket, server_side=True)
    with portal.serving():
        url = portal.url.replace("http:", "https:")
        yield portal, {"CHINACACHE_URL": url, "CHINACACHE_CA_FILE": str(bundle)}


@pytest.mark.parametrize(
    ("names", "days", "trusted", "detail", "remedy"),
    [
        ((), -1, True, "is not trusted: certificate has expired$", "clock of this host is right"),
        ((), 90, False, "is not trusted: unable to get local issuer", r"^name the bundle .* --ca-file \(CHINA"),
        (("elsewhere.example",), 90, True, "is not trusted: IP address mismatch", "correct the name in --portal"),
    ],
    ids=["expired", "untrusted", "of another name"],
)
def test_a_bad_certificate(
    env: dict[str, str], tmp_path: Path, names: tuple[str, ...], days: int, detail: str, remedy: str, *, trusted: bool
) -> None:
    """A certificate that is not trusted is named with the reason, before the password is sent."""
    with secure(tmp_path, *names, days=days) as (portal, tls):
        checked = Checked(env=env | tls | ({} if trusted else {"CHINACACHE_CA_FILE": ""}))
        assert portal.requests == 0
    checked.has("portal TLS", State.FAILED, detail, remedy)
    assert "portal password" not in checked.steps


@pytest.mark.parametrize(("days", "state"), [(13, State.WARNING), (14, State.OK)])
def test_the_days_left_on_a_certificate(env: dict[str, str], tmp_path: Path, days: int, state: State) -> None:
    """A certificate that ends soon is a warning, while polls still succeed."""
    with secure(tmp_path, days=days) as (_, tls):
        Checked(env=env | tls).has("portal TLS", state, rf"valid for {days} more days, until \d{{4}}-\d\d-\d\d$")


def test_a_server_without_tls(portal: DemoPortal, env: dict[str, str]) -> None:
    """An https address of a server that answers in clear text, or not at all, is named as what to correct."""
    url = portal.url.replace("http:", "https:")
    Checked(env=env | {"CHINACACHE_URL": url}).has(
        "portal TLS", State.FAILED, "TLS with 127.0.0.1:.* failed", "see whether --portal-url"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env |= {"CHINACACHE_URL": f"https://127.0.0.1:{silent.getsockname()[1]}"}
        Checked("--timeout", "1s", env=env).has(
            "portal TLS", State.FAILED, "^127.0.0.1 did not respond within 1 s$", "see whether --portal-url"
        )


def test_a_proxy(portal: DemoPortal, env: dict[str, str]) -> None:
    """Behind a proxy, the proxy is what has to be reached; a password in clear text is a warning."""
    checked = Checked(env=env | {"http_proxy": portal.url, "CHINACACHE_URL": "http://portal.invalid"})
    checked.has("portal connection", State.OK, r"of the proxy 127\.0\.0\.1 \(127\.0\.0\.1\) is open$")
    checked.has("portal TLS", State.WARNING, "sent in clear text$", "https address")
    # The demo portal is not a proxy for TLS.
    checked = Checked(env=env | {"https_proxy": portal.url, "CHINACACHE_URL": "https://portal.invalid"})
    checked.has("portal TLS", State.SKIPPED, "the proxy hides the certificate")
    checked.has("portal isp", State.FAILED, "the proxy gave no connection", "https_proxy and no_proxy")
    assert "portal load" not in checked.steps
    Checked(env=env | {"https_proxy": NOWHERE, "CHINACACHE_URL": "https://portal.invalid"}).has(
        "portal connection", State.FAILED, "through the proxy: Connection refused", "https_proxy and no_proxy"
    )


@pytest.mark.parametrize(
    ("ahead", "state", "detail"),
    [
        (-90, State.WARNING, r"is (8|9)\d s ahead of the portal's"),
        (90, State.WARNING, r"is (8|9)\d s behind the portal's"),
        (30, State.OK, "is within 60 s of the portal's"),
        (None, State.SKIPPED, "does not say what time it is"),
    ],
)
def test_the_clocks(portal: DemoPortal, env: dict[str, str], ahead: float | None, state: State, detail: str) -> None:
    """The clock of this host is compared with the portal's."""

    def date(*_: object) -> str:
        return format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True) if ahead else "never"

    alter(portal, date_time_string=date)
    Checked(env=env).has("portal clock", state, detail, "timedatectl set-ntp true" if state is State.WARNING else "^$")


@pytest.mark.parametrize("by_status", [False, True])
def test_a_wrong_password(portal: DemoPortal, env: dict[str, str], tmp_path: Path, *, by_status: bool) -> None:
    """A wrong password is sent once; the remedy names where the account was read from."""
    if by_status:
        alter(portal, refuse=lambda handler: handler.send(b"<html>no</html>", status=401, kind="text/html"))
    (tmp_path / "password").write_text("guess-of-mine")
    checked = Checked("--password-file", str(tmp_path / "password"), env=env)
    assert portal.requests == 1
    detail = "HTTP status 401" if by_status else "the portal refused: .*: user name or password is wrong"
    remedy = rf"user \(variable CHINACACHE_USER\) or password \(flag --password-file, file {tmp_path}/password\)"
    checked.has("portal password", State.FAILED, rf"user demo, hit_rate of channel {CHANNELS[0]}: {detail}", remedy)
    assert "portal hit_rate" not in checked.steps


@pytest.mark.parametrize(
    ("fault", "detail", "remedy"),
    [
        ("refused", "the portal refused", "whether user demo may use this method"),
        ("status", "HTTP status 502", "ask the operator of the portal, or of the proxy"),
        ("malformed", "is not JSON", "ask the operator of the portal, or of the proxy"),
        ("hang", "no complete response from .* within 2 s", r"^raise --timeout \(CC_TEXTFILE_TIMEOUT\)"),
        ("broken", "closed the connection before", "try again"),
    ],
)
def test_a_method_that_fails(portal: DemoPortal, env: dict[str, str], fault: str, detail: str, remedy: str) -> None:
    """A method that fails is named with the reason and the channel; the others are requested all the same."""
    portal.fault = lambda method, _: fault if method is Method.ISP else None
    checked = Checked("--timeout", "2s", env=env)
    assert checked.names(State.FAILED) == {"portal isp"}
    checked.has("portal isp", State.FAILED, f"^channel {CHANNELS[0]}: .*{detail}", remedy)
    checked.has("portal load", State.OK, "12 requests")


def test_a_deadline_that_is_too_short(portal: DemoPortal, env: dict[str, str]) -> None:
    """A request that the deadline of a poll ends is a failure, and the deadline is what to raise."""
    portal.fault = lambda *_: "hang"
    checked = Checked("--deadline", "200ms", "--methods", "isp", env=env)
    assert checked.names(State.FAILED) == {"portal isp"}
    checked.has("portal isp", State.FAILED, "", r"^raise --deadline \(CC_TEXTFILE_DEADLINE\)")


def test_the_first_method_fails(portal: DemoPortal, env: dict[str, str]) -> None:
    """The first good response shows that the password is right; where none comes, nothing is said of it."""
    portal.fault = lambda method, _: "malformed" if method is Method.HIT_RATE else None
    checked = Checked(env=env)
    assert checked.names(State.FAILED) == {"portal hit_rate"}
    checked.has("portal password", State.OK, "admits user demo")
    portal.fault = lambda *_: "malformed"
    checked = Checked(env=env)
    assert checked.names(State.FAILED) == {f"portal {method}" for method in Method}
    assert "portal password" not in checked.steps


def test_a_poll_that_takes_too_long(env: dict[str, str]) -> None:
    """Channels that cannot be requested within the deadline are a warning before they are missed."""
    channels = ",".join(map(str, range(10_000)))
    checked = Checked("--channels", channels, "--concurrency", "1", "--deadline", "5s", env=env)
    detail = r"40,000 requests .*; at this rate it takes \d+ s, and the deadline is 5 s"
    checked.has("portal load", State.WARNING, detail, r"raise --concurrency .* or --deadline .* --shard")


def test_the_series_of_a_poll(env: dict[str, str], folder: Path) -> None:
    """The number of series is estimated from one channel, and is what a poll then makes of all."""
    (folder / "channels").write_text("".join(f'{channel} team="web"\n' for channel in CHANNELS))
    env |= {"CHINACACHE_CHANNEL_IDS": "", "CHINACACHE_CHANNEL_IDS_FILE": str(folder / "channels")}
    checked = Checked("--querytime", "1440", env=env)
    run("run", "--querytime", "1440", env=env)
    series = [line for line in (folder / "a.prom").read_text().splitlines() if not line.startswith("#")]
    checked.has("portal load", State.OK, f"^about 12 requests and {len(series)} series in a poll$")
    checked = Checked("--ledger", str(folder / "ledger"), env=env)
    detail = "^about 18 requests and .*, and the counters of the ledger; more series around midnight"
    checked.has("portal load", State.OK, detail)


# --- The text file -----------------------------------------------------------------------------------------------


def test_a_missing_folder(env: dict[str, str], folder: Path) -> None:
    """A missing folder is named with the command that makes it, and that command works."""
    needs_root()
    env |= {"CC_TEXTFILE_PATH": str(folder / "new folder" / "a.prom")}
    checked = Checked(env=env)
    made = rf"^as root: install -d -m 0755 -o \S+ '{folder}/new folder'; or correct --textfile \(CC_TEXTFILE_PATH\)$"
    checked.has("textfile writable", State.FAILED, "new folder: No such file or directory$", made)
    remedy = checked.steps["textfile writable"].remedy.removeprefix("as root: ").partition("; or")[0]
    subprocess.run(shlex.split(remedy), check=True)
    Checked(env=env).has("textfile writable", State.OK, "")


def writable(portal: DemoPortal, path: Path) -> Step:
    """Return what a check in this process, as it is, says of a path."""
    settings = Settings(
        user=USER, password=PASSWORD, account=USER, channels=CHANNELS, textfile=path, portal_url=portal.url
    )
    return {step.step: step for step in steps(settings, NOWHERE, Redactor())}["textfile writable"]


def test_a_path_that_leads_nowhere(portal: DemoPortal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file where the folder should be, and a relative path without a working directory, are named."""
    (tmp_path / "file").touch()
    step = writable(portal, tmp_path / "file" / "a.prom")
    assert (step.state, step.remedy) == (State.FAILED, "correct --textfile (CC_TEXTFILE_PATH)")
    assert step.detail.endswith("/file: Not a directory")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    step = writable(portal, Path("a.prom"))
    assert step.state is State.FAILED
    assert step.detail.endswith(": No such file or directory")


def test_a_folder_of_another_user(env: dict[str, str], folder: Path) -> None:
    """A folder that this user may not write to is named; the remedy takes nothing from the folder's owner."""
    needs_root()
    os.chown(folder, NOBODY, NOBODY)
    checked = Checked(env=env, before=POWERLESS)
    remedy = f"as root: setfacl -m u:root:rwx {folder}$"
    checked.has("textfile writable", State.FAILED, f"user root cannot write in {folder}: Permission denied", remedy)


@pytest.mark.parametrize(
    ("mount", "detail", "remedy"),
    [
        ("-o size=16k", "No space left on device", "free some space: df -h "),
        ("-o ro", "Read-only file system", "ReadWritePaths="),
    ],
)
def test_a_file_system_that_takes_nothing(
    env: dict[str, str], folder: Path, mount: str, detail: str, remedy: str
) -> None:
    """A file system without room for the file of all channels, or a read-only one, is named with the next command."""
    needs_root()
    script = f'mount -t tmpfs {mount} x {folder}; "$@"; s=$?; [ -z "$(ls -A {folder})" ] && exit $s'
    checked = Checked(env=env | {"CC_TEXTFILE_LEDGER": f"{folder}/ledger"}, before=(*MOUNTED, script, "-"))
    checked.has("textfile writable", State.FAILED, detail, remedy + str(folder))
    checked.has("ledger", State.FAILED, detail, remedy + str(folder))


def test_a_file_that_cannot_be_replaced(portal: DemoPortal, env: dict[str, str], folder: Path) -> None:
    """A folder in the file's place, and another user's file in a sticky folder, are named; the command for it works."""
    needs_root()
    path = folder / "a.prom"
    path.mkdir()
    Checked(env=env).has("textfile writable", State.FAILED, f"{path} is a folder", "move it away")
    path.rmdir()
    path.touch()
    folder.chmod(0o1777)

    def unnamed() -> Step:
        os.seteuid(4_000_000)  # a user without a name, which `chown` takes, too
        try:
            return writable(portal, path)
        finally:
            os.seteuid(0)

    step = unnamed()
    assert step.state is State.FAILED
    assert "belongs to another user, and user 4000000 cannot replace it" in step.detail
    fix = shlex.split(step.remedy.removeprefix("as root: "))
    assert fix == ["chown", "4000000", str(path)]
    subprocess.run(fix, check=True)
    assert unnamed().state is State.OK


@pytest.mark.parametrize(
    ("place", "mode", "right"), [("a.prom", 0o600, "o+r"), (".", 0o711, "o+rx"), ("..", 0o700, "o+x")]
)
def test_what_other_users_cannot_read(env: dict[str, str], folder: Path, place: str, mode: int, right: str) -> None:
    """node_exporter runs as another user: what is closed to that is named, with the command that opens it."""
    inner = folder / "inner"
    inner.mkdir()
    (inner / "a.prom").touch()
    (inner / place).chmod(mode)
    checked = Checked(env=env | {"CC_TEXTFILE_PATH": str(inner / "a.prom")})
    closed = os.path.normpath(inner / place)
    remedy = rf"^chmod {re.escape(right)} {closed},"
    checked.has("textfile readable", State.WARNING, f"^{closed} is closed to other users$", remedy)


def test_a_running_poller(env: dict[str, str], folder: Path, start: Callable[..., Program]) -> None:
    """A daemon that polls into the file is named by its process, and not disturbed."""
    program = start(*command("run", "--interval", "1h"), env=env)
    program.line("; wrote ")
    Checked(env=env).has("textfile locked", State.OK, f"^locked by process {program.process.pid}, which polls$")
    assert program.end() == 0
    assert [file.name for file in folder.iterdir()] == ["a.prom"]


def test_a_poller_that_cannot_be_seen(env: dict[str, str]) -> None:
    """In the sandbox of a unit other processes are hidden, and the check does not claim that there are none."""
    needs_root()
    hidden = ("unshare", "--mount", "--pid", "--fork", "sh", "-c")
    script = 'mount -t proc -o subset=pid proc /proc && exec "$@"'
    checked = Checked(env=env, before=(*hidden, script, "sh"))
    checked.has("textfile locked", State.SKIPPED, "^not known: /proc/net/unix is hidden$")


def test_settings_alone(env: dict[str, str], portal: DemoPortal) -> None:
    """A unit that reloads asks whether the settings can be read, and nothing else."""
    assert run("check", "--settings-only", env=env).returncode == 0
    done = run("check", "--settings-only", env=env | {"CHINACACHE_CHANNEL_IDS": ""})
    assert done.returncode == 2
    assert "CHINACACHE_CHANNEL_IDS" in done.stderr
    assert portal.requests == 0


def test_a_neighbour_with_our_series(
    env: dict[str, str], folder: Path, start: Callable[..., Program], node_exporter: Callable[[Path], str]
) -> None:
    """A second poller of the account, or of a channel, is named; the fix is that they differ, not to delete a file."""
    other = env | {"CC_TEXTFILE_PATH": str(folder / "b.prom"), "CHINACACHE_CHANNEL_IDS": "7"}
    run("run", "--account", "other", env=other)
    (folder / "c.prom").mkdir()
    (folder / "d.prom").symlink_to("a.prom")
    os.mkfifo(folder / "e.prom")
    run("run", env=env)
    assert Checked(env=env).names(State.WARNING) == set()
    # A channel that both poll.
    run("run", "--account", "other", "--channels", CHANNELS[1], env=other)
    checked = Checked(env=env)
    detail = rf'^{folder}/b.prom, written \d+ s ago, has ChinaCache_.*channel="{CHANNELS[1]}".*}}, too: '
    checked.has("textfile neighbours", State.WARNING, detail, "^stop one of the two pollers, or give them .*--channels")
    assert Checked("--no-gauges", "--ledger", str(folder / "ledger"), env=env).names(State.WARNING) == set()
    (folder / "e.prom").unlink()
    # An account that both poll. node_exporter says nothing about such a pair, and serves one of the two.
    program = start(*command("run", "--interval", "1h"), env=other)
    program.line("; wrote ")
    checked = Checked(env=env)
    detail = rf"ago by process {program.process.pid}, has cc_textfile_\w+{{.*}}, too: "
    checked.has("textfile neighbours", State.WARNING, detail, "^stop one of the two pollers, or give them .*--account")
    assert get(node_exporter(folder)).count(f'cc_textfile_poll_success{{account="{USER}"}}') == 1


def test_a_neighbour_where_node_exporter_reads(
    env: dict[str, str], folder: Path, tmp_path: Path, node_exporter: Callable[[Path], str]
) -> None:
    """The files that node_exporter reads are compared, too, where our own is only a link."""
    run("run", env=env)
    run("run", "--textfile", str(tmp_path / "old.prom"), env=env)
    (tmp_path / "a.prom").symlink_to(folder / "a.prom")
    checked = Checked("--node-exporter", node_exporter(tmp_path), env=env)
    checked.has("node_exporter file", State.OK, "")
    checked.has("textfile neighbours", State.WARNING, f"^{tmp_path}/old.prom, ", "^stop one of the two pollers")


# --- The ledger --------------------------------------------------------------------------------------------------


def test_a_ledger_of_other_channels(env: dict[str, str], folder: Path) -> None:
    """Only the positions of the channels that are polled are shown."""
    env |= {"CC_TEXTFILE_LEDGER": str(folder / "ledger")}
    run("run", env=env)
    Checked("--channels", "7", env=env).has("ledger", State.OK, f"^{folder}/ledger counts 0 of 1 channels$")


def test_a_ledger_that_cannot_be_used(env: dict[str, str], folder: Path) -> None:
    """A file that is not a ledger, or that this user may not write, is a failure, and stays as it is."""
    needs_root()
    ledger = folder / "ledger"
    env |= {"CC_TEXTFILE_LEDGER": str(ledger)}
    ledger.write_bytes(b"no ledger" * 1000)
    Checked(env=env).has("ledger", State.FAILED, f"the ledger {ledger} cannot be used: ")
    assert ledger.read_bytes() == b"no ledger" * 1000
    ledger.chmod(0o644)
    os.chown(ledger, NOBODY, NOBODY)
    Checked(env=env, before=POWERLESS).has(
        "ledger", State.FAILED, f"user root cannot write {ledger}: Permission denied", f"setfacl .* {ledger}$"
    )


# --- The Pushgateway ---------------------------------------------------------------------------------------------


@contextmanager
def serving(**pages: bytes) -> Iterator[str]:
    """Serve these pages, by the last word of their paths."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = pages.get(self.path.rpartition("/")[2], b"")
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(OSError):  # the client does not want it all
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_no_pushgateway(portal: DemoPortal, env: dict[str, str]) -> None:
    """A Pushgateway that does not respond, or another server in its place, is named without its password."""
    checked = Checked(env=env | {"CC_TEXTFILE_PATH": "", "PUSHGATEWAY": NOWHERE})
    detail, remedy = "no connection to 127.0.0.1:1: Connection refused", "start a Pushgateway there, or correct --push"
    checked.has("pushgateway ready", State.FAILED, detail, remedy)
    checked.has("textfile writable", State.SKIPPED, r"--textfile \(CC_TEXTFILE_PATH\) is not set")
    address = portal.url.replace("//", "//me:hidden@")
    done = run("check", "--node-exporter", address, env=env | {"CC_TEXTFILE_PATH": "", "PUSHGATEWAY": address})
    assert done.returncode == 1
    assert f"{portal.url}/-/ready has status 404\n         to fix it: correct --pushgateway" in done.stdout
    assert "hidden" not in done.stdout + done.stderr


def test_a_pushgateway_that_shows_nothing(env: dict[str, str]) -> None:
    """A page that cannot be read costs the age of the group; a push would succeed."""
    with serving(metrics=bytes(65 * 1024 * 1024)) as url:
        Checked("--pushgateway", url, env=env).has(
            "pushgateway group", State.SKIPPED, "its age is not known: .* is longer than"
        )


@pytest.mark.parametrize("shard", ["", "1/1"])
def test_a_group_that_is_not_pushed_any_more(env: dict[str, str], pushgateway: Callable[..., str], shard: str) -> None:
    """A group is served until it is deleted: an old one is named, and the command that deletes it works."""
    env |= {"PUSHGATEWAY": pushgateway(), "CC_TEXTFILE_PUSHGATEWAY_MODE": "always", "CC_TEXTFILE_SHARD": shard}
    run("run", "--account", "a b", env=env)
    # A push is old after two intervals and a deadline.
    eventually(
        lambda: (
            "WARNING"
            if Checked("--account", "a b", "--interval", "1ms", "--deadline", "1s", env=env).names(State.WARNING)
            else ""
        )
    )
    checked = Checked("--account", "a b", "--interval", "1ms", "--deadline", "1s", env=env)
    place = "job/ChinaCachePush/account/a%20b" + ("/instance/shard-1-of-1" if shard else "")
    detail = f"^{place} was pushed .* ago, and is served until it is deleted$"
    checked.has("pushgateway group", State.WARNING, detail, "curl -X DELETE ")
    delete = shlex.split(checked.steps["pushgateway group"].remedy.partition("any more: ")[2])
    subprocess.run(delete, check=True)
    eventually(lambda: "push_time_seconds{" not in get(f"{env['PUSHGATEWAY']}/metrics"))
    Checked("--account", "a b", env=env).has("pushgateway group", State.OK, "not pushed yet")


# --- node_exporter -----------------------------------------------------------------------------------------------


def test_no_node_exporter(portal: DemoPortal, env: dict[str, str]) -> None:
    """Without a node_exporter a poll succeeds; what listens in its place is named."""
    checked = Checked(env=env)
    detail = "^no response from node_exporter: no connection to 127.0.0.1:1"
    checked.has("node_exporter file", State.SKIPPED, detail, "--node-exporter URL")
    Checked("--node-exporter", portal.url, env=env).has(
        "node_exporter file", State.WARNING, "/metrics has status 404, and no metrics", "--node-exporter URL"
    )
    done = run("check", "--node-exporter", "http://:x", env=env)
    assert done.returncode == 2
    assert "--node-exporter" in done.stderr


def test_a_node_exporter_of_another_folder(
    env: dict[str, str], folder: Path, tmp_path: Path, node_exporter: Callable[[Path], str]
) -> None:
    """A node_exporter that reads elsewhere is named, with the folder; the same file by another path is found."""
    exporter = node_exporter(tmp_path)
    run("run", env=env)
    remedy = f"link the file into its folder, or .*--collector.textfile.directory={folder}$"
    Checked("--node-exporter", exporter, env=env).has(
        "node_exporter file", State.WARNING, f"does not serve {folder}/a.prom; it reads in another", remedy
    )
    other = tmp_path / "a.prom"
    other.write_text("node_boots 1\n")
    os.utime(other, (1e9, 1e9))
    Checked("--node-exporter", exporter, env=env).has(
        "node_exporter file", State.WARNING, f"it reads in {tmp_path}$", remedy
    )
    # As in a container.
    written = (folder / "a.prom").stat().st_mtime
    os.utime(other, (written, written))
    Checked("--node-exporter", exporter, env=env).has("node_exporter file", State.OK, "serves .*a.prom")


@pytest.mark.parametrize(("age", "words"), [(3 * 86400, "3 days"), (3 * 3600, "3 h"), (10 * 60, "10 min")])
def test_an_old_file(env: dict[str, str], folder: Path, age: float, words: str) -> None:
    """A file that nobody has written for long is named with its age; a line that cannot be read is skipped."""
    run("run", env=env)
    written = time.time() - age
    os.utime(folder / "a.prom", (written, written))
    page = (
        f'node_textfile_mtime_seconds{{file="{folder}/a.prom"}} {written}\nnode_textfile_mtime_seconds{{file= 1\n'
        "node_textfile_scrape_error 1\n"
    )
    with serving(metrics=page.encode()) as url:
        checked = Checked("--node-exporter", url, "--interval", "1m", env=env)
    checked.has("node_exporter file", State.WARNING, f", written {words} ago$", "start cc-textfile run")
    checked.has("node_exporter errors", State.WARNING, "^node_textfile_scrape_error is 1$", "journalctl -u prometheus")
