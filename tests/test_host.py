"""The package on a real Debian with a real systemd: each test on a machine of its own, as an administrator would."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cc_textfile.values import Shard
from tests.conftest import ROOT as SOURCE
from tests.conftest import eventually
from tests.machine import Machine, NoRootError, missing, root

README = (SOURCE / "README.md").read_text()
FOLDER = "/var/lib/prometheus/node-exporter"
TEXTFILE = f"{FOLDER}/cc-textfile.prom"
PASSWORD = "believe-nothing"
PORTAL = "http://127.0.0.1:8044"
SETTINGS = f"CHINACACHE_USER=demo\nCHINACACHE_CHANNEL_IDS=100201,100202\nCHINACACHE_URL={PORTAL}\n"
UNITS = "/etc/systemd/system"
MOST_EXPOSURE = 1.1
MOST_COMMANDS = 6

pytestmark = pytest.mark.slow

Portal = Callable[..., None]


@pytest.fixture(scope="session", autouse=True)
def _long_life(request: pytest.FixtureRequest) -> None:
    """Start the longest test, if it is to be run, under these: they mostly wait for a machine."""
    if any(item.path.stem == "test_long_life" for item in request.session.items):
        request.getfixturevalue("long_life")


@pytest.fixture(scope="session")
def package() -> Path:
    """Build the package from this source."""
    if reason := missing():
        pytest.skip(f"a machine can't be booted here: {reason}")
    try:
        root()
    except NoRootError as error:
        pytest.skip(str(error))
    subprocess.run(["make", "--silent", "deb"], cwd=SOURCE, check=True, capture_output=True)
    return max((SOURCE / "dist").glob("cc-textfile_*_all.deb"), key=lambda path: path.stat().st_mtime)


@pytest.fixture
def bare(package: Path) -> Iterator[Machine]:
    """Boot a machine with node_exporter and nothing of ours."""
    with Machine(source=package.parent.parent) as machine:
        yield machine


@pytest.fixture
def host(bare: Machine, package: Path) -> Machine:
    """Boot a machine and install the package; no settings, no password."""
    install(bare, package)
    return bare


@pytest.fixture
def portal(host: Machine) -> Portal:
    """Return a function that serves the demo portal within, with the faults that it is asked for."""

    def serve(*faults: str) -> None:
        serve_demo(host, "/usr/bin/cc-textfile", *faults)

    return serve


def serve_demo(machine: Machine, program: str = "/usr/bin/cc-textfile", *faults: str) -> None:
    asked = [word for fault in faults for word in ("--fault", fault)]
    machine.run("systemd-run", "--quiet", "--unit=portal", program, "demo", "--serve", "8044", *asked)
    machine.wait_for_log("portal.service", f"portal at {PORTAL}")


def install(machine: Machine, *packages: Path) -> None:
    machine.run("apt-get", "install", "--yes", *map(str, packages))


def configure(machine: Machine, settings: str = SETTINGS, password: str = PASSWORD) -> None:
    machine.write("/etc/default/cc-textfile", settings)
    machine.write("/etc/cc-textfile/password", password, mode="0600")


def drop_in(machine: Machine, unit: str, text: str) -> None:
    machine.write(f"{UNITS}/{unit}.d/test.conf", text)
    machine.run("systemctl", "daemon-reload")


def every_second(machine: Machine, timer: str) -> None:
    """Let a timer elapse each second, where every five minutes is too long to wait for."""
    drop_in(machine, timer, "[Timer]\nOnCalendar=\nOnCalendar=*:*:*\nRandomizedDelaySec=0\nAccuracySec=1ms\n")


def served(machine: Machine) -> str:
    """Return what the machine's own node_exporter serves."""
    get = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9100/metrics', timeout=10).read().decode())"
    return machine.run("python3", "-c", get)


def said(machine: Machine, unit: str) -> list[str]:
    """Return the lines that a unit's own program has said, without systemd's about it."""
    return [line for line in machine.log(unit).splitlines() if re.match(r"(error|warning|info|cc-textfile): ", line)]


def files(machine: Machine) -> set[str]:
    """Return every file, folder and link that a package could leave behind."""
    where = ("/etc", "/usr", "/var", "/opt", "/srv", "/root", "/home")
    caches = r"/var/(cache|log|tmp)/.*|/var/lib/(dpkg|apt|systemd)/.*|/etc/(passwd|group|shadow|gshadow)-"
    return {path for path in machine.run("find", *where, "-xdev").splitlines() if not re.fullmatch(caches, path)}


