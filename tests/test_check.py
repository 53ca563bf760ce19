"""`cc-textfile check`: what it checks, in what words, how it shows that, and how it ends."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from cc_textfile.check import State, Step
from cc_textfile.demo.portal import CHANNELS, PASSWORD, USER, DemoPortal
from cc_textfile.portal.responses import Method
from cc_textfile.settings import SETTINGS
from tests.certificates import loopback
from tests.conftest import (
    NOBODY,
    PATIENCE,
    POWERLESS,
    Program,
    account,
    command,
    environment,
    get,
    needs_root,
    run,
)

# Each of these starts the program, most of them several times.
pytestmark = pytest.mark.slow

NOWHERE = "http://127.0.0.1:1"
"""Where nothing listens."""

DMESG = "^correct the path, or see what the kernel says: dmesg$"

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


def respond(portal: DemoPortal, body: str, status: int = 200) -> list[str]:
    """Let the portal send this response, whatever is requested; returns a list of the credentials that come."""
    credentials = []

    def do_get(handler: Any) -> None:
        portal.requests += 1
        credentials.append(handler.headers["Authorization"])
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body.encode())))
        handler.end_headers()
        handler.wfile.write(body.encode())
        handler.wfile.flush()

    alter(portal, do_GET=do_get)
    return credentials


# --- The whole ---------------------------------------------------------------------------------------------------


def test_all_is_well(
    portal: DemoPortal,
    folder: Path,
    env: dict[str, str],
    node_exporter: Callable[[Path], str],
    pushgateway: Callable[..., str],
) -> None:
    """Where a poll succeeds, also before the first, every step is ok; nothing is requested twice, or left behind."""
    env |= {"PUSHGATEWAY": pushgateway(), "CC_TEXTFILE_LEDGER": str(folder / "ledger")}
    exporter = node_exporter(folder)
    for polled, address in ((False, exporter), (True, exporter.removesuffix("/metrics"))):
        if polled:
            run("run", env=env)
        made, before = portal.requests, {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
        checked = Checked("--node-exporter", address, env=env)
        assert checked.names(State.OK) == checked.steps.keys()
        assert {"portal password", "ledger", "textfile readable", "pushgateway ready"} < checked.steps.keys()
        assert portal.requests == made + len(Method)
        assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    checked.has("node_exporter file", State.OK, r"a\.prom, written at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC$")
    checked.has("textfile locked", State.OK, "^not locked: nothing polls now$")


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
    done = run("check", "--interval", "90s", "--shard", "1/1", env=env)
    origin = f"variable CHINACACHE_CHANNEL_IDS_FILE, file {tmp_path}/channels"
    for line in (
        f"ok       settings user              demo (credential {tmp_path}/username)",
        f"ok       settings password          set (credential {tmp_path}/password)",
        f"ok       settings channels          4: 1, 2, 3, 4 ({origin})",
        "ok       settings methods           hit_rate, isp, region, http_code (default)",
        "ok       settings interval          1m30s (flag --interval)",
        "ok       settings pushgateway       http://127.0.0.1:1 (variable PUSHGATEWAY)",
        "ok       settings gauges            true (default)",
        "ok       settings shard             1/1 (flag --shard)",
        "warning  settings                   channels that are given more than once ",
        "warning  settings                   variable CC_TEXTFILE_TIMOUT is unknown",
    ):
        assert f"\n{line}" in f"\n{done.stdout}"
    unset = {"ledger", "ca_file", "password_file", "channels_file"}
    assert [s.name for s in SETTINGS if f" settings {s.name} " not in done.stdout and s.name not in unset] == []


def test_bad_settings(portal: DemoPortal) -> None:
    """Bad settings are status 2: all faults at once, nothing tried, and a list for programs."""
    env = environment(CHINACACHE_USER="me", QUERYTIME="x", CC_TEXTFILE_PATH="a.txt")
    plain, parsed = run("check", env=env), run("check", "--json", env=env)
    assert (plain.returncode, parsed.returncode, plain.stdout) == (2, 2, "")
    faults = [Step(**step) for step in json.loads(parsed.stdout)]
    assert {fault.state for fault in faults} == {State.FAILED}
    assert [fault.detail in plain.stderr for fault in faults] == [True] * 4
    done = run("check", env=account(portal, PUSHGATEWAY=NOWHERE, http_proxy="socks5://127.0.0.1:1"))
    assert (done.returncode, done.stdout.count("portal p")) == (2, 0)
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


def test_a_proxy_that_cannot_be_one(env: dict[str, str]) -> None:
    """What is found out in the middle is in the list, too."""
    done = run("check", "--json", env=env | {"http_proxy": "socks5://proxy", "no_proxy": ""})
    assert done.returncode == 2
    assert [step["state"] for step in json.loads(done.stdout)] == ["failed"]
    assert "the proxy of the environment" in json.loads(done.stdout)[0]["detail"]


def test_settings_alone(env: dict[str, str], portal: DemoPortal) -> None:
    """A unit that reloads asks whether the settings can be read, and nothing else."""
    assert run("check", "--settings-only", env=env).returncode == 0
    done = run("check", "--settings-only", env=env | {"CHINACACHE_CHANNEL_IDS": ""})
    assert done.returncode == 2
    assert "CHINACACHE_CHANNEL_IDS" in done.stderr
    assert portal.requests == 0


# --- How it is shown, and how it ends ----------------------------------------------------------------------------


def test_lines(env: dict[str, str]) -> None:
    """Each step is a line, its remedy another, the verdict the last; only on a terminal the states are coloured."""
    env |= {"CHINACACHE_URL": NOWHERE, "CC_TEXTFILE_ACOUNT": "x", "TERM": "xterm"}
    done = run("check", "--node-exporter", NOWHERE, env=env)
    assert (done.returncode, done.stderr) == (1, "")
    *lines, verdict = done.stdout.splitlines()
    assert verdict == "a poll would not succeed: 1 failed, 1 to look at"
    assert all(re.match(r"(ok|warning|FAILED|skipped) +(\w+ ?)+ |         to fix it: ", line) for line in lines)
    detail = f"hit_rate of channel {CHANNELS[0]}: no connection to 127.0.0.1:1: Connection refused"
    failed = f"FAILED   portal connection          {detail}"
    assert lines[lines.index(failed) + 1].startswith("         to fix it: nc -vz 127.0.0.1 1; ")
    typed = shlex.join(command("check", "--node-exporter", NOWHERE))
    terminal = ("script", "--quiet", "--command", typed, "/dev/null")
    shown, plain = (
        subprocess.check_output(terminal, env=env | more, text=True).replace("\r\n", "\n")
        for more in ({}, {"NO_COLOR": "1"})
    )
    assert "\x1b[31mFAILED  \x1b[0m portal connection" in shown
    assert re.sub(r"\x1b\[\d+m", "", shown) == done.stdout == plain


def test_foreign_text(portal: DemoPortal, env: dict[str, str]) -> None:
    """What the portal says in Chinese or in control characters breaks neither a terminal nor an old encoding."""
    respond(portal, json.dumps({"code": 9, "msg": "密码错误\x1b[31m"}))
    assert "`code` is 9: 密码错误 [31m\n" in run("check", env=env).stdout
    assert r"`code` is 9: \u5bc6" in run("check", env=env | {"PYTHONIOENCODING": "ascii"}).stdout


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
        (NOWHERE, "no connection to 127.0.0.1:1: Connection refused$", r"^nc -vz 127\.0\.0\.1 1; .*firewall"),
        ("http://192.0.2.1", "no connection to 192.0.2.1: Network is unreachable$", r"^nc -vz 192\.0\.2\.1 80; "),
        ("https://192.0.2.1", "no connection to 192.0.2.1: Network is unreachable$", r"^nc -vz 192\.0\.2\.1 443; "),
        ("https://portal.invalid:444", "portal.invalid:444 cannot be resolved", "^getent hosts portal.invalid; "),
        ("http://a..b", "a..b cannot be resolved", r"correct --portal-url \(CHINACACHE_URL\)$"),
    ],
)
def test_no_connection(env: dict[str, str], url: str, detail: str, remedy: str) -> None:
    """A portal that cannot be reached is named once, with the reason, and no further request is made."""
    needs_root()
    alone = ("unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "-")
    checked = Checked(env=env | {"CHINACACHE_URL": url}, before=alone)
    checked.has("portal connection", State.FAILED, f"^hit_rate of channel {CHANNELS[0]}: .*{detail}", remedy)
    in_clear_text = {"portal TLS"} if url.startswith("http:") and url != NOWHERE else set()
    assert {name for name in checked.steps if name.startswith("portal")} == {"portal connection"} | in_clear_text


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
    context, bundle = loopback(tmp_path, *names, not_after=datetime.now(UTC) + timedelta(days=days))
    portal = DemoPortal()
    portal.socket = context.wrap_socket(portal.socket, server_side=True)
    with portal.serving():
        env |= {"CHINACACHE_URL": portal.url.replace("http:", "https:")}
        checked = Checked(env=env | ({"CHINACACHE_CA_FILE": str(bundle)} if trusted else {}))
    assert portal.requests == 0
    checked.has("portal connection", State.FAILED, detail, remedy)


def test_the_way_to_the_portal(portal: DemoPortal, env: dict[str, str]) -> None:
    """What is wrong with the way to it is named: a server without TLS, a proxy, or a password in clear text."""
    checked = Checked(env=env | {"CHINACACHE_URL": portal.url.replace("http:", "https:")})
    checked.has("portal connection", State.FAILED, "TLS with 127.0.0.1:.* failed", "see whether --portal-url")
    # The demo portal is a proxy for http, and not for TLS.
    for proxy, detail in ((portal.url, "the proxy gave no connection"), (NOWHERE, "through the proxy: Connection ref")):
        checked = Checked(env=env | {"CHINACACHE_URL": "https://portal.invalid", "https_proxy": proxy})
        checked.has("portal connection", State.FAILED, detail, "https_proxy and no_proxy")
        assert "portal TLS" not in checked.steps
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        proxied = env | {"CHINACACHE_URL": "https://portal.invalid", "https_proxy": f"http://127.0.0.1:{port}"}
        checked = Checked("--timeout", "300ms", env=proxied)
    checked.has("portal connection", State.FAILED, "no complete response", rf"nc -vz 127\.0\.0\.1 {port};")
    for url in ("http://portal.invalid", portal.url):
        checked = Checked(env=env | {"CHINACACHE_URL": url, "http_proxy": portal.url})
        checked.has("portal TLS", State.WARNING, "sent in clear text$", "https address: --portal-url")
        checked.has("portal password", State.OK, "admits user demo")


@pytest.mark.parametrize(
    ("ahead", "detail"), [(-90, "is [89][0-9] s ahead of"), (90, "is [89][0-9] s behind"), (30, ""), (None, "")]
)
def test_the_clocks(portal: DemoPortal, env: dict[str, str], ahead: float | None, detail: str) -> None:
    """A clock of this host that is wrong, by the portal's, is a warning."""

    def date(*_: object) -> str:
        return format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True) if ahead else "never"

    alter(portal, date_time_string=date)
    checked = Checked(env=env)
    assert checked.names(State.WARNING) == ({"portal clock"} if detail else set())
    if detail:
        checked.has("portal clock", State.WARNING, f"{detail} the portal's: the wrong time", "timedatectl set-ntp true")


