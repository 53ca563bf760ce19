"""A certificate authority that lives as long as a test, and servers' certificates of it."""

import ssl
from pathlib import Path

import trustme


def loopback(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return the TLS context of a server on loopback, and the bundle to trust it by, written into the folder."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    bundle = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    return context, bundle
