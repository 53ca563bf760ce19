"""`cc-textfile check`: what a poll needs, step by step, and how to fix what would stop it.

No step writes where others read, and nothing is left behind. A password that is refused is sent once.
"""

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import click
import durationpy
from prometheus_client import generate_latest

from cc_textfile.errors import CcTextfileError, RequestError, RequestTimeout, SettingsError, Unreachable
from cc_textfile.ledger.file import examine, try_write
from cc_textfile.logs import Redactor, say
from cc_textfile.metrics import Results, registry
from cc_textfile.output.pushgateway import Pushgateway, without_credentials
from cc_textfile.output.textfile import UNIX_SOCKETS, Textfile
from cc_textfile.poll import Snapshot, gauge_requests, is_refusal, poll
from cc_textfile.portal.client import PortalClient
from cc_textfile.portal.transport import Transport
from cc_textfile.portal.window import Window
from cc_textfile.remedies import user
from cc_textfile.settings import SETTINGS, Settings, called
from cc_textfile.workers import within

BYTES_PER_CHANNEL = 8192
"""What a channel takes in the text file with all breakdowns; a transaction of the ledger takes less."""

CHECK_OF_A_UNIT = "cc-textfile-check"
"""The command of the Debian package that runs `check` with the settings, the user and the sandbox of a unit."""

LOOPBACK = ("localhost", "127.0.0.1", "::1")
MAX_PAGE_BYTES = 64 * 1024 * 1024
"""The longest page of node_exporter that is read: some 600,000 series."""

MAX_FILES = 1000
"""How many text files of such a page are looked at."""

MTIME = r'^node_textfile_mtime_seconds\{file="([^\0\n]+)"\} ([0-9]{1,20}(?:\.[0-9]+)?(?:e\+[0-9]{1,2})?)$'
MAX_SKEW = 60
"""Seconds between the clocks; the clock of the host decides which windows are requested."""


