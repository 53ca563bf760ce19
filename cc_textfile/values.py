"""What an operator writes, read into what the program means by it.

Each reader takes the text and raises `ValueError` in words that go on from the setting's name: "is '5'; give a …".
"""

import hashlib
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import durationpy

DAY = 24 * 3600
"""Seconds."""

MOST_SECONDS = 366 * DAY
MOST_MINUTES = MOST_SECONDS // 60


class Shard(NamedTuple):
    """One part of the channels: `number` (from 1) of `total`."""

    number: int
    total: int

    def has(self, channel: str) -> bool:
        """Tell whether the channel is in this part: the same on every host and every Python, unlike `hash`."""
        digest = hashlib.sha256(channel.encode()).digest()
        return int.from_bytes(digest[:8]) % self.total == self.number - 1


def text(value: str) -> str:
    """Read any text that can be sent."""
    try:
        value.encode()
    except UnicodeEncodeError:
        message = "is not UTF-8"
        raise ValueError(message) from None
    return value


def name(value: str) -> str:
    """Read a name, which is not blank."""
    if not value.strip():
        message = "is blank"
        raise ValueError(message)
    return text(value)


def seconds(value: str) -> float:
    """Read a Go duration above 0."""
    try:
        # durationpy knows days, months and years, too, which Go does not; there, `5mm` is five months.
        known = re.fullmatch(r"\+?([0-9.]+(ns|us|µs|μs|ms|s|m|h))+", value.strip())
        duration = float(durationpy.from_str(value.strip()).total_seconds()) if known else 0.0
    except ValueError:
        duration = 0.0
    if not 0 < duration <= MOST_SECONDS:
        message = f"is {value!r}; give a duration above 0 with its unit, such as 90s, 5m or 1h30m, and at most 8784h"
        raise ValueError(message)
    return duration


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `low` to `high`."""

    def read(value: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", value.strip()) or not low <= int(value) <= high:
            message = f"is {value!r}; give a whole number from {low} to {high}"
            raise ValueError(message)
        return int(value)

    return read


def choice(*words: str) -> Callable[[str], str]:
    """Return a reader of one of the words, in any case."""

    def read(value: str) -> str:
        if value.strip().lower() not in words:
            message = f"is {value!r}; give one of {', '.join(words)}"
            raise ValueError(message)
        return value.strip().lower()

    return read


def textfile(value: str) -> Path:
    """Read the path of a file that node_exporter will look at."""
    if not value.endswith(".prom"):
        message = f"is {value!r}; node_exporter reads only what ends in .prom"
        raise ValueError(message)
    return Path(value)


def shard(value: str) -> Shard:
    """Read I/N."""
    match = re.fullmatch(r"\s*([0-9]{1,4})/([0-9]{1,4})\s*", value)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        message = (
            f"is {value!r}; give I/N, such as 2/4 for the second of four shards, with I from 1 to N and N up to 9999"
        )
        raise ValueError(message)
    return Shard(int(match[1]), int(match[2]))


def _url(value: str) -> str:
    """Return an address of http or https; it may hold a password, so no message repeats it."""
    address = value.strip().rstrip("/")
    try:
        parts = urlsplit(text(address))
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or re.search(r"\s", address):
        message = "is not an address such as https://host:444"
        raise ValueError(message)
    if "@" in parts.path:
        message = "has an @ behind its host; a user or a password in an address is percent-encoded, / as %2F"
        raise ValueError(message)
    # `HTTPS://` is https, too.
    return parts.geturl()


def portal_url(value: str) -> str:
    """Read the portal's address, which is logged and so holds no password."""
    address = _url(value)
    if "@" in urlsplit(address).netloc:
        message = "holds a user or a password; give those by CHINACACHE_USER and CHINACACHE_PASS_FILE"
        raise ValueError(message)
    return address


def pushgateway(value: str) -> str:
    """Read a Pushgateway's address, as `host:9091` too; it may hold user and password."""
    has_scheme = "//" in value or ":/" in value  # or was to have one
    return _url(value if has_scheme else f"http://{value.strip()}")


def _read(path: Path) -> str:
    """Return a file's text; raises `ValueError` in an operator's words."""
    try:
        return path.read_bytes().decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except OSError as error:
        message = f"names {path}, which cannot be read: {error.strerror}"
        raise ValueError(message) from None
    except UnicodeDecodeError:
        message = f"names {path}, which is not UTF-8"
        raise ValueError(message) from None


def secret_file(value: str) -> str:
    """Read the file of that name, without the newline that editors and `echo` put at its end."""
    try:
        content = _read(Path(value))
    except ValueError as error:
        if "/" in value:
            raise
        # It may be the password itself.
        message = str(error).replace(f"names {value},", "names a file without a folder,")
        raise ValueError(message) from None
    password = content.removesuffix("\n").removesuffix("\r") if content.endswith("\n") else content
    if not password:
        message = f"names {value}, which is empty"
        raise ValueError(message)
    return password


def channels(value: str) -> tuple[str, ...]:
    """Read channel ids with commas between them."""
    return _checked(item.strip() for item in text(value).split(","))


def channels_file(value: str) -> tuple[str, ...]:
    """Read the file of that name, a channel id a line, with comments."""
    try:
        return _checked(line.partition("#")[0].strip() for line in _read(Path(value)).splitlines())
    except ValueError as error:
        message = str(error) if str(error).startswith("names ") else f"names {value}, which {error}"
        raise ValueError(message) from None


def _checked(items: Iterator[str]) -> tuple[str, ...]:
    channels = tuple(item for item in items if item)
    if not channels:
        message = "holds no channel"
        raise ValueError(message)
    bad = [channel for channel in channels if re.search(r"\s", channel) or not channel.isprintable()]
    if bad:
        message = f"holds {bad[0]!r}, which is no channel id: ids have no blanks in them"
        raise ValueError(message)
    return channels


def ca_file(value: str) -> Path:
    """Read the path of a CA bundle, which is opened to see that it is one."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=value)
    except ssl.SSLError:
        message = f"names {value}, which holds no certificates in PEM"
        raise ValueError(message) from None
    except OSError as error:
        message = f"names {value}, which cannot be read: {error.strerror}"
        raise ValueError(message) from None
    return Path(value)
