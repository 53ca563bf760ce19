"""A `.prom` file in the folder of node_exporter's textfile collector, replaced whole or not at all."""

import errno
import hashlib
import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prometheus_client import CollectorRegistry, write_to_textfile

from cc_textfile.errors import OutputError

FILE_MODE = 0o644
"""node_exporter runs as another user, and a file that it cannot read is an error for the whole folder."""

TEMPORARY_SUFFIX = ".cc-textfile"
UNIX_SOCKETS = Path("/proc/net/unix")
UNKNOWN_PROCESS = "in another namespace"
"""Where the process is that has locked a file, when /proc does not list it."""


@contextmanager
def _private_folder(path: Path) -> Iterator[Path]:
    """Open a folder in which only this process's user can write; raises `OSError` where it is anything else.

    Yields a path that leads to it even when the owner of the outer folder moves it away and puts a link in its place.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise PermissionError(errno.EPERM, "another user replaced the temporary folder")
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    # `shutil.rmtree` would wait at a FIFO for its writer.
    with suppress(OSError), _private_folder(path) as folder:
        for file in folder.iterdir():
            file.unlink()
    with suppress(OSError):
        path.rmdir()


def _finish(content: Path) -> None:
    with content.open("rb") as file:
        os.fchmod(file.fileno(), FILE_MODE)
        # Without this, a power cut after the rename may leave an empty file under the name.
        os.fsync(file.fileno())


class Textfile:
    """The file; `path` ends in `.prom`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the file against a second process, and remove what a killed one left behind.

        The lock is a name in Linux's abstract socket namespace: it is not in the file system, works in a read-only
        one, and ends with the process. A second name tells which process it is. Raises `OutputError` if it is locked.
        """
        name = self._lock_name()
        with socket.socket(socket.AF_UNIX) as lock, socket.socket(socket.AF_UNIX) as holder:
            try:
                lock.bind(f"\0{name}")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:  # pragma: no cover # no other is known for such a name
                    raise
                message = (
                    f"{self._path} is locked by another cc-textfile, {self.holder() or UNKNOWN_PROCESS}: "
                    "stop that one, or give this one another --textfile"
                )
                raise OutputError(message) from None
            holder.bind(f"\0{name}.{os.getpid()}")
            self._sweep()
            yield

    def holder(self) -> str | None:
        """Return which process has locked the file, in words, as far as /proc tells."""
        with suppress(OSError, OutputError):
            for line in UNIX_SOCKETS.read_text(errors="replace").splitlines():
                _, found, process = line.partition(f"@{self._lock_name()}.")
                if found and process.isdecimal():
                    return f"process {process}"
        return None

    def deliver(self, registry: CollectorRegistry) -> str:
        """Write the file and return where, in words. Raises `OutputError`, and then the old file is as it was."""
        try:
            with self._temporary_folder() as folder:
                content = folder / "content"
                write_to_textfile(str(content), registry)
                _finish(content)
                content.rename(self._path)
        except OSError as error:
            message = f"{self._path} cannot be written: {error.strerror}{self._advice(error)}"
            raise OutputError(message) from error
        return f"wrote {self._path}"

    def try_write(self, size: int) -> None:
        """Write so many bytes beside the file, as `deliver` would, and remove them; raises `OSError`."""
        with self._temporary_folder() as folder:
            content = folder / "content"
            content.write_bytes(bytes(size))
            _finish(content)

    @contextmanager
    def _temporary_folder(self) -> Iterator[Path]:
        """Make a folder, and remove it with what is in it. It lies beside the file: no rename crosses a mount."""
        made = Path(tempfile.mkdtemp(prefix=f".{self._path.name}.", suffix=TEMPORARY_SUFFIX, dir=self._path.parent))
        try:
            with _private_folder(made) as folder:
                yield folder
        finally:
            _remove(made)

    def _sweep(self) -> None:
        stale = re.compile(rf"\.{re.escape(self._path.name)}\.[a-z0-9_]{{8}}{re.escape(TEMPORARY_SUFFIX)}")
        with suppress(OSError):
            for entry in self._path.parent.iterdir():
                if stale.fullmatch(entry.name):
                    _remove(entry)

    def _lock_name(self) -> str:
        """Return a name that is the same for all paths to the file. Links to its folder are followed, not its own."""
        try:
            place = os.path.realpath(self._path.parent) + "/" + self._path.name
        except OSError as error:  # a relative path, and the working directory is gone
            message = f"{self._path} cannot be written: {error.strerror}{self._advice(error)}"
            raise OutputError(message) from None
        return "cc_textfile/" + hashlib.sha256(os.fsencode(place)).hexdigest()

    def _advice(self, error: OSError) -> str:
        folder = self._path.parent
        match error.errno:
            case errno.ENOENT:
                return f" (the folder {folder} is missing: create it, or correct --textfile)"
            case errno.EACCES | errno.EPERM:
                return f" (user {os.geteuid()} must be able to write, and to replace its own files, in {folder})"
            case errno.ENOSPC | errno.EDQUOT:
                return f" (free some space on the file system of {folder})"
            case errno.EROFS:
                return f" (the file system of {folder} is read-only; under systemd, see ReadWritePaths=)"
            case errno.ENAMETOOLONG:
                return " (a temporary folder beside it has a name 22 characters longer: give a shorter --textfile)"
        return ""