def test_an_installed_package_waits_without_a_failure(host: Machine) -> None:
    """The timer is enabled and running; what it starts is skipped until the password is there, and says why."""
    assert host.property("cc-textfile.timer", "ActiveState") == "active"
    assert host.property("cc-textfile.timer", "UnitFileState") == "enabled"
    assert host.property("cc-textfiled.service", "UnitFileState") == "disabled"
    for unit in ("cc-textfile.service", "cc-textfiled.service"):
        host.run("systemctl", "start", unit)
        assert host.property(unit, "ActiveState") == "inactive"
        assert "unmet condition check (ConditionFileNotEmpty=/etc/cc-textfile/password)" in host.log(unit)
    assert host.run("systemctl", "is-system-running").strip() == "running"


def test_the_units_are_in_order_and_closed(host: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    """To systemd-analyze nothing is wrong with them, and little is to be reached from within."""
    units = ("cc-textfile.service", "cc-textfile@example.service", "cc-textfiled.service")
    others = ("cc-textfile.timer", "cc-textfile@example.timer", "cc-textfile-failed.target")
    assert host.run("systemd-analyze", "verify", *units, *others) == ""
    for unit in units:
        report = host.run("systemd-analyze", "security", "--no-pager", unit)
        exposure = re.search(rf"Overall exposure level for {re.escape(unit)}: ([\d.]+)", report)
        assert exposure, report
        with capsys.disabled():
            sys.stdout.write(f"\nexposure of {unit}: {exposure[1]}")
        assert float(exposure[1]) <= MOST_EXPOSURE


def test_the_timer_polls_by_itself_once_the_password_is_there(host: Machine, portal: Portal) -> None:
    """Nobody starts anything: the file appears, readable by all, and node_exporter serves it without an error.

    An interval in the settings is the daemon's: it makes no daemon of the timer's poll.
    """
    portal()
    every_second(host, "cc-textfile.timer")
    host.run("systemctl", "restart", "cc-textfile.timer")
    host.wait_for_log("cc-textfile.service", "skipped because of an unmet condition")
    configure(host, SETTINGS + "CHINACACHE_INTERVAL=1h\n")
    host.wait_for_log("cc-textfile.service", "Finished cc-textfile.service")
    assert host.run("stat", "--format=%a %U %G", TEXTFILE).strip() == "644 cc-textfile cc-textfile"
    metrics = served(host)
    assert "node_textfile_scrape_error 0" in metrics
    assert re.search(
        r'^ChinaCache_metrics_hit_miss_total{HitOrMiss="Hit",channel="100201"} [1-9]', metrics, re.MULTILINE
    )
    assert "cc_textfile_poll_success 1" in metrics


def test_each_host_keeps_its_offset(host: Machine) -> None:
    """Over a restart of the timer, its polls stay as far from the full five minutes as they were."""

    def offset() -> str:
        host.run("systemctl", "restart", "cc-textfile.timer")
        after = host.property("cc-textfile.timer", "NextElapseUSecRealtime")
        minutes, seconds = re.search(r":(\d\d):(\d\d)", after).groups()  # type: ignore[union-attr]
        return f"{int(minutes) % 5}:{seconds}"

    before = offset()
    assert offset() == before
    assert host.property("cc-textfile.timer", "FixedRandomDelay") == "yes"
    assert host.property("cc-textfile.timer", "RandomizedDelayUSec") == "4min"


def test_no_run_is_without_a_bound(host: Machine) -> None:
    """A poll is over before the next one is due, whatever it does."""
    assert host.property("cc-textfile.service", "TimeoutStartUSec") == "4min"
    assert host.property("cc-textfile@example.service", "TimeoutStartUSec") == "4min"
    assert host.property("cc-textfiled.service", "TimeoutStartUSec") == "3min"


def test_a_wrong_password_is_told_in_plain_words(host: Machine, portal: Portal) -> None:
    """`systemctl status` says that the portal refuses the account; no word of the journal is the password."""
    portal()
    configure(host, password="not-the-one-9f3c")
    host.run("systemctl", "start", "cc-textfile.service", check=False)
    status = host.run("systemctl", "status", "--no-pager", "--full", "cc-textfile.service", check=False)
    assert "error: the portal refuses the account of user demo" in status
    assert "check CHINACACHE_USER and the password" in status
    assert "cc_textfile_poll_success 0" in served(host)
    assert "9f3c" not in host.run("journalctl", "--output=export")


def test_the_password_is_for_the_service_alone(host: Machine, portal: Portal) -> None:
    """While the service holds it, no other user can read file, credential or process, and no unit shows it."""
    portal()
    configure(host)
    host.run("systemctl", "start", "cc-textfiled.service")
    pid = host.property("cc-textfiled.service", "MainPID")
    credential = "/run/credentials/cc-textfiled.service/password"
    assert host.run("cat", credential) == PASSWORD
    for path in ("/etc/cc-textfile/password", credential, f"/proc/{pid}/environ", f"/proc/{pid}/mem"):
        refusal = host.run("runuser", "--user=prometheus", "--", "cat", path, check=False)
        assert "Permission denied" in refusal
    shown = host.run("systemctl", "show", "cc-textfiled.service") + host.run("systemctl", "cat", "cc-textfiled.service")
    assert PASSWORD not in shown + host.run("cat", f"/proc/{pid}/environ", f"/proc/{pid}/cmdline")


def test_a_hanging_portal_is_ended_by_the_deadline(host: Machine, portal: Portal) -> None:
    """The program ends its poll itself and writes what it knows: systemd's own time limit is not reached."""
    portal("hang")
    configure(host, SETTINGS + "CC_TEXTFILE_DEADLINE=1s\n")
    host.run("systemctl", "start", "cc-textfile.service", check=False)
    assert host.property("cc-textfile.service", "Result") == "exit-code"
    assert host.property("cc-textfile.service", "ExecMainStatus") == "1"
    assert 'cc_textfile_failures{endpoint="isp",reason="overdue"} 2' in served(host)


@pytest.mark.parametrize(
    ("settings", "password", "word"),
    [
        pytest.param(SETTINGS + "QUERYTIME=5min\n", PASSWORD, "QUERYTIME", id="typo in a value"),
        pytest.param(SETTINGS.replace("_USER", "_USR"), PASSWORD, "CHINACACHE_USER", id="typo in a name"),
        pytest.param(SETTINGS.replace("_USER=", "_USER "), PASSWORD, "CHINACACHE_USER", id="no equals sign"),
        pytest.param(SETTINGS, "\n", "password", id="empty password"),
        pytest.param(SETTINGS + "CHINACACHE_CA_FILE=/nowhere.pem\n", PASSWORD, "/nowhere.pem", id="missing file"),
    ],
)
def test_bad_settings_fail_once_and_say_what_to_do(host: Machine, settings: str, password: str, word: str) -> None:
    """One line in the journal, from the timer's service and from the daemon, which is not started again."""
    configure(host, settings, password)
    for unit in ("cc-textfile.service", "cc-textfiled.service"):
        host.run("systemctl", "start", unit, check=False)
        assert host.property(unit, "ActiveState") == "failed"
        assert host.property(unit, "ExecMainStatus") == "2"
        (line,) = said(host, unit)
        assert word in line


def test_a_missing_folder_fails_once_and_says_what_to_do(host: Machine, portal: Portal) -> None:
    """The folder is named, in words, by the program itself; the daemon is not started again."""
    portal()
    configure(host)
    host.run("rmdir", FOLDER)
    for unit in ("cc-textfile.service", "cc-textfiled.service"):
        host.run("systemctl", "start", unit, check=False)
        assert host.property(unit, "ActiveState") == "failed"
        assert FOLDER in said(host, unit)[-1]
        assert "create" in said(host, unit)[-1]


def test_an_unreadable_credential_fails_once(host: Machine) -> None:
    """An encrypted password that was not encrypted here: the unit says so, and the daemon is not started again."""
    example = host.run("cat", "/usr/share/doc/cc-textfile/examples/encrypted-password.conf")
    configure(host)
    host.write("/etc/cc-textfile/password.cred", "this was never encrypted")
    for unit in ("cc-textfile.service", "cc-textfiled.service"):
        drop_in(host, unit, example)
        host.run("systemctl", "start", unit, check=False)
        assert host.property(unit, "ActiveState") == "failed"
        assert host.log(unit).count("status=243/CREDENTIALS") == 1


def test_an_encrypted_password_works(host: Machine, portal: Portal) -> None:
    """The example's own commands: no password in the clear is left on the disk."""
    portal()
    configure(host)
    cred = "/etc/cc-textfile/password.cred"
    host.run("systemd-creds", "encrypt", "--name=password", "--with-key=host", "/etc/cc-textfile/password", cred)
    host.run("rm", "/etc/cc-textfile/password")
    drop_in(host, "cc-textfile.service", host.run("cat", "/usr/share/doc/cc-textfile/examples/encrypted-password.conf"))
    host.run("systemctl", "start", "cc-textfile.service")
    assert "cc_textfile_poll_success 1" in served(host)


def test_a_host_of_the_ansible_role(host: Machine, portal: Portal) -> None:
    """Its folder belongs to the exporter's user and group; with the example, the service writes there."""
    portal()
    configure(host)
    host.run("systemd-sysusers", "/dev/stdin", stdin="u node-exp - -\n")
    host.run("install", "--directory", "--owner=node-exp", "--group=node-exp", "--mode=0775", "/var/lib/node_exporter")
    drop_in(host, "cc-textfile.service", host.run("cat", "/usr/share/doc/cc-textfile/examples/ansible-role.conf"))
    for _ in range(2):  # the second poll replaces the first one's file
        host.run("systemctl", "start", "cc-textfile.service")
    assert host.run("stat", "--format=%a", "/var/lib/node_exporter/cc-textfile.prom").strip() == "644"
    host.run("apt-get", "remove", "--yes", "cc-textfile")
    assert host.run("ls", "-A", "/var/lib/node_exporter") == ""


def test_a_host_polls_the_shard_that_its_timer_is_named_for(host: Machine, portal: Portal) -> None:
    """With the example and the same settings on every host, cc-textfile@2-4 polls 2/4 of the channels, and no other."""
    portal()
    channels = [str(100201 + n) for n in range(20)]
    configure(host, SETTINGS.replace("100201,100202", ",".join(channels)))
    drop_in(host, "cc-textfile@.service", host.run("cat", "/usr/share/doc/cc-textfile/examples/shards.conf"))
    host.run("systemctl", "start", "cc-textfile@2-4.service")
    assert host.run("systemd-analyze", "verify", "cc-textfile@2-4.service") == ""
    polled = set(re.findall(r'cc_textfile_endpoint_up{channel="(\d+)"', served(host)))
    assert polled == {channel for channel in channels if Shard(2, 4).has(channel)}


def test_each_failure_reaches_the_hook(host: Machine) -> None:
    """A unit that is enabled for the target, such as the example, is started by each failed poll."""
    example = "/usr/share/doc/cc-textfile/examples/on-failure.service"
    host.run("cp", example, f"{UNITS}/cc-textfile-alert.service")
    host.run("systemctl", "enable", "cc-textfile-alert.service")
    configure(host, "")
    for times in (1, 2):
        host.run("systemctl", "start", "cc-textfile.service", check=False)
        host.wait_for_log("cc-textfile-alert.service", "Finished cc-textfile-alert.service", times=times)
    host.run("journalctl", "--sync")
    assert "cc-textfile failed" in host.run("journalctl", "--output=cat", "--priority=alert")


def test_the_daemon_tells_systemd_how_it_is(host: Machine, portal: Portal) -> None:
    """Ready after the first poll, a status line, a reload that reads the channels again, and a good end."""
    portal()
    channels = "/etc/cc-textfile/channels"
    host.write(channels, "100201\n")
    configure(host, re.sub("_IDS=.*", f"_IDS_FILE={channels}", SETTINGS) + "CHINACACHE_INTERVAL=1s\n")
    host.run("systemctl", "start", "cc-textfiled.service")
    assert "cc_textfile_poll_success 1" in served(host)
    assert "polled 1 channels" in host.property("cc-textfiled.service", "StatusText")
    assert host.property("cc-textfiled.service", "WatchdogUSec") == "3min"
    host.write(channels, "100201\n100202\n100203\n")
    host.run("systemctl", "reload", "cc-textfiled.service")
    host.wait_for_log("cc-textfiled.service", "polled 3 channels")
    assert host.property("cc-textfiled.service", "ActiveState") == "active"
    host.run("systemctl", "stop", "cc-textfiled.service")
    assert host.property("cc-textfiled.service", "Result") == "success"
    assert host.property("cc-textfiled.service", "NRestarts") == "0"


def test_a_poll_that_fails_is_in_the_status(host: Machine, portal: Portal) -> None:
    """The daemon is up, and says that its last poll was not good."""
    portal("refused")
    configure(host)
    host.run("systemctl", "start", "cc-textfiled.service")
    assert "8 failed" in host.property("cc-textfiled.service", "StatusText")


def test_a_daemon_that_hangs_is_restarted(host: Machine, portal: Portal) -> None:
    """Stopped in its tracks, it misses its watchdog: it ends with the traceback of its threads, and starts anew."""
    portal()
    configure(host, SETTINGS + "CHINACACHE_INTERVAL=1h\n")
    drop_in(host, "cc-textfiled.service", "[Service]\nWatchdogSec=1s\nRestartSec=100ms\n")
    host.run("systemctl", "start", "cc-textfiled.service")
    host.run("systemctl", "kill", "--signal=STOP", "cc-textfiled.service")
    log = host.wait_for_log("cc-textfiled.service", "polled 2 channels", times=2)
    assert "Watchdog timeout" in log
    assert "Fatal Python error: Aborted" in log
    assert host.property("cc-textfiled.service", "NRestarts") == "1"
    assert host.property("cc-textfiled.service", "ActiveState") == "active"


def test_the_watchdog_is_fed_while_nothing_happens(host: Machine, portal: Portal) -> None:
    """Between two polls, and during one that takes longer than the watchdog allows, the daemon is known to be alive."""
    portal("hang")
    configure(host, SETTINGS + "CHINACACHE_INTERVAL=1s\nCC_TEXTFILE_TIMEOUT=3s\nCC_TEXTFILE_DEADLINE=3s\n")
    drop_in(host, "cc-textfiled.service", "[Service]\nWatchdogSec=1s\n")
    host.run("systemctl", "start", "cc-textfiled.service")
    host.wait_for_log("cc-textfiled.service", "polled 2 channels", times=2)
    assert host.property("cc-textfiled.service", "NRestarts") == "0"


def test_timer_and_daemon_exclude_each_other(host: Machine, portal: Portal) -> None:
    """Whichever is started stops the other, and nothing fails over it."""
    portal()
    configure(host)
    host.run("systemctl", "start", "cc-textfiled.service")
    assert host.property("cc-textfile.timer", "ActiveState") == "inactive"
    host.run("systemctl", "start", "cc-textfile.timer")
    assert host.property("cc-textfiled.service", "ActiveState") == "inactive"
    assert host.run("systemctl", "is-system-running").strip() == "running"


def test_two_accounts_on_one_host(host: Machine, portal: Portal) -> None:
    """Each has its settings, its password and its file; node_exporter serves both."""
    portal()
    for account, channel in (("blog", "100201"), ("shop", "100202")):
        host.write(f"/etc/cc-textfile/{account}.env", SETTINGS.replace("100201,100202", channel))
        host.write(f"/etc/cc-textfile/{account}.password", PASSWORD, mode="0600")
        every_second(host, f"cc-textfile@{account}.timer")
        host.run("systemctl", "enable", "--now", f"cc-textfile@{account}.timer")
        host.wait_for_log(f"cc-textfile@{account}.service", f"Finished cc-textfile@{account}.service")
    metrics = served(host)
    for account, channel in (("blog", "100201"), ("shop", "100202")):
        assert f'node_textfile_mtime_seconds{{file="{FOLDER}/cc-textfile-{account}.prom"}}' in metrics
        assert f'ChinaCache_metrics_isp_total_bytes{{channel="{channel}"}}' in metrics


def test_an_upgrade_keeps_what_the_administrator_has_set(
    host: Machine, portal: Portal, package: Path, tmp_path: Path
) -> None:
    """Settings, password, a disabled timer and a running daemon outlive it; the daemon runs the new program."""
    portal()
    configure(host)
    host.run("systemctl", "disable", "--now", "cc-textfile.timer")
    host.run("systemctl", "enable", "--now", "cc-textfiled.service")
    pid = host.property("cc-textfiled.service", "MainPID")
    newer = package.parent / "newer.deb"
    try:
        subprocess.run(["dpkg-deb", "--raw-extract", package, tmp_path / "tree"], check=True)
        control = tmp_path / "tree" / "DEBIAN" / "control"
        control.write_text(re.sub("^Version: .*", "Version: 999", control.read_text(), flags=re.MULTILINE))
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", tmp_path / "tree", newer], check=True, capture_output=True
        )
        install(host, newer)
    finally:
        newer.unlink(missing_ok=True)
    assert host.run("dpkg-query", "--show", "--showformat=${Version}", "cc-textfile") == "999"
    assert host.run("cat", "/etc/default/cc-textfile") == SETTINGS
    assert host.run("cat", "/etc/cc-textfile/password") == PASSWORD
    assert host.property("cc-textfile.timer", "UnitFileState") == "disabled"
    assert host.property("cc-textfile.timer", "ActiveState") == "inactive"
    assert host.property("cc-textfiled.service", "ActiveState") == "active"
    assert host.property("cc-textfiled.service", "MainPID") != pid


