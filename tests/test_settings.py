"""Settings come from flags, variables and files, and all that is wrong with them is reported at once."""

import os
import shlex
import string
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from unittest import mock

import certifi
import click
import hypothesis
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from cc_textfile.errors import SettingsError
from cc_textfile.portal.responses import Method
from cc_textfile.settings import SETTINGS, Settings, SettingsCommand, Shard, called

GOOD = {
    "CHINACACHE_USER": "me",
    "CHINACACHE_PASS": "secret",
    "CHINACACHE_CHANNEL_IDS": "1001, 1002,,",
    "CC_TEXTFILE_PATH": "/x/y.prom",
}
PATIENCE = 60.0
ANY_SPEED = hypothesis.settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@click.command(cls=SettingsCommand)
@click.option("--json", "as_json", is_flag=True)
def command(load: Callable[[], Settings], *, as_json: bool) -> tuple[Callable[[], Settings], bool]:
    """Return what the callback was given."""
    return load, as_json


def load_from(environ: Mapping[str, str], *flags: str) -> Settings:
    with mock.patch.dict(os.environ, environ, clear=True):
        load, _ = command.main([*flags], standalone_mode=False)
        settings = load()
    assert isinstance(settings, Settings)
    return settings


def load(*flags: str, **variables: str) -> Settings:
    """Return the settings of the flags, and of the good variables with these changes."""
    return load_from(GOOD | variables, *flags)


