"""Requests to a running server, for tests of several processes."""

import re
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import httpx2
import pytest
from peers import MailServer, token_of, wait_for
from server_process import ExecutedServer, ServerProcess


def send_through(server: MailServer) -> dict[str, object]:
    return {"mail_server": server.host, "mail_port": server.port, "rate_limits": "off"}


def register(url: str, email: str, name: str = "Ada Lovelace") -> None:
    assert httpx2.post(f"{url}/v1/registrations", json={"name": name, "email": email}).status_code == 202


def mailed(peer: MailServer, email: str, subject: str) -> EmailMessage:
    """Wait for the newest email to an address with words of a subject."""
    emails = wait_for(
        lambda: [mail for mail in peer.messages if mail["To"] == email and subject in str(mail["Subject"])]
    )
    peer.messages.remove(emails[-1])
    return emails[-1]


def mailed_token(peer: MailServer, email: str, subject: str) -> str:
    """Wait for the newest email to an address with words of a subject; return the token from its link."""
    return token_of(mailed(peer, email, subject))


def memory_of(server: ServerProcess) -> int:
    """Return how much memory the server's processes use, in KiB."""
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in server.processes()]
    return sum(int(size) for text in statuses for size in re.findall(r"VmRSS:\s+(\d+) kB", text))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A service with an empty instance folder and without a mail server."""
    with ExecutedServer(tmp_path_factory.mktemp("serve"), rate_limits="off") as server:
        yield server
