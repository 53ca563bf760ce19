"""What can be wrong with a Pushgateway or a node_exporter is named by `check`, with what mends it."""

import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cc_textfile.check_prometheus import samples
from cc_textfile.demo import DemoPortal
from cc_textfile.step import State
from tests.checked import NOWHERE, Checked
from tests.conftest import PATIENCE, eventually, get, run


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    """Serve in the background; yields the URL."""
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def pages(**said: tuple[int, bytes]) -> Iterator[str]:
    """Serve these pages by the last word of their paths, and for others a 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = said.get(self.path.rpartition("/")[2], (404, b""))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url


def test_a_pushgateway_that_is_down(env: dict[str, str]) -> None:
    """A Pushgateway that does not answer is a failure where it is the only output, and else a warning."""
    checked = Checked(env=env | {"CC_TEXTFILE_PATH": "", "PUSHGATEWAY": NOWHERE})
    assert checked.status == 1
    detail, remedy = "no connection to 127.0.0.1:1: Connection refused", "start a Pushgateway there, or correct --push"
    checked.names("pushgateway ready", State.FAILED, detail, remedy)
    checked.names("textfile folder", State.SKIPPED, r"--textfile \(CC_TEXTFILE_PATH\) is not set")
    checked.names("node_exporter answer", State.SKIPPED, "is not set")
    checked = Checked(env=env | {"PUSHGATEWAY": NOWHERE})
    assert checked.status == 0
    checked.names("pushgateway ready", State.WARNING, detail + "; the other output is well", remedy)


def test_what_is_no_pushgateway(portal: DemoPortal, env: dict[str, str]) -> None:
    """Another server in the Pushgateway's place is named, without the password for it."""
    there = portal.url.replace("//", "//me:hidden@")
    done = run("check", "--node-exporter", there, env=env | {"CC_TEXTFILE_PATH": "", "PUSHGATEWAY": there})
    assert done.returncode == 1
    assert (
        f"FAILED   pushgateway ready: {portal.url}/-/ready answers 404; to mend it: correct --pushgateway"
        in done.stdout
    )
    assert "hidden" not in done.stdout + done.stderr


@pytest.mark.parametrize("shard", ["", "1/1"])
def test_a_group_that_nobody_pushes_any_more(env: dict[str, str], pushgateway: Callable[..., str], shard: str) -> None:
    """A group is served until it is deleted: an old one is named, with the command that deletes it."""
    env |= {"PUSHGATEWAY": pushgateway(), "CC_TEXTFILE_PUSHGATEWAY_MODE": "always", "CC_TEXTFILE_SHARD": shard}
    run("run", env=env)
    checked = Checked("--interval", "1ms", "--deadline", "1ms", env=env)
    assert checked.status == 0
    detail = ("^shard-1-of-1 of " if shard else "^") + r"the job ChinaCachePush was pushed \d+ s ago, and is served"
    checked.names("pushgateway group", State.WARNING, detail, "curl -X DELETE ")
    address = checked.steps["pushgateway group"].remedy.split()[-1]
    urllib.request.urlopen(urllib.request.Request(address, method="DELETE"), timeout=PATIENCE).close()
    eventually(lambda: "push_time_seconds{" not in get(f"{env['PUSHGATEWAY']}/metrics"))
    Checked(env=env).names("pushgateway group", State.OK, "nothing is pushed yet for .*the job ChinaCachePush$")


def test_a_pushgateway_that_says_little(env: dict[str, str]) -> None:
    """A version that is not said, and an age that can't be read, are no failures."""
    env |= {"CC_TEXTFILE_PATH": ""}
    old = b'push_time_seconds{instance="",job="ChinaCachePush"} 1e9\npush_time_seconds{job= 1\n'
    with pages(ready=(200, b""), status=(200, b"[" * 100_000), metrics=(200, old)) as url:
        checked = Checked(env=env | {"PUSHGATEWAY": url})
        checked.names("pushgateway version", State.SKIPPED, "it does not say")
        checked.names("pushgateway group", State.WARNING, r"was pushed \d+ days ago", "curl -X DELETE")
    with pages(ready=(200, b""), status=(200, b"x" * 300_000)) as url:
        checked = Checked(env=env | {"PUSHGATEWAY": url})
        assert checked.status == 0
        checked.names("pushgateway group", State.SKIPPED, "its age is not known: .* is longer than 256 KiB")


