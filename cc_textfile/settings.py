"""The settings: each is declared once, as a click option, and all faults of a command line are reported together."""

import difflib
import os
import re
import shlex
import ssl
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import click
import durationpy
from click.core import ParameterSource as Source

from cc_textfile.errors import SettingsError
from cc_textfile.portal.responses import Method
from cc_textfile.shard import Shard as Shard  # noqa: PLC0414 # the type of a setting

Channels = Sequence[tuple[str, Mapping[str, str]]]
PORTAL_URL = "https://portal-api.chinacache.com:444"
# Settings that are the file of another setting. Then, where settings are written: the first source counts.
FILES = {"password_file": "password", "channels_file": "channels"}
SOURCES = {Source.COMMANDLINE: "flag", Source.ENVIRONMENT: "variable", Source.DEFAULT: "credential"}
# Prometheus keeps names that begin with __ for itself.
_LABEL = re.compile(r"(?!__|(?:account|channel)\Z)[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a command needs to know; durations in seconds, `querytime` in minutes, `notes` and `origins` in words."""

    user: str
    password: str = field(repr=False)
    account: str
    account_given: bool = False
    channels: tuple[str, ...]
    channel_labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    methods: tuple[Method, ...] = tuple(Method)
    interval: float | None = None
    querytime: int = 5
    textfile: Path | None = None
    pushgateway: str | None = field(default=None, repr=False)
    pushgateway_mode: str = "fallback"
    ledger: Path | None = None
    gauges: bool = True
    settle: float = 900.0
    day_settle: float = 7200.0
    catch_up: float = 604800.0
    portal_url: str = PORTAL_URL
    ca_file: Path | None = None
    timeout: float = 10.0
    deadline: float = 60.0
    concurrency: int = 32
    shard: Shard | None = None
    log_level: str = "info"
    log_format: str = "text"
    origins: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


# The types of the settings, from here to `Setting`: each returns what was written means, or raises BadParameter.
def _fail(fault: str) -> NoReturn:
    raise click.BadParameter(fault)


def _text(value: str | Path) -> str:
    value = _SECRET_FILE.convert(value, None, None) if isinstance(value, Path) else value
    if not value.strip() or re.search("[\ud800-\udfff]", value):
        _fail("blank, or not UTF-8")
    return value


def _duration(low: str, high: str) -> Callable[[str], float]:
    def duration(value: str) -> float:
        # durationpy also knows days, months and years, which Go does not: there, `5mm` is five months.
        if re.fullmatch(r"\+?(0|([0-9.]+(ns|us|µs|μs|ms|s|m|h))+)", text := value.strip()):
            with suppress(ValueError, OverflowError):
                if durationpy.from_str(low) <= (read := durationpy.from_str(text)) <= durationpy.from_str(high):
                    return float(read.total_seconds())
        _fail(f"{value!r} is not a duration from {low} to {high} with its unit, such as 90s, 5m or 1h30m")

    return duration


def _shard(value: str) -> Shard:
    match = re.fullmatch(r"([0-9]{1,4})/([0-9]{1,4})", value.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        _fail(f"{value!r} is not I/N, such as 2/4 for the second of four shards, with I from 1 to N")
    return Shard(int(match[1]), int(match[2]))


def _methods(value: str) -> tuple[Method, ...]:
    names = {name for item in value.split(",") if (name := item.strip())}
    if not names or not names <= set(Method):
        _fail(f"{value!r} is not one or more of {', '.join(Method)}, separated by commas")
    return tuple(method for method in Method if method in names)


def _url(value: str) -> str:
    # An address may hold a password: no fault shows it.
    address = value.strip().rstrip("/")
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or "@" in parts.path or re.search(r"[\s\ud800-\udfff]|\[.*@", address):
        _fail("not an address such as https://host:444; in a user or a password, / is written %2F, and @ is %40")
    return parts.geturl()


def _pushgateway(value: str) -> str:
    return _url(value if "//" in value or ":/" in value else f"http://{value.strip()}")


class _File(click.Path):
    """A path, which a shell completes, and what `use` makes of it when it is absolute."""

    def __init__(self, use: Callable[[Path], Any]) -> None:
        super().__init__()
        self.use = use

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            path = Path(value).absolute()
        except FileNotFoundError:
            self.fail("a relative path, and the working directory is gone; start it in a folder that exists")
        try:
            return self.use(path)
        except (OSError, UnicodeDecodeError) as error:
            self.fail(f"{path} cannot be read: {getattr(error, 'strerror', 'it is not UTF-8')}", param, ctx)


def _read(path: Path, errors: str = "strict") -> str:
    # A FIFO or a terminal could block for ever, also at SIGHUP.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            _fail(f"{path} is not a regular file; pipes and devices are not read")
        return file.read().decode("utf-8-sig", errors)  # some editors begin a file with a byte order mark


def _secret(path: Path) -> str:
    if not os.path.lexists(path):
        _fail("no file can be found there; give the path of a file (it is not shown here, as it may be the password)")
    content = re.sub(r"\r?\n\Z", "", _read(path))
    return content or _fail(f"{path} is empty")


def _channel(words: list[str], what: str) -> tuple[str, dict[str, str]]:
    channel, labels = words[0], {}
    if not channel.isprintable() or re.search(r"[\s,;=\"']", channel):
        _fail(f"{what}not a channel id: ids have no blanks, commas, quotes or =")
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if not equals or name in labels or not _LABEL.fullmatch(name):
            _fail(f'{what}not a label: write name="value", each name once, and not account or channel')
        labels[name] = value
    return channel, labels


def _channels(value: str) -> Channels:
    items = filter(None, map(str.strip, value.split(",")))
    return [_channel([item], f"{item!r} is ") for item in items] or _fail("no channel")


def _channels_file(path: Path) -> Channels:
    found = []
    for number, line in enumerate(_read(path).split("\n"), start=1):
        try:
            if words := shlex.split(line, comments=True):
                # Without the words in a fault: they may be the password, where the two files were swapped.
                found.append(_channel(words, f"{path}, line {number}: "))
        except ValueError:
            _fail(f"{path}, line {number}: a quote or a backslash has no end")
    return found or _fail(f"{path} has no channel in it")


def _ca_file(path: Path) -> Path:
    _read(path, "replace")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        _fail(f"{path} has no certificates (PEM) in it")
    return path


def _textfile(path: Path) -> Path:
    return path if path.name.endswith(".prom") else _fail(f"{path} is not a .prom file; node_exporter reads no other")


def _credential(name: str) -> Path | None:
    path = Path(os.environ.get("CREDENTIALS_DIRECTORY") or os.devnull, name)
    return path if os.path.lexists(path) else None


class Setting(click.Option):
    """A flag and a variable. click finds what was written; `read`, later, what it means: so all faults are found."""

    def __init__(self, flag: str, variable: str, kind: Any, default: Any = None, **more: Any) -> None:
        shown = {"show_envvar": True, "show_default": True} | more
        super().__init__([flag], envvar=variable, type=kind, default=default, **shown)
        if self.hidden:  # no flag at all
            self.opts = []
        self.variable = variable
        self.flag = "/".join(self.opts + self.secondary_opts)

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:  # noqa: ARG002
        """Leave what was written as it is."""
        return value

    def read(self, value: Any) -> Any:
        """Return what was written as a value of the type; raises BadParameter."""
        try:
            return self.type.convert(value, self, None)
        except click.BadParameter:
            if isinstance(self.type, click.IntRange):
                _fail(f"{value!r} is not a whole number from {self.type.min} to {self.type.max}")
            if self.is_bool_flag:
                _fail(f"{value!r} is not true or false")
            raise


_SECRET_FILE = _File(_secret)
_TIME, _DELAY = _duration("1ms", "8784h"), _duration("0s", "24h")
_one_of = partial(click.Choice, case_sensitive=False)

# fmt: off
SETTINGS = (
    Setting("--user", "CHINACACHE_USER", _text, lambda: _credential("username"), metavar="NAME",
            show_default="systemd credential `username`", help="User of the portal. Required."),
    Setting("--password", "CHINACACHE_PASS", _text, hidden=True, help="Password of the portal. Required."),
    Setting("--password-file", "CHINACACHE_PASS_FILE", _SECRET_FILE, lambda: _credential("password"),
            show_default="systemd credential `password`",
            help="File with the password of the portal. Required, unless CHINACACHE_PASS holds the password itself; a "
                 "flag for it would show it in the process list."),
    Setting("--account", "CC_TEXTFILE_ACCOUNT", _text, metavar="NAME", show_default="the user",
            help="Label `account` of the metrics. If set, it is also part of a Pushgateway's grouping key."),
    Setting("--channels", "CHINACACHE_CHANNEL_IDS", _channels, metavar="IDS",
            help="Channel ids, separated by commas. Required, unless there is a channels file."),
    Setting("--channels-file", "CHINACACHE_CHANNEL_IDS_FILE", _File(_channels_file),
            help='File with one channel per line, then labels of your own if you like, such as: 1001 team="web". '
                 "# begins a comment."),
    Setting("--methods", "CC_TEXTFILE_METHODS", _methods, ",".join(Method), metavar="METHODS",
            help="Methods of the portal that are requested, separated by commas."),
    Setting("--interval", "CHINACACHE_INTERVAL", _TIME, show_default="poll once and exit",
            help="Time from one poll to the next, such as 90s, 5m or 1h30m."),
    Setting("--querytime", "QUERYTIME", click.IntRange(1, 366 * 24 * 60), 5, metavar="MINUTES",
            help="Length of the window that the gauges show, in minutes."),
    Setting("--textfile", "CC_TEXTFILE_PATH", _File(_textfile),
            help="The .prom file to write, in the folder that node_exporter reads. One output is required."),
    Setting("--pushgateway", "PUSHGATEWAY", _pushgateway, metavar="URL",
            help="Address of a Pushgateway to push to, such as http://localhost:9091. One output is required."),
    Setting("--pushgateway-mode", "CC_TEXTFILE_PUSHGATEWAY_MODE", _one_of(["fallback", "always"]), "fallback",
            help="With both outputs: push only when the file cannot be written (fallback), or at every poll (always)."),
    Setting("--ledger", "CC_TEXTFILE_LEDGER", _File(Path), show_default="no counters",
            help="File in which traffic, requests and responses are counted. It is made if it does not exist."),
    Setting("--gauges/--no-gauges", "CC_TEXTFILE_GAUGES", bool, default=True,
            help="Export the gauges of the window, or not (variable: true or false). --no-gauges needs a ledger."),
    Setting("--settle", "CC_TEXTFILE_SETTLE", _DELAY, "15m",
            help="How long after the end of a window the ledger takes its numbers to be complete."),
    Setting("--day-settle", "CC_TEXTFILE_DAY_SETTLE", _DELAY, "2h", help="The same for a day."),
    Setting("--catch-up", "CC_TEXTFILE_CATCH_UP", _duration("24h", "8784h"), "168h",
            help="How far back the ledger requests numbers after an outage."),
    Setting("--portal-url", "CHINACACHE_URL", _url, PORTAL_URL, metavar="URL", help="Address of the portal."),
    Setting("--ca-file", "CHINACACHE_CA_FILE", _File(_ca_file), show_default="those of certifi",
            help="CA certificates (PEM) that the portal's certificate is verified with."),
    Setting("--timeout", "CC_TEXTFILE_TIMEOUT", _TIME, "10s", help="Time for one request, from connect to last byte."),
    Setting("--deadline", "CC_TEXTFILE_DEADLINE", _TIME, "60s", help="Time for a whole poll."),
    Setting("--concurrency", "CC_TEXTFILE_CONCURRENCY", click.IntRange(1, 1000), 32, metavar="N",
            help="How many requests are in flight, and connections open, at the same time."),
    Setting("--shard", "CC_TEXTFILE_SHARD", _shard, metavar="I/N", show_default="all channels",
            help="Only this part of the channels: 2/4 is the second of four, each on a host of its own."),
    Setting("--log-level", "CC_TEXTFILE_LOG_LEVEL", _one_of(["debug", "info", "warning", "error"]), "info",
            help="Lowest level that is logged, on standard error."),
    Setting("--log-format", "CC_TEXTFILE_LOG_FORMAT", _one_of(["text", "json"]), "text", help="Format of log lines."),
)
# fmt: on
BY_NAME = {setting.name: setting for setting in SETTINGS}


def called(name: str) -> str:
    """Return what the operator knows a setting by, such as `--textfile (CC_TEXTFILE_PATH)`."""
    setting = BY_NAME[name]
    return f"{setting.flag} ({setting.variable})" if setting.flag else setting.variable


class SettingsCommand(click.Command):
    """A command with all settings beside its own options; its callback gets `load`.

    `load()` reads variables and files again at each call. It returns `Settings`, or raises `SettingsError`.
    What such a command cannot do without is an output, or a ledger if it `fills_ledger`.
    """

    def __init__(self, name: str | None, *, params: Any = (), fills_ledger: bool = False, **options: Any) -> None:
        super().__init__(name, params=[*SETTINGS, *params], **options)
        self.fills_ledger = fills_ledger

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line, and put `load` in the place of all settings."""
        command_line, parse = tuple(args), super().parse_args

        def load() -> Settings:
            parse(again := click.Context(self), [*command_line])
            return _load(again, fills_ledger=self.fills_ledger)

        rest = parse(ctx, args)
        ctx.params = {name: value for name, value in ctx.params.items() if name not in BY_NAME} | {"load": load}
        return rest


def _load(ctx: click.Context, *, fills_ledger: bool) -> Settings:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    faults: list[str] = []
    for source, word in SOURCES.items():
        for setting in SETTINGS:
            name, written = FILES.get(setting.name, setting.name), ctx.params[setting.name]
            if written is None or ctx.get_parameter_source(setting.name) is not source:
                continue
            if name in origins:
                if origins[name].startswith(word):
                    faults.append(f"{called(name)} and {called(setting.name)} are both set; give one of them")
                continue
            if word != "credential" or callable(setting.default):
                file = f", file {written}" if setting.name in FILES else ""
                where = {"flag": setting.flag + file, "variable": setting.variable + file}.get(word, written)
                origins[name] = f"{word} {where}"
            try:
                values[name] = setting.read(written)
            except click.BadParameter as error:
                faults.append(f"{called(setting.name)}: {error.message.removesuffix('.')}")
    given = values.pop("channels", ())
    channels = {channel: labels for channel, labels in given if not values.get("shard") or values["shard"].has(channel)}
    faults += [*_faults(values, origins, ledger=fills_ledger), *_shared_files(ctx.params)]
    if given and not channels:
        faults.append(f"{called('shard')}: none of the channels is in shard {values['shard']}; use fewer shards")
    if faults:
        raise SettingsError(*faults)
    return Settings(
        **{"account": values["user"]} | values,
        account_given="account" in values,
        channels=tuple(channels),
        channel_labels={channel: labels for channel, labels in channels.items() if labels},
        origins=dict.fromkeys(BY_NAME, "default") | origins,
        notes=tuple(_notes(values, origins, [channel for channel, _ in given])),
    )


def _faults(values: Mapping[str, Any], origins: Mapping[str, str], *, ledger: bool) -> Iterator[str]:
    """Yield what is missing, and what is wrong with the settings together."""
    for names in (("user",), ("password", "password_file"), ("channels", "channels_file")):
        if names[0] not in origins:
            yield f"{' or '.join(map(called, names))} is missing"
    if ledger and "ledger" not in origins:
        yield f"{called('ledger')} is missing"
    if not ledger and not {"textfile", "pushgateway"} & origins.keys():
        yield f"no output is set; give {called('textfile')} a file, or {called('pushgateway')} an address"
    if not ledger and values.get("gauges") is False and "ledger" not in origins:
        yield f"{called('gauges')}: without gauges there is nothing to export; give {called('ledger')} as well"
    if values.get("settle", 0.0) >= values.get("catch_up", float("inf")):
        yield f"{called('settle')} is not below {called('catch_up')}: nothing would be counted"
    if "@" in values.get("portal_url", ""):  # it is logged
        yield f"{called('portal_url')}: a user or a password in the address; give those by their own settings"


def _shared_files(written: Mapping[str, Any]) -> Iterator[str]:
    """Yield the files that two settings name, and that one of them would overwrite."""
    with suppress(OSError):  # a relative path, and the working directory is gone
        paths = {name: written[name] for name in (*FILES, "ca_file", "textfile", "ledger") if written[name]}
        for one, other in combinations(paths, 2):
            if other in ("textfile", "ledger") and os.path.realpath(paths[one]) == os.path.realpath(paths[other]):
                yield f"{called(one)} and {called(other)} name the same file; give each its own"


def _notes(values: Mapping[str, Any], origins: Mapping[str, str], channels: Sequence[str]) -> Iterator[str]:
    """Yield what the operator should know, though it stops nothing. A value may be a secret, and is not shown."""
    if again := [channel for channel, count in Counter(channels).items() if count > 1]:
        yield f"channels that are given more than once are requested once, with their last labels: {', '.join(again)}"
    if "flag" in origins.get("pushgateway", "") and urlsplit(values["pushgateway"]).password:
        yield "--pushgateway has a password in it, which the process list shows; set the variable PUSHGATEWAY instead"
    prefix = re.compile("(CC_TEXTFILE|CHINACACHE)_")
    known = {prefix.sub("", setting.variable): setting.variable for setting in SETTINGS}
    for variable in sorted(name for name in os.environ if prefix.match(name) and name not in known.values()):
        near = difflib.get_close_matches(prefix.sub("", variable), known, n=1)
        yield f"variable {variable} is unknown, and ignored" + (f"; is {known[near[0]]} meant?" if near else "")
