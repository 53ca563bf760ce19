"""A daemon runs for years: what polls leave behind, however they end, is nothing."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cc_textfile.answers import Endpoint
from cc_textfile.demo import FAULTS, DemoPortal
from tests.conftest import ROOT, environment

POLLS = 10_000
MEBIBYTE = 1 << 20


@pytest.mark.slow
def test_ten_thousand_polls_leave_nothing_behind(tmp_path: Path, portal: DemoPortal) -> None:
    """Ten thousand polls, a third of them failing in every way: memory, threads and files end as they began."""
    endings = itertools.cycle(FAULTS)
    polls = itertools.count()

    def third(endpoint: Endpoint, _channel: str) -> str | None:
        if endpoint == Endpoint.HIT_RATE and next(polls) % 3 == 0:
            return next(endings)
        return None

    portal.fault = third
    folder = tmp_path / "textfile"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.long_life", portal.url, str(folder / "a.prom"), str(POLLS)],
        cwd=ROOT,
        # Coverage follows every process; this one would spend most of its time being followed.
        env={name: value for name, value in environment().items() if not name.startswith("COV")},
        capture_output=True,
        text=True,
        check=True,
    )
    early, late = map(json.loads, done.stdout.splitlines())
    assert late["threads"] == early["threads"] == 1
    assert late["files"] == early["files"]
    assert late["bytes"] - early["bytes"] < 2 * MEBIBYTE
    assert portal.requests > POLLS * len(Endpoint)
    assert [file.name for file in folder.iterdir()] == ["a.prom"]
