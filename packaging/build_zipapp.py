"""Builds the whole program, with all that it needs, as one file that Python starts.

``build_zipapp.py TARGET`` writes the file; ``build_zipapp.py --lock`` brings the list of wheels up to date first.

Every dependency has a wheel in pure Python. Those alone are taken, each known by its checksum, and put together as they
are: entries sorted, dated by SOURCE_DATE_EPOCH or else the last commit, and so the same bytes each time. There is no
compiled code in it: that would tie the file to one release of Python, to save a quarter of a second a start.
"""

import argparse
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).resolve().parent.parent
LOCK: Final = SOURCE / "packaging" / "wheels.txt"
SHEBANG: Final = b"#!/usr/bin/env python3\n"
PURE: Final = ("--only-binary=:all:", "--platform=any", "--implementation=py", "--abi=none", "--python-version=3.11")
MAIN: Final = """\
import sys

if sys.version_info < (3, 11):
    sys.exit("cc-textfile needs Python 3.11 or later, and this is %d.%d" % sys.version_info[:2])

from cc_textfile.__main__ import main

sys.exit(main())
"""


def download(folder: Path, *wanted: str) -> list[Path]:
    """Fetch the wheels that pip finds for `wanted`, sorted by name."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", f"--dest={folder}"]
    subprocess.run([*pip, *PURE, *wanted], check=True)
    return sorted(folder.glob("*.whl"))


def lock() -> None:
    """Write down the newest wheels that pyproject.toml allows, and their checksums."""
    dependencies = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]["dependencies"]
    with tempfile.TemporaryDirectory() as folder:
        lines = [
            "# What the one-file program holds beside its own code. Made by: packaging/build_zipapp.py --lock",
            *(
                "{}=={} --hash=sha256:{}".format(
                    *wheel.name.split("-")[:2], hashlib.sha256(wheel.read_bytes()).hexdigest()
                )
                for wheel in download(Path(folder), *dependencies)
            ),
        ]
    LOCK.write_text("\n".join(lines) + "\n")


def build_time() -> int:
    """Return the second since the epoch that everything in the file is dated by."""
    stated = (
        os.environ.get("SOURCE_DATE_EPOCH")
        or subprocess.run(
            ["git", "-C", SOURCE, "log", "-1", "--format=%ct"], check=True, capture_output=True, text=True
        ).stdout
    )
    return int(stated)


def entries(wheels: list[Path]) -> dict[str, bytes]:
    """Return every file of the program by its name within."""
    own = SOURCE / "cc_textfile"
    found = {
        path.relative_to(SOURCE).as_posix(): path.read_bytes()
        for path in own.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found["__main__.py"] = MAIN.encode()
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            found.update({name: archive.read(name) for name in archive.namelist() if not name.endswith("/")})
    return found


def program(contents: dict[str, bytes], when: int) -> bytes:
    """Return the program: a zip file behind the line that makes it a command.

    The zip counts from its own beginning, so that another line, of any length, can be put in the place of the first.
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in sorted(contents.items()):
            entry = zipfile.ZipInfo(name, time.gmtime(when)[:6])
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED, 9)
    return SHEBANG + file.getvalue()


def build(target: Path) -> None:
    """Write the program to `target`, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        wheels = download(Path(folder), "--no-deps", "--require-hashes", f"--requirement={LOCK}")
        unfinished = Path(folder, target.name)
        unfinished.write_bytes(program(entries(wheels), build_time()))
        unfinished.chmod(0o755)
        shutil.move(unfinished, target)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", nargs="?", type=Path, help="the file to write")
    parser.add_argument("--lock", action="store_true", help="bring packaging/wheels.txt up to date first")
    arguments = parser.parse_args()
    if arguments.lock:
        lock()
    if arguments.target:
        build(arguments.target)
