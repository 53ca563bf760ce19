"""The package on real Debian releases with a real systemd, installed and used as an administrator would."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT as SOURCE
from tests.conftest import eventually
from tests.host import CHANNELS, FOLDER, PORTAL, SERVICES, SETTINGS, STATE, UNITS, Host
from tests.machine import RELEASES, NoRootError, missing, root

INSTALL = (SOURCE / "docs" / "install.md").read_text()
TEXTFILE = f"{STATE}/cc-textfile.prom"
LEDGER = f"{STATE}/cc-textfile.ledger"
MAX_EXPOSURE = 1.1
GOOD_POLL = re.compile(r"^cc_textfile_poll_success(\{.*\})? 1(\.0)?$", re.MULTILINE)
FAILED_POLL = re.compile(r"^cc_textfile_poll_success(\{.*\})? 0(\.0)?$", re.MULTILINE)

# What is built lies in one folder, dist/, and cannot be built side by side.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dist")]


@pytest.fixture(scope="session")
def package() -> Path:
    """Build the package from this source."""
    if reason := missing():
        pytest.skip(f"a machine cannot be booted here: {reason}")
    try:
        for release in RELEASES:
            root(release)
    except NoRootError as error:
        pytest.skip(str(error))
    subprocess.run(["make", "--silent", "deb"], cwd=SOURCE, check=True, capture_output=True)
    return max((SOURCE / "dist").glob("cc-textfile_*_all.deb"), key=lambda path: path.stat().st_mtime)


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    """Name a Debian release."""
    return str(request.param)


@pytest.fixture(scope="module")
def installed(release: str, package: Path) -> Iterator[Host]:
    """Boot a machine that has the package."""
    with Host(release, source=SOURCE) as machine:
        machine.install(package)
        machine.add_administrator()
        yield machine


@pytest.fixture
def host(installed: Host) -> Host:
    """Return a machine with the package, without settings, without a password, with nothing running."""
    installed.reset()
    return installed


@pytest.fixture
def bare(release: str, package: Path) -> Iterator[Host]:
    """Boot a machine with node_exporter and nothing of ours."""
    assert package
    with Host(release, source=SOURCE) as machine:
        machine.add_administrator()
        yield machine


def commands(name: str) -> list[str]:
    """Return the commands of docs/install.md behind `<!-- name: … -->`, as they stand there, without comments."""
    block = re.search(rf"<!-- {name}:.*?-->\n```sh\n(.*?)```", INSTALL, re.DOTALL)
    assert block, f"docs/install.md has no commands {name}"
    text = re.sub(r"\\\n *", "", re.sub(r"\|\n *", "| ", block[1]))
    return [re.sub(r" {2,}#.*", "", line) for line in text.splitlines()]


# Units


def test_the_units_are_valid_and_closed(host: Host) -> None:
    """`systemd-analyze verify` finds nothing, and the exposure of each service is low."""
    others = ("cc-textfile.timer", "cc-textfile@example.timer", "cc-textfile-failed.target")
    assert host.run("systemd-analyze", "verify", *SERVICES, *others) == ""
    for unit in SERVICES:
        report = host.run("systemd-analyze", "security", "--no-pager", unit)
        exposure = re.search(rf"Overall exposure level for {re.escape(unit)}: ([\d.]+)", report)
        assert exposure, report
        assert float(exposure[1]) <= MAX_EXPOSURE


def test_the_manual_describes_every_unit(host: Host) -> None:
    """`man` finds the page that each unit names, and the page names each unit and each command."""
    for unit in (*SERVICES, "cc-textfile.timer", "cc-textfile-failed.target"):
        assert "man:cc-textfile.service(8)" in host.property(unit, "Documentation")
    page = host.run("man", "--pager=cat", "8", "cc-textfile.service")
    for name in (
        "cc-textfiled@NAME.service",
        "cc-textfile@NAME.timer",
        "cc-textfile-failed.target",
        "cc-textfile-check",
    ):
        assert name in page
    assert host.run("man", "--where", "8", "cc-textfile-check")


def test_a_service_is_skipped_until_the_password_is_there(host: Host) -> None:
    """Timer and daemon can run; the service is skipped, says why, and nothing fails."""
    for unit in SERVICES:
        host.run("systemctl", "start", unit)
        assert host.property(unit, "ActiveState") == "inactive"
        assert re.search("unmet condition .*=/etc/cc-textfile/.*password", host.log(f"--unit={unit}"))


def test_the_timer_polls_by_itself_once_the_password_is_there(host: Host) -> None:
    """Nobody starts anything: the file appears, readable by all, and node_exporter serves it without an error.

    An interval in the settings is the daemon's: it makes no daemon of the timer's poll.
    """
    host.serve_portal()
    host.every_second("cc-textfile.timer")
    host.run("systemctl", "restart", "cc-textfile.timer")
    host.wait_for_log("cc-textfile.service", "unmet condition")
    host.configure(SETTINGS + "CHINACACHE_INTERVAL=1h\n")
    host.wait_for_log("cc-textfile.service", "Finished cc-textfile.service")
    host.run("systemctl", "stop", "cc-textfile.timer")
    assert host.run("stat", "--format=%a %U %G", TEXTFILE).strip() == "644 cc-textfile cc-textfile"
    metrics = host.served()
    assert "node_textfile_scrape_error 0" in metrics
    assert re.search(r'^ChinaCache_metrics_hit_miss_total{.*channel="100201"} [1-9]', metrics, re.MULTILINE)
    assert GOOD_POLL.search(metrics)


def test_each_host_keeps_its_offset(host: Host) -> None:
    """Over a restart of the timer, its polls stay as far from the full five minutes as they were."""

    def offset() -> str:
        host.run("systemctl", "restart", "cc-textfile.timer")
        after = host.property("cc-textfile.timer", "NextElapseUSecRealtime")
        minutes, seconds = re.search(r":(\d\d):(\d\d)", after).groups()  # type: ignore[union-attr]
        return f"{int(minutes) % 5}:{seconds}"

    assert offset() == offset()
    assert host.property("cc-textfile.timer", "FixedRandomDelay") == "yes"
    assert host.property("cc-textfile.timer", "RandomizedDelayUSec") == "4min"


def test_every_start_is_bounded(host: Host) -> None:
    """A poll is over before the next one is due, whatever it does."""
    for unit in SERVICES:
        assert host.property(unit, "TimeoutStartUSec") == ("3min" if "filed" in unit else "4min")


def test_starts_by_hand_have_no_limit(host: Host) -> None:
    """A few starts in a row do not end in "start request repeated too quickly"."""
    for unit in SERVICES:
        assert host.property(unit, "StartLimitIntervalUSec") == "0"


def test_a_wrong_password_is_reported(host: Host) -> None:
    """`systemctl status` says that the portal refuses the account; no word of the journal is the password."""
    host.serve_portal()
    host.configure(password="not-the-one")
    host.run("systemctl", "start", "cc-textfile.service", check=False)
    status = host.run("systemctl", "status", "--no-pager", "--full", "cc-textfile.service", check=False)
    assert re.search("refuse.* user demo", status)
    eventually(lambda: FAILED_POLL.search(host.served()))
    assert "not-the-one" not in host.run("journalctl", "--output=export")


def test_the_password_is_for_the_service_alone(host: Host) -> None:
    """While the daemon runs, no other user can read file, credential or process, and no unit shows it."""
    host.serve_portal()
    host.configure()
    host.run("systemctl", "start", "cc-textfiled.service")
    pid = host.property("cc-textfiled.service", "MainPID")
    credential = "/run/credentials/cc-textfiled.service/password"
    assert host.run("cat", credential) == host.password
    for path in ("/etc/cc-textfile/password", credential, f"/proc/{pid}/environ", f"/proc/{pid}/mem"):
        assert "Permission denied" in host.run("runuser", "--user=prometheus", "--", "cat", path, check=False)
    shown = host.run("systemctl", "show", "cc-textfiled.service") + host.run("systemctl", "cat", "cc-textfiled.service")
    assert host.password not in shown + host.run("cat", f"/proc/{pid}/environ", f"/proc/{pid}/cmdline")


def test_a_hanging_portal_is_ended_by_the_deadline(host: Host) -> None:
    """The program ends its poll itself and writes what it knows: systemd's time limit is not reached."""
    host.serve_portal("hang")
    host.configure(SETTINGS + "CC_TEXTFILE_DEADLINE=1s\n")
    host.run("systemctl", "start", "cc-textfile.service", check=False)
    assert host.property("cc-textfile.service", "Result") == "exit-code"
    assert host.property("cc-textfile.service", "ExecMainStatus") == "1"
    eventually(lambda: FAILED_POLL.search(host.served()))