@pytest.mark.parametrize("by_status", [False, True])
def test_a_wrong_password(portal: DemoPortal, env: dict[str, str], tmp_path: Path, *, by_status: bool) -> None:
    """A wrong password is sent once; the remedy names where the account was read from."""
    if by_status:
        respond(portal, "<html>no</html>", status=401)
    (tmp_path / "password").write_text("guess-of-mine")
    checked = Checked("--password-file", str(tmp_path / "password"), env=env)
    assert portal.requests == 1
    detail = "HTTP status 401" if by_status else "the portal refused: .*: user name or password is wrong"
    remedy = rf"user demo \(variable CHINACACHE_USER\) or password \(flag --password-file, file {tmp_path}/password\)"
    checked.has("portal password", State.FAILED, rf"^hit_rate of channel {CHANNELS[0]}: {detail}", remedy)
    assert "portal hit_rate" not in checked.steps


@pytest.mark.parametrize(
    ("fault", "detail", "remedy"),
    [
        ("refused", "the portal refused", "whether user demo may use this method"),
        ("status", "HTTP status 502", "ask the operator of the portal, or of the proxy"),
        ("malformed", "is not JSON", "ask the operator of the portal, or of the proxy"),
        ("hang", "no complete response from .* within 2 s", r"^raise --timeout \(CC_.*; see the firewall$"),
        ("broken", "closed the connection before", "try again"),
    ],
)
def test_a_method_that_fails(portal: DemoPortal, env: dict[str, str], fault: str, detail: str, remedy: str) -> None:
    """A method that fails is named with the reason and the channel; the others are requested all the same."""
    portal.fault = lambda method, _: fault if method is Method.ISP else None
    checked = Checked("--timeout", "2s", env=env)
    assert checked.names(State.FAILED) == {"portal isp"}
    checked.has("portal isp", State.FAILED, f"^isp of channel {CHANNELS[0]}: .*{detail}", remedy)


