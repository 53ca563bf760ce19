"""What a metric is, and how the metrics of a finished poll are rendered."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from cc_textfile.ledger import Totals
from cc_textfile.poll import Snapshot
from cc_textfile.portal.window import Window
from cc_textfile.settings import Settings


@dataclass(frozen=True)
class Results:
    """What a poll brought: its snapshot, and the totals of the ledger.

    `window` is that of the gauges, None without gauges. `totals` is None without a ledger, and where that failed.
    """

    settings: Settings
    snapshot: Snapshot
    window: Window | None
    totals: Totals | None

    @property
    def poller(self) -> dict[str, str]:
        """The labels that tell this poller from others."""
        shard = self.settings.shard
        return {"account": self.settings.account} | ({"shard": str(shard)} if shard else {})


Series = Iterator[tuple[dict[str, str], float]]
"""Labels and value of each sample."""


Decorator = Callable[[Callable[[Results], Series]], None]


class Definition(NamedTuple):
    """A metric: its name, HELP text, labels and type, and where its samples come from."""

    name: str
    help: str
    labels: tuple[str, ...]
    is_counter: bool
    series: Callable[[Results], Series]

    def family(self) -> Metric:
        """Return the metric without samples."""
        kind = CounterMetricFamily if self.is_counter else GaugeMetricFamily
        return kind(self.name, self.help, labels=self.labels)


class Metrics(list[Definition]):
    """The metrics of a module, in the order of the output. Each is a function that yields its samples, decorated."""

    def gauge(self, name: str, help_text: str, *labels: str) -> Decorator:
        """Return a decorator that adds a gauge."""
        return lambda series: self.append(Definition(name, help_text, labels, False, series))  # noqa: FBT003

    def counter(self, name: str, help_text: str, *labels: str) -> Decorator:
        """Return a decorator that adds a counter."""
        return lambda series: self.append(Definition(name, help_text, labels, True, series))  # noqa: FBT003


class ResultsCollector(Collector):
    """Renders the results of one poll; `series` is the number of samples that the last `collect` gave."""

    def __init__(self, definitions: Iterable[Definition], results: Results) -> None:
        self._definitions = tuple(definitions)
        self._results = results
        self.series = 0

    def describe(self) -> Iterable[Metric]:
        """Return the families without samples; without this, the registry would render everything once for nothing."""
        return [definition.family() for definition in self._definitions]

    def collect(self) -> Iterable[Metric]:
        """Return the families one by one; the samples of each are made as they are read, and can be read once."""
        self.series = 0
        for definition in self._definitions:
            if next(definition.series(self._results), None):
                family = definition.family()
                # Not a list, as the annotation has it: of 300,000 samples that took 60 MB and a third of the time.
                family.samples = self._samples(definition)  # type: ignore[assignment]
                yield family

    def _samples(self, definition: Definition) -> Iterator[Sample]:
        for labels, value in definition.series(self._results):
            self.series += 1
            yield Sample(definition.name, labels, value)


def merged(rows: Iterable[tuple[str, float | None]]) -> Mapping[str, float]:
    """Add up the rows that end in one label; where one of them has no number, the sum is not known, and left out."""
    sums: dict[str, float] = {}
    for label, value in rows:
        number = math.nan if value is None else value
        sums[label] = sums[label] + number if label in sums else number
    return {label: total for label, total in sums.items() if math.isfinite(total)}
