"""ChinaCache CDN statistics as a Prometheus text file."""

__version__ = "1.0.0"