# node_exporter


def test_no_node_exporter(env: dict[str, str]) -> None:
    """That none answers is said, and is no failure: it may run elsewhere."""
    checked = Checked(env=env)
    assert checked.status == 0
    checked.names(
        "node_exporter answer", State.SKIPPED, "none answers: no connection to 127.0.0.1:1", "--node-exporter"
    )


def test_a_server_that_is_no_node_exporter(portal: DemoPortal, env: dict[str, str], folder: Path) -> None:
    """What answers without a textfile collector is named, with the flag that gives it one."""
    checked = Checked("--node-exporter", portal.url, env=env)
    assert checked.status == 0
    detail, remedy = "/metrics answers 404, without", f"--collector.textfile.directory={folder},"
    checked.names("node_exporter answer", State.WARNING, detail, remedy)


def test_a_node_exporter_of_another_folder(
    env: dict[str, str], folder: Path, tmp_path: Path, node_exporter: Callable[[Path], str]
) -> None:
    """A node_exporter that reads elsewhere is named, with where, and the flag; a file of the same name is not ours."""
    exporter = node_exporter(tmp_path)
    (tmp_path / "a.prom").touch()
    checked = Checked("--node-exporter", exporter, env=env)
    checked.names("node_exporter file", State.SKIPPED, "a.prom is not written yet")
    (tmp_path / "a.prom").unlink()
    run("run", env=env)
    checked = Checked("--node-exporter", exporter, env=env)
    flag = f"--collector.textfile.directory={folder}, as"
    checked.names("node_exporter file", State.WARNING, f"^{folder}/a.prom is not among what it serves$", flag)
    (tmp_path / "a.prom").write_text("node_boots 1\n")
    os.utime(tmp_path / "a.prom", (1e9, 1e9))
    checked = Checked("--node-exporter", exporter, env=env)
    assert checked.status == 0
    checked.names("node_exporter file", State.WARNING, f"not among what it serves, which is in {tmp_path}$", flag)
    # The same file by another path, as in a container.
    written = (folder / "a.prom").stat().st_mtime
    os.utime(tmp_path / "a.prom", (written, written))
    checked = Checked("--node-exporter", exporter, env=env)
    checked.names("node_exporter file", State.OK, "a.prom is served")


def test_a_file_that_grew_old(env: dict[str, str], folder: Path, node_exporter: Callable[[Path], str]) -> None:
    """A file that nobody has written for long is named with its age."""
    run("run", env=env)
    exporter = node_exporter(folder)
    for age, words in ((3 * 86400, "3 days"), (3 * 3600, "3 h"), (10 * 60, "10 min")):
        written = time.time() - age
        os.utime(folder / "a.prom", (written, written))
        checked = Checked("--node-exporter", exporter, "--interval", "1m", env=env)
        assert checked.status == 0
        checked.names("node_exporter file", State.WARNING, f"was written {words} ago$", "start cc-textfile run")


def test_a_scrape_error(env: dict[str, str], folder: Path, node_exporter: Callable[[Path], str]) -> None:
    """A scrape error is named with the file that makes it, and where the reason is."""
    run("run", env=env)
    (folder / "b.prom").write_text("this is no metric\n")
    exporter = node_exporter(folder)
    checked = Checked("--node-exporter", exporter, env=env)
    assert checked.status == 0
    detail = "^node_textfile_scrape_error is 1: it cannot read b.prom$"
    checked.names("node_exporter errors", State.WARNING, detail, "journalctl -u prometheus-node-exporter")
    (folder / "a.prom").rename(folder / "a.old")
    checked = Checked("--node-exporter", exporter, env=env)
    checked.names("node_exporter errors", State.WARNING, "^node_textfile_scrape_error is 1$", "journalctl")


LINES = st.lists(
    st.one_of(
        st.binary(),
        st.from_regex(rb'push_time_seconds(\{[a-z]{0,3}="?[^"]{0,3}"?\})? ?[0-9eE+-.naif]{0,6}( [0-9]{0,3})?'),
    )
)


@given(LINES)
def test_foreign_metrics(lines: list[bytes]) -> None:
    """Whatever a page of metrics holds, it is read as far as it can be."""
    good = b'push_time_seconds{job="x"} 7'
    found = samples(b"\n".join([*lines, good]), "push_time_seconds")
    assert found[-1].value == 7
    assert all(sample.name == "push_time_seconds" for sample in found)
