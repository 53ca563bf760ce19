"""Where the numbers go: the ledger, the text file, a Pushgateway, and node_exporter, which reads the file."""

import errno
import os
import pwd
import re
import shlex
import sqlite3
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from time import time
from urllib.parse import quote, urlsplit

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from cc_textfile.check.step import FAILED, OK, SKIPPED, WARNING, Step
from cc_textfile.errors import LedgerError, RequestError
from cc_textfile.ledger import days
from cc_textfile.logs import Redactor
from cc_textfile.metrics import Results, gauges, registry
from cc_textfile.output.pushgateway import GOOD_STATUSES, JOB, Pushgateway, without_credentials
from cc_textfile.output.textfile import UNIX_SOCKETS, Textfile
from cc_textfile.poll import Snapshot
from cc_textfile.portal.responses import HTTP_OK
from cc_textfile.portal.transport import Reply, Transport, within
from cc_textfile.portal.window import PORTAL_ZONE
from cc_textfile.settings import Settings, called

BYTES_PER_CHANNEL = 8192
"""What a channel takes in the text file with all breakdowns."""

LEDGER_BYTES = 256 * 1024
"""What a transaction of the ledger may need beside it."""

MAX_PAGE_BYTES = 64 * 1024 * 1024
"""The longest page of metrics that is read: some 600,000 series."""

DAY = 24 * 3600


def ledger(settings: Settings) -> Iterator[Step]:
    """Check that the ledger can be written, and say how far it has counted."""
    path = settings.ledger
    if not path:
        yield Step("ledger", SKIPPED, f"{called('ledger')} is not set, so nothing is counted")
        return
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            file.write(bytes(LEDGER_BYTES))
        begun = path.exists() and path.stat().st_size > 0
        if begun and not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        detail = _positions(path, settings.channels) if begun else f"{path} is made by the first poll"
    except LedgerError as error:
        yield Step("ledger", FAILED, str(error))
    except OSError as error:
        place = path if error.filename == path else path.parent
        yield Step("ledger", FAILED, f"user {_user()} cannot write {place}: {error.strerror}", _fix_write(error, place))
    else:
        yield Step("ledger", OK, detail)


def _positions(path: Path, channels: Sequence[str]) -> str:
    """Return how far the channels are counted. Only reads; raises `LedgerError` if it is not a good ledger."""
    days(path, since=datetime.now(PORTAL_ZONE).date())
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
        positions = dict(db.execute("SELECT channel, settled_end FROM channels"))
    ends = sorted(positions[channel] for channel in channels if channel in positions)
    text = f"{path} counts {len(ends)} of {len(channels)} channels"
    if ends:
        first, last = (f"{datetime.fromtimestamp(end, PORTAL_ZONE):%Y-%m-%d %H:%M}" for end in (ends[0], ends[-1]))
        text += f", until {first if first == last else f'{first} to {last}'} (UTC+8)"
    return text


def outputs(settings: Settings, redactor: Redactor) -> Iterator[Step]:
    """Check both outputs; where there are two, a poll succeeds with one."""
    file, push = list(_textfile(settings)), list(_pushgateway(settings, redactor))
    both_failed = all(any(step.state is FAILED for step in one) for one in (file, push))
    for step in (*file, *push):
        if step.state is FAILED and settings.textfile and settings.pushgateway and not both_failed:
            yield step._replace(state=WARNING, detail=f"{step.detail}; the other output is good")
        else:
            yield step


def _textfile(settings: Settings) -> Iterator[Step]:
    if not settings.textfile:
        yield Step("textfile writable", SKIPPED, f"{called('textfile')} is not set")
        return
    path, user = settings.textfile, _user()
    try:
        path = path.absolute()  # fails where the working directory is gone
        Textfile(path).try_write(BYTES_PER_CHANNEL * len(settings.channels))
        folder, file = path.parent.stat(), path.lstat() if os.path.lexists(path) else None
    except OSError as error:
        detail = f"user {user} cannot write in {path.parent}: {error.strerror}"
        yield Step("textfile writable", FAILED, detail, _fix_write(error, path.parent))
        return
    if file and stat.S_ISDIR(file.st_mode):
        remedy = f"move it away, or correct {called('textfile')}"
        yield Step("textfile writable", FAILED, f"{path} is a folder", remedy)
    elif file and folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, file.st_uid, folder.st_uid):
        detail = f"{path} belongs to another user, and user {user} cannot replace it in this folder (sticky bit)"
        yield Step("textfile writable", FAILED, detail, f"as root: {shlex.join(['chown', user, str(path)])}")
    else:
        yield Step("textfile writable", OK, f"user {user} can write in {path.parent}")
    if not os.access(UNIX_SOCKETS, os.R_OK):  # in the sandbox of a unit
        yield Step("textfile locked", SKIPPED, f"not known: {UNIX_SOCKETS} is hidden")
    else:
        holder = Textfile(path).holder()
        state = f"locked by {holder}, which polls" if holder else "not locked: nothing polls now"
        yield Step("textfile locked", OK, state)
    yield _readable(path)


