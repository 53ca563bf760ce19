"""A process that polls so many times, for a test that looks at what is left of it.

`python -m tests.long_life URL FILE POLLS` prints a JSON line with threads, file descriptors and resident bytes, first
after a tenth of the polls, then at the end.
"""

import json
import os
import sys
import threading
from pathlib import Path

from cc_textfile import client, demo
from cc_textfile.errors import OutputError
from cc_textfile.redaction import Redactor
from cc_textfile.runner import Runner
from cc_textfile.settings import Settings


def left() -> str:
    """Return what the process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    held = {
        "threads": threading.active_count(),
        "files": len(list(Path("/proc/self/fd").iterdir())),
        "bytes": pages * os.sysconf("SC_PAGE_SIZE"),
    }
    return json.dumps(held)


def main() -> None:
    """Poll."""
    url, textfile, polls = sys.argv[1], sys.argv[2], int(sys.argv[3])
    # What is tested is what polls leave behind, not how long they wait.
    client.BACKOFF = 0.0001
    flags = {"user": demo.USER, "channels": "1", "portal_url": url, "textfile": textfile, "timeout": "20ms"}
    settings = Settings.load(flags, {"CHINACACHE_PASS": demo.PASSWORD})
    runner = Runner(settings, Redactor(settings.password))
    for number in range(polls):
        if number == polls // 10:
            sys.stdout.write(left() + "\n")
        # Every ninth delivery fails, too.
        folder = Path(textfile).parent
        if number % 9 == 0:
            folder.rename(f"{folder}.away")
        try:
            runner.once()
        except OutputError:
            pass
        finally:
            if number % 9 == 0:
                Path(f"{folder}.away").rename(folder)
    sys.stdout.write(left() + "\n")


if __name__ == "__main__":
    main()
