"""What `cc-textfile check` sees of the text file and its folder.

The real file is never touched. A draft that no one else uses is written beside it, renamed, and removed in every
case; it is named so that the next run would sweep it if this one were killed in between.
"""

import errno
import os
import pwd
import re
import shlex
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cc_textfile.collector import METRICS
from cc_textfile.output import FILE_MODE, Textfile, real_place
from cc_textfile.settings import called
from cc_textfile.step import State, Step

BYTES_A_CHANNEL = 1536
"""What a channel takes in the file when the portal has no daily rows."""

BYTES_OF_THE_POLL = 6144
"""What the series of the poll itself take."""

CAP_FOWNER = 1 << 3
OTHERS_READ = 0o004
OTHERS_ENTER = 0o001
MOST_NEIGHBOUR_BYTES = 64 * 1024 * 1024

OUR_SAMPLE = re.compile(
    rb"^(%b)(?:\{[^\n]*\})?[ \t]" % b"|".join(metric.name.encode() for metric in METRICS), re.MULTILINE
)
CHANNEL = re.compile(rb'channel="([^"]*)"')


def textfile(path: Path, channels: tuple[str, ...]) -> Iterator[Step]:
    """Look whether the file can be replaced in its folder, and read there by node_exporter."""
    path = path.absolute()
    target, folder = Textfile(path), path.parent
    there = _folder(folder)
    yield there
    if there.state is State.FAILED:
        return
    holder = target.holder()
    yield Step(
        "textfile holder", State.OK, f"a cc-textfile is running: {holder}" if holder else "no other cc-textfile runs"
    )
    write_error, rename_error = _probe(target, BYTES_OF_THE_POLL + BYTES_A_CHANNEL * len(channels))
    if write_error:
        detail = f"user {_user()} cannot write in {folder}: {write_error.strerror}"
        yield Step("textfile writable", State.FAILED, detail, _mend(write_error, folder))
    else:
        yield Step("textfile writable", State.OK, f"user {_user()} can write in {folder}")
        yield _rename(path, rename_error)
    yield _readable(path)
    try:
        drafts = [] if holder else sorted(target.drafts())
        others = sorted(Path(entry.path) for entry in os.scandir(folder) if _is_neighbour(entry, path))
    except OSError as error:
        detail = f"user {_user()} cannot list {folder}: {error.strerror}"
        yield Step("textfile neighbours", State.WARNING, detail, _mend(error, folder))
        return
    yield _litter(drafts)
    yield _neighbours(others, channels)


def _user() -> str:
    with suppress(KeyError):
        return pwd.getpwuid(os.geteuid()).pw_name
    return str(os.geteuid())


def _folder(folder: Path) -> Step:
    try:
        if stat.S_ISDIR(folder.stat().st_mode):
            return Step("textfile folder", State.OK, f"{folder} is there")
        detail, remedy = f"{folder} is not a folder", ""
    except FileNotFoundError:
        command = shlex.join(["install", "-d", "-m", "0755", "-o", _user(), str(folder)])
        detail, remedy = f"{folder} is not there", f"as root: {command}; or "
    except OSError as error:
        command = shlex.join(["namei", "-l", str(folder)])
        detail = f"user {_user()} cannot look at {folder}: {error.strerror}"
        remedy = f"open the folders above it: {command} shows which are closed; or "
    return Step("textfile folder", State.FAILED, detail, f"{remedy}correct {called('textfile')}")


def _probe(target: Textfile, size: int) -> tuple[OSError | None, OSError | None]:
    """Return what stood against writing a draft of so many bytes, and what against its rename."""
    errors = _try(target.spare_draft(0), target.spare_draft(1), size)
    swept = isinstance(errors[1], FileNotFoundError)
    # A running instance takes a draft for litter when it comes at the wrong moment; not twice in a row.
    return _try(target.spare_draft(0), target.spare_draft(1), size) if swept else errors


def _try(draft: Path, renamed: Path, size: int) -> tuple[OSError | None, OSError | None]:
    try:
        try:
            draft.write_bytes(bytes(size))
        except OSError as error:
            return error, None
        try:
            draft.replace(renamed)
        except OSError as error:
            return None, error
        return None, None
    finally:
        for each in (draft, renamed):
            with suppress(OSError):
                each.unlink()