def _readable(path: Path) -> Step:
    """Say whether every user, and so node_exporter, can read the file."""
    folder = Path(os.path.realpath(path.parent))
    wanted = dict.fromkeys(reversed(folder.parents), 0o001) | {folder: 0o005}
    wanted |= {path: 0o004} if path.is_file() else {}
    closed = [place for place, bits in wanted.items() if place.stat().st_mode & bits != bits]
    if not closed:
        return Step("textfile readable", OK, "every user can read it, and so can node_exporter")
    mode = {0o001: "o+x", 0o005: "o+rx", 0o004: "o+r"}[wanted[closed[0]]]
    remedy = f"{shlex.join(['chmod', mode, str(closed[0])])}, unless the user of node_exporter has rights of its own"
    return Step("textfile readable", WARNING, f"{closed[0]} is closed to other users", remedy)


def _user() -> str:
    with suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return str(os.geteuid())


def _fix_write(error: OSError, place: Path) -> str:
    match error.errno:
        case errno.ENOENT:
            command = shlex.join(["install", "-d", "-m", "0755", "-o", _user(), str(place)])
            return f"as root: {command}; or correct {called('textfile')}"
        case errno.ENOSPC | errno.EDQUOT:
            return f"free some space: {shlex.join(['df', '-h', str(place)])}"
        case errno.EROFS:
            return f"in a unit of systemd: ReadWritePaths={place}; else see: findmnt -T {place}"
        case errno.EACCES | errno.EPERM:
            # Not chown or chmod: a folder that others use belongs to the host.
            command = shlex.join(["setfacl", "-m", f"u:{_user()}:rwx", str(place)])
            return f"check as the user that polls; if this is that user, as root: {command}"
    return f"correct {called('textfile')}"


def _pushgateway(settings: Settings, redactor: Redactor) -> Iterator[Step]:
    if not settings.pushgateway:
        yield Step("pushgateway ready", SKIPPED, f"{called('pushgateway')} is not set")
        return
    gateway = Pushgateway(settings, redactor)
    try:
        status = gateway.get("/-/ready").status
    except RequestError as error:
        remedy = f"start a Pushgateway there, or correct {called('pushgateway')}"
        yield Step("pushgateway ready", FAILED, str(error), remedy)
        return
    if status not in GOOD_STATUSES:
        remedy = f"correct {called('pushgateway')}: its address and path, and user and password if it needs them"
        yield Step("pushgateway ready", FAILED, f"{gateway.url}/-/ready has status {status}", remedy)
        return
    yield Step("pushgateway ready", OK, f"{gateway.url} is ready")
    try:
        page = gateway.get("/metrics", limit=MAX_PAGE_BYTES).body
    except RequestError as error:
        yield Step("pushgateway group", SKIPPED, f"its age is not known: {error}")
        return
    place = "/".join(["job", JOB, *(quote(word, safe="") for pair in gateway.grouping_key.items() for word in pair)])
    group = {"job": JOB, "instance": "", **gateway.grouping_key}
    pushed = [sample.value for sample in _samples(page, "push_time_seconds") if sample.labels == group]
    age = time() - pushed[0] if pushed else 0
    if age > _max_age(settings):
        delete = shlex.join(["curl", "-X", "DELETE", f"{gateway.url}/metrics/{place}"])
        remedy = f"start cc-textfile run; if nothing is pushed there any more: {delete}"
        detail = f"{place} was pushed {_duration(age)} ago, and is served until it is deleted"
        yield Step("pushgateway group", WARNING, detail, remedy)
    else:
        yield Step("pushgateway group", OK, f"{place} was pushed {_duration(age)} ago" if pushed else "not pushed yet")


# node_exporter. A poll succeeds without it, so nothing here is a failure.


