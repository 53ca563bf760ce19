"""What a metric is, and how the metrics of a finished poll are rendered."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Generic, NamedTuple, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from cc_textfile.ledger import Totals
from cc_textfile.ledger.values import sums_of
from cc_textfile.poll import Snapshot
from cc_textfile.portal.window import Window
from cc_textfile.settings import Settings

T = TypeVar("T")


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


Labelled = Iterator[tuple[dict[str, str], T]]
"""Items that have numbers, such as channels, each with the labels of its samples."""

Samples = tuple[tuple[str, ...], Callable[[Results], Labelled[float]]]
"""The labels of a metric, and what yields its samples."""


class Definition(NamedTuple):
    """A metric: its name, HELP text, labels and type, and what yields its samples."""

    name: str
    help: str
    labels: tuple[str, ...]
    series: Callable[[Results], Labelled[float]]
    is_counter: bool = False

    def family(self) -> Metric:
        """Return the metric without samples."""
        kind = CounterMetricFamily if self.is_counter else GaugeMetricFamily
        return kind(self.name, self.help, labels=self.labels)


def gauge(name: str, help_text: str, samples: Samples) -> Definition:
    """Return a gauge."""
    return Definition(name, help_text, *samples)


def counter(name: str, help_text: str, samples: Samples) -> Definition:
    """Return a counter."""
    return Definition(name, help_text, *samples, is_counter=True)


class Source(Generic[T]):
    """Items that metrics have numbers of, and the names of their labels. A number that is None has no sample."""

    def __init__(self, items: Callable[[Results], Labelled[T]], *labels: str) -> None:
        self._items = items
        self._labels = labels

    def number(self, value: Callable[[T], float | None]) -> Samples:
        """Return samples of one number of each item."""

        def series(results: Results) -> Labelled[float]:
            for labels, item in self._items(results):
                number = value(item)
                if number is not None:
                    yield labels, number

        return self._labels, series

    def by(self, label: str, values: Callable[[T], Mapping[str, float | None]]) -> Samples:
        """Return samples of the numbers of each item, by one more label."""

        def series(results: Results) -> Labelled[float]:
            for labels, item in self._items(results):
                for key, number in values(item).items():
                    if number is not None:
                        yield {**labels, label: key}, number

        return (*self._labels, label), series


POLL: Source[Results] = Source(lambda results: iter([(results.poller, results)]), "account")
"""The poll as a whole."""


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
            series = definition.series(self._results)
            if first := next(series, None):
                family = definition.family()
                # Not a list, as the annotation has it: of 300,000 samples that took 60 MB and a third of the time.
                family.samples = self._samples(definition.name, chain([first], series))  # type: ignore[assignment]
                yield family

    def _samples(self, name: str, series: Iterable[tuple[dict[str, str], float]]) -> Iterator[Sample]:
        for labels, value in series:
            self.series += 1
            yield Sample(name, labels, value)


def merged(rows: list[tuple[str, float | None]]) -> Mapping[str, float | None]:
    """Add up the rows that end in one label; the sum is None where one of them is, or where it is no finite number."""
    single = dict(rows)
    return single if len(single) == len(rows) else sums_of(rows)
