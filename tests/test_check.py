"""`cc-textfile check`: what it goes through, how it shows that, and how it ends."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from cc_textfile import demo
from cc_textfile.answers import Endpoint
from cc_textfile.demo import DemoPortal
from cc_textfile.errors import Overdue
from cc_textfile.step import State, within
from tests.checked import NOWHERE, Checked, alter
from tests.conftest import PATIENCE, ROOT, Program, command, environment, run

DOCUMENTATION = ROOT / "README.md"


def test_all_is_well(
    portal: DemoPortal,
    folder: Path,
    env: dict[str, str],
    node_exporter: Callable[[Path], str],
    pushgateway: Callable[..., str],
) -> None:
    """Where a poll succeeds and its numbers arrive, every step is well, and nothing is asked, or left, twice."""
    env |= {"PUSHGATEWAY": pushgateway(), "CC_TEXTFILE_PUSHGATEWAY_MODE": "always", "CHINACACHE_INTERVAL": "1h"}
    run("run", env=env | {"CHINACACHE_INTERVAL": ""})
    asked, before = portal.requests, {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    exporter = node_exporter(folder)
    checked = Checked("--node-exporter", exporter, env=env)
    assert checked.status == 0
    assert checked.are(State.OK) == checked.steps.keys()
    assert portal.requests == asked + len(Endpoint)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    checked.names("pushgateway version", State.OK, r"^\d+\.\d+\.\d+")
    checked.names("pushgateway group", State.OK, r"the job ChinaCachePush was pushed \d+ s ago")
    checked.names("node_exporter file", State.OK, r"a\.prom is served, written \d+ s ago")
    # The same by the address that people have in mind.
    checked = Checked("--node-exporter", exporter.removesuffix("/metrics"), env=env)
    assert checked.are(State.OK) == checked.steps.keys()


def test_before_the_first_poll(
    env: dict[str, str], folder: Path, node_exporter: Callable[[Path], str], pushgateway: Callable[..., str]
) -> None:
    """What the first poll will bring is not missed before it."""
    checked = Checked("--node-exporter", node_exporter(folder), env=env | {"PUSHGATEWAY": pushgateway()})
    assert checked.status == 0
    checked.names("node_exporter file", State.SKIPPED, "a.prom is not written yet")
    checked.names("pushgateway group", State.OK, "nothing is pushed yet")
    assert list(folder.iterdir()) == []


def test_two_outputs(env: dict[str, str], folder: Path, pushgateway: Callable[..., str]) -> None:
    """With two outputs, a poll succeeds by either; the one that is broken is named all the same."""
    env |= {"CC_TEXTFILE_PATH": str(folder / "gone" / "a.prom")}
    checked = Checked(env=env | {"PUSHGATEWAY": pushgateway()})
    assert checked.status == 0
    checked.names("textfile folder", State.WARNING, "gone is not there; the other output is well", "install -d")
    checked = Checked(env=env | {"PUSHGATEWAY": NOWHERE})
    assert checked.status == 1
    assert checked.are(State.FAILED) == {"textfile folder", "pushgateway ready"}


def test_where_each_setting_came_from(env: dict[str, str], tmp_path: Path) -> None:
    """Each setting is shown with what it is and where it came from, down to the file; secrets are only `set`."""
    (tmp_path / "channels").write_text("1\n2\n3\n4\n2\n")
    (tmp_path / "username").write_text("demo\n")
    (tmp_path / "password").write_text(demo.PASSWORD)
    env |= {
        "CHINACACHE_USER": "",
        "CHINACACHE_PASS": "",
        "CHINACACHE_CHANNEL_IDS": "",
        "CHINACACHE_CHANNEL_IDS_FILE": str(tmp_path / "channels"),
        "CREDENTIALS_DIRECTORY": str(tmp_path),
        "PUSHGATEWAY": "http://me:hidden@127.0.0.1:1",
    }
    checked = Checked("--interval", "90s", "--shard", "1/1", env=env)
    assert {name: step.detail for name, step in checked.steps.items() if name.startswith("settings ")} == {
        "settings user": f"demo, by credential username, file {tmp_path}/username",
        "settings password": f"set, by credential password, file {tmp_path}/password",
        "settings channels": "channel 2 is given 2 times and asked once",
        "settings interval": "90 s, by flag --interval",
        "settings querytime": "5 min, by default",
        "settings textfile": f"{env['CC_TEXTFILE_PATH']}, by variable CC_TEXTFILE_PATH",
        "settings pushgateway": "http://127.0.0.1:1, by variable PUSHGATEWAY",
        "settings pushgateway_mode": "fallback, by default",
        "settings portal_url": f"{env['CHINACACHE_URL']}, by variable CHINACACHE_URL",
        "settings timeout": "10 s, by default",
        "settings deadline": "60 s, by default",
        "settings concurrency": "32, by default",
        "settings shard": "1/1, by flag --shard",
        "settings log_level": "info, by default",
        "settings log_format": "text, by default",
    }
    checked.names("settings channels", State.WARNING, "2 times", "take it out of .*CHINACACHE_CHANNEL_IDS_FILE")
    plain = run("check", "--password-file", str(tmp_path / "password"), env=env).stdout
    where = f"by variable CHINACACHE_CHANNEL_IDS_FILE, file {tmp_path}/channels"
    assert f"ok       settings channels: 4 (1, 2, 3, ...), {where}\n" in plain
    assert f"ok       settings password: set, by flag --password-file, file {tmp_path}/password\n" in plain


def test_bad_settings() -> None:
    """Bad settings are status 2, all of them at once, with nothing tried; for programs, too."""
    env = environment(CHINACACHE_USER="me", QUERYTIME="x", CC_TEXTFILE_PATH="a.txt")
    plain, parsed = run("check", env=env), run("check", "--json", env=env)
    assert (plain.returncode, parsed.returncode) == (2, 2)
    assert plain.stdout == ""
    assert plain.stderr == parsed.stderr == run("run", env=env).stderr
    faults = [fault.removeprefix("cc-textfile: ") for fault in plain.stderr.splitlines()[:-1]]
    assert len(faults) == 4
    remedy = "see cc-textfile run --help"
    assert json.loads(parsed.stdout) == [
        {"step": "settings", "state": "failed", "detail": fault, "remedy": remedy} for fault in faults
    ]


def test_a_proxy_that_is_none_is_said_to_programs_too(env: dict[str, str]) -> None:
    """What is wrong with the environment is status 2, and in the list for programs like any setting."""
    done = run("check", "--json", env=env | {"http_proxy": "socks5://127.0.0.1:1"})
    assert done.returncode == 2
    (step,) = json.loads(done.stdout)
    assert step["state"] == "failed"
    assert "the proxy that the environment names" in step["detail"]


def test_a_bad_address_of_node_exporter(env: dict[str, str]) -> None:
    """The option that `run` does not have is checked like the others."""
    done = run("check", "--node-exporter", "http://:x", env=env)
    assert done.returncode == 2
    assert "'--node-exporter': is not an address such as" in done.stderr


def test_plain_lines(env: dict[str, str], folder: Path) -> None:
    """Where no terminal is, each step is a line, with its state in words at the beginning, and the verdict is last."""
    done = run("check", "--node-exporter", NOWHERE, env=env)
    *lines, verdict = done.stdout.splitlines()
    assert (done.returncode, verdict, done.stderr) == (0, "a poll would succeed", "")
    assert all(
        re.match(r"(ok|skipped) +(settings|portal|textfile|pushgateway|node_exporter) \w+: ", line) for line in lines
    )
    (folder / ".a.prom.cc-textfile").touch()
    done = run("check", "--node-exporter", NOWHERE, env=env | {"CHINACACHE_URL": NOWHERE})
    assert done.returncode == 1
    assert done.stdout.endswith("a poll would not succeed: 1 failed, 1 to look at\n")
    assert "\nwarning  textfile litter: " in done.stdout
    assert "\nFAILED   portal connection: " in done.stdout


def on_a_terminal(env: Mapping[str, str]) -> str:
    """Return what a check writes to a terminal."""
    keeper, end = pty.openpty()
    process = subprocess.Popen(command("check", "--node-exporter", NOWHERE), env=env, stdout=end, stderr=end)
    os.close(end)
    said = b""
    try:
        while read := os.read(keeper, 4096):
            said += read
    except OSError:  # the other end is closed
        pass
    os.close(keeper)
    assert process.wait(PATIENCE) == 1
    return said.decode().replace("\r\n", "\n")


def test_a_terminal(env: dict[str, str], folder: Path) -> None:
    """On a terminal, the steps are a table with coloured marks, its long texts kept in their column."""
    env |= {"PUSHGATEWAY": "", "TERM": "xterm", "COLUMNS": "80", "CHINACACHE_URL": NOWHERE, "NO_COLOR": ""}
    (folder / ".a.prom.cc-textfile").touch()
    said = on_a_terminal(env)
    assert "\n\x1b[32m✓\x1b[0m settings password         set, by variable CHINACACHE_PASS\n" in said
    assert "\n\x1b[31m✗\x1b[0m portal connection         no connection to 127.0.0.1:1: Connection refused\n" in said
    assert f"\n{' ' * 28}→ nc -vz 127.0.0.1 1; " in said
    assert "\n\x1b[33m!\x1b[0m textfile litter" in said
    without = on_a_terminal(env | {"NO_COLOR": "1"})
    assert without == re.sub(r"\x1b\[\d+m", "", said)
    assert all(len(line) <= 80 for line in without.splitlines() if "→" not in line)
    ascii_only = on_a_terminal(env | {"PYTHONIOENCODING": "ascii"})
    assert "\nFAILED   portal connection: " in ascii_only


def test_what_the_documentation_shows(env: dict[str, str], folder: Path) -> None:
    """The example is what a check says in that case, but for ports and milliseconds; every step has its row."""
    text = DOCUMENTATION.read_text()
    _, found, rest = text.partition("<!-- check:")
    assert found
    example = rest.partition("```\n")[2].partition("```")[0]
    path = folder / "missing" / "a.prom"
    env |= {"CC_TEXTFILE_PATH": str(path), "CHINACACHE_INTERVAL": "5m", "QUERYTIME": "1440", "NO_COLOR": "1"}
    said = on_a_terminal(env | {"COLUMNS": "130"}).replace(str(path.parent), "/var/lib/node_exporter")
    said = "".join(line for line in said.splitlines(keepends=True) if " settings " not in line)
    changing = re.compile(r"port \d+|\d+ ms|-o \S+")
    assert changing.sub("", said) == changing.sub("", example)
    rows = " ".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE))
    steps = Checked(env=env | {"CC_TEXTFILE_PATH": str(folder / "a.prom")}).steps
    assert {step.split()[1] for step in steps if not step.startswith("settings ")} <= set(re.findall(r"\w+", rows))


def test_foreign_words(portal: DemoPortal, env: dict[str, str]) -> None:
    """What the portal says in Chinese, or in control characters, breaks neither terminals nor old encodings."""
    said = json.dumps({"code": 9, "msg": "密码错误\x1b[31m"}).encode()
    alter(portal, {"refuse": lambda handler: handler.say(said)})
    env |= {"CHINACACHE_PASS": "guess"}
    assert "`code` is 9: 密码错误 [31m; to mend it" in run("check", env=env).stdout
    Checked(env=env).names("portal password", State.FAILED, "`code` is 9: 密码错误 ")
    assert r"`code` is 9: \u5bc6" in run("check", env=env | {"PYTHONIOENCODING": "ascii"}).stdout
    checked = Checked(env=env | {"CC_TEXTFILE_PATH": "/a\x1b[31m\nb/a.prom"})
    checked.names("textfile folder", State.FAILED, r"^/a\?\[31m\?b is not there$")


def test_no_secret_is_shown(portal: DemoPortal, env: dict[str, str]) -> None:
    """A password is not shown, in no form and in no spelling, even when the portal repeats it."""
    env |= {"CHINACACHE_PASS": "p&w=ä/ +%", "PUSHGATEWAY": "http://me:hid%26den@127.0.0.1:1"}
    echo = {"refuse": lambda handler: handler.say(json.dumps({"code": 9, "msg": handler.path}).encode())}
    alter(portal, echo)
    for form in ((), ("--json",)):
        done = run("check", *form, env=env)
        assert "***" in done.stdout
        assert not re.search(r"p&w|p%26w|hid.*den|\\u00e4", done.stdout + done.stderr)


def test_an_interrupt(portal: DemoPortal, env: dict[str, str], folder: Path, start: Callable[..., Program]) -> None:
    """Ctrl-C ends it at once, whatever the portal is doing, without a traceback and without litter."""
    asked = threading.Event()

    def fault(*_: object) -> str:
        asked.set()
        return "hang"

    portal.fault = fault
    program = start(*command("check", "--timeout", "1h"), env=env)
    assert asked.wait(PATIENCE)
    began = time.monotonic()
    assert program.end(signal.SIGINT) == 1
    assert time.monotonic() - began < PATIENCE / 4
    assert program.lines == ["cc-textfile: SIGINT before the check was over"]
    assert list(folder.iterdir()) == []


def test_a_look_up_that_hangs() -> None:
    """What no timeout reaches is left behind when its time is over."""
    never = threading.Event()
    with pytest.raises(Overdue, match=r"nothing came back within 0\.01 s"):
        within(0.01, never.wait)
    never.set()


def test_a_bug_is_seen() -> None:
    """What is not a failure of the network crashes in the open."""
    with pytest.raises(ZeroDivisionError):
        within(1, lambda: 1 / 0)


def test_run_does_not_pay_for_it() -> None:
    """The command line that polls loads no module of the check."""
    look = "import sys, cc_textfile.cli, cc_textfile.runner; sys.exit(any('check' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0


def test_a_password_in_a_flag_is_warned_of_as_what_it_is(env: dict[str, str]) -> None:
    """The note on a Pushgateway's password stands at the Pushgateway, and not at the channels."""
    checked = Checked("--pushgateway", "http://u:geheim@127.0.0.1:1", env=env)
    checked.names(
        "settings pushgateway", State.WARNING, "which the process list shows", "take it out of flag --pushgateway"
    )


def test_without_a_standard_output_the_status_tells(env: dict[str, str]) -> None:
    """A script that closed standard output, as cron's may, still learns the outcome."""
    shell = 'exec "$@" 1>&-'
    done = run("check", "--node-exporter", NOWHERE, env=env, before=("sh", "-c", shell, "sh"))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_name_that_is_too_long_for_a_draft_beside_it(env: dict[str, str], folder: Path) -> None:
    """The draft has a longer name than the file; `run` and `check` say so, and not that a right is missing."""
    name = str(folder / ("x" * 240 + ".prom"))
    checked = Checked("--textfile", name, env=env)
    checked.names("textfile writable", State.FAILED, "File name too long", "40 characters shorter")
    done = run("run", "--textfile", name, env=env)
    assert done.returncode == 1
    assert "File name too long (the draft beside it has a name 40 characters longer" in done.stderr
