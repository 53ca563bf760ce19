"""Measures the program beside its floors, in turns, and says whether the targets are met: exit status 1 if not.

Prints a table, writes it into `benchmarks/README.md`, and all figures into `benchmarks/last.json`.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.floor import CONCURRENCY
from benchmarks.portal import LATENCY
from cc_textfile.demo.portal import PASSWORD, USER

HERE = Path(__file__).parent
README, LAST = HERE / "README.md", HERE / "last.json"
BEGIN, END = "<!-- table: written by `make bench` -->\n", "<!-- end of table -->\n"

PYTHON = sys.executable
PROGRAM = str(Path(PYTHON).parent / "cc-textfile")
IDLE_SECONDS = 60


class Run(NamedTuple):
    """What a process took, in seconds and megabytes, and what the portal saw of it."""

    wall: float
    cpu: float
    memory: float
    connections: int
    requests: int


class Row(NamedTuple):
    """A line of the table: what the program and its floor took, and the figure that must not be above the target.

    The figure is a ratio, unless it has a unit.
    """

    scene: str
    what: str
    program: str
    floor: str
    figure: float
    target: float
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.figure <= self.target


class Bench:
    """The portal, a folder, and an environment without settings of anybody's."""

    def __init__(self, portal: subprocess.Popen[str], folder: Path) -> None:
        self._portal = portal
        self.folder = folder
        self.textfile = folder / "bench.prom"
        # Bytecode is kept, as it is where a program is installed.
        self.env = {"PATH": os.environ["PATH"], "CHINACACHE_PASS": PASSWORD}
        assert portal.stdout
        where = json.loads(portal.stdout.readline())
        self.url, self.ca = where["url"], where["ca"]
        self.raw: dict[str, list[Run]] = {}

    def run(self, name: str, *command: str) -> Run:
        """Run a command to its end, and keep what it took under the name."""
        started = time.perf_counter()
        with (self.folder / "stderr").open("w+") as stderr:
            process = subprocess.Popen(command, env=self.env, cwd=HERE.parent, stdout=subprocess.DEVNULL, stderr=stderr)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            wall = time.perf_counter() - started
            if process.returncode:
                stderr.seek(0)
                sys.exit(f"{name} failed: {stderr.read()}")
        # A process has its parent's peak to begin with, until it is larger itself: this one here must stay small.
        run = Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, **self.seen())
        self.raw.setdefault(name, []).append(run)
        return run

    def seen(self) -> dict[str, int]:
        """Return what the portal saw since it was last asked."""
        assert self._portal.stdin
        assert self._portal.stdout
        print(file=self._portal.stdin, flush=True)
        seen: dict[str, int] = json.loads(self._portal.stdout.readline())
        return seen

    def poll(self, channels: int, *more: str) -> tuple[str, ...]:
        """Return the command line of the program for so many channels."""
        listed = self.folder / f"{channels}.channels"
        listed.write_text("".join(f"{100000 + n}\n" for n in range(channels)))
        account = ("--user", USER, "--channels-file", str(listed))
        portal = ("--portal-url", self.url, "--ca-file", self.ca)
        return (PROGRAM, "run", *account, *portal, "--textfile", str(self.textfile), *more)

    def ledger_behind(self, channels: int) -> tuple[str, ...]:
        """Return the flags of a ledger whose channels are all behind, so that a poll requests a window for each."""
        path = self.folder / "ledger.sqlite"
        path.unlink(missing_ok=True)
        # What is settled after a day is all before this moment; for the run that is measured, after a minute.
        self.run("prepare", *self.poll(channels, "--ledger", str(path), "--settle", "24h", "--deadline", "10m"))
        return "--ledger", str(path), "--settle", "1m"

    def get(self, channels: int) -> tuple[str, ...]:
        """Return the command line of the floor for so many channels."""
        return (PYTHON, "-m", "benchmarks.floor", self.url, self.ca, str(channels))

    def lost(self, channels: int) -> int:
        """Return how many requests the last text file lacks."""
        with self.textfile.open() as lines:
            up = sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("cc_textfile_method_up{"))
        return 4 * channels - int(up)


@contextmanager
def bench() -> Iterator[Bench]:
    """Start the portal in a process of its own, and end it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            [PYTHON, "-m", "benchmarks.portal"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE.parent,
        ) as portal,
    ):
        made = Bench(portal, Path(folder))
        made.run("warm-up", *made.poll(1))
        made.raw.clear()
        yield made
        assert portal.stdin
        portal.stdin.close()


def ratio(program: list[Run], floor: list[Run], field: str) -> float:
    """Return the median of what each round's pair makes: what disturbs one disturbs the other."""
    ratios: list[float] = [getattr(a, field) / getattr(b, field) for a, b in zip(program, floor, strict=True)]
    return median(ratios)


def typical(runs: list[Run], field: str) -> float:
    """Return a field's median."""
    values: list[float] = [getattr(run, field) for run in runs]
    return median(values)


