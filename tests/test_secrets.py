"""The password is nowhere to be read: every failure, in each form of log, with a password that is hard to hide."""

import base64
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, unquote, unquote_plus

import pytest

from cc_textfile.demo import portal as demo
from cc_textfile.errors import RequestError
from cc_textfile.logs import FIELDS, MASK, Redactor
from cc_textfile.portal.transport import Transport
from tests.certificates import loopback
from tests.conftest import IN_JOURNAL, PATIENCE, Program, command, environment, run
from tests.server import Peer, Script, Server, channel_of, good, method_of, response, sending, then
from tests.test_logs import FORMS, PASSWORD

# Each of these starts the program, most of them several times.
pytestmark = pytest.mark.slow

MARKS = ("Zq7", "kW9")
"""Both ends of the password: a part of it is a leak too."""

GATEWAY_PASSWORD = "gate-Xj3&=+%/ :@'\"-gate-Vp5"
GATEWAY_MARKS = ("Xj3", "Vp5")


# --- Finding a leak, by other means than those it is prevented by ----------------------------------------------------


def decoded(text: str) -> Iterator[str]:
    """Return what a text is when it is taken for each of the encodings."""
    yield unquote(text, errors="replace")
    yield unquote_plus(text, errors="replace")
    yield re.sub(r"\\+u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
    yield re.sub(r"\\+(.)", r"\1", text)
    for word in re.findall(r"[A-Za-z0-9+/]{8,}", text):
        for start in range(4):
            yield base64.b64decode(word[start : len(word) - (len(word) - start) % 4]).decode("latin-1")


def leaks(text: str, *marks: str) -> list[str]:
    """Return which marks are in a text, in clear or under up to two encodings."""
    texts = {text}
    for _ in range(2):
        texts |= {other for each in texts for other in decoded(each) if len(other) > 2}
    return [mark for mark in marks if any(mark in each for each in texts)]


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_leak_would_be_found(form: Callable[[str], str]) -> None:
    """The search finds the password in each form: without this, the tests below could not fail."""
    assert leaks(f"the portal refused: {form(PASSWORD)}, and more", *MARKS) == list(MARKS)


# --- Every failure, through the command line -------------------------------------------------------------------------


def echo(form: Callable[[str], str], status: int = 200) -> Script:
    """Return a portal that repeats the password, and the whole query, in its message."""

    def script(peer: Peer) -> None:
        secret = peer.query.get("apiPasswd") or peer.query["api_key"]
        fields = {"code": 7, "success": False, "msg": f"bad password {form(secret)}", "message": peer.target}
        peer.send(response(json.dumps(fields).encode(), status))

    return script


FAILURES: Mapping[str, Script] = {
    "good": good,
    "hang": Peer.hang,
    "close": Peer.close,
    "reset": Peer.reset,
    "half": then(sending(response(b"{", length=9)), Peer.close),
    "page": lambda peer: peer.send(response(f"<html>{peer.target}</html>".encode(), 200, f"X: {peer.target}")),
    "redirect": lambda peer: peer.send(response(b"", 302, f"Location: http://elsewhere.invalid{peer.target}")),
    "unauthorised": sending(response(b"", 401)),
    "unavailable": sending(response(b"", 503)),
    "gzip": sending(response(b"x", 200, "Content-Encoding: gzip")),
    "long": sending(response(b" " * 300_000)),
    "noise": sending(b"SSH-2.0-OpenSSH\r\n\r\n"),
    "chunk": lambda peer: peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + peer.head),
    "status": lambda peer: peer.send(b"HTTP/1.1 " + peer.target.encode() + b"\r\n\r\n"),
    "header": lambda peer: peer.send(response(b"{}", 200, f"{peer.target}")),
    "types": sending(response(b'{"code": 1, "success": true, "totalFlux": "x", "data": 7}')),
} | {f"echo-{n}": echo(form, 500 if n % 2 else 200) for n, form in enumerate(FORMS.values())}
"""What a portal can do, by the channel that is requested."""

BATCH = 9
"""Channels in a run: each fails for two methods, and a poll logs twenty distinct failures."""


def misbehave(peer: Peer) -> None:
    """Fail as the channel's name tells for one statistics method and for the REST method."""
    (FAILURES[channel_of(peer)] if method_of(peer) in ("isp", "http_code") else good)(peer)


