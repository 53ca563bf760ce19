"""Each way in which the portal can be broken is named by `check`, with what mends it."""

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from cc_textfile import check_portal, demo
from cc_textfile.answers import Endpoint
from cc_textfile.check_portal import portal as portal_steps
from cc_textfile.demo import DemoPortal
from cc_textfile.redaction import Redactor
from cc_textfile.settings import Settings
from cc_textfile.step import State
from tests.certificates import loopback
from tests.checked import NOWHERE, Checked, alter
from tests.conftest import run


def skipped_after(step: str) -> set[str]:
    names = [f"portal {name}" for name in check_portal.STEPS]
    return set(names[names.index(f"portal {step}") + 1 :])


def test_a_name_that_is_none(env: dict[str, str]) -> None:
    """A name that can't be resolved is named, and no more is tried."""
    checked = Checked(env=env | {"CHINACACHE_URL": "https://portal.invalid:444"})
    assert checked.status == 1
    detail, remedy = "the name in portal.invalid:444 cannot be resolved", "^getent hosts portal.invalid; .*--portal-url"
    checked.names("portal name", State.FAILED, detail, remedy)
    assert skipped_after("name") <= checked.are(State.SKIPPED)
    checked.names("portal load", State.SKIPPED, "not tried: portal name failed")


def test_a_port_that_is_closed(env: dict[str, str]) -> None:
    """A portal that takes no connection is named with its port."""
    checked = Checked(env=env | {"CHINACACHE_URL": NOWHERE})
    assert checked.status == 1
    detail = "no connection to 127.0.0.1:1: Connection refused"
    checked.names("portal connection", State.FAILED, detail, r"^nc -vz 127\.0\.0\.1 1; ")
    assert skipped_after("connection") <= checked.are(State.SKIPPED)


@pytest.mark.parametrize(("scheme", "port"), [("http", "80"), ("https", "443")])
def test_a_port_that_is_not_said(env: dict[str, str], scheme: str, port: str) -> None:
    """An address without a port has its scheme's."""
    step = Checked("--timeout", "2s", env=env | {"CHINACACHE_URL": f"{scheme}://127.0.0.1"}).steps["portal connection"]
    assert re.search(rf"127\.0\.0\.1 {port};|port {port} of ", step.remedy or step.detail)


@contextmanager
def secure(context: ssl.SSLContext) -> Iterator[tuple[DemoPortal, str]]:
    """Serve the demo portal over TLS; yields it and its URL."""
    portal = DemoPortal()
    portal.socket = context.wrap_socket(portal.socket, server_side=True)
    with portal.serving():
        yield portal, portal.url.replace("http:", "https:")


@pytest.mark.parametrize(
    ("names", "days", "trusted", "detail", "remedy"),
    [
        ((), -1, True, "is not to be trusted: certificate has expired$", "^look at this host's clock: timedatectl"),
        ((), 90, False, "is not to be trusted: unable to get local issuer", r"^name the bundle .* --ca-file \(CHINA"),
        (("elsewhere.example",), 90, True, "is not to be trusted: IP address mismatch", "correct the name in --portal"),
    ],
    ids=["expired", "untrusted", "of another name"],
)
def test_a_bad_certificate(
    env: dict[str, str], tmp_path: Path, names: tuple[str, ...], days: int, detail: str, remedy: str, *, trusted: bool
) -> None:
    """A certificate that is not to be trusted is named with the reason, before the password is sent."""
    context, bundle = loopback(tmp_path, *names, not_after=datetime.now(UTC) + timedelta(days=days))
    with secure(context) as (portal, url):
        checked = Checked(env=env | {"CHINACACHE_URL": url} | ({"CHINACACHE_CA_FILE": str(bundle)} if trusted else {}))
        assert portal.requests == 0
    assert checked.status == 1
    checked.names("portal TLS", State.FAILED, detail, remedy)
    assert skipped_after("TLS") <= checked.are(State.SKIPPED)


@pytest.mark.parametrize(("days", "state"), [(13, State.WARNING), (15, State.OK)])
def test_the_days_left_on_a_certificate(env: dict[str, str], tmp_path: Path, days: int, state: State) -> None:
    """A certificate that ends soon is named with the day, while polls still succeed."""
    ends = datetime.now(UTC) + timedelta(days=days, minutes=5)
    context, bundle = loopback(tmp_path, not_after=ends)
    with secure(context) as (_, url):
        checked = Checked(env=env | {"CHINACACHE_URL": url, "CHINACACHE_CA_FILE": str(bundle)})
    assert checked.status == 0
    remedy = "have the portal's operator renew it" if state is State.WARNING else ""
    checked.names("portal TLS", state, f"has {days} days left, until {ends:%Y-%m-%d}$", remedy)


