"""A process that does nothing but write a text file, for tests that kill it.

`python -m tests.writer FILE` tells that it is ready, waits for a line, writes one generation, and ends.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from cc_textfile.output.textfile import Textfile

SERIES = 300


class Generation(Collector):
    """So many series that all have the number of their generation, by which a mixture would show."""

    def __init__(self, number: int) -> None:
        self._number = number

    def collect(self) -> Iterator[Metric]:
        """Return the series."""
        family = GaugeMetricFamily("cc_textfile_generation", "Of one write.", labels=["n"])
        for n in range(SERIES):
            family.add_metric([str(n)], self._number)
        yield family


def generation(number: int) -> CollectorRegistry:
    """Return the registry of a generation."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Generation(number))
    return registry


def main() -> None:
    """Write when told."""
    textfile = Textfile(Path(sys.argv[1]))
    with textfile.locked():
        sys.stderr.write("ready\n")
        sys.stderr.flush()
        sys.stdin.readline()
        textfile.deliver(generation(2))


if __name__ == "__main__":
    main()
