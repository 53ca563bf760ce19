"""The password is nowhere to be read: every failure, in every form of log, with a password made to slip through."""

import base64
import html
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from unicodedata import normalize
from urllib.parse import quote, quote_plus, unquote, unquote_plus

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from cc_textfile import demo
from cc_textfile.client import PortalClient
from cc_textfile.errors import OutputError, PortalError, Refused
from cc_textfile.logs import FIELDS
from cc_textfile.output import Pushgateway
from cc_textfile.redaction import MASK, QUOTED, Redactor
from cc_textfile.transport import Transport
from cc_textfile.window import Window
from tests.certificates import loopback
from tests.conftest import PATIENCE, Program, command, environment, run
from tests.server import REFUSAL, Peer, Script, Server, answer, endpoint_of, good, saying, then

PASSWORD = """mark-Zq7&=+%/ "'<>\\ü中;mark-kW9!~*"""
MARKS = ("Zq7", "kW9")
"""Both ends of the password: a part of it is a leak too."""

GATEWAY_PASSWORD = "gate-Xj3&=+%/ :@'\"-gate-Vp5"
GATEWAY_MARKS = ("Xj3", "Vp5")


# --- Finding a leak, by other means than those it is prevented by ----------------------------------------------------


def undone(text: str) -> Iterator[str]:
    """Return what a text is when it is taken for each of the encodings."""
    yield unquote(text, errors="replace")
    yield unquote_plus(text, errors="replace")
    yield html.unescape(text)
    yield re.sub(r"\\+u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
    yield re.sub(r"\\+x([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), text)
    yield re.sub(r"\\+(.)", r"\1", text)
    for word in re.findall(r"[A-Za-z0-9+/_-]{8,}", text):
        letters = word.replace("-", "+").replace("_", "/")
        for start in range(4):
            usable = letters[start : len(letters) - (len(letters) - start) % 4]
            yield base64.b64decode(usable).decode("latin-1")


def leaks(text: str, *marks: str, depth: int = 2) -> list[str]:
    """Return which marks are in a text, in clear or under so many encodings."""
    texts = {text}
    for _ in range(depth):
        texts |= {other for each in texts for other in undone(each) if len(other) > 2}
    return [mark for mark in marks if any(mark in each for each in texts)]


ENCODINGS: dict[str, Callable[[str], str]] = {
    "clear": str,
    "percent": lambda secret: quote(secret, safe=""),
    "percent, with slashes": quote,
    "percent, lower": lambda secret: re.sub("%..", lambda match: match[0].lower(), quote(secret, safe="")),
    "percent, as browsers do": lambda secret: quote(secret, safe="!~*'()"),
    "percent, all": lambda secret: "".join(f"%{byte:02X}" for byte in secret.encode()),
    "percent, twice": lambda secret: quote(quote(secret, safe=""), safe=""),
    "form": quote_plus,
    "JSON": lambda secret: json.dumps(secret)[1:-1],
    "JSON in UTF-8": lambda secret: json.dumps(secret, ensure_ascii=False)[1:-1],
    "JSON of PHP": lambda secret: json.dumps(secret)[1:-1].replace("/", "\\/"),
    "JSON of Go": lambda secret: json.dumps(secret)[1:-1].replace("&", "\\u0026").replace("<", "\\u003C"),
    "JSON in JSON": lambda secret: json.dumps(json.dumps(secret)[1:-1])[1:-1],
    "HTML": html.escape,
    "HTML of Java": lambda secret: html.escape(secret).replace("&#x27;", "&#39;"),
    "HTML, twice": lambda secret: html.escape(html.escape(secret)),
    "XML": lambda secret: html.escape(secret).replace("&#x27;", "&apos;"),
    "HTML of a query": lambda secret: html.escape(quote_plus(secret)),
    "repr": lambda secret: repr(secret)[1:-1],
    "ascii": lambda secret: ascii(secret)[1:-1],
    "repr of bytes": lambda secret: repr(secret.encode())[2:-1],
    "repr of JSON": lambda secret: repr(json.dumps(secret)[1:-1])[1:-1],
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "base64 for URLs": lambda secret: base64.urlsafe_b64encode(secret.encode()).decode(),
    "base64 of user:password": lambda secret: base64.b64encode(b"me:" + secret.encode()).decode(),
    "base64 of a query": lambda secret: base64.b64encode(f"u=m&pw={secret}&x=y".encode()).decode(),
    "base64 of another": lambda secret: base64.b64encode(f"u=me&pw={secret}&x=y".encode()).decode(),
    "base64, in a query": lambda secret: quote(base64.b64encode(secret.encode()), safe=""),
}


MISTAKEN: dict[str, Callable[[str], str]] = {
    "UTF-8 for Latin-1": lambda secret: secret.encode().decode("latin-1"),
    "UTF-8 for Windows-1252": lambda secret: secret.encode().decode("cp1252", "replace"),
    "UTF-8 for GBK": lambda secret: secret.encode().decode("gbk", "replace"),
    "UTF-8 for GB18030": lambda secret: secret.encode().decode("gb18030", "replace"),
    "UTF-8 for Latin-1, in JSON": lambda secret: json.dumps(secret.encode().decode("latin-1"))[1:-1],
    "UTF-8 for ASCII": lambda secret: secret.encode().decode("ascii", "replace"),
    "UTF-8 for ASCII, with question marks": lambda secret: re.sub("[^\0-\x7f]", "?", secret.encode().decode("latin-1")),
    "what Latin-1 has": lambda secret: secret.encode("latin-1", "replace").decode("latin-1"),
    "what ASCII has": lambda secret: secret.encode("ascii", "replace").decode(),
    "percent, Latin-1": lambda secret: quote(secret, safe="", encoding="latin-1", errors="replace"),
    "percent, GBK": lambda secret: quote(secret, safe="", encoding="gbk", errors="replace"),
    "decomposed": lambda secret: normalize("NFD", secret),
    "composed": lambda secret: normalize("NFC", secret),
}
"""What becomes of a whole password with a portal that takes one character set for another."""


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS)
def test_a_leak_would_be_found(encode: Callable[[str], str]) -> None:
    """The search finds the password in each encoding: without this, the tests below could not fail."""
    assert leaks(f"the portal says: {encode(PASSWORD)}, and more", *MARKS) == list(MARKS)


# --- The redactor ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encode", (ENCODINGS | MISTAKEN).values(), ids=ENCODINGS | MISTAKEN)
def test_every_encoding_is_redacted(encode: Callable[[str], str]) -> None:
    """Whatever encoder it went through, nothing is left of the password, and the words around it stay."""
    redacted = Redactor(PASSWORD)(f"before {encode(PASSWORD)} after")
    assert redacted.startswith("before ")
    assert redacted.endswith(" after")
    assert MASK in redacted
    assert not leaks(redacted, *MARKS)


characters = st.sampled_from("&=+%/ \"'<>\\;!~*#:@\n\té中\U0001f600abcXYZ012")
secrets = st.text(characters | st.characters(), min_size=4, max_size=12)


@given(secrets, st.lists(st.sampled_from(list(ENCODINGS | MISTAKEN)), min_size=1, max_size=3), st.text(max_size=5))
@example("\\\\\\\\", ["repr"], "\\")
@example('\\"', ["JSON"], "")
@example("a\u4e02\u4e82z", ["percent, GBK"], "")
def test_any_password_is_redacted(secret: str, names: list[str], around: str) -> None:
    """Any password at all, in several encodings beside each other."""
    assume(not re.search("[\ud800-\udfff]", secret))
    spellings = [(ENCODINGS | MISTAKEN)[name](secret) for name in names]
    # Of some passwords nothing is left in some character sets.
    spellings = [spelling for spelling in spellings if spelling.strip("%3F?\ufffd")]
    redacted = Redactor(secret)(around + "".join(f"<{spelling}>" for spelling in spellings))
    assert not [spelling for spelling in spellings if f"<{spelling}>" in redacted]


@given(secrets, st.data())
def test_a_password_whose_characters_are_encoded_each_in_its_way(secret: str, data: st.DataObject) -> None:
    """Encoders differ in what they leave alone, so every mixture has to be found."""
    assume(not re.search("[\ud800-\udfff]", secret))
    ways = [name for name in ENCODINGS if "base64" not in name]
    spelling = "".join(ENCODINGS[data.draw(st.sampled_from(ways))](character) for character in secret)
    assert Redactor(secret)(f"<{spelling}>") == f"<{MASK}>"


def test_several_secrets() -> None:
    """Secrets are added as they become known; one that begins with another is redacted whole, and none is none."""
    redact = Redactor("", "geheim")
    redact.add("geheimnis", "x")
    assert redact("geheimnis geheim x y") == "*** *** *** y"
    assert Redactor("")("nothing") == "nothing"


@given(st.text())
def test_foreign_words_are_one_short_line(words: str) -> None:
    """What the portal says can't begin a line of its own in a log, nor colour a terminal, nor fill a disk."""
    quoted = Redactor(PASSWORD).quote(words)
    assert quoted.isprintable()
    assert len(quoted) <= QUOTED + 1


# --- Every failure, through the command line -------------------------------------------------------------------------


def echoing(encode: Callable[[str], str], status: int = 200) -> Script:
    """Return a portal that repeats the password, and the whole query, in its words."""

    def script(peer: Peer) -> None:
        secret = peer.query.get("apiPasswd") or peer.query["api_key"]
        said = {"code": 7, "success": False, "msg": f"bad password {encode(secret)}", "message": peer.target}
        peer.say(answer(json.dumps(said).encode(), status))

    return script


def page(peer: Peer) -> None:
    """Answer with a page that repeats the query."""
    peer.say(answer(f"<html>{html.escape(peer.target)}</html>".encode(), 200, f"X-Query: {peer.target}"))


def redirect(peer: Peer) -> None:
    """Send the query elsewhere."""
    peer.say(answer(b"", 302, f"Location: http://elsewhere.invalid{peer.target}"))


FAILURES: Mapping[str, Script] = {
    "good": good,
    "hang": Peer.hang,
    "drip": lambda peer: peer.drip(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 99),
    "close": Peer.close,
    "reset": Peer.reset,
    "half": then(saying(answer(b"{", length=9)), Peer.close),
    "page": page,
    "redirect": redirect,
    "unauthorised": saying(answer(b"", 401)),
    "weary": saying(answer(b"", 503)),
    "cut": saying(answer(b'{"code": 1')),
    "gzip": saying(answer(b"x", 200, "Content-Encoding: gzip")),
    "long": saying(answer(b" " * 300_000)),
    "noise": saying(b"SSH-2.0-OpenSSH\r\n\r\n"),
    "types": saying(answer(b'{"code": 1, "success": true, "totalFlux": "x", "Hit": "x", "data": 7}')),
    "lengths": saying(answer(b"{}", 200, "Content-Length: 7")),
    "header": saying(answer(b"{}", 200, "X: " + "y" * 70_000)),
} | {f"echo-{n}": echoing(encode, 500 if n % 2 else 200) for n, encode in enumerate(ENCODINGS.values())}
"""What a portal can do, by the channel that is asked for."""

BATCH = 10
"""Channels a run: each fails for two endpoints, and a poll logs twenty distinct failures."""


def misbehave(peer: Peer) -> None:
    """Do as the channel's name says for one statistics method and for the REST method, and answer well for the rest."""
    channel = peer.query.get("channelIds") or peer.query["channel_id"]
    (FAILURES[channel] if endpoint_of(peer) in ("isp", "http_code") else good)(peer)


class Gateway:
    """A Pushgateway that keeps what it is sent, and says no to it in words that repeat its own password."""

    def __init__(self) -> None:
        self.pushed: list[str] = []

    def __call__(self, peer: Peer) -> None:
        """Refuse a push."""
        self.pushed.append(f"{peer.target}\n{peer.body.decode()}")
        header = re.search(rb"Authorization: (.*)", peer.head)
        assert header
        said = f"{header[1].decode()} {GATEWAY_PASSWORD} {html.escape(GATEWAY_PASSWORD)}"
        peer.say(answer(said.encode(), 400))


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


FORMS: Mapping[str, dict[str, str]] = {
    "text": {},
    "json": {"CC_TEXTFILE_LOG_FORMAT": "json"},
    "journal": {"JOURNAL_STREAM": "8:17"},
    "json journal": {"CC_TEXTFILE_LOG_FORMAT": "json", "JOURNAL_STREAM": "8:17"},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first", range(0, len(FAILURES), BATCH))
def test_no_failure_tells_the_password(first: int, form: str, tmp_path: Path) -> None:
    """Not on standard error at debug level, not in the file, not in what is pushed, however it is encoded."""
    channels = list(FAILURES)[first : first + BATCH]
    gateway = Gateway()
    with Server(misbehave) as portal, Server(gateway) as pushed:
        env = secret_environment(portal.url, tmp_path, *channels, **FORMS[form], PUSHGATEWAY=gateway_url(pushed))
        env["CC_TEXTFILE_PUSHGATEWAY_MODE"] = "always"
        done = subprocess.run(command("run"), env=env, capture_output=True, check=False, timeout=PATIENCE)
    said = done.stderr.decode()
    for channel in channels:
        assert channel == "good" or re.search(rf"(isp|http_code) of channel [^:]*\b{channel}\b", said), said
    assert "answered 400" in said
    file = (tmp_path / "cdn.prom").read_text()
    assert len(gateway.pushed) == 1
    for text in (said, done.stdout.decode(), file, *gateway.pushed):
        assert not leaks(text, *MARKS, *GATEWAY_MARKS)
    assert "region_total_bytes" in file
    for line in said.splitlines():
        if "json" in form:
            assert {"level", "message"} <= json.loads(line).keys() <= {"time", "level", "message", *FIELDS}
        timed = bool(re.match(r'\d{4}-\d\d-\d\dT|\{"time": ', line))
        assert timed == ("journal" not in form)


@pytest.mark.parametrize("password", ["3", '": ', "message"])
def test_a_line_of_json_is_one_whatever_the_password(password: str, tmp_path: Path) -> None:
    """A password that is a part of JSON, or of its numbers, does not take the line apart."""
    with Server(REFUSAL) as portal:
        env = secret_environment(portal.url, tmp_path, CC_TEXTFILE_LOG_FORMAT="json", CHINACACHE_PASS=password)
        done = run("run", env=env)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert sum(line.get("reason") == "refused" for line in lines) == 4
    assert all(set(line) <= {"time", "level", "message", *FIELDS} for line in lines)
    assert lines[-1]["failed"] == 4
    assert not [line for line in lines if password in line["message"]]


@pytest.mark.parametrize("name", sorted(FAILURES.keys() - {"good"}))
def test_the_transport_has_no_url_in_its_words(name: str) -> None:
    """What an exchange says of a failure needs no redaction, nor do the errors behind it, of which a bug would tell."""
    with Server(FAILURES[name]) as portal:
        transport = Transport(portal.url)
        url = f"{portal.url}{next(iter(demo.PLACES))}?apiPasswd=geheim"
        try:
            transport.exchange("GET", url, timeout=0.2)
        except PortalError as error:
            assert "geheim" not in "".join(traceback.format_exception(error))  # noqa: PT017 # some end in answers
        transport.close()


def test_a_connection_that_is_refused_has_no_url_in_its_words() -> None:
    """Nor where no connection comes about."""
    url = f"{closed_port()}/?apiPasswd=geheim"
    with pytest.raises(PortalError) as caught:
        Transport(url.partition("/?")[0]).exchange("GET", url, timeout=PATIENCE)
    assert "geheim" not in "".join(traceback.format_exception(caught.value))


def test_the_client_repeats_foreign_words_redacted_on_one_line() -> None:
    """An error of the client can be shown anywhere: what it quotes is short, printable, and without the password."""
    said = {"code": 7, "msg": f"\x1b[31mno\nuser\u202e {quote_plus(PASSWORD)} " + "and so on " * 99}
    with Server(saying(answer(json.dumps(said).encode()))) as portal:
        transport = Transport(portal.url)
        client = PortalClient(transport, portal.url, "me", PASSWORD, timeout=PATIENCE, redact=Redactor(PASSWORD))
        window = Window.ending(datetime.now(UTC), 5)
        with pytest.raises(Refused) as caught:
            client.isp("47", window, monotonic() + PATIENCE)
        transport.close()
    assert str(caught.value).startswith(f"the portal refused: `code` is 7: [31mno user {MASK} and so on ")
    assert len(str(caught.value)) == QUOTED + 1


@pytest.mark.parametrize("password", ["abc", "abcdefgh"])
def test_a_gateway_that_repeats_the_authorization(password: str) -> None:
    """The token of basic auth is a password too, however short the one is that it is made of."""
    token = base64.b64encode(f"gate:{password}".encode()).decode()
    with Server(saying(answer(f"bad token {token} of {password}".encode(), 401))) as pushed:
        redact = Redactor()
        gateway = Pushgateway(f"http://gate:{password}@{pushed.host}", shard=None, timeout=PATIENCE, redact=redact)
        with pytest.raises(OutputError) as caught:
            gateway.deliver(CollectorRegistry())
    assert str(caught.value) == f"the Pushgateway at {pushed.host} answered 401: bad token *** of ***"


def closed_port() -> str:
    """Return an address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def unreachable(case: str, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a run that does not get as far as a request."""
    proxy_password = quote(PASSWORD.replace("中", ""), safe="")  # requests has no proxies with other than Latin letters
    match case:
        case "nobody listens":
            return secret_environment(closed_port(), tmp_path)
        case "no such name":
            return secret_environment("http://portal.invalid", tmp_path)
        case "no proxy":
            env = secret_environment("https://portal.invalid", tmp_path)
            return env | {"https_proxy": closed_port().replace("//", f"//me:{proxy_password}@")}
        case _:
            env = secret_environment("https://portal.invalid", tmp_path)
            return env | {"https_proxy": f"socks5://me:{proxy_password}@proxy.invalid"}


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("case", ["nobody listens", "no such name", "no proxy", "proxy that is none"])
def test_no_connection_tells_the_password(case: str, form: str, tmp_path: Path) -> None:
    """Where no request is made, the messages of the libraries would hold its whole URL."""
    env = unreachable(case, tmp_path) | FORMS[form]
    done = run("run", env=env)
    assert done.returncode == (2 if case == "proxy that is none" else 1)
    assert done.stderr
    assert not leaks(done.stderr, *MARKS)


def test_tls_tells_no_password(tmp_path: Path) -> None:
    """A certificate that nobody trusts, and a handshake that breaks off."""
    tls, _ = loopback(tmp_path)
    for script in (None, Peer.close):
        with Server(good, tls=tls, greet=script) as portal:
            env = secret_environment(portal.url, tmp_path)
            done = run("run", env=env)
        assert done.returncode == 1
        assert not leaks(done.stderr, *MARKS)


def test_a_refused_account_tells_no_password(tmp_path: Path) -> None:
    """The one line about the account names the user and not the password."""
    with Server(echoing(str)) as portal:
        env = secret_environment(portal.url, tmp_path, *map(str, range(20)))
        done = run("run", env=env)
    assert "refuses the account of user me" in done.stderr
    assert not leaks(done.stderr + (tmp_path / "cdn.prom").read_text(), *MARKS)


SETTINGS: Mapping[str, dict[str, str]] = {
    "everything wrong": {"CC_TEXTFILE_TIMEOUT": "x", "CC_TEXTFILE_PATH": "x", "CHINACACHE_CHANNEL_IDS": ","},
    "password in the portal's address": {"CHINACACHE_URL": f"http://me:{quote(PASSWORD, safe='')}@portal.invalid"},
    "password in a broken gateway": {"PUSHGATEWAY": f"http://me:{PASSWORD}@"},
    "password that is not UTF-8": {"CHINACACHE_PASS": PASSWORD + "\udcff"},
    "two passwords": {"CHINACACHE_PASS_FILE": "/nonexistent"},
}


@pytest.mark.parametrize("wrong", SETTINGS.values(), ids=SETTINGS)
def test_wrong_settings_tell_no_password(wrong: dict[str, str], tmp_path: Path) -> None:
    """What is wrong with the settings is said without repeating what may hold a password."""
    env = secret_environment("http://portal.invalid", tmp_path) | wrong
    done = subprocess.run(command("run"), env=env, capture_output=True, check=False, timeout=PATIENCE)
    assert done.returncode == 2
    assert not leaks(done.stderr.decode(errors="replace"), *MARKS)


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


def test_a_gateways_password_in_a_flag_is_warned_of(tmp_path: Path) -> None:
    """The one flag that can hold a password says that the process list shows it, and does not repeat it."""
    with Server(good) as portal, Server(Gateway()) as pushed:
        env = secret_environment(portal.url, tmp_path, "47", "47")
        flags = ("run", "--pushgateway", gateway_url(pushed))
        done = run(*flags, env=env)
    assert "--pushgateway holds a password, which the process list shows; give it by PUSHGATEWAY" in done.stderr
    assert "channel 47 is given 2 times" in done.stderr
    assert not leaks(done.stderr, *MARKS, *GATEWAY_MARKS)


def test_systemd_is_told_no_password(tmp_path: Path, start: Callable[..., Program]) -> None:
    """The status line that `systemctl status` shows to everyone repeats what the Pushgateway said, and no password."""
    told: list[str] = []
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with notify, Server(good) as portal, Server(Gateway()) as pushed:
        notify.settimeout(PATIENCE)
        notify.bind(str(tmp_path / "notify"))
        env = secret_environment(portal.url, tmp_path, PUSHGATEWAY=gateway_url(pushed), CHINACACHE_INTERVAL="1h")
        del env["CC_TEXTFILE_PATH"]
        start(*command("run"), env=env | {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        while not any("answered 400" in text for text in told):
            told.append(notify.recv(65536).decode())
    assert not leaks("\n".join(told), *MARKS, *GATEWAY_MARKS)


@pytest.mark.parametrize("gone", ["2>&-", "2>/dev/full", "2>&1 | true"], ids=["closed", "full", "a broken pipe"])
def test_a_log_that_cannot_be_written_costs_nothing(gone: str, tmp_path: Path) -> None:
    """Where standard error is closed, full or broken, the poll is delivered all the same."""
    with Server(good) as portal:
        env = secret_environment(portal.url, tmp_path)
        shell = ("bash", "-o", "pipefail", "-c", f'"$@" {gone}', "bash")
        subprocess.run((*shell, *command("run")), env=env, check=True, timeout=PATIENCE)
    assert "cc_textfile_poll_success 1.0" in (tmp_path / "cdn.prom").read_text()


# --- Bugs ------------------------------------------------------------------------------------------------------------

BUG = """
import logging, sys, threading
from cc_textfile.transport import Transport
def exchange(self, method, url, **rest):
    try:
        raise ValueError(url)
    except ValueError as error:
        raise RuntimeError(f"bug at {url} with {rest}") from error
class Dropped:
    def __init__(self, secret):
        self.secret = secret
    def __del__(self):
        raise RuntimeError(f"bug at {self.secret}")
if "poll" in sys.argv:
    Transport.exchange = exchange
else:
    from cc_textfile import runner
    def poll(self, *rest):
        thread = threading.Thread(target=exchange, args=(self, "GET", self._settings.password))
        thread.start()
        thread.join()
        logging.getLogger("x").error("odd %d", self._settings.password)
        logging.getLogger("x").error("odd: %s", self._settings.password)
        Dropped(self._settings.password)
        exchange(self, "GET", repr(self._settings.password))
    runner.Runner._poll = poll
sys.argv[1:] = ["run"]
from cc_textfile.cli import main
main()
"""
"""The program with a bug whose traceback holds the URL, or the password itself."""


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("place", ["poll", "everywhere"])
def test_a_bug_crashes_in_the_open_without_the_password(place: str, form: str, tmp_path: Path) -> None:
    """A traceback is written for whoever mends it, of any thread, and what it holds of the password is masked."""
    env = secret_environment("http://portal.invalid", tmp_path) | FORMS[form]
    program = (sys.executable, "-c", BUG, place)
    done = subprocess.run(program, env=env, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stderr.count("RuntimeError: bug at") == (1 if place == "poll" else 3)
    assert MASK in done.stderr
    assert not leaks(done.stderr, *MARKS)
