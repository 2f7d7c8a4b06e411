"""A mail server with TLS, and the authority that vouches for it."""

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from peers import MailServer

TLS = {"mail_use_tls": True}


SSL = {"mail_use_ssl": True}


Use = dict[str, bool]


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """A certificate authority that this machine trusts, and no other."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))
    return ca


def server(certificate: trustme.LeafCert, use: Use, **options: Any) -> MailServer:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    if use == SSL:
        # The library only counts STARTTLS as TLS.
        return MailServer(ssl_context=context, auth_require_tls=False, **options)
    return MailServer(tls_context=context, require_starttls=True, **options)
