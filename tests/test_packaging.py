"""The one file, the package and the units, as they are built; what they do on a host is in test_host."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cc_textfile.settings import SETTINGS
from tests.conftest import ROOT, environment, project

# What is built lies in one folder, dist/, and cannot be built side by side.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dist")]

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
UNITS = ("cc-textfile.service", "cc-textfile@.service", "cc-textfiled.service", "cc-textfiled@.service")


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("dist") / "cc-textfile.pyz")


def built(target: Path) -> Path:
    subprocess.run([sys.executable, "packaging/build_zipapp.py", target], cwd=ROOT, check=True, capture_output=True)
    return target


def made(target: str) -> None:
    subprocess.run(["make", "--silent", target], cwd=ROOT, check=True, capture_output=True)


def pythons() -> list[str]:
    """Return the Pythons here that the program is made for, and that start."""
    found = [path for version in VERSIONS if (path := shutil.which(f"python{version}"))]
    works = [
        path for path in found if subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0
    ]
    return works or [sys.executable]


@pytest.mark.parametrize("python", pythons())
def test_one_file_is_the_whole_program(one_file: Path, tmp_path: Path, python: str) -> None:
    """In an empty folder, without site-packages: the demo polls and writes its file, and leaves nothing else."""
    folder = tmp_path / "empty"
    folder.mkdir()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    ended = subprocess.run(
        [python, "-I", "-S", one_file, "demo"],
        cwd=folder,
        env=environment(TMPDIR=str(temporary)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert "traffic" in ended.stdout
    assert [path.name for path in folder.iterdir()] == ["demo-textfile"]
    assert (folder / "demo-textfile" / "cc_textfile.prom").exists()
    assert not list(temporary.iterdir())


def test_one_file_starts_by_its_name(one_file: Path) -> None:
    """It is executable, and behind another first line it still is: so it is installed."""
    other = one_file.with_name("cc-textfile")
    interpreter = f"{sys.executable} -I"
    subprocess.run([sys.executable, "-m", "zipapp", one_file, "--python", interpreter, "--output", other], check=True)
    for path in (one_file, other):
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
        assert said.startswith("cc-textfile, version ")


def test_an_old_python_is_told_so(one_file: Path) -> None:
    """One line instead of a traceback; the check itself has to be read by any Python 3."""
    with zipfile.ZipFile(one_file) as archive:
        main = archive.read("__main__.py").decode()
    old = main.replace("sys.version_info < (3, 11)", "sys.version_info < (4,)")
    assert old != main
    said = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True, check=False)
    assert said.returncode == 1
    assert re.fullmatch(r"cc-textfile needs Python 3\.11 or later, and this is 3\.\d+\n", said.stderr)


def test_one_file_is_pure_and_in_order(one_file: Path) -> None:
    """No compiled code, which would tie it to a machine or a Python; names sorted, for the same bytes each time."""
    with zipfile.ZipFile(one_file) as archive:
        names = archive.namelist()
        assert not [name for name in names if archive.read(name).startswith(b"\x7fELF")]
    assert names == sorted(names)
    assert not {Path(name).suffix for name in names} & {".so", ".pyd", ".pyc"}


def test_what_is_in_the_file_is_licensed_and_what_the_program_asks_for(one_file: Path) -> None:
    """The list of wheels has every dependency of pyproject.toml, and the package's copyright file names them all."""
    wheels = re.findall(r"^(\S+?)==", (ROOT / "packaging" / "wheels.txt").read_text(), re.MULTILINE)
    asked = project()["dependencies"]
    assert {re.split(r"[<>=!~]", dependency)[0] for dependency in asked} <= set(wheels)
    licensed = re.findall(r"^Files: (\w+)/\*$", (ROOT / "packaging" / "debian" / "copyright").read_text(), re.MULTILINE)
    assert licensed == sorted(wheels)
    with zipfile.ZipFile(one_file) as archive:
        assert {name.split("/")[0] for name in archive.namelist() if name.endswith("/__init__.py")} == {
            "cc_textfile",
            *wheels,
        }


def test_built_twice_the_bytes_are_the_same(one_file: Path, tmp_path: Path) -> None:
    """The one file, and the package, too."""
    assert built(tmp_path / "again.pyz").read_bytes() == one_file.read_bytes()
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb not installed")
    bytes_of = []
    for _ in range(2):
        made("deb")
        (package,) = (ROOT / "dist").glob("cc-textfile_*_all.deb")
        bytes_of.append(package.read_bytes())
    assert bytes_of[0] == bytes_of[1]


def test_the_man_page_tells_of_each_setting() -> None:
    """It is made from the commands' help: each flag and variable is there."""
    made("build/cc-textfile.1")
    page = (ROOT / "build" / "cc-textfile.1").read_text().replace("\\-", "-")
    for setting in SETTINGS:
        assert setting.variable in page
        for flag in (setting.flag or "").split("/"):
            assert flag in page
    assert ".SH NAME\ncc-textfile - ChinaCache CDN statistics for Prometheus\n" in page


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_for_the_installed_command(shell: str) -> None:
    """The script asks `cc-textfile`, by that name, for what can follow."""
    made(f"build/completion.{shell}")
    script = (ROOT / "build" / f"completion.{shell}").read_text()
    assert f"_CC_TEXTFILE_COMPLETE={shell}_complete" in script


