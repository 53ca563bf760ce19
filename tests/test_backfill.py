"""`cc-textfile backfill`: the days before the first poll, in a real Prometheus and in the ledger."""

import errno
import itertools
import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parsed
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from cc_textfile import backfill as backfills
from cc_textfile.backfill import History, backfill
from cc_textfile.demo import portal as demo
from cc_textfile.demo.portal import DemoPortal, response
from cc_textfile.errors import CcTextfileError, LedgerError, OutputError, Refused, SettingsError, Unreachable
from cc_textfile.ledger import ChannelTotals, days
from cc_textfile.poll import Fetch
from cc_textfile.portal.responses import HitRate, HttpCode, Method, Request, Response, StatusCode, decode
from cc_textfile.portal.window import DAY, PORTAL_ZONE, midnight
from cc_textfile.settings import Settings
from monitoring import simulated_day
from tests import cdn as simulated
from tests.cdn import CODES, Cdn, at
from tests.conftest import ROOT, Program, account, command, environment, eventually, prometheus_url, run, tool
from tests.prometheus import ask, value

COUNTERS = {
    "chinacache_traffic_bytes_total": "",
    "chinacache_requests_total": "result",
    "chinacache_settled_seconds_total": "",
    "chinacache_responses_total": "code",
}
CHANNELS = ("1001", "1002")
KINDS = ("traffic", "hits", "misses", *CODES)
TARGET = {"job": "node", "instance": "localhost:9100"}
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
Key = tuple[str, str, str]


def key(name: str, labels: dict[str, str]) -> Key:
    return name, labels["channel"], labels.get(COUNTERS[name], "")


# The real command, and a real Prometheus


def flags(folder: Path, first: datetime, **target: str) -> list[str]:
    labels = [word for name, text in (TARGET | target).items() for word in (f"--{name}", text)]
    files = ["--ledger", str(folder / "demo.ledger"), "--output", str(folder / "history.om")]
    return ["backfill", "--from", f"{first:%Y-%m-%d}", *labels, *files]


def truth(channel: str, start: datetime, end: datetime) -> dict[str, int]:
    """Return what the demo portal has for a time: bytes, hits, misses, and requests by status code."""
    period = {"channelIds": channel, "startTime": f"{start:%Y%m%d%H%M}", "endTime": f"{end:%Y%m%d%H%M}"}
    whole_days = {"channel_id": channel, "start_time": f"{start:%Y%m%d}", "end_time": f"{end:%Y%m%d}"}
    rate, isp = (response(method, period, end) for method in (Method.HIT_RATE, Method.ISP))
    codes = response(Method.HTTP_CODE, whole_days, end)["data"]
    return {"traffic": isp["totalFlux"], "hit": rate["Hit"], "miss": rate["Miss"]} | {
        row["http_code"]: row["request_count"] for row in codes
    }


def by_series(prometheus: str, query: str, time: datetime) -> dict[Key, float]:
    """Return the value that a query over `NAME` has for each series of each counter."""
    return {
        key(name, each["metric"]): float(each["value"][1])
        for name in COUNTERS
        for each in ask(prometheus, "query", query=query.replace("NAME", name), time=f"{time.timestamp():.3f}")[
            "result"
        ]
    }


@pytest.fixture
def prometheus_over(start: Callable[..., Program]) -> Callable[..., tuple[Program, str]]:
    """Start a real Prometheus over a folder of blocks; returns it and its URL."""

    def run(config: Path, data: Path) -> tuple[Program, str]:
        storage = (f"--storage.tsdb.path={data}", "--storage.tsdb.retention.time=60d")
        program = start(tool("prometheus"), f"--config.file={config}", *storage, "--web.listen-address=127.0.0.1:0")
        return program, prometheus_url(program)

    return run


