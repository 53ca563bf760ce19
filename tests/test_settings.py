"""Settings come from flags, environment and credentials, and all that is wrong with them is said at once."""

import itertools
import os
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_textfile import values
from cc_textfile.demo import DemoPortal
from cc_textfile.errors import SettingsError
from cc_textfile.settings import SETTINGS, Settings
from cc_textfile.values import Shard
from tests.conftest import NOBODY, POWERLESS, account, environment, needs_root, run

GOOD = {
    "CHINACACHE_USER": "me",
    "CHINACACHE_PASS": "secret",
    "CHINACACHE_CHANNEL_IDS": "1001, 1002,,",
    "CC_TEXTFILE_PATH": "/x/y.prom",
}


def faults(environ: dict[str, str], **flags: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        Settings.load(flags, environ)
    return caught.value.faults


def test_the_old_exporters_variables_are_enough() -> None:
    """The variables of the older exporter make a whole run, with the defaults of the contract."""
    settings = Settings.load(
        {}, {**GOOD, "PUSHGATEWAY": "localhost:9091", "CHINACACHE_INTERVAL": "1h30m", "QUERYTIME": "7"}
    )
    assert settings.channels == ("1001", "1002")
    assert settings.interval == 5400
    assert settings.querytime == 7
    assert settings.pushgateway == "http://localhost:9091"
    assert settings.portal_url == "https://portal-api.chinacache.com:444"
    assert (settings.timeout, settings.deadline, settings.concurrency) == (10, 60, 32)
    assert settings.pushgateway_mode == "fallback"


def test_flags_win_over_variables() -> None:
    """A flag is nearer to the operator than a variable."""
    settings = Settings.load({"user": "you", "channels": "7", "textfile": "/a.prom", "querytime": "9"}, GOOD)
    assert (settings.user, settings.channels, settings.textfile, settings.querytime) == (
        "you",
        ("7",),
        Path("/a.prom"),
        9,
    )
    assert settings.origins["user"] == "flag --user"
    assert settings.origins["password"] == "variable CHINACACHE_PASS"
    assert "timeout" not in settings.origins


def test_a_secret_is_not_in_the_settings_own_words() -> None:
    """A settings object that ends up in a message or a traceback shows neither password."""
    settings = Settings.load({}, {**GOOD, "PUSHGATEWAY": "http://u:hidden@host"})
    assert "secret" not in repr(settings)
    assert "hidden" not in repr(settings)


@pytest.mark.parametrize(
    ("content", "password"),
    [
        ("p w\n", "p w"),
        ("pw\r\n", "pw"),
        ("pw", "pw"),
        (" pw \n\n", " pw \n"),
        ("pw\r", "pw\r"),
        ("päß\n", "päß"),
        ("\ufeffpw\n", "pw"),
    ],
)
def test_a_password_file_is_read_without_its_last_newline(tmp_path: Path, content: str, password: str) -> None:
    """One trailing newline does not count; every other character may belong to the password."""
    file = tmp_path / "password"
    file.write_bytes(content.encode())
    assert Settings.load({"password_file": str(file)}, GOOD).password == password


def test_a_channels_file_has_a_channel_a_line(tmp_path: Path) -> None:
    """Blank lines and comments are not channels."""
    file = tmp_path / "channels"
    file.write_text("\ufeff# ours\n1001\n\n  1002  # the shop\n#1003\n1001\n")
    settings = Settings.load({"channels_file": str(file)}, GOOD)
    assert settings.channels == ("1001", "1002")
    assert settings.notes == (("channels", "channel 1001 is given 2 times and asked once"),)
    assert settings.origins["channels"] == "flag --channels-file"


def test_credentials_are_read_where_nothing_else_is_set(tmp_path: Path) -> None:
    """Systemd's credentials fill in what neither flag nor variable gives, and give way to both."""
    (tmp_path / "username").write_text("cred-user\n")
    (tmp_path / "password").write_text("cred-pass\n")
    bare = {"CREDENTIALS_DIRECTORY": str(tmp_path), "CHINACACHE_CHANNEL_IDS": "1", "CC_TEXTFILE_PATH": "a.prom"}
    settings = Settings.load({}, bare)
    assert (settings.user, settings.password) == ("cred-user", "cred-pass")
    assert settings.origins["password"] == "credential password"
    assert Settings.load({}, {**bare, **GOOD}).password == "secret"
    file = tmp_path / "other"
    file.write_text("from-file")
    assert Settings.load({"password_file": str(file)}, bare).password == "from-file"


def test_a_missing_credential_is_a_missing_setting(tmp_path: Path) -> None:
    """A credential that is not there leaves the setting unset, as if there were no credentials at all."""
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "CHINACACHE_CHANNEL_IDS": "1", "CC_TEXTFILE_PATH": "a.prom"}
    assert faults(environ) == (
        "--user (CHINACACHE_USER) is missing",
        "CHINACACHE_PASS is missing; or give --password-file (CHINACACHE_PASS_FILE)",
    )


