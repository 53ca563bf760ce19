"""Each way in which the text file's folder can be broken is named by `check`, with what mends it."""

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cc_textfile import check_textfile, demo
from cc_textfile.output import Textfile
from cc_textfile.step import State
from tests.checked import Checked
from tests.conftest import NOBODY, POWERLESS, Program, command, get, needs_root, run

FORGED = b'ChinaCache_metrics_hit_miss_total{channel="%s",HitOrMiss="Hit"} 1\n'
MOUNTED = ("unshare", "--mount", "sh", "-c")


def test_a_missing_folder(env: dict[str, str], folder: Path) -> None:
    """A folder that is not there is named, with the command that makes it; the command does."""
    env |= {"CC_TEXTFILE_PATH": str(folder / "new folder" / "a.prom")}
    checked = Checked(env=env)
    assert checked.status == 1
    made = rf"^as root: install -d -m 0755 -o \S+ '{folder}/new folder'; or correct --textfile \(CC_TEXTFILE_PATH\)$"
    checked.names("textfile folder", State.FAILED, f"^{folder}/new folder is not there$", made)
    needs_root()
    remedy = checked.steps["textfile folder"].remedy.removeprefix("as root: ").partition("; or")[0]
    subprocess.run(shlex.split(remedy), check=True)
    assert Checked(env=env).status == 0


def test_a_folder_that_is_none(env: dict[str, str], folder: Path) -> None:
    """A file where the folder should be is named."""
    (folder / "file").touch()
    checked = Checked(env=env | {"CC_TEXTFILE_PATH": str(folder / "file" / "a.prom")})
    assert checked.status == 1
    checked.names("textfile folder", State.FAILED, f"{folder}/file is not a folder", "correct --textfile")


def test_a_folder_out_of_reach(env: dict[str, str], folder: Path) -> None:
    """A closed folder above the folder is to be found by the command that is named."""
    needs_root()
    inner = folder / "closed" / "inner"
    inner.mkdir(parents=True)
    os.chown(inner.parent, NOBODY, NOBODY)
    inner.parent.chmod(0o700)
    checked = Checked(env=env | {"CC_TEXTFILE_PATH": str(inner / "a.prom")}, before=POWERLESS)
    assert checked.status == 1
    checked.names("textfile folder", State.FAILED, f"cannot look at {inner}: Permission denied", f"namei -l {inner}")


def test_a_folder_of_somebody_else(env: dict[str, str], folder: Path) -> None:
    """A folder that this user may not write in is named, with the command that changes that; the command does."""
    needs_root()
    os.chown(folder, NOBODY, NOBODY)
    checked = Checked(env=env, before=POWERLESS)
    assert checked.status == 1
    detail = f"user root cannot write in {folder}: Permission denied"
    checked.names("textfile writable", State.FAILED, detail, f"^as root: chown root {folder}$")
    assert "textfile rename" not in checked.steps
    subprocess.run(["chown", "root", folder], check=True)
    assert Checked(env=env, before=POWERLESS).status == 0


def test_a_folder_on_a_file_system_without_room(env: dict[str, str], folder: Path) -> None:
    """A full file system is named, with the command that shows it, and the draft that found out is gone."""
    needs_root()
    fill = f"mount -t tmpfs -o size=4k x {folder}; head -c 4096 /dev/zero > {folder}/full; "
    checked = Checked(env=env, before=(*MOUNTED, fill + f'"$@"; s=$?; [ "$(ls -A {folder})" = full ] && exit $s', "-"))
    assert checked.status == 1
    checked.names("textfile writable", State.FAILED, "No space left on device", f"make room: df -h {folder}")


def test_a_folder_on_a_file_system_with_too_little_room(env: dict[str, str], folder: Path) -> None:
    """Where a poll of these channels would not fit, a smaller file would not tell."""
    needs_root()
    fill = f"mount -t tmpfs -o size=16k x {folder}; head -c 8192 /dev/zero > {folder}/some; "
    checked = Checked(env=env, before=(*MOUNTED, fill + '"$@"', "-"))
    assert checked.status == 1
    checked.names("textfile writable", State.FAILED, "No space left on device", f"make room: df -h {folder}")


def test_a_folder_that_this_user_may_not_enter(env: dict[str, str], folder: Path) -> None:
    """The folder is there and closed: that it can't be written in is said, and that nothing in it can be looked at."""
    needs_root()
    os.chown(folder, NOBODY, NOBODY)
    folder.chmod(0o754)
    checked = Checked(env=env, before=POWERLESS)
    assert checked.status == 1
    checked.names("textfile writable", State.FAILED, "Permission denied", f"chown root {folder}")
    checked.names("textfile readable", State.WARNING, f"cannot look at {folder}/a.prom: Permission denied", "namei -l")


