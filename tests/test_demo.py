"""The demo runs the main job without an account, and its portal speaks the wire format of the real one."""

import json
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_textfile.demo import portal as demo
from cc_textfile.demo.portal import DemoPortal
from cc_textfile.demo.summary import table
from cc_textfile.portal.responses import Method, decode
from cc_textfile.portal.window import DAY, PORTAL_ZONE, Window
from tests.conftest import PATIENCE, POWERLESS, Program, command, environment, get, needs_root, run

NOW = datetime(2024, 5, 17, 3, 30, tzinfo=UTC)
TODAY = Window(NOW, NOW).days


def ask(method: Method, channel: str, window: Window, now: datetime = NOW) -> dict[str, Any]:
    """Return the portal's response."""
    start, end = window
    query = {"channelIds": channel, "startTime": f"{start:%Y%m%d%H%M}", "endTime": f"{end:%Y%m%d%H%M}"}
    days = {"channel_id": channel, "start_time": f"{start:%Y%m%d}", "end_time": f"{end:%Y%m%d}"}
    return demo.response(method, days if method is Method.HTTP_CODE else query, now)


@given(st.sampled_from(Method), st.text(min_size=1), st.integers(1, 100_000), st.datetimes(datetime(2000, 1, 1)))  # noqa: DTZ001
def test_its_responses_are_good(method: Method, channel: str, minutes: int, moment: datetime) -> None:
    """Whatever channel and window are asked for, the decoders of the program take the response."""
    now = moment.replace(tzinfo=UTC)
    content = ask(method, channel, Window.ending(now, minutes), now)
    assert decode(method, 200, json.dumps(content).encode(), str).dropped_rows == 0


@given(st.lists(st.integers(0, 1440), min_size=3, max_size=9, unique=True).map(sorted), st.integers(0, 999))
def test_its_numbers_add_up(cuts: list[int], channel: int) -> None:
    """The numbers of a stretch are the sum of those of its parts, however it is cut, and are the same each time."""
    times = [TODAY.start + timedelta(minutes=cut) for cut in cuts]
    later = NOW + 2 * DAY

    def numbers(window: Window) -> tuple[int, int, int]:
        rate, isp = (ask(method, str(channel), window, later) for method in (Method.HIT_RATE, Method.ISP))
        return rate["Hit"], rate["Miss"], isp["totalFlux"]

    parts = [numbers(Window(start, end)) for start, end in pairwise(times)]
    assert tuple(map(sum, zip(*parts, strict=True))) == numbers(Window(times[0], times[-1]))
    assert all(number >= 0 for part in parts for number in part)


def test_rows_are_made_once_a_day() -> None:
    """As at the real portal, a window within one day has no ISPs and no provinces, and a whole day has them."""
    for window, rows in ((Window.ending(NOW, 5), 0), (Window.ending(NOW, 1440), 6), (TODAY, 6)):
        assert len(ask(Method.ISP, "1", window)["isps"]) == rows


def test_its_shares_and_counts_are_of_one_whole() -> None:
    """Shares add up to 1, percentages to 100, and status codes to the requests."""
    rate, isps, codes = (
        ask(method, "1", TODAY, NOW + DAY) for method in (Method.HIT_RATE, Method.ISP, Method.HTTP_CODE)
    )
    one_day = demo.response(
        Method.HTTP_CODE, {"channel_id": "1", "start_time": "20240517", "end_time": "20240517"}, NOW + DAY
    )["data"]
    assert sum(row["fluxRatio"] for row in isps["isps"]) == pytest.approx(1, abs=1e-4)
    assert sum(row["hitCount"] for row in isps["isps"]) == pytest.approx(rate["Hit"], abs=len(isps["isps"]))
    assert sum(float(row["request_percent"].rstrip("%")) for row in codes["data"]) == pytest.approx(100, abs=0.1)
    assert sum(row["request_count"] for row in one_day) == rate["Hit"] + rate["Miss"]


def test_the_future_has_not_happened() -> None:
    """What lies after now is not counted yet."""
    assert ask(Method.HIT_RATE, "1", Window(NOW.astimezone(PORTAL_ZONE), TODAY.end))["Hit"] == 0
    assert ask(Method.ISP, "1", TODAY)["totalFlux"] < ask(Method.ISP, "1", TODAY, NOW + DAY)["totalFlux"]


