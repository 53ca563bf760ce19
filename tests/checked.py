"""`cc-textfile check` as a user starts it, read as a program would."""

import json
import re
from collections.abc import Mapping
from typing import Any

from cc_textfile.demo import DemoPortal
from cc_textfile.step import State, Step
from tests.conftest import run

NOWHERE = "http://127.0.0.1:1"
"""Where nothing answers."""


class Checked:
    """What a check said: its steps by name, and its exit status."""

    def __init__(self, *arguments: str, env: Mapping[str, str], **options: Any) -> None:
        done = run("check", "--node-exporter", NOWHERE, *arguments, "--json", env=env, **options)
        assert done.stderr == ""
        said = json.loads(done.stdout)
        assert all(tuple(step) == Step._fields for step in said)
        self.status = done.returncode
        self.steps = {step["step"]: Step(**step) for step in said}

    def names(self, step: str, state: State, detail: str, remedy: str = "") -> None:
        """See the step in this state, with these words (patterns) in what was seen and in what mends it."""
        found = self.steps[step]
        assert found.state == state, found
        assert re.search(detail, found.detail), found
        assert re.search(remedy, found.remedy), found
        assert found.remedy or not remedy

    def are(self, state: State) -> set[str]:
        """Return which steps are in the state."""
        return {step.step for step in self.steps.values() if step.state == state}


def alter(portal: DemoPortal, methods: Mapping[str, Any]) -> None:
    """Let the portal handle its requests by these methods."""
    handler: Any = portal.RequestHandlerClass
    portal.RequestHandlerClass = type("Altered", (handler,), dict(methods))
