"""A `.prom` file in the folder of node_exporter's textfile collector, replaced whole or not at all."""

import errno
import glob
import hashlib
import os
import re
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, write_to_textfile
from prometheus_client.openmetrics.exposition import UNDERSCORES

from cc_textfile.errors import OutputError
from cc_textfile.remedies import os_errors_as

FILE_MODE = 0o644
"""node_exporter runs as another user, and a file that it cannot read is an error for the whole folder."""

TEMPORARY_SUFFIX = ".cc-textfile"
UNIX_SOCKETS = Path("/proc/net/unix")


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


class _Family(CollectorRegistry):
    """A registry of one metric family."""

    def __init__(self, family: Metric) -> None:
        super().__init__()
        self._family = family

    def collect(self) -> Iterator[Metric]:
        yield self._family


def _write(registry: CollectorRegistry, content: Path) -> None:
    """Write a registry family by family: prometheus_client holds all that it writes in memory, three times."""
    part = content.with_name("family")
    with content.open("wb") as file:
        for family in registry.collect():
            # The quickest way to escape names; ours have nothing to escape.
            write_to_textfile(str(part), _Family(family), UNDERSCORES)
            file.write(part.read_bytes())


class Textfile:
    """The file; `path` is absolute, and ends in `.prom`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the file against a second process, and remove what a killed one left behind.

        The lock is a name in Linux's abstract socket namespace: it is not in the file system, works in a read-only
        one, and ends with the process. A second name tells which process it is. Raises `OutputError` if it is locked,
        or cannot be.
        """
        name = self._lock_name()
        with ExitStack() as stack:
            with os_errors_as(OutputError, f"{self._path} cannot be locked", self._path.parent):
                lock, holder = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
                try:
                    lock.bind(f"\0{name}")
                except OSError as error:
                    if error.errno != errno.EADDRINUSE:  # pragma: no cover # no other is known for such a name
                        raise
                    # /proc does not list the processes of other namespaces.
                    fault = f"{self._path} is locked by another cc-textfile, {self.holder() or 'in another namespace'}"
                    raise OutputError(f"{fault}: stop that one, or give this one another --textfile") from None
                holder.bind(f"\0{name}.{os.getpid()}")
            with suppress(OSError):
                for stale in self._path.parent.glob(f".{glob.escape(self._path.name)}.????????{TEMPORARY_SUFFIX}"):
                    _remove(stale)
            yield

    def holder(self) -> str | None:
        """Return which process has locked the file, in words, as far as /proc tells."""
        with suppress(OSError):
            names = UNIX_SOCKETS.read_text(errors="replace")
            if found := re.findall(rf"@{self._lock_name()}(?:\.([0-9]+))?$", names, re.MULTILINE):
                return f"process {max(found)}" if any(found) else "an unknown process"
        return None

    def deliver(self, registry: CollectorRegistry) -> str:
        """Write the file and return where, in words. Raises `OutputError`, and then the old file is as it was."""
        with self._written(partial(_write, registry)) as content:
            content.rename(self._path)
        return f"wrote {self._path}"

    def try_write(self, size: int) -> None:
        """Write so many bytes beside the file, as `deliver` would, and remove them.

        Raises `OutputError` where `deliver` would, also because of what is in the place of the file.
        """
        with self._written(lambda content: content.write_bytes(bytes(size))), suppress(FileNotFoundError):
            socket.socket(socket.AF_UNIX).close()  # the lock needs one
            folder, there = self._path.parent.stat(), self._path.lstat()
            if stat.S_ISDIR(there.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if folder.st_mode & stat.S_ISVTX and os.geteuid() not in (0, folder.st_uid, there.st_uid):
                raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    @contextmanager
    def _written(self, write: Callable[[Path], object]) -> Iterator[Path]:
        """Let `write` write a file in a folder of its own, and remove both in the end; raises `OutputError`.

        The folder lies beside the text file: no rename crosses a mount.
        """
        with os_errors_as(OutputError, f"{self._path} cannot be written", self._path.parent):
            made = Path(tempfile.mkdtemp(prefix=f".{self._path.name}.", suffix=TEMPORARY_SUFFIX, dir=self._path.parent))
            try:
                with _private_folder(made) as folder:
                    write(content := folder / "content")
                    with content.open("rb") as file:
                        os.fchmod(file.fileno(), FILE_MODE)
                        # Without this, a power cut after the rename may leave an empty file under the name.
                        os.fsync(file.fileno())
                    yield content
            finally:
                _remove(made)

    def _lock_name(self) -> str:
        """Return a name that is the same for all paths to the file. Links to its folder are followed, not its own."""
        place = Path(os.path.realpath(self._path.parent), self._path.name)
        return "cc_textfile/" + hashlib.sha256(os.fsencode(place)).hexdigest()