def test_it_refuses_like_the_real_one(portal: DemoPortal) -> None:
    """A wrong password is refused in the response; a bad query and an unknown path are HTTP errors."""
    place = f"{portal.url}/api/public/statistics/getIsp.do?"
    good = {"userName": demo.USER, "apiPasswd": demo.PASSWORD}
    assert json.loads(get(place + urlencode({**good, "apiPasswd": "x"})))["code"] != 1
    for bad in (place + urlencode(good), place + urlencode({**good, "channelIds": "1"}), f"{portal.url}/elsewhere"):
        with pytest.raises(HTTPError, match="400"):
            get(bad)


def test_a_response_that_drips_goes_on(portal: DemoPortal) -> None:
    """It never ends, and never stands still for longer than a second."""
    portal.fault = lambda *_: "drip"
    with urlopen(portal.url + next(iter(demo.METHODS)), timeout=PATIENCE) as dripping:
        assert dripping.read(1) == b" "


@pytest.mark.slow
def test_standard_output_that_takes_nothing(tmp_path: Path) -> None:
    """A full disk is status 1 and a line."""
    with Path("/dev/full").open("w") as full:
        words = command("demo", "--folder", str(tmp_path))
        done = subprocess.run(words, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "error: standard output cannot be written: No space left on device\n" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_writes_shows_and_says_how_to_look_further(tmp_path: Path) -> None:
    """One command, no account: a real file in a folder that is named, a table of it, and the next commands."""
    done = run("demo", env=environment(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "demo-textfile" / "cc_textfile.prom"
    assert "polled 3 channels" in done.stderr
    for words in (
        "channel 100201",
        "traffic ",
        "hit ratio",
        "status codes   200 ",
        "China Telecom",
        "Guangdong Province",
    ):
        assert words in done.stdout
    assert f"cat {file}\n" in done.stdout
    assert f"--collector.textfile.directory={file.parent}" in done.stdout
    assert (
        'ChinaCache_metrics_region_specific_flux_ratio{channel="100201",name="Guangdong Province"' in file.read_text()
    )


@pytest.mark.slow
def test_a_proxy_of_the_environment_is_not_used(tmp_path: Path) -> None:
    """The demo polls its own portal on loopback, whatever the proxy variables say."""
    done = run("demo", env=environment(http_proxy="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_table_says_what_the_file_says(tmp_path: Path) -> None:
    """The table is read from the file; what is not in it is a dash."""
    file = tmp_path / "a.prom"
    file.write_text(
        'ChinaCache_metrics_isp_total_bytes{channel="7"} 2.5e+09\n'
        'ChinaCache_metrics_hit_miss_total{channel="7",HitOrMiss="Hit"} 3\n'
        'ChinaCache_metrics_hit_miss_total{channel="7",HitOrMiss="Miss"} 1\n'
        'ChinaCache_metrics_region_total_bytes{channel="8"} 1\n'
        "# TYPE chinacache_traffic_bytes_total counter\n"
        'chinacache_traffic_bytes_total{channel="7"} 2e+09\n'
        'chinacache_settled_seconds_total{channel="7"} 600\n'
    )
    assert table(file) == (
        "channel 7\n"
        "  traffic        2.5 GB\n"
        "  hit ratio      75.0%  (3 hits, 1 misses)\n"
        "  status codes   -\n"
        "  top ISPs       -\n"
        "  top provinces  -\n"
        "  counter        2.0 GB in 600 s of CDN time\n"
        "\n"
        "channel 8\n"
        "  traffic        -\n"
        "  hit ratio      -\n"
        "  status codes   -\n"
        "  top ISPs       -\n"
        "  top provinces  -\n"
        "  counter        -"
    )


@pytest.mark.slow
def test_on_an_interval_it_goes_on_until_interrupted(tmp_path: Path, start: Callable[..., Program]) -> None:
    """With --interval the file is written again and again, for a node_exporter to be pointed at."""
    program = start(*command("demo", "--interval", "200ms", "--folder", str(tmp_path / "f")), env=environment())
    for _ in range(3):
        program.line("polled 3 channels")
    assert program.end(signal.SIGINT) == 0
    assert "Traceback" not in program.said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_serve_the_portal_alone(tmp_path: Path, number: signal.Signals) -> None:
    """`demo --serve` is a portal for `run` to poll, and can be asked to fail; it ends as a loop does.

    Also as a background job of a script, for which shells have SIGINT ignored.
    """
    ignoring = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")
    serve = command("demo", "--serve", "127.0.0.1:0", "--fault", "isp=refused")
    with (
        subprocess.Popen((*ignoring, *serve), env=environment(), stdout=subprocess.PIPE, text=True) as serving,
        ExitStack() as at_the_end,
    ):
        at_the_end.callback(serving.kill)
        assert serving.stdout
        line = serving.stdout.readline()
        match = re.fullmatch(
            r"portal at (http://127.0.0.1:\d+), user (\S+), password (\S+), any channels; Ctrl-C ends it\n", line
        )
        assert match, line
        url, user, password = match.groups()
        env = environment(
            CHINACACHE_URL=url, CHINACACHE_USER=user, CHINACACHE_PASS=password, CHINACACHE_CHANNEL_IDS="5"
        )
        done = run("run", "--textfile", str(tmp_path / "a.prom"), env=env)
        assert "3 requests good, 1 failed" in done.stderr
        serving.send_signal(number)
        assert serving.wait(PATIENCE) == 0


def test_a_failing_demo_has_the_status_of_a_failing_run(tmp_path: Path) -> None:
    """When nothing is answered, the demo says so in the file, the log and the exit status."""
    done = run("demo", "--fault", "refused", env=environment(), cwd=tmp_path)
    assert done.returncode == 1
    assert "the portal refuses the account of user demo" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--serve", "http"), "--serve is 'http'; give [HOST:]PORT, with a port from 0 to 65535"),
        (("--serve", "70000"), "from 0 to 65535"),
        (
            ("--fault", "sulk"),
            "--fault is 'sulk'; give [METHOD=]FAULT, of hit_rate, isp, region, http_code and refused,",
        ),
        (("--fault", "dns=hang"), "--fault is 'dns=hang'"),
        (("--interval", "5"), "'5' is not a duration"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    """Exit 2, what is wrong, and what would be right; nothing is written."""
    done = run("demo", *options, env=environment(), cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_taken_port_and_a_closed_folder_are_failures_in_words(tmp_path: Path, portal: DemoPortal) -> None:
    """What the host does not give ends the demo with 1 and a sentence."""
    taken = portal.url.rpartition(":")[2]
    done = run("demo", "--serve", taken, env=environment())
    assert done.returncode == 1
    assert f"the demo portal cannot listen at 127.0.0.1:{taken}: Address already in use" in done.stderr
    (tmp_path / "file").write_text("")
    done = run("demo", "--folder", str(tmp_path / "file"), env=environment())
    assert done.returncode == 2
    assert "is a file" in done.stderr
    done = run("demo", "--folder", str(tmp_path / "file" / "below"), env=environment())
    assert done.returncode == 1
    assert "cannot be made: Not a directory" in done.stderr


def test_a_folder_that_is_open_for_reading_only(tmp_path: Path) -> None:
    """What is in it cannot be found out, and nothing can be written: a failure in words."""
    needs_root()
    (tmp_path / "closed").mkdir(mode=0o444)
    done = run("demo", "--folder", str(tmp_path / "closed"), env=environment(), before=POWERLESS)
    assert done.returncode == 1
    assert "cc_textfile.prom cannot be written: Permission denied" in done.stderr
    assert "Traceback" not in done.stderr


def test_today_is_counted_as_far_as_it_has_gone() -> None:
    """The REST method has whole days, and of today what has been: later in the day there are more requests."""
    query = {"channel_id": "1", "start_time": "20240517", "end_time": "20240517"}
    counts = [
        sum(row["request_count"] for row in demo.response(Method.HTTP_CODE, query, NOW + timedelta(hours=h))["data"])
        for h in (0, 6, 12, 24, 48)
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[2] < counts[3] == counts[4]


@pytest.mark.slow
def test_a_second_demo_goes_on_with_the_ledger_of_the_first(tmp_path: Path) -> None:
    """Only the first one makes a ledger that begins a day ago, with a poll of its own."""
    polls = [run("demo", env=environment(), cwd=tmp_path).stderr.count("polled 3 channels") for _ in range(2)]
    assert polls == [2, 1]
