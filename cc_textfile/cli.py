"""The command line: commands, wiring, and the one place where an error becomes an exit status."""

import faulthandler
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cc_textfile import __version__, values
from cc_textfile.answers import Endpoint
from cc_textfile.errors import CcTextfileError, SettingsError
from cc_textfile.logs import configure
from cc_textfile.notify import STOPPING, notify
from cc_textfile.redaction import Redactor
from cc_textfile.settings import SETTINGS, Settings
from cc_textfile.signals import stoppable

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

    from cc_textfile.demo import DemoPortal
    from cc_textfile.poll import Watch

FAILED = 1
BAD_SETTINGS = 2

SECONDS_A_TICK = 0.2
TICKS_BEFORE_BAR = 5
MOST_PORT = 65535

log = logging.getLogger(__name__)

Command = Callable[..., Any]


def settings_options(command: Command) -> Command:
    """Give a command a flag for each setting that has one; values stay text, which `Settings.load` reads."""
    for setting in reversed(SETTINGS):
        if setting.flag:
            default = f", default {setting.default}" if setting.default else ""
            text = f"{setting.help}  [{setting.variable}{default}]"
            command = click.option(setting.flag, setting.name, metavar=setting.metavar, help=text)(command)
    return command


@contextmanager
def exit_status() -> Iterator[None]:
    """Turn what the program names and handles into a line on standard error and an exit status; bugs pass through."""
    try:
        yield
    except SettingsError as error:
        for fault in error.faults:
            click.echo(f"cc-textfile: {fault}", err=True)
        if "JOURNAL_STREAM" not in os.environ:  # where each fault is a line of its own, and nobody asks for help
            click.echo("cc-textfile: nothing was polled; `cc-textfile run --help` explains each setting", err=True)
        sys.exit(BAD_SETTINGS)
    except CcTextfileError as error:
        log.error("%s", error)  # noqa: TRY400 # the message says it all; a traceback is for bugs
        sys.exit(FAILED)
    finally:
        _let_go_of_standard_error()


def _let_go_of_standard_error() -> None:
    """Let what it did not take, with a full disk behind it, go: Python would make it the exit status, 120."""
    try:
        if sys.stderr:  # None where a shell closed it
            sys.stderr.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stderr.fileno())
        os.close(nowhere)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="cc-textfile")
def main() -> None:
    """ChinaCache CDN statistics for Prometheus.

    Polls the portal's statistics API and writes a .prom file for node_exporter's textfile collector, or pushes to a
    Pushgateway.

    \b
    cc-textfile demo        see it work, without an account
    cc-textfile check       find out what is wrong, and what mends it
    cc-textfile run         poll, once or on an interval
    """


@main.command()
@settings_options
def run(**flags: str | None) -> None:
    """Poll the portal, once or on an interval, and deliver what it says.

    Every setting is a flag and an environment variable, named in brackets; flags win. The password comes from
    CHINACACHE_PASS, from a file, or from a systemd credential, never from a flag, which would show in the process list.

    \b
    Exit status of a single poll:
      0  delivered, and at least one request was answered well
      1  nothing was answered, or nothing delivered
      2  something is wrong with the settings; nothing was polled
    On an interval: 0 on SIGTERM or SIGINT. SIGHUP reads password and channel files again.

    \b
    Example:
      CHINACACHE_USER=me CHINACACHE_PASS_FILE=/etc/cc-textfile/password \\
      cc-textfile run --channels 1001,1002 --textfile /var/lib/prometheus/node-exporter/chinacache.prom
    """
    with exit_status():
        settings = Settings.load(flags, os.environ)
        sys.exit(_run(settings, lambda: Settings.load(flags, os.environ)))


def _run(settings: Settings, reload: Callable[[], Settings]) -> int:
    try:
        with stoppable():
            return _poll(settings, reload)
    except KeyboardInterrupt as stop:
        name = str(stop)
        if settings.interval is None:
            log.error("%s before the poll was over: nothing was delivered", name)  # noqa: TRY400
            return FAILED
        notify(STOPPING)
        log.info("%s: stopped", name)
    return 0


