"""Folders of portal responses beside the exact text that they make; `make golden` writes the texts anew."""

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
from cc_textfile.demo.portal import METHODS
from cc_textfile.logs import Redactor
from cc_textfile.metrics import Results, registry
from cc_textfile.poll import gauge_requests, poll
from cc_textfile.portal.client import PortalClient
from cc_textfile.portal.transport import Transport
from cc_textfile.portal.window import Window
from cc_textfile.settings import Settings

FOLDERS = sorted(path for path in (Path(__file__).parent / "golden").iterdir() if path.is_dir())
NOW = datetime(2024, 2, 29, 16, 3, 20, tzinfo=UTC)


@contextmanager
def portal_of(folder: Path) -> Iterator[str]:
    """Serve a folder's responses, each a file named METHOD.json, or METHOD.STATUS for another status than 200."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            (found,) = folder.glob(f"{METHODS[urlsplit(self.path).path]}.*")
            body = found.read_bytes()
            self.send_response(200 if found.suffix == ".json" else int(found.suffix[1:]))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_these_responses_make_this_text(folder: Path) -> None:
    """The text of a poll is, to the byte, the one that lies beside the responses."""
    window = Window.ending(NOW, 5)
    with portal_of(folder) as url:
        settings = Settings(user="user", password="password", account="me", channels=("1001",), portal_url=url)
        client = PortalClient(Transport(url, Redactor()), settings, Redactor("password"))
        requests = gauge_requests(settings.channels, settings.methods, window)
        snapshot = poll(client.fetch, requests, concurrency=4, deadline=20, now=NOW)
    snapshot = dataclasses.replace(snapshot, ended=NOW, seconds=0.25)
    metrics, _ = registry(Results(settings, snapshot, window, None))
    text = generate_latest(metrics).decode().replace(__version__, "VERSION")
    golden = folder / "expected.prom"
    if os.environ.get("GOLDEN") == "write":
        golden.write_text(text)
    assert text == golden.read_text()
