"""The command line: commands, wiring, and the one place where an error becomes an exit status."""

import faulthandler
import gc
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import click

from cc_textfile import __version__
from cc_textfile.errors import CcTextfileError, SettingsError
from cc_textfile.logs import Redactor, complain, configure, in_journal, say
from cc_textfile.portal.window import DAY, PORTAL_ZONE, STEP
from cc_textfile.settings import BY_NAME, Settings, SettingsCommand
from cc_textfile.signals import SIGNALS

FAILED = 1
BAD_SETTINGS = 2

LEDGER = "ledger.sqlite"
MAX_DAYS = 99_999
FIRST_YEAR = 2000

log = logging.getLogger(__name__)


@contextmanager
def exit_status(advice: Callable[[SettingsError], str] | None = None) -> Iterator[None]:
    """Turn what the program names and handles into a line on standard error and an exit status; bugs pass through.

    `advice` returns what to do about faults of the settings, if that is not to read the help.
    """
    try:
        yield
    except SettingsError as error:
        journal = in_journal()
        for fault in error.faults:
            complain(f"{'<3>' if journal else ''}cc-textfile: {fault}")
        if not journal:  # where nobody asks for help
            help_text = f"`{click.get_current_context().command_path} --help` explains each setting"
            complain(f"cc-textfile: nothing was done; {advice(error) if advice else help_text}")
        sys.exit(BAD_SETTINGS)
    except CcTextfileError as error:
        log.error("%s", error)  # noqa: TRY400 # the message is complete; a traceback is for bugs
        sys.exit(FAILED)


def _begin(load: Callable[[], Settings]) -> tuple[Settings, Redactor]:
    """Load the settings and begin to log."""
    settings = load()
    redactor = Redactor(settings.password)
    configure(settings.log_level, settings.log_format, redactor)
    return settings, redactor


def _failed(message: str) -> Callable[[str], int]:
    """Return a function that takes the name of a signal, logs the message with it, and returns the exit status."""

    def on_stop(name: str) -> int:
        log.error(message, name)
        return FAILED

    return on_stop


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="cc-textfile")
def main() -> None:
    """ChinaCache CDN statistics for Prometheus.

    Polls the portal's statistics API and writes a .prom file for node_exporter's textfile collector, or pushes to a
    Pushgateway.

    \b
    cc-textfile demo        see it work, without an account
    cc-textfile check       find out what is wrong, and how to fix it
    cc-textfile run         poll, once or on an interval
    cc-textfile report      what the ledger has counted, by day and channel
    cc-textfile backfill    the days before the first poll, for Prometheus
    """


@main.command(cls=SettingsCommand)
def run(load: Callable[[], Settings]) -> None:
    """Poll the portal, once or on an interval, and deliver the numbers.

    Every setting is a flag and an environment variable, named in brackets; flags win. The password comes from
    CHINACACHE_PASS, from a file, or from a systemd credential, never from a flag, which would show in the process list.

    \b
    Exit status of a single poll:
      0  delivered, at least one request was answered well, and the ledger (if one is set) was kept
      1  no request was answered well, nothing was delivered, or the ledger was not kept
      2  something is wrong with the settings; nothing was polled
    On an interval: 0 on SIGTERM or SIGINT. SIGHUP reads password and channel files again, and polls.

    \b
    Example:
      CHINACACHE_USER=me CHINACACHE_PASS_FILE=/etc/cc-textfile/password \\
      cc-textfile run --channels 1001,1002 --textfile /var/lib/prometheus/node-exporter/chinacache.prom
    """
    with exit_status():
        sys.exit(_run(load))


def _run(load: Callable[[], Settings], *, reloads: bool = True) -> int:
    settings, redactor = _begin(load)
    faulthandler.enable(2)  # systemd's watchdog aborts what hangs, and this tells where
    for note in settings.notes:
        log.warning("%s", note)
    gc.disable()  # else Python looks for garbage among modules, for a fifth of the time of a short run
    from cc_textfile import daemon, summary  # noqa: PLC0415 # --help and bad settings need no requests

    gc.freeze()
    gc.enable()
    progress = summary.progress_line("polling", after=5)  # calls, a second in all
    if settings.interval is None:
        SIGNALS.handle(_failed("%s before the poll was complete"), reloads=reloads)
        return 0 if daemon.once(settings, redactor, SIGNALS, progress) else FAILED
    SIGNALS.handle(daemon.stopped_loop, reloads=reloads)
    daemon.loop(settings, redactor, SIGNALS, reload=load, progress=progress)
    return 0  # pragma: no cover # a loop ends by a signal