def _poll(settings: Settings, reload: Callable[[], Settings]) -> int:
    redact = Redactor(settings.password)
    configure(settings.log_level, settings.log_format, redact)
    # Modules are no garbage. To look for some among them, while they are read and when all ends, is a fifth of the CPU
    # time of a run with one channel.
    gc.disable()
    from cc_textfile.runner import Runner  # noqa: PLC0415 # --help and bad settings do without requests

    gc.freeze()
    gc.enable()
    if sys.stderr:  # None where a shell closed it
        faulthandler.enable()  # systemd's watchdog aborts what hangs; this tells where it hung
    for _, note in settings.notes:
        log.warning("%s", note)
    runner = Runner(settings, redact, reload=reload, watch=_progress())
    if settings.interval is None:
        return 0 if runner.once() else FAILED
    runner.loop(settings.interval)
    return 0  # pragma: no cover # a loop ends by a signal


def _progress() -> "Watch | None":
    """Return a watch that draws a progress bar for polls of more than a second, if there is a terminal for it."""
    if not sys.stderr or not sys.stderr.isatty():
        return None
    from cc_textfile.poll import Watch  # noqa: PLC0415 # brings requests with it

    bars: list[ProgressBar[int]] = []
    ticks = 0

    def tick(done: int, total: int) -> None:
        nonlocal ticks
        ticks = ticks + 1 if done < total else 0
        try:
            if ticks == TICKS_BEFORE_BAR:
                bars.append(click.progressbar(length=total, label="polling", file=sys.stderr).__enter__())
            for bar in bars:
                bar.update(done - bar.pos)
            if done == total and bars:
                bars.pop().__exit__(None, None, None)
        except OSError:  # the terminal is gone, and the poll goes on
            bars.clear()

    return Watch(SECONDS_A_TICK, tick)


