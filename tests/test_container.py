"""The container image, built from this source and run by podman as a user would run it.

All containers have a read-only root file system. Most run an image from which every shell was removed.
"""

import os
import platform
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cc_textfile.demo import portal as demo
from tests import containers
from tests.conftest import ROOT, eventually, get, project
from tests.containers import IMAGE, WITHOUT_SHELL_IMAGE, Podman, documented

STATE = "/var/lib/cc-textfile"
USER = 65532
SECONDS_TO_STOP = "--time=5"
"""After these podman would kill the process, and its exit status would be another."""

DEBIAN_PYTHON = "3.13"
# The modules that need neither other servers nor tools, nor rights on a host.
UNIT_TESTS = (
    *("responses", "translations", "window", "client", "transport"),
    *("settings", "logs", "poll", "metrics", "golden", "report", "demo"),
)
TEST_DEPENDENCIES = ("Babel", "hypothesis", "pytest", "PyYAML", "trustme")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("containers")]  # one process makes the images


@pytest.fixture
def podman() -> Podman:
    return containers.engine()


def settings(portal: demo.DemoPortal, **variables: str) -> list[str]:
    """Return the flags of `podman run` for a read-only container with an account of the demo portal."""
    account = {
        "CHINACACHE_USER": demo.USER,
        "CHINACACHE_PASS": demo.PASSWORD,
        "CHINACACHE_CHANNEL_IDS": ",".join(demo.CHANNELS),
        "CHINACACHE_URL": portal.url,
    }
    return [
        "--read-only",
        "--network=host",
        *(f"--env={name}={value}" for name, value in (account | variables).items()),
    ]


def test_the_image_says_how_it_wants_to_be_run(podman: Podman) -> None:
    """A numeric user that is not root, no shell in any command, a volume, SIGTERM, and a health check."""
    config = podman.config(IMAGE)
    assert config["User"] == f"{USER}:{USER}"
    assert config["Entrypoint"][0] == "python3"
    assert config["Cmd"] == ["run"]
    assert list(config["Volumes"]) == [STATE]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"][:2] == ["CMD", "python3"]


def test_without_settings_it_says_what_is_missing(podman: Podman) -> None:
    """Exit status 2, and one line for each setting that has to be given; an output is set by the image."""
    ended = podman.try_run("run", "--rm", "--read-only", WITHOUT_SHELL_IMAGE)
    assert ended.returncode == 2
    missing = [line for line in ended.stderr.splitlines() if line.endswith(" is missing")]
    assert len(missing) == 3
    for variable in ("CHINACACHE_USER", "CHINACACHE_PASS", "CHINACACHE_CHANNEL_IDS"):
        assert any(variable in line for line in missing), ended.stderr


def test_demo(podman: Podman) -> None:
    """The demo polls and counts, in the volume, with no network but loopback, no shell, and nothing else writable."""
    demo_of = ("demo", "--folder", STATE)
    ended = podman.try_run("run", "--rm", "--read-only", "--read-only-tmpfs=false", WITHOUT_SHELL_IMAGE, *demo_of)
    assert ended.returncode == 0, ended.stderr
    assert f"channel {demo.CHANNELS[0]}" in ended.stdout


def test_polls_into_the_volume_and_a_pushgateway(
    podman: Podman, portal: demo.DemoPortal, pushgateway: Callable[[], str]
) -> None:
    """Any node_exporter can read the file, the Pushgateway gets each poll, and the ledger outlives the container."""
    gateway = pushgateway()
    volume = podman("volume", "create")
    folder = Path(podman("volume", "inspect", "--format={{.Mountpoint}}", volume))
    flags = [*settings(portal, PUSHGATEWAY=gateway), f"--volume={volume}:{STATE}"]
    ledgers = []
    for _ in range(2):
        with podman.container(*flags, WITHOUT_SHELL_IMAGE) as poller:
            podman.wait_for_log(poller, "polled 3 channels")
            assert podman.try_run("exec", poller, "cc-textfile", "report").returncode == 0
            podman("stop", SECONDS_TO_STOP, poller)
            assert podman("wait", poller) == "0"
            assert "SIGTERM: stopped" in podman.log(poller)
        text = (folder / "cc-textfile.prom").read_text()
        assert "cc_textfile_ledger_up" in text
        ledgers += [line for line in text.splitlines() if line.startswith("cc_textfile_ledger_created")]
        assert ledgers[0] in text
    assert stat.S_IMODE((folder / "cc-textfile.prom").stat().st_mode) == 0o644
    assert (folder / "cc-textfile.ledger").stat().st_uid == USER
    assert 'job="ChinaCachePush"' in get(f"{gateway}/metrics")


def test_health_is_the_age_of_the_last_poll(podman: Podman, portal: demo.DemoPortal, tmp_path: Path) -> None:
    """Healthy after a poll in which all requests failed too; unhealthy before the first, and three intervals late."""
    os.chown(tmp_path, USER, USER)
    file = tmp_path / "cc-textfile.prom"
    flags = [*settings(portal, CHINACACHE_PASS="wrong"), f"--volume={tmp_path}:{STATE}"]

    def health(poller: str) -> tuple[int, str]:
        check = podman.config(IMAGE)["Healthcheck"]["Test"][1:]
        ended = podman.try_run("exec", poller, *check)
        return ended.returncode, ended.stdout

    with podman.container(*flags, WITHOUT_SHELL_IMAGE) as poller:
        eventually(file.exists)
        status, said = health(poller)
        assert status == 0
        assert "960 s are allowed" in said
        os.utime(file, (0, file.stat().st_mtime - 950))
        assert health(poller)[0] == 0
        assert podman.try_run("healthcheck", "run", poller).returncode == 0
        os.utime(file, (0, file.stat().st_mtime - 20))
        assert health(poller)[0] == 1
        assert podman.try_run("healthcheck", "run", poller).returncode == 1
        file.unlink()
        assert health(poller) == (
            1,
            f"no poll has been delivered: {STATE}/cc-textfile.prom: No such file or directory\n",
        )


