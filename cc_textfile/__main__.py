"""The start of the program: `cc-textfile`, and `python -m cc_textfile`."""

import signal


def main() -> None:
    """Run the command line.

    Signals are blocked before anything else is imported, so that none ends the process with a traceback or gets lost.
    Under nohup SIGHUP is ignored, and must stay so: a signal that is blocked is kept although it is ignored.
    """
    hangup = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else set()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1} | hangup)
    from cc_textfile.signals import SIGNALS  # noqa: PLC0415 # imports take a tenth of a second

    SIGNALS.wait(_command)


def _command() -> None:
    from cc_textfile.cli import main as command  # noqa: PLC0415

    command(prog_name="cc-textfile")


if __name__ == "__main__":
    main()
