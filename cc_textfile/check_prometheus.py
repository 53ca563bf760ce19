"""What `cc-textfile check` sees of the programs that pass the numbers on: a Pushgateway, and node_exporter."""

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from cc_textfile.answers import HTTP_OK
from cc_textfile.errors import PortalError
from cc_textfile.output import JOB, Pushgateway, without_account
from cc_textfile.redaction import Redactor
from cc_textfile.settings import Settings, called
from cc_textfile.step import Clock, State, Step, within
from cc_textfile.transport import Transport
from cc_textfile.values import DAY

MOST_BYTES = 64 * 1024 * 1024
"""The longest page of metrics that is read: a hundred bytes for each of some 600 000 series."""


def samples(page: bytes, name: str) -> list[Sample]:
    """Return the samples of that name on a page of metrics; lines that are none are passed over."""
    found: list[Sample] = []
    for line in page.splitlines():
        if line.startswith(name.encode()):
            with suppress(ValueError):
                families = text_string_to_metric_families(line.decode() + "\n")
                found += [sample for family in families for sample in family.samples if sample.name == name]
    return found


def pushgateway(settings: Settings, redact: Redactor, clock: Clock) -> Iterator[Step]:
    """Look whether the Pushgateway is there to take pushes, and how old its last one is."""
    if not settings.pushgateway:
        yield Step("pushgateway ready", State.SKIPPED, f"{called('pushgateway')} is not set")
        return
    gateway = Pushgateway(settings.pushgateway, shard=settings.shard, timeout=settings.timeout, redact=redact)
    try:
        status = within(settings.timeout, partial(gateway.get, "/-/ready")).status
    except PortalError as error:
        remedy = f"start a Pushgateway there, or correct {called('pushgateway')}"
        yield Step("pushgateway ready", State.FAILED, str(error), remedy)
        return
    if status != HTTP_OK:
        remedy = f"correct {called('pushgateway')}: its address and path, and user and password if it wants them"
        yield Step("pushgateway ready", State.FAILED, f"{gateway.url}/-/ready answers {status}", remedy)
        return
    yield Step("pushgateway ready", State.OK, f"{gateway.url} is ready")
    try:
        yield _version(within(settings.timeout, partial(gateway.get, "/api/v1/status")).body, redact)
        page = within(settings.timeout, partial(gateway.get, "/metrics", most=MOST_BYTES)).body
    except PortalError as error:
        yield Step("pushgateway group", State.SKIPPED, f"its age is not known: {error}")
        return
    group = {"job": JOB, "instance": "", **gateway.grouping_key}
    named = " of ".join([*gateway.grouping_key.values(), f"the job {JOB}"])
    pushed = [push.value for push in samples(page, "push_time_seconds") if push.labels == group]
    if not pushed:
        yield Step("pushgateway group", State.OK, f"nothing is pushed yet for {named}")
        return
    age = clock().timestamp() - pushed[0]
    detail = f"{named} was pushed {_duration(age)} ago"
    if age <= _most_age(settings):
        yield Step("pushgateway group", State.OK, detail)
        return
    place = [word for pair in gateway.grouping_key.items() for word in pair]
    delete = shlex.join(["curl", "-X", "DELETE", "/".join([gateway.url, "metrics/job", JOB, *place])])
    remedy = f"start cc-textfile run; if nobody pushes any more: {delete}"
    yield Step("pushgateway group", State.WARNING, f"{detail}, and is served for ever", remedy)


def _version(body: bytes, redact: Redactor) -> Step:
    try:
        version = json.loads(body)["data"]["build_information"]["version"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return Step("pushgateway version", State.SKIPPED, "it does not say")
    return Step("pushgateway version", State.OK, redact.quote(str(version)))


def node_exporter(settings: Settings, url: str, redact: Redactor, clock: Clock) -> Iterator[Step]:
    """Look whether node_exporter serves the file; a poll succeeds without it, so nothing here is a failure."""
    if not settings.textfile:
        yield Step("node_exporter answer", State.SKIPPED, f"{called('textfile')} is not set")
        return
    path = settings.textfile.absolute()
    flag = f"--collector.textfile.directory={shlex.quote(str(path.parent))}"
    url, account = without_account(url, redact)
    url += "" if urlsplit(url).path else "/metrics"
    get = partial(Transport(url).exchange, "GET", url, timeout=settings.timeout, headers=account, most=MOST_BYTES)
    try:
        reply = within(settings.timeout, get)
    except PortalError as error:
        remedy = "if it is elsewhere: --node-exporter URL"
        yield Step("node_exporter answer", State.SKIPPED, f"none answers: {error}", remedy)
        return
    errors = any(sample.value for sample in samples(reply.body, "node_textfile_scrape_error"))
    mtimes = samples(reply.body, "node_textfile_mtime_seconds")
    if reply.status != HTTP_OK or b"node_textfile_scrape_error" not in reply.body:
        detail = f"{url} answers {reply.status}, without the metrics of a textfile collector"
        remedy = f"start node_exporter with {flag}, or name another: --node-exporter URL"
        yield Step("node_exporter answer", State.WARNING, detail, remedy)
        return
    yield Step("node_exporter answer", State.OK, f"{url} has a textfile collector")
    files = {mtime.labels.get("file", ""): mtime.value for mtime in mtimes}
    ours = [mtime for file, mtime in files.items() if _is_same(file, mtime, path)]
    yield _file(path, files, clock().timestamp() - ours[0] if ours else None, flag, settings)
    if errors:
        unread = sorted(other.name for other in path.parent.glob("*.prom")) if ours else []
        unread = [name for name in unread if name not in {Path(file).name for file in files}]
        detail = "node_textfile_scrape_error is 1" + (f": it cannot read {', '.join(unread)}" if unread else "")
        remedy = "its log says why, such as: journalctl -u prometheus-node-exporter"
        yield Step("node_exporter errors", State.WARNING, detail, remedy)
    else:
        yield Step("node_exporter errors", State.OK, "node_textfile_scrape_error is 0")


def _is_same(file: str, mtime: float, path: Path) -> bool:
    """Tell whether a file of node_exporter's is ours, which it may know by another path (in a container, say)."""
    if os.path.realpath(file) == os.path.realpath(path):
        return True
    with suppress(OSError):
        return Path(file).name == path.name and int(mtime) == int(path.stat().st_mtime)
    return False


def _file(path: Path, files: Mapping[str, float], age: float | None, flag: str, settings: Settings) -> Step:
    if age is not None and age <= _most_age(settings):
        return Step("node_exporter file", State.OK, f"{path} is served, written {_duration(age)} ago")
    if age is not None:
        detail = f"{path} is served, but was written {_duration(age)} ago"
        return Step("node_exporter file", State.WARNING, detail, "start cc-textfile run, or see its log")
    if not path.exists():
        return Step("node_exporter file", State.SKIPPED, f"{path} is not written yet")
    read = ", ".join(sorted({str(Path(file).parent) for file in files}))
    detail = f"{path} is not among what it serves" + (f", which is in {read}" if read else "")
    remedy = f"start node_exporter with {flag}, as a user who can read the file"
    return Step("node_exporter file", State.WARNING, detail, remedy)


def _most_age(settings: Settings) -> float:
    return 2 * settings.interval + settings.deadline if settings.interval else DAY


def _duration(seconds: float) -> str:
    """Return a time in words, as exact as an age is worth."""
    for unit, name in ((DAY, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"
