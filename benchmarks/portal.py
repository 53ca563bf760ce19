"""A portal for benchmarks: on loopback, with TLS and a round trip, and cheap enough not to be what is measured.

It writes its address to standard output, as JSON, and for each line on standard input the number of requests and
connections since the line before; it ends with its standard input. Its responses are those of the demo portal, made
once: the same for every channel, with the daily rows where the window is of whole days.
"""

import asyncio
import json
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl

from cc_textfile.demo.portal import CHANNELS, METHODS
from cc_textfile.demo.portal import response as content_of
from tests.certificates import loopback

LATENCY = 0.02
"""Seconds from request to response, as of a portal not far away."""

END_OF_HEAD = b"\r\n\r\n"


class Counts:
    """Requests and connections since they were last written."""

    def __init__(self) -> None:
        self.connections = self.requests = 0

    def write(self) -> None:
        """Write the counts, and begin again."""
        print(json.dumps(self.__dict__), flush=True)
        self.__init__()  # type: ignore[misc]


def response(path: str, *, daily: bool) -> bytes:
    """Return a whole HTTP response of the method at that path."""
    query = {"startTime": "202404301200" if daily else "202405011155", "endTime": "202405011200"}
    query |= {"start_time": "20240501", "end_time": "20240501", "channelIds": CHANNELS[0], "channel_id": CHANNELS[0]}
    body = json.dumps(
        content_of(METHODS[path], query, datetime(2024, 5, 1, 4, tzinfo=UTC)), ensure_ascii=False
    ).encode()
    head = (
        b"HTTP/1.1 200 OK\r\nServer: portal\r\nContent-Type: application/json;charset=UTF-8\r\n"
        b"Connection: keep-alive\r\nContent-Length: %d\r\n\r\n"
    )
    return head % len(body) + body


class Portal(asyncio.Protocol):
    """One connection; its requests come one after the other, each within a read or a few."""

    def __init__(self, counts: Counts, responses: dict[tuple[str, bool], bytes]) -> None:
        self._counts = counts
        self._responses = responses
        self._loop = asyncio.get_running_loop()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._counts.connections += 1

    def data_received(self, data: bytes) -> None:
        """Respond to a whole request after the latency."""
        self._received += data
        while END_OF_HEAD in self._received:
            head, _, self._received = self._received.partition(END_OF_HEAD)
            self._counts.requests += 1
            path, _, query = head.split(b" ", 2)[1].decode().partition("?")
            asked = dict(parse_qsl(query))
            start, end = asked.get("startTime", ""), asked.get("endTime", "")
            daily = start != end and start[8:] == end[8:]
            self._loop.call_later(LATENCY, self._transport.write, self._responses[path, daily])


async def main() -> None:
    """Serve until standard input ends."""
    counts = Counts()
    responses = {(path, daily): response(path, daily=daily) for path in METHODS for daily in (False, True)}
    loop = asyncio.get_running_loop()
    with tempfile.TemporaryDirectory() as folder:
        tls, bundle = loopback(Path(folder))
        server = await loop.create_server(lambda: Portal(counts, responses), "127.0.0.1", 0, ssl=tls, backlog=4096)
        port = server.sockets[0].getsockname()[1]
        print(json.dumps({"url": f"https://127.0.0.1:{port}", "ca": str(bundle)}), flush=True)
        commands = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        while await commands.readline():
            counts.write()


if __name__ == "__main__":
    asyncio.run(main())