@pytest.mark.parametrize(("argument", "remedy"), [("--deadline", "^raise --deadline"), ("--timeout", "^raise --timeo")])
def test_a_portal_that_is_silent(portal: DemoPortal, env: dict[str, str], argument: str, remedy: str) -> None:
    """Where nothing comes for the first request, no further one is made; the limit that ended it is what to raise."""
    portal.fault = lambda *_: "hang"
    checked = Checked(argument, "300ms", env=env)
    assert checked.names(State.FAILED) == {"portal connection"}
    checked.has("portal connection", State.FAILED, "", remedy)


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


# --- The text file and the ledger -------------------------------------------------------------------------------


def test_a_missing_folder(env: dict[str, str], folder: Path) -> None:
    """A missing folder is named with the command that makes it, and that command works."""
    needs_root()
    env |= {"CC_TEXTFILE_PATH": str(folder / "new folder" / "a.prom")}
    checked = Checked(env=env)
    made = rf"^as root: install -d -m 0755 -o \S+ '{folder}/new folder'; or correct the path$"
    detail = "new folder/a.prom cannot be written: No such file or directory$"
    checked.has("textfile writable", State.FAILED, detail, made)
    remedy = checked.steps["textfile writable"].remedy.removeprefix("as root: ").partition("; or")[0]
    subprocess.run(shlex.split(remedy), check=True)
    Checked(env=env).has("textfile writable", State.OK, "")