@main.command(cls=SettingsCommand)
@click.option("--node-exporter", type=BY_NAME["pushgateway"].read, metavar="URL", show_default=True,
              default="http://localhost:9100/metrics", help="Where node_exporter listens.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Write a list of {step, state, detail, remedy}.")
@click.option("--settings-only", is_flag=True, help="Only read the settings, and end with 0 or 2.")
def check(load: Callable[[], Settings], node_exporter: str, *, as_json: bool, settings_only: bool) -> None:
    """Find out whether a poll would succeed, and how to fix what would stop it.

    Takes the settings of `run`, and goes through what a poll needs: portal, text file, ledger, Pushgateway,
    node_exporter. Run it as the user that polls; for a unit of the Debian package, type: sudo cc-textfile-check. It
    sends the password at most once if that is refused, and leaves nothing behind.

    \b
    Exit status:
      0  a poll would succeed: every request answered well, and delivered
      1  it would not; what failed is named, and how to fix it
      2  something is wrong with the settings; nothing was tried

    \b
    Example:
      sudo -u me cc-textfile check --textfile /var/lib/prometheus/node-exporter/chinacache.prom
    """
    from cc_textfile import check as steps  # noqa: PLC0415 # `run` does without it

    with exit_status(steps.advice):
        try:
            settings, redactor = _begin(load)
            if settings_only:
                return
            SIGNALS.handle(_failed("%s before the check was complete"))
            good = steps.show(steps.steps(settings, node_exporter, redactor), as_json=as_json)
        except SettingsError as error:
            if as_json:
                steps.show(steps.of_faults(error), as_json=True)
            raise
        sys.exit(0 if good else FAILED)


@main.command()
@click.option("--ledger", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE", required=True,
              envvar="CC_TEXTFILE_LEDGER", show_envvar=True, help="The ledger to read.")  # fmt: skip
@click.option("--days", type=click.IntRange(1, MAX_DAYS), default=7, show_default=True,
              help="How many days, with today.")  # fmt: skip
@click.option("--channel", metavar="ID", help="Only this channel.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
def report(ledger: Path, days: int, channel: str | None, form: str) -> None:
    """Show what the ledger has recorded, by day (UTC+8) and channel.

    Only reads the ledger: needs no portal, and does not disturb a poll. A day is closed when the portal was asked for
    it as a whole, some time after its end; until then late numbers may come.

    \b
    Exit status:
      0  shown
      1  the ledger cannot be read
      2  something is wrong with the command line

    \b
    Examples:
      cc-textfile report --ledger /var/lib/cc-textfile/ledger.sqlite
      cc-textfile report --ledger ledger.sqlite --days 31 --format csv > month.csv
    """
    from cc_textfile import report as reports  # noqa: PLC0415 # `run` does without it

    with exit_status():
        configure("info", "text", Redactor())
        width = shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else None
        say(reports.render(ledger, form, days=days, channel=channel, now=datetime.now(PORTAL_ZONE), width=width))


def past_day(text: str) -> datetime:
    """Read a day from 2000 to today, such as 2026-11-01, as its start; raises BadParameter."""
    now = datetime.now(PORTAL_ZONE)
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=PORTAL_ZONE)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a day, such as {now - timedelta(days=30):%Y-%m-%d}") from None
    if day.year < FIRST_YEAR or day > now:
        raise click.BadParameter(f"{text} is not a day from {FIRST_YEAR} to today")
    return day


def whole_steps(text: str) -> timedelta:
    """Read a duration of whole 5-minute steps, at most a day; raises BadParameter."""
    step = timedelta(seconds=BY_NAME["interval"].read(text))
    if step % STEP or not STEP <= step <= DAY:
        raise click.BadParameter(f"{step} is not a multiple of 5m, from 5m to 24h")
    return step


@main.command(cls=SettingsCommand, fills_ledger=True)
@click.option("--from", "first", type=past_day, metavar="DAY", required=True,
              help="First day of the history (UTC+8), such as 2026-11-01.")  # fmt: skip
@click.option("--job", type=BY_NAME["account"].read, metavar="TEXT", required=True,
              help="Label `job` of the live series in Prometheus.")  # fmt: skip
@click.option("--instance", type=lambda text: text and BY_NAME["account"].read(text), metavar="TEXT", required=True,
              help="Label `instance` of the live series in Prometheus; empty ('') if they have none.")  # fmt: skip
@click.option("--step", type=whole_steps, metavar="DURATION", default="1h", show_default=True,
              help="Time between two samples, a multiple of 5m up to 24h.")  # fmt: skip
@click.option("--output", type=click.Path(allow_dash=True, path_type=Path), metavar="FILE",
              default="chinacache-history.om", show_default=True,
              help="File to write, which must not exist; - is standard output.")  # fmt: skip
