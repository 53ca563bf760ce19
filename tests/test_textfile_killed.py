"""A run that is killed leaves the old file or the new one, whole; the next run sweeps what it left, no more."""

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cc_textfile.output.textfile import Textfile
from tests.conftest import ROOT, Program, tool
from tests.writer import SERIES, generation

CALLS = "open,openat,mkdir,mkdirat,write,fchmod,fsync,close,rename,renameat,renameat2,unlink,unlinkat,rmdir,getdents64"


@pytest.fixture
def textfile(tmp_path: Path) -> Textfile:
    """Write a first generation, in a folder of its own."""
    (tmp_path / "folder").mkdir()
    textfile = Textfile(tmp_path / "folder" / "a.prom")
    textfile.deliver(generation(1))
    return textfile


def traced(folder: Path, start: Callable[..., Program], *options: str) -> str:
    """Let a process write the second generation under strace, from just before the write; returns what strace saw."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.writer", str(folder / "a.prom")],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        # Coverage's own writes are not the program's.
        env={k: v for k, v in os.environ.items() if not k.startswith("COV")},
    )
    assert process.stderr
    assert process.stdin
    assert process.stderr.readline() == b"ready\n"
    log = folder.parent / "strace.log"
    strace = start(tool("strace"), "-f", "-y", "-o", str(log), "-e", f"trace={CALLS}", *options, "-p", str(process.pid))
    strace.line("attached")
    process.stdin.write(b"\n")
    process.stdin.close()
    process.stderr.close()
    process.wait()
    strace.end(None)
    return log.read_text()


@pytest.mark.slow
def test_killed_at_each_system_call(tmp_path: Path, textfile: Textfile, start: Callable[..., Program]) -> None:
    """Whichever call of the write is the last one, the file is a whole generation, and the next run sweeps."""
    folder = tmp_path / "folder"
    calls = Counter(re.findall(r"^\d+ +(\w+)\(", traced(folder, start), re.MULTILINE))
    assert {"mkdir", "fchmod", "fsync", "rename", "rmdir"} <= calls.keys()
    seen = set()
    for call, times in calls.items():
        for nth in range(1, times + 1):
            textfile.deliver(generation(1))
            log = traced(folder, start, "-e", f"inject={call}:signal=SIGKILL:when={nth}")
            assert "killed by SIGKILL" in log, f"{call} number {nth} was not reached"
            (family,) = text_string_to_metric_families((folder / "a.prom").read_text())
            assert len(family.samples) == SERIES
            (number,) = {sample.value for sample in family.samples}
            seen.add(number)
            with textfile.locked():
                assert [file.name for file in folder.iterdir()] == ["a.prom"], f"left by a kill at {call} number {nth}"
    assert seen == {1, 2}


def test_the_new_file_is_on_the_disk_before_it_has_the_name(
    tmp_path: Path, textfile: Textfile, start: Callable[..., Program]
) -> None:
    """A power cut after a rename of what is not on the disk yet would leave an empty file: fsync comes first."""
    del textfile
    folder = tmp_path / "folder"
    log = traced(folder, start)
    assert 0 < log.index("fsync(") < log.index(f'"{folder}/a.prom") = 0')


@pytest.mark.parametrize(
    "name",
    ["other.prom", ".a.prom.cc-textfile", ".a.prom.x.cc-textfile", ".b.prom.abcdefgh.cc-textfile", "a.prom.abcdefgh"],
)
def test_what_is_not_left_by_this_program_is_not_swept(name: str, tmp_path: Path, textfile: Textfile) -> None:
    """Files and folders of others stay as they are, those of other text files too."""
    folder = tmp_path / "folder" / name
    folder.mkdir(mode=0o700)
    (folder / "x").touch()
    with textfile.locked():
        assert (folder / "x").exists()