def test_a_server_without_tls(portal: DemoPortal, env: dict[str, str]) -> None:
    """An https address of a server that does not speak TLS is named as the thing to correct."""
    checked = Checked(env=env | {"CHINACACHE_URL": portal.url.replace("http:", "https:")})
    assert checked.status == 1
    checked.names("portal TLS", State.FAILED, "TLS with 127.0.0.1:.* failed", "see whether --portal-url")


def test_a_proxy(portal: DemoPortal, env: dict[str, str]) -> None:
    """Behind a proxy, it is the proxy that has to be found; a password in clear to somewhere else is warned of."""
    checked = Checked(env=env | {"http_proxy": portal.url, "CHINACACHE_URL": "http://portal.invalid"})
    assert checked.status == 0
    checked.names("portal name", State.OK, "^the proxy 127.0.0.1 is 127.0.0.1$")
    checked.names("portal TLS", State.WARNING, "user and password travel in clear", "https address")
    # The demo portal is no proxy for TLS, and says so.
    checked = Checked(env=env | {"https_proxy": portal.url, "CHINACACHE_URL": "https://portal.invalid"})
    assert checked.status == 1
    checked.names("portal TLS", State.SKIPPED, "the proxy hides the certificate")
    checked.names("portal isp", State.FAILED, "the proxy gave no connection", "https_proxy and no_proxy")
    checked.names("portal load", State.SKIPPED, "not tried: ")


@pytest.mark.parametrize(
    ("ahead", "state", "detail"),
    [
        (-90, State.WARNING, r"is (8|9)\d s ahead of the portal's"),
        (90, State.WARNING, r"is (8|9)\d s behind the portal's"),
        (30, State.OK, "is within 60 s of the portal's"),
        (None, State.SKIPPED, "the portal does not say its time"),
    ],
)
def test_the_clocks(portal: DemoPortal, env: dict[str, str], ahead: float | None, state: State, detail: str) -> None:
    """This host's clock, which cuts the windows, is compared with the portal's."""

    def date(*_: object) -> str:
        return format_datetime(datetime.now(UTC) + timedelta(seconds=ahead), usegmt=True) if ahead else "never"

    alter(portal, {"date_time_string": date})
    checked = Checked(env=env)
    assert checked.status == 0
    checked.names("portal clock", state, detail, "timedatectl set-ntp true" if state is State.WARNING else "")


def test_clocks_that_cannot_be_compared(portal: DemoPortal, env: dict[str, str]) -> None:
    """A portal that says nothing where nothing is asked is no failure."""
    good: Any = portal.RequestHandlerClass

    def shy(handler: Any) -> None:
        if handler.path == "/":
            handler.close_connection = True
        else:
            good.do_GET(handler)

    alter(portal, {"do_GET": shy})
    checked = Checked(env=env)
    assert checked.status == 0
    checked.names("portal clock", State.SKIPPED, "not compared: 127.0.0.1:.* broke the connection off")


@pytest.mark.parametrize("by_status", [False, True])
def test_a_wrong_password(portal: DemoPortal, env: dict[str, str], tmp_path: Path, *, by_status: bool) -> None:
    """A wrong password is tried exactly once; what is named is where the account was read from."""
    if by_status:
        alter(portal, {"refuse": _unauthorised})
    (tmp_path / "password").write_text("guess-of-mine")
    checked = Checked("--password-file", str(tmp_path / "password"), env=env)
    assert checked.status == 1
    assert portal.requests == 1
    detail = r"user demo, hit_rate of channel \S+: " + (
        "HTTP status 401" if by_status else "the portal refused: .*: user name or password is wrong"
    )
    remedy = rf"user \(variable CHINACACHE_USER\) or password \(flag --password-file, file {tmp_path}/password\)"
    remedy += r".* the channel \(variable CHINACACHE_CHANNEL_IDS\), or the right to hit_rate"
    checked.names("portal password", State.FAILED, detail, remedy)
    assert skipped_after("password") <= checked.are(State.SKIPPED)


