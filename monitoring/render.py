"""Render the alerts, the recording rules and the dashboard: `python -m monitoring.render`.

FILE is a jsonnet file with an object of settings, such as `{ maxErrorRatio: 0.02 }`; mixin/config.libsonnet lists them.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import _jsonnet  # the module of the package jsonnet
import yaml

from monitoring import dashboard

FOLDER = Path(__file__).parent
HEADER = "# Rendered by `make monitoring` from monitoring/mixin. Change the files there, not this one.\n"
KEYS = ("record", "alert", "expr", "for", "labels", "annotations")


def render(config: Path | None = None) -> dict[str, str]:
    """Return the rendered files by name. Raises RuntimeError for a setting that is unknown or of a wrong type."""
    mixin = f"(import {json.dumps(str(FOLDER / 'mixin' / 'mixin.libsonnet'))})"
    if config:
        mixin += f" + {{ _config+:: import {json.dumps(str(config.resolve()))} }}"

    def evaluate(expression: str) -> Any:
        return json.loads(_jsonnet.evaluate_snippet("render.py", f"local mixin = {mixin}; {expression}"))

    return {
        "rules.yml": HEADER + _yaml(evaluate("mixin.prometheusRules")),
        "alerts.yml": HEADER + _yaml(evaluate("mixin.prometheusAlerts")),
        "dashboard.json": dashboard.build(evaluate("mixin.dashboardConfig")),
    }


def _yaml(groups: dict[str, Any]) -> str:
    """Return rule groups as YAML, each rule in the order in which a person reads it; jsonnet sorts by name."""
    for group in groups["groups"]:
        group["rules"] = [{key: rule[key] for key in KEYS if key in rule} for rule in group["rules"]]
    return yaml.dump(groups, Dumper=_Dumper, sort_keys=False, width=1000)


class _Dumper(yaml.SafeDumper):
    """Writes a text of several lines as such."""


_Dumper.add_representer(
    str, lambda self, text: self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)
)


def main() -> None:
    """Write the rendered files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", type=Path, help="a jsonnet file with settings that differ from the defaults")
    parser.add_argument("--output", type=Path, default=FOLDER, help="the folder to write to")
    arguments = parser.parse_args()
    try:
        files = render(arguments.config)
    except RuntimeError as error:
        sys.exit(str(error).splitlines()[0])  # the rest is where jsonnet was at that time
    for name, text in files.items():
        (arguments.output / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
