"""Makes `dashboard.json`, the Grafana dashboard, beside this file: `python monitoring/dashboard.py`.

The numbers of the CDN come from the series of `recording.yml`, which count each channel once however it reached
Prometheus; the same is not to be had in a query that a person could read. The last row needs no rules.
"""

from pathlib import Path
from string import ascii_uppercase
from typing import TypeVar

from grafana_foundation_sdk.builders.bargauge import Panel as BarGauge
from grafana_foundation_sdk.builders.common import ReduceDataOptions, StackingConfig
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.table import Panel as Table
from grafana_foundation_sdk.builders.timeseries import Panel as TimeSeries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BarGaugeDisplayMode,
    BigValueColorMode,
    StackingMode,
    TimeZoneBrowser,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    DataTransformerConfig,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

TARGET = Path(__file__).with_name("dashboard.json")

DATA_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
SELECTED = '{channel=~"$channel"}'

# ISPs and provinces have rows for a few minutes a day, at midnight in UTC+8; an hour over a day finds the last.
LAST_DAY = "[25h]"

TRAFFIC = f"channel:ChinaCache_metrics_total_bytes:per_second{SELECTED}"
REQUESTS = f"channel:ChinaCache_metrics_hit_miss_total:per_second{SELECTED}"
HIT_RATIO = f"channel:ChinaCache_metrics_hit_miss_total:hit_ratio{SELECTED}"
HITS_AND_MISSES = f"channel_HitOrMiss:ChinaCache_metrics_hit_miss_total:per_second{SELECTED}"
CODES = f"channel_StatusCode:ChinaCache_metrics_statuscodes_request_count:max{SELECTED}"
LAST_HOUR = f"channel:ChinaCache_metrics_statuscodes_request_count:delta_1h{SELECTED}"
ERRORS = f"channel:ChinaCache_metrics_statuscodes_request_count:delta_1h_5xx{SELECTED}"
ERROR_RATIO = f"channel:ChinaCache_metrics_statuscodes_request_count:ratio_5xx_1h{SELECTED}"
ISPS = f"last_over_time(channel_isp:ChinaCache_metrics_isp_specific_flux_ratio:bytes{SELECTED}{LAST_DAY})"
PROVINCES = f"last_over_time(channel_name:ChinaCache_metrics_region_specific_flux_ratio:bytes{SELECTED}{LAST_DAY})"
ANSWERED = f"channel_endpoint:cc_textfile_endpoint_up:max{SELECTED}"
# A Prometheus of prometheus-operator has an `endpoint` of its own for every target, and renames ours.
DROPPED = 'label_replace(cc_textfile_dropped_rows, "endpoint", "$1", "exported_endpoint", "(.+)")'
POLLED = f"channel_job_instance:cc_textfile_poll_timestamp_seconds:max{SELECTED}"

# A poller that pushes has a job and no instance.
POLLER = "{{instance}} {{job}}"

# The columns that Grafana adds to a table of labels.
WITHOUT_NUMBERS = {"Time": True, "Value": True}

AnyPanel = TypeVar("AnyPanel", BarGauge, Stat, Table, TimeSeries)


def filled(panel: AnyPanel, title: str, description: str, unit: str, size: tuple[int, int]) -> AnyPanel:
    """Give a panel what every panel has; `size` is width (of 24) and height, in cells of the grid."""
    width, height = size
    return panel.title(title).description(description).unit(unit).span(width).height(height).datasource(DATA_SOURCE)


def query(expr: str, legend: str = "") -> Dataquery:
    """Ask for the range of the dashboard."""
    return Dataquery().expr(expr).range().legend_format(legend).datasource(DATA_SOURCE)


def latest(expr: str, legend: str = "") -> Dataquery:
    """Ask for the end of the range alone."""
    return Dataquery().expr(expr).instant().legend_format(legend).datasource(DATA_SOURCE)


def red_from(value: float) -> ThresholdsConfig:
    """Colour a value green below a limit and red from it on."""
    steps = [Threshold(value=None, color="green"), Threshold(value=value, color="red")]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def red_below(value: float) -> ThresholdsConfig:
    """Colour a value red below a limit and green from it on."""
    steps = [Threshold(value=None, color="red"), Threshold(value=value, color="green")]
    return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def stat(title: str, description: str, unit: str, width: int = 4) -> Stat:
    """Show one large number with its line behind it."""
    reduced = ReduceDataOptions().calcs(["lastNotNull"])
    panel = filled(Stat(), title, description, unit, (width, 4))
    return panel.color_mode(BigValueColorMode.VALUE).reduce_options(reduced)


def graph(title: str, description: str, unit: str, width: int = 12) -> TimeSeries:
    """Show lines over time."""
    return filled(TimeSeries(), title, description, unit, (width, 8)).min(0).fill_opacity(10)