@pytest.mark.parametrize(
    ("settings", "password", "word"),
    [
        pytest.param(SETTINGS + "QUERYTIME=5min\n", None, "QUERYTIME", id="typo in a value"),
        pytest.param(SETTINGS.replace("_USER", "_USR"), None, "CHINACACHE_USER", id="typo in a name"),
        pytest.param(SETTINGS, "\n", "password", id="empty password"),
        pytest.param(SETTINGS + "CHINACACHE_CA_FILE=/nowhere.pem\n", None, "/nowhere.pem", id="missing file"),
    ],
)
def test_bad_settings_fail_once_and_say_what_to_do(host: Host, settings: str, password: str | None, word: str) -> None:
    """The journal names the fault, for the timer's service and for the daemon, which is not started again."""
    host.configure(settings, password)
    for unit in ("cc-textfile.service", "cc-textfiled.service"):
        host.run("systemctl", "start", unit, check=False)
        assert host.property(unit, "ActiveState") == "failed"
        assert host.property(unit, "ExecMainStatus") == "2"
        assert host.property(unit, "NRestarts") == "0"
        assert any(word in line for line in host.lines(unit))


def test_a_misspelt_variable_is_warned_of(host: Host) -> None:
    """A setting that does not exist is not ignored without a word; variables of the units are known."""
    host.serve_portal()
    host.configure(SETTINGS + "CC_TEXTFILE_TIMOUT=9s\n")
    host.run("systemctl", "start", "cc-textfile.service")
    warnings = host.log("--unit=cc-textfile.service", "--priority=warning")
    assert "CC_TEXTFILE_TIMOUT" in warnings
    assert "TEXTFILE_FOLDER" not in warnings


def test_errors_have_their_priority_in_the_journal(host: Host) -> None:
    """`journalctl -p err` says why a poll failed, and says nothing of a good one."""
    host.serve_portal()
    host.configure()
    host.run("systemctl", "start", "cc-textfile.service")
    assert host.log("--identifier=cc-textfile", "--priority=warning") == ""
    host.configure(password="wrong")
    host.run("systemctl", "start", "cc-textfile.service", check=False)
    assert "refuse" in host.log("--identifier=cc-textfile", "--priority=err")