def test_a_removed_package_has_stopped_and_keeps_its_settings(host: Machine, portal: Portal) -> None:
    """No timer runs on, and no numbers are served on; installed again, it goes on where it was."""
    portal()
    configure(host)
    host.run("systemctl", "start", "cc-textfile.service")
    host.run("apt-get", "remove", "--yes", "cc-textfile")
    assert "cc-textfile" not in host.run("systemctl", "list-units", "--plain", "--no-legend", "cc-textfile*")
    assert "ChinaCache" not in served(host)
    assert host.run("cat", "/etc/default/cc-textfile", "/etc/cc-textfile/password") == SETTINGS + PASSWORD


def test_a_purge_leaves_nothing_of_ours_and_all_of_others(bare: Machine, package: Path) -> None:
    """Every file that was not there before is gone, whatever was used; another's .prom file is as it was."""
    other = f"{FOLDER}/cc-textfile-of-somebody-else.prom"
    bare.write(other, "others 1\n")
    before = files(bare)
    folder = bare.run("stat", "--format=%a %U %G", FOLDER)
    install(bare, package)
    serve_demo(bare)
    configure(bare)
    bare.write("/etc/cc-textfile/blog.env", SETTINGS)
    bare.write("/etc/cc-textfile/blog.password", PASSWORD, mode="0600")
    bare.run("systemctl", "start", "cc-textfile.service", "cc-textfile@blog.service")
    bare.run("systemctl", "enable", "--now", "cc-textfile@blog.timer")
    bare.run("systemctl", "enable", "--now", "cc-textfiled.service")
    assert bare.run("sh", "-c", f"ls {FOLDER}/cc-textfile*.prom | wc -l").strip() == "3"
    bare.run("systemctl", "stop", "portal.service")
    bare.run("apt-get", "purge", "--yes", "cc-textfile")
    assert files(bare) == before
    assert bare.run("stat", "--format=%a %U %G", FOLDER) == folder
    assert bare.run("cat", other) == "others 1\n"
    assert "cc-textfile" not in bare.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "cc-textfile*")
    assert "others 1" in served(bare)


