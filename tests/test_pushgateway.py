"""Pushes to the real Pushgateway: what arrives, in which group, and what a failure tells."""

import base64
import gc
import re
import socket
import subprocess
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from cc_textfile.demo.portal import DemoPortal
from cc_textfile.errors import OutputError
from cc_textfile.logs import Redactor
from cc_textfile.output.pushgateway import Pushgateway
from cc_textfile.settings import Settings
from tests.conftest import account, get, run
from tests.server import Peer, Server, response, sending
from tests.test_main_job import WITHOUT_LEDGER, Series, series_of
from tests.test_signals import silent_resolver


@pytest.fixture
def env(portal: DemoPortal, pushgateway: Callable[..., str]) -> dict[str, str]:
    """Return settings that push."""
    return account(portal, PUSHGATEWAY=pushgateway())


def pushed(env: dict[str, str], *without: str) -> Series:
    """Return what the Pushgateway has, without the labels of the group that all pushes have."""
    return series_of(get(f"{env['PUSHGATEWAY']}/metrics"), "job", "instance", *without)


def channels(series: Series) -> set[str]:
    """Return the channels that have an amount of traffic."""
    return {dict(labels)["channel"] for name, labels in series if name == "ChinaCache_metrics_isp_total_bytes"}


def test_a_push_has_the_older_exporters_job(env: dict[str, str]) -> None:
    """With nothing but the older exporter's variables, a run pushes under its job, and every metric arrives."""
    done = run("run", env=env | {"QUERYTIME": "1440"})
    assert done.returncode == 0, done.stderr
    served = get(f"{env['PUSHGATEWAY']}/metrics")
    assert 'ChinaCache_metrics_isp_total_bytes{channel="100201",instance="",job="ChinaCachePush"}' in served
    assert {name for name, _ in pushed(env)} == WITHOUT_LEDGER
    assert f"pushed to {env['PUSHGATEWAY'].removeprefix('http://')}" in done.stderr


def test_a_channel_that_is_gone_is_gone_from_the_pushgateway(env: dict[str, str]) -> None:
    """A push replaces the whole group (PUT), so that a series that is gone goes, and so does a metric."""
    for ids in ("1,2", "2"):
        assert run("run", "--channels", ids, env=env).returncode == 0
        assert channels(pushed(env)) == set(ids.split(","))
    assert run("run", "--methods", "region", env=env).returncode == 0
    assert channels(pushed(env)) == set()


def test_accounts_and_shards_have_groups_of_their_own(env: dict[str, str]) -> None:
    """In one group, the last push would erase the others; names of accounts are free."""
    accounts = ("shop", "my shop", "a b/c+d=e&ü中")
    for name in accounts:
        for shard in ("1/2", "2/2"):
            flags = ("--account", name, "--channels", "1,2,3,4,5,6,7,8", "--shard", shard)
            done = run("run", *flags, env=env)
            assert done.returncode == 0, done.stderr
    by_account = {
        name: [labels for metric, labels in pushed(env) if ("account", name) in labels and "isp_total" in metric]
        for name in accounts
    }
    assert [len(labels) for labels in by_account.values()] == [8, 8, 8]
    served = get(f"{env['PUSHGATEWAY']}/metrics")
    assert 'push_time_seconds{account="shop",instance="shard-1-of-2",job="ChinaCachePush"}' in served


def test_the_push_is_a_fallback(env: dict[str, str], tmp_path: Path) -> None:
    """With both outputs, a push is made only when the file cannot be written, and the run is a success then."""
    assert run("run", "--textfile", str(tmp_path / "a.prom"), env=env).returncode == 0
    assert pushed(env) == {}
    gone = tmp_path / "gone" / "a.prom"
    done = run("run", "--textfile", str(gone), env=env)
    assert done.returncode == 0
    assert f"error: {gone} cannot be written: " in done.stderr
    assert "instead\n" in done.stderr
    assert channels(pushed(env))


def test_always_does_both(env: dict[str, str], tmp_path: Path) -> None:
    """`--pushgateway-mode always` writes and pushes; either alone is a delivery, and neither is a failure."""
    textfile, gone = tmp_path / "a.prom", tmp_path / "gone" / "a.prom"
    flags = ("run", "--pushgateway-mode", "always", "--textfile")
    assert run(*flags, str(textfile), env=env).returncode == 0
    assert pushed(env) == series_of(textfile.read_text())
    textfile.unlink()
    broken = env | {"PUSHGATEWAY": "http://127.0.0.1:9"}
    done = run(*flags, str(textfile), env=broken)
    assert (done.returncode, textfile.exists()) == (0, True)
    assert "error: the Pushgateway cannot be used: no connection to 127.0.0.1:9: Connection refused" in done.stderr
    done = run(*flags, str(gone), env=broken)
    assert done.returncode == 1
    assert "; or correct the path); the Pushgateway cannot be used: no conn" in done.stderr


def test_the_pushgateways_reason_is_in_the_message(env: dict[str, str], tmp_path: Path) -> None:
    """A 400 shows what the Pushgateway finds wrong with the push."""
    conflict = tmp_path / "conflict"
    conflict.write_text("# TYPE cc_textfile_poll_success counter\ncc_textfile_poll_success 1\n")
    subprocess.run(["curl", "-sS", "--fail", "-T", conflict, f"{env['PUSHGATEWAY']}/metrics/job/other"], check=True)
    done = run("run", env=env)
    assert done.returncode == 1
    assert "responds with status 400: pushed metrics are invalid or inconsistent with existing" in done.stderr


