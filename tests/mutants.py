"""Change one token of the code at a time, and see whether the quick tests notice: `make mutants`."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, NamedTuple

import click
import libcst as cst
from libcst import matchers
from mutmut.mutation import mutators

ROOT = Path(__file__).parent.parent
PLACE = ROOT / ".cache" / "mutants"
CODE = ("portal/*.py", "poll.py", "metrics/*.py", "output/*.py", "settings.py")
ENOUGH = 0.95
# Not those that change more than a token. Nor those that put None in the place of arguments and values: that ends most
# programs at once, and would flatter the figure.
LEFT_OUT = ("arg_removal", "assignment", "dict_arguments", "if_exp", "lambda", "match")
OPERATORS = [
    (kind, change)
    for kind, change in mutators.mutation_operators
    if change.__name__.removeprefix("operator_") not in LEFT_OUT
]
# Tests wait for an event for up to 120 seconds. Hypothesis' profile `ci` has neither chance nor a database.
PYTEST = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=ci"]
PYTEST += ["-m", "not slow", "-o", "faulthandler_timeout=240", "-o", "faulthandler_exit_on_timeout=true"]


class Mutant(NamedTuple):
    """A file of the project, and its code with another token."""

    file: Path
    before: str
    after: str


def is_left_out(node: cst.CSTNode) -> bool:
    """Tell whether a node changes nothing when the program runs, or is prose, or a table of names."""
    match node:
        case (
            cst.Annotation()
            | cst.Arg(keyword=cst.Name("metavar" | "show_default"))
            | cst.Assign(targets=[cst.AssignTarget(target=cst.Name("__all__"))])
            | cst.Call(func=cst.Name("TypeVar" | "dataclass" | "lru_cache"))
        ):
            return True
        case cst.Dict(elements=elements):
            return len(elements) > 20
        case cst.SimpleString(value=text):
            return " " in text
        case cst.If(body=cst.IndentedBlock(header=cst.TrailingWhitespace(comment=cst.Comment(value=comment)))):
            return "pragma: no cover" in comment
    return False


def nodes(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    """Yield the nodes that matter."""
    if is_left_out(node):
        return
    children = node.children
    if isinstance(node, cst.Comparison) and matchers.findall(node, matchers.Call(func=matchers.Name("monotonic"))):
        # No test can tell `<` from `<=` between two times.
        children = [node.left, *(target.comparator for target in node.comparisons)]
    else:
        yield node
    for child in children:
        yield from nodes(child)


def changes(file: Path) -> Iterator[tuple[Path, cst.Module, cst.CSTNode, list[Any]]]:
    """Yield the nodes of a file in which one token can be changed, and what they can become."""
    module = cst.parse_module(file.read_text())
    for node in nodes(module):
        if found := [new for kind, change in OPERATORS if isinstance(node, kind) for new in change(node)]:
            yield file, module, node, found


def drawn(number: int, chance: random.Random) -> list[Mutant]:
    """Draw so many mutants, from each file in proportion to the tokens that can be changed."""
    every = [list(changes(file)) for part in CODE for file in sorted((ROOT / "cc_textfile").glob(part))]
    places = [place for of_file in every for place in chance.sample(of_file, len(of_file))]
    click.echo(f"{number} of {len(places)} tokens are changed, one at a time.")
    return [
        Mutant(file.relative_to(ROOT), module.code, module.deep_replace(node, chance.choice(found)).code)
        for file, module, node, found in (places[index * len(places) // number] for index in range(number))
    ]


def copy(folder: Path) -> None:
    """Copy all files of the project that git does not ignore."""
    listed = subprocess.check_output(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, text=True)
    names = [name for name in listed.split("\0") if (ROOT / name).is_file()]
    folder.mkdir(parents=True)
    subprocess.run(["cp", "--parents", "--target-directory", folder, *names], cwd=ROOT, check=True)
    (folder / ".tools").symlink_to(ROOT / ".tools")


def failure(folder: Path, *which: str, timeout: float | None = None) -> str:
    """Run tests and return the one that fails, if any."""
    # What a test that is cut short has mounted goes with its namespace.
    namespace = ["unshare", "--mount"] if os.geteuid() == 0 else []
    command = [*namespace, *PYTEST, "--basetemp", "temporary", *which]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return "the tests do not end"
        finally:
            with suppress(ProcessLookupError):  # what a test that was cut short has left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    said = (folder / "output").read_text()
    named = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", said, re.MULTILINE)
    return "" if status == 0 else named[1] if named else f"pytest ended with {status}"


def ranked(file: Path) -> list[str]:
    """Return the files of tests, those first that are likely to be about a file."""
    package = ".".join(file.parent.parts) if len(file.parts) > 2 else f"cc_textfile.{file.stem}"
    tests = (PLACE / "unchanged" / "tests").glob("test_*.py")
    order = sorted(tests, key=lambda test: (file.stem not in test.name, -test.read_text().count(package), test.name))
    return [f"tests/{test.name}" for test in order]


def notice(mutant: Mutant, timeout: float) -> str:
    """Return the test that notices the change, if any: it fails with it, and then not without it."""
    with TemporaryDirectory(dir=PLACE, ignore_cleanup_errors=True) as made:
        left_out = shutil.ignore_patterns("temporary")
        folder = Path(shutil.copytree(PLACE / "unchanged", made, True, left_out, dirs_exist_ok=True))  # noqa: FBT003
        other: list[str] = []
        while True:
            (folder / mutant.file).write_text(mutant.after)
            failed = failure(folder, *ranked(mutant.file), *other, timeout=timeout)
            if "::" not in failed:
                return failed
            (folder / mutant.file).write_text(mutant.before)
            if not failure(folder, failed):
                return failed
            other += ["--deselect", failed]


@click.command(help=__doc__)
@click.option("--number", default=200, show_default=True, help="How many tokens are changed.")
@click.option("--seed", default=1, show_default=True, help="Another seed draws other tokens.")
def main(number: int, seed: int) -> None:
    """Try the mutants, two at a time; exits 1 if too few are noticed."""
    mutants = drawn(number, random.Random(seed))  # noqa: S311 # no secret
    shutil.rmtree(PLACE, ignore_errors=True)
    copy(PLACE / "unchanged")
    began = monotonic()
    if failed := failure(PLACE / "unchanged", "tests"):
        raise click.ClickException(f"a test fails before anything is changed: {failed}")
    timeout = 60 + 5 * (monotonic() - began)
    missed = 0
    with ThreadPoolExecutor(2) as threads:
        outcomes = threads.map(partial(notice, timeout=timeout), mutants)
        for count, (mutant, failed) in enumerate(zip(mutants, outcomes, strict=True), start=1):
            pairs = zip(mutant.before.split("\n"), mutant.after.split("\n"), strict=True)
            line, old, new = next((line, *pair) for line, pair in enumerate(pairs, start=1) if pair[0] != pair[1])
            click.echo(f"{count:4} {mutant.file}:{line} {failed or 'NOT NOTICED'}\n  -{old}\n  +{new}")
            missed += not failed
    click.echo(f"{1 - missed / number:.1%} are noticed; {missed} of {number} are not.")
    sys.exit(1 - missed / number < ENOUGH)


if __name__ == "__main__":
    main()
