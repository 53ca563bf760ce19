"""Draws the README's pictures: the demo's numbers on the graph page of a real Prometheus, by headless Chromium.

`python monitoring/pictures.py MINUTES` lets the whole chain run for so long, and then takes the pictures: demo portal,
cc-textfile, node_exporter, Prometheus with the shipped configuration. Debian's packages chromium and prometheus have to
be installed; the latter, unlike the program alone that the tests fetch, has the graph page.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from cc_textfile import demo

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "monitoring" / "pictures"
GRAPH_PAGE = Path("/usr/share/prometheus/web")
PATH = f"{os.environ['PATH']}:{ROOT}/.tools/usr/bin"

GRAPHS = {"traffic": {"channel:ChinaCache_metrics_total_bytes:per_second * 8": True}}
"""What each picture shows: PromQL, and whether it is stacked."""


@contextmanager
def serving(*command: str) -> Iterator[str]:
    """Run a server on a free loopback port and give its host:port."""
    program = shutil.which(command[0], path=PATH)
    if not program:
        sys.exit(f"{command[0]} is not here; make test fetches it")
    with subprocess.Popen(
        [program, "--web.listen-address=127.0.0.1:0", *command[1:]], stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            said = iter(process.stderr or ())
            address = next(match[1] for line in said if (match := re.search(r'msg="Listening on" address=(\S+)', line)))
            # A program whose standard error nobody reads stands still, and one whose standard error is closed ends.
            threading.Thread(target=list, args=(said,), daemon=True).start()
            yield address
        finally:
            process.kill()


def main() -> None:
    """Run the chain, wait, and take the pictures."""
    minutes = float(sys.argv[1])
    chromium = shutil.which("chromium")
    if not chromium or not GRAPH_PAGE.exists():
        sys.exit("chromium, or Prometheus's graph page, is not here: apt-get install chromium prometheus")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        textfiles = folder / "textfiles"
        textfiles.mkdir()
        portal = stack.enter_context(demo.DemoPortal().serving())
        flags = {
            "--user": demo.USER,
            "--channels": ",".join(demo.CHANNELS),
            "--portal-url": portal.url,
            "--textfile": str(textfiles / "cc-textfile.prom"),
            "--interval": "5s",
            "--log-level": "error",
        }
        loop = subprocess.Popen(
            [sys.executable, "-m", "cc_textfile", "run", *(word for pair in flags.items() for word in pair)],
            env={**os.environ, "CHINACACHE_PASS": demo.PASSWORD},
        )
        stack.callback(loop.wait)
        stack.callback(loop.terminate)
        exporter = stack.enter_context(
            serving(
                "prometheus-node-exporter",
                "--collector.disable-defaults",
                "--collector.textfile",
                f"--collector.textfile.directory={textfiles}",
            )
        )
        for rules in ("recording.yml", "alerts.yml"):
            shutil.copy(ROOT / "monitoring" / rules, folder)
        config = (ROOT / "monitoring" / "prometheus.yml").read_text()
        config = config.replace("localhost:9100", exporter).replace(": 1m", ": 5s")
        (folder / "prometheus.yml").write_text(config)
        prometheus = stack.enter_context(
            serving("prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb")
        )
        sys.stdout.write(f"polling for {minutes:g} minutes; http://{prometheus}/graph shows it\n")
        time.sleep(60 * minutes)  # the picture is of this time
        PICTURES.mkdir(exist_ok=True)
        for name, graph in GRAPHS.items():
            picture = PICTURES / f"{name}.png"
            # What a browser without a desktop misses, it tells at length.
            subprocess.run(
                [chromium, *BROWSER, f"--screenshot={picture}", page(prometheus, graph, minutes)],
                check=True,
                stderr=subprocess.DEVNULL,
            )
            sys.stdout.write(f"{picture.relative_to(ROOT)}\n")


BROWSER = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--window-size=1200,840",
    "--virtual-time-budget=15000",
)


def page(prometheus: str, graph: dict[str, bool], minutes: float) -> str:
    """Return the address of Prometheus's graph page with these queries over the last minutes."""
    parameters: dict[str, str] = {}
    for number, (query, stacked) in enumerate(graph.items()):
        parameters |= {
            f"g{number}.expr": query,
            f"g{number}.tab": "0",
            f"g{number}.stacked": str(int(stacked)),
            f"g{number}.range_input": f"{round(minutes)}m",
        }
    return urlsplit(f"http://{prometheus}/graph")._replace(query=urlencode(parameters)).geturl()


if __name__ == "__main__":
    main()
