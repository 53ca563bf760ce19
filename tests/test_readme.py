"""What the README and the changelog say is true."""

import re
from pathlib import Path

import pytest

import cc_textfile
from cc_textfile.collector import METRICS
from cc_textfile.errors import REASONS
from cc_textfile.settings import SETTINGS
from cc_textfile.transport import MAX_BODY_BYTES
from tests.conftest import ROOT, environment, run

README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def table(name: str) -> list[tuple[str, ...]]:
    """Return the rows of the table behind `<!-- name: … -->`, without its head."""
    _, found, rest = README.partition(f"<!-- {name}:")
    assert found, f"the README has no table {name}"
    rows = re.match(r".*?-->\n((?:\|.*\n)+)", rest)
    assert rows
    return [tuple(cell.strip() for cell in row[1:-1].split(" | ")) for row in rows[1].splitlines()[2:]]


def code(words: str) -> str:
    return f"`{words}`" if words else ""


def test_the_settings_are_those_of_the_code() -> None:
    """Flag, variable, default and help text of each setting stand in the table, in the order of the code."""
    assert table("settings") == [
        (code(setting.flag or ""), code(setting.variable), code(setting.default or ""), setting.help)
        for setting in SETTINGS
    ]


def test_the_metrics_are_those_of_the_code() -> None:
    """Name, labels and HELP text of each metric stand in the table, in the order of the code."""
    assert table("metrics") == [
        (code(metric.name), ", ".join(map(code, metric.labels)), metric.help) for metric in METRICS
    ]


def test_the_rooms_are_those_of_the_package() -> None:
    """The map in the README is the one in the package."""
    assert cc_textfile.__doc__
    rooms = re.findall(r"^    (\w+) +(.*)$", cc_textfile.__doc__, re.MULTILINE)
    assert table("rooms") == [(code(room), purpose) for room, purpose in rooms]


def test_every_reason_of_a_failure_is_explained() -> None:
    """'When things go wrong' names each reason that a failure can have, and the limit as it is."""
    text = " ".join(cell for row in table("faults") for cell in row)
    for reason in REASONS:
        assert f"reason `{reason}`" in text
    assert f"more than {MAX_BODY_BYTES // 1024} KiB" in text


def test_the_sample_of_the_file_is_in_the_form_of_the_file() -> None:
    """Each HELP and TYPE line of the sample is one that the code writes."""
    sample = re.search(r"<!-- sample:.*?```\n(.*?)```", README, re.DOTALL)
    assert sample
    helps = {f"# HELP {metric.name} {metric.help}" for metric in METRICS}
    types = {f"# TYPE {metric.name} gauge" for metric in METRICS}
    for line in sample[1].splitlines():
        assert line in helps | types or line.split("{")[0].split()[0] in {metric.name for metric in METRICS}


def test_every_make_target_that_is_named_is_there() -> None:
    """A command that the README tells to type exists."""
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert named
    assert named <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_every_flag_that_is_named_is_there() -> None:
    """A flag of cc-textfile in the README is one of a command's help, unless it is another program's."""
    others = {"--collector.textfile.directory", "--config.file", "--pipe", "--since", "--wait", "--web.listen-address"}
    others |= {"--create", "--now", "--on-calendar", "--property", "--service-type", "--unit"}  # systemd's
    helps = "".join(run(command, "--help", env=environment()).stdout for command in ("run", "check", "demo"))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z.-]+", README)) - others
    assert named
    assert not {flag for flag in named if flag not in helps}


def test_every_file_that_is_named_is_there() -> None:
    """A path of this project in the README leads somewhere."""
    for path in re.findall(r"`((?:monitoring|systemd|packaging|benchmarks|tests|cc_textfile)/[\w./-]+)`", README):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("command", ["run", "check", "demo"])
def test_every_command_is_in_the_readme(command: str) -> None:
    """A command that the README does not name is one that nobody finds."""
    assert f"cc-textfile {command}" in README or f"make {command}" in README


def test_the_changelog_has_the_version() -> None:
    """The version that is to be released, or was, has its entry."""
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog or f"## [{cc_textfile.__version__}]" in changelog


def test_the_help_names_every_setting(tmp_path: Path) -> None:
    """`run --help` teaches each flag with its variable and default; the environment of the test changes nothing."""
    shown = " ".join(run("run", "--help", env=environment(), cwd=tmp_path).stdout.split())
    for setting in SETTINGS:
        if setting.flag:
            assert setting.flag in shown
            assert setting.variable in shown
