"""Containers to test with: podman with a storage of its own, and the images that cannot be pulled here.

The base image is Debian 13, from the root of test machines, under the name that the Containerfile asks for.
"""

import atexit
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import PATIENCE, ROOT, environment
from tests.machine import root

BASE: Final = "docker.io/library/python:3.13-slim"
NODE_EXPORTER: Final = "quay.io/prometheus/node-exporter:v1.9.1"
IMAGE: Final = "localhost/cc-textfile"
WITHOUT_SHELL_IMAGE: Final = "localhost/cc-textfile-without-shell"
# It complains of health checks that nobody runs where there is no systemd.
PODMAN: Final = ("podman", "--log-level=fatal")
TOOLS: Final = ("podman", "runc", "debootstrap", "unshare", "tar")
UNUSED: Final = (
    *("./usr/share/doc", "./usr/share/man", "./usr/share/locale", "./usr/lib/systemd"),
    *("./var/cache", "./var/lib/apt", "./var/lib/dpkg", "./dev", "./proc", "./sys"),
)
PYTHON: Final = """\
FROM debian
# As in the official image, pip is there. It finds here what it would download.
COPY . /
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels
"""

WITHOUT_SHELL: Final = f"""\
FROM {IMAGE}
USER 0
RUN rm -f /bin/sh /bin/bash /bin/dash /bin/rbash
USER 65532:65532
"""


def missing() -> str | None:
    """Return what stands in the way of running a container here, in words; None if nothing does."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    return None if os.geteuid() == 0 else "not root"


def documented(mark: str) -> str:
    """Return the commands that follow a mark in the document on installing."""
    text = (ROOT / "docs" / "install.md").read_text()
    found = re.search(rf"<!-- {mark}:[^>]*-->\n```sh\n(.*?)```", text, re.DOTALL)
    assert found, f"docs/install.md has no commands {mark}"
    return found[1]


class Podman:
    """Podman with a storage in this folder, and no network but loopback."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # A machine that may not raise limits cannot start containers with the limits that podman would give them.
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        (folder / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]\nnetns = "none"\n'
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            f'tmp_dir = "{folder}/events"\nvolume_path = "{folder}/volumes"\n'
        )
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/storage"\nrunroot = "{folder}/run"\n'
        )
        self.env = environment(
            CONTAINERS_CONF=str(folder / "containers.conf"),
            CONTAINERS_STORAGE_CONF=str(folder / "storage.conf"),
            BUILDAH_ISOLATION="chroot",
        )

    def try_run(self, *command: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run podman, however it ends."""
        return subprocess.run([*PODMAN, *command], env=self.env, capture_output=True, text=True, check=False, **options)

    def __call__(self, *command: str, **options: Any) -> str:
        """Run podman, and return what it says; raises `AssertionError` with that when it fails."""
        done = self.try_run(*command, timeout=10 * PATIENCE, **options)
        assert done.returncode == 0, f"podman {' '.join(command)} exited {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def config(self, image: str) -> dict[str, Any]:
        """Return the configuration of an image."""
        found = json.loads(self("image", "inspect", image))[0]
        return {"Healthcheck": found.get("Healthcheck"), **found["Config"]}

    def log(self, container: str) -> str:
        """Return what a container has said."""
        done = self.try_run("logs", container)
        return done.stdout + done.stderr

    def wait_for_log(self, container: str, text: str) -> None:
        """Follow what a container says until the text has come."""
        command = ["timeout", str(PATIENCE), *PODMAN, "logs", "--follow", container]
        said = []
        with subprocess.Popen(
            command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout
            for line in process.stdout:
                said.append(line)
                if text in line:
                    process.terminate()
                    return
        message = f"{container} never said {text!r}:\n{''.join(said)}"
        raise AssertionError(message)

    def build(self, containerfile: str, name: str, context: Path) -> None:
        """Build an image from these lines and the files of a folder."""
        self(
            "build",
            "--format=docker",
            "--quiet",
            "--pull=never",
            f"--tag={name}",
            "--file=-",
            str(context),
            input=containerfile,
        )

    def import_root(self, release_root: Path, name: str) -> None:
        """Make an image of a root file system, without what no test needs."""
        exclude = [f"--exclude={path}" for path in UNUSED]
        with subprocess.Popen(
            ["tar", "--create", *exclude, f"--directory={release_root}", "."], stdout=subprocess.PIPE
        ) as tar:
            self("import", "-", name, stdin=tar.stdout)
        assert tar.returncode == 0

    @contextmanager
    def container(self, *arguments: str) -> Iterator[str]:
        """Start a container with these arguments of `podman run`, and remove it at the end; yields its id."""
        started = self("run", "--detach", *arguments)
        try:
            yield started
        finally:
            self("rm", "--force", "--time=0", "--volumes", started)

    def remove_all(self) -> None:
        """Leave nothing behind, neither files nor mounts."""
        self("rm", "--all", "--force", "--time=0", "--volumes")
        for mount in sorted(Path("/proc/self/mounts").read_text().splitlines(), reverse=True):
            place = mount.split()[1]
            if place.startswith(f"{self._folder}/"):
                subprocess.run(["umount", "--lazy", place], check=False)
        shutil.rmtree(self._folder)


@cache
def engine() -> Podman:
    """Return podman with the images that tests need, that of this source too; skips the test where there is none.

    Made at the first call, in less than a minute, and removed when Python ends.
    """
    if reason := missing():
        pytest.skip(f"no container can be run here: {reason}")
    folder = Path(tempfile.mkdtemp(prefix="cc-textfile-", dir="/var/tmp"))
    made = Podman(folder)
    atexit.register(made.remove_all)
    made.import_root(root("trixie"), "debian")
    base = folder / "base"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    packages = base / "usr/local/lib/python3.13/dist-packages"
    subprocess.run([*pip, "install", f"--target={packages}", "pip"], check=True, capture_output=True)
    wheels = [f"--dest={base}/wheels", "--no-deps", f"--requirement={ROOT}/packaging/wheels.txt"]
    subprocess.run([*pip, "download", *wheels], check=True, capture_output=True)
    made.build(PYTHON, BASE, base)
    made.build(f'FROM {BASE}\nENTRYPOINT ["/usr/bin/prometheus-node-exporter"]\n', NODE_EXPORTER, base)
    shutil.rmtree(base)
    flags = "IMAGE_FLAGS=--pull=never --quiet"
    done = subprocess.run(
        ["make", "--silent", "image", "ENGINE=podman --log-level=fatal", flags, f"IMAGE={IMAGE}"],
        cwd=ROOT,
        env=made.env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    made.build(WITHOUT_SHELL, WITHOUT_SHELL_IMAGE, folder / "events")
    return made