class State(StrEnum):
    """The result of a step; only `FAILED` means that a poll would not succeed."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


OK, WARNING, FAILED, SKIPPED = State
COLOURS = {OK: "green", WARNING: "yellow", FAILED: "red", SKIPPED: "bright_black"}


class Step(NamedTuple):
    """What was checked, the result, what was seen, and how to fix it where that is needed."""

    step: str
    state: State
    detail: str
    remedy: str = ""


def show(steps: Iterable[Step], *, as_json: bool) -> bool:
    """Write the steps to standard output as they come, and return whether a poll would succeed.

    As text, each is one line, and one more for the remedy; as JSON, all are one list at the end. Raises `OutputError`
    when standard output cannot be written.
    """
    done = []
    for step in steps:
        done.append(step)
        if not as_json:
            word = step.state.upper() if step.state is FAILED else step.state
            say(f"{click.style(f'{word:<8}', fg=COLOURS[step.state])} {step.step:<26} {step.detail}")
            if step.remedy:
                say(f"{'':<8} to fix it: {step.remedy}")
    failed, warnings = (sum(step.state is state for step in done) for state in (FAILED, WARNING))
    verdict = f"a poll would not succeed: {failed} failed" if failed else "a poll would succeed"
    verdict += f", {warnings} to look at" if warnings else ""
    say(json.dumps([step._asdict() for step in done], indent=2) if as_json else verdict)
    return not failed


def steps(settings: Settings, exporter_url: str, redactor: Redactor) -> Iterator[Step]:
    """Yield the steps as they are made, on the way that the numbers go.

    Raises `SettingsError` when a proxy or a CA bundle of the environment cannot be used.
    """
    yield from _settings(settings, redactor)
    yield from _portal(settings, redactor)
    if settings.ledger:
        yield _ledger(settings.ledger, settings)
    yield from _outputs(settings, redactor)
    if settings.textfile:
        with suppress(OSError):  # a folder that is closed: a step shows it
            yield from _node_exporter(settings.textfile, settings, exporter_url, redactor)


def of_faults(error: SettingsError) -> list[Step]:
    """Return the steps of settings that cannot be used: their faults."""
    return [Step("settings", FAILED, fault, advice(error)) for fault in error.faults]


def advice(error: SettingsError) -> str:
    """Return what to type when the settings cannot be used."""
    missing = any(" is missing" in fault for fault in error.faults)
    # In a unit, which has credentials, it would be the advice to do the same again.
    in_unit = "CREDENTIALS_DIRECTORY" in os.environ
    if missing and not in_unit and shutil.which(CHECK_OF_A_UNIT, path=f"{os.environ.get('PATH', '')}:/usr/sbin"):
        return f"the services have settings of their own; to check those, type: sudo {CHECK_OF_A_UNIT}"
    return "`cc-textfile run --help` explains each setting"


def _settings(settings: Settings, redactor: Redactor) -> Iterator[Step]:
    shown = {
        "password": "set",
        "channels": f"{len(settings.channels)}: {redactor.quote(', '.join(settings.channels))}",
        "methods": ", ".join(settings.methods),
        "querytime": f"{settings.querytime} min",
        "gauges": str(settings.gauges).lower(),
        "pushgateway": without_credentials(settings.pushgateway or "", redactor)[0],
    }
    for setting in SETTINGS:
        name = setting.name or ""
        value = getattr(settings, name, None)
        if value is not None:
            text = durationpy.to_str(timedelta(seconds=value)) if isinstance(value, float) else shown.get(name, value)
            yield Step(f"settings {name}", OK, f"{text} ({settings.origins[name]})")
    for note in settings.notes:
        yield Step("settings", WARNING, note)


def _portal(settings: Settings, redactor: Redactor) -> Iterator[Step]:
    """Make one request per method, on the way that those of a poll take, through proxies too.

    The first request that does not reach the portal, or is refused before any was answered well, is the last one.
    """
    transport = Transport(settings.portal_url, redactor, ca_file=settings.ca_file)
    place = urlsplit(settings.portal_url)
    if place.scheme == "http" and (transport.proxy or place.hostname not in LOOPBACK):
        remedy = f"use an https address: {called('portal_url')}"
        yield Step("portal TLS", WARNING, "not used: user and password are sent in clear text", remedy)
    fetch = PortalClient(transport, settings, redactor).fetch
    window = Window.ending(datetime.now(UTC), settings.querytime)
    requests = gauge_requests(settings.channels[:1], settings.methods, window)
    admitted = False
    for request in requests:
        one = poll(fetch, [request], concurrency=1, deadline=settings.deadline, now=datetime.now(UTC))
        error = one.failures.get(request)
        if error is None:
            if not admitted:
                yield Step("portal password", OK, f"the portal admits user {settings.user}")
                yield from _clock(one.ended, one.responses[request].date or one.ended)
            admitted = True
            yield Step(f"portal {request.method}", OK, f"channel {request.channel}: good response")
            continue
        refused = is_refusal(error) and not admitted
        unreached = request == requests[0] and isinstance(error, Unreachable | RequestTimeout)
        step = "password" if refused else "connection" if unreached else request.method
        detail = f"{request.method} of channel {request.channel}: {error}"
        yield Step(f"portal {step}", FAILED, detail, _fix(error, settings, transport.proxy, admitted=admitted))
        if refused or unreached:
            return


def _clock(host: datetime, portal: datetime) -> Iterator[Step]:
    skew = (host - portal).total_seconds()
    if abs(skew) > MAX_SKEW:
        detail = f"the clock of this host is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the portal's"
        yield Step("portal clock", WARNING, f"{detail}: the wrong time is requested", "sudo timedatectl set-ntp true")


def _fix(error: RequestError, settings: Settings, proxy: str | None, *, admitted: bool) -> str:
    """Return what to do about a request that failed."""
    if is_refusal(error) and not admitted:
        user, password, channels = (settings.origins[name] for name in ("user", "password", "channels"))
        remedy = f"correct user {settings.user} ({user}) or password ({password})"
        return f"{remedy}, unless it is about the channel ({channels}); no further request was made"
    if is_refusal(error):
        return f"ask the operator of the portal whether user {settings.user} may use this method for this channel"
    place, portal = urlsplit(proxy or settings.portal_url), called("portal_url")
    port = place.port or (443 if place.scheme == "https" else 80)
    look = f"nc -vz {place.hostname} {port}; see the firewall"
    remedies = {
        "no response by the deadline": f"raise {called('deadline')}",
        "no complete response": f"raise {called('timeout')}; if nothing comes at all: {look}",
        ".*the proxy": "see the variables https_proxy and no_proxy",
        ".*(has expired|not yet valid)": "see whether the clock of this host is right: timedatectl",
        ".*mismatch": f"correct the name in {portal}",
        ".*is not trusted": f"name the bundle of the authority that signed it, or of a proxy: {called('ca_file')}",
        "TLS": f"see whether {portal} is the address of a TLS server",
        ".*cannot be resolved": f"getent hosts {place.hostname}; see /etc/resolv.conf, or correct {portal}",
        "no connection": f"{look}, set a proxy (https_proxy), or correct {portal}",
        "": "try again later; if it stays, ask the operator of the portal, or of the proxy in between",
    }
    return next(remedy for words, remedy in remedies.items() if re.match(words, str(error)))


def _tried(step: str, act: Callable[[], None], good: str, remedy: str = "") -> Step:
    """Return the step of an act, with what is good about it, or with its error."""
    try:
        act()
    except CcTextfileError as error:
        return Step(step, FAILED, error.fault, error.remedy or remedy)
    return Step(step, OK, good)


def _ledger(path: Path, settings: Settings) -> Step:
    """Check that the ledger can be read and written. A poll that uses it now is not disturbed."""

    def act() -> None:
        try_write(path, BYTES_PER_CHANNEL * len(settings.channels))
        if path.exists():
            examine(path)

    return _tried("ledger", act, f"user {user()} can write to {path.parent}")


def _outputs(settings: Settings, redactor: Redactor) -> Iterator[Step]:
    """Check the outputs; where there are two, a poll succeeds with one."""
    path, tried = settings.textfile, []
    if path:
        write = partial(Textfile(path).try_write, BYTES_PER_CHANNEL * len(settings.channels))
        tried.append(_tried("textfile writable", write, f"user {user()} can write to {path.parent}"))
    if settings.pushgateway:
        remedy = f"start a Pushgateway there, or correct {called('pushgateway')}, and user and password in it"
        tried.append(_tried("pushgateway ready", Pushgateway(settings, redactor).try_push, "it is ready", remedy))
    failed = [step for step in tried if step.state is FAILED]
    for step in tried:
        spared = step._replace(state=WARNING, detail=f"{step.detail}; the other output is good")
        yield spared if step in failed and len(failed) < len(tried) else step
    if path and tried[0] not in failed:
        yield _locked(path)
        yield _readable(path)


def _locked(path: Path) -> Step:
    if holder := Textfile(path).holder():
        return Step("textfile locked", OK, f"locked by {holder}, which polls")
    if os.access(UNIX_SOCKETS, os.R_OK):
        return Step("textfile locked", OK, "not locked: nothing polls now")
    return Step("textfile locked", SKIPPED, f"not known: {UNIX_SOCKETS} is hidden")  # in the sandbox of a unit


def _readable(path: Path) -> Step:
    """Say whether every user, and so node_exporter, can read the file."""
    folder = Path(os.path.realpath(path.parent))
    needed = dict.fromkeys(reversed(folder.parents), "x") | {folder: "rx"} | ({path: "r"} if path.exists() else {})
    for place, letters in needed.items():
        bits = sum({"r": 4, "x": 1}[letter] for letter in letters)
        if place.stat().st_mode & bits != bits:
            command = f"chmod o+{letters} {shlex.quote(str(place))}"
            remedy = f"{command}, unless the user of node_exporter has rights of its own"
            return Step("textfile readable", WARNING, f"{place} is closed to other users", remedy)
    return Step("textfile readable", OK, "every user can read it, and so can node_exporter")


def _node_exporter(path: Path, settings: Settings, address: str, redactor: Redactor) -> Iterator[Step]:
    """Look whether node_exporter serves the text file. A poll succeeds without it, so nothing here is a failure."""
    url, headers = without_credentials(address if urlsplit(address).path else f"{address}/metrics", redactor)
    get = partial(
        Transport(url, redactor).exchange, "GET", url, lambda reply: reply, headers=headers, limit=MAX_PAGE_BYTES
    )
    mtimes, elsewhere = {}, "if it listens elsewhere: --node-exporter URL"
    try:
        reply = within(settings.timeout, partial(get, timeout=settings.timeout))
    except RequestError as error:
        yield Step("node_exporter file", SKIPPED, f"no response from node_exporter: {error}", elsewhere)
    else:
        page = reply.body.decode(errors="replace")
        mtimes = {found[1]: found[2] for found in islice(re.finditer(MTIME, page, re.MULTILINE), MAX_FILES)}
        errors = re.search(r"^node_textfile_scrape_error ([01])$", page, re.MULTILINE)
        if not errors:
            detail = f"the response has status {reply.status}, and no metrics of a textfile collector"
            yield Step("node_exporter file", WARNING, detail, elsewhere)
        elif path.exists():
            yield _served(path, mtimes, redactor)
        if errors and errors[1] == "1":
            remedy = "the reason is in its log: journalctl -u prometheus-node-exporter"
            yield Step("node_exporter errors", WARNING, "node_textfile_scrape_error is 1", remedy)
    yield _neighbours(path, settings, mtimes, redactor)


def _served(path: Path, mtimes: Mapping[str, str], redactor: Redactor) -> Step:
    written = path.stat().st_mtime
    # By name and time: where there is a link or a container, node_exporter knows the file by another path.
    if any((Path(file).name, int(float(mtime))) == (path.name, int(written)) for file, mtime in mtimes.items()):
        time = f"{datetime.fromtimestamp(written, UTC):%Y-%m-%d %H:%M:%S} UTC"
        return Step("node_exporter file", OK, f"node_exporter serves {path}, written at {time}")
    folders = ", ".join(sorted({str(Path(file).parent) for file in mtimes})) or "another folder, or in none"
    detail = f"node_exporter does not serve {path}; it reads in {redactor.quote(folders)}"
    remedy = f"link the file into its folder, or start it with --collector.textfile.directory={path.parent}"
    return Step("node_exporter file", WARNING, detail, remedy)


def _neighbours(path: Path, settings: Settings, served: Iterable[str], redactor: Redactor) -> Step:
    """Look for our series in the other files: of two series that are the same, node_exporter serves one.

    Both files may be needed, by one account each. So the fix is that the pollers differ, never that a file is deleted.
    """
    metrics, _ = registry(Results(settings, Snapshot({}, {}, datetime.now(UTC), 0.0), None, None))
    ours = _series(generate_latest(metrics)) | _series(_content(path))
    files = {os.path.realpath(file) for file in (*map(str, path.parent.glob("*.prom")), *served)}
    for file in map(Path, sorted(files - {os.path.realpath(path)})):
        if common := ours & _series(_content(file)):
            holder = Textfile(file).holder()
            detail = (
                f"{redactor.quote(str(file))}{f', which {holder} writes,' if holder else ''} has "
                f"{redactor.quote(min(common).decode(errors='replace'))}, too: node_exporter serves one of the two"
            )
            remedy = f"stop one of the two pollers, or give them different {called('account')} and different "
            return Step("textfile neighbours", WARNING, detail, remedy + called("channels"))
    return Step("textfile neighbours", OK, "no other .prom file has series of ours")


def _content(path: Path) -> bytes:
    """Return what is in a .prom file, nothing where it cannot be read: what node_exporter cannot read, it says.

    Any page may name any file, so no other file is read, and no more than node_exporter could serve.
    """
    with suppress(OSError):
        if path.suffix == ".prom" and path.is_file():
            with path.open("rb") as file:
                return file.read(MAX_PAGE_BYTES)
    return b""


def _series(page: bytes) -> set[bytes]:
    return {line.rpartition(b" ")[0] for line in page.splitlines() if not line.startswith(b"#")}