PASSWORD = "pa:ss@w&rd"
BCRYPT_OF_IT = "$2b$04$YuSe7rBKF1HYOPkjP9BqpOq6wtCCLioh6e6evyF6MegmwC26iFi8O"


def test_a_pushgateway_that_wants_a_password(
    portal: DemoPortal, pushgateway: Callable[..., str], tmp_path: Path
) -> None:
    """`http://user:password@host` authenticates, percent-encoded as in any URL; its password is in no message."""
    config = tmp_path / "web.yml"
    config.write_text(f"basic_auth_users:\n  pusher: {BCRYPT_OF_IT}\n")
    host = pushgateway(f"--web.config.file={config}").removeprefix("http://")
    good = run("run", env=account(portal, PUSHGATEWAY=f"http://pusher:pa%3Ass%40w%26rd@{host}"))
    assert good.returncode == 0, good.stderr
    assert f"; pushed to {host}" in good.stderr
    bad = run("run", env=account(portal, PUSHGATEWAY=f"http://pusher:wrong-one@{host}"))
    assert bad.returncode == 1
    assert f"the Pushgateway at {host} responds with status 401: Unauthorized" in bad.stderr
    assert "wrong-one" not in bad.stderr


def pushed_to(gateway: Server, user: str = "") -> None:
    """Push nothing to a gateway, from this process."""
    url = f"http://{user}{gateway.host}"
    settings = Settings(user="me", password="x", account="me", channels=("1",), pushgateway=url)
    Pushgateway(settings, Redactor()).deliver(CollectorRegistry())


def test_a_push_that_fails_leaves_nothing_in_memory() -> None:
    """A Pushgateway may be away for days: each push that fails would keep its megabytes."""
    registry = CollectorRegistry()
    of_registry = weakref.ref(registry)
    settings = Settings(user="me", password="x", account="me", channels=("1",), pushgateway="http://127.0.0.1:1")
    gc.disable()  # it would find what is left, but much later
    try:
        with suppress(OutputError):
            Pushgateway(settings, Redactor()).deliver(registry)
        del registry
        assert of_registry() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("user", "sent"), [("", None), ("gate:a%2Fb@", b"gate:a/b"), (":key@", b":key"), ("gate@", b"gate:")]
)
def test_what_authenticates_a_push(user: str, sent: bytes | None) -> None:
    """User and password of the address, or one of them; an address without them sends nothing in their place."""
    found = []

    def script(peer: Peer) -> None:
        found.extend(re.findall(rb"Authorization: Basic (\S+)", peer.head))
        peer.send(response())

    with Server(script) as gateway:
        pushed_to(gateway, user)
    assert found == ([] if sent is None else [base64.b64encode(sent)])


@pytest.mark.parametrize(
    ("user", "password", "shown"),
    [("gate", "abc", "gate:abc"), ("gate", "abcdefgh", "gate:***"), ("abcdefgh", "", "***:")],
)
def test_a_gateway_that_repeats_what_authenticates(user: str, password: str, shown: str) -> None:
    """The token of basic auth is a secret, however short the password, and so is a user without one."""
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    script = sending(response(f"bad {token} of {user}:{password}".encode(), 401))
    with Server(script) as gateway, pytest.raises(OutputError) as caught:
        pushed_to(gateway, f"{user}:{password}@")
    assert str(caught.value).endswith(f" responds with status 401: bad *** of {shown}")


@pytest.mark.parametrize("status", [300, 302, 404, 503])
def test_any_other_status_than_2xx_is_a_failure(status: int) -> None:
    """What was not taken is not delivered; a redirect is not followed. The reason may be in any encoding, or empty."""
    for reason, shown in ((b"no \xff", "no \ufffd"), (b"", "no reason given")):
        with Server(sending(response(reason, status, "Location: /"))) as gateway:
            with pytest.raises(OutputError) as caught:
                pushed_to(gateway)
            assert len(gateway.targets) == 1
        assert str(caught.value).endswith(f" responds with status {status}: {shown}")


def test_the_look_up_of_its_name_is_bounded_by_the_timeout(env: dict[str, str], tmp_path: Path) -> None:
    """A name server that does not respond costs the timeout, once."""
    with silent_resolver(tmp_path) as (_, before):
        done = run("run", "--timeout", "500ms", env=env | {"PUSHGATEWAY": "gateway.example"}, before=before)
    assert done.returncode == 1
    assert "error: the Pushgateway cannot be used: no result within 0.5 s" in done.stderr


def test_a_slow_pushgateway_is_bounded_by_the_timeout(tmp_path: Path, portal: DemoPortal) -> None:
    """A Pushgateway that does not respond costs the timeout, once, and nothing of the file."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        url = f"127.0.0.1:{hole.getsockname()[1]}"
        env = account(portal, CC_TEXTFILE_PATH=str(tmp_path / "a.prom"), PUSHGATEWAY=url)
        done = run("run", "--timeout", "1s", "--pushgateway-mode", "always", env=env)
    assert done.returncode == 0
    assert f"error: the Pushgateway cannot be used: no complete response from {url} within 1 s\n" in done.stderr
    assert (tmp_path / "a.prom").exists()