class Gateway:
    """A Pushgateway that keeps what it is sent, and refuses it in words that repeat its own password."""

    def __init__(self) -> None:
        self.pushed: list[str] = []

    def __call__(self, peer: Peer) -> None:
        """Refuse a push."""
        self.pushed.append(f"{peer.target}\n{peer.body.decode()}")
        header = re.search(rb"Authorization: (.*)", peer.head)
        assert header
        peer.send(response(f"{header[1].decode()} {GATEWAY_PASSWORD} {quote(GATEWAY_PASSWORD)}".encode(), 400))


def secret_environment(portal: str, folder: Path, *channels: str, **variables: str) -> dict[str, str]:
    """Return the environment of a run with the marked password."""
    return environment(
        **{
            "CHINACACHE_USER": "me",
            "CHINACACHE_PASS": PASSWORD,
            "CHINACACHE_CHANNEL_IDS": ",".join(channels or ("47",)),
            "CHINACACHE_URL": portal,
            "CC_TEXTFILE_PATH": str(folder / "cdn.prom"),
            "CC_TEXTFILE_TIMEOUT": "500ms",
            "CC_TEXTFILE_DEADLINE": "5s",
            "CC_TEXTFILE_LOG_LEVEL": "debug",
            "PYTHONWARNINGS": "always",
        }
        | variables
    )


def gateway_url(gateway: Server) -> str:
    """Return the gateway's address with its user and password."""
    return f"http://gate:{quote(GATEWAY_PASSWORD, safe='')}@{gateway.host}"


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("first", range(0, len(FAILURES), BATCH))
def test_no_failure_shows_the_password(first: int, form: str, tmp_path: Path) -> None:
    """Not on standard error at debug level, not in the file, not in what is pushed, in whatever form it came back."""
    channels = list(FAILURES)[first : first + BATCH]
    gateway = Gateway()
    with Server(misbehave) as portal, Server(gateway) as pushed:
        env = secret_environment(portal.url, tmp_path, *channels, PUSHGATEWAY=gateway_url(pushed))
        done = run("run", "--log-format", form, "--pushgateway-mode", "always", env=env)
    for channel in channels:
        assert channel == "good" or re.search(rf"(isp|http_code) of channel [^:]*\b{channel}\b", done.stderr)
    assert f"responds with status 400: Basic {MASK} {MASK} {MASK}" in done.stderr
    file = (tmp_path / "cdn.prom").read_text()
    assert len(gateway.pushed) == 1
    for text in (done.stderr, done.stdout, file, *gateway.pushed):
        assert not leaks(text, *MARKS, *GATEWAY_MARKS)
    assert "region_total_bytes" in file
    if form == "json":
        for line in done.stderr.splitlines():
            assert {"time", "level", "message"} <= json.loads(line).keys() <= {"time", "level", "message", *FIELDS}


@pytest.mark.parametrize("output", ["text", "json"])
def test_check_shows_no_password(output: str, tmp_path: Path) -> None:
    """It quotes portal and Pushgateway more than a poll does."""
    with Server(echo(str)) as portal, Server(Gateway()) as pushed:
        env = secret_environment(portal.url, tmp_path, PUSHGATEWAY=gateway_url(pushed))
        exporter = f"http://{GATEWAY_PASSWORD[:8]}@127.0.0.1:9/metrics"
        done = run("check", "--node-exporter", exporter, *(("--json",) if output == "json" else ()), env=env)
    assert done.returncode == 1
    assert MASK in done.stdout
    assert not leaks(done.stdout + done.stderr, *MARKS, *GATEWAY_MARKS)


@pytest.mark.parametrize("name", sorted(FAILURES.keys() - {"good"}))
def test_no_error_of_the_transport_holds_the_url(name: str) -> None:
    """What an exchange tells of a failure needs no redaction, nor do the errors behind it, which a bug would show."""
    with Server(FAILURES[name]) as portal:
        transport = Transport(portal.url, Redactor())
        url = f"{portal.url}{next(iter(demo.METHODS))}?apiPasswd=geheim"
        try:
            transport.exchange("GET", url, lambda reply: reply, timeout=0.2)
        except RequestError as error:
            assert "geheim" not in "".join(traceback.format_exception(error))  # noqa: PT017 # some end in responses
        transport.close()