def _url(_context: click.Context, _option: click.Parameter, text: str) -> str:
    try:
        return values.pushgateway(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@main.command()
@settings_options
@click.option(
    "--node-exporter",
    metavar="URL",
    default="http://localhost:9100/metrics",
    show_default=True,
    callback=_url,
    help="Where node_exporter answers, if one does.",
)
@click.option("--json", "as_json", is_flag=True, help="Write a list of {step, state, detail, remedy}, for programs.")
def check(node_exporter: str, *, as_json: bool, **flags: str | None) -> None:
    """Find out whether a poll would succeed, and what mends what is not well.

    Takes the settings of `run`, and goes through what a poll needs: portal, text file, Pushgateway, node_exporter. Run
    it as the user that polls. It sends the password at most once if that is refused, and leaves nothing behind.

    \b
    Exit status:
      0  a poll would succeed: every request answered well, and delivered
      1  it would not; what failed is named, with what mends it
      2  something is wrong with the settings; nothing was tried

    \b
    Example:
      sudo -u cc-textfile cc-textfile check --textfile /var/lib/prometheus/node-exporter/chinacache.prom
    """
    from cc_textfile import check as room  # noqa: PLC0415 # `run` does without it

    with exit_status():
        try:
            settings = Settings.load(flags, os.environ)
            redact = Redactor(settings.password)
            configure(settings.log_level, settings.log_format, redact)
            with stoppable():
                good = room.show(room.check(settings, node_exporter, redact), as_json=as_json)
        except SettingsError as error:
            if as_json:
                room.show(room.of_faults(error), as_json=True)
            raise
        except KeyboardInterrupt as stop:
            click.echo(f"cc-textfile: {stop} before the check was over", err=True)
            sys.exit(FAILED)
        sys.exit(0 if good else FAILED)


@main.command()
@click.option("--interval", metavar="DURATION", help="Poll again and again, this far apart, until interrupted.")
@click.option(
    "--folder",
    metavar="FOLDER",
    default="demo-textfile",
    show_default=True,
    help="Where to write cc_textfile.prom; made if need be.",
)
@click.option(
    "--serve",
    metavar="[HOST:]PORT",
    help="Only serve the portal there, for `cc-textfile run` to poll; 0 is any free port.",
)
@click.option(
    "--fault",
    "faults",
    metavar="[ENDPOINT=]FAULT",
    multiple=True,
    help="Let the portal misbehave: refused, status, malformed, hang, drip or broken, for one endpoint or all of them.",
)
def demo(interval: str | None, folder: str, serve: str | None, faults: tuple[str, ...]) -> None:
    """See it work: the same poll as `run`, against a portal of its own on loopback.

    Needs no account and no network. Writes a real .prom file, shows what it says, and how to look further.

    \b
    Examples:
      cc-textfile demo
      cc-textfile demo --interval 10s          goes on, for a node_exporter to be pointed at
      cc-textfile demo --fault isp=refused     what a failure looks like
      cc-textfile demo --serve 8044            the portal alone
    """
    from cc_textfile import demo as room  # noqa: PLC0415 # brings an HTTP server, which `run` does without

    with exit_status(), _interruptible(), _demo_portal(serve, faults) as portal:
        if serve is not None:
            click.echo(
                f"portal at {portal.url}, user {room.USER}, password {room.PASSWORD}, any channels; Ctrl-C ends it"
            )
            portal.stopping.wait()
        textfile = Path(folder, "cc_textfile.prom").absolute()
        flags = {
            "user": room.USER,
            "channels": ",".join(room.CHANNELS),
            "querytime": str(room.WINDOW_MINUTES),
            "textfile": str(textfile),
            "portal_url": portal.url,
        }
        # A proxy of the environment leads to the portals of others.
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = str(portal.server_address[0])
        environ = {"CHINACACHE_PASS": room.PASSWORD}
        once, forever = Settings.load(flags, environ), Settings.load({**flags, "interval": interval}, environ)
        _make(textfile.parent)
        status = _run(once, lambda: once)
        click.echo(f"\n{room.table(textfile)}\n\n{_look_further(textfile)}")
        sys.exit(_run(forever, lambda: forever) if interval else status)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the folder {folder} cannot be made: {error.strerror}; give another --folder"
        raise CcTextfileError(message) from None


@contextmanager
def _demo_portal(serve: str | None, faults: tuple[str, ...]) -> "Iterator[DemoPortal]":
    from cc_textfile import demo as room  # noqa: PLC0415

    wrong: dict[str, str] = {}
    for each in faults:
        endpoint, _, fault = each.rpartition("=")
        if fault not in room.FAULTS or (endpoint and endpoint not in list(Endpoint)):
            names = f"[ENDPOINT=]FAULT, of {', '.join(Endpoint)} and {', '.join(room.FAULTS)}"
            raise SettingsError((f"--fault is {each!r}; give {names}",))
        wrong |= dict.fromkeys([endpoint] if endpoint else Endpoint, fault)
    host, _, port = (serve or "0").rpartition(":")
    if not port.isdecimal() or int(port) > MOST_PORT:
        raise SettingsError((f"--serve is {serve!r}; give [HOST:]PORT, with a port from 0 to {MOST_PORT}",))
    try:
        portal = room.DemoPortal((host or "127.0.0.1", int(port)), fault=lambda endpoint, _: wrong.get(endpoint))
    except (OSError, TypeError) as error:  # the latter for a name that is not UTF-8
        reason = error.strerror if isinstance(error, OSError) else "no such name"
        message = f"the demo portal cannot listen at {host or '127.0.0.1'}:{port}: {reason}"
        raise CcTextfileError(message) from None
    with portal.serving():
        yield portal


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        with stoppable():
            yield
    except KeyboardInterrupt:
        sys.exit(0)


def _look_further(textfile: Path) -> str:
    return f"""The whole file:
  cat {textfile}
How node_exporter serves it (Debian's package is prometheus-node-exporter; elsewhere the program is node_exporter):
  prometheus-node-exporter --collector.textfile.directory={textfile.parent} --web.listen-address=127.0.0.1:9100
  curl -s http://127.0.0.1:9100/metrics | grep ChinaCache
With your own account:
  cc-textfile run --help"""