def test_an_unreadable_credential_fails_once(host: Host) -> None:
    """An encrypted password that was not encrypted here: the unit says so, and the daemon is not started again."""
    example = host.run("cat", "/usr/share/doc/cc-textfile/examples/encrypted-password.conf")
    host.configure()
    host.write("/etc/cc-textfile/password.cred", "this was never encrypted")
    for unit in ("cc-textfile.service", "cc-textfiled.service"):
        host.drop_in(unit, example)
        host.run("systemctl", "start", unit, check=False)
        assert host.property(unit, "ActiveState") == "failed"
        assert host.log(f"--unit={unit}").count("status=243/CREDENTIALS") == 1


# The folder of node_exporter


def test_a_shared_folder_keeps_its_owner_and_mode(bare: Host, package: Path) -> None:
    """Installing, polling, installing again and purging leave the folder to those who share it."""
    bare.run("groupadd", "textfile")
    bare.run("useradd", "--groups=textfile", "collector")
    bare.run("chgrp", "textfile", FOLDER)
    bare.run("chmod", "2775", FOLDER)

    def is_as_it_was() -> bool:
        bare.run("runuser", "--user=collector", "--", "sh", "-c", f"echo others 1 > {FOLDER}/others.prom")
        return bare.run("stat", "--format=%a %U %G", FOLDER).strip() == "2775 root textfile"

    for _ in range(2):
        bare.install(package)
        bare.serve_portal()
        bare.configure()
        bare.run("systemctl", "start", "cc-textfile.service")
        assert is_as_it_was()
        assert GOOD_POLL.search(bare.served())
    bare.stop_portal()
    bare.run("dpkg", "--purge", "cc-textfile")
    assert is_as_it_was()
    assert bare.run("ls", FOLDER) == "others.prom\n"


def test_a_host_whose_node_exporter_reads_another_folder(host: Host) -> None:
    """One setting names it, as for the Ansible role; the link there is of the same name, and goes with the package."""
    host.serve_portal()
    host.run("install", "--directory", "--owner=prometheus", "--mode=0775", "/var/lib/node_exporter")
    host.configure(SETTINGS + "TEXTFILE_FOLDER=/var/lib/node_exporter\n")
    host.run("systemctl", "start", "cc-textfile.service")
    link = "/var/lib/node_exporter/cc-textfile.prom"
    assert host.run("readlink", link).strip() == TEXTFILE
    assert GOOD_POLL.search(host.run("runuser", "--user=prometheus", "--", "cat", link))
    assert host.run("ls", FOLDER) == ""


def test_a_missing_folder_is_an_error_that_says_what_to_do(host: Host) -> None:
    """The poll fails; the daemon runs on, and is not started again and again."""
    host.serve_portal()
    host.configure(SETTINGS + "TEXTFILE_FOLDER=/nowhere\n")
    host.run("systemctl", "start", "cc-textfile.service", check=False)
    assert host.property("cc-textfile.service", "Result") == "exit-code"
    host.run("systemctl", "start", "cc-textfiled.service")
    assert host.active("cc-textfiled.service")
    for unit in ("cc-textfile.service", "cc-textfiled.service"):
        assert "/nowhere is missing: create it" in host.log(f"--unit={unit}", "--priority=err")


def test_a_file_of_the_same_name_is_replaced(host: Host) -> None:
    """A text file that root's polls have left there, before the package came, does not stop the new ones."""
    host.serve_portal()
    host.configure()
    host.write(f"{FOLDER}/cc-textfile.prom", "stale 1\n")
    host.run("systemctl", "start", "cc-textfile.service")
    assert GOOD_POLL.search(host.served())


# Timer and daemon


def test_the_daemon_reports_to_systemd(host: Host) -> None:
    """Ready after the first poll, a status line, the watchdog, and a good end."""
    host.serve_portal()
    host.configure()
    host.run("systemctl", "start", "cc-textfiled.service")
    assert GOOD_POLL.search(host.served())
    assert "2 channels" in host.property("cc-textfiled.service", "StatusText")
    assert host.property("cc-textfiled.service", "WatchdogUSec") == "3min"
    host.run("systemctl", "stop", "cc-textfiled.service")
    assert host.property("cc-textfiled.service", "Result") == "success"
    assert host.property("cc-textfiled.service", "NRestarts") == "0"


def test_a_poll_that_fails_is_in_the_status(host: Host) -> None:
    """The daemon is up, and says that its last poll was not good."""
    host.serve_portal("refused")
    host.configure()
    host.run("systemctl", "start", "cc-textfiled.service")
    assert "failed" in host.property("cc-textfiled.service", "StatusText")


def test_a_daemon_that_hangs_is_restarted(host: Host) -> None:
    """Stopped by a signal, it misses its watchdog: it ends with the traceback of its threads, and starts anew."""
    host.serve_portal()
    host.configure(SETTINGS + "CHINACACHE_INTERVAL=1h\n")
    host.drop_in("cc-textfiled.service", "[Service]\nWatchdogSec=1s\nRestartSec=100ms\n")
    host.run("systemctl", "start", "cc-textfiled.service")
    host.run("systemctl", "kill", "--signal=STOP", "cc-textfiled.service")
    log = host.wait_for_log("cc-textfiled.service", "Started cc-textfiled.service", times=2)
    assert "Watchdog timeout" in log
    assert "Fatal Python error: Aborted" in log
    assert host.property("cc-textfiled.service", "NRestarts") == "1"