def five_hundred(at: Bench, rounds: int) -> Iterator[Row]:
    """500 channels with the default settings, beside `session.get` in a pool of 32 threads with nothing else done."""
    scene = "500 channels"
    lost = 0
    for _ in range(rounds):
        at.run("session.get", *at.get(500))
        at.run(scene, *at.poll(500))
        lost += at.lost(500)
    program, floor = at.raw[scene], at.raw["session.get"]
    for what, field, target in (("wall", "wall", 1.0), ("CPU", "cpu", 0.75)):
        ours, plainly = (f"{typical(runs, field):.2f} s" for runs in (program, floor))
        yield Row(scene, what, ours, plainly, ratio(program, floor, field), target)
    memory, connections = (max(getattr(run, field) for run in program) for field in ("memory", "connections"))
    yield Row(scene, "peak memory", f"{memory:.0f} MB", f"{typical(floor, 'memory'):.0f} MB", memory, 50, "MB")
    yield Row(
        scene, "connections", f"{connections}", f"{max(run.connections for run in floor)}", connections, 36, "opened"
    )
    yield Row(scene, "requests lost", f"{lost}", "", lost, 0, "requests")


def five_thousand(at: Bench, rounds: int) -> Iterator[Row]:
    """5,000 channels, with time enough; and once more with the rows that the portal makes once a day."""
    scene = "5,000 channels"
    lost = 0
    for _ in range(rounds):
        at.run(scene, *at.poll(5000, "--deadline", "10m"))
        lost += at.lost(5000)
    a_channel, of_500 = typical(at.raw[scene], "cpu") / 5000, typical(at.raw["500 channels"], "cpu") / 500
    yield Row(scene, "requests lost", f"{lost}", "", lost, 0, "requests")
    memory = max(run.memory for run in at.raw[scene])
    yield Row(scene, "peak memory", f"{memory:.0f} MB", "", memory, 130, "MB")
    ours, those = (f"{1000 * cpu:.2f} ms" for cpu in (a_channel, of_500))
    yield Row(scene, "CPU a channel, beside 500's", ours, those, a_channel / of_500, 1.1)
    daily = at.run("5,000 channels with daily rows", *at.poll(5000, "--deadline", "10m", "--querytime", "1440")).memory
    yield Row("the same with daily rows", "peak memory", f"{daily:.0f} MB", "", daily, 130, "MB")


def counters(at: Bench, rounds: int) -> Iterator[Row]:
    """500 channels with a ledger beside the gauges, beside the same without; 2,000 and 5,000 with a ledger."""
    scene = "500 channels with a ledger"
    for _ in range(rounds):
        at.run("gauges alone", *at.poll(500))
        at.run(scene, *at.poll(500, *at.ledger_behind(500)))
    program, floor = at.raw[scene], at.raw["gauges alone"]
    pairs = [(p.cpu / p.requests, f.cpu / f.requests) for p, f in zip(program, floor, strict=True)]
    ours, plainly = (f"{1000 * median(each):.3f} ms" for each in zip(*pairs, strict=True))
    yield Row(scene, "CPU a request", ours, plainly, median(p / f for p, f in pairs), 1.1)
    memory = max(run.memory for run in program)
    yield Row(scene, "peak memory", f"{memory:.0f} MB", "", memory, 60, "MB")
    yield _beside_the_portal(scene, program, 1.5)
    for channels, more in ((2000, ()), (5000, ("--deadline", "10m"))):
        scene = f"{channels:,} channels with a ledger"
        for _ in range(3):
            at.run(scene, *at.poll(channels, *at.ledger_behind(channels), *more))
        if channels == 2000:  # noqa: PLR2004
            yield _beside_the_portal(scene, at.raw[scene], 1.3)
        else:
            memory = max(run.memory for run in at.raw[scene])
            yield Row(scene, "peak memory", f"{memory:.0f} MB", "", memory, 150, "MB")


def _beside_the_portal(scene: str, runs: list[Run], target: float) -> Row:
    """Return the wall time beside what the portal allows: requests by latency by connections."""
    pairs = [(run.wall, run.requests * LATENCY / CONCURRENCY) for run in runs]
    ours, allowed = (f"{median(each):.2f} s" for each in zip(*pairs, strict=True))
    return Row(scene, "wall", ours, allowed, median(wall / floor for wall, floor in pairs), target)


def history(at: Bench) -> Iterator[Row]:
    """Measure the ledger's own cost in a poll of 500 channels, with 92 days of history and with one closed day."""
    scene = "92 days of history"
    found: dict[int, dict[str, float]] = {}
    for days in (2, 92):  # after two days, one is closed
        command = (PYTHON, "-m", "benchmarks.ledger", str(at.folder), "500", str(days))
        done = subprocess.run(command, env=at.env, cwd=HERE.parent, capture_output=True, check=True)
        found[days] = json.loads(done.stdout)
    for what, field, unit in (("CPU", "cpu", "s"), ("read from files", "kilobytes", "KB")):
        many, one = (found[days][field] for days in (92, 2))
        yield Row(scene, what, f"{many:.3g} {unit}", f"{one:.3g} {unit}", many / one, 1.1)