def node_exporter(settings: Settings, address: str, redactor: Redactor) -> Iterator[Step]:
    """Look whether node_exporter serves the text file, and no other file with the same series."""
    if not settings.textfile:
        return
    try:
        path = settings.textfile.absolute()
    except OSError:  # as the step "textfile writable" shows
        return
    url, headers = without_credentials(address, redactor)
    url += "" if urlsplit(url).path else "/metrics"
    transport = Transport(url)

    def get() -> Reply:
        return transport.exchange(
            "GET", url, lambda reply: reply, timeout=settings.timeout, headers=headers, limit=MAX_PAGE_BYTES
        )

    served: dict[str, float] = {}
    try:
        reply = within(settings.timeout, get)
    except RequestError as error:
        detail = f"no response from node_exporter: {error}"
        yield Step("node_exporter file", SKIPPED, detail, "if it listens elsewhere: --node-exporter URL")
    else:
        mtimes = _samples(reply.body, "node_textfile_mtime_seconds")
        served = {sample.labels.get("file", ""): sample.value for sample in mtimes}
        errors = _samples(reply.body, "node_textfile_scrape_error")
        if reply.status == HTTP_OK and errors:
            yield _served(settings, path, served, redactor)
            remedy = "the reason is in its log: journalctl -u prometheus-node-exporter"
            state, note = (WARNING, remedy) if errors[0].value else (OK, "")
            yield Step("node_exporter errors", state, f"node_textfile_scrape_error is {errors[0].value:g}", note)
        else:
            detail = f"{url} has status {reply.status}, and no metrics of a textfile collector"
            yield Step("node_exporter file", WARNING, detail, "name the address of node_exporter: --node-exporter URL")
    yield _neighbours(settings, path, served, redactor)


def _served(settings: Settings, path: Path, served: Mapping[str, float], redactor: Redactor) -> Step:
    try:
        written = path.stat().st_mtime
    except OSError:
        return Step("node_exporter file", SKIPPED, f"{path} has not been written yet")
    # In a container, node_exporter knows it by another path.
    if any(
        os.path.realpath(file) == os.path.realpath(path) or (Path(file).name, int(mtime)) == (path.name, int(written))
        for file, mtime in served.items()
    ):
        age = time() - written
        detail = f"node_exporter serves {path}, written {_duration(age)} ago"
        if age <= _max_age(settings):
            return Step("node_exporter file", OK, detail)
        return Step("node_exporter file", WARNING, detail, "start cc-textfile run, or see its log")
    folders = ", ".join(sorted({str(Path(file).parent) for file in served})) or "another folder, or in none"
    detail = f"node_exporter does not serve {path}; it reads in {redactor.quote(folders)}"
    remedy = f"link the file into its folder, or start it with --collector.textfile.directory={path.parent}"
    return Step("node_exporter file", WARNING, detail, remedy)


def _neighbours(settings: Settings, path: Path, served: Iterable[str], redactor: Redactor) -> Step:
    """Look for our series in the other files: of two series that are the same, node_exporter serves one.

    Both files may be needed, by one account each. So the fix is that the pollers differ, never that a file is deleted.
    """
    files = {Path(os.path.realpath(file)) for file in [*map(str, path.parent.glob("*.prom")), *served]}
    metrics, _ = registry(Results(settings, Snapshot({}, {}, datetime.now(UTC), 0.0), None, None))
    ours = {line.rpartition(b" ")[0] for line in generate_latest(metrics).splitlines() if not line.startswith(b"#")}
    compared = 0
    for file in sorted(files - {Path(os.path.realpath(path))}):
        with suppress(OSError):  # what node_exporter cannot read either, it says
            if not file.is_file():
                continue
            series = _common(file, ours, settings)
            compared += 1
            if series:
                holder = Textfile(file).holder()
                detail = (
                    f"{redactor.quote(str(file))}, written {_duration(time() - file.stat().st_mtime)} ago"
                    f"{f' by {holder}' if holder else ''}, has {redactor.quote(series.decode(errors='replace'))}, too: "
                    "node_exporter serves one of the two"
                )
                name = "account" if series in ours else "channels"
                remedy = f"stop one of the two pollers, or give them different {called(name)}"
                return Step("textfile neighbours", WARNING, detail, remedy)
    return Step("textfile neighbours", OK, f"none of {compared} other .prom files has series of ours")


def _common(file: Path, ours: set[bytes], settings: Settings) -> bytes | None:
    """Return the first series that a file has in common with ours; gauges are told by name and channel."""
    names = b"|".join(metric.name.encode() for metric in gauges.METRICS)
    gauge = re.compile(rb'(?:%b)\{[^\n]*?channel="([^"]*)"' % names)
    channels = {channel.encode() for channel in settings.channels} if settings.gauges else set()
    with file.open("rb") as lines:
        for line in lines:
            series, match = line.rpartition(b" ")[0], gauge.match(line)
            if series in ours or (match and match[1] in channels):
                return series
    return None


def _samples(page: bytes, name: str) -> list[Sample]:
    """Return the samples of that name on a page of metrics; a line that cannot be read is skipped."""
    found: list[Sample] = []
    for line in page.splitlines():
        if line.startswith(name.encode()):
            with suppress(ValueError):
                families = text_string_to_metric_families(line.decode() + "\n")
                found += [sample for family in families for sample in family.samples if sample.name == name]
    return found


def _max_age(settings: Settings) -> float:
    return 2 * settings.interval + settings.deadline if settings.interval else DAY


def _duration(seconds: float) -> str:
    for unit, name in ((DAY, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"