def test_the_watchdog_is_fed_while_nothing_happens(host: Host) -> None:
    """Between two polls, and during one that takes longer than the watchdog allows, the daemon is known to be alive."""
    host.serve_portal("hang")
    host.configure(SETTINGS + "CHINACACHE_INTERVAL=1s\nCC_TEXTFILE_TIMEOUT=3s\nCC_TEXTFILE_DEADLINE=3s\n")
    host.drop_in("cc-textfiled.service", "[Service]\nWatchdogSec=1s\n")
    host.run("systemctl", "start", "cc-textfiled.service")
    host.wait_for_log("cc-textfiled.service", "polled 2 channels", times=2)
    assert host.property("cc-textfiled.service", "NRestarts") == "0"


@pytest.mark.parametrize("account", ["", "shop"])
def test_a_single_poll_beside_the_daemon_is_made_by_the_daemon(host: Host, account: str) -> None:
    """`systemctl start cc-textfile.service` makes the running daemon poll; the daemon stays, and nothing fails."""
    instance = f"@{account}" if account else ""
    host.serve_portal()
    host.configure(SETTINGS + "CHINACACHE_INTERVAL=1h\n", account=account)
    daemon = f"cc-textfiled{instance}.service"
    host.run("systemctl", "start", daemon)
    pid = host.property(daemon, "MainPID")
    host.run("systemctl", "start", f"cc-textfile{instance}.service")
    host.wait_for_log(daemon, "SIGHUP")
    assert host.property(daemon, "MainPID") == pid
    assert f"{daemon} is running and was told to poll now" in host.log(f"--unit=cc-textfile{instance}.service")
    assert host.property(f"cc-textfile{instance}.service", "ActiveState") == "inactive"


def test_a_single_poll_beside_the_daemon_is_a_poll(host: Host) -> None:
    """What the daemon is told to do by a start of the single poll is done at once."""
    host.serve_portal()
    host.configure(SETTINGS + "CHINACACHE_INTERVAL=1h\n")
    host.run("systemctl", "start", "cc-textfiled.service")
    host.run("systemctl", "start", "cc-textfile.service")
    host.wait_for_log("cc-textfiled.service", "polled 2 channels", times=2)


def test_the_timer_stands_back_while_the_daemon_runs(host: Host) -> None:
    """Both can be enabled: the timer's polls are skipped, and go on as soon as the daemon is down."""
    host.serve_portal()
    host.configure(SETTINGS + "CHINACACHE_INTERVAL=1h\n")
    host.run("systemctl", "start", "cc-textfiled.service")
    host.every_second("cc-textfile.timer")
    host.run("systemctl", "restart", "cc-textfile.timer")
    host.wait_for_log("cc-textfile.service", "cc-textfiled.service is running; it polls at its own interval")
    assert host.active("cc-textfiled.service")
    assert "SIGHUP" not in host.log("--unit=cc-textfiled.service")
    host.run("systemctl", "stop", "cc-textfiled.service")
    host.wait_for_log("cc-textfile.service", "Finished cc-textfile.service")


def test_the_daemon_waits_for_a_poll_in_progress(host: Host) -> None:
    """A poll that the timer has started is neither killed nor in the daemon's way."""
    host.serve_portal("hang")
    host.configure(SETTINGS + "CC_TEXTFILE_DEADLINE=2s\n")
    host.run("systemctl", "start", "--no-block", "cc-textfile.service")
    eventually(lambda: host.property("cc-textfile.service", "MainPID") != "0")
    host.run("systemctl", "start", "cc-textfiled.service")
    assert host.active("cc-textfiled.service")
    assert host.property("cc-textfiled.service", "NRestarts") == "0"
    assert host.property("cc-textfile.service", "ExecMainStatus") == "1"
    assert FAILED_POLL.search(host.served()), "the poll came to its own end"


def test_a_reload_reads_the_channels_and_polls(host: Host) -> None:
    """After `systemctl reload` the next numbers are those of the new channels, at once."""
    host.serve_portal()
    channels = "/etc/cc-textfile/channels"
    host.write(channels, "100201\n")
    host.configure(re.sub("_IDS=.*", f"_IDS_FILE={channels}", SETTINGS) + "CHINACACHE_INTERVAL=1h\n")
    host.run("systemctl", "start", "cc-textfiled.service")
    host.write(channels, "100201\n100202\n100203\n")
    host.run("systemctl", "reload", "cc-textfiled.service")
    host.wait_for_log("cc-textfiled.service", "polled 3 channels")
    assert host.active("cc-textfiled.service")


def test_a_reload_with_a_bad_channels_file_fails(host: Host) -> None:
    """`systemctl reload` fails and the status names the fault; the daemon goes on with what it had."""
    host.serve_portal()
    channels = "/etc/cc-textfile/channels"
    host.write(channels, "100201\n")
    host.configure(re.sub("_IDS=.*", f"_IDS_FILE={channels}", SETTINGS))
    host.run("systemctl", "start", "cc-textfiled.service")
    host.run("systemctl", "reload", "cc-textfiled.service")
    host.write(channels, "# none\n")
    refused = host.run("systemctl", "reload", "cc-textfiled.service", check=False)
    assert "failed" in refused
    status = host.run("systemctl", "status", "--no-pager", "--full", "cc-textfiled.service")
    assert re.search(f"{channels}.* channel", status)
    assert host.active("cc-textfiled.service")