def _unauthorised(handler: Any) -> None:
    handler.say(b"<html>no</html>", status=401, kind="text/html")


@pytest.mark.parametrize(
    ("fault", "detail", "remedy"),
    [
        ("refused", "the portal refused", "whether user demo may read this"),
        ("status", "HTTP status 502", "ask the portal's operator, or whoever runs the proxy"),
        ("malformed", "is not JSON", "ask the portal's operator, or whoever runs the proxy"),
        ("hang", "no whole answer from .* within 2 s", r"longer than 2 s: --timeout \(CC_TEXTFILE_TIMEOUT\)"),
        ("broken", "broke the connection off", "run this again"),
    ],
)
def test_an_endpoint_that_fails(portal: DemoPortal, env: dict[str, str], fault: str, detail: str, remedy: str) -> None:
    """An endpoint that fails is named with the reason and the channel; the others are looked at all the same."""
    portal.fault = lambda endpoint, _: fault if endpoint is Endpoint.ISP else None
    checked = Checked("--timeout", "2s", env=env)
    assert checked.status == 1
    assert checked.are(State.FAILED) == {"portal isp"}
    checked.names("portal isp", State.FAILED, f"^channel {demo.CHANNELS[0]}: .*{detail}", remedy)
    checked.names("portal load", State.OK, "12 requests")


def test_a_first_endpoint_that_fails(portal: DemoPortal, env: dict[str, str]) -> None:
    """The password is known by the first good answer; where none comes, it is not known, and not blamed."""
    portal.fault = lambda endpoint, _: "malformed" if endpoint is Endpoint.HIT_RATE else None
    checked = Checked(env=env)
    assert checked.are(State.FAILED) == {"portal hit_rate"}
    checked.names("portal password", State.OK, "lets user demo in")
    portal.fault = lambda *_: "malformed"
    checked = Checked(env=env)
    assert checked.are(State.FAILED) == {f"portal {endpoint}" for endpoint in Endpoint}
    checked.names("portal password", State.SKIPPED, "not tried: ")


def test_a_poll_that_would_be_late(env: dict[str, str]) -> None:
    """Channels that can't be asked within the deadline are reckoned before they are missed."""
    channels = ",".join(map(str, range(2000)))
    checked = Checked("--channels", channels, "--concurrency", "1", "--deadline", "10ms", env=env)
    assert checked.status == 0
    detail = r"8000 requests a poll.*; at this pace some \d+ s, longer than the deadline of 0.01 s"
    checked.names("portal load", State.WARNING, detail, r"raise --concurrency .* or --deadline .* --shard")
    checked = Checked("--channels", channels, "--concurrency", "1000", "--deadline", "10m", env=env)
    checked.names("portal load", State.OK, "8000 requests a poll")


def test_the_series_that_a_poll_will_make(env: dict[str, str], folder: Path) -> None:
    """The number of series is reckoned from one channel, and is what a poll then makes of all."""
    env |= {"QUERYTIME": "1440", "CHINACACHE_INTERVAL": "5m"}
    checked = Checked(env=env)
    run("run", env=env | {"CHINACACHE_INTERVAL": ""})
    series = [line for line in (folder / "a.prom").read_text().splitlines() if not line.startswith("#")]
    detail = f"^about {len(series)} series and 12 requests a poll, 3456 requests a day$"
    checked.names("portal load", State.OK, detail)


@pytest.mark.parametrize(("hour", "more"), [(4, True), (16, False)], ids=["noon", "midnight"])
def test_the_window_of_the_estimate(env: dict[str, str], hour: int, *, more: bool) -> None:
    """The daily breakdowns come only with windows that span midnight in UTC+8, and the estimate says so."""
    now = datetime(2024, 5, 6, hour, 2, tzinfo=UTC)
    *_, load = portal_steps(Settings.load({}, env), Redactor(), lambda: now)
    assert load.step == "portal load"
    assert load.detail.endswith("; more series when the window spans midnight in UTC+8") is more


def test_a_name_that_can_be_none(env: dict[str, str]) -> None:
    """A name with an empty part is named as what it is, and nothing crashes over it."""
    checked = Checked(env=env | {"CHINACACHE_URL": "http://a..b"})
    assert checked.status == 1
    checked.names("portal name", State.FAILED, "a..b is no name of a host", r"--portal-url \(CHINACACHE_URL\)")
