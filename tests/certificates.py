"""A certificate authority that lives as long as a test, and servers' certificates of it."""

import ssl
from datetime import datetime
from pathlib import Path
from typing import Any

import trustme


def loopback(folder: Path, *names: str, not_after: datetime | None = None) -> tuple[ssl.SSLContext, Path]:
    """Return the TLS context of a server on loopback, and the bundle to trust it by, written into the folder."""
    authority = trustme.CA()
    return served(authority, *names, not_after=not_after), bundle_of(authority, folder)


def served(authority: trustme.CA, *names: str, **validity: Any) -> ssl.SSLContext:
    """Return the TLS context of a server with these names, or loopback's; validity as trustme has it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or ("127.0.0.1", "localhost")), **validity).configure_cert(context)
    return context


def bundle_of(authority: trustme.CA, folder: Path) -> Path:
    """Write the bundle to trust the authority by into the folder."""
    bundle = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    return bundle