def test_each_failure_reaches_the_hook(host: Host) -> None:
    """What is enabled for the target is started by each failed poll; afterwards the target is inactive again."""
    host.run("cp", "/usr/share/doc/cc-textfile/examples/cc-textfile-alert.service", UNITS)
    host.run("systemctl", "enable", "cc-textfile-alert.service")
    host.configure("")
    for times in (1, 2):
        host.run("systemctl", "start", "cc-textfile.service", check=False)
        host.wait_for_log("cc-textfile-alert.service", "Finished cc-textfile-alert.service", times=times)
        eventually(lambda: not host.active("cc-textfile-failed.target"))
    assert "cc-textfile failed" in host.log("--priority=alert")
    host.run("systemctl", "start", "cc-textfiled.service", check=False)
    host.wait_for_log("cc-textfile-alert.service", "Finished cc-textfile-alert.service", times=3)


def test_a_failed_poll_of_the_daemon_reaches_the_hook(host: Host) -> None:
    """With the second example, the daemon's errors start the target, too."""
    host.serve_portal("refused")
    host.configure()
    for example in ("cc-textfile-alert.service", "cc-textfiled-alert.service"):
        host.run("cp", f"/usr/share/doc/cc-textfile/examples/{example}", UNITS)
        host.run("systemctl", "enable", "--now", example)
    host.run("systemctl", "start", "cc-textfiled.service")
    host.wait_for_log("cc-textfile-alert.service", "Finished cc-textfile-alert.service", times=2)


# Accounts and shards


def test_two_accounts_on_one_host(host: Host) -> None:
    """Each has its settings, its password, its file and the label of its name; node_exporter serves both."""
    host.serve_portal()
    for account, channel in zip(("blog", "shop"), CHANNELS, strict=True):
        host.configure(SETTINGS.replace(",".join(CHANNELS), channel), account=account)
        host.every_second(f"cc-textfile@{account}.timer")
        host.run("systemctl", "enable", "--now", f"cc-textfile@{account}.timer")
        host.wait_for_log(f"cc-textfile@{account}.service", f"Finished cc-textfile@{account}.service")
        for unit in (f"cc-textfile@{account}.service", f"cc-textfiled@{account}.service"):
            environment = host.property(unit, "Environment").split()
            assert f"CC_TEXTFILE_ACCOUNT={account}" in environment
            assert f"CC_TEXTFILE_LEDGER={STATE}/cc-textfile-{account}.ledger" in environment
    metrics = host.served()
    for account, channel in zip(("blog", "shop"), CHANNELS, strict=True):
        assert f'node_textfile_mtime_seconds{{file="{FOLDER}/cc-textfile-{account}.prom"}}' in metrics
        assert f'ChinaCache_metrics_isp_total_bytes{{channel="{channel}"}}' in metrics


def test_node_exporter_has_nothing_to_say_about_two_accounts(host: Host) -> None:
    """No error in its journal, and all series of both, those of the poll, too."""
    host.serve_portal()
    for account, channel in zip(("", "shop"), CHANNELS, strict=True):
        host.configure(SETTINGS.replace(",".join(CHANNELS), channel), account=account)
        host.run("systemctl", "start", f"cc-textfile{account and '@' + account}.service")
    metrics = host.served()
    # Beside other machines on this one, its collector of file systems has something to say.
    errors = host.log("--unit=prometheus-node-exporter.service")
    assert not re.search("cc_textfile|chinacache|textfile", errors, re.IGNORECASE), errors
    for account in ("demo", "shop"):
        assert f'cc_textfile_poll_success{{account="{account}"}} 1' in metrics


def test_the_check_of_one_account_leaves_the_other_alone(host: Host) -> None:
    """With both accounts well, there is nothing to look at, and nothing to remove."""
    host.serve_portal()
    for account, channel in zip(("", "shop"), CHANNELS, strict=True):
        host.configure(SETTINGS.replace(",".join(CHANNELS), channel), account=account)
        host.run("systemctl", "start", f"cc-textfile{account and '@' + account}.service")
    result = host.run("cc-textfile-check", "cc-textfile@shop.service")
    assert "rm " not in result
    assert "warning" not in result.lower()


def test_each_account_has_a_ledger_of_its_own(host: Host) -> None:
    """The ledgers are in the state directory, and closed to other users."""
    host.serve_portal()
    for account in ("", "shop"):
        host.configure(account=account)
        host.run("systemctl", "start", f"cc-textfile{account and '@' + account}.service")
    for ledger in (LEDGER, f"{STATE}/cc-textfile-shop.ledger"):
        assert host.run("stat", "--format=%a %U", ledger).strip() == "600 cc-textfile"


# cc-textfile-check


def leaves_no_unit_behind(host: Host) -> bool:
    """Tell whether no unit and no file of a check is left."""
    units = host.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "*-check-*")
    return not units and not host.run("find", "/run", "-name", "*cc-textfile-check*")


