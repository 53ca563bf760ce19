"""What is built to be taken elsewhere: sdist and wheel, and the newest Python of the classifiers."""

import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from email import message_from_bytes
from pathlib import Path

import pytest

from tests.conftest import ROOT, environment
from tests.containers import documented
from tests.test_container import DEBIAN_PYTHON

# What is built lies in one folder, dist/, and cannot be built side by side.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dist")]


def run(*command: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, env=env, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def dist() -> Path:
    """Build both, and let twine look at what PyPI would show."""
    run("make", "--silent", "dist", cwd=ROOT)
    return ROOT / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("cc_textfile-*.whl")
    return found


@pytest.fixture(scope="module")
def sdist(dist: Path) -> Path:
    (found,) = dist.glob("cc_textfile-*.tar.gz")
    return found


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Download what the program needs, once."""
    folder = tmp_path_factory.mktemp("wheels")
    requirements = f"--requirement={ROOT}/packaging/wheels.txt"
    run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"--dest={folder}", requirements)
    return folder


def files(folder: str) -> set[str]:
    """Return the files of the source that git does not ignore."""
    found = run("git", "ls-files", "--cached", "--others", "--exclude-standard", folder, cwd=ROOT).splitlines()
    return {name for name in found if (ROOT / name).exists()}


def test_the_wheel_has_the_program_and_nothing_else(wheel: Path) -> None:
    """The package, and what every wheel has."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    program = {name for name in names if name.startswith("cc_textfile/")}
    assert program == files("cc_textfile")
    information = {name.partition(".dist-info/")[2] for name in names - program}
    assert information == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE"}


def test_the_sdist_has_the_source(sdist: Path) -> None:
    """All of it except for hidden folders: caches, and what only this project's own CI needs."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names == {name for name in files(".") if not re.match(r"\.[^/]+/", name)} | {"PKG-INFO"}


def test_pypi_can_show_links_and_versions(wheel: Path) -> None:
    """Links to the project, and each version of Python from the oldest one that is allowed to the newest tested."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    assert {link.partition(",")[0] for link in metadata.get_all("Project-URL", [])} >= {"Homepage", "Documentation"}
    versions = [text.rpartition(" ")[2] for text in metadata.get_all("Classifier", []) if ":: Python :: 3." in text]
    assert metadata["Requires-Python"] == f">={versions[0]}"
    assert versions[-1] == DEBIAN_PYTHON


def test_built_from_the_sdist_the_bytes_are_the_same(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    """In another folder, at another time and with another umask: who has the sdist can check the wheel, and itself."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    epoch = run("make", "--silent", "--eval=epoch: ; @echo $(SOURCE_DATE_EPOCH)", "epoch", cwd=ROOT).strip()
    umask = os.umask(0o077)
    try:
        build = (sys.executable, "-m", "build", "--installer=uv", "--outdir", tmp_path / "again", source)
        run(*build, env=environment(SOURCE_DATE_EPOCH=epoch))
    finally:
        os.umask(umask)
    for built in (sdist, wheel):
        assert (tmp_path / "again" / built.name).read_bytes() == built.read_bytes()


def test_pip_installs_the_sdist(sdist: Path, wheels: Path, tmp_path: Path) -> None:
    """Into an empty environment, where the demo then polls and counts."""
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    pip = (tmp_path / "venv" / "bin" / "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, f"--find-links={wheels}", sdist)
    said = run(tmp_path / "venv" / "bin" / "cc-textfile", "demo", cwd=tmp_path, env=environment())
    assert "counter" in said


@pytest.mark.parametrize("tool", ["pipx", "uv", "python3"])
def test_the_documented_commands(tool: str, wheel: Path, wheels: Path, tmp_path: Path) -> None:
    """pipx, uv and pip install the wheel, and its command is there; pipx and uvx run it without an installation."""
    (tmp_path / "dist").symlink_to(wheel.parent)
    sources = {
        f"{name}_{setting}": value
        for name in ("UV", "PIP")
        for setting, value in {"NO_INDEX": "1", "FIND_LINKS": str(wheels)}.items()
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = environment(
        **sources, HOME=str(tmp_path), PATH=path, UV_PYTHON=sys.executable, PIPX_DEFAULT_PYTHON=sys.executable
    )
    lines = f"{documented('python')}{documented('python trial')}".splitlines()
    mine = [line for line in lines if line.startswith(tool)]
    assert mine
    for line in mine:
        said = run("bash", "-c", line, cwd=tmp_path, env=env)
        if "demo" in line:
            assert "counter" in said
    installed = tmp_path / ("venv/bin" if tool == "python3" else ".local/bin") / "cc-textfile"
    assert run(installed, "--version").startswith("cc-textfile, version ")
