"""What the documents say is true, and they can be read."""

import math
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from urllib.parse import unquote

import pytest
from prometheus_client import CollectorRegistry

import cc_textfile
from cc_textfile.cli import main
from cc_textfile.demo import portal as demo
from cc_textfile.errors import REASONS
from cc_textfile.ledger import Ledger
from cc_textfile.logs import Redactor
from cc_textfile.metrics import METRICS, Results, registry
from cc_textfile.poll import Snapshot
from cc_textfile.portal.client import PortalClient
from cc_textfile.portal.responses import Method
from cc_textfile.portal.translations import translate, translate_as_before
from cc_textfile.portal.transport import MAX_BODY_BYTES, Transport
from cc_textfile.portal.window import DAY, midnight
from cc_textfile.settings import SETTINGS, Setting, Settings
from tests.conftest import PATIENCE, ROOT, environment, run, tool
from tests.prometheus import ask

MAX_PROSE = 120
MAX_CELL = 100
MAX_README_LINES = 150

README = ROOT / "README.md"
DOCS = ROOT / "docs"
DOCUMENTS = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks" / "README.md",
    *sorted(DOCS.glob("*.md")),
]
EVERY_DOCUMENT = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))

FOREIGN_FLAGS = {
    "--collector.textfile.directory", "--config.file", "--web.listen-address",  # Prometheus and its exporters
    "--storage.tsdb.path", "--storage.tsdb.retention.time",
    "--create", "--now", "--on-calendar", "--name", "--property", "--pty", "--service-type", "--since",  # systemd
    "--system", "--timer-property", "--uid", "--unit", "--user-group",
    "--reference",  # chown
    "--lock",  # packaging/build_zipapp.py
    "--build-arg", "--detach", "--env-file", "--publish", "--read-only", "--restart", "--rm", "--secret", "--signal",
    "--volume", "--force", "--container", "--filename", "--from-file", "--kustomize", "--spec", "--from",  # podman, …
    "--collector.disable-defaults", "--collector.textfile",
}  # fmt: skip

AVOIDED = {
    r"rooms?(?! (?:for|in)\b)|houses?": "module, package",
    r"questions?": "request",
    r"replies": "response",
    r"(?:an|the|this|that|its|each|every|no|good|bad|whole) answers?": "response",
    r"said": "response, or what the program writes",
    r"overdue": "timeout",
    r"held(?! to\b)": "locked",
    r"drafts?|litter": "temporary file, stale file",
    r"watch(?:es|ing)?": "progress callback",
    r"MOST_\w+|SHORTEST_\w+": "MAX_…, MIN_…",
    r"endpoints?": "method",
    r"babbles?|says no|not to be trusted": "fails, is refused, cannot be read",
    r"mend(?:s|ed|ing)?": "fix",
    r"whatever comes": "the default is …, use this when …",
    r"(?:can|won|isn|doesn|don|aren|wasn)'t": "cannot, is not",
}
"""Words that this project does not use, and what it writes instead. `room for` and `held to` have another meaning."""


def prose(text: str) -> str:
    """Return a document without its code blocks and comments."""
    return re.sub(r"^```.*?^```$|<!--.*?-->", "", text, flags=re.DOTALL | re.MULTILINE)


def table(path: Path, name: str) -> list[tuple[str, ...]]:
    """Return the rows of the table behind `<!-- name: … -->`, without its head."""
    found = re.search(rf"<!-- {name}:.*?-->\n((?:\|.*\n)+)", path.read_text())
    assert found, f"{path} has no table {name}"
    return [tuple(cell.strip() for cell in line[1:-1].split("|")) for line in found[1].splitlines()[2:]]