def backfill(
    load: Callable[[], Settings], *, first: datetime, job: str, instance: str, step: timedelta, output: Path
) -> None:
    """Give Prometheus, and a new ledger, the days before the first poll.

    Requests the numbers from a day on, and writes the counters with their times, as OpenMetrics, for `promtool tsdb
    create-blocks-from openmetrics`. The history ends a little more than 3 hours ago. The counters of `run` go on from
    there without a reset, with the same ledger.

    Takes the settings of `run`; no output of `run` is needed. Run it as the user that polls, and before the first poll.
    It can be stopped at any time, and the same command goes on from there. At its end it says how to bring the file
    into Prometheus.

    \b
    Exit status:
      0  the file is written, and the ledger goes on where it ends
      1  the portal, the ledger or the file failed; what was answered is kept
      2  something is wrong with the settings; nothing was requested

    \b
    Example:
      sudo -u cc-textfile cc-textfile backfill --from 2026-11-01 --job node --instance cdn1:9100 \\
        --output /tmp/history.om
    """
    from cc_textfile import backfill as backfills  # noqa: PLC0415 # `run` does without it

    with exit_status():
        settings, redactor = _begin(load)
        for note in settings.notes:
            log.warning("%s", note)
        history = backfills.History(
            first=first, job=job, instance=instance, step=step, output=None if str(output) == "-" else output
        )
        on_stop = _failed("%s: what was answered so far is kept, and the same command goes on from there")

        def stopped(name: str) -> int:
            backfills.remove_unfinished(settings, history)
            return on_stop(name)

        SIGNALS.handle(stopped)
        next_steps = backfills.run(settings, redactor, history)
        SIGNALS.handle(lambda _: 0)  # all is done
        if history.output:
            say(next_steps)
        else:
            complain(next_steps)


@main.command()
@click.option("--interval", type=BY_NAME["interval"].read, metavar="DURATION",
              help="Poll again and again, this far apart, until interrupted.")  # fmt: skip
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), metavar="FOLDER", default="demo-textfile",
              show_default=True, help="Where to write cc_textfile.prom and the ledger; made if need be.")  # fmt: skip
@click.option("--serve", metavar="[HOST:]PORT",
              help="Only serve the portal there, for `cc-textfile run` to poll; 0 is any free port.")  # fmt: skip
@click.option("--fault", "faults", metavar="[METHOD=]FAULT", multiple=True,
              help="Let the portal or a method fail: refused, status, malformed, hang, drip or broken.")  # fmt: skip
def demo(interval: float | None, folder: Path, serve: str | None, faults: tuple[str, ...]) -> None:
    """See it work: the same poll as `run`, against a portal of its own on loopback.

    Needs no account and no network. Writes a real .prom file, shows what is in it, and how to look further.

    \b
    Examples:
      cc-textfile demo
      cc-textfile demo --interval 10s          goes on, for a node_exporter that reads the folder
      cc-textfile demo --fault isp=refused     what a failure looks like
      cc-textfile demo --serve 8044            the portal alone
    """
    from cc_textfile.demo import portal as demo_portal  # noqa: PLC0415
    from cc_textfile.demo import summary as demo_summary  # noqa: PLC0415

    with exit_status(), demo_portal.opened(serve, faults) as portal:
        if serve is not None:
            account = f"user {demo_portal.USER}, password {demo_portal.PASSWORD}"
            say(f"portal at {portal.url}, {account}, any channels; Ctrl-C ends it")
            SIGNALS.handle(lambda _: 0)
            sys.exit(not portal.stopping.wait())
        demo_summary.make_folder(folder)
        textfile = Path(folder, "cc_textfile.prom").absolute()
        # A proxy of the environment does not lead to this portal.
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = str(portal.server_address[0])
        once = Settings(
            user=demo_portal.USER,
            password=demo_portal.PASSWORD,
            account=demo_portal.USER,
            channels=demo_portal.CHANNELS,
            querytime=24 * 60,  # always on two days, so that the breakdowns are there
            textfile=textfile,
            ledger=textfile.with_name(LEDGER),
            portal_url=portal.url,
        )
        if not os.path.lexists(textfile.with_name(LEDGER)):
            # A ledger that begins a day ago: the next poll catches up, and there is something to count.
            before = replace(once, settle=DAY.total_seconds())
            _run(lambda: before, reloads=False)
        status = _run(lambda: once, reloads=False)
        say(f"\n{demo_summary.table(textfile)}\n\n{demo_summary.look_further(textfile)}")
        if interval:
            again = replace(once, interval=interval)
            status = _run(lambda: again, reloads=False)
        sys.exit(status)