def faults(*flags: str, **variables: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(*flags, **variables)
    return caught.value.faults


@pytest.mark.usefixtures("no_working_directory")
def test_a_relative_path_needs_a_working_directory() -> None:
    """Without one it leads nowhere, and that is a fault; an absolute path is none."""
    (found,) = faults("--textfile", "a.prom")
    assert found.startswith("--textfile (CC_TEXTFILE_PATH): a relative path, and the working directory is gone")


def test_the_variables_of_the_older_exporter_are_enough() -> None:
    """They make a whole run, with the defaults of the contract."""
    settings = load(PUSHGATEWAY="localhost:9091", CHINACACHE_INTERVAL="1h30m", QUERYTIME="7")
    assert (settings.user, settings.password, settings.channels) == ("me", "secret", ("1001", "1002"))
    assert (settings.interval, settings.querytime, settings.pushgateway) == (5400, 7, "http://localhost:9091")


def test_the_defaults_are_those_of_settings_made_by_hand() -> None:
    """The defaults of flags and of the class are the same, and are those of the contract."""
    loaded = load()
    by_hand = Settings(
        user="me", password="secret", account="me", channels=("1001", "1002"), textfile=Path("/x/y.prom")
    )
    names = [field.name for field in fields(Settings) if field.name != "origins"]
    assert {name: getattr(loaded, name) for name in names} == {name: getattr(by_hand, name) for name in names}
    assert (loaded.settle, loaded.day_settle, loaded.catch_up) == (15 * 60, 2 * 3600, 168 * 3600)
    assert (loaded.timeout, loaded.deadline, loaded.concurrency) == (10, 60, 32)
    assert (loaded.methods, loaded.gauges, loaded.ledger) == (tuple(Method), True, None)


def test_flags_win_over_variables() -> None:
    """A flag wins, and each setting tells where it came from."""
    settings = load("--user", "you", "--channels", "7", "--textfile", "/a.prom", "--querytime", "9", QUERYTIME="8")
    assert (settings.user, settings.channels, settings.querytime) == ("you", ("7",), 9)
    assert settings.textfile == Path("/a.prom")
    origins = [settings.origins[name] for name in ("user", "password", "timeout")]
    assert origins == ["flag --user", "variable CHINACACHE_PASS", "default"]


@pytest.mark.parametrize(
    ("flags", "variables", "name", "value"),
    [
        ((), {"CC_TEXTFILE_GAUGES": "false"}, "gauges", False),
        (("--gauges",), {"CC_TEXTFILE_GAUGES": "false"}, "gauges", True),
        (("--no-gauges",), {}, "gauges", False),
        (("--methods", " isp,hit_rate,isp"), {}, "methods", (Method.HIT_RATE, Method.ISP)),
        (("--account", "shop"), {}, "account", "shop"),
        (("--account", "shop"), {}, "account_given", True),
        (("--settle", "0s"), {}, "settle", 0),
        (("--ca-file", certifi.where()), {}, "ca_file", Path(certifi.where())),
        (("--log-level", "INFO"), {}, "log_level", "info"),
        ((), {"QUERYTIME": ""}, "querytime", 5),
        ((), {"PUSHGATEWAY": ""}, "pushgateway", None),
        ((), {"CHINACACHE_URL": "HTTPS://Portal:444/"}, "portal_url", "https://Portal:444"),
        ((), {"CHINACACHE_URL": "https://host/X//"}, "portal_url", "https://host/X"),
        ((), {"PUSHGATEWAY": "u:p%2F@host:9091/prefix"}, "pushgateway", "http://u:p%2F@host:9091/prefix"),
    ],
)
def test_a_value_is_read(
    tmp_path: Path, flags: tuple[str, ...], variables: dict[str, str], name: str, value: object
) -> None:
    """Each form that the help describes is taken; an empty variable is an unset one."""
    assert getattr(load(*flags, **variables, CC_TEXTFILE_LEDGER=str(tmp_path / "ledger")), name) == value


def test_a_secret_is_not_in_the_representation() -> None:
    """Settings that end up in a message or a traceback show neither password."""
    shown = repr(load(PUSHGATEWAY="http://u:hidden@host"))
    assert "me" in shown
    assert "secret" not in shown
    assert "hidden" not in shown


@pytest.mark.parametrize(
    ("content", "password"),
    [("p w\n", "p w"), ("pw\r\n", "pw"), (" pw \n\n", " pw \n"), ("pw\r", "pw\r"), ("\ufeffpäß", "päß")],
)
def test_a_password_file_is_read_without_its_last_newline(tmp_path: Path, content: str, password: str) -> None:
    """One newline at the end does not count; every other character may belong to the password."""
    file = tmp_path / "password"
    file.write_bytes(content.encode())
    settings = load("--password-file", str(file))
    assert settings.password == password
    assert settings.origins["password"] == f"flag --password-file, file {file}"


def test_a_channels_file_has_channels_and_labels(tmp_path: Path) -> None:
    """A line is a channel and its labels, split as a shell does; blank lines and comments count for nothing."""
    file = tmp_path / "channels"
    file.write_text(
        '\ufeff# ours\n1001 name="www.example.com" team="a # b"\r\n\n  1002  # the shop\n#1003\n1001 team=c\n'
    )
    settings = load("--channels-file", str(file))
    assert settings.channels == ("1001", "1002")
    assert settings.channel_labels == {"1001": {"team": "c"}}
    assert settings.notes == (
        "channels that are given more than once are requested once, with their last labels: 1001",
    )


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("10 20", 'not a label: write name="value"'),
        ("10,20", "not a channel id"),
        ("team=web", "not a channel id"),
        ("10 team=a team=b", "not a label"),
        ("10 channel=a", "not a label"),
        ("10 __name__=a", "not a label"),
        ("10 1st=a", "not a label"),
        ("10 my-team=a", "not a label"),
        ('10 team="a', "a quote or a backslash has no end"),
    ],
)
def test_a_bad_line_of_a_channels_file_is_named(tmp_path: Path, line: str, fault: str) -> None:
    """The fault has the file, the line, and what is wrong with it; not what is there, which may be a password."""
    file = tmp_path / "channels"
    file.write_text(f"# ours\n{line}\n")
    (found,) = faults("--channels-file", str(file))
    assert f"--channels-file (CHINACACHE_CHANNEL_IDS_FILE): {file}, line 2: {fault}" in found
    assert line not in found


LABELS = st.dictionaries(
    st.from_regex(r"[a-z][a-zA-Z0-9_]{0,8}", fullmatch=True).filter(lambda name: name not in ("account", "channel")),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n") | st.sampled_from("\r\x85\u2028#'\"\\ ")),
)


@ANY_SPEED
@given(st.dictionaries(st.from_regex(r"[0-9a-z频]{1,9}", fullmatch=True), LABELS, min_size=1, max_size=5))
def test_a_channels_file_reads_back(
    tmp_path_factory: pytest.TempPathFactory, channels: dict[str, dict[str, str]]
) -> None:
    """Whatever values labels have, quoted for a shell they come back as they are."""
    lines = (
        " ".join([channel, *(f"{name}={shlex.quote(value)}" for name, value in labels.items())])
        for channel, labels in channels.items()
    )
    file = tmp_path_factory.getbasetemp() / "channels"
    file.write_text("\n".join(lines), newline="")
    settings = load("--channels-file", str(file))
    assert settings.channels == tuple(channels)
    assert settings.channel_labels == {channel: labels for channel, labels in channels.items() if labels}