def _rename(path: Path, error: OSError | None) -> Step:
    """Say whether a draft can take the file's place, as far as can be told without doing it."""
    in_the_way = ""
    with suppress(OSError):  # not there; or out of reach, as the other steps say
        file, folder = path.lstat(), path.parent.stat()
        if stat.S_ISDIR(file.st_mode):
            in_the_way, remedy = f"{path} is a folder", f"move it away, or correct {called('textfile')}"
        elif _is_mount(path):
            in_the_way = f"{path} is a mount of its own, which can be written to and not replaced"
            remedy = f"mount the folder {path.parent} instead of the file"
        elif folder.st_mode & stat.S_ISVTX and os.geteuid() not in (file.st_uid, folder.st_uid) and not _is_any_owner():
            in_the_way = f"{path} is another user's, in a folder where only owners replace (mode 1000)"
            remedy = f"as root: {shlex.join(['chown', _user(), str(path)])}"
    if in_the_way:
        return Step("textfile rename", State.FAILED, in_the_way, remedy)
    if error:
        detail = f"a draft cannot be renamed in {path.parent}: {error.strerror}"
        return Step("textfile rename", State.FAILED, detail, _mend(error, path.parent))
    return Step("textfile rename", State.OK, "a draft beside the file can take its place")


def _is_any_owner() -> bool:
    """Tell whether this process passes for the owner of any file, which root does unless that was taken from it."""
    with suppress(OSError):
        capabilities = re.search(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)
        return bool(capabilities and int(capabilities[1], 16) & CAP_FOWNER)
    return os.geteuid() == 0


def _is_mount(path: Path) -> bool:
    place = real_place(path)
    with suppress(OSError):
        mounts = (line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines())
        return any(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), mount) == place for mount in mounts)
    return False


def _readable(path: Path) -> Step:
    """Say whether node_exporter, which runs as a user of its own, can read the file."""
    folder = Path(os.path.realpath(path.parent))
    wanted = {folder: OTHERS_READ | OTHERS_ENTER} | dict.fromkeys(folder.parents, OTHERS_ENTER)
    try:
        if path.is_file():
            wanted = {path: OTHERS_READ, **wanted}
        closed = [place for place, bits in wanted.items() if place.stat().st_mode & bits != bits]
    except OSError as error:
        detail = f"user {_user()} cannot look at {path}: {error.strerror}"
        return Step("textfile readable", State.WARNING, detail, f"see {shlex.join(['namei', '-l', str(path)])}")
    if not closed:
        return Step("textfile readable", State.OK, "every user can read it, and so can node_exporter")
    mode = f"{FILE_MODE:04o}" if closed[0] == path else "o+rx" if closed[0] == folder else "o+x"
    detail = f"other users cannot read {closed[0]}" if mode != "o+x" else f"other users cannot pass {closed[0]}"
    remedy = f"{shlex.join(['chmod', mode, str(closed[0])])}, unless node_exporter has other ways to it"
    return Step("textfile readable", State.WARNING, detail, remedy)


def _litter(drafts: list[Path]) -> Step:
    if not drafts:
        return Step("textfile litter", State.OK, "no draft of a killed run is left")
    detail = f"{drafts[0].name} is left by a killed run; the next one sweeps it"
    if len(drafts) > 1:
        detail = f"{drafts[0].name} and {len(drafts) - 1} more are left by killed runs; the next one sweeps them"
    return Step("textfile litter", State.WARNING, detail, shlex.join(["rm", *map(str, drafts)]))


def _is_neighbour(entry: os.DirEntry[str], path: Path) -> bool:
    try:
        return entry.name.endswith(".prom") and entry.name != path.name and entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def _neighbours(others: list[Path], channels: tuple[str, ...]) -> Step:
    """Say whether another `.prom` of the folder has series of ours."""
    unread = []
    for other in others:
        try:
            with other.open("rb") as file:
                content = file.read(MOST_NEIGHBOUR_BYTES)
        except OSError:
            unread.append(other)
            continue
        metric = _ours(content, channels)
        if metric:
            holder = Textfile(other).holder()
            detail = f"{other} has {metric} too, and of two series that are the same node_exporter drops one"
            remedy = f"stop {holder}, which writes it" if holder else shlex.join(["rm", str(other)])
            return Step("textfile neighbours", State.WARNING, detail, f"{remedy}; or give it another folder")
    if unread:
        detail = f"user {_user()} cannot read {unread[0]}, which may have series of ours"
        command = shlex.join(["grep", "-l", "ChinaCache_", *map(str, unread)])
        return Step("textfile neighbours", State.WARNING, detail, f"as root: {command}")
    return Step("textfile neighbours", State.OK, f"no other .prom of {len(others)} has series of ours")


def _ours(content: bytes, channels: tuple[str, ...]) -> str | None:
    for sample in OUR_SAMPLE.finditer(content):
        channel = CHANNEL.search(sample[0])
        if not channel or channel[1].decode(errors="replace") in channels:
            return sample[1].decode()
    return None


def _mend(error: OSError, folder: Path) -> str:
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return f"make room: {shlex.join(['df', '-h', str(folder)])}"
        case errno.EROFS:
            return f"under systemd ReadWritePaths={folder}, else mount it for writing: findmnt -T {folder}"
        case errno.ENAMETOOLONG:
            return f"give {called('textfile')} a name that is 40 characters shorter"
    return f"as root: {shlex.join(['chown', _user(), str(folder)])}"