def test_a_user_without_a_name(env: dict[str, str]) -> None:
    """A user that only a number tells, as in a container, is named by that."""
    checked = Checked(env=env, before=("unshare", "--user", "--map-user=4000000"))
    checked.has("textfile writable", State.OK, "^user 4000000 can write to ")


def test_a_file_whose_place_cannot_be_taken(env: dict[str, str], folder: Path) -> None:
    """A folder of that name, or the file of another user in a folder such as /tmp."""
    needs_root()
    (folder / "b.prom").mkdir()
    checked = Checked(env=env | {"CC_TEXTFILE_PATH": f"{folder}/b.prom"})
    checked.has("textfile writable", State.FAILED, "b.prom cannot be written: Is a directory$", DMESG)
    (folder / "a.prom").touch()
    for place in (folder, folder / "a.prom"):
        os.chown(place, 1, 1)
    stranger = ("unshare", "--user", "--map-user=4000000")
    folder.chmod(0o777)
    Checked(env=env, before=stranger).has("textfile writable", State.OK, "^user 4000000 can write to ")
    folder.chmod(0o1777)
    Checked(env=env).has("textfile writable", State.OK, "^user root can write to ")
    checked = Checked(env=env, before=stranger)
    checked.has("textfile writable", State.FAILED, "a.prom cannot be written: Operation not permitted", "^remove what")


def test_a_path_that_leads_nowhere(env: dict[str, str], folder: Path) -> None:
    """A file where the folder should be is named."""
    (folder / "file").touch()
    checked = Checked(env=env | {"CC_TEXTFILE_PATH": f"{folder}/file/a.prom"})
    checked.has("textfile writable", State.FAILED, "file/a.prom cannot be written: Not a directory$", DMESG)