def stacked(panel: TimeSeries) -> TimeSeries:
    """Put the lines of a graph one on top of another."""
    return panel.fill_opacity(40).stacking(StackingConfig().mode(StackingMode.NORMAL).group("A"))


def bars(title: str, description: str, width: int) -> BarGauge:
    """Show a bar for each series, for its share of the whole."""
    panel = filled(BarGauge(), title, description, "percentunit", (width, 12)).min(0).max(1).decimals(1)
    panel = panel.orientation(VizOrientation.HORIZONTAL).display_mode(BarGaugeDisplayMode.BASIC)
    return panel.reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))


def shares(title: str, description: str, across: str) -> Table:
    """Show a row for each channel and a column for each value of the label `across`."""
    # Grafana's own name for a series' value, whatever its labels.
    pivot = {"columnField": across, "rowField": "channel", "valueField": "Value"}
    panel = filled(Table(), title, description, "percentunit", (12, 8)).decimals(1)
    return panel.with_transformation(DataTransformerConfig(id_val="groupingToMatrix", options=pivot))


def overview(dashboard: Dashboard) -> None:
    """Add traffic, requests, hit ratio and errors."""
    dashboard.with_row(Row("Overview"))
    dashboard.with_panel(
        stat("Traffic", "Bytes of the portal's window by its length.", "bps").with_target(query(f"sum({TRAFFIC}) * 8"))
    )
    dashboard.with_panel(
        stat("Requests", "Hits and misses of the window by its length.", "reqps").with_target(query(f"sum({REQUESTS})"))
    )
    dashboard.with_panel(
        stat("Hit ratio", "Hits by requests, so that a busy channel counts for more.", "percentunit")
        .decimals(1)
        .with_target(query(f"sum({HIT_RATIO} * {REQUESTS}) / (sum({REQUESTS}) > 0)"))
    )
    dashboard.with_panel(
        stat("5xx", "Share of the last hour's requests; of the day's where it is younger than an hour.", "percentunit")
        .decimals(2)
        .thresholds(red_from(0.05))
        .with_target(query(f"sum({ERRORS}) / (sum({LAST_HOUR}) > 0)"))
    )
    dashboard.with_panel(
        stat("Oldest number", "Of all channels that are still served, how long ago the last poll was.", "s")
        .thresholds(red_from(15 * 60))
        .with_target(query(f"time() - min(max by (channel) ({POLLED}))"))
    )
    dashboard.with_panel(
        stat("Alerts", "Alerts of alerts.yml that fire now.", "none")
        .thresholds(red_from(1))
        .with_target(query('sum(ALERTS{alertname=~"ChinaCache.*", alertstate="firing"}) or vector(0)'))
    )
    dashboard.with_panel(
        stacked(graph("Traffic by channel", "", "bps")).with_target(query(f"{TRAFFIC} * 8", "{{channel}}"))
    )
    dashboard.with_panel(
        stacked(graph("Hits and misses", "", "reqps")).with_target(
            query(f"sum by (HitOrMiss) ({HITS_AND_MISSES})", "{{HitOrMiss}}")
        )
    )
    dashboard.with_panel(
        graph("Hit ratio by channel", "A window without a request has none.", "percentunit")
        .max(1)
        .with_target(query(HIT_RATIO, "{{channel}}"))
    )
    dashboard.with_panel(
        graph("5xx by channel", "Share of the last hour's requests.", "percentunit").with_target(
            query(ERROR_RATIO, "{{channel}}")
        )
    )


def status_codes(dashboard: Dashboard) -> None:
    """Add what the requests ended in."""
    dashboard.with_row(Row("Status codes"))
    dashboard.with_panel(
        graph(
            "Requests of the day by status code",
            "The portal counts over whole days in UTC+8, so the lines rise through the day and fall at its midnight.",
            "short",
            16,
        )
        .height(12)
        .with_target(query(f"sum by (StatusCode) ({CODES})", "{{StatusCode}}"))
    )
    dashboard.with_panel(
        bars("Share by status code", "Of the requests of the day so far.", 8).with_target(
            latest(
                f"sort_desc(sum by (StatusCode) ({CODES}) / on () group_left () (sum({CODES}) > 0))", "{{StatusCode}}"
            )
        )
    )


def isps_and_provinces(dashboard: Dashboard) -> None:
    """Add where the traffic goes to."""
    made = "The portal makes these once a day, around midnight in UTC+8: the last ones of the past day."
    dashboard.with_row(Row("ISPs and provinces"))
    for title, series, label in (("ISP", ISPS, "isp"), ("province", PROVINCES, "name")):
        share = f"sum by ({label}) ({series}) / on () group_left () (sum({series}) > 0)"
        dashboard.with_panel(
            bars(f"Traffic by {title}", f"{made} The largest twenty.", 12).with_target(
                latest(f"sort_desc(topk(20, {share}))", f"{{{{{label}}}}}")
            )
        )
    for title, series, label in (("ISP", ISPS, "isp"), ("province", PROVINCES, "name")):
        share = f"{series} / on (channel) group_left () (sum by (channel) ({series}) > 0)"
        dashboard.with_panel(
            shares(f"Each channel by {title}", made, label).with_target(latest(share).format(PromQueryFormat.TABLE))
        )


