"""A run that is killed leaves the old file or the new one, whole; the next run sweeps what it left, no more."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cc_textfile.output import Textfile
from tests import writer
from tests.conftest import ROOT, Program, get, tool

FOREIGN = (
    ".other.prom.cc-textfile.1.2",
    "other.prom",
    "a.prom.20240101.1",
    ".a.prom.cc-textfile.old",
    "a.prom.cc-textfile",
)


def generations(text: str) -> Counter[float]:
    return Counter(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "cc_textfile_generation"
    )


@pytest.fixture
def textfile(tmp_path: Path) -> Iterator[Path]:
    """Write a first generation into a folder where others have files, too, which all stay as they are."""
    for name in FOREIGN:
        (tmp_path / name).write_text("# somebody else's\n")
    path = tmp_path / "a.prom"
    writer.write(Textfile(path), 1)
    yield path
    with Textfile(path).held():
        assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["a.prom", *FOREIGN])
    assert all((tmp_path / name).read_text() == "# somebody else's\n" for name in FOREIGN)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # the child does nothing but write
def test_killed_at_random_moments(textfile: Path, node_exporter: Callable[[Path], str]) -> None:
    """Through three hundred kills, node_exporter sees whole generations, one at a time, and never an error."""
    url = node_exporter(textfile.parent)
    stop = threading.Event()
    wrong: list[str] = []
    scrapes = 0

    def scrape() -> None:
        nonlocal scrapes
        while not stop.is_set():
            served = get(url)
            scrapes += 1
            if "node_textfile_scrape_error 0" not in served or list(generations(served).values()) != [writer.SERIES]:
                wrong.append(served)

    scraper = threading.Thread(target=scrape)
    scraper.start()
    killed_while_writing = 0
    for _ in range(300):
        child = os.fork()
        if not child:
            # Not through pytest's way out, whatever happens: this is the writer's process now.
            try:
                with Textfile(textfile).held():
                    for number in range(1_000_000):
                        writer.write(Textfile(textfile), number)
            finally:
                os._exit(1)
        # The kill comes at any point of the few milliseconds that a write takes; the clock is the dice here.
        threading.Event().wait(random.uniform(0.001, 0.02))  # noqa: S311
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed_while_writing += len(list(textfile.parent.iterdir())) > len(FOREIGN) + 1
    stop.set()
    scraper.join()
    assert not wrong, wrong[0]
    assert scrapes > 10
    assert killed_while_writing > 10


CALLS = "openat,open,write,close,fsync,chmod,fchmodat,fchmod,rename,renameat,renameat2,unlink,unlinkat,getdents64"


def traced(textfile: Path, start: Callable[..., Program], *options: str) -> str:
    """Let a process write one generation under strace, from just before the write; returns what strace saw."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.writer", str(textfile)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        # Coverage's own writes are not the program's.
        env={k: v for k, v in os.environ.items() if not k.startswith("COV")},
    )
    assert process.stderr
    assert process.stdin
    assert process.stderr.readline() == b"ready\n"
    log = textfile.parent.parent / "strace.log"
    strace = start(tool("strace"), "-f", "-o", str(log), "-e", f"trace={CALLS}", *options, "-p", str(process.pid))
    strace.line("attached")
    process.stdin.write(b"\n")
    process.stdin.close()
    process.stderr.close()
    process.wait()
    strace.end(None)
    return log.read_text()


@pytest.mark.slow
def test_killed_at_each_system_call(tmp_path_factory: pytest.TempPathFactory, start: Callable[..., Program]) -> None:
    """Whichever call of the write is the last one, the file is a whole generation, and the next run sweeps."""
    folder = tmp_path_factory.mktemp("killed") / "folder"
    folder.mkdir()
    textfile = folder / "a.prom"
    writer.write(Textfile(textfile), 1)
    calls = Counter(re.findall(r"^\d+ +(\w+)\(", traced(textfile, start), re.MULTILINE))
    assert calls["rename"] >= 1
    seen = set()
    for call, times in calls.items():
        for nth in range(1, times + 1):
            with Textfile(textfile).held():
                writer.write(Textfile(textfile), 1)
            log = traced(textfile, start, "-e", f"inject={call}:signal=SIGKILL:when={nth}")
            assert "killed by SIGKILL" in log, f"{call} number {nth} was not reached"
            (generation,) = generations(textfile.read_text()).items()
            assert generation in ((1, writer.SERIES), (2, writer.SERIES)), f"killed at {call} number {nth}"
            seen.add(generation[0])
            with Textfile(textfile).held():
                assert [file.name for file in folder.iterdir()] == ["a.prom"], f"litter of {call} number {nth}"
    assert seen == {1, 2}


def test_the_new_file_is_on_the_disk_before_it_has_the_name(tmp_path: Path, start: Callable[..., Program]) -> None:
    """A power cut after a rename of what is not on the disk yet would leave an empty file: fsync comes first."""
    folder = tmp_path / "folder"
    folder.mkdir()
    log = traced(folder / "a.prom", start)
    assert log.index("fsync(") < log.index(f'"{folder}/a.prom") = 0')
