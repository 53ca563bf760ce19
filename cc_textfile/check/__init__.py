"""`cc-textfile check`: what a poll needs, step by step, and how to fix what would stop it.

No step writes where others read, and nothing is left behind. A password that is refused is sent once.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import chain

import click
import durationpy

from cc_textfile.check.outputs import ledger, node_exporter, outputs
from cc_textfile.check.portal import portal
from cc_textfile.check.step import FAILED, OK, SKIPPED, WARNING, State, Step
from cc_textfile.errors import SettingsError
from cc_textfile.logs import Redactor, say
from cc_textfile.output.pushgateway import without_credentials
from cc_textfile.settings import SETTINGS, Settings

__all__ = ["State", "Step", "advice", "of_faults", "show", "steps"]

COLOURS = {OK: "green", WARNING: "yellow", FAILED: "red", SKIPPED: "bright_black"}
CHECK_OF_A_UNIT = "cc-textfile-check"
"""The command of the Debian package that runs `check` with the settings, the user and the sandbox of a unit."""

MAX_CHANNELS_NAMED = 3


def steps(settings: Settings, exporter_url: str, redactor: Redactor) -> Iterator[Step]:
    """Return the steps as they are made, on the way that the numbers go.

    Raises `SettingsError` when a proxy or a CA bundle of the environment cannot be used.
    """
    return chain(
        _settings(settings, redactor),
        portal(settings, redactor),
        ledger(settings),
        outputs(settings, redactor),
        node_exporter(settings, exporter_url, redactor),
    )


def of_faults(error: SettingsError) -> list[Step]:
    """Return the steps of settings that cannot be used: their faults."""
    return [Step("settings", FAILED, fault, advice(error)) for fault in error.faults]


def advice(error: SettingsError) -> str:
    """Return what to type when the settings cannot be used."""
    missing = any(" is missing" in fault for fault in error.faults)
    # In a unit, which has credentials, it would be the advice to do the same again.
    in_unit = "CREDENTIALS_DIRECTORY" in os.environ
    if missing and not in_unit and shutil.which(CHECK_OF_A_UNIT, path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        return f"the services have settings of their own; to check those, type: sudo {CHECK_OF_A_UNIT}"
    return "`cc-textfile run --help` explains each setting"


def _settings(settings: Settings, redactor: Redactor) -> Iterator[Step]:
    channels = settings.channels
    more = ", ..." if len(channels) > MAX_CHANNELS_NAMED else ""
    shown = {
        "password": "set",
        "channels": f"{len(channels)}: {', '.join(channels[:MAX_CHANNELS_NAMED])}{more}",
        "methods": ", ".join(settings.methods),
        "querytime": f"{settings.querytime} min",
        "gauges": str(settings.gauges).lower(),
        "pushgateway": without_credentials(settings.pushgateway or "", redactor)[0],
    }
    for setting in SETTINGS:
        name = setting.name or ""
        value = getattr(settings, name, None)
        if value is not None:
            text = durationpy.to_str(timedelta(seconds=value)) if isinstance(value, float) else shown.get(name, value)
            yield Step(f"settings {name}", OK, f"{text} ({settings.origin(name)})")
    for note in settings.notes:
        yield Step("settings", WARNING, note)


def show(steps: Iterable[Step], *, as_json: bool) -> bool:
    """Write the steps to standard output as they come, and return whether a poll would succeed.

    As text, each is one line, and one more for the remedy; as JSON, all are one list at the end. Raises `OutputError`
    when standard output cannot be written.
    """
    done = []
    for step in steps:
        done.append(step)
        if not as_json:
            word = step.state.upper() if step.state is FAILED else step.state
            say(f"{click.style(f'{word:<8}', fg=COLOURS[step.state])} {step.step:<26} {step.detail}")
            if step.remedy:
                say(f"{'':<8} to fix it: {step.remedy}")
    failed, warnings = sum(step.state is FAILED for step in done), sum(step.state is WARNING for step in done)
    verdict = f"a poll would not succeed: {failed} failed" if failed else "a poll would succeed"
    verdict += f", {warnings} to look at" if warnings else ""
    say(json.dumps([step._asdict() for step in done], indent=2) if as_json else verdict)
    return not failed