def poller(dashboard: Dashboard) -> None:
    """Add what tells whether the numbers can be believed: each poller by itself, and the portal."""
    dashboard.with_row(Row("Health of the poller"))
    dashboard.with_panel(
        stat("Since the last poll", "By host, or ChinaCachePush for what is pushed.", "s", 8)
        .thresholds(red_from(15 * 60))
        .with_target(query("time() - max by (job, instance) (cc_textfile_poll_timestamp_seconds)", POLLER))
    )
    dashboard.with_panel(
        stat("Polls without a failure", "Of the range shown. One failed request makes a failure.", "percentunit", 8)
        .thresholds(red_below(0.9))
        .with_target(latest("max by (job, instance) (avg_over_time(cc_textfile_poll_success[$__range]))", POLLER))
    )
    dashboard.with_panel(
        filled(Table(), "Versions", "Of cc-textfile, by poller.", "none", (8, 4))
        .with_transformation(DataTransformerConfig(id_val="organize", options={"excludeByName": WITHOUT_NUMBERS}))
        .with_target(latest("max by (job, instance, version) (cc_textfile_build_info)").format(PromQueryFormat.TABLE))
    )
    dashboard.with_panel(
        graph("Channels answered by endpoint", "Share of the selected channels.", "percentunit")
        .max(1)
        .with_target(query(f"avg by (endpoint) ({ANSWERED})", "{{endpoint}}"))
    )
    dashboard.with_panel(
        bars("Channels answered worst", "Share of the endpoints that answered, in the range shown.", 12)
        .height(8)
        .with_target(
            latest(f"sort(bottomk(10, avg by (channel) (avg_over_time({ANSWERED}[$__range]))))", "{{channel}}")
        )
    )
    dashboard.with_panel(
        graph("Failed requests by reason", "Of each poll.", "short").with_target(
            query("sum by (job, instance, reason) (cc_textfile_failures)", f"{{{{reason}}}} {POLLER}")
        )
    )
    dashboard.with_panel(
        graph("Rows that could not be read", "Left out of good answers, of each poll.", "short").with_target(
            query(f"sum by (job, instance, endpoint) ({DROPPED})", f"{{{{endpoint}}}} {POLLER}")
        )
    )
    dashboard.with_panel(
        graph("Duration of a poll", "", "s").with_target(
            query("max by (job, instance) (cc_textfile_poll_duration_seconds)", POLLER)
        )
    )
    dashboard.with_panel(
        graph("Age of the window and of the output", "The window's end, the file's time, the push's time.", "s")
        .with_target(
            query("time() - max by (job, instance) (cc_textfile_window_end_timestamp_seconds)", f"window {POLLER}")
        )
        .with_target(
            query(
                "time() - (node_textfile_mtime_seconds and on (job, instance) cc_textfile_poll_timestamp_seconds"
                ' or push_time_seconds{job="ChinaCachePush"})',
                f"output {POLLER} {{{{file}}}}",
            )
        )
    )


def build() -> str:
    """Build the dashboard, as the text of `dashboard.json`."""
    builder = (
        Dashboard("ChinaCache CDN")
        .uid("cc-textfile")
        .description("Made by cc-textfile's monitoring/dashboard.py. It needs the rules of monitoring/recording.yml.")
        .tags(["cdn", "chinacache", "cc-textfile"])
        .timezone(TimeZoneBrowser)
        .time("now-24h", "now")
        .refresh("1m")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(
            QueryVariable("channel")
            .label("Channel")
            .query("label_values(cc_textfile_endpoint_up, channel)")
            .datasource(DATA_SOURCE)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(multi=True)
            .include_all(include_all=True)
            .all_value(".+")
            .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
        )
    )
    for row in (overview, status_codes, isps_and_provinces, poller):
        row(builder)
    dashboard = builder.build()
    # The SDK numbers neither panels nor queries, and Grafana takes two of one number for one.
    for number, panel in enumerate(dashboard.panels or [], start=1):
        panel.id_val = number
        for letter, target in zip(ascii_uppercase, getattr(panel, "targets", None) or [], strict=False):
            target.ref_id = letter
    return JSONEncoder(indent=2, sort_keys=True, ensure_ascii=False).encode(dashboard) + "\n"


if __name__ == "__main__":
    TARGET.write_text(build(), encoding="utf-8")