def block(path: Path, name: str) -> str:
    """Return the block of code behind `<!-- name: … -->`."""
    found = re.search(rf"<!-- {name}:.*?-->\n```\w*\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)
    assert found, f"{path} has no block {name}"
    return found[1]


def sections(path: Path) -> dict[str, str]:
    """Return the text below each heading, in one line."""
    parts = re.split(r"^#+ (.*)$", prose(path.read_text()), flags=re.MULTILINE)
    return {heading: " ".join(text.split()) for heading, text in zip(parts[1::2], parts[2::2], strict=True)}


def anchors(path: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code(words: object) -> str:
    return f"`{words}`" if words else ""


# The reference


def default(setting: Setting) -> str:
    """Return the default as the document shows it: in words, or as a value."""
    if isinstance(setting.show_default, str):
        return setting.show_default
    return code("true" if setting.default is True else setting.default)


def test_the_settings_are_those_of_the_code() -> None:
    """Flag, variable and default of each setting are in the table, in the order of the code."""
    assert table(DOCS / "settings.md", "settings") == [
        (code(setting.flag), code(setting.variable), default(setting)) for setting in SETTINGS
    ]


def test_each_setting_has_a_section_that_begins_with_its_help() -> None:
    """Whoever knows `run --help` finds the same words, and then more."""
    found = sections(DOCS / "settings.md")
    for setting in SETTINGS:
        assert setting.help
        assert found[code(setting.flag or setting.variable)].startswith(setting.help)


def test_the_metrics_are_those_of_the_code() -> None:
    """Each metric is listed with its type, labels and HELP text."""
    text = " ".join(prose((DOCS / "metrics.md").read_text()).split())
    lines = re.findall(r"- `(\w+)` \((\w+); ([^)]*)\): (.*?)(?= - `| #|(?<=\.) [A-Z`]|$)", text)
    assert sorted((name, kind, labels) for name, kind, labels, _ in lines) == sorted(
        (metric.name, "counter" if metric.is_counter else "gauge", ", ".join(map(code, metric.labels)))
        for metric in METRICS
    )
    for metric in METRICS:
        assert f"`{metric.name}` ({'counter' if metric.is_counter else 'gauge'}; " in text
        assert f"): {metric.help}" in text.partition(f"- `{metric.name}`")[2].partition("- `")[0]


def test_the_older_spellings_are_those_of_the_code() -> None:
    """Names in the gauges, and in new metrics, are as the program translates them."""
    rows = table(DOCS / "migrating.md", "names")
    assert rows
    assert rows == [(name, code(translate_as_before(name)), code(translate(name))) for name, _, _ in rows]


def test_every_reason_of_a_failure_has_a_section() -> None:
    """What `cc_textfile_poll_failures` can have as reason is explained, and nothing else."""
    headings = sections(DOCS / "troubleshooting.md")
    assert [heading.split("`")[1] for heading in headings if heading.startswith("Reason ")] == list(REASONS)
    assert f"{MAX_BODY_BYTES // 1024} KiB" in headings["Reason `malformed`"]


def test_each_message_that_is_explained_is_in_the_code() -> None:
    """What an operator reads in the log is found in Troubleshooting, with `…` for what varies."""
    source = "\n".join(path.read_text() for path in sorted((ROOT / "cc_textfile").rglob("*.py")))
    messages = re.sub(r"\{[^{}]*\}|%[sd]", "…", re.sub(r'"\s*f?"', "", source))
    text = " ".join((DOCS / "troubleshooting.md").read_text().split())
    seen = re.findall(r"\*\*What you see\.\*\* (.*?) \*\*Wh|the line says \|(.*?) \*\*Why", text)
    spans = [span for part in seen for span in re.findall(r"`(.*?)`", "".join(part)) if span.count(" ") > 1]
    assert spans
    others = ("curl ", "time() ", "was collected before")  # what is typed, asked, or written by node_exporter
    assert [span for span in spans if span.strip("… :") not in messages and not span.startswith(others)] == []


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_is_in_a_document(command: str) -> None:
    """A command that no document names is one that nobody finds."""
    assert any(f"cc-textfile {command}" in path.read_text() for path in DOCUMENTS)


@EVERY_DOCUMENT
def test_every_flag_that_is_named_exists(path: Path) -> None:
    """A flag is one of this program's, or of another program that is known here."""
    commands = main.commands.values()
    own = {flag for command in commands for option in command.params for flag in (*option.opts, *option.secondary_opts)}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z.-]+", path.read_text()))
    assert named <= own | FOREIGN_FLAGS | {"--help"}


@EVERY_DOCUMENT
def test_every_make_target_that_is_named_exists(path: Path) -> None:
    """A target that a document tells to make is in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`|sudo )make ([a-z-]+)", path.read_text(), re.MULTILINE)) <= targets


@EVERY_DOCUMENT
def test_every_variable_that_is_named_exists(path: Path) -> None:
    """A variable is one of a setting."""
    known = {setting.variable for setting in SETTINGS}
    named = set(re.findall(r"\b(?:CC_TEXTFILE|CHINACACHE)_[A-Z_]+\b", path.read_text()))
    assert named - {"CC_TEXTFILE_TIMOUT", "CC_TEXTFILE_", "CHINACACHE_"} <= known


@EVERY_DOCUMENT
def test_every_metric_that_is_named_exists(path: Path) -> None:
    """A name of a metric is one of the code, or begins some of them."""
    names = [metric.name for metric in METRICS]
    for named in re.findall(r"(?<![\w/:])(?:cc_textfile|chinacache|ChinaCache_metrics)_\w+", path.read_text()):
        assert any(name.startswith(named) for name in names), named


@EVERY_DOCUMENT
def test_every_file_that_is_named_exists(path: Path) -> None:
    """A path of this project in a document leads somewhere."""
    folders = "monitoring|systemd|packaging|benchmarks|tests|cc_textfile|docs"
    for named in re.findall(rf"`((?:{folders})/[\w./-]*)`", path.read_text()):
        assert (ROOT / named).exists(), named


def test_the_places_in_the_code_are_there() -> None:
    """Each function that CONTRIBUTING.md names is in the file that it names."""
    for _, file, names in table(ROOT / "CONTRIBUTING.md", "places"):
        for name in re.findall(r"`(\w+)`", names):
            assert f"def {name}(" in (ROOT / file.strip("`")).read_text()


def test_the_layout_has_every_module() -> None:
    """CONTRIBUTING.md says of each module what it is for."""
    package = ROOT / "cc_textfile"
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for module in [*package.glob("*.py"), *(package / "portal").glob("*.py")]:
        if not module.stem.startswith("__"):
            assert f"| `{module.relative_to(package)}` | " in text
    for folder in {path.parent for path in package.glob("*/*.py")} - {package / "portal"}:
        assert f"| `{folder.name}/` | " in text


def test_the_changelog_has_the_version() -> None:
    """The version that is to be released, or was, has its entry."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{cc_textfile.__version__}]" in changelog


# The README


def test_the_readme_is_read_in_a_minute() -> None:
    """It has at most 150 lines."""
    assert len(README.read_text().splitlines()) <= MAX_README_LINES


def test_the_readme_installs_as_the_document_about_it() -> None:
    """Its commands are those that a test types on a Debian of its own."""
    assert block(README, "package") == block(DOCS / "install.md", "package")


def test_the_sample_is_from_a_file_that_the_demo_wrote(tmp_path: Path) -> None:
    """Each line of the sample is in a real file; values, which depend on the time, may differ."""
    run("demo", "--folder", str(tmp_path), env=environment())
    written = {without_value(line) for line in (tmp_path / "cc_textfile.prom").read_text().splitlines()}
    sample = block(README, "sample").splitlines()
    assert sample
    assert [line for line in sample if without_value(line) not in written] == []


def without_value(line: str) -> str:
    return line if line.startswith("#") else line.rpartition(" ")[0]


# Troubleshooting


def test_the_sample_of_check_is_what_it_writes(env: dict[str, str], tmp_path: Path) -> None:
    """The sample is what `check` writes where a folder is missing, but for ports, paths and the user."""
    folder = tmp_path / "missing"
    env |= {"CC_TEXTFILE_PATH": f"{folder}/a.prom", "CC_TEXTFILE_LEDGER": f"{tmp_path}/a.ledger"}
    env |= {"CHINACACHE_CHANNEL_IDS": demo.CHANNELS[0]}
    written = run("check", "--node-exporter", "http://127.0.0.1:1", env=env).stdout
    written = written.replace(str(folder), "/var/lib/node_exporter").replace(str(tmp_path), "/var/lib/cc-textfile")
    lines = [line for line in written.splitlines() if not line.startswith("ok       settings ")]
    changing = re.compile(r"port \d+|(?:user|-o) \w+")
    sample = block(DOCS / "troubleshooting.md", "check").splitlines()
    assert [changing.sub("", line) for line in lines] == [changing.sub("", line) for line in sample]


# What can be read


@EVERY_DOCUMENT
def test_every_link_leads_somewhere(path: Path) -> None:
    """A link inside the project leads to a file, and to a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text())):
        if "://" in target:
            continue
        file, _, anchor = unquote(target).partition("#")
        other = (path.parent / file).resolve() if file else path
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


@EVERY_DOCUMENT
def test_lines_and_cells_are_short(path: Path) -> None:
    """No line of prose has more than 120 characters, and no cell of a table more than 100."""
    for line in prose(path.read_text()).splitlines():
        if line.startswith("|"):
            assert max(map(len, (cell.strip() for cell in line.split("|")))) <= MAX_CELL, line
        else:
            assert len(line) <= MAX_PROSE, line


def spoken() -> Iterator[Path]:
    """Return every file whose words users or maintainers read."""
    yield from DOCUMENTS
    for folder in ("cc_textfile", "systemd", "packaging", "monitoring"):
        for path in sorted((ROOT / folder).rglob("*")):
            if (
                path.is_file()
                and not {"__pycache__", ".cache"} & set(path.parts)
                and path.suffix not in {".png", ".json"}
            ):
                yield path


@pytest.mark.parametrize("path", list(spoken()), ids=lambda path: str(path.relative_to(ROOT)))
def test_words_are_those_of_the_field(path: Path) -> None:
    """No file uses a word for which the field has a plainer one."""
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        for words, better in AVOIDED.items():
            found = re.search(rf"\b(?:{words})\b", line, re.IGNORECASE if words.islower() else 0)
            assert not found, f"{path}:{number}: {found[0]!r}; write: {better}"


# The queries


def exported(folder: Path, times: Iterable[datetime]) -> Iterator[tuple[datetime, CollectorRegistry]]:
    """Poll the demo portal for a ledger at these times, and return what is exported each time."""
    clock = datetime.now(UTC)
    with demo.DemoPortal(clock=lambda: clock).serving() as portal:
        settings = Settings(
            user=demo.USER,
            password=demo.PASSWORD,
            account=demo.USER,
            channels=demo.CHANNELS,
            ledger=folder / "ledger.sqlite",
            portal_url=portal.url,
        )
        transport = Transport(portal.url, Redactor())
        client = PortalClient(transport, settings, Redactor())
        for clock in times:
            with Ledger(folder / "ledger.sqlite", settings) as ledger:
                end = monotonic() + PATIENCE
                responses = {request: client.fetch(request, end) for request in ledger.plan(clock)}
                totals = ledger.record(responses, clock)
            yield clock, registry(Results(settings, Snapshot(responses, {}, clock, 0.0), None, totals))[0]
        transport.close()


def open_metrics(polls: Iterable[tuple[datetime, CollectorRegistry]]) -> str:
    """Return the samples of all polls as node_exporter would serve them, in the form that promtool reads."""
    families: dict[str, list[str]] = {}
    for time, registry_of_poll in polls:
        for family in registry_of_poll.collect():
            lines = families.setdefault(f"# TYPE {family.name} {family.type}", [])
            for sample in family.samples:
                labels = {"job": "node", "instance": "localhost:9100", **sample.labels}
                pairs = ",".join(f'{name}="{value}"' for name, value in labels.items())
                lines.append(f"{sample.name}{{{pairs}}} {sample.value!r} {time.timestamp():.0f}")
    return "\n".join(line for family, lines in families.items() for line in (family, *lines)) + "\n# EOF\n"


def queries(path: Path) -> list[str]:
    """Return the queries that a document shows."""
    return re.findall(r"^```promql\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)


def traffic(channel: str, start: datetime, end: datetime) -> int:
    """Return the bytes that the demo portal has for a time."""
    times = {name: f"{time:%Y%m%d%H%M}" for name, time in (("startTime", start), ("endTime", end))}
    return int(demo.response(Method.ISP, {"channelIds": channel, **times}, end)["totalFlux"])


@pytest.mark.slow
def test_the_queries_give_the_numbers(tmp_path: Path, prometheus: Callable[[Path], str]) -> None:
    """Each query can be parsed; those over the counters give numbers, and bandwidth and bytes of a day are right."""
    last_midnight = midnight(datetime.now(UTC)) - DAY
    times = [last_midnight + timedelta(minutes=15 * number) for number in range(-26 * 4, 5 * 4)]
    (tmp_path / "history").write_text(open_metrics(exported(tmp_path, times)))
    blocks = (tool("promtool"), "tsdb", "create-blocks-from", "openmetrics", "history", "tsdb")
    subprocess.run(blocks, cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "prometheus.yml").write_text("{}")
    url = prometheus(tmp_path / "prometheus.yml")
    end = times[-1]

    for query in (query for path in DOCUMENTS for query in queries(path)):
        ask(url, "format_query", query=query)
    results = {}
    for query in queries(DOCS / "counters.md") + queries(README):
        result = ask(url, "query", query=query, time=str(end.timestamp()))["result"]
        assert result, query
        results[query] = {each["metric"].get("channel", ""): float(each["value"][1]) for each in result}
        assert [value for value in results[query].values() if not math.isfinite(value)] == [], query

    minutes = timedelta(minutes=1)
    bandwidth = {channel: traffic(channel, end - 75 * minutes, end - 15 * minutes) / 3600 for channel in demo.CHANNELS}
    assert results[queries(README)[0]] == pytest.approx(bandwidth)
    assert results[queries(DOCS / "counters.md")[0]] == pytest.approx(bandwidth)
    whole_day = {channel: traffic(channel, last_midnight - DAY, last_midnight) for channel in demo.CHANNELS}
    assert results["max by (account, channel) (chinacache_day_traffic_bytes)\n"] == whole_day