@pytest.mark.parametrize(("place", "rights"), [(".", "rwx"), ("..", "x")])
def test_a_folder_of_another_user(env: dict[str, str], folder: Path, place: str, rights: str) -> None:
    """A folder that this user may not write to, or not enter, is named; the remedy takes nothing from its owner."""
    needs_root()
    (folder / "inner").mkdir()
    closed = (folder / "inner" / place).resolve()
    os.chown(closed, NOBODY, NOBODY)
    closed.chmod(0o700)
    checked = Checked(env=env | {"CC_TEXTFILE_PATH": f"{folder}/inner/a.prom"}, before=POWERLESS)
    remedy = f"as root: setfacl -m u:root:{rights} {closed}$"
    checked.has("textfile writable", State.FAILED, "a.prom cannot be written: Permission denied$", remedy)


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
    """A file system that is too small for the file of all channels, or is read-only, is named with the next command."""
    needs_root()
    script = f'mount -t tmpfs {mount} x {folder}; "$@"; s=$?; [ -z "$(ls -A {folder})" ] && exit $s'
    checked = Checked(env=env | {"CC_TEXTFILE_LEDGER": f"{folder}/ledger"}, before=(*MOUNTED, script, "-"))
    checked.has("textfile writable", State.FAILED, detail, remedy + str(folder))
    checked.has("ledger", State.FAILED, detail, remedy + str(folder))


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
        "ledger", State.FAILED, "ledger cannot be used: Permission denied$", f"setfacl .* {ledger}$"
    )


