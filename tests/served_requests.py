"""Requests to a running server, for tests of several processes."""

from collections.abc import Iterator

import httpx2
import pytest
from support import (
    MailServer,
    ServerProcess,
)


def send_through(server: MailServer) -> dict[str, object]:
    return {"mail_server": server.host, "mail_port": server.port, "rate_limits": "off"}


def register(url: str, email: str, name: str = "Ada Lovelace") -> None:
    assert httpx2.post(f"{url}/v1/registrations", json={"name": name, "email": email}).status_code == 202


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A service that was started on an empty folder, without a mail server."""
    with ServerProcess(tmp_path_factory.mktemp("serve"), rate_limits="off") as server:
        yield server
