"""One frozen `Settings` out of flags, environment and credential files; all that is wrong with them is said at once."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self, cast
from urllib.parse import urlsplit

from cc_textfile import values
from cc_textfile.errors import SettingsError
from cc_textfile.values import Shard

PORTAL_URL = "https://portal-api.chinacache.com:444"
MOST_CONCURRENCY = 1000


class Setting(NamedTuple):
    """One setting: all that the command line, the environment, the help text and the README need to know of it.

    `read` takes what the operator wrote and raises `ValueError`, saying what would be right.
    """

    name: str
    flag: str | None
    variable: str
    read: Callable[[str], Any]
    help: str
    default: str | None = None
    metavar: str = "TEXT"


SETTINGS = (
    Setting("user", "--user", "CHINACACHE_USER", values.name, "User of the portal; required."),
    Setting(
        "password",
        None,
        "CHINACACHE_PASS",
        values.text,
        "Password of the portal; a flag would show it in the process list.",
    ),
    Setting(
        "password_file",
        "--password-file",
        "CHINACACHE_PASS_FILE",
        values.secret_file,
        "File with the password; a trailing newline does not count.",
        metavar="FILE",
    ),
    Setting(
        "channels",
        "--channels",
        "CHINACACHE_CHANNEL_IDS",
        values.channels,
        "Channel ids, separated by commas.",
        metavar="IDS",
    ),
    Setting(
        "channels_file",
        "--channels-file",
        "CHINACACHE_CHANNEL_IDS_FILE",
        values.channels_file,
        "File with one channel id a line; # begins a comment.",
        metavar="FILE",
    ),
    Setting(
        "interval",
        "--interval",
        "CHINACACHE_INTERVAL",
        values.seconds,
        "Poll again and again, this far apart, such as 90s, 5m or 1h30m; unset: poll once and exit.",
        metavar="DURATION",
    ),
    Setting(
        "querytime",
        "--querytime",
        "QUERYTIME",
        values.whole(1, values.MOST_MINUTES),
        "Length of the window in minutes.",
        "5",
        "MINUTES",
    ),
    Setting("textfile", "--textfile", "CC_TEXTFILE_PATH", values.textfile, "The .prom file to write.", metavar="FILE"),
    Setting(
        "pushgateway",
        "--pushgateway",
        "PUSHGATEWAY",
        values.pushgateway,
        "Address of a Pushgateway, such as http://localhost:9091.",
        metavar="URL",
    ),
    Setting(
        "pushgateway_mode",
        "--pushgateway-mode",
        "CC_TEXTFILE_PUSHGATEWAY_MODE",
        values.choice("fallback", "always"),
        "With both outputs: `fallback` pushes only when the file can't be written, `always` does both.",
        "fallback",
        "MODE",
    ),
    Setting(
        "portal_url", "--portal-url", "CHINACACHE_URL", values.portal_url, "Address of the portal.", PORTAL_URL, "URL"
    ),
    Setting(
        "ca_file",
        "--ca-file",
        "CHINACACHE_CA_FILE",
        values.ca_file,
        "CA bundle to trust the portal by.",
        metavar="FILE",
    ),
    Setting(
        "timeout",
        "--timeout",
        "CC_TEXTFILE_TIMEOUT",
        values.seconds,
        "Time for one request in all, from connect to last byte.",
        "10s",
        "DURATION",
    ),
    Setting(
        "deadline",
        "--deadline",
        "CC_TEXTFILE_DEADLINE",
        values.seconds,
        "Time for a whole poll; what is not in by then counts as overdue.",
        "60s",
        "DURATION",
    ),
    Setting(
        "concurrency",
        "--concurrency",
        "CC_TEXTFILE_CONCURRENCY",
        values.whole(1, MOST_CONCURRENCY),
        "Requests under way at once, and connections open.",
        "32",
        "N",
    ),
    Setting(
        "shard",
        "--shard",
        "CC_TEXTFILE_SHARD",
        values.shard,
        "Only this part of the channels, such as 2/4.",
        metavar="I/N",
    ),
    Setting(
        "log_level",
        "--log-level",
        "CC_TEXTFILE_LOG_LEVEL",
        values.choice("debug", "info", "warning", "error"),
        "Least level to log on standard error: debug, info, warning or error.",
        "info",
        "LEVEL",
    ),
    Setting(
        "log_format",
        "--log-format",
        "CC_TEXTFILE_LOG_FORMAT",
        values.choice("text", "json"),
        "Form of a log line: text or json.",
        "text",
        "FORM",
    ),
)

CREDENTIALS = {"user": "username", "password": "password"}
"""Settings that systemd's credentials may hold, by the name of the file in $CREDENTIALS_DIRECTORY."""