def test_credentials_are_read_when_nothing_else_is_set(tmp_path: Path) -> None:
    """The credentials of systemd give way to flags and variables; one that is missing is a missing setting."""
    bare = {"CREDENTIALS_DIRECTORY": str(tmp_path), "CHINACACHE_USER": "", "CHINACACHE_PASS": ""}
    assert [fault.partition(" is ")[2] for fault in faults(**bare)] == ["missing", "missing"]
    user, password, other = (tmp_path / name for name in ("username", "password", "other"))
    for file in (user, password, other):
        file.write_text(f"{file.name}\n")
    settings = load(**bare)
    assert (settings.user, settings.password) == ("username", "password")
    assert settings.origins["password"] == f"credential {password}"
    assert load(CREDENTIALS_DIRECTORY=str(tmp_path)).password == "secret"
    assert load("--password-file", str(other), **bare).password == "other"
    password.unlink()
    password.mkdir()
    assert f"{password} cannot be read: Is a directory" in faults(**bare)[0]
    user.unlink()
    user.symlink_to("username")
    assert f"{user} cannot be read: Too many levels" in faults(**bare)[0]


@pytest.mark.parametrize(
    ("variable", "value", "fault"),
    [
        ("CHINACACHE_INTERVAL", "0s", "--interval (CHINACACHE_INTERVAL): '0s' is not a duration from 1ms to 8784h"),
        ("CHINACACHE_INTERVAL", "5", "'5' is not a duration"),
        ("CHINACACHE_INTERVAL", "5mm", "'5mm' is not a duration"),
        ("CHINACACHE_INTERVAL", "1d", "'1d' is not a duration"),
        ("CHINACACHE_INTERVAL", "1.2.3s", "'1.2.3s' is not a duration"),
        ("CHINACACHE_INTERVAL", "9" * 30 + "h", "h' is not a duration"),
        ("CC_TEXTFILE_TIMEOUT", "soon", "--timeout (CC_TEXTFILE_TIMEOUT): 'soon' is not a duration"),
        ("CC_TEXTFILE_SETTLE", "-1s", "--settle (CC_TEXTFILE_SETTLE): '-1s' is not a duration from 0s to 24h"),
        ("CC_TEXTFILE_SETTLE", "24h1s", "from 0s to 24h"),
        ("CC_TEXTFILE_DAY_SETTLE", "25h", "--day-settle (CC_TEXTFILE_DAY_SETTLE): '25h' is not"),
        ("CC_TEXTFILE_CATCH_UP", "23h", "--catch-up (CC_TEXTFILE_CATCH_UP): '23h' is not a duration from 24h to"),
        ("QUERYTIME", "0", "--querytime (QUERYTIME): '0' is not a whole number from 1 to 527040"),
        ("CC_TEXTFILE_CONCURRENCY", "1001", "'1001' is not a whole number from 1 to 1000"),
        ("CC_TEXTFILE_GAUGES", "maybe", "--gauges/--no-gauges (CC_TEXTFILE_GAUGES): 'maybe' is not true or false"),
        ("CC_TEXTFILE_GAUGES", "false", "there is nothing to export; give --ledger (CC_TEXTFILE_LEDGER) as well"),
        ("CC_TEXTFILE_PATH", "/x/y.txt", "--textfile (CC_TEXTFILE_PATH): /x/y.txt is not a .prom file"),
        ("CC_TEXTFILE_METHODS", "isp,host", "'isp,host' is not one or more of hit_rate, isp, region, http_code"),
        ("CC_TEXTFILE_METHODS", ",", "',' is not one or more of"),
        ("CC_TEXTFILE_SHARD", "0/3", "--shard (CC_TEXTFILE_SHARD): '0/3' is not I/N"),
        ("CC_TEXTFILE_SHARD", "4/3", "with I from 1 to N"),
        ("CC_TEXTFILE_LOG_LEVEL", "loud", "'loud' is not one of 'debug', 'info', 'warning', 'error'"),
        ("CHINACACHE_CHANNEL_IDS", " , ", "--channels (CHINACACHE_CHANNEL_IDS): no channel"),
        ("CHINACACHE_CHANNEL_IDS", "a\x07b", "is not a channel id"),
        ("CHINACACHE_USER", "\udcff", "--user (CHINACACHE_USER): blank, or not UTF-8"),
        ("CHINACACHE_USER", " ", "--user (CHINACACHE_USER): blank, or not UTF-8"),
        (
            "CHINACACHE_CA_FILE",
            "/nowhere/ca",
            "--ca-file (CHINACACHE_CA_FILE): /nowhere/ca cannot be read: No such file",
        ),
        ("CHINACACHE_CA_FILE", __file__, f"{__file__} has no certificates (PEM) in it"),
        (
            "CHINACACHE_URL",
            "https://me:hidden@host",
            "--portal-url (CHINACACHE_URL): a user or a password in the address",
        ),
        *(
            (variable, address, "not an address such as https://host:444")
            for variable, address in [
                ("CHINACACHE_URL", "portal"),
                ("CHINACACHE_URL", "https://host:99999"),
                ("CHINACACHE_URL", "https://host/?password=hidden"),
                ("PUSHGATEWAY", "http://[::1"),
                ("PUSHGATEWAY", "http://user[v1.hidden@host]"),
                ("PUSHGATEWAY", "http:/host:9091"),
                ("PUSHGATEWAY", "ftp://u:hidden@host"),
                ("PUSHGATEWAY", "https//host:9091"),
                ("PUSHGATEWAY", "http://ho st"),
                ("PUSHGATEWAY", "http://u:12/hidden@host:9091"),
            ]
        ),
    ],
)
def test_a_bad_value_names_flag_and_variable_and_what_would_be_right(variable: str, value: str, fault: str) -> None:
    """An operator reads what to change, and how; an address is never shown, as it may hold a password."""
    (found,) = faults(**{variable: value})
    assert fault in found
    assert "hidden" not in found
    assert not found.endswith(".")