def test_a_link_that_leads_to_itself(env: dict[str, str], folder: Path) -> None:
    """A neighbour that is no file is none, whatever else it is; a folder that is none is named."""
    (folder / "loop.prom").symlink_to("loop.prom")
    checked = Checked(env=env)
    assert checked.status == 0
    checked.names("textfile neighbours", State.OK, "no other .prom of 0")
    checked = Checked(env=env | {"CC_TEXTFILE_PATH": str(folder / "loop.prom" / "a.prom")})
    checked.names("textfile folder", State.FAILED, "Too many levels of symbolic links", "namei -l")


def test_a_folder_on_a_file_system_for_reading(env: dict[str, str], folder: Path) -> None:
    """A read-only file system is named, with systemd's setting for it."""
    needs_root()
    checked = Checked(env=env, before=(*MOUNTED, f'mount -t tmpfs -o ro x {folder}; "$@"', "-"))
    assert checked.status == 1
    detail, remedy = "Read-only file system", f"ReadWritePaths={folder}, else mount it for writing: findmnt -T {folder}"
    checked.names("textfile writable", State.FAILED, detail, remedy)


def test_a_file_that_is_a_mount(env: dict[str, str], folder: Path) -> None:
    """A file that was mounted into a container can't be replaced, though it can be written to."""
    needs_root()
    (folder / "a.prom").touch()
    (folder / "other").touch()
    mount = f'mount --bind {folder}/other {folder}/a.prom; "$@"'
    checked = Checked(env=env, before=(*MOUNTED, mount, "-"))
    assert checked.status == 1
    detail, remedy = "a.prom is a mount of its own", f"mount the folder {folder} instead of the file"
    checked.names("textfile rename", State.FAILED, detail, remedy)


def test_a_file_of_somebody_else_in_a_sticky_folder(env: dict[str, str], folder: Path) -> None:
    """Where only owners replace files, another owner's file is named, with the command that changes that."""
    needs_root()
    (folder / "a.prom").touch()
    os.chown(folder / "a.prom", NOBODY, NOBODY)
    os.chown(folder, NOBODY, NOBODY)
    folder.chmod(0o1777)
    checked = Checked(env=env, before=POWERLESS)
    assert checked.status == 1
    checked.names("textfile rename", State.FAILED, "another user's", f"^as root: chown root {folder}/a.prom$")
    assert Checked(env=env).status == 0
    subprocess.run(["chown", "root", folder / "a.prom"], check=True)
    assert Checked(env=env, before=POWERLESS).status == 0


def test_a_folder_in_the_files_place(env: dict[str, str], folder: Path) -> None:
    """A folder that has the file's name is named."""
    (folder / "a.prom").mkdir()
    checked = Checked(env=env)
    assert checked.status == 1
    checked.names("textfile rename", State.FAILED, f"{folder}/a.prom is a folder", "move it away")


def test_a_folder_that_only_grows(env: dict[str, str], folder: Path) -> None:
    """Where drafts can be written and not renamed, that is what is named."""
    needs_root()
    if subprocess.run(["chattr", "+a", folder], check=False, capture_output=True).returncode:
        pytest.skip(f"the file system of {folder} knows no folders that only grow")
    try:
        checked = Checked(env=env)
    finally:
        subprocess.run(["chattr", "-a", folder], check=True)
    assert checked.status == 1
    checked.names("textfile rename", State.FAILED, "cannot be renamed in .*: Operation not permitted", "chown")


def test_a_host_without_proc(env: dict[str, str], folder: Path) -> None:
    """Where the kernel's word is not to be had, what it would tell is taken for well."""
    needs_root()
    (folder / "a.prom").touch()
    os.chown(folder / "a.prom", NOBODY, NOBODY)
    os.chown(folder, NOBODY, NOBODY)
    folder.chmod(0o1777)
    checked = Checked(env=env, before=(*MOUNTED, 'umount -l /proc; "$@"', "-"))
    assert checked.status == 0
    checked.names("textfile rename", State.OK, "")
    checked.names("textfile holder", State.OK, "no other")


def test_a_user_without_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user that this host has no name for goes by its number, which `chown` and `install` take too."""
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    (step,) = check_textfile.textfile(folder / "gone" / "a.prom", ("1",))
    assert " -o 4000000 " in step.remedy


def test_the_draft_of_a_check_is_one_that_is_swept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that a check uses are swept by the next run, never seen by node_exporter, and never the file's own."""
    seen = []

    def replace(draft: Path, renamed: Path) -> None:
        seen.extend(Textfile(folder / "a.prom").drafts())
        draft.rename(renamed)
        seen.extend(Textfile(folder / "a.prom").drafts())
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        list(check_textfile.textfile(folder / "a.prom", ("1",)))
    assert len(set(seen)) == 2
    assert all(draft.name.startswith(".a.prom.") and draft.suffix != ".prom" for draft in seen)
    assert list(folder.iterdir()) == []


