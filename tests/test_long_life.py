"""A daemon runs for years: what polls leave behind, however they end, is nothing."""

import json

import pytest

from cc_textfile.portal.responses import Method
from tests.conftest import POLLS, LongLife

MEBIBYTE = 1 << 20


@pytest.mark.slow
@pytest.mark.xdist_group("long life")
def test_a_thousand_polls_leave_nothing_behind(long_life: LongLife) -> None:
    """A thousand polls, a third of them failing in every way: memory, threads and open files end as they began."""
    lines, _ = long_life.process.communicate()
    assert long_life.process.returncode == 0, long_life.log.read_text()[-2000:]
    early, late = map(json.loads, lines.splitlines())
    assert late["threads"] == early["threads"] == 1
    assert late["files"] == early["files"]
    assert late["bytes"] - early["bytes"] < MEBIBYTE
    assert long_life.portal.requests > POLLS * len(Method)
    assert [file.name for file in long_life.folder.iterdir()] == ["a.prom"]