def test_a_host_without_node_exporter(bare: Machine, package: Path) -> None:
    """The folder is made by the package, and goes with it."""
    bare.run("apt-get", "purge", "--yes", "prometheus-node-exporter", "prometheus")
    bare.run("rm", "-rf", "/var/lib/prometheus")
    bare.run("dpkg", "--install", str(package))
    assert bare.run("stat", "--format=%a %U %G", FOLDER).strip() == "1775 root cc-textfile"
    bare.run("apt-get", "purge", "--yes", "cc-textfile")
    assert bare.run("ls", "/var/lib/prometheus", check=False).startswith("ls: cannot access")


def commands(name: str) -> list[str]:
    """Return the README's commands behind `<!-- name: … -->`, as root types them."""
    block = re.search(rf"<!-- {name}:.*?-->\n```sh\n(.*?)```", README, re.DOTALL)
    assert block, f"the README has no commands {name}"
    lines = block[1].replace("\\\n", " ").splitlines()
    assert len(lines) == MOST_COMMANDS
    return [re.sub(r"^sudo ", "", re.sub(r" +#.*", "", line)) for line in lines]


def comes_to_prometheus(machine: Machine, query: str) -> None:
    """Ask until the next scrape is in, a quarter of a minute at most."""
    series = 'HitOrMiss="Hit", channel="100201", instance="localhost:9100", job="node"'
    eventually(lambda: series in machine.run("sh", "-c", query, check=False))


