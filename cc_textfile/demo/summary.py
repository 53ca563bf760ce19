"""What the demo prints: a table of the file, and what to type next."""

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from cc_textfile.errors import CcTextfileError

GAUGES = "ChinaCache_metrics_"
MAX_RANKED = 4


def table(textfile: Path) -> str:
    """Return what a text file says, for people: a block for each channel."""
    samples = [sample for family in text_string_to_metric_families(textfile.read_text()) for sample in family.samples]
    channels = dict.fromkeys(sample.labels["channel"] for sample in samples if sample.name.startswith(GAUGES))
    return "\n\n".join(
        _block(channel, [s for s in samples if s.labels.get("channel") == channel]) for channel in channels
    )


def _block(channel: str, samples: list[Sample]) -> str:
    def value(name: str, **labels: str) -> float | None:
        found = [s.value for s in samples if s.name == name and labels.items() <= s.labels.items()]
        return found[0] if found else None

    def ranked(name: str, label: str, form: str) -> str:
        found = sorted((s for s in samples if s.name == GAUGES + name), key=lambda s: -s.value)
        return ", ".join(f"{s.labels[label]} {s.value:{form}}" for s in found[:MAX_RANKED]) or "-"

    traffic = value(f"{GAUGES}isp_total_bytes")
    hits, misses = value(f"{GAUGES}hit_miss_total", HitOrMiss="Hit"), value(f"{GAUGES}hit_miss_total", HitOrMiss="Miss")
    counted = value("chinacache_traffic_bytes_total")
    settled = value("chinacache_settled_seconds_total")
    lines = {
        "traffic": "-" if traffic is None else f"{traffic / 1e9:,.1f} GB",
        "hit ratio": f"{hits / (hits + misses):.1%}  ({hits:,.0f} hits, {misses:,.0f} misses)"
        if hits and misses
        else "-",
        "status codes": ranked("statuscodes_request_percent", "StatusCode", ".2f"),
        "top ISPs": ranked("isp_specific_flux_ratio", "isp", ".1%"),
        "top provinces": ranked("region_specific_flux_ratio", "name", ".1%"),
        "counter": "-" if counted is None else f"{counted / 1e9:,.1f} GB in {settled or 0:,.0f} s of CDN time",
    }
    return "\n".join([f"channel {channel}", *(f"  {name:<14} {text}" for name, text in lines.items())])


def look_further(textfile: Path) -> str:
    """Return what to type next."""
    return f"""The whole file:
  cat {textfile}
How node_exporter serves it (Debian's package is prometheus-node-exporter; elsewhere the program is node_exporter):
  prometheus-node-exporter --collector.textfile.directory={textfile.parent} --web.listen-address=127.0.0.1:9100
  curl -s http://127.0.0.1:9100/metrics | grep -i chinacache
With your own account:
  cc-textfile run --help
The days before the first poll, for Prometheus:
  cc-textfile backfill --help"""


def make_folder(folder: Path) -> None:
    """Make the folder that the demo writes into; raises `CcTextfileError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the folder {folder} cannot be made: {error.strerror}; give another --folder"
        raise CcTextfileError(message) from None
