"""A simulated day, for tests and pictures: what the program exports if it polls the demo portal at given times."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic

from prometheus_client import CollectorRegistry

from cc_textfile.demo import portal as demo
from cc_textfile.errors import RequestError
from cc_textfile.ledger import Ledger
from cc_textfile.logs import Redactor
from cc_textfile.metrics import Results, registry
from cc_textfile.poll import Snapshot
from cc_textfile.portal.client import PortalClient
from cc_textfile.portal.responses import Request, Response
from cc_textfile.portal.transport import Transport
from cc_textfile.settings import Settings

CHANNELS = {
    "100201": {"name": "www.example.com"},
    "100202": {"name": "video.example.com"},
    "100203": {"name": "download.example.com"},
}
STEP = timedelta(minutes=5)
REQUEST_SECONDS = 60


def polls(
    folder: Path, times: Iterable[datetime], account: str = demo.USER
) -> Iterator[tuple[datetime, CollectorRegistry]]:
    """Poll at these times, with a ledger in this folder, and return what is exported each time."""
    clock = datetime.now(UTC)
    with demo.DemoPortal(clock=lambda: clock).serving() as portal:
        settings = Settings(
            user=demo.USER,
            password=demo.PASSWORD,
            account=account,
            channels=tuple(CHANNELS),
            channel_labels=CHANNELS,
            ledger=folder / f"{account}.ledger",
            portal_url=portal.url,
        )
        redactor = Redactor()
        transport = Transport(portal.url, redactor)
        client = PortalClient(transport, settings, redactor)
        for clock in times:
            with Ledger(folder / f"{account}.ledger", settings) as ledger:
                responses, failures = _fetch(client, ledger.plan(clock))
                totals = ledger.record(responses, clock)
            yield clock, registry(Results(settings, Snapshot(responses, failures, clock, 1.5), None, totals))[0]
        transport.close()


def _fetch(
    client: PortalClient, requests: Iterable[Request]
) -> tuple[dict[Request, Response], dict[Request, RequestError]]:
    responses, failures = {}, {}
    for request in requests:
        try:
            responses[request] = client.fetch(request, monotonic() + REQUEST_SECONDS)
        except RequestError as error:
            failures[request] = error
    return responses, failures


def openmetrics(exported: Iterable[tuple[datetime, CollectorRegistry]], target: dict[str, str]) -> str:
    """Return these polls with the labels of a target, for `promtool tsdb create-blocks-from openmetrics`."""
    families: dict[str, list[str]] = {}
    for time, private in exported:
        for family in private.collect():
            lines = families.setdefault(f"# TYPE {family.name} {family.type}\n", [])
            for sample in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in (sample.labels | target).items())
                lines.append(f"{sample.name}{{{labels}}} {sample.value!r} {time.timestamp():.0f}\n")
    return "".join(line for family, lines in families.items() for line in (family, *lines)) + "# EOF\n"