def test_a_certificate_that_is_not_in_text_is_no_bundle(tmp_path: Path) -> None:
    """Windows exports certificates in DER by default."""
    bundle = tmp_path / "ca.cer"
    bundle.write_bytes(b"\x30\x82\x02\xff")
    (found,) = faults("--ca-file", str(bundle))
    assert found.endswith(f"{bundle} has no certificates (PEM) in it")


def test_a_delay_as_long_as_the_catch_up_counts_nothing() -> None:
    """A window would be given up before its numbers are taken to be complete."""
    (found,) = faults("--settle", "24h", "--catch-up", "24h")
    assert found.startswith("--settle (CC_TEXTFILE_SETTLE) is not below --catch-up (CC_TEXTFILE_CATCH_UP)")
    assert load("--settle", "24h", "--catch-up", "25h").settle == 24 * 3600


@pytest.mark.parametrize("flag", ["--password-file", "--channels-file", "--ca-file"])
def test_a_fifo_holds_up_nothing(tmp_path: Path, flag: str) -> None:
    """Only regular files are read: a FIFO that nobody writes to would stop a start or a SIGHUP for ever."""
    file = tmp_path / "file"
    os.mkfifo(file)
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(faults(flag, str(file))), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert [f"{file} is not a regular file" in fault for fault in found] == [True]