def test_the_readmes_way_from_the_package_to_prometheus(bare: Machine) -> None:
    """Six commands, as they stand there, with the demo's account."""
    bare.run("systemctl", "start", "prometheus.service")
    install_package, edit, password, start, status, query = commands("package")
    bare.run("sh", "-c", f"cd {SOURCE}; {install_package}", stdin="y\n")
    serve_demo(bare)
    filled = (
        bare.run("cat", "/etc/default/cc-textfile")
        .replace("_USER=\n", "_USER=demo\n")
        .replace("_IDS=\n", "_IDS=100201\n")
    )
    assert edit == "sudoedit /etc/default/cc-textfile"
    bare.write("/etc/default/cc-textfile", f"{filled}\nCHINACACHE_URL={PORTAL}\n")
    bare.run("sh", "-c", password, stdin=f"{PASSWORD}\n")
    bare.run("sh", "-c", start)
    assert "1 channels" in bare.run("sh", "-c", status, check=False)
    comes_to_prometheus(bare, query)


def test_the_readmes_way_from_the_one_file_to_prometheus(bare: Machine) -> None:
    """Six commands, as they stand there, with the demo's account."""
    bare.run("systemctl", "start", "prometheus.service")
    install_file, password, timer, start, status, query = commands("one file")
    bare.run("sh", "-c", f"cd {SOURCE}; {install_file}")
    serve_demo(bare, "/usr/local/bin/cc-textfile")
    bare.run("sh", "-c", password, stdin=f"{PASSWORD}\n")
    bare.run(
        "sh",
        "-c",
        timer.replace("--user me --channels 1001,1002", f"--user demo --channels 100201 --portal-url {PORTAL}"),
    )
    bare.run("sh", "-c", start)
    assert "1 channels" in bare.run("sh", "-c", status, check=False)
    comes_to_prometheus(bare, query)