def test_sigterm_ends_it_whatever_the_portal_is_doing(podman: Podman) -> None:
    """The program is process 1, for which the kernel ignores what nobody handles."""
    with (
        demo.DemoPortal(fault=lambda *_: "hang").serving() as portal,
        podman.container(*settings(portal), WITHOUT_SHELL_IMAGE) as poller,
    ):
        podman.wait_for_log(poller, "requests in a poll")
        podman("stop", SECONDS_TO_STOP, poller)
        assert podman("wait", poller) == "0"


def test_a_volume_that_cannot_be_written_is_named(podman: Podman, portal: demo.DemoPortal, tmp_path: Path) -> None:
    """The folder of another user is mounted: which user must be able to write, and where."""
    tmp_path.chmod(0o755)
    flags = [*settings(portal, CHINACACHE_INTERVAL=""), f"--volume={tmp_path}:{STATE}"]
    ended = podman.try_run("run", "--rm", *flags, WITHOUT_SHELL_IMAGE)
    assert ended.returncode == 1
    for fault in ("cc-textfile.ledger cannot be used", "cc-textfile.prom cannot be written"):
        assert re.search(rf"{STATE}/{fault}: Permission denied \(.* setfacl -m u:{USER}:rwx {STATE}\)", ended.stderr)


def test_nothing_but_the_program_is_copied_into_the_image() -> None:
    """The engines are given what the Containerfile copies: no other file of the project changes the image."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    given = {line[1:] for line in ignored if line.startswith("!")}
    lines = (ROOT / "Containerfile").read_text().splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert given == {path for paths in copied for path in paths}


def test_what_the_image_sets_is_documented(podman: Podman) -> None:
    """The table has each variable of ours, and its value."""
    table = (ROOT / "docs" / "install.md").read_text().partition("<!-- container defaults:")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `(.+)` \|$", table, re.MULTILINE))
    variables = dict(line.split("=", 1) for line in podman.config(IMAGE)["Env"])
    base = dict(line.split("=", 1) for line in podman.config(containers.BASE)["Env"])
    assert rows == {name: value for name, value in variables.items() if name not in base}


def test_the_documented_commands(podman: Podman, portal: demo.DemoPortal, tmp_path: Path) -> None:
    """From the source to the first metric, and the commands to look at it, typed as they are.

    Containers have the host's network here, so that they find the portal.
    """
    config = tmp_path / "containers.conf"
    config.write_text(Path(podman.env["CONTAINERS_CONF"]).read_text().replace('netns = "none"', 'netns = "host"'))
    words = tmp_path / "bin"
    words.mkdir()
    (words / "systemd-ask-password").write_text(f"#!/bin/sh\nprintf %s {demo.PASSWORD}\n")
    (words / "systemd-ask-password").chmod(0o755)
    settings_file = documented("container settings").replace("=me\n", f"={demo.USER}\n")
    (tmp_path / "cc-textfile.env").write_text(f"{settings_file}CHINACACHE_URL={portal.url}\n")
    # make builds in the source's folder, and the rest is typed where the settings are.
    make, _, rest = documented("container").partition("\n")
    assert make == "make image"
    env = podman.env | {"CONTAINERS_CONF": str(config), "PATH": f"{words}:{podman.env['PATH']}"}
    wait = "until podman exec cc-textfile python3 -I /usr/local/bin/cc-textfile-healthy; do sleep 0.1; done\n"
    start, curl = rest[: rest.index("curl")], rest[rest.index("curl") :]
    script = f"set -e -o pipefail\n{start}{wait}{curl}{documented('container log')}"
    try:
        ended = subprocess.run(
            ["timeout", "120", "bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )
    finally:
        podman("rm", "--force", "--time=0", "--ignore", "cc-textfile", "node-exporter")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert 'ChinaCache_metrics_hit_miss_total{HitOrMiss="Hit",channel="1001"}' in ended.stdout
    assert "polled 2 channels" in ended.stderr
    assert re.search(r"^\d{4}-\d\d-\d\d +1002 ", ended.stdout, re.MULTILINE), ended.stdout


def test_unit_tests_pass_with_the_python_of_debian_13(podman: Podman, tmp_path: Path) -> None:
    """In a Debian 13 with its own Python 3.13, where each warning is an error, in the programs that are started too."""
    packages = tmp_path / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"--target={packages}"]
    tags = [f"--platform=manylinux_{glibc}_{platform.machine()}" for glibc in ("2_17", "2_28", "2_34")]
    wanted = [*TEST_DEPENDENCIES, *project()["dependencies"]]
    subprocess.run([*pip, f"--python-version={DEBIAN_PYTHON}", "--only-binary=:all:", *tags, *wanted], check=True)
    variables = {
        "PYTHONPATH": "/source:/packages",
        "PYTHONWARNINGS": "error",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": "/root/hypothesis",
    }
    ended = podman.try_run(
        "run",
        "--rm",
        f"--volume={ROOT}:/source:ro",
        f"--volume={packages}:/packages:ro",
        "--workdir=/source",
        *(f"--env={name}={value}" for name, value in variables.items()),
        containers.BASE,
        *("python3", "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow"),
        *(f"tests/test_{name}.py" for name in UNIT_TESTS),
    )
    assert ended.returncode == 0, ended.stdout[-20_000:] + ended.stderr