def test_a_credential_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    """A credential that is there and can't be read is not taken for a missing one."""
    (tmp_path / "password").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    environ = {k: v for k, v in GOOD.items() if k != "CHINACACHE_PASS"}
    (fault,) = faults({**environ, "CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert "which cannot be read: Is a directory" in fault
    (fault,) = faults({**environ, "CREDENTIALS_DIRECTORY": str(tmp_path / "loop")})
    assert "which cannot be read: Too many levels" in fault


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("CHINACACHE_INTERVAL", "0s", "--interval (CHINACACHE_INTERVAL) is '0s'; give a duration above 0"),
        ("CHINACACHE_INTERVAL", "-5m", "is '-5m'; give a duration above 0 with its unit, such as 90s, 5m or 1h30m"),
        ("CHINACACHE_INTERVAL", "5", "is '5'; give a duration"),
        ("CHINACACHE_INTERVAL", "9999999999h", "at most 8784h"),
        ("QUERYTIME", "0", "--querytime (QUERYTIME) is '0'; give a whole number from 1 to 527040"),
        ("QUERYTIME", "5.5", "is '5.5'"),
        ("QUERYTIME", "٣", "is '٣'"),
        ("CC_TEXTFILE_PATH", "/x/y.txt", "--textfile (CC_TEXTFILE_PATH) is '/x/y.txt'; node_exporter reads only"),
        ("CHINACACHE_CHANNEL_IDS", " , ", "--channels (CHINACACHE_CHANNEL_IDS) holds no channel"),
        ("CHINACACHE_CHANNEL_IDS", "1,2 3", "holds '2 3', which is no channel id: ids have no blanks in them"),
        (
            "CC_TEXTFILE_CONCURRENCY",
            "0",
            "--concurrency (CC_TEXTFILE_CONCURRENCY) is '0'; give a whole number from 1 to 1000",
        ),
        ("CC_TEXTFILE_CONCURRENCY", "100000", "from 1 to 1000"),
        ("CC_TEXTFILE_SHARD", "0/3", "--shard (CC_TEXTFILE_SHARD) is '0/3'; give I/N"),
        ("CC_TEXTFILE_SHARD", "4/3", "with I from 1 to N"),
        ("CC_TEXTFILE_SHARD", "1", "is '1'; give I/N"),
        ("CC_TEXTFILE_SHARD", "a/b", "is 'a/b'; give I/N"),
        ("CC_TEXTFILE_TIMEOUT", "soon", "--timeout (CC_TEXTFILE_TIMEOUT) is 'soon'"),
        ("CC_TEXTFILE_DEADLINE", "1w2", "--deadline (CC_TEXTFILE_DEADLINE) is '1w2'"),
        ("CC_TEXTFILE_PUSHGATEWAY_MODE", "never", "is 'never'; give one of fallback, always"),
        ("CC_TEXTFILE_LOG_LEVEL", "loud", "is 'loud'; give one of debug, info, warning, error"),
        ("CC_TEXTFILE_LOG_FORMAT", "xml", "is 'xml'; give one of text, json"),
        ("CHINACACHE_URL", "portal", "--portal-url (CHINACACHE_URL) is not an address such as https://host:444"),
        ("CHINACACHE_URL", "https://host:99999", "is not an address"),
        ("CHINACACHE_URL", "https://me:secret@host", "holds a user or a password"),
        *(
            ("PUSHGATEWAY", address, "--pushgateway (PUSHGATEWAY) is not an address such as https://host:444")
            for address in (
                "http://",
                "ftp://host",
                "htp://host:9091",
                "http:/host:9091",
                "https//host:9091",
                "unix:///run/gateway",
            )
        ),
        ("CHINACACHE_CA_FILE", "/nowhere/ca.pem", "/nowhere/ca.pem, which cannot be read: No such file"),
        ("CHINACACHE_CA_FILE", __file__, "which holds no certificates in PEM"),
        ("CHINACACHE_USER", "\udcff", "--user (CHINACACHE_USER) is not UTF-8"),
        ("CHINACACHE_CHANNEL_IDS", "a\x07b", "which is no channel id"),
        ("CHINACACHE_INTERVAL", "5mm", "is '5mm'; give a duration"),
        ("CHINACACHE_INTERVAL", "1d", "is '1d'; give a duration"),
        ("CHINACACHE_INTERVAL", "1.2.3s", "is '1.2.3s'; give a duration"),
        ("CHINACACHE_USER", " ", "--user (CHINACACHE_USER) is blank"),
        ("PUSHGATEWAY", "http://u:12/secret@host:9091", "percent-encoded, / as %2F"),
    ],
)
def test_a_bad_value_names_flag_variable_and_what_would_be_right(variable: str, value: str, said: str) -> None:
    """An operator reads from the fault what to change, and how."""
    (fault,) = faults({**GOOD, variable: value})
    assert said in fault


