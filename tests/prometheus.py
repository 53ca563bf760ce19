"""What a real Prometheus is given by the tests, and asked."""

import json
import shutil
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.conftest import PATIENCE, ROOT

MONITORING = ROOT / "monitoring"
RULE_FILES = [MONITORING / "recording.yml", MONITORING / "alerts.yml"]


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """Return the shipped rules of a kind, `record` or `alert`, by name."""
    found: dict[str, dict[str, Any]] = {}
    for path in RULE_FILES:
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                if kind in rule:
                    assert rule[kind] not in found, f"{rule[kind]} is there twice"
                    found[rule[kind]] = rule
    return found


def dashboard_queries() -> list[str]:
    """Return the queries of the dashboard as Grafana sends them with all channels selected."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    found = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    return [query.replace("$channel", ".+").replace("$__range", "1h") for query in found]


def ask(prometheus: str, path: str, **parameters: str) -> Any:
    """Return the data of an answer of Prometheus's API."""
    answer = requests.get(f"{prometheus}/api/v1/{path}", params=parameters, timeout=PATIENCE)
    answer.raise_for_status()
    return answer.json()["data"]


def value(prometheus: str, query: str) -> float | None:
    """Return the value of a query for one series, None where there is no series."""
    result = ask(prometheus, "query", query=query)["result"]
    return float(result[0]["value"][1]) if result else None


def configure(folder: Path, node_exporter: str, pushgateway: str) -> Path:
    """Lay the shipped configuration and rules into a folder, for these addresses and in haste."""
    for path in RULE_FILES:
        shutil.copy(path, folder)
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
    """Let the rules in the folder take for old what is three seconds old, instead of a quarter of an hour."""
    for path in RULE_FILES:
        text = (
            path.read_text(encoding="utf-8")
            .replace("15 * 60", "3")
            .replace("[15m]", "[3s]")
            .replace("for: 2m", "for: 1s")
        )
        (folder / path.name).write_text(text, encoding="utf-8")


def firing(prometheus: str) -> set[str]:
    """Return the names of the alerts that fire."""
    return {rule["name"] for rule in loaded_rules(prometheus) if rule.get("state") == "firing"}
