"""Log lines: what they look like, what is redacted in them, and what happens when nobody reads them."""

import base64
import json
import logging
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cc_textfile import logs
from cc_textfile.demo.portal import DemoPortal
from cc_textfile.logs import MASK, MAX_QUOTED, Redactor
from tests.conftest import IN_JOURNAL, PATIENCE, account, command, eventually, run

PASSWORD = """mark-Zq7&=+%/ "'<>\\ü中;mark-kW9!~*"""

FORMS: dict[str, Callable[[str], str]] = {
    "clear": str,
    "percent": lambda secret: quote(secret, safe=""),
    "percent, with slashes": quote,
    "percent, lower": lambda secret: re.sub("%..", lambda match: match[0].lower(), quote(secret, safe="")),
    "form": quote_plus,
    "percent, as JavaScript": lambda secret: quote(secret, safe="!'()*"),
    "percent, as JavaScript's encodeURI": lambda secret: quote(secret, safe="!#$&'()*+,/:;=?@"),
    "percent, as browsers": lambda secret: quote(secret, safe="!$%&()*+,/:;=?@[]\\^`{|}~"),
    "form, as Java": lambda secret: quote_plus(secret, safe="*").replace("~", "%7E"),
    "percent, twice": lambda secret: quote(quote(secret, safe=""), safe=""),
    "JSON, as Go": lambda secret: re.sub(
        "[&<>]", lambda match: f"\\u{ord(match[0]):04x}", json.dumps(secret, ensure_ascii=False)[1:-1]
    ),
    "JSON, as Gson": lambda secret: re.sub(
        "[&<>=']", lambda match: f"\\u{ord(match[0]):04x}", json.dumps(secret, ensure_ascii=False)[1:-1]
    ),
    "JSON, as PHP": lambda secret: json.dumps(secret)[1:-1].replace("/", "\\/"),
    "JSON": lambda secret: json.dumps(secret)[1:-1],
    "JSON in UTF-8": lambda secret: json.dumps(secret, ensure_ascii=False)[1:-1],
    "repr": lambda secret: repr(secret)[1:-1],
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_each_form_is_redacted(form: Callable[[str], str]) -> None:
    """Nothing is left of the password, and the words around it stay."""
    redactor = Redactor(PASSWORD)
    assert redactor.redact(f"before {form(PASSWORD)} after") == f"before {MASK} after"
    assert redactor.quote(f"before {form(PASSWORD)} after") == f"before {MASK} after"


@pytest.mark.parametrize(
    ("secret", "repeated"),
    [
        ("  geheim\n", "geheim"),
        ("ge+he+im", "ge he im"),
        ("ge \t heim", "ge heim"),
        ("ge\r\nheim", "ge\n\nheim"),
        ("ge\x00heim", "ge\x1fheim"),
    ],
)
def test_a_secret_that_comes_back_with_other_blanks(secret: str, repeated: str) -> None:
    """A server trims what it repeats, takes + for a blank, or breaks lines elsewhere."""
    assert Redactor(secret).quote(f"user ({repeated}) unknown") == f"user ({MASK}) unknown"


@pytest.mark.parametrize(
    ("repeated", "quoted"),
    [
        ("bad password geheim12", f"bad password {MASK}"),
        ("bad password 'gehei...'", f"bad password '{MASK}...'"),
        ("no GET /isp?user=me&apiPasswd=geh", f"no GET /isp?user=me&apiPasswd={MASK}"),
        ("/http_code?api_key=geheim&channel_id=1", f"/http_code?api_key={MASK}&channel_id=1"),
        ("that is geh", "that is geh"),
    ],
)
def test_a_secret_that_a_server_has_cut_off(repeated: str, quoted: str) -> None:
    """Its larger part, at the end of the text, is masked, and any part of it in the query of the request."""
    assert Redactor("geheim123").quote(repeated) == quoted


def test_several_secrets() -> None:
    """Secrets are added as they become known; one that begins with another is redacted whole."""
    redactor = Redactor("geheim")
    redactor.add("geheimnis")
    assert redactor.redact("geheimnis geheim") == f"{MASK} {MASK}"


@pytest.mark.parametrize("secret", ["", "a", "2", "inf"])
def test_a_short_secret_is_left_alone(secret: str) -> None:
    """A secret of fewer than four characters is part of too many words: what is left would spell it out."""
    assert Redactor(secret).quote("2 channels say: info") == "2 channels say: info"


@settings(deadline=None)
@given(st.text())
def test_foreign_text_is_one_short_line(text: str) -> None:
    """What a server writes cannot begin a line of its own in a log, nor colour a terminal, nor fill a disk."""
    quoted = Redactor(PASSWORD).quote(text)
    assert quoted.isprintable()
    assert len(quoted) <= MAX_QUOTED + 1


def test_redaction_comes_before_the_text_is_cut() -> None:
    """A secret that the limit of the length divides leaves nothing."""
    assert Redactor("geheimnis").quote("x" * (MAX_QUOTED - 4) + " geheimnis") == "x" * (MAX_QUOTED - 4) + f" {MASK}"


@pytest.mark.parametrize("secret", ["0123456789abcdef" * 64, "中&+ " * 256], ids=["hex", "escaped"])
def test_redaction_is_linear(secret: str) -> None:
    """A long password, and text that holds all but the end of it, cost next to no time and memory.

    What backtracks does not come to an end here. In memory, the redactor needs some copies of password and text.
    """
    script = "import sys; from cc_textfile.logs import Redactor; Redactor(sys.argv[1]).quote(sys.stdin.read())"
    text = secret[:-1] * 64
    subprocess.run([sys.executable, "-c", script, secret], input=text, text=True, check=True, timeout=PATIENCE)
    tracemalloc.start()
    redactor = Redactor(secret)
    kept, _ = tracemalloc.get_traced_memory()
    redactor.redact(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2**18
    assert peak - kept < 2**20


def test_own_words_and_fields_are_never_rewritten(tmp_path: Path, portal: DemoPortal) -> None:
    """A password that is part of every line changes none: who knows the words could read it off."""
    env = account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"))
    env |= {"CC_TEXTFILE_LOG_FORMAT": "json", "CHINACACHE_CHANNEL_IDS": "2", "CC_TEXTFILE_CONCURRENCY": "1"}
    portal.fault = lambda *_: "refused"

    def logged(password: str) -> list[str]:
        stderr = run("run", env={**env, "CHINACACHE_PASS": password}, before=IN_JOURNAL).stderr
        return [re.sub(r" [0-9.]+ s:|\"seconds\": [0-9.]+", "", line) for line in stderr.splitlines()]

    usual = logged("something-else")
    assert len(usual) == 7
    for password in ("a", "2", '": ', "refused"):
        assert logged(password) == usual


@pytest.fixture
def log(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[str], str]]:
    """Configure logging as the program does; returns what is written of three lines: debug, info with fields, error."""
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def configure(form: str) -> str:
        root.handlers = []
        logs.configure("info", form, Redactor())
        own = logging.getLogger("cc_textfile.test")
        own.debug("not shown")
        own.info("2 channels", extra={"channels": 2, "other": 1})
        own.error("cannot be read: 中\udcff")
        return capfd.readouterr().err

    yield configure
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    root.handlers, _ = before
    root.setLevel(before[1])


TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def test_a_line_of_text(log: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Time in UTC, level, message; bytes that are no UTF-8 do not stop it."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert re.fullmatch(rf"{TIME} info: 2 channels\n{TIME} error: cannot be read: 中\\udcff\n", log("text"))


def test_a_line_of_json(log: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An object a line, with the fields of the event that are documented."""
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    info, error = map(json.loads, log("json").splitlines())
    assert re.fullmatch(TIME, info.pop("time"))
    assert info == {"level": "info", "message": "2 channels", "channels": 2}
    assert error.keys() == {"time", "level", "message"}


def test_lines_for_the_journal(log: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal has a time of its own, and reads a priority before each line, as in sd-daemon(3)."""
    status = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    assert log("text") == "<6>info: 2 channels\n<3>error: cannot be read: 中\\udcff\n"
    assert log("json").startswith('<6>{"level": "info", "message": "2 channels", "channels": 2}\n<3>{')
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + 1}")
    assert re.match(rf"{TIME} info: ", log("text"))


def test_a_zone_that_cannot_be(tmp_path: Path, portal: DemoPortal) -> None:
    """Times are in UTC: a zone that Python takes for impossible costs no line."""
    done = run("run", env=account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"), TZ="UTC+24"))
    assert done.returncode == 0
    assert re.fullmatch(rf"{TIME} info: .*\n{TIME} info: polled 3 channels .*\n", done.stderr)


# --- Where nobody reads ----------------------------------------------------------------------------------------------


def full_pipe() -> tuple[int, int]:
    """Return a pipe that takes no byte more."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 100)
    os.set_blocking(writer, True)
    return reader, writer


@pytest.fixture(params=["pipe", "terminal"])
def unread(request: pytest.FixtureRequest) -> Iterator[int]:
    """Return the writing end of a full pipe, or of a terminal that nobody reads."""
    reader, writer = full_pipe() if request.param == "pipe" else pty.openpty()
    yield writer
    os.close(reader)
    os.close(writer)


@contextmanager
def loop(env: dict[str, str], stderr: int) -> Iterator[None]:
    """Run a loop that SIGTERM ends with 0."""
    with subprocess.Popen(command("run"), env=env, stderr=stderr) as process:
        try:
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


@pytest.mark.slow
def test_a_standard_error_that_nobody_reads(unread: int, tmp_path: Path, portal: DemoPortal) -> None:
    """Polls go on, each is delivered, and SIGTERM ends the loop: lines are dropped instead."""
    textfile = tmp_path / "a.prom"
    env = account(portal, CC_TEXTFILE_PATH=str(textfile), CHINACACHE_INTERVAL="1ms")
    env["CHINACACHE_CHANNEL_IDS"] = "x" * 1000  # a long line for each failure
    portal.fault = lambda *_: "malformed"
    with loop(env, unread):
        polls = 60  # more lines than a terminal takes
        eventually(lambda: portal.requests > 4 * polls)
        requests, written = portal.requests, textfile.stat().st_mtime_ns
        eventually(lambda: portal.requests > requests + 8)
        assert textfile.stat().st_mtime_ns > written


def test_lines_are_written_again_when_somebody_reads_again(portal: DemoPortal, tmp_path: Path) -> None:
    """What was dropped is gone; later lines are whole."""
    reader, writer = full_pipe()
    textfile = tmp_path / "a.prom"
    env = account(portal, CC_TEXTFILE_PATH=str(textfile), CHINACACHE_INTERVAL="50ms")
    with loop(env, writer), os.fdopen(reader) as pipe:
        os.close(writer)
        eventually(textfile.exists)
        assert re.match(rf"x+{TIME} info: 12 requests in a poll", pipe.readline())
        line = next(line for line in pipe if "polled" in line)  # after a warning, where a poll takes long
        assert re.fullmatch(rf"{TIME} info: polled 3 channels .*; wrote {textfile}\n", line)


@pytest.mark.parametrize("gone", ["2>&-", "2>/dev/full", "2>&1 | true"], ids=["closed", "full", "a broken pipe"])
def test_a_log_that_cannot_be_written_costs_nothing(gone: str, env: dict[str, str]) -> None:
    """Where standard error is closed, full or broken, the poll is delivered, and each exit status is its own."""
    words = ("bash", "-o", "pipefail", "-c", f'"$@" {gone}', "bash", *command("run"))
    subprocess.run(words, env=env, check=True, timeout=PATIENCE)
    assert f'poll_success{{account="{env["CHINACACHE_USER"]}"}} 1.0' in Path(env["CC_TEXTFILE_PATH"]).read_text()
    bad = env | {"QUERYTIME": "none"}
    assert subprocess.run(words, env=bad, check=False, timeout=PATIENCE).returncode == 2


def test_a_host_that_gives_no_thread(
    log: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The line is written all the same: it may be the one that tells so."""
    log("text")

    def start(_: threading.Thread) -> None:
        raise RuntimeError

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        logging.getLogger("cc_textfile.test").error("no thread")
    assert capfd.readouterr().err.endswith("error: no thread\n")


def test_a_bug_while_python_ends() -> None:
    """When no thread starts any more, the traceback is written all the same, and the process ends."""
    script = """
from cc_textfile import logs
class Dropped:
    def __del__(self):
        raise RuntimeError("bug")
logs.configure("info", "text", logs.Redactor())
dropped = Dropped()
dropped.itself = dropped
"""
    words = (sys.executable, "-c", script)
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert "critical: Traceback (most recent call last):" in done.stderr
    assert done.stderr.endswith("RuntimeError: bug\n")