def test_bash_completes_commands_and_flags(one_file: Path, tmp_path: Path) -> None:
    """What bash shows at a Tab."""
    made("build/completion.bash")
    (tmp_path / "cc-textfile").symlink_to(one_file)
    script = (
        f"source {ROOT}/build/completion.bash; COMP_WORDS=(cc-textfile run --password) COMP_CWORD=2;"
        " _cc_textfile_completion cc-textfile; echo ${COMPREPLY[@]}"
    )
    env = environment(PATH=f"{tmp_path}:{os.environ['PATH']}")
    said = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=True)
    assert said.stdout == "--password-file\n", said.stderr


@pytest.mark.parametrize(("flag", "expected"), [("--password-file", "file"), ("--log-level", "warning")])
def test_bash_completes_paths_and_choices(one_file: Path, flag: str, expected: str) -> None:
    """After a flag that takes a file, bash completes paths; after one that takes a word, the words."""
    env = environment(_CC_TEXTFILE_COMPLETE="bash_complete", COMP_WORDS=f"cc-textfile run {flag} ", COMP_CWORD="3")
    shown = subprocess.run([one_file], env=env, capture_output=True, text=True, check=True).stdout
    assert expected in re.split(r"[\n,]", shown)


def test_services_say_in_common_what_they_have_in_common() -> None:
    """The sandbox and the user stand in one file, and no service has a line of its own about them."""
    common = re.findall(r"^(\w+)=", (ROOT / "systemd" / "common.conf").read_text(), re.MULTILINE)
    assert "ProtectSystem" in common
    may_add = {"After", "Environment"}
    for unit in UNITS:
        own = re.findall(r"^(\w+)=", (ROOT / "systemd" / unit).read_text(), re.MULTILINE)
        assert not set(own) & set(common) - may_add, unit


@pytest.mark.parametrize("unit", UNITS)
def test_each_service_has_a_text_file_a_ledger_and_a_label_of_its_own(unit: str) -> None:
    """Timer and daemon of an account share them; no two accounts do."""
    account = "-%i" if "@" in unit else ""
    values = re.findall(r"^Environment=(\w+)=(\S+)", (ROOT / "systemd" / unit).read_text(), re.MULTILINE)
    expected = {
        ("CC_TEXTFILE_PATH", f"/var/lib/cc-textfile/cc-textfile{account}.prom"),
        ("CC_TEXTFILE_LEDGER", f"/var/lib/cc-textfile/cc-textfile{account}.ledger"),
    }
    expected |= {("CC_TEXTFILE_ACCOUNT", "%i")} if account else set()
    expected |= {("CHINACACHE_INTERVAL", "5m")} if "filed" in unit else set()
    assert set(values) == expected


def test_the_package_has_what_the_documents_refer_to() -> None:
    """The documents and all of `monitoring/` but scripts, pictures and tests are in the package."""
    made("deb")
    (package,) = (ROOT / "dist").glob("cc-textfile_*_all.deb")
    listed = subprocess.run(["dpkg-deb", "--contents", package], check=True, capture_output=True, text=True).stdout
    doc = "./usr/share/doc/cc-textfile/"
    for path in (*ROOT.glob("docs/*.md"), ROOT / "README.md"):
        assert f"{doc}{path.name}\n" in listed
    for path in (path for suffix in ("yml", "json") for path in ROOT.glob(f"monitoring/*.{suffix}")):
        assert f"{doc}{path.relative_to(ROOT)}\n" in listed
    assert ".py\n" not in listed


def test_the_settings_file_explains_the_ledger() -> None:
    """Where it is, what it is worth, and what removing the package does to it."""
    text = (ROOT / "packaging" / "cc-textfile.default").read_text()
    for words in ("CC_TEXTFILE_LEDGER", "/var/lib/cc-textfile/cc-textfile.ledger", "keeps it", "deletes it"):
        assert words in text
    # Only what has to be filled in or differs from the defaults is set.
    assert re.findall(r"^(\w+)=", text, re.MULTILINE) == [
        "CHINACACHE_USER",
        "CHINACACHE_CHANNEL_IDS",
        "CHINACACHE_CA_FILE",
    ]


def test_a_change_in_a_sub_package_makes_the_one_file_anew() -> None:
    """Every module is a source of the program for make, also those in folders."""
    listed = subprocess.run(
        ["make", "--print-data-base", "--dry-run", "zipapp"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    (sources,) = re.findall(r"^dist/cc-textfile\.pyz: (.*)$", listed, re.MULTILINE)
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "cc_textfile").rglob("*.py")}
    assert modules <= set(sources.split())


def test_shell_scripts_are_clean() -> None:
    """What the package runs and what builds it pass shellcheck."""
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck not installed")
    scripts = [path for path in ROOT.glob("packaging/**/*") if path.is_file() and path.read_bytes()[:9] == b"#!/bin/sh"]
    scripts += [path for path in ROOT.glob("systemd/*") if path.is_file() and path.read_bytes()[:9] == b"#!/bin/sh"]
    assert len(scripts) >= 7
    checked = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
