#!/usr/bin/env python3
"""Tells a container engine how old the last poll is: exit status 0 while it is recent, otherwise 1.

Each poll replaces the text file, also a poll in which every request failed. So the age of the file is that of the poll.
It may be three intervals and the deadline of a poll. The settings are read from the environment, not from flags.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, "/usr/local/lib/cc-textfile")  # the program, with the packages that it uses
import durationpy


def seconds(variable: str, default: str) -> float:
    """Return a duration of the settings."""
    return float(durationpy.from_str(os.environ.get(variable) or default).total_seconds())


def main() -> int:
    """Print how old the text file is, and return the exit status."""
    path = os.environ.get("CC_TEXTFILE_PATH")
    if not path:
        print("CC_TEXTFILE_PATH is not set, so nobody can tell when the last poll was")
        return 1
    limit = 3 * seconds("CHINACACHE_INTERVAL", "5m") + seconds("CC_TEXTFILE_DEADLINE", "60s")
    try:
        age = time.time() - Path(path).stat().st_mtime
    except OSError as error:
        print(f"no poll has been delivered: {path}: {error.strerror}")
        return 1
    print(f"the last poll was delivered {age:.0f} s ago, and {limit:.0f} s are allowed")
    return int(age > limit)


if __name__ == "__main__":
    sys.exit(main())