ALTERNATIVES = {"password": "password_file", "channels": "channels_file"}
"""Settings that may come from a file of their own instead."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a run needs to know; durations in seconds, `querytime` in minutes.

    `origins` tells for each setting where it came from, `files` which file it was read out of, if it was, and `notes`
    is what the operator should hear of, though it stops nothing.
    """

    user: str
    password: str = field(repr=False)
    channels: tuple[str, ...]
    interval: float | None
    querytime: int
    textfile: Path | None
    pushgateway: str | None = field(repr=False)
    pushgateway_mode: str
    portal_url: str
    ca_file: Path | None
    timeout: float
    deadline: float
    concurrency: int
    shard: Shard | None
    log_level: str
    log_format: str
    origins: Mapping[str, str]
    files: Mapping[str, str]
    notes: tuple[tuple[str, str], ...]

    @classmethod
    def load(cls, flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Self:
        """Read all settings; flags win over the environment, and that over systemd's credentials.

        Raises `SettingsError` with every fault, each naming the flag, the variable and what would be right.
        """
        return cls(**_Reading(flags, environ).values())

    def origin(self, name: str) -> str:
        """Return where a setting came from, in words."""
        file = f", file {self.files[name]}" if name in self.files else ""
        return self.origins.get(name, "default") + file


class _Reading:
    """The way from what was written to what is meant, and the faults found on it."""

    def __init__(self, flags: Mapping[str, str | None], environ: Mapping[str, str]) -> None:
        self._flags = flags
        self._environ = environ
        self._faults: list[str] = []
        self._origins: dict[str, str] = {}
        self._files: dict[str, str] = {}
        self._values: dict[str, Any] = {}

    def values(self) -> dict[str, Any]:
        passed_over = {name for pair in ALTERNATIVES.items() for name in self._passed_over(*pair)}
        for setting in SETTINGS:
            self._values[setting.name] = None if setting.name in passed_over else self._value(setting)
        for name, credential in CREDENTIALS.items():
            if name not in self._origins and ALTERNATIVES.get(name) not in self._origins:
                self._values[name] = self._credential(name, credential)
        for name, file_name in ALTERNATIVES.items():
            from_file = self._values.pop(file_name)
            if file_name in self._origins:
                self._values[name] = from_file
                self._origins[name] = self._origins.pop(file_name)
                self._files[name] = (self._written(BY_NAME[file_name]) or ("",))[0]
        self._require()
        channels, notes = self._own_channels(self._values["channels"] or (), self._values["shard"])
        if (
            self._origins.get("pushgateway", "").startswith("flag")
            and urlsplit(self._values["pushgateway"] or "").password
        ):
            shown = "--pushgateway holds a password, which the process list shows; give it by PUSHGATEWAY"
            notes += (("pushgateway", shown),)
        if self._faults:
            raise SettingsError(tuple(self._faults))
        read = {"origins": self._origins, "files": self._files, "notes": notes}
        return {**self._values, "channels": channels, **read}

    def _written(self, setting: Setting) -> tuple[str, str] | None:
        """Return what was written and where; an empty variable counts as unset."""
        flag = self._flags.get(setting.name)
        if flag is not None:
            return flag, f"flag {setting.flag}"
        variable = self._environ.get(setting.variable)
        return (variable, f"variable {setting.variable}") if variable else None

    def _passed_over(self, name: str, file_name: str) -> list[str]:
        """Return which of a setting and its file is passed over: a flag beats a variable, two of a kind are a fault."""
        one, other = (self._written(BY_NAME[each]) for each in (name, file_name))
        if not one or not other:
            return []
        if one[1].split()[0] == other[1].split()[0]:
            self._faults.append(f"{called(name)} and {called(file_name)} are both set; give one of them")
        return [file_name if one[1].startswith("flag") else name]

    def _value(self, setting: Setting) -> Any:
        written = self._written(setting)
        if written:
            self._origins[setting.name] = written[1]
        elif setting.default is not None:
            written = setting.default, "default"
        return self._read(setting.name, setting.read, written[0]) if written else None

    def _read(self, name: str, read: Callable[[str], Any], text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            self._faults.append(f"{called(name)} {error}")
            return None

    def _credential(self, name: str, credential: str) -> str | None:
        folder = self._environ.get("CREDENTIALS_DIRECTORY")
        if not folder:
            return None
        path = Path(folder, credential)
        try:
            path.stat()
        except FileNotFoundError:
            return None
        except OSError:  # there, and what is wrong with it comes out of reading it
            pass
        self._origins[name] = f"credential {credential}"
        self._files[name] = str(path)
        return cast("str | None", self._read(name, values.secret_file, str(path)))

    def _require(self) -> None:
        for name in ("user", "password", "channels"):
            if name not in self._origins:
                file_name = ALTERNATIVES.get(name)
                self._faults.append(
                    f"{called(name)} is missing" + (f"; or give {called(file_name)}" if file_name else "")
                )
        if not {"textfile", "pushgateway"} & self._origins.keys():
            self._faults.append(
                f"no output is set; give {called('textfile')} a .prom file, or {called('pushgateway')} an address"
            )

    def _own_channels(
        self, given: tuple[str, ...], shard: Shard | None
    ) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
        """Return the channels to poll, each once, in their order, and notes on those given again."""
        counts = Counter(given)
        notes = tuple(
            ("channels", f"channel {channel} is given {n} times and asked once")
            for channel, n in counts.items()
            if n > 1
        )
        channels = tuple(channel for channel in counts if not shard or shard.has(channel))
        if counts and not channels and shard:
            of_all = f"{shard.number}/{shard.total}, which has none of the {len(counts)} channels"
            self._faults.append(f"{called('shard')} is {of_all}; use fewer shards")
        return channels, notes


BY_NAME = {setting.name: setting for setting in SETTINGS}


def called(name: str) -> str:
    """Return what the operator knows a setting by: its flag and its variable."""
    setting = BY_NAME[name]
    return f"{setting.flag} ({setting.variable})" if setting.flag else setting.variable