def test_a_proxy_that_repeats_the_authorization(tmp_path: Path) -> None:
    """The user and password that the environment has for a proxy are secrets, too."""

    def repeat(peer: Peer) -> None:
        header = re.search(rb"(?i)proxy-authorization: Basic (.*)", peer.head)
        assert header
        text = f"{header[1].decode()} {base64.b64decode(header[1]).decode('latin-1')}"
        peer.send(response(json.dumps({"code": 0, "success": False, "msg": text}).encode()))

    with Server(repeat) as between:
        proxy = f"http://me:{PROXY_PASSWORD}@{between.host}"
        done = run("run", env=secret_environment("http://portal.invalid", tmp_path, http_proxy=proxy))
    assert f"`code` is 0: {MASK} me:{MASK}" in done.stderr
    assert not leaks(done.stderr, *MARKS)


def closed_port() -> str:
    """Return an address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


PROXY_PASSWORD = quote(PASSWORD.replace("中", ""), safe="")  # requests has no proxies with other than Latin letters
UNREACHABLE: Mapping[str, Callable[[], dict[str, str]]] = {
    "nobody listens": lambda: {"CHINACACHE_URL": closed_port()},
    "no such name": lambda: {"CHINACACHE_URL": "http://portal.invalid"},
    "no proxy": lambda: {"https_proxy": closed_port().replace("//", f"//me:{PROXY_PASSWORD}@")},
    "proxy that is none": lambda: {"https_proxy": f"socks5://me:{PROXY_PASSWORD}@proxy.invalid"},
}


@pytest.mark.parametrize("case", UNREACHABLE)
def test_no_connection_shows_the_password(case: str, tmp_path: Path) -> None:
    """Where no request is made, the messages of the libraries would hold its whole URL."""
    done = run("run", env=secret_environment("https://portal.invalid", tmp_path, **UNREACHABLE[case]()))
    assert done.returncode == (2 if case == "proxy that is none" else 1)
    assert done.stderr
    assert not leaks(done.stderr, *MARKS)


def test_tls_shows_no_password(tmp_path: Path) -> None:
    """A certificate that nobody trusts, and a handshake that breaks off."""
    tls, _ = loopback(tmp_path)
    for script in (None, Peer.close):
        with Server(good, tls=tls, greet=script) as portal:
            done = run("run", env=secret_environment(portal.url, tmp_path))
        assert done.returncode == 1
        assert not leaks(done.stderr, *MARKS)


def test_a_refused_account_shows_no_password(tmp_path: Path) -> None:
    """The one line about the account names the user and not the password."""
    with Server(echo(str)) as portal:
        done = run("run", env=secret_environment(portal.url, tmp_path, *map(str, range(20))))
    assert "refuses the account of user me" in done.stderr
    assert not leaks(done.stderr + (tmp_path / "cdn.prom").read_text(), *MARKS)


def test_a_password_that_was_read_again_is_redacted(tmp_path: Path, start: Callable[..., Program]) -> None:
    """After SIGHUP, the new password is a secret as the first one was."""
    file = tmp_path / "password"
    file.write_text("the-first-one")
    with Server(echo(str)) as portal:
        env = secret_environment(portal.url, tmp_path, CHINACACHE_PASS_FILE=str(file), CHINACACHE_INTERVAL="1h")
        del env["CHINACACHE_PASS"]
        program = start(*command("run"), env=env)
        program.line("polled 1 channels")
        file.write_text(PASSWORD)
        program.process.send_signal(signal.SIGHUP)
        program.line("polled 1 channels")
        program.end()
    assert "bad password the-first-one" not in program.said
    assert not leaks(program.said, *MARKS)


WRONG_SETTINGS: Mapping[str, dict[str, str]] = {
    "everything wrong": {"CC_TEXTFILE_TIMEOUT": "x", "CC_TEXTFILE_PATH": "x", "CHINACACHE_CHANNEL_IDS": ","},
    "password in the portal's address": {"CHINACACHE_URL": f"http://me:{quote(PASSWORD, safe='')}@portal.invalid"},
    "password in a broken gateway": {"PUSHGATEWAY": f"http://me:{PASSWORD}@"},
    "password that is not UTF-8": {"CHINACACHE_PASS": PASSWORD + "\udcff"},
    "two passwords": {"CHINACACHE_PASS_FILE": "/nonexistent"},
    "password for a file": {"CHINACACHE_PASS": "", "CHINACACHE_PASS_FILE": f"/{PASSWORD}"},
}


@pytest.mark.parametrize("wrong", WRONG_SETTINGS.values(), ids=WRONG_SETTINGS)
def test_wrong_settings_show_no_password(wrong: dict[str, str], tmp_path: Path) -> None:
    """What is wrong with the settings is named without repeating what may hold a password."""
    done = run("run", env=secret_environment("http://portal.invalid", tmp_path) | wrong, errors="replace")
    assert done.returncode == 2
    assert not leaks(done.stderr, *MARKS)


def test_the_process_list_shows_no_password(tmp_path: Path, start: Callable[..., Program]) -> None:
    """While it runs, the command line that everyone may read has no password; its environment is the owner's alone."""
    asked = threading.Event()

    def script(peer: Peer) -> None:
        asked.set()
        peer.hang()

    (tmp_path / "password").write_text(PASSWORD)
    with Server(script) as portal, Server(Gateway()) as pushed:
        env = secret_environment(portal.url, tmp_path, CC_TEXTFILE_TIMEOUT="10m", PUSHGATEWAY=gateway_url(pushed))
        del env["CHINACACHE_PASS"]
        program = start(*command("run", "--password-file", str(tmp_path / "password")), env=env)
        assert asked.wait(PATIENCE)
        process = Path("/proc", str(program.process.pid))
        shown = (process / "cmdline").read_text() + (process / "comm").read_text()
        assert "cc_textfile" in shown
        assert not leaks(shown, *MARKS, *GATEWAY_MARKS)
        assert (process / "environ").stat().st_mode & 0o077 == 0
        program.end(signal.SIGTERM)
        assert not leaks(program.said, *MARKS, *GATEWAY_MARKS)


