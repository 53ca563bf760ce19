"""Folders of portal answers beside the exact text that they make; `make golden` writes the texts anew."""

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
from prometheus_client import generate_latest

from cc_textfile import __version__
from cc_textfile.client import PortalClient
from cc_textfile.collector import SnapshotCollector, registry
from cc_textfile.demo import PLACES
from cc_textfile.poll import Poller
from cc_textfile.redaction import Redactor
from cc_textfile.transport import Transport
from cc_textfile.window import Window

FOLDERS = sorted(path for path in (Path(__file__).parent / "golden").iterdir() if path.is_dir())
NOW = datetime(2024, 2, 29, 16, 3, 20, tzinfo=UTC)


@contextmanager
def portal_of(folder: Path) -> Iterator[str]:
    """Serve a folder's answers, each a file named ENDPOINT.json, or ENDPOINT.STATUS for another status than 200."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            (answer,) = folder.glob(f"{PLACES[urlsplit(self.path).path]}.*")
            body = answer.read_bytes()
            self.send_response(200 if answer.suffix == ".json" else int(answer.suffix[1:]))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_these_answers_make_this_text(folder: Path) -> None:
    """The text of a poll is, to the byte, the one that lies beside the answers."""
    with portal_of(folder) as url:
        client = PortalClient(Transport(url), url, "user", "password", timeout=10, redact=Redactor("password"))
        snapshot = Poller(4).poll(client, ("1001",), Window.ending(NOW, 5), now=NOW, deadline=20)
    snapshot = dataclasses.replace(snapshot, ended=NOW, seconds=0.25)
    text = generate_latest(registry(SnapshotCollector(snapshot))).decode().replace(__version__, "VERSION")
    golden = folder / "expected.prom"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()
