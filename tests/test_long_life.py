"""A daemon runs for years: what polls leave behind, however they end, is nothing."""

import json

import pytest

from cc_textfile.answers import Endpoint
from tests.conftest import POLLS, LongLife

MEBIBYTE = 1 << 20


@pytest.mark.slow
def test_ten_thousand_polls_leave_nothing_behind(long_life: LongLife) -> None:
    """Ten thousand polls, a third of them failing in every way: memory, threads and files end as they began."""
    said, _ = long_life.process.communicate()
    assert long_life.process.returncode == 0, long_life.log.read_text()[-2000:]
    early, late = map(json.loads, said.splitlines())
    assert late["threads"] == early["threads"] == 1
    assert late["files"] == early["files"]
    assert late["bytes"] - early["bytes"] < 2 * MEBIBYTE
    assert long_life.portal.requests > POLLS * len(Endpoint)
    assert [file.name for file in long_life.folder.iterdir()] == ["a.prom"]
