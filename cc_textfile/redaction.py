"""Keeps secrets out of what people read: passwords, in every spelling they travel in."""

import base64
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html.entities import html5
from unicodedata import normalize

MASK = "***"
QUOTED = 200  # characters of foreign text that a message quotes

SHORTEST_IN_BASE64 = 4
"""Characters of a secret; what is shorter could be a part of any word."""

CHARSETS = ("latin-1", "cp1252", "gbk", "gb18030")
"""What a server may take a query for: the defaults of old ones, and those of China."""

LOST = ("\ufffd", "?")
"""What stands for a character that is lost."""

BACKSLASHES = r"\\{1,4}"
"""An escape may have been escaped again: the `repr` of JSON has two backslashes, and that in JSON four."""


class Redactor:
    """Replaces secrets in text by `***`.

    In clear, percent-encoded, escaped for JSON, HTML and Python, in base64, and as what becomes of them where one
    character set is taken for another.
    """

    def __init__(self, *secrets: str) -> None:
        self._secrets: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Learn further secrets; empty ones are none."""
        self._secrets.update(filter(None, secrets))
        texts = {text for secret in self._secrets for text in _in_charsets(secret)}
        patterns = [_spelled(text) for text in sorted(texts, key=len, reverse=True)]
        patterns += [_in_base64(secret) for secret in self._secrets if len(secret) >= SHORTEST_IN_BASE64]
        self._pattern = re.compile("|".join(patterns)) if patterns else None

    def __call__(self, text: str) -> str:
        """Return the text without the secrets."""
        return self._pattern.sub(MASK, text) if self._pattern else text

    def quote(self, foreign: str) -> str:
        """Return foreign words fit for a line of a log: redacted, without control characters, 200 at the most."""
        line = " ".join("".join(c if c.isprintable() else " " for c in self(foreign)).split())
        return line if len(line) <= QUOTED else line[:QUOTED] + "…"


def _in_charsets(secret: str) -> Iterator[str]:
    """Return the secret, and what it becomes with a portal that takes UTF-8 for something else, or has less."""
    yield secret
    for form in ("NFC", "NFD"):
        yield normalize(form, secret)
    utf8 = secret.encode(errors="surrogatepass")
    for charset in ("ascii", *CHARSETS):
        for text in (secret.encode(charset, "replace").decode(charset), utf8.decode(charset, "replace")):
            for mark in LOST:
                shown = text.replace("\ufffd", mark)
                if shown.strip("".join(LOST)):  # else nothing of the secret is left
                    yield shown


def _spelled(secret: str) -> str:
    """Return a pattern of the secret, character by character: encoders differ in which of them they leave alone."""
    entities = _entities()
    # A run of backslashes is taken as a whole: each alone can be one to four, and all ways to share them out are many.
    runs = re.findall(r"\\+|[^\\]", secret)
    return f"(?i:{''.join(_run(run[0], len(run), entities) for run in runs)})"


@cache
def _entities() -> Mapping[str, Sequence[str]]:
    """Return the names that each character has in HTML."""
    entities: defaultdict[str, list[str]] = defaultdict(list)
    for name, meant in html5.items():
        entities[meant].append(name)
    return entities


def _run(character: str, times: int, entities: Mapping[str, Sequence[str]]) -> str:
    """Return a pattern of all that one character, so many times, may have become."""
    code = ord(character)
    coded = {character.encode(charset, "ignore") for charset in CHARSETS} - {b""}
    utf8 = character.encode(errors="surrogatepass")
    utf16 = character.encode("utf-16-be", "surrogatepass").hex(" ", 2).split()
    spellings = [
        *("".join(map(_percent, each)) for each in sorted({utf8, *coded})),
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


def _percent(byte: int) -> str:
    """Return a pattern of a byte, encoded once or more; in GBK, a letter may be the second byte of a character."""
    encoded = f"%(?:25)*{byte:02x}"
    return f"(?:{encoded}|{chr(byte)})" if chr(byte).isascii() and chr(byte).isalnum() else encoded


def _in_base64(secret: str) -> str:
    """Return a pattern of the secret in base64, at each of the three places where it can begin in a longer text."""
    utf8 = secret.encode(errors="surrogatepass")
    texts = []
    for before, foreign in ((0, 0), (1, 2), (2, 3)):
        own = (before + len(utf8)) * 8 // 6
        texts.append(base64.b64encode(b"\0" * before + utf8).decode()[foreign:own])
    known = "|".join(text.replace("+", "(?:[+-]|%2B)").replace("/", "(?:[/_]|%2F)") for text in texts)
    return f"(?:{known})[A-Za-z0-9+/_-]?=*"