def test_systemd_is_told_no_password(tmp_path: Path, start: Callable[..., Program]) -> None:
    """The status that `systemctl status` shows to everyone quotes the Pushgateway, and no password."""
    fields: list[str] = []
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with notify, Server(good) as portal, Server(Gateway()) as pushed:
        notify.settimeout(PATIENCE)
        notify.bind(str(tmp_path / "notify"))
        env = secret_environment(portal.url, tmp_path, PUSHGATEWAY=gateway_url(pushed), CHINACACHE_INTERVAL="1h")
        del env["CC_TEXTFILE_PATH"]
        start(*command("run"), env=env | {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        while not any("status 400" in text for text in fields):
            fields.append(notify.recv(65536).decode())
    assert not leaks("\n".join(fields), *MARKS, *GATEWAY_MARKS)


# --- Bugs ------------------------------------------------------------------------------------------------------------

BUG = """
import sys, threading
from cc_textfile import daemon
from cc_textfile.portal.transport import Transport
def exchange(self, method, url, *args, **rest):
    try:
        raise ValueError(url)
    except ValueError as error:
        raise RuntimeError(f"bug at {url} with {rest}") from error
class Dropped:
    def __init__(self, secret):
        self.secret = secret
    def __del__(self):
        raise RuntimeError(f"bug at {self.secret}")
def poll(self, busy):
    password = self.settings.password
    thread = threading.Thread(target=exchange, args=(self, "GET", password))
    thread.start()
    thread.join()
    Dropped(password)
    exchange(self, "GET", repr(password))
if "poll" in sys.argv:
    Transport.exchange = exchange
else:
    daemon.Poller.poll = poll
sys.argv[1:] = ["run"]
from cc_textfile.__main__ import main
main()
"""
"""The program with a bug whose traceback holds the URL, or the password itself."""


@pytest.mark.parametrize("form", ["text", "json", "journal"])
@pytest.mark.parametrize("place", ["poll", "everywhere"])
def test_a_bug_crashes_in_the_open_without_the_password(place: str, form: str, tmp_path: Path) -> None:
    """A traceback is written for whoever fixes it, of any thread, in the log's form and without the password."""
    env = secret_environment("http://portal.invalid", tmp_path)
    env |= {} if form == "journal" else {"CC_TEXTFILE_LOG_FORMAT": form}
    program = (*(IN_JOURNAL if form == "journal" else ()), sys.executable, "-c", BUG, place)
    done = subprocess.run(program, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stderr.count("RuntimeError: bug at") == (1 if place == "poll" else 3)
    assert MASK in done.stderr
    assert not leaks(done.stderr, *MARKS)
    lines = done.stderr.splitlines()
    if form == "journal":
        assert sum(line.startswith("<2>") for line in lines) > 10
        assert not [line for line in lines if not re.match("<[26]>", line)]
    if form == "json":
        assert {json.loads(line)["level"] for line in lines} == {"info", "critical"}
