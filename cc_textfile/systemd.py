"""Tells systemd the state of a service, with the datagrams of sd_notify(3).

Without `NOTIFY_SOCKET` nothing is sent. A datagram that cannot be delivered is dropped: systemd's own time limits
notice the silence.
"""

import contextlib
import os
import socket
from typing import Final

READY: Final = "READY=1"
RELOADING: Final = "RELOADING=1"
STOPPING: Final = "STOPPING=1"
WATCHDOG: Final = "WATCHDOG=1"

SEND_SECONDS: Final = 0.5
"""How long a datagram waits in front of a full queue."""


def status(text: str) -> str:
    """Return the field that `systemctl status` shows; its value ends at the first line break."""
    return "STATUS=" + " ".join(text.split())


def notify(*fields: str) -> None:
    """Send the fields in one datagram, so that none is seen without the others."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # an abstract name: on the wire a NUL stands for the @
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(SEND_SECONDS)
        channel.connect(address)
        channel.sendall("\n".join(fields).encode(errors="backslashreplace"))


def is_notified() -> bool:
    """Tell whether systemd waits for notifications of this process."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def watchdog_interval() -> float | None:
    """Return how often to send WATCHDOG, in seconds: half of what systemd allows. None without a watchdog."""
    allowed = os.environ.get("WATCHDOG_USEC", "")
    process = os.environ.get("WATCHDOG_PID", "")
    if not allowed.isdecimal() or int(allowed) == 0 or process not in ("", str(os.getpid())):
        return None
    return int(allowed) / 2 / 1_000_000