def test_the_check_sees_what_the_unit_would_see(host: Host) -> None:
    """Where the unit's sandbox forbids the file, unit and check both fail; a good unit passes."""
    host.serve_portal()
    host.configure()
    assert "a poll would succeed" in host.run("cc-textfile-check")
    assert "a poll would succeed" in host.run("cc-textfile-check", "cc-textfiled")
    host.run("install", "--directory", "--mode=0777", "/srv/textfile")
    host.drop_in("cc-textfile.service", "[Service]\nEnvironment=CC_TEXTFILE_PATH=/srv/textfile/cc-textfile.prom\n")
    host.run("systemctl", "start", "cc-textfile.service", check=False)
    assert host.property("cc-textfile.service", "ExecMainStatus") == "1"
    failed = host.run("sh", "-c", "cc-textfile-check; echo exit status $?")
    assert "Read-only file system" in failed
    assert failed.endswith("exit status 1\n")
    assert leaves_no_unit_behind(host)


def test_the_check_passes_options_on(host: Host) -> None:
    """What follows the unit are options of `cc-textfile check`."""
    host.serve_portal()
    host.configure(account="shop")
    assert host.run("cc-textfile-check", "cc-textfile@shop", "--json").startswith("[")


@pytest.mark.parametrize(
    ("arguments", "settings", "status", "words"),
    [
        pytest.param("", "QUERYTIME=x\n", 2, "QUERYTIME", id="bad settings"),
        pytest.param("cc-textfile@shop", "", 1, "cc-textfile@shop.service would be skipped: unmet", id="no password"),
        pytest.param("dbus.service", "", 2, "does not start `cc-textfile run`", id="another unit"),
        pytest.param("nothing", "", 2, "there is no unit nothing.service", id="no unit"),
        pytest.param("--json", "", 2, "the first argument is a unit", id="no unit but an option"),
    ],
)
def test_the_check_says_why_it_cannot_go_on(host: Host, arguments: str, settings: str, status: int, words: str) -> None:
    """A line that says what is wrong, an exit status, and no failed unit."""
    host.configure(settings)
    result = host.run("sh", "-c", f"cc-textfile-check {arguments}; echo exit status $?")
    assert words in result
    assert result.endswith(f"exit status {status}\n")
    assert leaves_no_unit_behind(host)


def test_the_check_passes_its_options_on(host: Host) -> None:
    """Whatever characters they hold: neither sed nor systemd makes something else of them."""
    host.configure()
    account = r'R&D|%n "x" $HOME \1'
    checked = host.run("cc-textfile-check", "cc-textfile.service", "--account", account, check=False)
    assert f"{account} (flag --account)" in checked


def test_the_check_is_no_failure_for_the_hook(host: Host) -> None:
    """A check that fails starts nothing that is enabled for failures."""
    host.run("cp", "/usr/share/doc/cc-textfile/examples/cc-textfile-alert.service", UNITS)
    host.run("systemctl", "enable", "cc-textfile-alert.service")
    host.configure("")
    host.run("cc-textfile-check", check=False)
    assert "cc-textfile failed" not in host.log()


def test_the_check_reports_a_password_that_cannot_be_read(host: Host) -> None:
    """What ends a unit before the program starts is told, too."""
    host.configure()
    host.drop_in("cc-textfile.service", "[Service]\nLoadCredential=\nLoadCredential=password:/nowhere\n")
    result = host.run("sh", "-c", "cc-textfile-check; echo exit status $?")
    assert "Failed to set up credentials" in result
    assert result.endswith("exit status 243\n")


def test_the_check_needs_root(host: Host) -> None:
    """Another user is told what to type."""
    refused = host.run("runuser", "--user=nobody", "--", "cc-textfile-check", check=False)
    assert "sudo cc-textfile-check cc-textfile.service" in refused


def test_the_bare_check_names_the_check_of_the_unit(host: Host) -> None:
    """`cc-textfile check` without settings, on a host of the package, says what to type."""
    host.configure()
    assert "sudo cc-textfile-check" in host.run("cc-textfile", "check", check=False)


# The package


def newer(package: Path, folder: Path) -> Path:
    """Return the same package with a higher version, where the machine can read it."""
    path = package.parent / "newer.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", package, folder], check=True)
    control = folder / "DEBIAN" / "control"
    control.write_text(re.sub("^Version: .*", "Version: 999", control.read_text(), flags=re.MULTILINE))
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", folder, path], check=True, capture_output=True)
    return path


def test_an_upgrade_keeps_what_the_administrator_has_set(bare: Host, package: Path, tmp_path: Path) -> None:
    """Settings, password, a disabled timer and running daemons outlive it; the daemons run the new program."""
    bare.install(package)
    bare.serve_portal()
    daemons = ("cc-textfiled.service", "cc-textfiled@shop.service")
    for account in ("", "shop"):
        bare.configure(account=account)
    bare.run("systemctl", "disable", "--now", "cc-textfile.timer")
    bare.run("systemctl", "enable", "--now", daemons[0])
    bare.run("systemctl", "start", daemons[1])
    before = [bare.property(daemon, "MainPID") for daemon in daemons]
    path = newer(package, tmp_path / "tree")
    try:
        bare.install(path)
    finally:
        path.unlink()
    assert bare.run("dpkg-query", "--show", "--showformat=${Version}", "cc-textfile") == "999"
    assert bare.run("cat", "/etc/default/cc-textfile") == SETTINGS
    assert bare.run("cat", "/etc/cc-textfile/password") == bare.password
    assert bare.property("cc-textfile.timer", "UnitFileState") == "disabled"
    assert not bare.active("cc-textfile.timer")
    for daemon, pid in zip(daemons, before, strict=True):
        assert bare.active(daemon)
        assert bare.property(daemon, "MainPID") not in (pid, "0")


