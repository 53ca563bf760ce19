"""What the demo prints: a table of the file, and what to type next."""

from collections.abc import Sequence
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from cc_textfile.errors import CcTextfileError
from cc_textfile.remedies import os_errors_as


def table(textfile: Path) -> str:
    """Return what a text file says, for people: a block for each channel."""
    samples = [each for family in text_string_to_metric_families(textfile.read_text()) for each in family.samples]
    channels = dict.fromkeys(each.labels["channel"] for each in samples if "channel" in each.labels)
    return "\n\n".join(_block([s for s in samples if s.labels.get("channel") == name], name) for name in channels)


def _block(samples: Sequence[Sample], channel: str) -> str:
    def values(metric: str, label: str = "channel") -> dict[str, float]:
        return {sample.labels[label]: sample.value for sample in samples if sample.name == metric}

    def ranked(metric: str, label: str, form: str) -> str:
        found = sorted(values(metric, label).items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {value:{form}}" for name, value in found[:4]) or "-"

    def gigabytes(metric: str) -> str:
        return "".join(f"{value / 1e9:,.1f} GB" for value in values(metric).values()) or "-"

    hit, miss = map(values("ChinaCache_metrics_hit_miss_total", "HitOrMiss").get, ("Hit", "Miss"))
    time = values("chinacache_settled_seconds_total").get(channel)
    return f"""channel {channel}
  traffic        {gigabytes("ChinaCache_metrics_isp_total_bytes")}
  hit ratio      {f"{hit / (hit + miss):.1%}  ({hit:,.0f} hits, {miss:,.0f} misses)" if hit and miss else "-"}
  status codes   {ranked("ChinaCache_metrics_statuscodes_request_percent", "StatusCode", ".2f")}
  top ISPs       {ranked("ChinaCache_metrics_isp_specific_flux_ratio", "isp", ".1%")}
  top provinces  {ranked("ChinaCache_metrics_region_specific_flux_ratio", "name", ".1%")}
  counter        {gigabytes("chinacache_traffic_bytes_total")}{f" in {time:,.0f} s of CDN time" if time else ""}"""


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
    with os_errors_as(CcTextfileError, f"the folder {folder} cannot be made", folder.parent):
        folder.mkdir(parents=True, exist_ok=True)
