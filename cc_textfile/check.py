"""`cc-textfile check`: all that a poll needs, step by step, and what mends what is not well."""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain

import click

from cc_textfile.check_portal import portal
from cc_textfile.check_prometheus import node_exporter, pushgateway
from cc_textfile.check_textfile import textfile
from cc_textfile.errors import SettingsError
from cc_textfile.output import without_account
from cc_textfile.redaction import Redactor
from cc_textfile.settings import SETTINGS, Settings, called
from cc_textfile.step import Clock, State, Step

MARKS = {
    State.OK: ("✓", "green"),
    State.WARNING: ("!", "yellow"),
    State.FAILED: ("✗", "red"),
    State.SKIPPED: ("-", "bright_black"),
}
NAME_WIDTH = 26
MOST_CHANNELS_NAMED = 3
UNITS = {"interval": " s", "timeout": " s", "deadline": " s", "querytime": " min"}


def check(settings: Settings, exporter_url: str, redact: Redactor) -> Iterator[Step]:
    """Go through what a poll needs, the way that the numbers go: settings, portal, outputs, node_exporter.

    Nothing is left behind, and nothing that others look at is written. No step holds a secret.
    """

    def clock() -> datetime:
        return datetime.now(UTC)

    steps = chain(
        _settings(settings, redact),
        portal(settings, redact, clock),
        _outputs(settings, redact, clock),
        node_exporter(settings, exporter_url, redact, clock),
    )
    return (step._replace(detail=_clean(step.detail, redact), remedy=_clean(step.remedy, redact)) for step in steps)


def of_faults(error: SettingsError) -> list[Step]:
    """Return the steps that there are when the settings can't be read: their faults."""
    return [Step("settings", State.FAILED, fault, "see cc-textfile run --help") for fault in error.faults]


def _settings(settings: Settings, redact: Redactor) -> Iterator[Step]:
    for setting in SETTINGS:
        value = getattr(settings, setting.name, None)
        if value is None:
            continue
        match setting.name:
            case "password":
                shown = "set"
            case "channels":
                more = ", ..." if len(value) > MOST_CHANNELS_NAMED else ""
                shown = f"{len(value)} ({', '.join(value[:MOST_CHANNELS_NAMED])}{more})"
            case "pushgateway":
                shown, _ = without_account(value, redact)
            case "shard":
                shown = f"{value.number}/{value.total}"
            case _:
                shown = f"{value:g}" if isinstance(value, float) else str(value)
        detail = f"{shown}{UNITS.get(setting.name, '')}, by {settings.origin(setting.name)}"
        yield Step(f"settings {setting.name}", State.OK, detail)
    for name, note in settings.notes:
        yield Step(f"settings {name}", State.WARNING, note, f"take it out of {settings.origin(name)}")


def _outputs(settings: Settings, redact: Redactor, clock: Clock) -> Iterator[Step]:
    """Look at both outputs; where there are two, a poll succeeds with one."""
    if settings.textfile:
        file = list(textfile(settings.textfile, settings.channels))
    else:
        file = [Step("textfile folder", State.SKIPPED, f"{called('textfile')} is not set")]
    gateway = list(pushgateway(settings, redact, clock))
    one_is_well = not (_failed(file) and _failed(gateway))
    for step in (*file, *gateway):
        if step.state is State.FAILED and settings.textfile and settings.pushgateway and one_is_well:
            yield step._replace(state=State.WARNING, detail=f"{step.detail}; the other output is well")
        else:
            yield step


def _failed(steps: Iterable[Step]) -> int:
    return sum(step.state is State.FAILED for step in steps)


def _clean(text: str, redact: Redactor) -> str:
    return "".join(character if character.isprintable() else "?" for character in redact(text))


def show(steps: Iterable[Step], *, as_json: bool) -> bool:
    """Write the steps to standard output as they come, and return whether a poll would succeed.

    With marks to a terminal, a plain line each elsewhere; as JSON, a list of objects when all are there.
    """
    if as_json:
        done = list(steps)
        click.echo(json.dumps([step._asdict() for step in done], indent=2))
        return not _failed(done)
    line = _row if _takes_marks() else _plain_line
    done = []
    for step in steps:
        _echo(line(step))
        done.append(step)
    failed, warnings = _failed(done), sum(step.state is State.WARNING for step in done)
    verdict = f"a poll would not succeed: {failed} failed" if failed else "a poll would succeed"
    _echo(verdict + (f", {warnings} to look at" if warnings else ""))
    return not failed


def _takes_marks() -> bool:
    try:
        "".join(mark for mark, _ in MARKS.values()).encode(sys.stdout.encoding)
    except (UnicodeEncodeError, AttributeError):  # no marks, or no standard output at all
        return False
    return sys.stdout.isatty()


def _row(step: Step) -> str:
    mark, colour = MARKS[step.state]
    indent = " " * (NAME_WIDTH + 2)
    detail = click.wrap_text(step.detail, shutil.get_terminal_size().columns, indent, indent).lstrip()
    row = f"{click.style(mark, fg=colour)} {step.step:<{NAME_WIDTH}}{detail}"
    # A remedy is there to be copied, so no line is broken in it.
    return row + (f"\n{indent}→ {step.remedy}" if step.remedy else "")


def _plain_line(step: Step) -> str:
    word = step.state.upper() if step.state is State.FAILED else step.state
    return f"{word:<8} {step.step}: {step.detail}" + (f"; to mend it: {step.remedy}" if step.remedy else "")


def _echo(text: str) -> None:
    encoding = sys.stdout.encoding if sys.stdout else "utf-8"
    colour = False if os.environ.get("NO_COLOR") else None
    click.echo(text.encode(encoding, "backslashreplace").decode(encoding), color=colour)