def test_from_installation_to_purge(bare: Host, package: Path) -> None:
    """Each step of the package's life leaves what it should.

    Installed, it waits without a failure. Removed, it has stopped, and nothing is served. Installed again, it goes on.
    Purged, every file that was not there before is gone, and what belongs to others is as it was.
    """
    other = f"{FOLDER}/cc-textfile-of-another.prom"
    bare.write(other, "others 1\n")
    before, folder = bare.files(), bare.run("stat", "--format=%a %U %G", FOLDER)

    bare.install(package)
    assert bare.active("cc-textfile.timer")
    assert bare.property("cc-textfile.timer", "UnitFileState") == "enabled"
    assert bare.property("cc-textfiled.service", "UnitFileState") == "disabled"
    assert bare.run("systemctl", "is-system-running").strip() == "running"
    assert bare.run("ls", "/usr/share/doc/cc-textfile/monitoring/alerts.yml")

    bare.serve_portal()
    for account in ("", "blog", "shop"):
        bare.configure(account=account)
    bare.run("systemctl", "start", "cc-textfile.service", "cc-textfile@blog.service")
    enabled = ("cc-textfile.timer", "cc-textfile@blog.timer", "cc-textfiled@shop.service")
    bare.run("systemctl", "enable", "--now", *enabled[1:])
    assert bare.run("sh", "-c", f"ls {FOLDER}/cc-textfile*.prom | wc -l").strip() == "4"
    # Until the program has a ledger of its own.
    bare.run("sh", "-c", f"test -e {LEDGER} || echo ledger >{LEDGER}")
    ledger = bare.run("sha256sum", LEDGER)

    bare.stop_portal()
    bare.run("dpkg", "--remove", "cc-textfile")
    active = bare.run("systemctl", "list-units", "--plain", "--no-legend", "cc-textfile*")
    assert "cc-textfile" not in active
    assert "ChinaCache" not in bare.served()
    assert bare.run("cat", "/etc/default/cc-textfile", "/etc/cc-textfile/password") == SETTINGS + bare.password
    assert bare.run("sha256sum", LEDGER) == ledger

    bare.install(package)
    assert [unit for unit in enabled if not bare.active(unit)] == []

    # A failed state, and the hook of failures, are not to be left behind either.
    bare.configure("")
    bare.run("systemctl", "start", "cc-textfile.service", check=False)
    bare.run("dpkg", "--purge", "cc-textfile")
    assert bare.files() == before
    assert bare.run("stat", "--format=%a %U %G", FOLDER) == folder
    assert "others 1" in bare.served()
    units = bare.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "cc-textfile*")
    assert [line for line in units.splitlines() if " not-found inactive dead" not in line] == []


def test_a_host_without_node_exporter(bare: Host, package: Path) -> None:
    """Nothing of node_exporter's is made, and a poll says what is missing."""
    bare.run("dpkg", "--purge", "prometheus-node-exporter")
    bare.run("rm", "-rf", "/var/lib/prometheus")
    bare.run("dpkg", "--install", str(package))
    bare.serve_portal()
    bare.configure()
    bare.run("systemctl", "start", "cc-textfile.service", check=False)
    assert f"{FOLDER} is missing" in bare.log("--unit=cc-textfile.service", "--priority=err")
    bare.run("dpkg", "--purge", "cc-textfile")
    assert bare.run("ls", "/var/lib/prometheus", check=False).startswith("ls: cannot access")


def test_an_installation_from_source(bare: Host) -> None:
    """`make install` puts the same under /usr/local, with units that start what lies there."""
    tree = SOURCE / "build" / "installed"
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run(["make", "--silent", "install", f"DESTDIR={tree}"], cwd=SOURCE, check=True, capture_output=True)
    bare.run("cp", "--recursive", f"{tree}/.", "/")
    section = INSTALL.partition("## Another Linux host")[2].partition("\n## ")[0]
    build, *then = re.findall(r"^(?:make|sudo) .*", section, re.MULTILINE)
    assert build == "make zipapp && sudo make install"
    for command in then:
        bare.type_as_administrator(command)
    assert bare.run("systemd-analyze", "verify", *SERVICES) == ""
    bare.serve_portal(program="/usr/local/bin/cc-textfile")
    bare.configure()
    bare.run("systemctl", "start", "cc-textfile.service")
    assert GOOD_POLL.search(bare.served())
    assert "a poll would succeed" in bare.run("cc-textfile-check")


