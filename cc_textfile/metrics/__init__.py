"""The results of a poll as a registry, for `write_to_textfile` and `push_to_gateway`."""

from prometheus_client import CollectorRegistry

from cc_textfile.metrics import counters, gauges, health
from cc_textfile.metrics.family import Results, ResultsCollector

__all__ = ["METRICS", "Results", "ResultsCollector", "registry"]

METRICS = (*gauges.METRICS, *health.METRICS, *counters.METRICS)
"""Every metric that the program exports."""


def registry(results: Results) -> tuple[CollectorRegistry, ResultsCollector]:
    """Return a private registry of the results, and its collector, which counts the series as they are rendered."""
    private = CollectorRegistry(auto_describe=False)
    collector = ResultsCollector(METRICS, results)
    private.register(collector)
    return private, collector