def test_the_places_are_those_of_the_readme(host: Machine, portal: Portal) -> None:
    """After polls of the first and of a further account, everything lies where the README says."""
    portal()
    configure(host)
    host.write("/etc/cc-textfile/shop.env", SETTINGS)
    host.write("/etc/cc-textfile/shop.password", PASSWORD, mode="0600")
    host.run("systemctl", "start", "cc-textfile.service", "cc-textfile@shop.service")
    table = README.partition("<!-- places:")[2].partition("\n\n")[0]
    places = re.findall(r"`(/[^`]*)`", table)
    assert places
    host.run("ls", "-d", *places)


def test_the_readmes_check_is_a_check_of_the_unit(host: Machine, portal: Portal) -> None:
    """What the README says to type runs the checks as the service's user, with its settings and its password."""
    portal()
    configure(host)
    command = re.search(r"^systemd-run --pipe.*?cc-textfile check$", README, re.MULTILINE | re.DOTALL)
    assert command
    assert "the portal lets user demo in" in host.run("sh", "-c", command[0])


def test_an_installation_from_source(bare: Machine) -> None:
    """`make install` puts the same under /usr/local, with units that start what lies there."""
    tree = SOURCE / "build" / "installed"
    shutil.rmtree(tree, ignore_errors=True)
    subprocess.run(["make", "--silent", "install", f"DESTDIR={tree}"], cwd=SOURCE, check=True, capture_output=True)
    bare.run("cp", "--recursive", f"{tree}/.", "/")
    bare.run("systemd-sysusers")
    bare.run("systemd-tmpfiles", "--create")
    bare.run("systemctl", "daemon-reload")
    serve_demo(bare, "/usr/local/bin/cc-textfile")
    configure(bare)
    assert (
        bare.run("systemd-analyze", "verify", "cc-textfile.service", "cc-textfiled.service", "cc-textfile.timer") == ""
    )
    bare.run("systemctl", "start", "cc-textfile.service")
    assert "cc_textfile_poll_success 1" in served(bare)


def test_lintian_finds_no_error(package: Path) -> None:
    """Debian's own check of packages."""
    if shutil.which("lintian") is None:
        pytest.skip("lintian not installed")
    checked = subprocess.run(
        ["lintian", "--fail-on=error", "--no-cfg", package],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