def test_lintian_has_no_complaint(package: Path) -> None:
    """Debian's own check of packages finds neither an error nor a warning."""
    if shutil.which("lintian") is None:
        pytest.skip("lintian not installed")
    checked = subprocess.run(
        ["lintian", "--allow-root", "--fail-on=warning", "--no-cfg", package],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


# docs/install.md, typed as it stands there


def test_the_documented_way_from_the_package_to_node_exporter(bare: Host) -> None:
    """Six commands, by a user with sudo, with the demo's account; the last one finds the metric at once."""
    install, edit, password, start, status, query = commands("package")
    bare.type_as_administrator(install)
    bare.serve_portal()
    bare.type_as_administrator(edit)
    bare.type_as_administrator(password)
    bare.type_as_administrator(start)
    assert "polled 1 channels" in bare.type_as_administrator(status, check=False)
    assert 'channel="100201"' in bare.type_as_administrator(query)
    assert bare.run("stat", "--format=%a %U", "/etc/cc-textfile/password").strip() == "600 root"
    assert bare.run("cat", "/etc/cc-textfile/password") == bare.password


def test_the_documented_way_from_one_file_to_the_package(bare: Host) -> None:
    """The commands for one file, and then those that replace it by the package; nothing of it is left."""
    commands_of_file = commands("one file")
    bare.type_as_administrator(commands_of_file[0])
    bare.serve_portal(program="/usr/local/bin/cc-textfile")
    ours = f"--user demo --channels 100201 --portal-url {PORTAL}"
    for command in commands_of_file[1:]:
        result = bare.type_as_administrator(command.replace("--user me --channels 1001,1002", ours))
    assert 'channel="100201"' in result
    assert bare.property("chinacache.service", "TimeoutStartUSec") == "4min"
    assert bare.property("chinacache.timer", "RandomizedDelayUSec") == "4min"
    assert bare.run("stat", "--format=%U", "/var/lib/chinacache/cc-textfile.prom").strip() == "chinacache"
    bare.stop_portal()
    for command in commands("from one file"):
        if "start cc-textfile.service" in command:
            bare.serve_portal()
        assert "rror" not in bare.type_as_administrator(command)
    assert GOOD_POLL.search(bare.served())
    assert "chinacache" not in bare.run("systemctl", "list-units", "--all", "chinacache*", "--no-legend")


def test_the_documented_check(host: Host) -> None:
    """Both commands, after the account of the next section was added."""
    host.serve_portal()
    for account in ("", "shop"):
        host.configure(account=account)
    for command in commands("check"):
        assert "a poll would succeed" in host.type_as_administrator(command)


def test_the_documented_logs(host: Host) -> None:
    """The first and the last command show the poll; what went wrong is nothing."""
    host.run("journalctl", "--rotate")
    host.run("journalctl", "--vacuum-size=1")
    host.serve_portal()
    host.configure(account="shop")
    host.run("systemctl", "start", "cc-textfile@shop.service")
    for command in commands("log"):
        shown = host.type_as_administrator(command)
        assert ("polled 2 channels" in shown) != ("-p warning" in command)


def test_the_documented_change_to_the_daemon_and_back(host: Host) -> None:
    """After each command a poller runs, and in the end only the timer is left."""
    host.serve_portal()
    host.configure()
    host.run("systemctl", "enable", "--now", "cc-textfile.timer")
    for command in (*commands("daemon"), *commands("timer")):
        host.type_as_administrator(command)
        assert host.active("cc-textfile.timer") or host.active("cc-textfiled.service")
    assert host.active("cc-textfile.timer")
    assert host.property("cc-textfile.timer", "UnitFileState") == "enabled"
    assert not host.active("cc-textfiled.service")


def test_the_documented_further_account(host: Host) -> None:
    """The commands add it; everything lies where the table says."""
    host.serve_portal()
    host.configure()
    host.run("systemctl", "start", "cc-textfile.service")
    for command in commands("account"):
        host.type_as_administrator(command)
    assert host.active("cc-textfile@shop.timer")
    table = INSTALL.partition("<!-- places:")[2].partition("\n\n")[0]
    places = re.findall(r"`(/[^`]*)`", table)
    assert places
    host.run("ls", "-d", *places)


def test_the_documented_shard(host: Host) -> None:
    """The command leaves the account and its files as they are; four hosts poll each channel once."""
    host.serve_portal()
    channels = [str(100201 + n) for n in range(20)]
    host.configure(SETTINGS.replace(",".join(CHANNELS), ",".join(channels)))
    host.configure(account="shop")
    (command,) = commands("shard")
    polled: list[str] = []
    for number in range(1, 5):
        host.type_as_administrator(command.replace("2/4", f"{number}/4"))
        host.run("systemctl", "start", "cc-textfile.service")
        polled += set(re.findall(r'_up{.*channel="(\d+)"', host.served()))
    assert sorted(polled) == channels
    host.run("systemctl", "start", "cc-textfile@shop.service")
    assert "polled 2 channels" in host.log("--unit=cc-textfile@shop.service")


def test_the_documented_alert(host: Host) -> None:
    """The commands for the timer's polls: what they enable is started by a failed poll."""
    for command in commands("alert"):
        host.type_as_administrator(command)
    host.configure("")
    host.run("systemctl", "start", "cc-textfile.service", check=False)
    host.wait_for_log("cc-textfile-alert.service", "Finished cc-textfile-alert.service")
    for command in commands("daemon alert"):
        host.type_as_administrator(command)
    assert host.active("cc-textfiled-alert.service")


def test_the_documented_encrypted_password(host: Host) -> None:
    """No password in the clear is left on the disk, and the poll has it."""
    host.serve_portal()
    host.configure()
    for command in commands("encrypted"):
        host.type_as_administrator(command)
    assert "cannot access" in host.run("ls", "/etc/cc-textfile/password", check=False)
    host.run("systemctl", "start", "cc-textfile.service")
    assert GOOD_POLL.search(host.served())
    assert "a poll would succeed" in host.run("cc-textfile-check")
