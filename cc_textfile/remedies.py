"""Errors of the file system in words: what cannot be done, why, and what to type; the same for a poll and `check`."""

import errno
import os
import pwd
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cc_textfile.errors import CcTextfileError


@contextmanager
def os_errors_as(kind: type[CcTextfileError], fault: str, place: Path) -> Iterator[None]:
    """Turn an `OSError` into an error of this kind, which says what to do. `place` as for `remedy`."""
    try:
        yield
    except OSError as error:
        raise kind(f"{fault}: {error.strerror}", remedy(error.errno, place)) from error


def remedy(number: int | None, place: Path) -> str:
    """Return what to do about an error (errno) at a folder in which something is written, or at a file."""
    closed = [folder for folder in reversed(place.parents) if not os.access(folder, os.X_OK)]
    rights, barrier = ("x", closed[0]) if closed else ("rwx", place)
    quoted = shlex.quote(str(place))
    remedies = {
        errno.ENOENT: f"as root: install -d -m 0755 -o {user()} {quoted}; or correct the path",
        # Not chown or chmod: a folder that others use belongs to the host.
        errno.EACCES: "run it as a user that may write there, or as root: "
        f"setfacl -m u:{user()}:{rights} {shlex.quote(str(barrier))}",
        errno.EPERM: f"remove what another user has put in the place of its own files: ls -la {quoted}",
        errno.EROFS: f"in a unit of systemd: ReadWritePaths={place}; else see: findmnt -T {quoted}",
        errno.ENOSPC: f"free some space: df -h {quoted}",
        errno.EDQUOT: f"free some space: quota -u {user()}",
        errno.EMFILE: "allow it more open files: ulimit -n 256",
        errno.EAFNOSUPPORT: "allow it Unix sockets; in a unit of systemd: RestrictAddressFamilies=AF_UNIX",
        errno.ENAMETOOLONG: "give a shorter path: a temporary folder beside it has a name 22 characters longer",
    }
    return remedies.get(number or 0, "correct the path, or see what the kernel says: dmesg")


def user() -> str:
    """Return the user of this process: its name, or its number where it has none, as in a container."""
    with suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return str(os.geteuid())