@pytest.mark.slow
def test_thirty_days_and_the_polls_after_them_are_one_series(
    folder: Path, portal: DemoPortal, prometheus_over: Callable[..., tuple[Program, str]]
) -> None:
    """`increase()` over 30 days, across the seam, is to the byte what the portal has, and no counter was reset."""
    now = datetime.now(PORTAL_ZONE)
    first = midnight(now) - 29 * DAY
    end = first + 30 * DAY
    done = run(*flags(folder, first), "--step", "4h", env=account(portal))  # promtool makes a block per sample
    assert done.returncode == 0, done.stderr
    # The polls after it, with the times that they would have until 30 days are full.
    moments = [*(now + n * 41 * MINUTE for n in range(-((now - end) // (41 * MINUTE)))), end]
    (folder / "live.om").write_text(simulated_day.openmetrics(simulated_day.polls(folder, moments), TARGET))
    for file in ("history.om", "live.om"):
        blocks = (tool("promtool"), "tsdb", "create-blocks-from", "openmetrics", file, "tsdb")
        subprocess.run(blocks, cwd=folder, check=True, capture_output=True)
    analyze = (tool("promtool"), "tsdb", "analyze", "tsdb")
    analyzed = subprocess.run(analyze, cwd=folder, capture_output=True, text=True, check=False)
    assert (analyzed.returncode, analyzed.stderr) == (0, "")
    (folder / "prometheus.yml").write_text("{}")
    _, url = prometheus_over(folder / "prometheus.yml", folder / "tsdb")

    expected: dict[Key, float] = {}
    for channel in demo.CHANNELS:
        # At midnight the counts of the last day are those of the poll before. The day is closed two hours later.
        settled, so_far = truth(channel, first, end - 15 * MINUTE), truth(channel, first, moments[-2])
        expected |= {
            ("chinacache_traffic_bytes_total", channel, ""): settled["traffic"],
            ("chinacache_requests_total", channel, "hit"): settled["hit"],
            ("chinacache_requests_total", channel, "miss"): settled["miss"],
            ("chinacache_settled_seconds_total", channel, ""): (30 * DAY - 15 * MINUTE).total_seconds(),
        } | {("chinacache_responses_total", channel, code): so_far[code] for code in demo.STATUS_CODES}
    assert by_series(url, "increase(NAME[30d])", end) == pytest.approx(expected, rel=1e-12)
    assert by_series(url, "resets(NAME[31d])", end) == dict.fromkeys(expected, 0)


@pytest.mark.slow
def test_the_commands_at_its_end_bring_the_history_in(
    folder: Path,
    portal: DemoPortal,
    node_exporter: Callable[[Path], str],
    prometheus_over: Callable[..., tuple[Program, str]],
) -> None:
    """A Prometheus that scrapes already gets the days before, and loses nothing when it is started again."""
    textfiles, data, config = folder / "textfiles", folder / "data", folder / "prometheus.yml"
    textfiles.mkdir()
    target = urlsplit(node_exporter(textfiles)).netloc
    config.write_text(
        "global: {scrape_interval: 250ms, scrape_timeout: 250ms}\n"
        f"scrape_configs: [{{job_name: node, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    first = midnight(datetime.now(UTC)) - 2 * DAY  # with a whole day in it at any time
    done = run(*flags(folder, first, instance=target), env=account(portal))
    assert done.returncode == 0, done.stderr
    output = {"CC_TEXTFILE_PATH": str(textfiles / "a.prom"), "CC_TEXTFILE_LEDGER": str(folder / "demo.ledger")}
    for _ in range(3):  # the first one may end at a midnight
        assert run("run", env=account(portal, **output)).returncode == 0
    program, url = prometheus_over(config, data)
    oldest = "min(min_over_time(timestamp(chinacache_traffic_bytes_total)[1h:1s]))"
    scraped = eventually(lambda: value(url, oldest))
    assert program.end() == 0

    shown = [
        line.strip().removeprefix("sudo ") for line in done.stdout.splitlines() if re.match("  (promtool|sudo) ", line)
    ]
    script = "\n".join(shown).replace("/var/lib/prometheus/metrics2", str(data))
    assert script.count(str(data)) == 2
    path = f"{os.environ['PATH']}:{ROOT}/.tools/usr/bin"
    subprocess.run(["sh", "-euc", script], cwd=folder, env=os.environ | {"PATH": path}, check=True, capture_output=True)

    _, url = prometheus_over(config, data)
    now = eventually(lambda: value(url, "min(timestamp(chinacache_traffic_bytes_total)) > " + str(scraped + 1)))
    time = datetime.fromtimestamp(now, PORTAL_ZONE)
    assert by_series(url, f"NAME @ {scraped:.3f}", time).keys() == by_series(url, "NAME", time).keys()
    assert set(by_series(url, "resets(NAME[3d])", time).values()) == {0}
    last = by_series(url, "NAME", time)
    begin = by_series(url, "NAME", first)
    assert begin.keys() == last.keys()
    assert set(begin.values()) == {0}
    for channel in demo.CHANNELS:
        end = first + timedelta(seconds=last["chinacache_settled_seconds_total", channel, ""])
        assert time - end < 25 * MINUTE
        counted = truth(channel, first, end)
        assert last["chinacache_traffic_bytes_total", channel, ""] == counted["traffic"]
        assert last["chinacache_requests_total", channel, "miss"] == counted["miss"]


def test_history_and_polls_have_the_same_series(folder: Path, portal: DemoPortal) -> None:
    """The labels are those of the text file, whatever is in them, and job and instance, unless that is empty."""
    name = 'sh"o\\p\n频'
    env = account(portal, CC_TEXTFILE_ACCOUNT=name)
    first = midnight(datetime.now(UTC)) - 2 * DAY
    done = run(*flags(folder, first, instance="", job=name), "--step", "24h", env=env)
    assert done.returncode == 0, done.stderr
    history = samples((folder / "history.om").read_text())
    assert {sample.labels.pop("job") for sample in history} == {name}
    env |= {"CC_TEXTFILE_PATH": str(folder / "a.prom"), "CC_TEXTFILE_LEDGER": str(folder / "demo.ledger")}
    assert run("run", env=env).returncode == 0
    families = text_string_to_metric_families((folder / "a.prom").read_text())
    live = [sample for family in families for sample in family.samples if sample.name in COUNTERS]
    assert {(s.name, *sorted(s.labels.items())) for s in history} == {(s.name, *sorted(s.labels.items())) for s in live}
    assert {s.labels["account"] for s in live} == {name}


def samples(text: str) -> list[Sample]:
    """Return the samples of a history, which have to be in order, each series from 0 on."""
    assert "\n\n" not in text
    found = [s for family in parsed(text) for s in family.samples]  # type: ignore[no-untyped-call]
    for points in series(found).values():
        order = [time for time, _ in points]
        assert points[0][1] == 0
        assert order == sorted(set(order))
    return found


def times(history: Path) -> list[datetime]:
    """Return the times of a history's samples, in order."""
    found = {point for points in series(samples(history.read_text())).values() for point, _ in points}
    return [datetime.fromtimestamp(time, PORTAL_ZONE) for time in sorted(found)]


def series(found: Iterable[Sample]) -> dict[Key, list[tuple[float, float]]]:
    """Return time and value of the samples of each series."""
    points: dict[Key, list[tuple[float, float]]] = {}
    for sample in found:
        assert sample.timestamp is not None
        points.setdefault(key(sample.name, sample.labels), []).append((float(sample.timestamp), sample.value))
    return points


STOPS = [
    (3, signal.SIGKILL),
    (900, signal.SIGINT),
    (1500, signal.SIGKILL),
    (100, signal.SIGTERM),
    (1200, signal.SIGKILL),
]


def stop_at(portal: DemoPortal, program: Program, request: int, number: signal.Signals) -> int:
    """Let the program get a signal when the portal gets so many requests from it, and return its exit status."""
    numbers = itertools.count(1)

    def fault(_method: Method, _channel: str) -> None:
        if next(numbers) == request:
            program.process.send_signal(number)

    portal.fault = fault
    status = program.end(None)
    portal.fault = lambda *_: None
    return status


@pytest.mark.slow
def test_stopped_at_any_time_it_goes_on_and_writes_the_same_bytes(
    folder: Path, portal: DemoPortal, start: Callable[..., Program]
) -> None:
    """Killed or interrupted in several batches it loses one at most; until it is finished, polls count nothing."""
    first = midnight(datetime.now(UTC)) - 30 * DAY
    env = account(portal)
    for request, number in STOPS:
        output = ["--output", "-"] if number is signal.SIGTERM else []  # where it goes can change
        program = start(*command(*flags(folder, first), *output), env=env)
        status = stop_at(portal, program, request, number)
        assert status == (-number if number is signal.SIGKILL else 1), program.said
        assert number is signal.SIGKILL or f"{number.name}: what was answered so far is kept" in program.said
        assert {path.name for path in folder.iterdir()} <= {"demo.ledger", "demo.ledger-journal"}
    textfile = folder / "a.prom"
    done = run("run", "--textfile", str(textfile), "--ledger", str(folder / "demo.ledger"), env=env)
    assert done.returncode == 1
    assert "a backfill into it is not finished. Run `cc-textfile backfill` again" in done.stderr
    assert 'cc_textfile_ledger_up{account="demo"} 0.0' in textfile.read_text()

    portal.requests = 0
    done = run(*flags(folder, first), env=env)
    assert done.returncode == 0, done.stderr
    made = re.search("([0-9,]+) of ([0-9,]+) requests are made", done.stderr)
    assert made
    before, total = (int(number.replace(",", "")) for number in made.groups())
    assert before > 2000
    assert portal.requests == total - before
    history = (folder / "history.om").read_bytes()
    assert reference(folder, first, times(folder / "history.om")[-1]) == history


def reference(folder: Path, first: datetime, end: datetime) -> bytes:
    """Return the history of the demo portal that ends there, made without a stop."""
    settings = settings_of(folder / "reference.ledger", channels=demo.CHANNELS, account=demo.USER)
    history = history_of(folder / "reference.om", first)

    def fetch(request: Request, _deadline: float) -> Response:
        channel, method, (begin, until) = request
        query = {
            "channelIds": channel,
            "channel_id": channel,
            "startTime": f"{begin:%Y%m%d%H%M}",
            "endTime": f"{until:%Y%m%d%H%M}",
            "start_time": f"{begin:%Y%m%d}",
            "end_time": f"{until - DAY:%Y%m%d}",
        }
        return decode(method, 200, json.dumps(response(method, query, until)).encode(), str)

    backfill(settings, history, fetch, end + 3 * HOUR + 2 * MINUTE)
    return (folder / "reference.om").read_bytes()


# The ledger, over a CDN whose numbers come late


def settings_of(ledger: Path, **more: Any) -> Settings:
    chosen: dict[str, Any] = {
        "user": "me",
        "password": "secret",
        "account": "me",
        "channels": CHANNELS,
        "ledger": ledger,
    }
    return Settings(**chosen | more)


def history_of(output: Path | None, first: datetime, step: timedelta = HOUR) -> History:
    return History(first=first, step=step, output=output, **TARGET)


def answering(cdn: Cdn, asked: list[Request] | None = None) -> Fetch:
    """Return how the portal of a CDN answers requests, which are added to a list."""

    def fetch(request: Request, _deadline: float) -> Response:
        if asked is not None:
            asked.append(request)
        return cdn.answer(request)

    return fetch


@pytest.mark.parametrize(
    ("first", "step", "now"),
    [
        ("01 00:00", HOUR, "05 13:07"),
        ("04 00:00", 5 * MINUTE, "05 01:30"),  # the history ends on the day before
        ("03 00:00", 7 * HOUR, "05 03:04"),  # it ends at midnight
        ("05 00:00", DAY, "05 23:59"),  # it has no whole day
        ("01 00:00", DAY, "05 03:20"),
    ],
)
@pytest.mark.parametrize("day_settle", [2 * HOUR, 24 * HOUR])
def test_polls_go_on_to_the_byte(in_memory: Path, first: str, step: timedelta, now: str, day_settle: timedelta) -> None:
    """The first poll shows no less than the history, no counter falls, and each day comes out as the portal has it."""
    cdn, ledger = Cdn(at(now)), in_memory / "ledger.sqlite"
    settings = settings_of(ledger, day_settle=day_settle.total_seconds())
    backfill(settings, history_of(in_memory / "h.om", at(first), step), answering(cdn), cdn.now)
    points, end = series(samples((in_memory / "h.om").read_text())), times(in_memory / "h.om")[-1]
    assert 3 * HOUR < cdn.now - end <= 3 * HOUR + 5 * MINUTE + MINUTE
    before = {name: at_end(points, name) for name in CHANNELS}
    for channel in CHANNELS:
        assert before[channel]["traffic"] == cdn.truth(channel, "traffic", at(first), end)
        assert before[channel]["hits"] == cdn.truth(channel, "hits", at(first), end)
        if midnight(end) > at(first):
            assert before[channel]["404"] == cdn.truth(channel, "404", at(first), midnight(end))

    until = midnight(cdn.now) + 3 * DAY + 10 * HOUR
    while cdn.now <= until:
        totals = simulated.poll(cdn, simulated.ledger(ledger, CHANNELS)).channels
        for channel in CHANNELS:
            shown = exported(totals[channel])
            assert {kind: value for kind, value in shown.items() if value < before[channel].get(kind, 0)} == {}
            before[channel] = shown
        cdn.now += 37 * MINUTE
    cdn.now -= 37 * MINUTE
    recorded = days(ledger, since=at(first).date())
    for channel in CHANNELS:
        of_channel = [day for day in recorded if day.channel == channel]
        assert [day.closed for day in of_channel] == [True] * (len(of_channel) - 1) + [False]
        for number, day in enumerate(of_channel[:-1]):
            begin = at(first) + number * DAY
            figures = [day.traffic_bytes, day.hits, day.misses, *(day.responses.get(code, 0) for code in CODES)]
            assert figures == [cdn.truth(channel, kind, begin, begin + DAY) for kind in KINDS]
        assert before[channel]["traffic"] == sum(day.traffic_bytes or 0 for day in of_channel)
        assert before[channel]["200"] == sum(day.responses["200"] for day in of_channel)
        elapsed = totals[channel].settled_end - at(first)
        assert (totals[channel].settled_seconds, totals[channel].lost_seconds) == (elapsed.total_seconds(), 0)


def exported(totals: ChannelTotals) -> dict[str, float]:
    assert totals.traffic_bytes is not None
    requests = {"hits": totals.requests["hit"], "misses": totals.requests["miss"]}
    return {"traffic": totals.traffic_bytes, **requests, **totals.responses}


def at_end(points: dict[Key, list[tuple[float, float]]], channel: str) -> dict[str, float]:
    """Return the last value of each series of a channel, by the names of `exported`."""
    names = {
        ("chinacache_traffic_bytes_total", ""): "traffic",
        ("chinacache_requests_total", "hit"): "hits",
        ("chinacache_requests_total", "miss"): "misses",
    }
    return {
        names.get((name, label), label): found[-1][1]
        for (name, of, label), found in points.items()
        if of == channel and name != "chinacache_settled_seconds_total"
    }


def test_methods_that_are_not_requested_have_no_history(tmp_path: Path) -> None:
    """Without `isp` there is no traffic; polled with it later, its counter begins with 0 as a new one does."""
    cdn, ledger = Cdn(at("03 12:00")), tmp_path / "ledger.sqlite"
    asked: list[Request] = []
    settings = settings_of(ledger, methods=(Method.HIT_RATE, Method.REGION))
    backfill(settings, history_of(tmp_path / "h.om", at("01 00:00")), answering(cdn, asked), cdn.now)
    assert {request.method for request in asked} == {Method.HIT_RATE}
    found = samples((tmp_path / "h.om").read_text())
    assert {s.name for s in found} == {"chinacache_requests_total", "chinacache_settled_seconds_total"}
    totals = simulated.poll(cdn, simulated.ledger(ledger, CHANNELS)).channels[CHANNELS[0]]
    assert totals.traffic_bytes == 0
    assert totals.requests["hit"] > cdn.truth(CHANNELS[0], "hits", at("01 00:00"), at("03 08:55"))


def test_a_code_that_cannot_be_read_is_left_out_and_a_number_is_requested_again(tmp_path: Path) -> None:
    """Of status codes the others count; without its number a response counts for nothing."""
    cdn = Cdn(at("03 12:00"))
    is_readable = False

    def fetch(request: Request, _deadline: float) -> Response:
        if request.method is Method.HTTP_CODE:
            return HttpCode(codes=(StatusCode("200", 7.0, None, None), StatusCode("404", None, 1.0, None)))
        if request.method is Method.HIT_RATE and not is_readable:
            return HitRate(hits=1.0, misses=None)
        return cdn.answer(request)

    settings, history = settings_of(tmp_path / "l.sqlite"), history_of(tmp_path / "h.om", at("01 00:00"), DAY)
    with pytest.raises(
        CcTextfileError, match=r"^hit_rate of channel 1001, .*: a number of the response cannot be read"
    ):
        backfill(settings, history, fetch, cdn.now)
    assert not (tmp_path / "h.om").exists()
    is_readable = True
    backfill(settings, history, fetch, cdn.now)
    codes = {s.labels["code"]: s.value for s in samples((tmp_path / "h.om").read_text()) if "code" in s.labels}
    assert codes == {"200": 14}


# What goes wrong


class Stopped(BaseException):
    """The process is stopped."""


@pytest.mark.parametrize("renamed", [False, True])
def test_stopped_between_file_and_ledger_it_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, renamed: bool
) -> None:
    """The file has its name, and the ledger does not know: the same command makes the file again, and the ledger."""
    cdn, ledger = Cdn(at("03 12:00")), tmp_path / "l.sqlite"
    settings, history = settings_of(ledger), history_of(tmp_path / "h.om", at("01 00:00"))
    asked: list[Request] = []
    rename = Path.rename

    def stop(source: Path, target: Path) -> NoReturn:
        if renamed:
            rename(source, target)
        raise Stopped

    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(Stopped):
        backfill(settings, history, answering(cdn, asked), cdn.now)
    assert (tmp_path / "h.om").exists() is renamed
    with pytest.raises(LedgerError, match="a backfill into it is not finished"):
        days(ledger, since=at("01 00:00").date())
    monkeypatch.undo()

    other = history_of(tmp_path / "other.om", at("01 00:00"))
    (tmp_path / "other.om").write_text("something else")
    with pytest.raises(SettingsError, match=r"other\.om exists"):
        backfill(settings, other, answering(cdn, asked), cdn.now)
    backfill(settings, history, answering(cdn, asked), cdn.now + HOUR)
    assert len(asked) == len(set(asked))
    assert {path.name for path in tmp_path.iterdir()} == {"h.om", "l.sqlite", "other.om"}
    backfill(settings_of(tmp_path / "2"), history_of(tmp_path / "2.om", at("01 00:00")), answering(cdn), cdn.now)
    assert (tmp_path / "2.om").read_bytes() == (tmp_path / "h.om").read_bytes()
    assert simulated.poll(cdn, simulated.ledger(ledger, CHANNELS)).channels.keys() == {*CHANNELS}


def test_two_histories_of_one_name(tmp_path: Path) -> None:
    """The second never replaces the first, leaves nothing, and writes to nothing in its temporary file's place."""
    cdn, history = Cdn(at("03 12:00")), history_of(tmp_path / "h.om", at("01 00:00"))
    (tmp_path / "precious").write_text("precious")
    settings = settings_of(tmp_path / "2")
    unfinished, other = (backfills.temporary(each, history) for each in (settings, settings_of(tmp_path / "1")))
    assert unfinished
    assert unfinished != other
    unfinished.symlink_to(tmp_path / "precious")

    def fetch(request: Request, deadline: float) -> Response:
        (tmp_path / "h.om").write_text("of another account")
        return answering(cdn)(request, deadline)

    with pytest.raises(OutputError, match="cannot be written: File exists"):
        backfill(settings, history, fetch, cdn.now)
    with pytest.raises(SettingsError, match=r"h\.om exists, and is not overwritten"):
        backfill(settings, history, fetch, cdn.now)
    assert (tmp_path / "h.om").read_text() == "of another account"
    assert (tmp_path / "precious").read_text() == "precious"
    assert not os.path.lexists(unfinished)


def test_what_fails_now_and_then_is_requested_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A failure costs no more than its request; in the end the history is the same."""
    cdn, failed = Cdn(at("03 12:00")), set()

    def fetch(request: Request, _deadline: float) -> Response:
        if request.window.start.hour % 2 and request not in failed:
            failed.add(request)
            raise Unreachable("connection refused")
        return cdn.answer(request)

    for name, way in (("1", fetch), ("2", answering(cdn))):
        history = history_of(tmp_path / f"{name}.om", at("01 00:00"))
        backfill(settings_of(tmp_path / name), history, way, cdn.now)
    assert (tmp_path / "1.om").read_bytes() == (tmp_path / "2.om").read_bytes()
    assert "requests failed (" in caplog.text
    assert " unreachable): they are made again" in caplog.text


def test_what_fails_for_good_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    """No history has a gap: one request without a response ends it, and the next start makes only that one."""
    cdn, bad = Cdn(at("03 12:00")), {("1002", Method.ISP, 13)}

    def fetch(request: Request, _deadline: float) -> Response:
        if (request.channel, request.method, request.window.start.hour) in bad:
            raise Unreachable("connection refused")
        return cdn.answer(request)

    settings, history = settings_of(tmp_path / "l.sqlite"), history_of(tmp_path / "h.om", at("01 00:00"))
    message = (
        r"^isp of channel 1002, 2026-12-01 13:00 to 2026-12-01 14:00 \(UTC\+8\): connection refused\. "
        r"2 of 232 requests have no response, and no file is made\. The other responses are kept"
    )
    with pytest.raises(CcTextfileError, match=message):
        backfill(settings, history, fetch, cdn.now)
    assert [path.name for path in tmp_path.iterdir()] == ["l.sqlite"]
    asked: list[Request] = []
    backfill(settings, history, answering(cdn, asked), cdn.now)
    assert len(asked) == 2


def test_a_portal_that_refuses_the_past_is_asked_little(tmp_path: Path) -> None:
    """After the first refusals it ends, with the day and what to do; a later day uses what was answered."""
    cdn, asked = Cdn(at("20 12:00")), []
    limit = at("10 00:00")

    def fetch(request: Request, _deadline: float) -> Response:
        asked.append(request)
        if request.window.start < limit:
            raise Refused("refused: only ten days")
        return cdn.answer(request)

    settings = settings_of(tmp_path / "l.sqlite")
    with pytest.raises(CcTextfileError, match=r"2026-12-01 .*only ten days\. If the portal .* give a later --from"):
        backfill(settings, history_of(tmp_path / "h.om", at("01 00:00")), fetch, cdn.now)
    assert len(asked) <= 8
    assert list(tmp_path.iterdir()) == []
    limit = at("11 02:00")  # in the middle of the first requests
    del asked[:]
    with pytest.raises(CcTextfileError, match=r"2026-12-11 .*only ten days"):
        backfill(settings, history_of(tmp_path / "h.om", at("11 00:00")), fetch, cdn.now)
    assert len(asked) <= 8
    backfill(settings, history_of(tmp_path / "h.om", at("12 00:00")), fetch, cdn.now)
    good = [request for request in asked if request.window.start >= at("12 00:00")]
    assert len(good) == len(set(good)) == 2 * (8 * (2 * 24 + 1) + 2 * 9)
    assert times(tmp_path / "h.om")[0] == at("12 00:00")


def test_a_backfill_that_is_continued_days_later_ends_later(tmp_path: Path) -> None:
    """What was kept is used, and the history still ends a little more than three hours before the new start."""
    cdn, asked, limit = Cdn(at("05 12:00")), [], 100

    def fetch(request: Request, _deadline: float) -> Response:
        asked.append(request)
        if len(asked) > limit:
            raise Unreachable("connection refused")
        return cdn.answer(request)

    settings, history = settings_of(tmp_path / "l.sqlite"), history_of(tmp_path / "h.om", at("01 00:00"))
    with pytest.raises(CcTextfileError, match="connection refused"):
        backfill(settings, history, fetch, cdn.now)
    cdn.now, limit = at("08 12:00"), 10_000
    kept = set(asked[:100])
    del asked[:]
    backfill(settings, history, fetch, cdn.now)
    assert not kept & set(asked)
    assert times(tmp_path / "h.om")[-1] == at("08 08:55")
    # What was answered three days ago for a day that had just ended may have been too early.
    recorded = days(tmp_path / "l.sqlite", since=at("01 00:00").date())
    assert {day.day.day for day in recorded if day.closed} == {1, 2, 3, 4}


def test_a_clock_that_is_ahead_writes_nothing(tmp_path: Path) -> None:
    """A response that the portal gave before the time was settled is not used."""
    cdn = Cdn(at("03 12:00"))
    settings, history = settings_of(tmp_path / "l.sqlite"), history_of(tmp_path / "h.om", at("01 00:00"))
    with pytest.raises(CcTextfileError, match="the clock of this host is ahead"):
        backfill(settings, history, answering(cdn), cdn.now + 6 * HOUR)
    assert not (tmp_path / "h.om").exists()
    backfill(settings, history, answering(cdn), cdn.now)
    assert times(tmp_path / "h.om")[-1] == at("03 08:55")


def test_a_deadline_that_leaves_no_time_is_named(tmp_path: Path) -> None:
    """The limit of a poll holds for each batch."""
    settings = settings_of(tmp_path / "l.sqlite", deadline=0.0)
    with pytest.raises(CcTextfileError, match="--deadline"):
        backfill(settings, history_of(None, at("01 00:00")), answering(Cdn(at("03 12:00"))), at("03 12:00"))
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_that_has_a_past_is_refused(tmp_path: Path) -> None:
    """One that a poll or a backfill has filled stays as it is, and so does a file that is something else."""
    cdn = Cdn(at("03 12:00"))
    ledger, other = tmp_path / "l.sqlite", tmp_path / "other"
    simulated.poll(cdn, simulated.ledger(ledger))
    backfill(settings_of(tmp_path / "2"), history_of(tmp_path / "2.om", at("01 00:00"), DAY), answering(cdn), cdn.now)
    other.write_text("not a database" * 1000)
    for path, fault in (
        (ledger, "has a past already"),
        (tmp_path / "2", "has a past already"),
        (other, "not a ledger"),
    ):
        content = path.read_bytes()
        with pytest.raises(LedgerError, match=fault):
            backfill(settings_of(path), history_of(tmp_path / "h.om", at("01 00:00")), answering(cdn), cdn.now)
        assert path.read_bytes() == content
    assert not (tmp_path / "h.om").exists()


def test_a_file_that_cannot_get_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an output that fails, and no fault of the ledger: the same command finishes later."""
    cdn = Cdn(at("03 12:00"))
    settings, history = settings_of(tmp_path / "l.sqlite"), history_of(tmp_path / "h.om", at("02 00:00"), DAY)

    def refuse(_path: Path, _target: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match=r"h\.om cannot be written: Permission denied"):
        backfill(settings, history, answering(cdn), cdn.now)
    monkeypatch.undo()
    backfill(settings, history, answering(cdn), cdn.now)
    assert times(tmp_path / "h.om")[-1] == at("03 08:55")


def test_a_first_day_that_the_history_does_not_reach_is_named(tmp_path: Path) -> None:
    """Just after midnight, the history of today would end before it begins."""
    with pytest.raises(SettingsError, match=r"^--from: the history ends .* 2026-12-02 23:55 .* give an earlier day$"):
        backfill(
            settings_of(tmp_path / "l.sqlite"),
            history_of(None, at("03 00:00")),
            answering(Cdn(at("03 03:00"))),
            at("03 03:00"),
        )
    assert list(tmp_path.iterdir()) == []


TODAY = datetime.now(PORTAL_ZONE)


@pytest.mark.parametrize(
    ("words", "status", "fault"),
    [
        (["--from", f"{TODAY + 2 * DAY:%Y-%m-%d}"], 2, "is not a day from 2000 to today"),
        (["--from", "1999-12-31"], 2, "1999-12-31 is not a day from 2000 to today"),
        (["--from", "2026-02-30"], 2, "'2026-02-30' is not a day, such as "),
        (["--from", "yesterday"], 2, "'yesterday' is not a day, such as "),
        (["--step", "7m"], 2, "0:07:00 is not a multiple of 5m, from 5m to 24h"),
        (["--step", "25h"], 2, "is not a multiple of 5m"),
        (["--step", "1d"], 2, "'1d' is not a duration"),
        (["--job", ""], 2, "blank, or not UTF-8"),
        (["--output", "exists"], 2, "--output: exists exists, and is not overwritten; give another file"),
        (["--output", "nowhere/h.om"], 2, "--output: nowhere is not a folder that user"),
        (["--ledger", ""], 1, " is not a regular file"),
        (["--ledger", "nowhere/l"], 1, "cannot be used: No such file or directory (as root: install -d "),
        (["--portal-url", "http://127.0.0.1:1"], 1, " requests have no response, and no file is made\n"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_left(folder: Path, words: list[str], status: int, fault: str) -> None:
    """Exit status 2 for the command line, 1 for the portal; no ledger and no file."""
    (folder / "exists").write_text("something")
    env = environment(CHINACACHE_USER="me", CHINACACHE_PASS="secret", CHINACACHE_CHANNEL_IDS="1001")
    good = [
        "--from",
        "2026-11-01",
        "--job",
        "node",
        "--instance",
        "a",
        "--ledger",
        "l",
        "--portal-url",
        "http://[::1]:9",
    ]
    done = run("backfill", *good, *words, env=env | {"PYTHONPATH": str(ROOT)}, cwd=folder)
    assert (done.returncode, done.stdout) == (status, "")
    assert fault in done.stderr
    assert [path.name for path in folder.iterdir()] == ["exists"]


def test_labels_and_ledger_have_to_be_given(portal: DemoPortal) -> None:
    """`job` and `instance` are those of the live series, which only the operator knows; an output is not needed."""
    first = f"{TODAY - DAY:%Y-%m-%d}"
    for words, fault in (
        (("--instance", "a"), "Missing option '--job'"),
        (("--job", "a"), "Missing option '--instance'"),
        (("--job", "a", "--instance", "a"), "cc-textfile: --ledger (CC_TEXTFILE_LEDGER) is missing\n"),
    ):
        done = run("backfill", "--from", first, *words, env=account(portal))
        assert done.returncode == 2
        assert fault in done.stderr
    assert "no output is set" not in done.stderr


def test_a_password_that_is_refused_makes_few_requests(folder: Path, portal: DemoPortal) -> None:
    """More could lock the account; nothing is left behind."""
    done = run(*flags(folder, TODAY - 9 * DAY), env=account(portal, CHINACACHE_PASS="wrong-secret"))
    assert done.returncode == 1
    assert "user name or password is wrong" in done.stderr
    assert "wrong-secret" not in done.stderr
    assert portal.requests <= 8
    assert list(folder.iterdir()) == []


# What is shown


@pytest.mark.slow
def test_on_standard_output_it_is_the_same(folder: Path, portal: DemoPortal) -> None:
    """`-` writes the history there, and what to do next on standard error; while nobody reads, nothing is finished."""
    first, ledger = TODAY - DAY, folder / "demo.ledger"
    words = [*flags(folder, first), "--output", "-", "--channels", "1"]
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as nobody:
        done = subprocess.run(command(*words), env=account(portal), stdout=nobody, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith(b"error: standard output cannot be written: Broken pipe")
    again = run(*words, env=account(portal, CC_TEXTFILE_TIMOUT="5s"))
    assert again.returncode == 0
    assert "variable CC_TEXTFILE_TIMOUT is unknown" in again.stderr
    assert samples(again.stdout)
    assert "promtool tsdb create-blocks-from openmetrics FILE" in again.stderr
    assert list(folder.iterdir()) == [ledger]


@pytest.mark.slow
def test_without_a_terminal_there_are_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log tells how far it is: at once, and then each minute."""
    caplog.set_level("INFO")
    cdn = Cdn(at("30 12:00"))
    backfill(settings_of(tmp_path / "1"), history_of(tmp_path / "1.om", at("01 00:00")), answering(cdn), cdn.now)
    assert [record.getMessage() for record in caplog.records] == ["0 of 2,878 requests are made"]
    monkeypatch.setattr(backfills, "LOG_SECONDS", 0.0)
    backfill(settings_of(tmp_path / "2"), history_of(tmp_path / "2.om", at("01 00:00")), answering(cdn), cdn.now)
    assert caplog.records[-1].getMessage() == "2,878 of 2,878 requests are made"


@pytest.mark.slow
def test_on_a_terminal_there_is_one_line(folder: Path, portal: DemoPortal) -> None:
    """It is written anew on standard error until all is done, and then come the commands."""
    terminal, end = pty.openpty()
    words = command(*flags(folder, TODAY - 2 * DAY))
    with subprocess.Popen(words, env=account(portal, TERM="xterm"), stdout=end, stderr=end) as process:
        os.close(end)
        shown = b""
        try:
            while part := os.read(terminal, 4096):
                shown += part
        except OSError:  # the program has ended
            pass
        assert process.wait() == 0
    os.close(terminal)
    assert re.search(rb"requesting: (\d+) of \1 requests \(100%\)\r", shown)
    assert shown.index(b"requesting") < shown.index(b"promtool tsdb create-blocks-from")
