"""The benchmarks still run, and what they say of the last time is what they found then; nothing here is timed."""

import json
from pathlib import Path

import pytest

from benchmarks import render
from benchmarks.__main__ import LAST, README, Row, bench, table


@pytest.mark.slow
def test_program_and_floor_make_the_same_requests() -> None:
    """What is compared does the same work: the same requests, over as many connections, and none of them lost."""
    with bench() as at:
        floor, program = at.run("floor", *at.get(10)), at.run("program", *at.poll(10))
        assert floor.requests == program.requests == 40
        assert floor.connections <= 32
        assert program.connections <= 32
        assert at.lost(10) == 0
        assert min(program.wall, program.cpu, program.memory) > 0


def test_program_and_floor_write_the_same_series(tmp_path: Path) -> None:
    """The floor of the writing has the program's own text."""
    texts = []
    for how in ("program", "floor"):
        render.main(how, tmp_path / "a.prom", 20)
        texts.append((tmp_path / "a.prom").read_bytes())
    assert texts[0] == texts[1]


def test_the_last_table_is_the_last_measurement() -> None:
    """The table in the benchmarks' README shows what the figures beside it say, and every target is met."""
    said = json.loads(LAST.read_text())
    assert table(said) in README.read_text()
    assert [row for row in said["rows"] if not Row(**row).met] == []
