"""The rooms of the package: which may look into which, and how large they may grow."""

import ast
from pathlib import Path

import pytest

import cc_textfile
from tests.conftest import ROOT

PACKAGE = ROOT / "cc_textfile"
ORDER = (
    ("errors", "window", "translations", "redaction", "sockets"),
    ("values", "answers", "logs", "signals", "notify", "step"),
    ("settings", "transport"),
    ("client",),
    ("poll",),
    ("collector", "report"),
    ("output",),
    ("runner", "check_portal", "check_prometheus", "check_textfile"),
    ("check", "demo"),
    ("cli",),
    ("__main__",),
)
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms}
ROOMS = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imports_of(room: str) -> set[str]:
    """Return the rooms that a room imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{room}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "cc_textfile":
            found |= {alias.name for alias in node.names} & set(ROOMS)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cc_textfile."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("cc_textfile.")}
    return found


def test_every_room_has_its_place() -> None:
    """A new room is put into the order before it is built."""
    assert sorted(RANK) == ROOMS


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_one_way(room: str) -> None:
    """A room looks only into rooms that come before it, so that data flows one way."""
    assert not [other for other in imports_of(room) if RANK[other] >= RANK[room]]


def test_only_the_command_line_knows_the_demo() -> None:
    """The program that runs on hosts does not depend on a portal made for show."""
    assert [room for room in ROOMS if "demo" in imports_of(room)] == ["cli"]


def test_the_package_says_its_map() -> None:
    """The package's docstring names every room, in reading order."""
    assert cc_textfile.__doc__
    named = [line.split()[0] for line in cc_textfile.__doc__.splitlines() if line.startswith("    ")]
    assert sorted(named) == sorted(set(ROOMS) - {"__main__"})


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_a_room_is_small_enough_to_be_explained(path: Path) -> None:
    """A room of over 400 lines is two rooms."""
    assert len(path.read_text().splitlines()) <= 400