def test_two_sources_of_a_kind_are_a_fault(tmp_path: Path) -> None:
    """Two variables for one setting: which of them is meant is not for the program to guess."""
    file = tmp_path / "f"
    file.write_text("1\n")
    both = {**GOOD, "CHINACACHE_PASS_FILE": str(file), "CHINACACHE_CHANNEL_IDS_FILE": str(file)}
    assert [fault.split(" are ")[0] for fault in faults(both)] == [
        "CHINACACHE_PASS and --password-file (CHINACACHE_PASS_FILE)",
        "--channels (CHINACACHE_CHANNEL_IDS) and --channels-file (CHINACACHE_CHANNEL_IDS_FILE)",
    ]


@pytest.mark.parametrize(
    ("flag", "content", "said"),
    [
        ("password_file", b"", "which is empty"),
        ("password_file", b"\n", "which is empty"),
        ("password_file", b"\xff\n", "which is not UTF-8"),
        ("password_file", None, "which cannot be read: No such file or directory"),
        ("channels_file", None, "which cannot be read: No such file or directory"),
        ("channels_file", b"# none\n", "which holds no channel"),
        ("channels_file", b"10 20\n", "which holds '10 20', which is no channel id"),
        ("channels_file", b"\xff", "which is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, flag: str, content: bytes | None, said: str) -> None:
    """The fault names the file, and what is wrong with it, and nothing of what is in a password file."""
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    (fault,) = faults(GOOD, **{flag: str(file)})
    assert f"names {file}, {said}" in fault


def test_a_file_of_somebody_else_is_named(tmp_path: Path, portal: DemoPortal) -> None:
    """A password file that this user may not read ends the run with 2 before a request is made."""
    needs_root()
    file = tmp_path / "password"
    file.write_text("x")
    file.chmod(0o600)
    os.chown(file, NOBODY, NOBODY)
    env = {**account(portal), "CC_TEXTFILE_PATH": "/x.prom", "CHINACACHE_PASS_FILE": str(file)}
    del env["CHINACACHE_PASS"]
    done = run("run", env=env, before=POWERLESS)
    assert done.returncode == 2
    assert f"names {file}, which cannot be read: Permission denied" in done.stderr
    assert portal.requests == 0


def test_every_fault_is_said_at_once_and_nothing_is_done(tmp_path: Path, portal: DemoPortal) -> None:
    """Exit 2 with all the faults; no request is made, no file touched."""
    textfile = tmp_path / "out.prom"
    textfile.write_text("old\n")
    env = environment(CHINACACHE_URL=portal.url, CHINACACHE_INTERVAL="5", QUERYTIME="0", CC_TEXTFILE_CONCURRENCY="x")
    done = run("run", "--textfile", str(textfile), env=env)
    assert done.returncode == 2
    for name in (
        "CHINACACHE_INTERVAL",
        "QUERYTIME",
        "CONCURRENCY",
        "CHINACACHE_USER",
        "CHINACACHE_PASS",
        "CHANNEL_IDS",
    ):
        assert name in done.stderr
    assert "nothing was polled" in done.stderr
    assert portal.requests == 0
    assert textfile.read_text() == "old\n"


def test_no_output_at_all_is_a_fault() -> None:
    """A poll whose numbers go nowhere is not what anybody means."""
    (fault,) = faults({k: v for k, v in GOOD.items() if k != "CC_TEXTFILE_PATH"})
    assert fault.startswith("no output is set; give --textfile (CC_TEXTFILE_PATH)")


def test_an_empty_variable_is_an_unset_one() -> None:
    """`QUERYTIME=` in a file of settings means the default."""
    settings = Settings.load({}, {**GOOD, "QUERYTIME": "", "PUSHGATEWAY": ""})
    assert (settings.querytime, settings.pushgateway) == (5, None)


def test_shards_share_the_channels_out() -> None:
    """No channel in two shards or in none; of ten shards none has more than 1.3 times the average."""
    channels = [str(100000 + n) for n in range(10_000)]
    shares = [[c for c in channels if Shard(n, 10).has(c)] for n in range(1, 11)]
    assert sorted(itertools.chain.from_iterable(shares)) == channels
    assert max(map(len, shares)) <= 1300


def test_an_address_in_capitals_is_the_same_address() -> None:
    """`HTTPS` is https: what depends on TLS, such as --ca-file, depends on it too."""
    environ = {**GOOD, "CHINACACHE_URL": "HTTPS://Portal:444", "PUSHGATEWAY": "HTTP://host:9091"}
    settings = Settings.load({}, environ)
    assert (settings.portal_url, settings.pushgateway) == ("https://Portal:444", "http://host:9091")


def test_a_password_in_place_of_its_file_is_not_repeated() -> None:
    """Who gives the password itself as the name of its file reads of it in the fault, and not the password."""
    environ = {k: v for k, v in GOOD.items() if k != "CHINACACHE_PASS"}
    (fault,) = faults({**environ, "CHINACACHE_PASS_FILE": "hunter2-secret"})
    assert fault.endswith("names a file without a folder, which cannot be read: No such file or directory")


@pytest.mark.parametrize(("channel", "number"), [("100201", 6), ("47", 1), ("频道", 1)])
def test_a_shard_is_the_same_on_every_host(channel: str, number: int) -> None:
    """The share of a channel is fixed for ever: another one would move it to another host, and its history with it."""
    assert [n for n in range(1, 8) if Shard(n, 7).has(channel)] == [number]


def test_a_shard_without_channels_is_a_fault() -> None:
    """A host that would poll nothing, and look healthy, is told so."""
    mine = next(n for n in (1, 2) if Shard(n, 2).has("1001"))
    settings = Settings.load({"channels": "1001", "shard": f"{mine}/2"}, GOOD)
    assert settings.channels == ("1001",)
    (fault,) = faults(GOOD, channels="1001", shard=f"{3 - mine}/2")
    assert "has none of the 1 channels; use fewer shards" in fault


def test_an_option_for_each_setting_and_no_flag_for_the_password() -> None:
    """The password has no flag, since a flag shows in the process list; every other setting has one."""
    assert [setting.name for setting in SETTINGS if setting.flag is None] == ["password"]


@given(
    st.dictionaries(st.sampled_from([s.variable for s in SETTINGS]), st.text(string.printable + "é\udcff", min_size=1))
)
def test_whatever_is_written_settings_or_faults_come_of_it(environ: dict[str, str]) -> None:
    """No value of any variable makes anything but settings or faults, and no fault repeats the password."""
    try:
        settings = Settings.load({}, environ)
    except SettingsError as error:
        assert error.faults  # noqa: PT017 # either outcome is right, and each has its own claim
    else:
        assert settings.channels
        assert settings.timeout > 0


@given(st.integers(1, 8784 * 3600))
def test_seconds_read_back(seconds: int) -> None:
    """Any whole number of seconds, up to the most, is a duration."""
    assert values.seconds(f"{seconds}s") == seconds
