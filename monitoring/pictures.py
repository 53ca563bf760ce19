"""Draw the README's pictures: `make pictures`. A simulated day in a real Prometheus, drawn by matplotlib."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import dates, ticker
from matplotlib import pyplot as plt

from cc_textfile.portal.window import PORTAL_ZONE
from monitoring.simulated_day import STEP, openmetrics, polls

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "monitoring" / "pictures"
PATH = f"{os.environ['PATH']}:{ROOT}/.tools/usr/bin"
DAY = datetime(2026, 12, 1, tzinfo=PORTAL_ZONE)
COLOURS = ("#3b7dd8", "#f2a541", "#5aa469", "#c1554e", "#8d6cab", "#7f8c8d", "#2b2b2b")


def tool(name: str) -> str:
    """Return the path of a program."""
    return shutil.which(name, path=PATH) or sys.exit(f"{name} is missing: make test fetches it")


@contextmanager
def prometheus(folder: Path) -> Iterator[str]:
    """Run Prometheus over the blocks in a folder; returns its URL."""
    config = folder / "prometheus.yml"
    config.touch()
    command = [tool("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    command += ["--web.listen-address=127.0.0.1:0", "--storage.tsdb.retention.time=100y"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        lines = iter(process.stderr or ())
        # A full pipe would stop Prometheus.
        reader = threading.Thread(target=list, args=(lines,))
        try:
            address = next(match[1] for line in lines if (match := re.search(r'"Listening on" address=(\S+)', line)))
            next(line for line in lines if "ready to receive web requests" in line)
            reader.start()
            yield f"http://{address}"
        finally:
            process.terminate()
            reader.join()


def query(url: str, expression: str) -> list[dict[str, Any]]:
    """Return the series of a query over the day."""
    parameters = urllib.parse.urlencode(
        {
            "query": expression,
            "start": DAY.timestamp(),
            "end": (DAY + timedelta(days=1)).timestamp(),
            "step": STEP.total_seconds(),
        }
    )
    with urllib.request.urlopen(f"{url}/api/v1/query_range?{parameters}", timeout=60) as response:  # noqa: S310 # loopback
        series: list[dict[str, Any]] = json.load(response)["data"]["result"]
    return sorted(series, key=lambda one: sorted(one["metric"].items()))


NAME = "* on (account, channel) group_left (name) chinacache_channel_info"
TRAFFIC = f"""8 * max by (account, channel) (
  rate(chinacache_traffic_bytes_total[1h]) / (rate(chinacache_settled_seconds_total[1h]) > 0)) {NAME}"""
HIT_RATIO = f"""max by (account, channel) (sum without (result) (rate(chinacache_requests_total{{result="hit"}}[1h]))
  / sum without (result) (rate(chinacache_requests_total[1h]))) {NAME}"""
CODES = "sum by (code) (rate(chinacache_responses_total[1h]))"


def draw(url: str, name: str, title: str, expression: str, *, label: str, formatter: ticker.Formatter) -> None:
    """Draw one picture, stacked unless it shows ratios."""
    figure, axes = plt.subplots(figsize=(10, 3.2), layout="constrained")
    series = query(url, expression)
    times = [datetime.fromtimestamp(time, PORTAL_ZONE) for time, _ in series[0]["values"]]
    lines = {one["metric"][label]: [float(value) for _, value in one["values"]] for one in series}
    colours = dict(zip(lines, COLOURS, strict=False))
    if isinstance(formatter, ticker.PercentFormatter):
        for key, values in lines.items():
            axes.plot(times, values, label=key, color=colours[key], linewidth=1.8)
        axes.set_ylim(0, 1.02)
    else:
        axes.stackplot(times, *lines.values(), labels=lines, colors=list(colours.values()), alpha=0.85)
        axes.set_ylim(0)
    axes.set_xlim(times[0], times[-1])
    axes.set_title(title, loc="left", fontsize=11)
    axes.xaxis.set_major_locator(dates.HourLocator(byhour=range(0, 24, 3), tz=PORTAL_ZONE))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M", tz=PORTAL_ZONE))
    axes.yaxis.set_major_formatter(formatter)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, reverse=True)
    figure.savefig(PICTURES / f"{name}.png", dpi=110, metadata={"Software": None})


def main() -> None:
    """Fill a Prometheus with a day and draw it."""
    mpl.use("agg")
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "day.om"
        times = [DAY + number * STEP for number in range(-6 * 12, 24 * 12 + 1)]
        text.write_text(openmetrics(polls(folder, times), {"job": "node", "instance": "host:9100"}), encoding="utf-8")
        command = [tool("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(text), str(folder / "tsdb")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with prometheus(folder) as url:
            bits, count = ticker.EngFormatter(unit="bit/s"), ticker.EngFormatter(unit="/s")
            draw(url, "traffic", "Traffic by channel, one day (UTC+8)", TRAFFIC, label="name", formatter=bits)
            percent = ticker.PercentFormatter(xmax=1)
            draw(url, "hit-ratio", "Hit ratio by channel, one day (UTC+8)", HIT_RATIO, label="name", formatter=percent)
            draw(url, "status-codes", "Responses by status code, one day (UTC+8)", CODES, label="code", formatter=count)


if __name__ == "__main__":
    main()
