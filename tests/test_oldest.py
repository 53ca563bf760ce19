"""The oldest versions of the dependencies that pyproject.toml admits are good enough."""

import os
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.conftest import ROOT, project

TESTS = (
    "test_client.py",
    "test_metrics.py",
    "test_poll.py",
    "test_portal_faults.py",
    "test_pushgateway.py",
    "test_transport.py",
)


@pytest.mark.slow
def test_the_oldest_dependencies_do(tmp_path: Path) -> None:
    """With them, every fault of the portal costs its own request and nothing else."""
    oldest = [requirement.replace(">=", "==") for requirement in project()["dependencies"]]
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", f"--target={tmp_path}", *oldest)
    if subprocess.run(pip, check=False).returncode:
        pytest.skip("the package index cannot be reached")
    found = {re.sub("[-_.]+", "_", each.name).lower(): each.version for each in distributions(path=[str(tmp_path)])}
    assert found.keys() == {requirement.partition("==")[0] for requirement in oldest}
    # What is named there comes before what is installed, also for the programs that the tests start.
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    paths = "import click, requests, urllib3; print(*(m.__file__ for m in (click, requests, urllib3)))"
    used = subprocess.run((sys.executable, "-c", paths), env=env, capture_output=True, text=True, check=True).stdout
    assert used.count(str(tmp_path)) == 3
    tests = [f"tests/{name}" for name in TESTS]
    done = subprocess.run(
        (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *tests),
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
