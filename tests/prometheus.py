"""What a real Prometheus is given by the tests, and asked."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.conftest import PATIENCE, ROOT, tool

MONITORING = ROOT / "monitoring"
RULE_FILES = [MONITORING / "rules.yml", MONITORING / "alerts.yml"]


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """Return the committed rules of a kind, `record` or `alert`, by name."""
    found: dict[str, dict[str, Any]] = {}
    for path in RULE_FILES:
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                if kind in rule:
                    assert rule[kind] not in found, f"{rule[kind]} is there twice"
                    found[rule[kind]] = rule
    return found


def dashboard() -> dict[str, Any]:
    """Return the committed dashboard."""
    found: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    return found


def dashboard_queries() -> list[str]:
    """Return the queries of the dashboard as Grafana sends them with all accounts and channels selected."""
    found = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    variables = {"$account": ".+", "$channel": ".+", "$__rate_interval": "20m", "$__range": "1d"}
    for name, value_of_all in variables.items():
        found = [query.replace(name, value_of_all) for query in found]
    return found


def metrics_of(query: str) -> set[str]:
    """Return the names of the series that a PromQL query asks for."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", query)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]", "", bare)
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    words = re.findall(r"(?<![\w:.])([A-Za-z_][\w:]*)(?!\s*\(|[\w:])", re.sub(r"\boffset\s+\w+", "", bare))
    return set(words) - {"and", "or", "unless", "bool"}


def ask(prometheus: str, path: str, **parameters: str) -> Any:
    """Return the data of a response of Prometheus's API."""
    response = requests.get(f"{prometheus}/api/v1/{path}", params=parameters, timeout=PATIENCE)
    assert response.ok, response.text
    return response.json()["data"]


def value(prometheus: str, query: str) -> float | None:
    """Return the value of a query for one series, None where there is no series."""
    result = ask(prometheus, "query", query=query)["result"]
    return float(result[0]["value"][1]) if result else None


def make_blocks(openmetrics: str, folder: Path) -> None:
    """Make blocks of these samples in `folder / "tsdb"`, where the fixture `prometheus` reads them."""
    file = folder / "history.om"
    file.write_text(openmetrics, encoding="utf-8")
    command = [tool("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(file), str(folder / "tsdb")]
    subprocess.run(command, check=True, capture_output=True)


def configure(folder: Path, node_exporter: str, pushgateway: str) -> Path:
    """Write the shipped configuration and rules into a folder, for these addresses and with short intervals."""
    for path in RULE_FILES:
        text = path.read_text(encoding="utf-8").replace("interval: 5m", "interval: 250ms")
        (folder / path.name).write_text(text, encoding="utf-8")
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"}
    addresses = {"localhost:9100": node_exporter, "localhost:9091": pushgateway}
    for scrape in config["scrape_configs"]:
        for static in scrape["static_configs"]:
            static["targets"] = [addresses[target] for target in static["targets"]]
    made = folder / "prometheus.yml"
    made.write_text(yaml.safe_dump(config), encoding="utf-8")
    return made


def loaded_rules(prometheus: str) -> list[dict[str, Any]]:
    """Return the rules as Prometheus has them, once each was evaluated, and none before."""
    found = [rule for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]
    return [] if any(rule["health"] == "unknown" for rule in found) else found


def hasten(folder: Path) -> None:
    """Make polls stale after ten seconds instead of a quarter of an hour, in the rules that `configure` wrote."""
    file = folder / "alerts.yml"
    text = re.sub(r"\b900\b", "10", file.read_text(encoding="utf-8")).replace("for: 5m", "for: 1s")
    file.write_text(text, encoding="utf-8")


def firing(prometheus: str) -> set[str]:
    """Return the names of the alerts that fire."""
    return {rule["name"] for rule in loaded_rules(prometheus) if rule.get("state") == "firing"}