def one_file(at: Bench, rounds: int) -> Iterator[Row]:
    """300,000 series in one file, beside `write_to_textfile` of the same series made before."""
    scene = "300,000 series"
    taken: dict[str, list[dict[str, float]]] = {"floor": [], "program": []}
    for _ in range(rounds):
        for how, said in taken.items():
            command = (PYTHON, "-m", "benchmarks.render", how, str(at.textfile), "7500")
            done = subprocess.run(command, env=at.env, cwd=HERE.parent, capture_output=True, check=True)
            said.append(json.loads(done.stdout))
    for what, field in (("wall", "seconds"), ("CPU", "cpu")):
        pairs = [(p[field], f[field]) for p, f in zip(taken["program"], taken["floor"], strict=True)]
        ours, plainly = (f"{median(each):.2f} s" for each in zip(*pairs, strict=True))
        yield Row(scene, what, ours, plainly, median(p / f for p, f in pairs), 1.15)


def one_channel(at: Bench, rounds: int) -> Iterator[Row]:
    """One channel, once, beside an interpreter that imports the two libraries and ends."""
    scene = "1 channel"
    for _ in range(rounds):
        at.run("imports", PYTHON, "-c", "import requests, prometheus_client")
        at.run(scene, *at.poll(1))
    ours, plainly = (f"{typical(at.raw[name], 'cpu'):.3f} s" for name in (scene, "imports"))
    yield Row(scene, "CPU", ours, plainly, ratio(at.raw[scene], at.raw["imports"], "cpu"), 1.4)


def idle(at: Bench) -> Iterator[Row]:
    """Wait between two polls of 500 channels, as the loop does most of the time."""
    scene = "loop, idle"
    process = subprocess.Popen(at.poll(500, "--interval", "5m"), env=at.env, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    next(line for line in process.stderr if "polled" in line)
    time.sleep(1)  # for what follows a poll: connections closed, threads ended
    before = _proc(process.pid)
    time.sleep(IDLE_SECONDS)
    cpu, wakes = (after - start for after, start in zip(_proc(process.pid), before, strict=True))
    memory = _memory(process.pid)
    process.terminate()
    process.communicate()
    yield Row(scene, "CPU", f"{100 * cpu / IDLE_SECONDS:.3f} %", "", 100 * cpu / IDLE_SECONDS, 0.1, "% of a core")
    yield Row(scene, "memory", f"{memory:.0f} MB", "", memory, 45, "MB")
    yield Row(scene, f"wake-ups in {IDLE_SECONDS} s", f"{wakes:.0f}", "", wakes, 0, "times")


def _proc(pid: int) -> tuple[float, float]:
    """Return a process's CPU seconds, and how often one of its threads was woken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    status = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status")]
    wakes = sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in status)
    return ticks / os.sysconf("SC_CLK_TCK"), wakes


def _memory(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def machine() -> dict[str, Any]:
    """Return what the figures were taken on."""
    models = [
        line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "load": [round(os.getloadavg()[0], 1)],
    }


def table(said: dict[str, Any]) -> str:
    """Return the figures as a table in Markdown, with the machine above it."""
    where = said["machine"]
    system = f"{where['cores']} cores of {where['processor']}, {where['system']}, Python {where['python']}"
    load = f"load before {where['load'][0]}, after {where['load'][1]}"
    lines = [
        f"{where['date']}, {system}; {load}.",
        "",
        "| | | program | floor | ratio | at most | met |",
        "|---|---|---|---|---|---|---|",
    ]
    scene = ""
    for values in said["rows"]:
        row = Row(**values)
        shown, scene = row.scene if row.scene != scene else "", row.scene
        ratio_of, met = "" if row.unit else f"{row.figure:.2f}", "yes" if row.met else "**no**"
        target = f"{row.target:g} {row.unit}".strip()
        lines.append(f"| {shown} | {row.what} | {row.program} | {row.floor} | {ratio_of} | {target} | {met} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and write."""
    where = machine()
    with bench() as at:
        rows = [
            *five_hundred(at, 7),
            *five_thousand(at, 3),
            *counters(at, 5),
            *history(at),
            *one_file(at, 7),
            *one_channel(at, 15),
            *idle(at),
        ]
        where["load"].append(round(os.getloadavg()[0], 1))
        said = {
            "machine": where,
            "rows": [row._asdict() for row in rows],
            "runs": {name: [run._asdict() for run in runs] for name, runs in at.raw.items()},
        }
    LAST.write_text(json.dumps(said, indent=1, ensure_ascii=False) + "\n")
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(before + BEGIN + table(said) + END + rest.partition(END)[2])
    print(table(said))
    sys.exit(not all(row.met for row in rows))


if __name__ == "__main__":
    main()