def test_a_ledger_that_is_damaged(env: dict[str, str], folder: Path) -> None:
    """Each page is looked at: a poll, which reads all channels, would find it, too."""
    ledger = folder / "ledger"
    env |= {"CC_TEXTFILE_LEDGER": str(ledger)}
    assert run("run", env=env).returncode == 0
    Checked(env=env).has("ledger", State.OK, "can write to")
    pages = bytearray(ledger.read_bytes())
    with closing(sqlite3.connect(ledger)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'channels'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    pages[(root - 1) * size] = 0xFF  # the type of the page
    ledger.write_bytes(pages)
    Checked(env=env).has("ledger", State.FAILED, f"the ledger {ledger} cannot be used: it is damaged")


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


# --- Files with the same series ---------------------------------------------------------------------------------


def test_a_neighbour_with_our_series(
    env: dict[str, str], folder: Path, start: Callable[..., Program], node_exporter: Callable[[Path], str]
) -> None:
    """A second poller of the account, or of a channel, is named; the fix is that they differ, not to delete a file."""
    other = env | {"CC_TEXTFILE_PATH": str(folder / "b.prom")}
    remedy = "^stop one of the two pollers, or give them different --account .* and different --channels"
    run("run", "--account", "other", "--channels", "7", env=other)
    (folder / "c.prom").mkdir()
    (folder / "d.prom").symlink_to("a.prom")
    run("run", env=env)
    assert Checked(env=env).names(State.WARNING) == set()
    # A channel that both poll.
    run("run", "--account", "other", "--channels", CHANNELS[1], env=other)
    detail = rf'^{folder}/b.prom has ChinaCache_.*channel="{CHANNELS[1]}".*}}, too: '
    Checked(env=env).has("textfile neighbours", State.WARNING, detail, remedy)
    # An account that both poll. node_exporter says nothing about such a pair, and serves one of the two.
    program = start(*command("run", "--interval", "1h", "--channels", "7"), env=other)
    program.line("; wrote ")
    detail = rf"^{folder}/b.prom, which process {program.process.pid} writes, has cc_textfile_\w+{{.*}}, too: "
    Checked(env=env).has("textfile neighbours", State.WARNING, detail, remedy)
    assert get(node_exporter(folder)).count(f'cc_textfile_poll_success{{account="{USER}"}}') == 1
    # Also before the first poll, so that this pair is never made.
    (folder / "a.prom").unlink()
    Checked(env=env).has("textfile neighbours", State.WARNING, detail, remedy)


def test_neighbours_that_cannot_be_read(env: dict[str, str], folder: Path, portal: DemoPortal) -> None:
    """Pipes, loops of links, odd paths and other files are passed over: nothing is waited for."""
    run("run", env=env)
    shutil.copy(folder / "a.prom", folder / "copy")
    os.mkfifo(folder / "b.prom")
    (folder / "c.prom").symlink_to("c.prom")
    lines = (
        f'node_textfile_mtime_seconds{{file="{file}"}} {time}'
        for file, time in (
            (folder / "b.prom", 1),
            (folder / "copy", 1),
            ("/x\0", 1),
            ("/y", "..."),
            ("/a.prom", "9" * 400),
        )
    )
    respond(portal, "\n".join([*lines, "node_textfile_scrape_error 0\n"]))
    checked = Checked("--node-exporter", portal.url, env=env | {"CHINACACHE_URL": NOWHERE})
    checked.has("textfile neighbours", State.OK, "no other .prom file has series of ours")


def test_a_neighbour_where_node_exporter_reads(
    env: dict[str, str], folder: Path, tmp_path: Path, node_exporter: Callable[[Path], str]
) -> None:
    """The files that node_exporter reads are compared, too, where our own is only a link."""
    run("run", env=env)
    run("run", "--textfile", str(tmp_path / "old.prom"), env=env)
    (tmp_path / "a.prom").symlink_to(folder / "a.prom")
    checked = Checked("--node-exporter", node_exporter(tmp_path), env=env)
    checked.has("node_exporter file", State.OK, "")
    checked.has("textfile neighbours", State.WARNING, f"^{tmp_path}/old.prom has ", "^stop one of the two pollers")


# --- Pushgateway and node_exporter -------------------------------------------------------------------------------


def test_no_pushgateway(portal: DemoPortal, env: dict[str, str]) -> None:
    """A Pushgateway that does not respond, or another server in its place, is named without its password."""
    env |= {"CC_TEXTFILE_PATH": ""}
    remedy = "^start a Pushgateway there, or correct --pushgateway"
    checked = Checked(env=env | {"PUSHGATEWAY": NOWHERE})
    checked.has("pushgateway ready", State.FAILED, "no connection to 127.0.0.1:1: Connection refused", remedy)
    address = portal.url.replace("//", "//me:hidden@")
    checked = Checked(env=env | {"PUSHGATEWAY": address})
    checked.has("pushgateway ready", State.FAILED, r"responds with status 4\d\d: .", remedy)
    credentials = respond(portal, "", status=404)
    done = run("check", "--node-exporter", address, env=env | {"PUSHGATEWAY": address, "CHINACACHE_URL": NOWHERE})
    assert "hidden" not in done.stdout + done.stderr
    assert credentials == ["Basic bWU6aGlkZGVu"]


def test_no_node_exporter(portal: DemoPortal, env: dict[str, str]) -> None:
    """Without a node_exporter a poll succeeds; what listens in its place is named."""
    checked = Checked(env=env)
    detail = "^no response from node_exporter: no connection to 127.0.0.1:1"
    checked.has("node_exporter file", State.SKIPPED, detail, "--node-exporter URL")
    Checked("--node-exporter", portal.url, env=env).has(
        "node_exporter file", State.WARNING, "has status 4.., and no metrics", "--node-exporter URL"
    )
    done = run("check", "--node-exporter", "http://:x", env=env)
    assert (done.returncode, "--node-exporter" in done.stderr) == (2, True)


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
    # As in a container, which knows the folder by another path.
    written = (folder / "a.prom").stat().st_mtime
    os.utime(other, (written, written))
    Checked("--node-exporter", exporter, env=env).has("node_exporter file", State.OK, "serves .*a.prom")


def test_a_file_that_node_exporter_cannot_parse(
    env: dict[str, str], folder: Path, node_exporter: Callable[[Path], str]
) -> None:
    """Any file that it cannot parse, ours or not, is a warning with the place of the reason."""
    (folder / "broken.prom").write_text("not a metric\n")
    Checked("--node-exporter", node_exporter(folder), env=env).has(
        "node_exporter errors", State.WARNING, "^node_textfile_scrape_error is 1$", "journalctl -u prometheus"
    )
