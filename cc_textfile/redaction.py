"""Keeps secrets out of what people read: passwords, in every spelling they travel in."""

import base64
import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html.entities import html5

MASK = "***"
QUOTED = 200  # characters of foreign text that a message quotes

SHORTEST_IN_BASE64 = 4
"""Characters of a secret; what is shorter could be a part of any word."""

BACKSLASHES = r"\\{1,4}"
"""An escape may have been escaped again: the `repr` of JSON has two backslashes, and that in JSON four."""


class Redactor:
    """Replaces secrets in text by `***`, in clear, percent-encoded, and escaped for JSON, HTML, Python and base64."""

    def __init__(self, *secrets: str) -> None:
        self._secrets: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Learn further secrets; empty ones are none."""
        self._secrets.update(filter(None, secrets))
        patterns = [_spelled(secret) for secret in sorted(self._secrets, key=len, reverse=True)]
        patterns += [_in_base64(secret) for secret in self._secrets if len(secret) >= SHORTEST_IN_BASE64]
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def __call__(self, text: str) -> str:
        """Return the text without the secrets."""
        return self._pattern.sub(MASK, text) if self._pattern else text

    def quote(self, foreign: str) -> str:
        """Return foreign words fit for a line of a log: redacted, without control characters, 200 at the most."""
        line = " ".join("".join(c if c.isprintable() else " " for c in self(foreign)).split())
        return line if len(line) <= QUOTED else line[:QUOTED] + "…"


def _spelled(secret: str) -> str:
    """Return a pattern of the secret, character by character: encoders differ in which of them they leave alone."""
    entities: defaultdict[str, list[str]] = defaultdict(list)
    for name, meant in html5.items():
        entities[meant].append(name)
    # A run of backslashes is taken as a whole: each alone can be one to four, and all ways to share them out are many.
    runs = re.findall(r"\\+|[^\\]", secret)
    return f"(?i:{''.join(_run(run[0], len(run), entities) for run in runs)})"


def _run(character: str, times: int, entities: Mapping[str, Sequence[str]]) -> str:
    """Return a pattern of all that one character, so many times, may have become."""
    code = ord(character)
    utf8 = character.encode(errors="surrogatepass")
    utf16 = character.encode("utf-16-be", "surrogatepass").hex(" ", 2).split()
    spellings = [
        "".join(f"%(?:25)*{byte:02x}" for byte in utf8),
        "".join(f"{BACKSLASHES}x{byte:02x}" for byte in utf8),
        "".join(f"{BACKSLASHES}u{unit}" for unit in utf16),
        f"{BACKSLASHES}(?:x{code:02x}|u{code:04x}|U{code:08x})",
        f"&(?:amp;)*#(?:0*{code}|x0*{code:x});",
        *(f"&(?:amp;)*{re.escape(name)}" for name in sorted(entities.get(character, ()), key=len, reverse=True)),
        f"{BACKSLASHES}{re.escape(json.dumps(character)[1:-1][-1])}",
    ]
    if character == "\\":
        return rf"(?:(?:{'|'.join(spellings[:-1])}){{{times}}}|\\{{{times},{4 * times}}})"
    if character == " ":
        spellings.append(r"\+")
    return f"(?:{'|'.join([*spellings, re.escape(character)])})"


def _in_base64(secret: str) -> str:
    """Return a pattern of the secret in base64, at each of the three places where it can begin in a longer text."""
    utf8 = secret.encode(errors="surrogatepass")
    texts = []
    for before, foreign in ((0, 0), (1, 2), (2, 3)):
        own = (before + len(utf8)) * 8 // 6
        texts.append(base64.b64encode(b"\0" * before + utf8).decode()[foreign:own])
    known = "|".join(text.replace("+", "(?:[+-]|%2B)").replace("/", "(?:[/_]|%2F)") for text in texts)
    return f"(?:{known})[A-Za-z0-9+/_-]?=*"