@pytest.mark.parametrize(
    ("flag", "content", "fault"),
    [
        ("--password-file", b"\n", "is empty"),
        ("--password-file", b"\xff\n", "cannot be read: it is not UTF-8"),
        ("--channels-file", None, "cannot be read: No such file or directory"),
        ("--channels-file", b"# none\n", "has no channel in it"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, flag: str, content: bytes | None, fault: str) -> None:
    """The fault names the file and what is wrong with it."""
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    (found,) = faults(flag, str(file))
    assert f"{file} {fault}" in found


@pytest.mark.parametrize(
    ("one", "other"),
    [("textfile", "ledger"), ("password_file", "textfile"), ("channels_file", "ledger"), ("ca_file", "textfile")],
)
def test_a_file_has_one_purpose(tmp_path: Path, one: str, other: str) -> None:
    """What is written would take the place of what is read, also by another name of the file."""
    file, link = tmp_path / "a.prom", tmp_path / "b.prom"
    file.write_text("1001\n")
    link.symlink_to(file)
    flags = f"--{one.replace('_', '-')}", str(file), f"--{other}", str(link)
    assert f"{called(one)} and {called(other)} name the same file; give each its own" in faults(*flags)


@pytest.mark.parametrize("password", ["hunter2", "/hunter2", "a/hunter2/b", f"hunter2{'x' * 300}"])
def test_a_password_in_the_place_of_its_file_is_not_shown(password: str) -> None:
    """Only the path of a file that exists is shown: anything else may be the password itself."""
    (found,) = faults(CHINACACHE_PASS="", CHINACACHE_PASS_FILE=password)
    assert "no file can be found there; give the path of a file" in found
    assert "hunter2" not in found


def test_a_flag_overrides_a_variable_and_two_of_a_kind_are_a_fault(tmp_path: Path) -> None:
    """What is overridden is not read; which of two variables, or of two flags, is meant is not guessed."""
    file = tmp_path / "file"
    file.write_text("7\n")
    assert load("--channels-file", str(file), CHINACACHE_CHANNEL_IDS="1 2").channels == ("7",)
    nowhere = {"CHINACACHE_CHANNEL_IDS": "", "CHINACACHE_CHANNEL_IDS_FILE": "/nowhere"}
    assert load("--channels", "7", **nowhere).channels == ("7",)
    assert faults(CHINACACHE_PASS_FILE=str(file), CHINACACHE_CHANNEL_IDS_FILE=str(file)) == tuple(
        f"{called(name)} and {called(f'{name}_file')} are both set; give one of them"
        for name in ("password", "channels")
    )
    assert "are both set" in faults("--channels", "1", "--channels-file", str(file))[0]


def test_all_faults_are_reported_together() -> None:
    """Wrong and missing settings, each once."""
    with pytest.raises(SettingsError) as caught:
        load_from({"QUERYTIME": "0", "CC_TEXTFILE_SETTLE": "x"}, "--interval", "5")
    assert [fault.split(" (")[0] for fault in caught.value.faults] == [
        "--interval",
        "--querytime",
        "--settle",
        "--user",
        "CHINACACHE_PASS or --password-file",
        "--channels",
        "no output is set; give --textfile",
    ]


def test_settings_can_be_loaded_again(tmp_path: Path) -> None:
    """At SIGHUP, the same command line is read with files and variables as they are then."""
    file = tmp_path / "channels"
    file.write_text("1\n")
    with mock.patch.dict(os.environ, GOOD | {"CHINACACHE_CHANNEL_IDS": ""}, clear=True):
        again, _ = command.main(["--channels-file", str(file), "--querytime", "9"], standalone_mode=False)
        assert again().channels == ("1",)
        file.write_text("2\n")
        os.environ["CHINACACHE_PASS"] = "new"
        assert (again().channels, again().password, again().querytime) == (("2",), "new", 9)
        file.unlink()
        with pytest.raises(SettingsError, match="No such file"):
            again()


@ANY_SPEED
@given(st.integers(1, 50), st.text())
def test_each_channel_is_in_one_shard(total: int, channel: str) -> None:
    """No channel is requested by two hosts, or by none."""
    assert sum(Shard(number, total).has(channel) for number in range(1, total + 1)) == 1


@pytest.mark.parametrize(("channel", "number"), [("100201", 6), ("47", 1), ("频道", 1)])
def test_a_shard_is_the_same_on_every_host(channel: str, number: int) -> None:
    """The shard of a channel never changes: another one would move it, and its history, to another host."""
    assert [n for n in range(1, 8) if Shard(n, 7).has(channel)] == [number]


def test_a_shard_has_its_own_channels_and_labels_only(tmp_path: Path) -> None:
    """A host that would poll nothing, and look healthy, is told so."""
    file = tmp_path / "channels"
    file.write_text("".join(f"{n} team=t{n}\n" for n in range(20)))
    settings = load("--channels-file", str(file), "--shard", "2/4")
    mine = [str(n) for n in range(20) if Shard(2, 4).has(str(n))]
    assert (str(settings.shard), [*settings.channels], [*settings.channel_labels]) == ("2/4", mine, mine)
    other = next(n for n in (1, 2) if not Shard(n, 2).has("1001"))
    (fault,) = faults("--channels", "1001", "--shard", f"{other}/2")
    assert fault == f"--shard (CC_TEXTFILE_SHARD): none of the channels is in shard {other}/2; use fewer shards"


@pytest.mark.parametrize(
    ("variable", "near"),
    [
        ("CC_TEXTFILE_TIMOUT", "; is CC_TEXTFILE_TIMEOUT meant?"),
        ("CC_TEXTFILE_INTERVAL", "; is CHINACACHE_INTERVAL meant?"),
        ("CHINACACHE_PASSWORD", "; is CHINACACHE_PASS meant?"),
        ("CC_TEXTFILE_XYZ", ""),
    ],
)
def test_an_unknown_variable_is_a_note(variable: str, near: str) -> None:
    """A misspelt variable is not ignored in silence; its value is not shown, as it may be a password."""
    assert load(**{variable: "hidden"}).notes == (f"variable {variable} is unknown, and ignored{near}",)


def test_a_password_in_a_flag_is_a_note() -> None:
    """The process list shows it; the note does not."""
    (note,) = load("--pushgateway", "http://u:hidden@host").notes
    assert note.startswith("--pushgateway has a password in it")
    assert "hidden" not in note
    assert not load(PUSHGATEWAY="http://u:hidden@host").notes


def test_other_options_stand_beside_the_settings() -> None:
    """A command has options of its own, and click reports what is wrong with the command line itself."""
    assert command.main(["--json", "--user", "you"], standalone_mode=False)[1] is True
    for wrong in (["--password", "hidden"], ["--user"], ["more"]):
        result = CliRunner().invoke(command, wrong)
        assert (result.exit_code, "Error: " in result.output, "hidden" in result.output) == (2, True, False)


def test_help_names_every_flag_variable_and_default() -> None:
    """The password has no flag, since the process list would show it; its variable is named all the same."""
    text = CliRunner().invoke(command, ["--help"], terminal_width=1000, max_content_width=1000).output
    assert [setting.name for setting in SETTINGS if not setting.flag] == ["password"]
    for setting in SETTINGS:
        assert setting.variable in text
        assert setting.flag.replace("/", " / ") in text
        default = setting.default if isinstance(setting.default, str) else ""
        assert f"[env var: {setting.variable}; default: {default}" in text or not default
    assert called("textfile") == "--textfile (CC_TEXTFILE_PATH)"


def test_a_shell_completes_paths_and_choices() -> None:
    """Bash asks the program what can stand after a flag."""
    complete = BashComplete(command, {}, "command", "_COMPLETE")
    assert [item.type for item in complete.get_completions(["--textfile"], "/x")] == ["file"]
    assert [item.value for item in complete.get_completions(["--log-format"], "")] == ["text", "json"]
    assert [item.value for item in complete.get_completions([], "--pass")] == ["--password-file"]


TEXT = st.text(string.printable + "é\udcff", min_size=1)


@ANY_SPEED
@given(st.dictionaries(st.sampled_from([setting.variable for setting in SETTINGS]), TEXT))
def test_whatever_is_written_becomes_settings_or_faults(environ: dict[str, str]) -> None:
    """No text of any variable makes anything else."""
    try:
        settings = load_from(environ)
    except SettingsError as error:
        assert error.faults  # noqa: PT017 # either outcome is right
    else:
        assert settings.channels


@ANY_SPEED
@given(st.integers(0, 8783), st.integers(0, 59), st.integers(1, 59_999))
def test_a_duration_reads_back(hours: int, minutes: int, milliseconds: int) -> None:
    """Any duration as Go writes it has its seconds."""
    seconds = milliseconds / 1000
    expected = pytest.approx(hours * 3600 + minutes * 60 + seconds)
    assert load("--interval", f"{hours}h{minutes}m{seconds}s").interval == expected


@ANY_SPEED
@given(TEXT | st.text("0123456789.+-hmsuµn ", min_size=1))
def test_any_text_is_a_duration_within_its_limits_or_a_fault(text: str) -> None:
    """Nothing becomes a poll without a pause, or one that never comes."""
    try:
        assert 0.001 <= (load(CHINACACHE_INTERVAL=text).interval or 0) <= 8784 * 3600
    except SettingsError as error:
        assert len(error.faults) == 1  # noqa: PT017 # either outcome is right
