"""Keeps secrets out of what people read: passwords, in every spelling they travel in."""

import base64
import html
import json
import re
from urllib.parse import quote, quote_plus

MASK = "***"
QUOTED = 200  # characters of foreign text that a message quotes


class Redactor:
    """Replaces secrets in text by `***`, in clear, percent-encoded, and escaped for JSON, HTML, Python and base64."""

    def __init__(self, *secrets: str) -> None:
        self._secrets: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Learn further secrets; empty ones are none."""
        self._secrets.update(filter(None, secrets))
        spellings = sorted({s for secret in self._secrets for s in _spellings(secret)}, key=len, reverse=True)
        # Percent-encoding may use either case for its digits, so case is not looked at.
        self._pattern = re.compile("|".join(map(re.escape, spellings)), re.IGNORECASE) if spellings else None

    def __call__(self, text: str) -> str:
        """Return the text without the secrets."""
        return self._pattern.sub(MASK, text) if self._pattern else text

    def quote(self, foreign: str) -> str:
        """Return foreign words fit for a line of a log: redacted, without control characters, 200 at the most."""
        line = " ".join("".join(c if c.isprintable() else " " for c in self(foreign)).split())
        return line if len(line) <= QUOTED else line[:QUOTED] + "…"


def _spellings(secret: str) -> set[str]:
    encoded = secret.encode(errors="surrogatepass")
    return {
        secret,
        quote(encoded),
        quote(encoded, safe=""),
        quote_plus(encoded),
        quote_plus(encoded, safe="/"),
        "".join(f"%{byte:02X}" for byte in encoded),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        json.dumps(secret)[1:-1].replace("/", "\\/"),
        repr(secret)[1:-1],
        html.escape(secret),
        html.escape(secret, quote=False),
        base64.b64encode(encoded).decode(),
        base64.urlsafe_b64encode(encoded).decode(),
    }
