"""ChinaCache CDN statistics for Prometheus. CONTRIBUTING.md describes the layout of the package."""

__version__ = "1.0.0"