def test_a_draft_that_a_running_instance_swept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draft that a running instance took for litter is tried again, and no failure."""
    swept: list[Path] = []
    replace = Path.replace

    def sweep_first(draft: Path, renamed: Path) -> Path:
        if not swept:
            swept.append(draft)
            draft.unlink()
        return replace(draft, renamed)

    monkeypatch.setattr(Path, "replace", sweep_first)
    steps = {step.step: step for step in check_textfile.textfile(folder / "a.prom", ("1",))}
    assert swept
    assert steps["textfile rename"].state is State.OK


@pytest.mark.parametrize(
    ("place", "mode", "remedy"),
    [("a.prom", 0o600, "chmod 0644"), (".", 0o711, r"chmod o\+rx"), ("..", 0o700, r"chmod o\+x")],
)
def test_what_other_users_cannot_read(env: dict[str, str], folder: Path, place: str, mode: int, remedy: str) -> None:
    """Node_exporter runs as another user: what is closed to that is named, with the command that opens it."""
    inner = folder / "inner"
    inner.mkdir()
    (inner / "a.prom").touch()
    (inner / place).chmod(mode)
    checked = Checked(env=env | {"CC_TEXTFILE_PATH": str(inner / "a.prom")})
    assert checked.status == 0
    closed = os.path.normpath(inner / place)
    checked.names(
        "textfile readable", State.WARNING, f"other users cannot (read|pass) {closed}$", f"^{remedy} {closed}"
    )


def test_litter(env: dict[str, str], folder: Path) -> None:
    """What killed runs left is named, with the command that removes it."""
    one, other, unrelated = folder / ".a.prom.cc-textfile", folder / ".a.prom.cc-textfile.7.8", folder / ".a.prom.swp"
    one.touch()
    unrelated.touch()
    checked = Checked(env=env)
    checked.names("textfile litter", State.WARNING, "a.prom.cc-textfile is left by a killed run", f"^rm {one}$")
    other.touch()
    checked = Checked(env=env)
    assert checked.status == 0
    checked.names("textfile litter", State.WARNING, "and 1 more are left", f"^rm {one} {other}$")
    assert {one, other, unrelated} == set(folder.iterdir())


def test_a_file_that_a_running_instance_writes(
    env: dict[str, str], folder: Path, start: Callable[..., Program]
) -> None:
    """A running instance is well, is named by its process, is not disturbed, and its draft is not litter."""
    program = start(*command("run", "--interval", "1h"), env=env)
    program.line("; wrote ")
    (folder / ".a.prom.cc-textfile.7.8").touch()
    checked = Checked(env=env)
    assert checked.status == 0
    checked.names("textfile holder", State.OK, f"a cc-textfile is running: process {program.process.pid}$")
    checked.names("textfile litter", State.OK, "")
    assert program.end() == 0


def test_a_neighbour_with_our_series(
    env: dict[str, str], folder: Path, start: Callable[..., Program], node_exporter: Callable[[Path], str]
) -> None:
    """Another `.prom` with series of ours is named, and who writes it; one with other channels is none of ours."""
    (folder / "b.prom").write_bytes(FORGED % b"7")
    (folder / "c.prom").write_text("# cc_textfile_poll_success 1\nnode_boots 1\n")
    (folder / "d.prom").mkdir()
    assert Checked(env=env).are(State.WARNING) == set()
    (folder / "b.prom").write_bytes(FORGED % demo.CHANNELS[1].encode())
    checked = Checked(env=env)
    detail = f"{folder}/b.prom has ChinaCache_metrics_hit_miss_total too"
    checked.names("textfile neighbours", State.WARNING, detail, f"^rm {folder}/b.prom; or give it another folder$")
    # That node_exporter drops one of the two without a word, not even a scrape error, is why it is looked for.
    run("run", env=env)
    served = get(node_exporter(folder))
    assert served.count(f'ChinaCache_metrics_hit_miss_total{{HitOrMiss="Hit",channel="{demo.CHANNELS[1]}"}}') == 1
    assert "\nnode_textfile_scrape_error 0\n" in served
    other = start(
        *command("run", "--interval", "1h", "--channels", "7"), env=env | {"CC_TEXTFILE_PATH": f"{folder}/b.prom"}
    )
    other.line("; wrote ")
    checked = Checked(env=env)
    detail, remedy = f"{folder}/b.prom has cc_textfile_\\w+ too", f"^stop process {other.process.pid}, which writes it"
    checked.names("textfile neighbours", State.WARNING, detail, remedy)


def test_a_neighbour_that_cannot_be_read(env: dict[str, str], folder: Path) -> None:
    """What may be in a closed file is not passed over, nor what may be in a folder that can't be listed."""
    needs_root()
    (folder / "b.prom").touch(mode=0o600)
    os.chown(folder / "b.prom", NOBODY, NOBODY)
    checked = Checked(env=env, before=POWERLESS)
    detail = f"user root cannot read {folder}/b.prom"
    checked.names("textfile neighbours", State.WARNING, detail, f"^as root: grep -l ChinaCache_ {folder}/b.prom$")
    os.chown(folder, NOBODY, NOBODY)
    folder.chmod(0o773)
    checked = Checked(env=env, before=POWERLESS)
    assert checked.status == 0
    checked.names("textfile neighbours", State.WARNING, f"user root cannot list {folder}", "chown root")
