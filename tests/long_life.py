"""A process that polls so many times, for a test that looks at what is left of it.

`python -m tests.long_life POLLS`, with settings in the environment, prints a JSON line with its threads, open files and
resident bytes, first after a tenth of the polls, then at the end.
"""

import json
import os
import sys
import threading
from pathlib import Path

from cc_textfile.cli import run
from cc_textfile.daemon import Poller
from cc_textfile.errors import OutputError
from cc_textfile.logs import Redactor
from cc_textfile.portal import client
from tests.conftest import PATIENCE


def left() -> str:
    """Return what the process has once the threads of the last poll have ended."""
    for thread in set(threading.enumerate()) - {threading.main_thread()}:
        thread.join(PATIENCE)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    has = {
        "threads": threading.active_count(),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "bytes": pages * os.sysconf("SC_PAGE_SIZE"),
    }
    return json.dumps(has)


def main() -> None:
    """Poll."""
    # What is tested is what polls leave behind, not how long they wait.
    client.BACKOFF = 0.0001
    settings = run.make_context("run", []).params["load"]()
    folder = settings.textfile.parent
    poller, busy, polls = Poller(settings, Redactor(settings.password)), threading.Lock(), int(sys.argv[1])
    for number in range(polls):
        if number == polls // 10:
            sys.stdout.write(left() + "\n")
        # Every ninth delivery fails, too.
        if number % 9 == 0:
            folder.rename(f"{folder}.away")
        try:
            poller.poll(busy)
        except OutputError:
            pass
        finally:
            if number % 9 == 0:
                Path(f"{folder}.away").rename(folder)
    sys.stdout.write(left() + "\n")


if __name__ == "__main__":
    main()
