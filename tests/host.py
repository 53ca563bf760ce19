"""A host of the package, for tests: a machine with what an administrator would do to it."""

import re
from pathlib import Path
from typing import Final

from tests.conftest import ROOT as SOURCE
from tests.machine import Machine

FOLDER: Final = "/var/lib/prometheus/node-exporter"
STATE: Final = "/var/lib/cc-textfile"
UNITS: Final = "/etc/systemd/system"
PORTAL: Final = "http://127.0.0.1:8044"
CHANNELS: Final = ("100201", "100202")
SETTINGS: Final = f"CHINACACHE_USER=demo\nCHINACACHE_CHANNEL_IDS={','.join(CHANNELS)}\nCHINACACHE_URL={PORTAL}\n"
SERVICES: Final = tuple(f"cc-textfile{suffix}.service" for suffix in ("", "@example", "d", "d@example"))

EDITOR: Final = f"""\
#!/bin/sh
sed -i 's/^CHINACACHE_USER=.*/CHINACACHE_USER=demo/; s/^CHINACACHE_CHANNEL_IDS=.*/CHINACACHE_CHANNEL_IDS=100201/' "$1"
echo CHINACACHE_URL={PORTAL} >>"$1"
"""

RESET: Final = f"""\
systemctl stop 'cc-textfile*'
rm -rf {UNITS}/cc-textfile* {UNITS}/*.wants/cc-textfile* /etc/cc-textfile/* {STATE}/* {FOLDER}/*
rm -f /etc/default/cc-textfile
systemctl daemon-reload
systemctl reset-failed
"""


class Host(Machine):
    """A machine, and what an administrator does there."""

    password = "of-no-portal"
    """The password of the demo portal, once it is served."""

    _portal: tuple[str, ...] | None = None
    """The faults of the portal that is served; None when there is none."""

    def install(self, package: Path) -> None:
        """Install a package file."""
        self.run("dpkg", "--install", str(package))

    def reset(self) -> None:
        """Stop all that runs, and remove what tests have left; the timer is disabled, so that no poll comes unasked."""
        self.run("sh", "-c", RESET)
        self.forget_logs()

    def configure(self, settings: str = SETTINGS, password: str | None = None, account: str = "") -> None:
        """Write settings and password of the first account, or of a further one."""
        self.write(f"/etc/cc-textfile/{account}.env" if account else "/etc/default/cc-textfile", settings)
        file = f"/etc/cc-textfile/{account + '.' if account else ''}password"
        self.write(file, self.password if password is None else password, mode="0600")

    def drop_in(self, unit: str, text: str) -> None:
        """Change a unit, as `systemctl edit` does."""
        self.write(f"{UNITS}/{unit}.d/test.conf", text)
        self.run("systemctl", "daemon-reload")

    def every_second(self, timer: str) -> None:
        """Let a timer elapse each second instead of every five minutes."""
        self.drop_in(timer, "[Timer]\nOnCalendar=\nOnCalendar=*:*:*\nRandomizedDelaySec=0\nAccuracySec=1ms\n")

    def serve_portal(self, *faults: str, program: str = "/usr/bin/cc-textfile") -> None:
        """Serve the demo portal within, with the faults that it is asked for."""
        if self._portal == faults:
            return
        self.stop_portal()
        options = [word for fault in faults for word in ("--fault", fault)]
        self.run("systemd-run", "--quiet", "--collect", "--unit=portal", program, "demo", "--serve", "8044", *options)
        line = self.wait_for_log("portal.service", f"portal at {PORTAL}")
        self.password = re.findall(r"password (\S+),", line)[-1]
        self._portal = faults

    def stop_portal(self) -> None:
        """Stop the demo portal, if it is served."""
        self.run("systemctl", "stop", "portal.service", check=False)
        self._portal = None

    def served(self) -> str:
        """Return what the machine's own node_exporter serves."""
        return self.run("curl", "--silent", "--fail", "http://127.0.0.1:9100/metrics")

    def lines(self, unit: str) -> list[str]:
        """Return the log lines of the program in a unit, without those of systemd."""
        return self.log(f"--unit={unit}", "--identifier=cc-textfile").splitlines()

    def active(self, unit: str) -> bool:
        """Tell whether a unit is active."""
        return self.property(unit, "ActiveState") == "active"

    def files(self) -> set[str]:
        """Return every file, folder and link that a package could leave behind."""
        where = ("/etc", "/usr", "/var", "/opt", "/srv", "/root", "/home")
        caches = r"/var/(cache|log|tmp)/.*|/var/lib/(dpkg|apt|systemd)/.*|/etc/(passwd|group|shadow|gshadow)-"
        return {path for path in self.run("find", *where, "-xdev").splitlines() if not re.fullmatch(caches, path)}

    def add_administrator(self) -> None:
        """Make a user who may do everything by sudo, and whose editor fills in the settings."""
        self.run("useradd", "--create-home", "admin")
        self.write("/etc/sudoers.d/admin", "admin ALL=(ALL) NOPASSWD: ALL\n", mode="0440")
        self.write("/usr/local/bin/fill-in", EDITOR, mode="0755")

    def type_as_administrator(self, command: str, *, check: bool = True) -> str:
        """Run a command of the documents in the source folder, exactly as it is written; type the password if asked."""
        line = f"cd {SOURCE}; export SUDO_EDITOR=/usr/local/bin/fill-in; {command}"
        if "systemd-ask-password" not in command:
            return self.run("runuser", "--login", "admin", f"--command={line}", check=check, stdin="y\n")
        shown = self.type(line, user="admin", prompt="password", keys=f"{self.password}\n")
        assert self.password not in shown, "the password is shown while it is typed"
        return shown
